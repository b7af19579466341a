"""An image model's weights as a video model's, and bias tables for another window.

Source: Liu et al. 2021, section 3.3 and table 7; VST: mmaction/models/backbones/swin_transformer.py,
inflate_weights.
Legend: P M M window, C channels, rows of a table are offsets with time slowest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from videoswin._errors import InputError
from videoswin.model.config import PATCH
from videoswin.weights.infer import TABLE, Window

Method = Literal["inflate", "center"]

CROSS_FRAME_BIAS = -4.6
"""Initial bias between different frames in `center`, about ln 0.01: tokens look at their own frame."""


def inflate(weights: Mapping[str, Tensor], window: Window, method: Method = "inflate") -> dict[str, Tensor]:
    """An image model's tensors (our names, 2D shapes) as a video model's with this window.

    `inflate` copies the image model to every frame, so that a still video gives what the image gave; `center`
    lets a token see its own frame alone at first. Everything but the patch embedding and the tables stays as
    it is.
    """
    require_method(method)
    inflated = dict(weights)
    for name, tensor in weights.items():
        if name == "patch_embed.proj.weight":
            inflated[name] = _inflate_patch(tensor, method)
        elif name.endswith(TABLE):
            inflated[name] = _inflate_table(tensor, window, method)
    return inflated


def require_method(method: str) -> None:
    """ValueError unless `method` is one of the two."""
    if method not in ("inflate", "center"):
        raise InputError(f"inflate must be 'inflate' or 'center', got {method!r}")


def resize_tables(weights: Mapping[str, Tensor], old: Window, new: Window) -> dict[str, Tensor]:
    """A video model's tensors with bias tables for window `new`: linear in time, bicubic in space."""
    return {
        name: resize_table(tensor, old, new) if name.endswith(TABLE) else tensor
        for name, tensor in weights.items()
    }


def resize_table(table: Tensor, old: Window, new: Window) -> Tensor:
    """((2P-1)(2M-1)(2M-1), heads) for window `old` -> the same for window `new`; offset 0 stays offset 0."""
    if old == new:
        return table
    (t0, h0, w0), (t1, h1, w1) = ([2 * size - 1 for size in window] for window in (old, new))
    if table.ndim != 2 or len(table) != t0 * h0 * w0:
        raise InputError(f"a table for window {old} has {t0 * h0 * w0} rows, got {tuple(table.shape)}")
    values = table.T.float().reshape(-1, t0, h0, w0)  # (heads, dt, dh, dw)
    if (h0, w0) != (h1, w1):
        values = F.interpolate(values, size=(h1, w1), mode="bicubic", align_corners=False)  # dt as channels
    if t0 != t1:
        values = F.interpolate(values.flatten(2).transpose(1, 2), size=t1, mode="linear", align_corners=False)
        values = values.transpose(1, 2)  # (heads, dt, dh * dw)
    return values.reshape(-1, t1 * h1 * w1).T.contiguous().to(table.dtype)


def image_window(weights: Mapping[str, Tensor]) -> int:
    """M of an image model: the side of the window of its first block."""
    for name, table in weights.items():
        if name.endswith(TABLE):
            return _side(table)
    raise InputError(f"there is no {TABLE}, so the window is unknown")


def _inflate_patch(kernel: Tensor, method: Method) -> Tensor:
    """(C, in, 4, 4) -> (C, in, 2, 4, 4) with the same response to a still clip."""
    frames = PATCH[0]
    if kernel.shape[2:] != PATCH[1:]:
        raise InputError(f"tokens are {tuple(kernel.shape[2:])} pixels; ours are {PATCH[1:]}")
    if method == "inflate":
        return kernel.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    centerd = kernel.new_zeros(*kernel.shape[:2], *PATCH)
    centerd[:, :, frames // 2] = kernel
    return centerd


def _inflate_table(table: Tensor, window: Window, method: Method) -> Tensor:
    """((2M-1)(2M-1), heads) -> ((2P-1)(2M-1)(2M-1), heads), resized in space first if M differs."""
    side, (p, m, n) = _side(table), window
    table = resize_table(table, (1, side, side), (1, m, n))
    if method == "inflate":
        return table.repeat(2 * p - 1, 1)
    centerd = table.new_full((2 * p - 1, *table.shape), CROSS_FRAME_BIAS)
    centerd[p - 1] = table
    return centerd.flatten(0, 1)


def _side(table: Tensor) -> int:
    root = math.isqrt(len(table))
    if table.ndim != 2:
        raise InputError(f"a position bias table has rows and heads, got {tuple(table.shape)}")
    if root * root != len(table) or root % 2 == 0:
        raise InputError(f"an image model's position bias table has (2M - 1)^2 rows, got {len(table)}")
    return (root + 1) // 2
