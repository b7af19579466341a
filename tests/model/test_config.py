"""Invalid configs are refused, and valid ones survive a JSON round trip."""

import dataclasses
import json
import math
from typing import Any

import pytest

from videoswin.model.config import BASE, BASE_W16, LARGE, LARGE_384, NANO, SMALL, TINY, VideoSwinConfig

VARIANTS = [TINY, SMALL, BASE, BASE_W16, LARGE, LARGE_384, NANO]


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_config_survives_json(config: VideoSwinConfig) -> None:
    assert VideoSwinConfig(**json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_every_head_has_32_channels(config: VideoSwinConfig) -> None:
    assert {config.stage_dim(i) // heads for i, heads in enumerate(config.num_heads)} == {32}


@pytest.mark.parametrize(
    ("field", "value", "came"),
    [
        ("embed_dim", 0, "0"),
        ("embed_dim", math.nan, "nan"),
        ("embed_dim", 96.0, "96.0"),
        ("embed_dim", True, "True"),
        ("depths", (2, 2, math.nan, 2), "nan"),
        ("depths", (2, 2, 0, 2), "0"),
        ("depths", math.nan, "nan"),
        ("depths", "2262", "'2262'"),
        ("num_heads", (3, 6, 12, -24), "-24"),
        ("num_heads", None, "None"),
        ("window", (8, 7, math.inf), "inf"),
        ("window", 7, "7"),
        ("num_classes", 0, "0"),
        ("num_classes", "400", "'400'"),
        ("in_channels", 0, "0"),
        ("in_channels", 5, "5"),
        ("sliced_bias", math.nan, "nan"),
        ("sliced_bias", 1, "1"),
        ("embed_dim", 10**9, "1000000000"),
        ("embed_dim", 10**400, "1000.*"),
        ("depths", (2, 2, 10**9, 2), "1000000000"),
        ("depths", {"2": 2}, "{'2': 2}"),
        ("depths", (2, [2], 6, 2), r"\[2\]"),
        ("num_heads", (3, 6, 12, 10**9), "1000000000"),
        ("window", (8, 7, 10**9), "1000000000"),
        ("window", (), r"\(\)"),
        ("num_classes", 10**9, "1000000000"),
        ("num_classes", True, "True"),
    ],
)
def test_bad_values_are_named_with_what_came(field: str, value: Any, came: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {came}$"):
        TINY.replace(**{field: value})


def test_stages_must_agree() -> None:
    with pytest.raises(ValueError, match=r"must have the same length, 1 to 8, got \(2, 2\) and \(3,\)"):
        TINY.replace(depths=(2, 2), num_heads=(3,))
    for stages in (0, 9, 10**6):
        with pytest.raises(ValueError, match="must have the same length, 1 to 8"):
            TINY.replace(depths=(1,) * stages, num_heads=(1,) * stages)


def test_position_bias_of_a_window_has_a_bound() -> None:
    assert LARGE.replace(window=(32, 12, 12)).window == (32, 12, 12)
    with pytest.raises(ValueError, match=r"window \(1, 256, 256\) must have at most 1073741824 pairs"):
        TINY.replace(window=(1, 256, 256))


def test_window_has_three_axes() -> None:
    with pytest.raises(ValueError, match=r"window must be \(time, height, width\), got \(7, 7\)"):
        TINY.replace(window=(7, 7))


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match=r"channels of stage 1 must be .* got 192, not divisible by 5 heads"):
        TINY.replace(num_heads=(3, 5, 12, 24))


def test_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.num_classes = 10  # type: ignore[misc]
    assert TINY.replace(num_classes=10).num_classes == 10
