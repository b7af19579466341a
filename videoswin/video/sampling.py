"""Which frames a model looks at: pure index arithmetic, one function per published rule.

N frames in the video, T in a clip. A video is looped when a clip reaches past its end: index modulo N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.video.timestamps import frames_shown_at

# A file may claim to last for years.
_MOST_FRAMES = 2**40

OMNIVORE_SECONDS: Final = 10.0


def sample_clips(
    num_frames: int,
    fps: float,
    clip: ClipSpec,
    views: ViewPlan,
    times: NDArray[np.float64] | None = None,
) -> list[list[int]]:
    """Frame indices of every clip: `views.clips` lists of `clip.frames` indices in 0..num_frames - 1.

    `fps` is the video's own rate, and `times` are the seconds at which its frames are shown if it varies
    (None: it does not). Both play a part only if `clip.fps` asks for another rate. ValueError for a video
    without frames or rate, and for several clips by the "segments" rule, which covers the video with one.
    """
    _require_sampleable(num_frames, fps, clip)
    if clip.fps is not None and clip.rule == "dense" and times is not None:
        times = times[:num_frames]
        clips = sample_clips(_constant_rate_length(times, fps), fps, clip, views)
        return [_shown_frames(indices, times, fps) for indices in clips]
    if clip.rule == "segments":
        if views.clips != 1:
            raise ValueError(f"clips is {views.clips}, but rule 'segments' covers the video with 1 clip")
        return [segment_midpoints(num_frames, clip.frames)]
    if views.placement == "torchvision":
        return torchvision_clips(num_frames, fps, clip, views.clips)
    if views.placement == "omnivore":
        return omnivore_clips(num_frames, fps, clip, views.clips)

    # Frames of the video per frame of the resampled one.
    rate = 1.0 if clip.fps is None else fps / clip.fps
    step = clip.stride * rate
    if views.placement == "mmaction2":
        starts = end_aligned_starts(num_frames, (clip.frames - 1) * step + 1, views.clips)
    elif clip.fps is None:
        starts = interval_center_starts(num_frames, clip.span, views.clips)
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
    """Frame indices of one clip to train on, placed at random: `clip.frames` of 0..num_frames - 1.

    "dense" begins at any frame from which the span fits, or at the first; "segments" takes any frame of each
    part. As SampleFrames (`_get_train_clips`, `frame_uniform`) in Video-Swin-Transformer, which does not
    resample: a clip of a resampled video begins between frames. `fps`, `times` and errors are those of
    sample_clips.
    """
    _require_sampleable(num_frames, fps, clip)
    if clip.fps is not None and clip.rule == "dense" and times is not None:
        times = times[:num_frames]
        return _shown_frames(random_clip(_constant_rate_length(times, fps), fps, clip, rng), times, fps)
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
    """First frame of each clip, centerd in `count` equal intervals; zeros if the video is below `span`.

    As SampleFrames._get_test_clips in Video-Swin-Transformer, mmaction/datasets/pipelines/loading.py.
    """
    if num_frames < span:
        return [0.0] * count
    interval = (num_frames - span + 1) / count
    # Not (i + 0.5) * interval, which rounds to another frame for some lengths.
    return [float(int(i * interval + interval / 2)) for i in range(count)]


def subframe_interval_center_starts(num_frames: int, reach: float, count: int) -> list[float]:
    """As interval_center_starts, for a video resampled in time; starts are positions between frames.

    `reach` is a clip's first frame to its last, counting both, in frames of the video. Starts stay unrounded,
    so that clips which nearly fill the video still begin at different frames; the caller takes the frame on
    show at each moment, the floor. The published rule knows no resampling; this is its continuous form.
    """
    interval = max(num_frames - reach + 1, 0.0) / count
    return [(i + 0.5) * interval if interval else 0.0 for i in range(count)]


def end_aligned_starts(num_frames: int, reach: float, count: int) -> list[float]:
    """Clips spread evenly from the first frame to the last; one clip is in the middle. Zeros if too short.

    As SampleFrames._get_test_clips in MMAction2 1.x, mmaction/datasets/transforms/loading.py, where `reach`
    is (T - 1) * stride + 1. Of a resampled video, too, the starts are whole frames.
    """
    room = max(num_frames - reach, 0)
    if count == 1:
        return [float(room // 2)]
    return [float(round(i * (room / (count - 1)))) for i in range(count)]


def torchvision_clips(num_frames: int, fps: float, clip: ClipSpec, count: int) -> list[list[int]]:
    """`count` of all possible clips of the resampled video, evenly spaced; a shorter video is looped.

    As VideoClips and UniformClipSampler in torchvision.datasets with one frame between clips; torchvision
    itself drops videos shorter than a clip.
    """
    # Only as many of the resampled video's frames as are needed: a file may claim to last for years.
    target_fps = clip.fps or fps
    length = _resampled_length(num_frames, fps, target_fps)
    reach = (clip.frames - 1) * clip.stride + 1
    possible = max(length - reach + 1, 1)
    # torch, because the published starts carry the rounding of its linspace.
    starts = torch.linspace(0, possible - 1, steps=count).floor().long().tolist()
    offsets = range(0, clip.frames * clip.stride, clip.stride)
    return [
        _resampled_frames([(start + offset) % length for offset in offsets], num_frames, fps / target_fps)
        for start in starts
    ]


def omnivore_clips(num_frames: int, fps: float, clip: ClipSpec, count: int) -> list[list[int]]:
    """Return the frame indices of `count` clips of the first 10 seconds, or of the whole video if shorter.

    10 * clip.fps frames are spread evenly over those seconds, both ends included; clips begin at equal steps
    among them. As UniformTemporalSubsample in pytorchvideo and TemporalCrop in Omnivore
    (omnivision/data/transforms/pytorchvideo.py).
    """
    last = min(num_frames - 1, math.floor(OMNIVORE_SECONDS * fps + 1e-6))  # the frame at 10.0 s is among them
    length = round(OMNIVORE_SECONDS * (clip.fps or fps))
    frames = torch.linspace(0, last, length).clamp_(max=last).long().tolist()  # with its rounding
    starts = range(0, length, max(length // count, 1))
    offsets = range(0, clip.frames * clip.stride, clip.stride)
    return [[frames[(start + offset) % length] for offset in offsets] for start in starts[:count]]


def resample(num_frames: int, fps: float, target_fps: float) -> list[int]:
    """Frames of a video at `fps` that stand for it at `target_fps`; at least the first.

    As VideoClips._resample_video_idx in torchvision.datasets, with its single precision.
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
    # From 2**24 positions on, single precision may round beyond the last frame.
    frames: list[int] = indices.clamp_(max=num_frames - 1).tolist()
    return frames


def segment_midpoints(num_frames: int, count: int) -> list[int]:
    """The middle frame of each of `count` equal parts of the video; frames repeat if it is shorter.

    As SampleFrames.get_seq_frames (`frame_uniform`, test) in Video-Swin-Transformer, taken from SlowFast.
    """
    return [(first + last) // 2 for first, last in segments(num_frames, count)]


def segments(num_frames: int, count: int) -> list[tuple[int, int]]:
    """First and last frame of each of `count` equal parts of the video; neighbors share a frame."""
    part = (num_frames - 1) / count
    edges = [round(part * i) for i in range(count + 1)]
    return list(pairwise(edges))


def _constant_rate_length(times: NDArray[np.float64], fps: float) -> int:
    """How many frames the video would have if it were shown at `fps` throughout."""
    return round(min(float(times[-1] - times[0]) * fps, _MOST_FRAMES)) + 1


def _shown_frames(indices: Sequence[int], times: NDArray[np.float64], fps: float) -> list[int]:
    """The frames on show when these frames of a video at a constant rate are."""
    return frames_shown_at([index / fps for index in indices], times, fps)


def _require_sampleable(num_frames: int, fps: float, clip: ClipSpec) -> None:
    if num_frames < 1:
        raise ValueError(f"num_frames is {num_frames}, wanted 1 or more")
    if clip.fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(
            f"fps is {fps}, wanted the video's rate to resample it to {clip.fps} frames a second"
        )
