"""Choose the frames of each clip: pure arithmetic on frame indices and display times, one function per rule.

T frames in a clip. A clip that extends past the end of the video is looped: index modulo num_frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from videoswin.video.spec import ClipSpec, ViewPlan

# The timestamps of a file may claim a duration of years.
_MAX_RESAMPLED_FRAMES: Final = 2**40

OMNIVORE_SECONDS: Final = 10.0
"""Length of the part of a video that Omnivore samples, from its start."""

UNKNOWN_FPS: Final = 25.0
"""Frame rate of a file that neither states its rate nor has timestamps to measure it."""

TOLERANCE_SECONDS: Final = 1e-3
"""Largest difference between equal times: files and lists round times to a millisecond."""

# The rate is measured over several frames, because pulldown alternates between two steps.
_FRAMES_MEASURED: Final = 10
# In formats that allow jumps of the clock, a longer step is one. The value is FFmpeg's -dts_delta_threshold.
CLOCK_JUMP_SECONDS: Final = 10.0


def sample_clips(
    num_frames: int,
    fps: float,
    clip: ClipSpec,
    views: ViewPlan,
    times: NDArray[np.float64] | None = None,
) -> list[list[int]]:
    """Return the frame indices of all clips of a video for a test.

    Args:
        num_frames: Number of frames of the video, >= 1.
        fps: Frame rate of the video; used only if `clip.fps` is set.
        clip: Sampling of each clip.
        views: Number and placement of the clips.
        times: Display time of each frame in seconds if the rate varies; None if it is constant. Used only if
            `clip.fps` is set.

    Returns:
        `views.clips` lists of `clip.frames` indices in 0..num_frames - 1.

    Raises:
        ValueError: The video has no frames or no valid rate, or the rule is "segments", where one clip covers
            the video, and there are several clips.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be >= 1, got {num_frames}")
    if clip.fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be > 0 and finite to resample to {clip.fps} frames/s, got {fps}")
    if clip.fps is not None and clip.rule == "dense" and times is not None:
        times = times[:num_frames]
        clips = sample_clips(_constant_rate_length(times, fps), fps, clip, views)
        return [_to_variable_rate(indices, times, fps) for indices in clips]
    if clip.rule == "segments":
        if views.clips != 1:
            raise ValueError(
                f"clips must be 1 with rule 'segments', which covers the video, got {views.clips}"
            )
        return [segment_midpoints(num_frames, clip.frames)]
    if views.placement == "torchvision":
        return torchvision_clips(num_frames, fps, clip, views.clips)
    if views.placement == "omnivore":
        return omnivore_clips(num_frames, fps, clip, views.clips)

    # Frames of the video per frame of the resampled video.
    rate = 1.0 if clip.fps is None else fps / clip.fps
    step = clip.stride * rate
    if views.placement == "mmaction2":
        starts = end_aligned_starts(num_frames, (clip.frames - 1) * step + 1, views.clips)
    elif clip.fps is None:
        starts = interval_center_starts(num_frames, clip.frames * clip.stride, views.clips)
    else:
        starts = subframe_interval_center_starts(num_frames, (clip.frames - 1) * step + 1, views.clips)
    return [[int(start + i * step) % num_frames for i in range(clip.frames)] for start in starts]


def random_clip(
    num_frames: int,
    fps: float,
    clip: ClipSpec,
    rng: Generator,
    times: NDArray[np.float64] | None = None,
) -> list[int]:
    """Return the frame indices of one training clip at a random position.

    With rule "dense" the clip begins at any frame from which its span fits, or at the first frame; with rule
    "segments" it has a random frame of each part. The start in a resampled video is not rounded to frames.

    Args:
        num_frames: Number of frames of the video, >= 1.
        fps: Frame rate of the video; used only if `clip.fps` is set.
        clip: Sampling of the clip.
        rng: Source of the random position.
        times: Display time of each frame in seconds if the rate varies; None if it is constant.

    Returns:
        `clip.frames` indices in 0..num_frames - 1.

    Raises:
        ValueError: The video has no frames or no valid rate.

    Source: SampleFrames (`_get_train_clips`, `frame_uniform`) in Video-Swin-Transformer, which has no
    resampling.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be >= 1, got {num_frames}")
    if clip.fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be > 0 and finite to resample to {clip.fps} frames/s, got {fps}")
    if clip.fps is not None and clip.rule == "dense" and times is not None:
        times = times[:num_frames]
        return _to_variable_rate(random_clip(_constant_rate_length(times, fps), fps, clip, rng), times, fps)
    if clip.rule == "segments":
        parts = segments(num_frames, clip.frames)
        return [int(rng.integers(first, last, endpoint=True)) for first, last in parts]
    if clip.fps is None:
        first = int(rng.integers(max(num_frames - clip.span + 1, 1)))
        return [(first + i * clip.stride) % num_frames for i in range(clip.frames)]
    step = clip.stride * fps / clip.fps
    start = rng.uniform(0, max(num_frames - (clip.frames - 1) * step, 0))
    return [int(start + i * step) % num_frames for i in range(clip.frames)]


def interval_center_starts(num_frames: int, span: int, count: int) -> list[float]:
    """Return the first frame of each clip, centered in `count` equal intervals of the video.

    Args:
        num_frames: Number of frames of the video.
        span: Frames covered by one clip, frames * stride.
        count: Number of clips.

    Returns:
        `count` positions; all 0 if the video is shorter than `span` frames.

    Source: SampleFrames._get_test_clips in Video-Swin-Transformer, mmaction/datasets/pipelines/loading.py.
    """
    if num_frames < span:
        return [0.0] * count
    interval = (num_frames - span + 1) / count
    # Not (i + 0.5) * interval, which rounds to another frame for some lengths.
    return [float(int(i * interval + interval / 2)) for i in range(count)]


def subframe_interval_center_starts(num_frames: int, length: float, count: int) -> list[float]:
    """Return the starts of `interval_center_starts` for a resampled video, as positions between frames.

    Starts are not rounded, so that clips that almost fill the video still begin at different frames; the
    caller rounds the position of each frame down. The published rule has no resampling; this is its
    continuous form.

    Args:
        num_frames: Number of frames of the video.
        length: Frames of the video from the first to the last frame of a clip, inclusive.
        count: Number of clips.
    """
    interval = max(num_frames - length + 1, 0.0) / count
    return [(i + 0.5) * interval if interval else 0.0 for i in range(count)]


def end_aligned_starts(num_frames: int, length: float, count: int) -> list[float]:
    """Return the starts of clips spread evenly from the first frame to the last; one clip is in the middle.

    Args:
        num_frames: Number of frames of the video.
        length: Frames of the video from the first to the last frame of a clip, inclusive:
            (T - 1) * stride + 1.
        count: Number of clips.

    Returns:
        `count` integer positions, also for a resampled video; all 0 if the video is shorter than a clip.

    Source: SampleFrames._get_test_clips in MMAction2 1.x, mmaction/datasets/transforms/loading.py.
    """
    room = max(num_frames - length, 0)
    if count == 1:
        return [float(room // 2)]
    return [float(round(i * (room / (count - 1)))) for i in range(count)]


def torchvision_clips(num_frames: int, fps: float, clip: ClipSpec, count: int) -> list[list[int]]:
    """Return the frame indices of `count` evenly spaced clips out of all clips of the resampled video.

    A video shorter than a clip is looped, where torchvision drops it.

    Args:
        num_frames: Number of frames of the video, >= 1.
        fps: Frame rate of the video, > 0.
        clip: Sampling of each clip; `clip.fps` is the rate to resample to.
        count: Number of clips.

    Source: VideoClips and UniformClipSampler in torchvision.datasets, with a step of one frame between clips.
    """
    # Resample only the frames of the clips: the file may claim a duration of years.
    target_fps = clip.fps or fps
    length = _resampled_length(num_frames, fps, target_fps)
    clip_length = (clip.frames - 1) * clip.stride + 1
    possible = max(length - clip_length + 1, 1)
    # torch.linspace, because the published starts depend on its rounding.
    starts = torch.linspace(0, possible - 1, steps=count).floor().long().tolist()
    offsets = range(0, clip.frames * clip.stride, clip.stride)
    return [
        _resampled_frames([(start + offset) % length for offset in offsets], num_frames, fps / target_fps)
        for start in starts
    ]


def omnivore_clips(num_frames: int, fps: float, clip: ClipSpec, count: int) -> list[list[int]]:
    """Return the frame indices of `count` clips of the first 10 seconds, or of the whole video if shorter.

    10 * clip.fps frames are spread evenly over these seconds, including both ends; clips begin at equal steps
    among them.

    Args:
        num_frames: Number of frames of the video, >= 1.
        fps: Frame rate of the video, > 0.
        clip: Sampling of each clip; `clip.fps` is the rate to resample to.
        count: Number of clips.

    Source: UniformTemporalSubsample in pytorchvideo and TemporalCrop in Omnivore
    (omnivision/data/transforms/pytorchvideo.py).
    """
    last = min(num_frames - 1, math.floor(OMNIVORE_SECONDS * fps + 1e-6))  # includes the frame at 10.0 s
    length = round(OMNIVORE_SECONDS * (clip.fps or fps))
    # torch.linspace, because the published frames depend on its rounding.
    frames = torch.linspace(0, last, length).clamp_(max=last).long().tolist()
    starts = range(0, length, max(length // count, 1))
    offsets = range(0, clip.frames * clip.stride, clip.stride)
    return [[frames[(start + offset) % length] for offset in offsets] for start in starts[:count]]


def resample(num_frames: int, fps: float, target_fps: float) -> list[int]:
    """Return the frame indices that resample a video to another rate; at least the first frame.

    Args:
        num_frames: Number of frames of the video, >= 1.
        fps: Frame rate of the video, > 0.
        target_fps: Frame rate of the result, > 0.

    Source: VideoClips._resample_video_idx in torchvision.datasets, which uses single precision.
    """
    length = _resampled_length(num_frames, fps, target_fps)
    return _resampled_frames(range(length), num_frames, fps / target_fps)


def _resampled_length(num_frames: int, fps: float, target_fps: float) -> int:
    step = fps / target_fps
    if step.is_integer():
        return len(range(0, num_frames, int(step)))
    return max(math.floor(num_frames * target_fps / fps), 1)


def _resampled_frames(positions: Sequence[int], num_frames: int, step: float) -> list[int]:
    if step.is_integer():
        return [position * int(step) for position in positions]
    indices = (torch.tensor(positions, dtype=torch.float32) * step).floor().long()
    # From 2**24 positions on, single precision may round up past the last frame.
    frames: list[int] = indices.clamp_(max=num_frames - 1).tolist()
    return frames


def segment_midpoints(num_frames: int, count: int) -> list[int]:
    """Return the middle frame of each of `count` equal parts of the video; frames repeat if it is shorter.

    Args:
        num_frames: Number of frames of the video, >= 1.
        count: Number of parts.

    Source: SampleFrames.get_seq_frames (`frame_uniform`, test) in Video-Swin-Transformer, from SlowFast.
    """
    return [(first + last) // 2 for first, last in segments(num_frames, count)]


def segments(num_frames: int, count: int) -> list[tuple[int, int]]:
    """Return the first and last frame of each of `count` equal parts of a video; neighbors share a frame."""
    part = (num_frames - 1) / count
    edges = [round(part * i) for i in range(count + 1)]
    return list(pairwise(edges))


def _constant_rate_length(times: NDArray[np.float64], fps: float) -> int:
    """Return the number of frames of a video with the same duration and a constant rate `fps`."""
    return round(min(float(times[-1] - times[0]) * fps, _MAX_RESAMPLED_FRAMES)) + 1


def _to_variable_rate(indices: Sequence[int], times: NDArray[np.float64], fps: float) -> list[int]:
    """Convert frame indices at the constant rate `fps` to the frames displayed at the same times."""
    return frames_at([index / fps for index in indices], times, fps)


def measure_rate(
    times: NDArray[np.float64], stated: Iterable[float]
) -> tuple[float, NDArray[np.float64] | None]:
    """Return the frame rate in frames per second, by the median step between frames, and variable times.

    Args:
        times: Display time of each frame in seconds, in increasing order; empty if unknown.
        stated: Rates stated in the file; 0 is ignored.

    Returns:
        The first stated rate that agrees with the measured one to about 1 %, else the measured rate; with
        fewer than two frames, the first stated rate, else UNKNOWN_FPS. And the times relative to the first
        one; None if all are within half a step of a constant rate.
    """
    stated = [rate for rate in stated if rate]
    if len(times) < 2:
        return (stated[0] if stated else UNKNOWN_FPS), None
    apart = min(_FRAMES_MEASURED, len(times) - 1)
    step = float(np.median(times[apart:] - times[:-apart])) / apart
    agreeing = (rate for rate in stated if abs(step - 1 / rate) <= 0.01 * step + TOLERANCE_SECONDS / apart)
    fps = next(agreeing, 1 / step)
    times = times - times[0]
    is_constant = np.abs(times * fps - np.arange(len(times))).max() <= 0.5
    return fps, None if is_constant else times


def close_clock_jumps(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the times with steps of more than 10 seconds replaced by the median step."""
    steps = np.diff(times)
    if not (steps > CLOCK_JUMP_SECONDS).any():
        return times
    return np.append(0.0, np.cumsum(np.where(steps > CLOCK_JUMP_SECONDS, np.median(steps), steps)))


def frames_at(seconds: Sequence[float], times: NDArray[np.float64], fps: float) -> list[int]:
    """Return the index of the frame displayed at each time: the last frame at or before it, or the first.

    Args:
        seconds: Times in seconds.
        times: Display time of each frame in seconds, in increasing order.
        fps: Frame rate, which limits the tolerance of the comparison.
    """
    moments = np.asarray(seconds, dtype=np.float64) + tolerance(fps)
    frames: list[int] = np.maximum(np.searchsorted(times, moments, side="right") - 1, 0).tolist()
    return frames


def tolerance(fps: float) -> float:
    """Return the largest difference between equal times in seconds, at most a quarter of a frame."""
    return min(TOLERANCE_SECONDS, 0.25 / fps)
