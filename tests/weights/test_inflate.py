import math

import pytest
import torch
import torch.nn.functional as F

from videoswin.model.windows import relative_position_index
from videoswin.weights.inflate import (
    CROSS_FRAME_BIAS,
    image_window,
    inflate,
    resize_table,
    window_of_lookup,
    window_of_table,
)

WINDOW = (4, 7, 7)


@pytest.fixture
def image_weights():
    generator = torch.Generator().manual_seed(1)
    return {
        "patch_embed.proj.weight": torch.randn(8, 3, 4, 4, generator=generator),
        "patch_embed.proj.bias": torch.randn(8, generator=generator),
        "stages.0.blocks.0.attn.relative_position_bias_table": torch.randn(13 * 13, 2, generator=generator),
    }


@pytest.mark.parametrize("inflation", ["average", "center"])
def test_inflated_patch_embedding_gives_a_still_clip_what_the_image_gave(image_weights, inflation):
    image = torch.rand(1, 3, 4, 4)
    clip = image.unsqueeze(2).repeat(1, 1, 2, 1, 1)
    kernel = inflate(image_weights, WINDOW, inflation)["patch_embed.proj.weight"]
    theirs = F.conv2d(image, image_weights["patch_embed.proj.weight"]).flatten()
    torch.testing.assert_close(F.conv3d(clip, kernel).flatten(), theirs)


def test_center_looks_at_the_second_of_two_frames_only(image_weights):
    kernel = inflate(image_weights, WINDOW, "center")["patch_embed.proj.weight"]
    assert kernel[:, :, 0].abs().sum() == 0
    assert torch.equal(kernel[:, :, 1], image_weights["patch_embed.proj.weight"])


def test_inflated_table_has_the_image_bias_at_every_time_offset(image_weights):
    (name,) = (name for name in image_weights if name.endswith("table"))
    table = inflate(image_weights, WINDOW)[name].view(7, 13 * 13, 2)
    assert all(torch.equal(rows, image_weights[name]) for rows in table)


def test_centered_table_has_the_image_bias_within_a_frame_and_a_small_bias_elsewhere(image_weights):
    (name,) = (name for name in image_weights if name.endswith("table"))
    table = inflate(image_weights, WINDOW, "center")[name].view(7, 13 * 13, 2)
    assert torch.equal(table[3], image_weights[name])
    assert (table[[0, 1, 2, 4, 5, 6]] == CROSS_FRAME_BIAS).all()


def test_table_of_another_image_window_is_resized_as_the_official_code_does(image_weights):
    (name,) = (name for name in image_weights if name.endswith("table"))
    table = inflate(image_weights, (2, 12, 12))[name].view(3, 23 * 23, 2)
    theirs = F.interpolate(image_weights[name].T.view(1, 2, 13, 13), size=(23, 23), mode="bicubic")
    torch.testing.assert_close(table[0], theirs.view(2, -1).T)


def test_same_window_leaves_the_very_tensor(image_weights):
    table = torch.randn(15 * 13 * 13, 3)
    assert resize_table(table, (8, 7, 7), (8, 7, 7)) is table


def test_time_is_resized_linearly_and_offset_zero_stays():
    ramp = torch.arange(-7.0, 8.0)  # bias = time offset
    table = ramp.repeat_interleave(13 * 13)[:, None]
    longer = resize_table(table, (8, 7, 7), (16, 7, 7)).view(31, 13 * 13)
    assert torch.equal(longer[:, 0], longer[:, 100])
    torch.testing.assert_close(longer[15, 0], torch.tensor(0.0))
    steps = longer[1:-1, 0].diff()
    torch.testing.assert_close(steps, torch.full_like(steps, 15 / 31))


def test_resizing_keeps_the_dtype_and_mirrors_with_the_table():
    table = torch.randn(3 * 5 * 5, 2, dtype=torch.bfloat16)
    resized = resize_table(table, (2, 3, 3), (4, 5, 5))
    assert resized.dtype == torch.bfloat16
    torch.testing.assert_close(resize_table(table.flip(0), (2, 3, 3), (4, 5, 5)), resized.flip(0))


def test_wrong_input_is_named(image_weights):
    with pytest.raises(ValueError, match="must be 'average' or 'center', got 'repeat'"):
        inflate(image_weights, WINDOW, "repeat")
    with pytest.raises(ValueError, match="must have 75 rows, got"):
        resize_table(torch.zeros(10, 2), (2, 3, 3), (4, 3, 3))
    with pytest.raises(ValueError, match=r"\(2M - 1\)\^2 rows, got 170"):
        image_window(torch.zeros(170, 1))
    image_weights["patch_embed.proj.weight"] = torch.zeros(8, 3, 2, 2)
    with pytest.raises(ValueError, match=r"tokens must be \(4, 4\) pixels, got \(2, 2\)"):
        inflate(image_weights, WINDOW)


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
