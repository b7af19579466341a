"""That only the order of the frames says how the dots drift."""

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.moving_pictures import LABELS, DriftingDots, doubled_frames, drifting_dots
from videoswin.data.dataset import Draw


def of_every_label(**options: float) -> list[Tensor]:
    """The clip of each label that the same picture gives: (3, T, S, S)."""
    return [
        drifting_dots(np.random.default_rng(5), torch.tensor([label]), **options)[0]
        for label in range(len(LABELS))
    ]


def frames(clip_cthw: Tensor) -> list[bytes]:
    """The clip's frames without their order."""
    return sorted(frame.numpy().tobytes() for frame in clip_cthw.transpose(0, 1).contiguous())


@pytest.mark.parametrize("shown", [lambda clip: clip, lambda clip: doubled_frames(clip[None])[0]])
def test_clips_of_all_labels_are_the_same_frames_in_different_orders(shown) -> None:
    clips = [shown(clip) for clip in of_every_label()]
    assert all(frames(clip) == frames(clips[0]) for clip in clips)
    assert len({clip.numpy().tobytes() for clip in clips}) == len(LABELS)


def test_doubled_frames_come_in_equal_pairs() -> None:
    doubled = doubled_frames(of_every_label()[0][None])
    assert doubled.shape == (1, 3, 16, 16, 16)
    assert torch.equal(doubled[:, :, ::2], doubled[:, :, 1::2])


@pytest.mark.parametrize(
    ("label", "axis", "pixels"),
    [("right then down", 2, 2), ("left then up", 2, -2), ("down then left", 1, 2), ("up then right", 1, -2)],
)
def test_the_label_says_which_way_the_dots_drift_first(label: str, axis: int, pixels: int) -> None:
    clip = of_every_label()[LABELS.index(label)]
    assert torch.equal(clip[:, 1], clip[:, 0].roll(pixels, dims=axis))


def test_a_draw_is_the_same_whenever_it_is_made() -> None:
    dots = DriftingDots(2, seed=1, any_turn=True, noise=30.0)
    assert torch.equal(dots[Draw(0, 1)].clips, dots[Draw(0, 1)].clips)
    assert not torch.equal(dots[Draw(0, 0)].clips, dots[Draw(0, 1)].clips)
