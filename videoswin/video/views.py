"""Load the views of a video file as uint8, on the CPU: load_views.

T frames, H height, W width, S side of the square crop, V views.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videoswin.video.frames import excerpt
from videoswin.video.limits import ReadLimits
from videoswin.video.reader import VideoError, VideoReader, open_video
from videoswin.video.sampling import sample_clips
from videoswin.video.spec import LONGEST_FULL_FRAME, ClipSpec, ViewPlan
from videoswin.video.transforms import resize_short_side, spatial_crops


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """The views of one video, and what is known about its file."""

    pixels: Tensor
    """(V, 3, T, S, S) uint8, clip by clip; for full frames (V, 3, T, H, W), where the shorter side is
    `clip.short_side`. The views of an adaptive plan are in the order of `view_order`."""
    times: NDArray[np.float64]
    """(V, T) display times of the frames in seconds from the first frame of the file."""
    duration_seconds: float
    """Duration of the video, or of the part of it that was asked for."""
    seconds_seen: float
    """Seconds of it that are covered by the clips."""
    damage: str | None = None
    """What could not be read; None if everything could."""
    notes: tuple[str, ...] = ()
    """What else a user should know about the file, such as colors that are not converted."""


def load_views(
    path: str | os.PathLike[str],
    clip: ClipSpec,
    views: ViewPlan,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    limits: ReadLimits | None = None,
) -> Views:
    """Load all views of a video, or of the part between two times.

    This is the whole CPU half of a prediction. It needs no model and is safe in a thread or process.

    Args:
        path: Video file or folder of frames.
        clip: Sampling and size of the clips.
        views: Number and placement of the views.
        start_seconds: Start of the part; None is the start of the video.
        end_seconds: End of the part; None is the end of the video.
        limits: Limits on the cost of reading; None means the defaults of ReadLimits.

    Raises:
        VideoError: The video cannot be read or exceeds `limits`, or the part is outside of it.
    """
    # Always one decoding thread: with several, FFmpeg conceals damaged pictures differently.
    with open_video(path, threads=1, limits=limits) as reader:
        return read_views(excerpt(reader, start_seconds, end_seconds), clip, views)


def read_views(reader: VideoReader, clip: ClipSpec, views: ViewPlan) -> Views:
    """Read all views of an open video like `load_views`.

    Each frame is decoded, converted and resized once, even if several views use it, and only its crops are
    kept. If the end of the video cannot be decoded, the readable part is sampled again as a shorter video.
    """
    while True:
        num_frames = reader.num_readable
        clips = sample_clips(num_frames, reader.fps, clip, views, reader.times)
        crops = {
            index: crop_frame(reader.path, frame_hwc, clip, views)
            for index, frame_hwc in reader.frames({index for indices in clips for index in indices})
        }  # each (crops, 3, 1, S, S)
        if reader.num_readable == num_frames:
            break
    seconds = [[reader.start_seconds + reader.seconds(index) for index in indices] for indices in clips]
    pixels, times = stack_views(crops, clips, seconds, views)
    return Views(
        pixels=pixels,
        times=times,
        duration_seconds=reader.duration_seconds,
        seconds_seen=seconds_seen(num_frames, reader.fps, clip, views, reader.times),
        damage=reader.damage,
        notes=reader.notes,
    )


def seconds_seen(
    num_frames: int, fps: float, clip: ClipSpec, views: ViewPlan, times: NDArray[np.float64] | None = None
) -> float:
    """Return the seconds of a video covered by its clips, each from its first to its last frame.

    Args:
        num_frames: Number of frames of the video.
        fps: Frame rate of the video.
        clip: Sampling of the clips.
        views: Number and placement of the clips.
        times: Display time of each frame in seconds if the rate varies; None if it is constant.
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


def view_order(views: ViewPlan) -> list[int]:
    """Return the indices 0..V - 1 of the views in the order in which an adaptive plan evaluates them.

    The center crops of all clips come first, then the other crops; clips are ordered from the middle of the
    video outward.
    """
    per_clip = views.views_per_clip
    clips = sorted(range(views.clips), key=lambda clip: abs(2 * clip - (views.clips - 1)))
    center_first = reversed(range(per_clip))  # of three crops the last is the center
    return [clip * per_clip + crop for crop in center_first for clip in clips]


def stack_views(
    crops: Mapping[int, Tensor], clips: list[list[int]], seconds: list[list[float]], views: ViewPlan
) -> tuple[Tensor, NDArray[np.float64]]:
    """Stack the crops of frames to the views of clips.

    Args:
        crops: (crops, 3, 1, S, S) of each frame, by its number.
        clips: Frame numbers of each clip.
        seconds: Display time of each of these frames.
        views: Number and placement of the views.

    Returns:
        Pixels (V, 3, T, S, S) and times (V, T), in the order of `view_order` for an adaptive plan.
    """
    pixels = torch.cat([torch.cat([crops[index] for index in indices], dim=2) for indices in clips])
    times = np.repeat(np.array(seconds), views.views_per_clip, axis=0)
    if views.is_adaptive:
        order = view_order(views)
        pixels, times = pixels[order], times[order]
    return pixels, times


def crop_frame(path: Path, frame_hwc: Tensor, clip: ClipSpec, views: ViewPlan) -> Tensor:
    """Resize a frame and return its crops: (H, W, 3) -> (crops, 3, 1, S, S)."""
    height, width, _ = frame_hwc.shape
    if views.crops == "full" and max(height, width) > LONGEST_FULL_FRAME * min(height, width):
        raise VideoError(
            path,
            f"the aspect ratio of a full-frame view must be <= {LONGEST_FULL_FRAME:g}, got frames of "
            f"{width}x{height}; use three crops, as in official-4x3",
        )
    resized = resize_short_side(frame_hwc[None], clip.short_side, clip.antialias, views.placement)
    return spatial_crops(resized, clip.size, views.crops, views.placement)
