import math
import re

import pytest
import torch

from videoswin.model.config import BASE, BASE_W16, LARGE, LARGE_384, NANO, SMALL, TINY
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import relative_position_index
from videoswin.weights.infer import (
    describe_gaps,
    infer_config,
    parameter_shapes,
    window_of_lookup,
    window_of_table,
)

VARIANTS = [TINY, SMALL, BASE, BASE_W16, LARGE, LARGE_384, NANO, TINY.replace(num_classes=174, in_channels=1)]


def shapes_only(config):
    return {name: torch.empty(shape, device="meta") for name, shape in parameter_shapes(config).items()}


def test_layout_is_that_of_the_model(config):
    model = VideoSwin(config)
    assert parameter_shapes(config) == {
        name: tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("config", VARIANTS)
def test_every_variant_is_recognized_by_its_shapes(config):
    assert infer_config(shapes_only(config)) == config


@pytest.mark.parametrize(
    ("rows", "window"),
    [
        (2535, (8, 7, 7)),
        (5239, (16, 7, 7)),
        (7935, (8, 12, 12)),
        (343, (4, 4, 4)),
        (1, (1, 1, 1)),
    ],
)
def test_window_follows_from_the_table(rows, window):
    assert window_of_table(rows) == window


@pytest.mark.parametrize("rows", [225, 539, 75, 169])
def test_ambiguous_window_must_be_passed(rows):
    with pytest.raises(ValueError, match=rf"{rows} rows: \d+ windows fit, .*pass window="):
        window_of_table(rows)


@pytest.mark.parametrize("window", [(4, 4, 6), (4, 6, 4), (6, 4, 4), (8, 7, 7), (1, 8, 8), (5, 3, 3)])
def test_lookup_tells_windows_with_equal_tables_apart(window):
    rows = math.prod(2 * size - 1 for size in window)
    assert window_of_lookup(relative_position_index(window, window), rows) == window


def test_table_that_no_window_has_is_an_error():
    with pytest.raises(ValueError, match="170 rows: no window fits"):
        window_of_table(170)


def test_table_longer_than_any_valid_one_fits_no_window_and_takes_no_time():
    with pytest.raises(ValueError, match="1000000000001 rows: no window fits"):
        window_of_table(10**12 + 1)


def test_gaps_are_named(config, weights):
    assert describe_gaps(weights, config) == ""
    del weights["stages.1.blocks.0.norm2.bias"]
    weights["norm.weight"] = torch.zeros(3)
    gaps = describe_gaps(weights, config)
    assert "1 of 63 tensors are missing: stages.1.blocks.0.norm2.bias" in gaps
    assert "norm.weight must be (64,), got (3,)" in gaps


def test_half_a_head_is_a_gap(config, weights):
    del weights["head.weight"]
    assert re.search(r"missing: head.weight", describe_gaps(weights, config))
