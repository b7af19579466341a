"""The deterministic half of preprocessing: resize, crop, normalize. The shapes' letters are as in spec.py.

T frames, H height, W width, C = 3 colors (RGB), S side of the square crop.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from videoswin.video.spec import PER_CLIP, Crops, Normalization, Placement


def resize_short_side(
    frames_thwc: Tensor, short_side: int, antialias: bool, placement: Placement = "official"
) -> Tensor:
    """Frames whose shorter side is `short_side`, bilinear: uint8 (T, H, W, 3) -> uint8 (T, H', W', 3).

    Without `antialias` as cv2.INTER_LINEAR in the published pipelines, to within a gray level on average; the
    longer side is that of the `placement`'s library, see resized_length.
    """
    height, width = frames_thwc.shape[1:3]
    if min(height, width) == short_side:
        return frames_thwc
    length = resized_length(height, width, short_side, placement)
    size = (short_side, length) if height <= width else (length, short_side)
    frames_tchw = frames_thwc.permute(0, 3, 1, 2)  # a channels-last view, which is the fast path for uint8
    resized = functional.interpolate(
        frames_tchw, size=size, mode="bilinear", align_corners=False, antialias=antialias
    )
    return resized.permute(0, 2, 3, 1)  # (T, H', W', 3)


def resized_length(height: int, width: int, short_side: int, placement: Placement) -> int:
    """Return the longer side of a frame whose shorter side becomes `short_side`.

    Rounded as mmcv.rescale_size does; torchvision's resize and pytorchvideo's short_side_scale, which
    Omnivore uses, round down, each in its own order of operations.
    """
    longer, shorter = max(height, width), min(height, width)
    if placement == "torchvision":
        return int(short_side * longer / shorter)
    if placement == "omnivore":
        return math.floor(longer / shorter * short_side)
    return int(longer * (short_side / shorter) + 0.5)


def spatial_crops(frames_thwc: Tensor, size: int, crops: Crops, placement: Placement = "official") -> Tensor:
    """Squares of every frame: (T, H, W, 3) -> (crops, 3, T, size, size). ValueError if they do not fit.

    "full" takes all of it, whatever its shape: (1, 3, T, H, W).
    """
    if crops == "full":
        return frames_thwc.permute(3, 0, 1, 2).contiguous()[None]  # (1, 3, T, H, W)
    height, width = frames_thwc.shape[1:3]
    corners = crop_corners(height, width, size, crops, placement)
    squares = [frames_thwc[:, top : top + size, left : left + size] for top, left in corners]
    return torch.stack([square.permute(3, 0, 1, 2) for square in squares])  # (crops, 3, T, S, S)


def crop_corners(
    height: int, width: int, size: int, crops: Literal[1, 3], placement: Placement = "official"
) -> list[tuple[int, int]]:
    """(top, left) of each crop: the center, or along the longer side its start, end and middle.

    As CenterCrop and ThreeCrop in mmaction/datasets/pipelines/augmentations.py, whose order is left, right,
    middle, and whose right crop ends a pixel early where the room is odd. There torchvision's center_crop
    rounds half a pixel to the even one; Omnivore's uniform_crop rounds it up, and its right crop ends with
    the frame.
    """
    if min(height, width) < size:
        raise ValueError(f"frames of {width}x{height} are too small to crop {size}x{size} from")
    rooms = (height - size, width - size)
    if placement == "torchvision":
        top, left = (round(room / 2) for room in rooms)
    elif placement == "omnivore":
        top, left = (math.ceil(room / 2) for room in rooms)
    else:
        top, left = (room // 2 for room in rooms)
    if crops == 1:
        return [(top, left)]
    bottom, right = rooms if placement == "omnivore" else (room // 2 * 2 for room in rooms)
    if width >= height:
        return [(top, 0), (top, right), (top, left)]
    return [(0, left), (bottom, left), (top, left)]


def normalize(clips_cthw: Tensor, normalization: Normalization | Literal["per-clip"]) -> Tensor:
    """What the model eats: (..., 3, T, H, W) of 0..255 -> float32 of the same shape and on the same device.

    PER_CLIP takes one mean and one population standard deviation from each clip; a standard deviation below
    one gray level counts as one, so that a blank clip becomes zeros and not magnified noise.
    """
    if clips_cthw.ndim < 4 or clips_cthw.shape[-4] != 3:
        raise ValueError(f"clips are {tuple(clips_cthw.shape)}, wanted (..., 3, T, H, W)")
    clips = clips_cthw.to(torch.float32)
    if normalization == PER_CLIP:
        std, mean = torch.std_mean(clips, dim=(-4, -3, -2, -1), correction=0, keepdim=True)
        return (clips - mean) / std.clamp(min=1.0)
    assert isinstance(normalization, Normalization)
    mean, std = mean_and_std(normalization, clips.device)
    return (clips - mean) / std


def mean_and_std(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of pixels of 0..255, float32 (3, 1, 1, 1) each."""
    mean, std = (
        255 * torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1, 1)
        for values in (normalization.mean, normalization.std)
    )
    return mean, std
