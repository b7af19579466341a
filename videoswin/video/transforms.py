"""Deterministic preprocessing: resize, crop and normalize.

T frames, H height, W width, C = 3 channels (RGB), S side of the square crop.
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
    """Resize frames to a given shorter side, with bilinear interpolation.

    Without `antialias`, the result equals cv2.INTER_LINEAR in the published pipelines to within one level on
    average.

    Args:
        frames_thwc: uint8 (T, H, W, 3).
        short_side: Length of the shorter side of the result, in pixels.
        antialias: Apply a low-pass filter when downscaling.
        placement: Library whose rounding determines the longer side, see `resized_length`.

    Returns:
        uint8 (T, H', W', 3).
    """
    height, width = frames_thwc.shape[1:3]
    if min(height, width) == short_side:
        return frames_thwc
    length = resized_length(height, width, short_side, placement)
    size = (short_side, length) if height <= width else (length, short_side)
    frames_tchw = frames_thwc.permute(0, 3, 1, 2)  # a channels-last view is the fast path for uint8
    resized = functional.interpolate(
        frames_tchw, size=size, mode="bilinear", align_corners=False, antialias=antialias
    )
    return resized.permute(0, 2, 3, 1)  # (T, H', W', 3)


def resized_length(height: int, width: int, short_side: int, placement: Placement) -> int:
    """Return the longer side of a frame whose shorter side is resized to `short_side`.

    Source: mmcv.rescale_size, which rounds to the nearest integer. With placement "torchvision" or
    "omnivore", torchvision's resize or pytorchvideo's short_side_scale, which round down, each with its own
    order of operations.
    """
    longer, shorter = max(height, width), min(height, width)
    if placement == "torchvision":
        return int(short_side * longer / shorter)
    if placement == "omnivore":
        return math.floor(longer / shorter * short_side)
    return int(longer * (short_side / shorter) + 0.5)


def spatial_crops(frames_thwc: Tensor, size: int, crops: Crops, placement: Placement = "official") -> Tensor:
    """Crop squares from every frame.

    Args:
        frames_thwc: (T, H, W, 3).
        size: Side of the crops in pixels, S.
        crops: 1 for the center, 3 along the longer side, or "full" for the full frame of any shape.
        placement: Library whose rounding determines the positions, see `crop_corners`.

    Returns:
        (crops, 3, T, S, S), or (1, 3, T, H, W) for "full".

    Raises:
        ValueError: The frames are smaller than the crop.
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
    """Return (top, left) of each crop: the center, or the start, end and middle of the longer side.

    Raises:
        ValueError: The frames are smaller than the crop.

    Source: CenterCrop and ThreeCrop in mmaction/datasets/pipelines/augmentations.py, with the order left,
    right, middle. If the number of pixels outside of the crop is odd, the right crop ends one pixel before
    the edge of the frame. In this case, torchvision's center_crop rounds half a pixel to the even number, and
    Omnivore's uniform_crop rounds up and ends its right crop at the edge.
    """
    if min(height, width) < size:
        raise ValueError(
            f"frames must be at least {size}x{size} for crops of this size, got {width}x{height}"
        )
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
