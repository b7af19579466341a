"""Predictor: from files to probabilities."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from videoswin._errors import VideoError
from videoswin.camera_motion.clips import write_h264
from videoswin.inference.backends.pytorch import PyTorchBackend
from videoswin.inference.prediction import Prediction
from videoswin.inference.predictor import Predictor
from videoswin.model.config import NANO
from videoswin.model.swin import VideoSwin
from videoswin.video.limits import ReadLimits
from videoswin.video.reader import open_video
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.video.views import load_views
from videoswin.weights.checkpoint import Checkpoint

LABELS = ("walk", "run", "sit")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    config = NANO.replace(num_classes=len(LABELS))
    return Checkpoint(
        weights=VideoSwin(config).state_dict(),
        config=config,
        clip=ClipSpec(frames=8, stride=2, size=32, short_side=32),
        views=ViewPlan(clips=2, crops=3),
        labels=LABELS,
        name="random",
    )


@pytest.fixture(scope="module")
def predictor(checkpoint: Checkpoint) -> Predictor:
    return Predictor(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    pixels = torch.randint(0, 255, (20, 48, 64, 3), dtype=torch.uint8, generator=torch.manual_seed(1))
    write_h264(path, pixels, fps=10, crf=23)
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.mp4"
    path.write_text("not a video")
    return path


def test_a_file_becomes_probabilities_of_every_label(predictor: Predictor, video: Path) -> None:
    prediction = predictor(video)
    assert prediction.probabilities.shape == (3,)
    assert prediction.probabilities.sum().item() == pytest.approx(1)
    assert prediction.duration_seconds == pytest.approx(2)
    assert prediction.damage is None


def test_the_score_is_the_mean_of_the_views_probabilities(predictor: Predictor, video: Path) -> None:
    views = load_views(video, predictor.clip, predictor.views).pixels
    assert len(views) == 6
    assert torch.equal(predictor.score(predictor.load(video)), predictor.score(views))
    one_by_one = torch.stack([predictor.score(view[None]) for view in views]).mean(0)
    torch.testing.assert_close(predictor.score(views), one_by_one)
    torch.testing.assert_close(predictor(video).probabilities, one_by_one)


def test_the_score_can_be_that_of_the_mean_logits(checkpoint: Checkpoint, video: Path) -> None:
    plan = checkpoint.views.replace(average="logits")
    predictor = Predictor(dataclasses.replace(checkpoint, views=plan), device="cpu")
    pixels = load_views(video, checkpoint.clip, plan).pixels
    logits = predictor.backend(pixels)
    expected = logits.mean(0).softmax(-1)
    assert not torch.allclose(expected, logits.softmax(-1).mean(0), atol=1e-7, rtol=0)
    torch.testing.assert_close(predictor.score(pixels), expected)
    torch.testing.assert_close(predictor(video).probabilities, expected)
    scores, num_scored = predictor.score_videos([None, pixels], 2)
    assert num_scored == [0, len(pixels)]
    assert scores[0].tolist() == [0.0, 0.0, 0.0]  # of a video without pixels


@pytest.mark.parametrize(
    "views",
    [torch.rand(1, 3, 4, 24, 24), torch.zeros(1, 4, 4, 24, 24, dtype=torch.uint8), torch.zeros(3, 4, 24, 24)],
    ids=["normalized", "four channels", "one view alone"],
)
def test_what_are_no_views_is_refused(predictor: Predictor, views: torch.Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"views must be uint8 \(V, 3, T, H, W\), as Predictor.load gives, got"
    ):
        predictor.score(views)


def test_a_multi_label_model_answers_for_each_class_by_itself(
    checkpoint: Checkpoint, predictor: Predictor, video: Path
) -> None:
    views = load_views(video, predictor.clip, predictor.views).pixels[:1]
    multi_label = Predictor(dataclasses.replace(checkpoint, multi_label=True), device="cpu")
    probabilities = multi_label.score(views)
    torch.testing.assert_close(torch.logit(probabilities).softmax(0), predictor.score(views))
    assert probabilities.sum().item() != pytest.approx(1, abs=0.01)


def test_a_damaged_video_has_the_same_scores_alone_and_in_a_list(
    predictor: Predictor, video: Path, tmp_path: Path
) -> None:
    content = bytearray(video.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes([0x55]) * third
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    alone = predictor(damaged)
    (listed,) = predictor.predict_all([damaged])
    assert isinstance(listed, Prediction)
    assert torch.equal(alone.probabilities, listed.probabilities)
    assert not torch.equal(alone.probabilities, predictor(video).probabilities)


def test_scores_are_the_same_every_time(predictor: Predictor, video: Path) -> None:
    assert torch.equal(predictor(video).probabilities, predictor(video).probabilities)


def test_top_is_sorted_and_never_longer_than_the_labels(predictor: Predictor, video: Path) -> None:
    ranking = predictor(video).top(5)
    assert len(ranking) == 3
    assert {label for label, _ in ranking} == set(LABELS)
    assert [p for _, p in ranking] == sorted((p for _, p in ranking), reverse=True)


def test_top_of_nothing_is_refused(predictor: Predictor, video: Path) -> None:
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        predictor(video).top(0)


def test_json_is_one_line_with_the_documented_keys(predictor: Predictor, video: Path) -> None:
    text = predictor(video).to_json(2)
    fields = json.loads(text)
    assert "\n" not in text
    keys = ["path", "model", "protocol", "top", "score_type", "duration_seconds", "seconds_seen"]
    assert list(fields) == keys
    assert fields["score_type"].startswith("softmax over the 3 classes of the model, mean over views")
    assert 0 < fields["seconds_seen"] <= fields["duration_seconds"]
    assert [list(entry) for entry in fields["top"]] == [["label", "probability"]] * 2


def test_one_bad_file_does_not_stop_the_others(predictor: Predictor, video: Path, broken: Path) -> None:
    results = list(predictor.predict_all([video, broken, video]))
    assert [type(result) for result in results] == [Prediction, VideoError, Prediction]
    assert str(results[1].path) == str(broken)


def test_a_video_beyond_the_limits_does_not_stop_the_others(checkpoint: Checkpoint, video: Path) -> None:
    line = video.with_name("line.gif")
    frame = b",\0\0\0\0\1\0\1\0\0\x02\x02D\x01\0"
    line.write_bytes(b"GIF89a\xff\xff\1\0\x80\0\0\0\0\0\xff\xff\xff" + frame * 3 + b";")
    answers = list(Predictor(checkpoint, device="cpu").predict_all([line, video, line, video]))
    assert [type(answer) for answer in answers] == [VideoError, Prediction, VideoError, Prediction]
    assert "max_aspect_ratio" in str(answers[0])


def test_a_predictor_may_have_limits_of_its_own(checkpoint: Checkpoint, video: Path) -> None:
    strict = Predictor(checkpoint, device="cpu", limits=ReadLimits(max_aspect_ratio=1.1))
    with pytest.raises(VideoError, match=r"must be at most max_aspect_ratio = 1\.1, got 64x48 pixels"):
        strict(video)


def test_few_videos_are_loaded_ahead_however_many_there_are(
    predictor: Predictor, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videoswin.inference.predictor.decoding_threads", lambda device: 1)
    asked = 0

    def paths() -> Iterator[Path]:
        nonlocal asked
        for _ in range(10):
            asked += 1
            yield video

    results = predictor.predict_all(paths())
    next(results)
    assert asked <= 3  # the one scored, the one being decoded, and one in between
    results.close()


def test_a_list_is_answered_as_each_video_alone_bit_for_bit(
    checkpoint: Checkpoint, video: Path, broken: Path
) -> None:
    for protocol in (None, "fast-1x1", "full-frame-4x1", "adaptive-4x3"):
        predictor = Predictor(checkpoint, device="cpu", protocol=protocol)
        alone = predictor(video).probabilities
        for result in predictor.predict_all([video, broken, video, video]):
            if isinstance(result, Prediction):
                assert torch.equal(result.probabilities, alone)


def test_videos_scored_together_have_the_scores_of_each_alone(predictor: Predictor, video: Path) -> None:
    views = load_views(video, predictor.clip, predictor.views).pixels
    means, num_scored = predictor.score_videos([views[:1], None, views[1:4], views], 4)
    assert num_scored == [1, 0, 3, 6]
    assert means[1].tolist() == [0, 0, 0]
    for row, of_one in ((0, views[:1]), (2, views[1:4]), (3, views)):
        torch.testing.assert_close(means[row], predictor.score(of_one))


def test_one_decode_serves_all_views(
    predictor: Predictor, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(
        "videoswin.video.views.open_video",
        lambda *args, **options: opened.append(1) or open_video(*args, **options),
    )
    assert predictor.views.num_views == 6
    predictor(video)
    assert len(opened) == 1


def test_a_full_frame_view_is_wider_than_high_and_is_scored(checkpoint: Checkpoint, video: Path) -> None:
    predictor = Predictor(checkpoint, device="cpu", protocol="full-frame-4x1")
    views = predictor.load(video).pixels
    assert views.shape == (4, 3, 8, 32, 43)
    assert predictor(video).probabilities.sum().item() == pytest.approx(1)
    assert predictor(video).protocol == "full-frame-4x1"


def test_adaptive_views_that_never_suffice_are_the_exact_answer(checkpoint: Checkpoint, video: Path) -> None:
    exact = Predictor(checkpoint, device="cpu", protocol="official-4x3")
    adaptive = Predictor(checkpoint, device="cpu", protocol="adaptive-4x3")
    adaptive.views = adaptive.views.replace(margin=0.999)
    prediction = adaptive(video)
    assert prediction.views_used == 12
    torch.testing.assert_close(prediction.probabilities, exact(video).probabilities)


def test_adaptive_views_stop_at_the_center_of_the_middle_clip_if_it_is_clear(
    checkpoint: Checkpoint, video: Path
) -> None:
    predictor = Predictor(checkpoint, device="cpu", protocol="adaptive-4x3")
    predictor.views = predictor.views.replace(margin=0.0)
    prediction = predictor(video)
    exact = load_views(video, predictor.clip, predictor.views.replace(margin=1.0)).pixels
    assert prediction.views_used == 1
    torch.testing.assert_close(prediction.probabilities, predictor.score(exact[5:6]))


def test_json_says_how_many_views_an_adaptive_protocol_used(checkpoint: Checkpoint, video: Path) -> None:
    predictor = Predictor(checkpoint, device="cpu", protocol="adaptive-4x3")
    fields = json.loads(predictor(video).to_json())
    assert fields["protocol"] == "adaptive-4x3"
    assert 1 <= fields["views_used"] <= 12


def test_an_adaptive_protocol_is_refused_for_a_multi_label_model(checkpoint: Checkpoint) -> None:
    several = dataclasses.replace(checkpoint, multi_label=True)
    with pytest.raises(ValueError, match=r"needs a single-label model, .* official-4x3"):
        Predictor(several, device="cpu", protocol="adaptive-4x3")


def test_views_without_a_published_protocol_are_named_clips_x_crops(checkpoint: Checkpoint) -> None:
    def name_of(**views: object) -> str:
        return Predictor(dataclasses.replace(checkpoint, views=ViewPlan(**views)), device="cpu").protocol

    assert name_of(clips=2, crops=3) == "2x3"
    assert name_of(clips=3, crops="full") == "full-frame-3x1"
    assert name_of(clips=2, crops=3, margin=0.9) == "adaptive-2x3"


def test_a_protocol_replaces_the_checkpoints_views() -> None:
    predictor = Predictor.from_pretrained("camera-motion", device="cpu", protocol="fast-1x1")
    assert predictor.protocol == "fast-1x1"
    assert predictor.views.num_views == 1


def test_an_unknown_protocol_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="official-4x3"):
        Predictor.from_pretrained("camera-motion", device="cpu", protocol="4x3")


def test_a_backend_is_run_on_its_own_device_and_in_its_own_precision(checkpoint: Checkpoint) -> None:
    backend = PyTorchBackend(checkpoint, torch.device("cpu"))
    predictor = Predictor(backend, device="cpu")
    pixels = torch.zeros(2, 3, 4, 24, 24, dtype=torch.uint8)
    assert torch.equal(predictor.score(pixels), Predictor(checkpoint, device="cpu").score(pixels))
    with pytest.raises(ValueError, match="device must be cpu, which random is on, got cuda"):
        Predictor(backend, device="cuda")
    with pytest.raises(ValueError, match="precision must be fp32, the precision of random, got bf16"):
        Predictor(backend, precision="bf16")
    half = PyTorchBackend(checkpoint, torch.device("cpu"), "fp16")
    assert half.metadata.precision == "fp16"
    assert Predictor(half, precision="fp16").backend is half


def test_the_model_is_that_of_a_checkpoint_only(checkpoint: Checkpoint) -> None:
    class Constant:
        metadata, device = checkpoint, torch.device("cpu")

        def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(pixels), len(LABELS))

    assert isinstance(Predictor(checkpoint, device="cpu").model, VideoSwin)
    predictor = Predictor(Constant())
    assert predictor.score(torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8)).tolist() == pytest.approx(
        [1 / 3] * 3
    )
    with pytest.raises(AttributeError, match="random has no PyTorch model"):
        predictor.model  # noqa: B018
