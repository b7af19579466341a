"""Position bias tables: the window they belong to, another window, and inflation of an image model.

Source: Liu et al. 2021, section 3.3 and table 7; inflate_weights in Video-Swin-Transformer,
mmaction/models/backbones/swin_transformer.py.
Legend: P M M window, C channels. The rows of a table are offsets, with time as the slowest axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from videoswin._errors import InputError
from videoswin._text import first_few
from videoswin.model.config import BASE_W16, LARGE_384, NANO, PATCH, TINY
from videoswin.model.windows import relative_position_index
from videoswin.weights.layouts import TABLE

Window = tuple[int, int, int]
"""Tokens along time, height and width."""
Inflation = Literal["average", "center"]
"""How the weights of an image model are distributed over the frames: see `inflate`."""

_PUBLISHED_WINDOWS = tuple(config.window for config in (TINY, BASE_W16, LARGE_384, NANO))
_MAX_TABLE_ROWS = 1 << 18  # no valid config has a table with more rows
CROSS_FRAME_BIAS = -4.6
"""Initial bias between different frames in `center`, about ln 0.01: tokens attend to their own frame."""


def inflate(
    weights: Mapping[str, Tensor], window: Window, inflation: Inflation = "average"
) -> dict[str, Tensor]:
    """Inflate the tensors of an image model (our names, 2D shapes) to those of a video model.

    Only the patch embedding and the bias tables change.

    Args:
        weights: Tensors of the image model.
        window: Attention window (time, height, width) of the video model.
        inflation: `average` divides the patch embedding equally over the frames of a token, and copies the
            bias tables to every time offset, so that a still video has the output of its image. `center` puts
            the patch embedding into the center frame, and each token initially attends almost only to its own
            frame.
    """
    require_inflation(inflation)
    inflated = dict(weights)
    for name, tensor in weights.items():
        if name == "patch_embed.proj.weight":
            inflated[name] = _inflate_patch(tensor, inflation)
        elif name.endswith(TABLE):
            inflated[name] = _inflate_table(tensor, window, inflation)
    return inflated


def require_inflation(inflation: str) -> None:
    """Raise InputError unless `inflation` is `average` or `center`."""
    if inflation not in ("average", "center"):
        raise InputError(f"inflation must be 'average' or 'center', got {inflation!r}")


def resize_tables(weights: Mapping[str, Tensor], old: Window, new: Window) -> dict[str, Tensor]:
    """Resize the bias tables of a model from window `old` to `new`: linear in time, bicubic in space.

    Args:
        weights: Tensors by our names; those that are not bias tables are not changed.
        old: Window of the weights, in tokens along time, height and width.
        new: Window of the result.
    """
    return {
        name: resize_table(tensor, old, new) if name.endswith(TABLE) else tensor
        for name, tensor in weights.items()
    }


def resize_table(table: Tensor, old: Window, new: Window) -> Tensor:
    """Resize one table ((2P-1)(2M-1)(2M-1), heads) from window `old` to `new`; offset 0 stays offset 0.

    Args:
        table: (offsets of `old`, heads).
        old: Window of the table, in tokens along time, height and width.
        new: Window of the result.

    Raises:
        InputError: The table has another number of rows.
    """
    if old == new:
        return table
    (t0, h0, w0), (t1, h1, w1) = ([2 * size - 1 for size in window] for window in (old, new))
    if table.ndim != 2 or len(table) != t0 * h0 * w0:
        raise InputError(f"a table for window {old} must have {t0 * h0 * w0} rows, got {tuple(table.shape)}")
    values = table.T.float().reshape(-1, t0, h0, w0)  # (heads, dt, dh, dw)
    if (h0, w0) != (h1, w1):
        values = F.interpolate(values, size=(h1, w1), mode="bicubic", align_corners=False)  # dt as channels
    if t0 != t1:
        values = F.interpolate(values.flatten(2).transpose(1, 2), size=t1, mode="linear", align_corners=False)
        values = values.transpose(1, 2)  # (heads, dt, dh * dw)
    return values.reshape(-1, t1 * h1 * w1).T.contiguous().to(table.dtype)


def _inflate_patch(kernel: Tensor, inflation: Inflation) -> Tensor:
    """Inflate a kernel (C, in, 4, 4) -> (C, in, 2, 4, 4) with the same response to a still clip."""
    frames = PATCH[0]
    if kernel.shape[2:] != PATCH[1:]:
        raise InputError(f"tokens must be {PATCH[1:]} pixels, got {tuple(kernel.shape[2:])}")
    if inflation == "average":
        return kernel.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    centered = kernel.new_zeros(*kernel.shape[:2], *PATCH)
    centered[:, :, frames // 2] = kernel
    return centered


def _inflate_table(table: Tensor, window: Window, inflation: Inflation) -> Tensor:
    """Inflate a table ((2M-1)(2M-1), heads) -> ((2P-1)(2M-1)(2M-1), heads); resize it first if M differs."""
    side, (p, m, n) = image_window(table), window
    table = resize_table(table, (1, side, side), (1, m, n))
    if inflation == "average":
        return table.repeat(2 * p - 1, 1)
    centered = table.new_full((2 * p - 1, *table.shape), CROSS_FRAME_BIAS)
    centered[p - 1] = table
    return centered.flatten(0, 1)


def window_of_table(rows: int) -> Window:
    """Return the window (P, M, N) whose table has (2P - 1)(2M - 1)(2N - 1) rows.

    It is a published one, or the only one that fits; else InputError is raised.
    """
    windows = _windows_that_fit(rows)
    for window in windows:
        if window in _PUBLISHED_WINDOWS or len(windows) == 1:
            return window
    likely = [window for window in windows if min(window) > 1] or windows
    found = (
        f"{len(windows)} windows fit, such as {first_few([str(window) for window in likely])}; "
        "pass window=(time, height, width)"
        if windows
        else "no window fits"
    )
    raise InputError(f"a position bias table of {rows} rows: {found}")


def window_of_lookup(lookup: Tensor, rows: int) -> Window:
    """Return the window whose (N, N) relative_position_index is `lookup`, for a table of `rows` rows.

    Raise InputError if no window has it.
    """
    for window in _windows_that_fit(rows):
        if math.prod(window) == len(lookup) and torch.equal(
            relative_position_index(window, window), lookup.long().cpu()
        ):
            return window
    raise InputError(
        f"its relative_position_index {tuple(lookup.shape)} and its position bias tables of {rows} rows "
        "fit no window"
    )


def image_window(table: Tensor) -> int:
    """Return M, the side of the M x M window of an image model with this table."""
    root = math.isqrt(len(table))
    if table.ndim != 2:
        raise InputError(f"a position bias table must be (rows, heads), got {tuple(table.shape)}")
    if root * root != len(table) or root % 2 == 0:
        raise InputError(f"an image model's position bias table must have (2M - 1)^2 rows, got {len(table)}")
    return (root + 1) // 2


def _windows_that_fit(rows: int) -> list[Window]:
    """Return every window whose table has this number of rows; none above _MAX_TABLE_ROWS."""
    if rows > _MAX_TABLE_ROWS:
        return []
    odd = [factor for factor in range(1, rows + 1, 2) if rows % factor == 0]
    return [
        ((p + 1) // 2, (m + 1) // 2, (rows // (p * m) + 1) // 2)
        for p, m in itertools.product(odd, odd)
        if rows % (p * m) == 0 and rows // (p * m) % 2
    ]
