"""Partition a grid of tokens into attention windows; this is geometry without parameters.

Legend: B batch, D H W grid of tokens along time, height and width, C channels, P M M window, N tokens per
window or box.

Liu et al. describe shifted windows as a cyclic roll, a regular partition and a mask: after the roll, the last
window along an axis has both ends of that axis, which must not attend to each other. Here there is no roll:
the axis is cut at shifted positions, and its two ends are shorter pieces.

    regular  |0 1 2 3 4 5 6 7|8 9 . . . . . 15|            two windows of 8
    shifted  |0 1 2 3|4 5 6 7 8 9 10 11|12 . . 15|         a head of 4, one window of 8, a tail of 4

Windows become boxes with at most three different lengths per axis. Boxes of one shape are attended to
together and share one position bias. The pairs that a mask would exclude are never computed.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Grid = tuple[int, int, int]
"""Sizes or offsets along (time, height, width)."""


@dataclass(frozen=True)
class Boxes:
    """All boxes of one shape on one grid."""

    tokens: Tensor
    """(boxes * N) int64: indices into the flattened grid, box after box, row-major inside a box."""
    bias_index: Tensor
    """(N, N) int64: row of the bias table for each pair (query, key) of one box."""


@dataclass(frozen=True)
class WindowGeometry:
    """The window partition of one block on one grid; its tensors are shared and must not be modified."""

    grid: Grid
    """Tokens along each axis, padding included."""
    window: Grid
    """The window, clipped to the grid."""
    shift: Grid
    """Shift of the windows in tokens; 0 where one window covers the axis."""
    boxes: tuple[Boxes, ...]
    """All boxes, grouped by shape; every token is in exactly one box."""
    restore: Tensor
    """(D * H * W) int64: position of each token of the grid in the concatenation of all boxes."""
    bias_index: Tensor
    """(N, N) int64: row of the bias table for each pair (query, key) of a complete window."""


def clip_window(grid: Grid, window: Grid, shift: Grid) -> tuple[Grid, Grid]:
    """Return window and shift for this grid; an axis that fits in one window is neither cut nor shifted.

    Args:
        grid: Tokens along time, height and width.
        window: Tokens of a window along the same axes.
        shift: Shift of the windows in tokens along the same axes.
    """
    clipped = [(min(g, w), 0 if g <= w else s) for g, w, s in zip(grid, window, shift, strict=True)]
    (d, sd), (h, sh), (w, sw) = clipped
    return (d, h, w), (sd, sh, sw)


def padded_grid(grid: Grid, window: Grid) -> Grid:
    """Round the grid up to whole windows; `window` is the result of `clip_window`."""
    d, h, w = (-(-g // size) * size for g, size in zip(grid, window, strict=True))
    return d, h, w


def pad_axes(x: Tensor, sizes: Grid, first: int = 1) -> Tensor:
    """Zero-pad three axes, starting with `first`, to `sizes` at their ends; return `x` if nothing changes.

    Args:
        x: Tensor, such as tokens (B, D, H, W, C).
        sizes: New sizes of the three axes, not smaller than the old ones.
        first: Index of the first padded axis.
    """
    # Not F.pad: other runtimes pad at most four axes.
    for axis, size in enumerate(sizes, first):
        if missing := size - x.shape[axis]:
            zeros = x.new_zeros([*x.shape[:axis], missing, *x.shape[axis + 1 :]])
            x = torch.cat([x, zeros], dim=axis)
    return x


def axis_parts(length: int, window: int, shift: int) -> list[tuple[int, int, int, int]]:
    """Cut one axis into a head, whole windows and a tail; `length` is a multiple of `window`.

    The tail is the first part of the last window and the head its second part, as after a cyclic roll.

    Args:
        length: Tokens along the axis.
        window: Tokens of a window.
        shift: Shift of the windows in tokens, 0 <= shift < window.

    Returns:
        (start, stop, length of a piece, offset of a piece in its window) of each part: one without a shift.
    """
    if shift == 0:
        return [(0, length, window, 0)]
    tail = length - window + shift
    return [(0, shift, shift, window - shift), (shift, tail, window, 0), (tail, length, window - shift, 0)]


def bias_table_rows(window: Grid) -> int:
    """Return the rows of a bias table: one per offset (dt, dh, dw) between two tokens of a window."""
    p, m, n = window
    return (2 * p - 1) * (2 * m - 1) * (2 * n - 1)


def relative_position_index(window: Grid, full_window: Grid) -> Tensor:
    """Return (N, N): the row of the bias table for each pair (query, key) of a window.

    Args:
        window: Window, possibly clipped to a small grid; it then uses the middle rows of the table.
        full_window: Window of the table, which has (2P - 1) * (2M - 1) * (2M - 1) rows, one per offset
            (dt, dh, dw), with time as the slowest axis.
    """
    axes = [torch.arange(size) for size in window]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)  # (3, N)
    offset = position[:, :, None] - position[:, None, :]  # (3, N, N), query minus key
    dt, dh, dw = (offset[axis] + full - 1 for axis, full in enumerate(full_window))
    _, full_h, full_w = full_window
    return (dt * (2 * full_h - 1) + dh) * (2 * full_w - 1) + dw  # (N, N)


def sliced_position_index(window: Grid, full_window: Grid) -> Tensor:
    """Return the first N rows and columns of the full window's relative_position_index.

    It is correct if only time is clipped; otherwise pairs use the bias of another offset.

    Source: relative_position_index[:N, :N] in Video-Swin-Transformer,
    mmaction/models/backbones/swin_transformer.py.
    """
    n = window[0] * window[1] * window[2]
    return relative_position_index(full_window, full_window)[:n, :n]


def window_geometry(
    grid: Grid, window: Grid, shift: Grid, sliced_bias: bool, device: torch.device
) -> WindowGeometry:
    """Return the cached geometry of one block on `grid`, both before clipping and padding.

    Args:
        grid: Tokens along time, height and width.
        window: Tokens of a window along the same axes.
        shift: Shift of the windows in tokens along the same axes.
        sliced_bias: Whether clipped windows use `sliced_position_index` instead of `relative_position_index`.
        device: Device of the tensors.
    """
    if torch.compiler.is_dynamo_compiling():
        return _geometry(grid, window, shift, sliced_bias, device)
    return _cached_geometry(grid, window, shift, sliced_bias, device)


# Bounded: a geometry of Swin-L at 384 px takes about 25 MB; a model needs two per stage and input size.
@lru_cache(maxsize=32)
def _cached_geometry(
    grid: Grid, window: Grid, shift: Grid, sliced_bias: bool, device: torch.device
) -> WindowGeometry:
    # Inference mode, a default device and the modes of torch.export belong to the thread that set them, and
    # tensors created in them must not enter the cache.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_geometry, grid, window, shift, sliced_bias, device).result()


def _geometry(
    grid: Grid, window: Grid, shift: Grid, sliced_bias: bool, device: torch.device
) -> WindowGeometry:
    clipped, shift = clip_window(grid, window, shift)
    grid = padded_grid(grid, clipped)
    index_of = sliced_position_index if sliced_bias else relative_position_index
    window_index = index_of(clipped, window)  # (N, N)
    boxes = _boxes_by_shape(grid, clipped, shift, window_index, merge_ends=not sliced_bias)
    order = torch.cat([b.tokens for b in boxes])
    return WindowGeometry(
        grid=grid,
        window=clipped,
        shift=shift,
        boxes=tuple(Boxes(b.tokens.to(device), b.bias_index.to(device)) for b in boxes),
        restore=torch.argsort(order).to(device),
        bias_index=window_index.to(device),
    )


def _boxes_by_shape(
    grid: Grid, window: Grid, shift: Grid, window_index: Tensor, merge_ends: bool
) -> list[Boxes]:
    """Group the boxes by their position in their window, at most 27 groups.

    With `merge_ends`, a head and a tail of equal length are one group, because the bias depends only on
    offsets.
    """
    token = torch.arange(grid[0] * grid[1] * grid[2]).view(grid)  # (D, H, W)
    position = torch.arange(window[0] * window[1] * window[2]).view(window)  # (P, M, M)
    groups: dict[tuple[tuple[int, int], ...], list[Tensor]] = {}
    axes = [axis_parts(*axis) for axis in zip(grid, window, shift, strict=True)]
    for parts in itertools.product(*axes):
        region = token[tuple(slice(start, stop) for start, stop, _, _ in parts)]
        p, m, n = (length for _, _, length, _ in parts)
        d, h, w = region.shape
        pieces = region.reshape(d // p, p, h // m, m, w // n, n).permute(0, 2, 4, 1, 3, 5)
        key = tuple((0 if merge_ends else offset, length) for _, _, length, offset in parts)
        groups.setdefault(key, []).append(pieces.reshape(-1, p * m * n))  # (boxes, N)
    boxes = []
    for key, tokens in groups.items():
        merged = torch.cat(tokens)  # (boxes, N)
        merged = merged[merged[:, 0].argsort()]  # in the order of the grid
        inside = position[tuple(slice(offset, offset + length) for offset, length in key)].flatten()  # (N)
        boxes.append(Boxes(merged.flatten(), window_index[inside][:, inside]))
    return boxes
