"""evaluate() has the scores of Predictor for any number of processes and ranks."""

import dataclasses
import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from videoswin._distributed import WorkerKilledError
from videoswin.camera_motion.clips import write_h264
from videoswin.data.manifest import Manifest, Sample
from videoswin.evaluation.evaluate import evaluate, match_classes
from videoswin.evaluation.metrics import average_precision
from videoswin.inference.predictor import Predictor
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.video.spec import PROTOCOLS, ClipSpec, ViewPlan
from videoswin.weights.checkpoint import Checkpoint

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"
CONFIG = VideoSwinConfig(embed_dim=8, depths=(1, 1), num_heads=(1, 2), window=(2, 4, 4), num_classes=6)
LABELS = ("walk", "run", "sit", "stand", "jump", "Fall")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    weights = VideoSwin(CONFIG).state_dict()
    weights["head.weight"] *= 50  # so that videos differ in what they score
    return Checkpoint(
        weights=weights,
        config=CONFIG,
        clip=ClipSpec(frames=4, stride=2, size=16, short_side=16),
        views=ViewPlan(clips=2, crops=3),
        labels=LABELS,
        name="random",
    )


@pytest.fixture(scope="module")
def predictor(checkpoint: Checkpoint) -> Predictor:
    return Predictor(checkpoint, device="cpu")


def write_noise(path: Path, num_frames: int, height: int, width: int) -> Path:
    """A video of blocks that flicker, different for every length."""
    generator = torch.manual_seed(num_frames)
    blocks = torch.randint(0, 255, (num_frames, height // 8, width // 8, 3), generator=generator)
    pixels = blocks.to(torch.uint8).repeat_interleave(8, 1).repeat_interleave(8, 2)
    write_h264(path, pixels, fps=10, crf=23)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    sizes = ((20, 48, 64), (3, 64, 48), (50, 32, 32), (35, 32, 80), (21, 48, 48))
    return [write_noise(folder / f"{size[0]}.mp4", *size) for size in sizes]


@pytest.fixture(scope="module")
def manifest(videos: list[Path]) -> Manifest:
    samples = [Sample(path=str(path), labels=(number % 3,)) for number, path in enumerate(videos)]
    return Manifest(source="made here", classes=("run", "sit", "walk"), samples=tuple(samples))


def with_sample(manifest: Manifest, place: int, **changes: object) -> Manifest:
    samples = list(manifest.samples)
    samples[place] = dataclasses.replace(samples[place], **changes)
    return dataclasses.replace(manifest, samples=tuple(samples))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.mp4"
    path.write_text("not a video")
    return path


def one_by_one(predictor: Predictor, paths: list[Path]) -> torch.Tensor:
    return torch.stack([predictor(path).probabilities for path in paths])


@pytest.mark.parametrize("protocol", [None, *PROTOCOLS])
def test_scores_are_those_of_the_predictor_one_video_at_a_time(
    checkpoint: Checkpoint, manifest: Manifest, videos: list[Path], protocol: str | None
) -> None:
    predictor = Predictor(checkpoint, device="cpu", protocol=protocol)
    report = evaluate(predictor, manifest, workers=0, views_per_batch=5)
    alone = one_by_one(predictor, videos)
    assert alone.std(0).min() > 1e-3
    torch.testing.assert_close(report.scores, alone, rtol=0, atol=1e-6)
    assert report.protocol == predictor.protocol


def test_scores_are_those_of_the_predictor_on_real_clips(checkpoint: Checkpoint) -> None:
    if not CLIPS.is_dir():
        pytest.skip(f"the real clips are not at {CLIPS}")
    paths = [path for path in sorted(CLIPS.iterdir()) if path.suffix != ".md"]
    predictor = Predictor(checkpoint, device="cpu", protocol="ssv2-1x3")
    samples = tuple(Sample(path=str(path), labels=(0,)) for path in paths)
    report = evaluate(predictor, Manifest(source="clips", classes=LABELS, samples=samples))
    alone = [predictor(path) for path in paths]
    scores = torch.stack([prediction.probabilities for prediction in alone])
    torch.testing.assert_close(report.scores, scores, rtol=0, atol=1e-6)
    damaged = [(prediction.path, prediction.damage) for prediction in alone if prediction.damage]
    assert len(damaged) > 0
    assert [(failure.path, failure.reason) for failure in report.damaged] == damaged


def test_batches_are_full_across_videos(predictor: Predictor, manifest: Manifest) -> None:
    sizes: list[int] = []
    hook = predictor.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    evaluate(predictor, manifest, workers=0, views_per_batch=8)
    hook.remove()
    assert sizes == [8, 8, 8, 6]  # 5 videos of 6 views


def test_full_frames_of_different_shapes_share_no_batch(checkpoint: Checkpoint, manifest: Manifest) -> None:
    predictor = Predictor(checkpoint, device="cpu", protocol="full-frame-4x1")
    sizes: list[int] = []
    hook = predictor.model.head.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    evaluate(predictor, manifest, workers=0, views_per_batch=8)
    hook.remove()
    assert sizes == [4, 4, 4, 4, 4]  # 64x48, 48x64, 32x32, 80x32, 48x48


def test_what_other_processes_decode_is_the_same(
    predictor: Predictor, manifest: Manifest, broken: Path
) -> None:
    manifest = with_sample(manifest, 1, path=str(broken))
    here, there = (evaluate(predictor, manifest, workers=workers) for workers in (0, 2))
    assert torch.equal(here.scores.nan_to_num(-1), there.scores.nan_to_num(-1))
    assert here.failures == there.failures


def test_an_unreadable_video_is_named_and_wrong(
    predictor: Predictor, manifest: Manifest, broken: Path
) -> None:
    sound = evaluate(predictor, manifest, workers=0)
    predicted = int(sound.ranking[1, 0])
    right = dataclasses.replace(manifest, classes=(*manifest.classes, LABELS[predicted]))
    right = with_sample(right, 1, labels=(3,))
    assert evaluate(predictor, right, workers=0).correct[1]
    report = evaluate(predictor, with_sample(right, 1, path=str(broken)), workers=0)
    assert not report.correct[1]
    assert report.num_videos == 5
    assert [(failure.path, "not a video" in failure.reason) for failure in report.failures] == [
        (str(broken), True)
    ]
    assert torch.equal(report.scores[[0, 2, 3, 4]], sound.scores[[0, 2, 3, 4]])


def test_a_list_of_only_unreadable_videos_scores_0(
    predictor: Predictor, manifest: Manifest, broken: Path
) -> None:
    manifest = dataclasses.replace(manifest, samples=(Sample(path=str(broken), labels=(0,)),))
    report = evaluate(predictor, manifest, workers=0)
    assert (report.top1, report.top5, report.mean_class_accuracy) == (0, 0, 0)


def test_a_damaged_video_is_scored_and_named_apart(
    predictor: Predictor, manifest: Manifest, videos: list[Path], tmp_path: Path
) -> None:
    content = bytearray(videos[2].read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes([0x55]) * third
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    report = evaluate(predictor, with_sample(manifest, 2, path=str(damaged)), workers=0)
    assert report.failures == ()
    assert [failure.path for failure in report.damaged] == [str(damaged)]
    assert report.scores[2].isfinite().all()


def test_a_part_of_a_video_is_scored_by_itself(
    predictor: Predictor, manifest: Manifest, videos: list[Path]
) -> None:
    whole = evaluate(predictor, manifest, workers=0)
    report = evaluate(predictor, with_sample(manifest, 2, start_seconds=1.0, end_seconds=2.5), workers=0)
    views = predictor.load(videos[2], start_seconds=1.0, end_seconds=2.5).pixels
    torch.testing.assert_close(report.scores[2], predictor.score(views), rtol=0, atol=1e-6)
    assert (report.scores[2] - whole.scores[2]).abs().max() > 1e-3


def test_torchs_random_state_stays_where_it_is(predictor: Predictor, manifest: Manifest) -> None:
    before = torch.get_rng_state()
    evaluate(predictor, manifest, workers=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_multi_label_model_has_a_mean_average_precision(
    checkpoint: Checkpoint, manifest: Manifest, videos: list[Path]
) -> None:
    predictor = Predictor(dataclasses.replace(checkpoint, multi_label=True), device="cpu")
    several = with_sample(with_sample(manifest, 0, labels=(0, 2)), 1, labels=())
    report = evaluate(predictor, dataclasses.replace(several, multi_label=True), workers=0)
    torch.testing.assert_close(report.scores, one_by_one(predictor, videos), rtol=0, atol=1e-6)
    assert report.targets.sum(1).tolist() == [2, 0, 1, 1, 1]
    expected = average_precision(report.scores, report.targets)[:3].mean().item()
    assert report.mean_average_precision == pytest.approx(expected)


def test_nan_scores_are_an_error(checkpoint: Checkpoint, manifest: Manifest) -> None:
    predictor = Predictor(checkpoint, device="cpu")
    torch.nn.init.constant_(predictor.model.head.bias, torch.nan)
    with pytest.raises(ValueError, match="scores of random must be finite, got NaN"):
        evaluate(predictor, manifest, workers=0)


def test_a_list_without_videos_is_refused(predictor: Predictor, manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="made here must have labeled videos, got none"):
        evaluate(predictor, dataclasses.replace(manifest, samples=()))


def test_progress_goes_to_stderr(
    predictor: Predictor, manifest: Manifest, capfd: pytest.CaptureFixture[str]
) -> None:
    evaluate(predictor, manifest, workers=0, progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == "evaluate: 5 videos\n"


@pytest.mark.parametrize(
    ("protocol", "megabytes"),
    # 2 workers prepare 2 videos each, and one more is in use.
    [("official-4x3", 5 * 12 * 3 * 4 * 16 * 16 / 2**20), ("full-frame-4x1", 5 * 4 * 3 * 4 * 455 / 2**20)],
)
def test_insufficient_shared_memory_is_reported_and_used(
    checkpoint: Checkpoint,
    manifest: Manifest,
    protocol: str,
    megabytes: float,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = Predictor(checkpoint, device="cpu", protocol=protocol)
    sound = evaluate(predictor, manifest, workers=0)
    monkeypatch.setattr("videoswin._distributed.free_shared_memory", lambda: 1000)
    report = evaluate(predictor, manifest, workers=2, progress=True)
    assert torch.equal(report.scores, sound.scores)
    assert f"workers=2 needs up to {math.ceil(megabytes)} MB" in capfd.readouterr().err.splitlines()[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the worker inherits what the test changes")
def test_a_worker_that_is_killed_ends_the_evaluation_with_the_cure(
    predictor: Predictor, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("videoswin.evaluation.evaluate.load_views", killed)
    with pytest.raises(WorkerKilledError, match=r"data worker was killed.*lower the number of workers"):
        evaluate(predictor, manifest, workers=1)


def evaluate_on_a_rank(rank: int, folder: str, checkpoint: Checkpoint, manifest: Manifest) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    report = evaluate(Predictor(checkpoint, device="cpu"), manifest, workers=0)
    torch.save(report.scores, f"{folder}/{rank}.pt")
    Path(f"{folder}/{rank}.json").write_text(report.to_json())
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the ranks are forked to save time")
def test_two_ranks_give_the_report_of_one(
    checkpoint: Checkpoint, manifest: Manifest, broken: Path, tmp_path: Path
) -> None:
    manifest = with_sample(manifest, 1, path=str(broken))
    torch.multiprocessing.start_processes(
        evaluate_on_a_rank, (str(tmp_path), checkpoint, manifest), nprocs=2, start_method="fork"
    )
    alone = evaluate(Predictor(checkpoint, device="cpu"), manifest, workers=0)
    reports = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert reports[0] == reports[1]
    expected = json.loads(alone.to_json())
    for fields in (expected, reports[0]):
        del fields["seconds"], fields["videos_per_second"]
    assert reports[0] == expected
    for rank in range(2):
        scores = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(scores, alone.scores, rtol=0, atol=1e-6, equal_nan=True)


def test_classes_are_found_by_name_whatever_their_case() -> None:
    assert match_classes(("fall ", "WALK", "sit"), LABELS) == [5, 0, 2]
    assert match_classes(("pan_left", "cafe\u0301"), ("caf\u00e9", "pan left")) == [1, 0]


def test_a_name_spelt_exactly_goes_before_one_in_another_case() -> None:
    assert match_classes(("run", "Run"), ("Run", "run", "RUN")) == [1, 0]


def test_numeric_classes_are_indices_of_the_models_labels() -> None:
    assert match_classes(("0", "1", "2"), LABELS) == [0, 1, 2]
    assert match_classes([str(n) for n in sorted(range(12), key=str)], [f"class {n}" for n in range(12)]) == [
        0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9,
    ]  # fmt: skip


@pytest.mark.parametrize("classes", [("1", "2"), tuple(map(str, range(7)))])
def test_numeric_classes_beyond_the_models_labels_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(
        ValueError, match=f"the {len(classes)} classes of the data must be among the 6 of the model, got"
    ):
        match_classes(classes, LABELS)


def test_up_to_five_unknown_classes_are_named_with_what_may_be_meant() -> None:
    unknown = ("Walks", "swimming", *"abcde")
    with pytest.raises(
        ValueError, match="the 8 classes of the data must be among the 6 of the model, got 7 others"
    ) as error:
        match_classes(("run", *unknown), LABELS)
    assert "'Walks' (did you mean 'walk'?), 'swimming', 'a', 'b', 'c' and 2 more;" in str(error.value)
