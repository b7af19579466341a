"""The whole CPU half in one function: a video file goes in, the views a model looks at come out as uint8."""

from __future__ import annotations

import os
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videoswin.video.limits import ReadLimits
from videoswin.video.reader import VideoError, VideoReader, open_video
from videoswin.video.sampling import sample_clips
from videoswin.video.spec import LONGEST_FULL_FRAME, ClipSpec, ViewPlan
from videoswin.video.transforms import resize_short_side, spatial_crops


class DamagedVideoWarning(UserWarning):
    """A video is damaged; what could be decoded of it was used."""


def load_views(
    path: str | os.PathLike[str], clip: ClipSpec, views: ViewPlan, *, limits: ReadLimits | None = None
) -> Tensor:
    """Every view of the video at `path`, a file or a folder of frames: uint8 (V, 3, T, S, S), clip by clip.

    Of whole frames (V, 3, T, H, W), the shorter of H and W being `clip.short_side`. An adaptive plan has its
    views in another order, see looking_order. VideoError if the video cannot be read or exceeds
    `limits` (None: the defaults of ReadLimits); DamagedVideoWarning if only a part of it can be read.
    """
    with open_video(path, limits=limits) as reader:
        views_cthw = read_views(reader, clip, views)
        if reader.damage is not None:
            warnings.warn(f"{path}: {reader.damage}", DamagedVideoWarning, stacklevel=2)
    return views_cthw


def read_views(reader: VideoReader, clip: ClipSpec, views: ViewPlan) -> Tensor:
    """As load_views, from an open video; afterwards `reader.damage` says what was wrong with it, if anything.

    Each frame is decoded, converted and resized once, however many views share it, and only its crops are
    kept. A video whose end turns out to be broken is sampled anew as the shorter video that it is.
    """
    while True:
        num_frames = reader.num_readable
        clips = sample_clips(num_frames, reader.fps, clip, views, reader.times)
        seen = {
            index: _seen(reader, frame_hwc, clip, views)
            for index, frame_hwc in reader.frames({index for indices in clips for index in indices})
        }  # each (crops, 3, 1, S, S)
        if reader.num_readable == num_frames:
            break
    by_clip = [torch.cat([seen[index] for index in indices], dim=2) for indices in clips]
    if views.is_adaptive:
        each = [view for by_crop in by_clip for view in by_crop]
        return torch.stack([each[place] for place in looking_order(views)])
    return torch.cat(by_clip)  # (V, 3, T, S, S)


def seconds_seen(
    num_frames: int, fps: float, clip: ClipSpec, views: ViewPlan, times: NDArray[np.float64] | None = None
) -> float:
    """Return how much of a video the clips cover together, each from its first to its last frame.

    The arguments are those of `sample_clips`.
    """
    step = clip.stride * (1.0 if clip.fps is None else fps / clip.fps)
    covered: set[int] = set()
    for indices in sample_clips(num_frames, fps, clip, views, times):
        covered.update(range(min(indices), min(num_frames, max(indices) + max(1, round(step)))))
    if clip.rule == "segments":
        covered.update(range(num_frames))
    if times is None:
        return len(covered) / fps
    shown = np.diff(times[:num_frames], append=times[num_frames - 1] + 1 / fps)
    return float(shown[sorted(covered)].sum())


def looking_order(views: ViewPlan) -> list[int]:
    """The places 0..V - 1 of the views, clip by clip, with those first that tell most.

    The center of every clip, from the middle of the video outwards, then what lies beside the centers.
    """
    per_clip = views.views_per_clip
    clips = sorted(range(views.clips), key=lambda clip: abs(2 * clip - (views.clips - 1)))
    center_first = reversed(range(per_clip))  # of three crops the last is the center
    return [clip * per_clip + crop for crop in center_first for clip in clips]


def _seen(reader: VideoReader, frame_hwc: Tensor, clip: ClipSpec, views: ViewPlan) -> Tensor:
    """What the views see of one frame, (H, W, 3) -> (crops, 3, 1, S, S)."""
    height, width, _ = frame_hwc.shape
    if views.crops == "full" and max(height, width) > LONGEST_FULL_FRAME * min(height, width):
        raise VideoError(
            reader.path,
            f"its frames are {width}x{height}, too long to be seen whole (at most 1 to "
            f"{LONGEST_FULL_FRAME:g}); use three crops, as in official-4x3",
        )
    resized = resize_short_side(frame_hwc[None], clip.short_side, clip.antialias, views.placement)
    return spatial_crops(resized, clip.size, views.crops, views.placement)
