"""A training clip follows from the seed and the draw; labels, parts and failures are those of the video."""

import pytest
import torch

from videoswin.camera_motion.clips import write_h264
from videoswin.data.dataset import Draw, VideoClips, collate, mirrored_classes
from videoswin.data.manifest import Manifest, Sample
from videoswin.video.augment import ClipAugment
from videoswin.video.spec import ClipSpec

CLIP = ClipSpec(frames=4, stride=1, size=16, short_side=16)
STILL = ClipAugment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Two seconds that grow brighter, bright on the left: 40 frames at 20 a second."""
    frames = torch.arange(40)[:, None, None, None].expand(40, 32, 32, 3) * 4
    frames = frames + torch.linspace(60, 0, 32)[None, None, :, None]
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    write_h264(path, frames.to(torch.uint8).contiguous(), fps=20, crf=10)
    return str(path)


def clips_of(*samples, augment=STILL, seed=0, multi_label=False, num_repeats=1):
    manifest = Manifest(source="test", classes=("left", "right"), samples=samples, multi_label=multi_label)
    return VideoClips(manifest, CLIP, augment, seed=seed, num_repeats=num_repeats)


def test_a_clip_follows_from_seed_and_draw(film):
    sample = Sample(path=film, labels=(0,))
    first = clips_of(sample)[Draw(0, 0)].clips
    assert torch.equal(clips_of(sample)[Draw(0, 0)].clips, first)
    others = [clips_of(sample)[Draw(epoch, 0)].clips for epoch in range(1, 6)]
    others += [clips_of(sample, seed=seed)[Draw(0, 0)].clips for seed in range(1, 6)]
    others += [clips_of(sample)[Draw(0, 0, again)].clips for again in range(1, 6)]
    for five in (others[:5], others[5:10], others[10:]):
        assert any(not torch.equal(clip, first) for clip in five)


def test_a_labeled_part_is_all_that_is_shown(film):
    early = clips_of(Sample(path=film, labels=(0,), end_seconds=0.5))
    late = clips_of(Sample(path=film, labels=(0,), start_seconds=1.5))
    brightest = max(float(early[Draw(epoch, 0)].clips.float().mean()) for epoch in range(8))
    darkest = min(float(late[Draw(epoch, 0)].clips.float().mean()) for epoch in range(8))
    assert brightest < 90 < 130 < darkest


def test_a_mirrored_clip_carries_the_label_of_its_mirror_image(film):
    augment = ClipAugment(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.5, flip_pairs=(("left", "right"),))
    items = [clips_of(Sample(path=film, labels=(0,)), augment=augment)[Draw(e, 0)] for e in range(12)]
    for clips, targets, _ in items:
        brighter_left = clips[..., :8].float().mean() > clips[..., 8:].float().mean()
        assert targets.tolist() == [0 if brighter_left else 1]
    assert {int(item.targets) for item in items} == {0, 1}


def test_repeats_are_different_versions_of_one_clip(film):
    augment = ClipAugment(scale=(0.3, 0.6), hflip=0.0)
    clips, targets, _ = clips_of(Sample(path=film, labels=(1,)), augment=augment, num_repeats=3)[Draw(0, 0)]
    assert clips.shape == (3, 3, 4, 16, 16)
    assert targets.tolist() == [1, 1, 1]
    assert not torch.equal(clips[0], clips[1])
    brightness = clips.float().mean((1, 2, 3, 4))
    assert brightness.max() - brightness.min() < 30, "crops differ, the moment is the same"


def test_all_labels_of_a_video_are_kept(film):
    item = clips_of(Sample(path=film, labels=(0, 1)), multi_label=True)[Draw(0, 0)]
    assert item.targets.tolist() == [[1.0, 1.0]]
    item = clips_of(Sample(path=film, labels=()), multi_label=True)[Draw(0, 0)]
    assert item.targets.tolist() == [[0.0, 0.0]]


def test_a_video_that_cannot_be_read_gives_blank_clips_that_do_not_count(film, tmp_path):
    dataset = clips_of(
        Sample(path=film, labels=(0,)), Sample(path=str(tmp_path / "gone.mp4"), labels=(1,)), num_repeats=2
    )
    batch = collate([dataset[Draw(0, 0)], dataset[Draw(0, 1)]])
    assert batch.weights.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert batch.clips[2:].sum() == 0
    assert batch.clips[:2].sum() > 0
    assert [failure.path for failure in batch.failures] == [str(tmp_path / "gone.mp4")]


@pytest.mark.parametrize("pairs", [(("left", "up"),), (("left", "right"), ("right", "left"))])
def test_flip_pairs_that_name_no_class_or_one_twice_are_refused(pairs):
    with pytest.raises(ValueError, match="flip_pairs"):
        mirrored_classes(("left", "right"), pairs)
