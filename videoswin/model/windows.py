"""How a grid of tokens is cut into attention windows: pure geometry, no learned numbers.

Legend: B batch, D H W grid of tokens along time, height and width, C channels, P M M window, N tokens a box.

Liu et al. describe shifted windows as a cyclic roll, a plain partition and a mask: the last window along an
axis then holds both ends of that axis, which must not see each other. Without the roll the same thing is
simpler: the axis is cut at shifted places, and its two ends are just shorter pieces.

    plain    |0 1 2 3 4 5 6 7|8 9 . . . . . 15|            two windows of 8
    shifted  |0 1 2 3|4 5 6 7 8 9 10 11|12 . . 15|         a head of 4, one window of 8, a tail of 4

Windows become boxes of at most three lengths per axis; boxes of one shape are attended to together and share
one bias. Nothing is rolled, no mask exists, and the masked pairs are never computed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Grid = tuple[int, int, int]
"""Sizes or offsets along (time, height, width)."""


@dataclass(frozen=True)
class Boxes:
    """All boxes of one shape on one grid."""

    tokens: Tensor
    """(boxes * N) int64: the token of the flattened grid at each place, box by box, row-major inside."""
    bias_index: Tensor
    """(N, N) int64: row of the bias table for each pair (query, key) of one box."""


@dataclass(frozen=True)
class WindowGeometry:
    """Everything one block needs to know about one grid; its tensors are shared, never written to."""

    grid: Grid
    """Tokens along each axis, padding included."""
    window: Grid
    """The window, clipped to the grid."""
    shift: Grid
    """Tokens by which the cuts are moved; 0 where one window covers the axis."""
    boxes: tuple[Boxes, ...]
    """Every token is in exactly one box of one of these."""
    restore: Tensor
    """(D * H * W) int64: where each token of the grid stands in the concatenation of all boxes."""
    bias_index: Tensor
    """(N, N) int64: row of the bias table for each pair of a whole window."""


def clip_window(grid: Grid, window: Grid, shift: Grid) -> tuple[Grid, Grid]:
    """Window and shift as used on `grid`: an axis that fits in one window is not cut, hence not shifted."""
    clipped = [(min(g, w), 0 if g <= w else s) for g, w, s in zip(grid, window, shift, strict=True)]
    (d, sd), (h, sh), (w, sw) = clipped
    return (d, h, w), (sd, sh, sw)


def padded_grid(grid: Grid, window: Grid) -> Grid:
    """`grid` rounded up to whole windows; `window` as clipped by `clip_window`."""
    d, h, w = (-(-g // size) * size for g, size in zip(grid, window, strict=True))
    return d, h, w


def pad_axes(x: Tensor, sizes: Grid, first: int = 1) -> Tensor:
    """`x` with three axes from `first` on grown to `sizes` by zeros at their far ends; else `x` itself."""
    # Not F.pad: other runtimes pad no more than four axes.
    for axis, size in enumerate(sizes, first):
        if missing := size - x.shape[axis]:
            zeros = x.new_zeros([*x.shape[:axis], missing, *x.shape[axis + 1 :]])
            x = torch.cat([x, zeros], dim=axis)
    return x


def axis_pieces(length: int, window: int, shift: int) -> list[tuple[int, int, int]]:
    """Cuts of one axis as (start, length, offset in the window); `length` is a multiple of `window`.

    With a shift, the tail is the front of the last window and the head its back, as after a cyclic roll.
    """
    if shift == 0:
        return [(start, window, 0) for start in range(0, length, window)]
    whole = [(start, window, 0) for start in range(shift, length - window + shift, window)]
    return [(0, shift, window - shift), *whole, (length - window + shift, window - shift, 0)]


def bias_table_rows(window: Grid) -> int:
    """Rows of a bias table: one per offset (dt, dh, dw) between two tokens of a window."""
    p, m, n = window
    return (2 * p - 1) * (2 * m - 1) * (2 * n - 1)


def relative_position_index(window: Grid, full_window: Grid) -> Tensor:
    """(N, N) row of the bias table for each pair (query, key) of a window, N = product of `window`.

    The table has one row per offset (dt, dh, dw) inside `full_window`, time slowest:
    (2P - 1) * (2M - 1) * (2M - 1) rows. A window clipped to a small grid uses the middle of the table.
    """
    axes = [torch.arange(size) for size in window]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)  # (3, N)
    offset = position[:, :, None] - position[:, None, :]  # (3, N, N), query minus key
    dt, dh, dw = (offset[axis] + full - 1 for axis, full in enumerate(full_window))
    _, full_h, full_w = full_window
    return (dt * (2 * full_h - 1) + dh) * (2 * full_w - 1) + dw  # (N, N)


def sliced_position_index(window: Grid, full_window: Grid) -> Tensor:
    """As `relative_position_index`, but the first N rows and columns of the full window's, as the peers do.

    Right when only time is clipped; otherwise pairs read the bias of another offset
    (Video-Swin-Transformer mmaction/models/backbones/swin_transformer.py: relative_position_index[:N, :N]).
    """
    n = window[0] * window[1] * window[2]
    return relative_position_index(full_window, full_window)[:n, :n]


def window_geometry(
    grid: Grid, window: Grid, shift: Grid, sliced_bias: bool, device: torch.device
) -> WindowGeometry:
    """The boxes of one block on `grid` (before padding); window and shift as configured; cached."""
    # torch.export runs us inside modes that would make symbolic tensors, and the cache would keep those.
    with _disable_current_modes():
        return _cached_geometry(grid, window, shift, sliced_bias, device)


# torch.compile must take the result as it is instead of tracing how it was made. This is all that
# torch.compiler.assume_constant_result does, but that imports torch._dynamo, which takes seconds and makes a
# folder in the temporary directory.
window_geometry._dynamo_marked_constant = True  # type: ignore[attr-defined]


# Bounded: a geometry of Swin-L at 384 px holds some 25 MB; a model at one input size needs two per stage.
@lru_cache(maxsize=32)
def _cached_geometry(
    grid: Grid, window: Grid, shift: Grid, sliced_bias: bool, device: torch.device
) -> WindowGeometry:
    # Constants made under inference_mode could not take part in a later training step.
    with torch.inference_mode(False), torch.device("cpu"):
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
    """Boxes grouped by where they lie in their window, at most 27 groups.

    `merge_ends`: the bias depends on offsets alone, so a head and a tail of equal length are one shape.
    """
    token = torch.arange(grid[0] * grid[1] * grid[2]).view(grid)  # (D, H, W)
    place = torch.arange(window[0] * window[1] * window[2]).view(window)  # (P, M, M)
    groups: dict[tuple[tuple[int, int], ...], list[Tensor]] = {}
    axes = [axis_pieces(*axis) for axis in zip(grid, window, shift, strict=True)]
    for pieces in itertools.product(*axes):
        cut = tuple(slice(start, start + length) for start, length, _ in pieces)
        key = tuple((0 if merge_ends else offset, length) for _, length, offset in pieces)
        groups.setdefault(key, []).append(token[cut].flatten())
    boxes = []
    for key, tokens in groups.items():
        inside = place[tuple(slice(offset, offset + length) for offset, length in key)].flatten()  # (N)
        boxes.append(Boxes(torch.cat(tokens), window_index[inside][:, inside]))
    return boxes


def partition(x: Tensor, window: Grid) -> Tensor:
    """(B, D, H, W, ...) -> (B, windows, P * M * M, ...), row-major; D, H, W are multiples of `window`."""
    b, *grid = x.shape[:4]
    counts = [g // w for g, w in zip(grid, window, strict=True)]
    x = x.reshape(b, counts[0], window[0], counts[1], window[1], counts[2], window[2], *x.shape[4:])
    x = x.movedim((2, 4, 6), (4, 5, 6))  # (B, nD, nH, nW, P, M, M, ...)
    return x.flatten(4, 6).flatten(1, 3)


def merge(windows: Tensor, window: Grid, grid: Grid) -> Tensor:
    """(B, windows, P * M * M, ...) -> (B, D, H, W, ...): the inverse of `partition`."""
    counts = [g // w for g, w in zip(grid, window, strict=True)]
    x = windows.reshape(windows.shape[0], *counts, *window, *windows.shape[3:])
    x = x.movedim((4, 5, 6), (2, 4, 6))  # (B, nD, P, nH, M, nW, M, ...)
    return x.flatten(5, 6).flatten(3, 4).flatten(1, 2)


def region_mask(grid: Grid, window: Grid, shift: Grid) -> Tensor:
    """(windows, N, N) bool: which pairs of a rolled and partitioned grid may see each other (Liu et al.)."""
    region = torch.zeros(grid, dtype=torch.int64)
    for axis, (length, size, moved) in enumerate(zip(grid, window, shift, strict=True)):
        place = torch.arange(length)
        # After the roll the last `moved` places of the axis hold its beginning.
        wrapped = (place >= length - moved) if moved else torch.zeros(length, dtype=torch.bool)
        view = [1, 1, 1]
        view[axis] = length
        region = region * 2 + wrapped.view(view).long()
        assert length % size == 0, "pad first"
    windows = partition(region[None], window)[0]  # (windows, N)
    return windows[:, :, None] == windows[:, None, :]
