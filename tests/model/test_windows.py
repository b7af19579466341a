"""Window geometry equals the roll, partition and mask of Liu et al."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.model.reference import merge, partition, region_mask
from videoswin.model.windows import (
    Boxes,
    Grid,
    WindowGeometry,
    _cached_geometry,
    axis_parts,
    clip_window,
    pad_axes,
    padded_grid,
    relative_position_index,
    sliced_position_index,
    window_geometry,
)

CPU = torch.device("cpu")
grids = st.tuples(*[st.integers(1, 9)] * 3)
windows = st.tuples(*[st.integers(1, 4)] * 3)


@st.composite
def geometries(draw: st.DrawFn) -> WindowGeometry:
    """Any grid, any window, any shift smaller than the window; padded and clipped ones too."""
    window = draw(windows)
    shift = tuple(draw(st.integers(0, size - 1)) for size in window)
    geometry: WindowGeometry = window_geometry(draw(grids), window, shift, draw(st.booleans()), CPU)
    return geometry


def boxes_of(group: Boxes) -> Tensor:
    """(boxes, N): the tokens of each box."""
    return group.tokens.view(-1, len(group.bias_index))


def coordinates(tokens: Tensor, grid: Grid) -> Tensor:
    """(3, ...): place of flattened tokens along time, height and width."""
    return torch.stack(torch.unravel_index(tokens, grid))


@given(geometries())
def test_every_token_is_in_exactly_one_box(geometry: WindowGeometry) -> None:
    tokens = torch.cat([group.tokens for group in geometry.boxes])
    assert torch.equal(tokens.sort().values, torch.arange(math.prod(geometry.grid)))


@given(geometries())
def test_restore_undoes_the_order_of_the_boxes(geometry: WindowGeometry) -> None:
    tokens = torch.cat([group.tokens for group in geometry.boxes])
    assert torch.equal(tokens[geometry.restore], torch.arange(len(tokens)))


@given(geometries())
def test_boxes_are_what_the_mask_lets_see_each_other(geometry: WindowGeometry) -> None:
    tokens = torch.arange(math.prod(geometry.grid)).view(1, *geometry.grid)
    rolled = tokens.roll([-s for s in geometry.shift], dims=(1, 2, 3))
    windows = partition(rolled, geometry.window)[0]  # (windows, N)
    mask = region_mask(geometry.grid, geometry.window, geometry.shift)  # (windows, N, N)
    seen = {
        frozenset(window[row].tolist())
        for window, visible in zip(windows, mask, strict=True)
        for row in visible
    }
    boxes = {frozenset(box.tolist()) for group in geometry.boxes for box in boxes_of(group)}
    assert boxes == seen


@given(geometries())
def test_there_are_at_most_27_shapes_of_box(geometry: WindowGeometry) -> None:
    assert len(geometry.boxes) <= 27


@given(grids, windows)
def test_each_pair_reads_the_bias_of_its_own_offset(grid: Grid, window: Grid) -> None:
    half = (window[0] // 2, window[1] // 2, window[2] // 2)
    geometry = window_geometry(grid, window, half, False, CPU)
    table = torch.cartesian_prod(*[torch.arange(1 - size, size) for size in window])  # (offsets, 3)
    for group in geometry.boxes:
        place = coordinates(boxes_of(group), geometry.grid)  # (3, boxes, N)
        offset = (place[..., :, None] - place[..., None, :]).movedim(0, -1)  # (boxes, N, N, 3)
        assert torch.equal(table[group.bias_index].expand_as(offset), offset)


@given(geometries())
def test_geometry_tells_the_padded_grid_and_the_clipped_window(geometry: WindowGeometry) -> None:
    assert all(size % window == 0 for size, window in zip(geometry.grid, geometry.window, strict=True))
    assert len(geometry.bias_index) == math.prod(geometry.window)
    assert all(
        shift == 0
        for size, window, shift in zip(geometry.grid, geometry.window, geometry.shift, strict=True)
        if size == window
    )


def test_an_axis_that_fits_in_one_window_is_neither_cut_nor_shifted() -> None:
    assert clip_window((16, 7, 4), (16, 7, 7), (8, 3, 3)) == ((16, 7, 4), (0, 0, 0))
    assert clip_window((17, 8, 56), (16, 7, 7), (8, 3, 3)) == ((16, 7, 7), (8, 3, 3))


def test_grids_are_padded_to_whole_windows() -> None:
    assert padded_grid((9, 14, 15), (8, 7, 7)) == (16, 14, 21)


def test_unnecessary_padding_is_skipped() -> None:
    x = torch.ones(1, 2, 3, 4, 5)
    assert pad_axes(x, (2, 3, 4)) is x
    assert pad_axes(x, (2, 4, 6)).sum() == x.sum()


def test_a_shifted_axis_is_a_head_whole_windows_and_a_tail() -> None:
    assert axis_parts(16, 8, 0) == [(0, 16, 8, 0)]
    assert axis_parts(16, 8, 4) == [(0, 4, 4, 4), (4, 12, 8, 0), (12, 16, 4, 0)]
    assert axis_parts(14, 7, 3) == [(0, 3, 3, 4), (3, 10, 7, 0), (10, 14, 4, 0)]


def test_clipping_only_time_makes_sliced_and_exact_bias_the_same() -> None:
    window, full = (3, 4, 4), (8, 4, 4)
    assert torch.equal(sliced_position_index(window, full), relative_position_index(window, full))
    window = (8, 3, 4)
    assert not torch.equal(sliced_position_index(window, full), relative_position_index(window, full))


@given(geometries())
def test_merge_is_the_inverse_of_partition(geometry: WindowGeometry) -> None:
    x = torch.arange(2 * math.prod(geometry.grid)).view(2, *geometry.grid, 1)
    windows = partition(x, geometry.window)
    assert windows.shape[2] == math.prod(geometry.window)
    assert torch.equal(merge(windows, geometry.window, geometry.grid), x)


def test_at_the_published_size_shifted_windows_fall_into_18_shapes() -> None:
    geometry = window_geometry((16, 56, 56), (8, 7, 7), (4, 3, 3), False, CPU)
    assert sorted({len(group.bias_index) for group in geometry.boxes})[-1] == 392
    assert len(geometry.boxes) == 2 * 3 * 3  # halves of 8 are alike, 3 and 4 of 7 are not


def test_the_cache_answers_again_and_is_bounded() -> None:
    first = window_geometry((4, 8, 8), (4, 4, 4), (2, 2, 2), False, CPU)
    assert window_geometry((4, 8, 8), (4, 4, 4), (2, 2, 2), False, CPU) is first
    for size in range(1, 60):
        window_geometry((1, 1, size), (2, 2, 2), (1, 1, 1), False, CPU)
    assert _cached_geometry.cache_info().currsize <= 32


def test_constants_made_under_inference_mode_can_be_trained_with() -> None:
    _cached_geometry.cache_clear()
    with torch.inference_mode():
        geometry = window_geometry((2, 3, 4), (2, 2, 2), (1, 1, 1), False, CPU)
    assert not geometry.restore.is_inference()
    assert not any(group.tokens.is_inference() or group.bias_index.is_inference() for group in geometry.boxes)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_constants_are_on_the_device_asked_for_whatever_the_default(device: str) -> None:
    _cached_geometry.cache_clear()
    with torch.device("meta"):
        geometry = window_geometry((2, 3, 4), (2, 2, 2), (1, 1, 1), False, torch.device(device))
    assert geometry.restore.device.type == geometry.bias_index.device.type == device
