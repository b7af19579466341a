"""The whole CPU half in one function: a video file goes in, the views a model looks at come out as uint8."""

from __future__ import annotations

import os
import warnings

import torch
from torch import Tensor

from videoswin.video.reader import VideoReader, open_video
from videoswin.video.sampling import sample_clips
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.video.transforms import resize_short_side, spatial_crops


class DamagedVideoWarning(UserWarning):
    """A video is damaged; what could be decoded of it was used."""


def load_views(path: str | os.PathLike[str], clip: ClipSpec, views: ViewPlan) -> Tensor:
    """Every view of the video at `path`, a file or a folder of frames: uint8 (V, 3, T, S, S), clip by clip.

    VideoError if it cannot be read; DamagedVideoWarning if only a part of it can.
    """
    with open_video(path) as reader:
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
        clips = sample_clips(num_frames, reader.fps, clip, views)
        squares = {
            index: spatial_crops(
                resize_short_side(frame_hwc[None], clip.short_side, clip.antialias), clip.size, views.crops
            )
            for index, frame_hwc in reader.frames({index for indices in clips for index in indices})
        }  # each (crops, 3, 1, S, S)
        if reader.num_readable == num_frames:
            break
    by_clip = [torch.cat([squares[index] for index in indices], dim=2) for indices in clips]
    return torch.cat(by_clip)  # (V, 3, T, S, S)
