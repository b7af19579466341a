"""Load the views of a video file as uint8 on the CPU, and normalize them for a model.

T frames, H height, W width, S side of the square crop, V views.
"""

from __future__ import annotations

import math
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videoswin._errors import VideoError
from videoswin.video.excerpt import excerpt
from videoswin.video.limits import ReadLimits
from videoswin.video.reader import open_video
from videoswin.video.sampling import sample_clips
from videoswin.video.spec import (
    MAX_VIEW_ASPECT_RATIO,
    PER_CLIP,
    ClipSpec,
    Crops,
    Normalization,
    Placement,
    ViewPlan,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Views:
    """The views of one video, and what is known about its file."""

    pixels: Tensor
    """(V, 3, T, S, S) uint8, clip by clip; for full frames (V, 3, T, H, W), where the shorter side is
    `clip.short_side`. The views of an adaptive plan are in the order of `adaptive_order`."""
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

    This is the whole CPU half of a prediction. It needs no model and is safe in a thread or process. Each
    frame is decoded, converted and resized once, even if several views use it, and only its crops are kept.
    If the end of the video cannot be decoded, the readable part is sampled again as a shorter video.

    Args:
        path: Video file or folder of frames.
        clip: Sampling and size of the clips.
        views: Number and placement of the views.
        start_seconds: Start of the part; None is the start of the video.
        end_seconds: End of the part; None is the end of the video.
        limits: Limits on the cost of reading; None means the defaults of ReadLimits.

    Returns:
        The views, and what is known about the file.

    Raises:
        VideoError: The video cannot be read or exceeds `limits`, or the part is outside of it.
    """
    with closing(open_video(path, limits=limits)) as video:
        reader = video
        if start_seconds is not None or end_seconds is not None:
            reader = excerpt(video, start_seconds, end_seconds)
        while True:
            num_frames = reader.num_readable
            clips = sample_clips(num_frames, reader.fps, clip, views, reader.variable_times)
            crops = {}  # frame index -> (crops, 3, 1, S, S)
            for index in sorted({index for indices in clips for index in indices}):
                crops[index] = crop_frame(reader.path, reader.frame(index), clip, views)
            if reader.num_readable == num_frames:
                break
        pixels = torch.cat([torch.cat([crops[index] for index in indices], dim=2) for indices in clips])
        seconds = reader.start_seconds + reader.times[np.array(clips)]
        times = np.repeat(seconds, len(pixels) // len(clips), axis=0)  # (V, T)
        if views.margin < 1:
            order = adaptive_order(views)
            pixels, times = pixels[order], times[order]
        return Views(
            pixels=pixels,
            times=times,
            duration_seconds=reader.duration_seconds,
            seconds_seen=seconds_covered(clips, clip, num_frames, reader.fps, reader.variable_times),
            damage=reader.damage,
            notes=reader.notes,
        )


def crop_frame(path: Path, frame_hwc: Tensor, clip: ClipSpec, views: ViewPlan) -> Tensor:
    """Resize a frame and return its crops: uint8 (H, W, 3) -> (crops, 3, 1, S, S).

    Args:
        path: Video file, for the message.
        frame_hwc: Decoded frame.
        clip: Short side and size of a crop in pixels, and interpolation.
        views: Number and placement of the crops.

    Raises:
        VideoError: The frame is too long for a view of the full frame.
    """
    height, width, _ = frame_hwc.shape
    if views.crops == "full" and max(height, width) > MAX_VIEW_ASPECT_RATIO * min(height, width):
        raise VideoError(
            path,
            f"the aspect ratio of a full-frame view must be <= {MAX_VIEW_ASPECT_RATIO:g}, got frames of "
            f"{width}x{height}; use three crops, as in official-4x3",
        )
    resized = resize_short_side(frame_hwc[None], clip.short_side, clip.antialias, views.placement)
    return spatial_crops(resized, clip.size, views.crops, views.placement)


def seconds_covered(
    clips: list[list[int]],
    clip: ClipSpec,
    num_frames: int,
    fps: float,
    times: NDArray[np.float64] | None = None,
) -> float:
    """Return the seconds of a video covered by its clips, each from its first to its last frame.

    Args:
        clips: Frame indices of each clip.
        clip: Sampling of the clips.
        num_frames: Number of frames of the video.
        fps: Frame rate of the video.
        times: Display time of each frame in seconds if the rate varies; None if it is constant.
    """
    step = clip.stride * (1.0 if clip.fps is None else fps / clip.fps)
    covered: set[int] = set()
    for indices in clips:
        covered.update(range(min(indices), min(num_frames, max(indices) + max(1, round(step)))))
    if clip.rule == "segments":
        covered.update(range(num_frames))
    if times is None:
        return len(covered) / fps
    shown = np.diff(times[:num_frames], append=times[num_frames - 1] + 1 / fps)
    return float(shown[sorted(covered)].sum())


def adaptive_order(views: ViewPlan) -> list[int]:
    """Return the indices 0..V - 1 of the views in the order in which an adaptive plan evaluates them.

    The center crops of all clips come first, then the other crops; clips are ordered from the middle of the
    video outward.
    """
    per_clip = views.views_per_clip
    clips = sorted(range(views.clips), key=lambda clip: abs(2 * clip - (views.clips - 1)))
    center_first = reversed(range(per_clip))  # of three crops the last is the center
    return [clip * per_clip + crop for crop in center_first for clip in clips]


def resize_short_side(
    frames_thwc: Tensor, short_side: int, antialias: bool, placement: Placement = "official"
) -> Tensor:
    """Resize frames to a given shorter side, with bilinear interpolation.

    Without `antialias`, the result equals cv2.INTER_LINEAR in the published pipelines to within one level on
    average.

    Args:
        frames_thwc: uint8 (T, H, W, 3).
        short_side: Length of the shorter side of the result, in pixels.
        antialias: Apply a low-pass filter when downscaling.
        placement: Library whose rounding determines the longer side.

    Returns:
        uint8 (T, H', W', 3).

    Source: mmcv.rescale_size, which rounds the longer side to the nearest integer. With placement
    "torchvision" or "omnivore", torchvision's resize or pytorchvideo's short_side_scale, which round down,
    each with its own order of operations.
    """
    height, width = frames_thwc.shape[1:3]
    longer, shorter = max(height, width), min(height, width)
    if shorter == short_side:
        return frames_thwc
    if placement == "torchvision":
        length = int(short_side * longer / shorter)
    elif placement == "omnivore":
        length = math.floor(longer / shorter * short_side)
    else:
        length = int(longer * (short_side / shorter) + 0.5)
    size = (short_side, length) if height <= width else (length, short_side)
    frames_tchw = frames_thwc.permute(0, 3, 1, 2)  # a channels-last view is the fast path for uint8
    resized = functional.interpolate(
        frames_tchw, size=size, mode="bilinear", align_corners=False, antialias=antialias
    )
    return resized.permute(0, 2, 3, 1)  # (T, H', W', 3)


def spatial_crops(frames_thwc: Tensor, size: int, crops: Crops, placement: Placement = "official") -> Tensor:
    """Crop squares from every frame: the center, or the start, end and middle of the longer side.

    Args:
        frames_thwc: (T, H, W, 3).
        size: Side of the crops in pixels, S.
        crops: 1 for the center, 3 along the longer side, or "full" for the full frame of any shape.
        placement: Library whose rounding determines the positions.

    Returns:
        (crops, 3, T, S, S), or (1, 3, T, H, W) for "full".

    Raises:
        ValueError: The frames are smaller than the crop.

    Source: CenterCrop and ThreeCrop in mmaction/datasets/pipelines/augmentations.py, with the order left,
    right, middle. If the number of pixels outside of the crop is odd, the right crop ends one pixel before
    the edge of the frame. In this case, torchvision's center_crop rounds half a pixel to the even number, and
    Omnivore's uniform_crop rounds up and ends its right crop at the edge.
    """
    if crops == "full":
        return frames_thwc.permute(3, 0, 1, 2).contiguous()[None]  # (1, 3, T, H, W)
    height, width = frames_thwc.shape[1:3]
    if min(height, width) < size:
        raise ValueError(
            f"frames must be at least {size}x{size} for crops of this size, got {width}x{height}"
        )
    rooms = (height - size, width - size)
    bottom, right = (room // 2 * 2 for room in rooms)
    top, left = (room // 2 for room in rooms)
    if placement == "torchvision":
        top, left = (round(room / 2) for room in rooms)
    elif placement == "omnivore":
        bottom, right = rooms
        top, left = (math.ceil(room / 2) for room in rooms)
    corners = [(top, left)]
    if crops == 3:
        ends = [(top, 0), (top, right)] if width >= height else [(0, left), (bottom, left)]
        corners = [*ends, (top, left)]
    squares = [frames_thwc[:, y : y + size, x : x + size] for y, x in corners]
    return torch.stack([square.permute(3, 0, 1, 2) for square in squares])  # (crops, 3, T, S, S)


def normalize(clips_cthw: Tensor, normalization: Normalization | Literal["per-clip"]) -> Tensor:
    """Normalize clips for the model.

    PER_CLIP uses the mean and the population standard deviation of each clip. A standard deviation below one
    level is set to one, so that a blank clip gives zeros and not amplified noise.

    Args:
        clips_cthw: (..., 3, T, H, W) with values 0..255.
        normalization: Fixed mean and std, or PER_CLIP.

    Returns:
        float32 of the same shape, on the same device.

    Raises:
        ValueError: The shape of the clips is invalid.
    """
    if clips_cthw.ndim < 4 or clips_cthw.shape[-4] != 3:
        raise ValueError(f"clips must have shape (..., 3, T, H, W), got {tuple(clips_cthw.shape)}")
    clips = clips_cthw.to(torch.float32)
    if normalization == PER_CLIP:
        std, mean = torch.std_mean(clips, dim=(-4, -3, -2, -1), correction=0, keepdim=True)
        return (clips - mean) / std.clamp(min=1.0)
    assert isinstance(normalization, Normalization)
    mean, std = mean_and_std(normalization, clips.device)
    return (clips - mean) / std


def mean_and_std(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and std for values of 0..255, each float32 (3, 1, 1, 1)."""
    mean, std = (
        255 * torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1, 1)
        for values in (normalization.mean, normalization.std)
    )
    return mean, std
