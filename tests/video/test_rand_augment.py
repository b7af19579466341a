import numpy as np
import pytest
import torch

from videoswin.video.rand_augment import (
    FILL,
    OPERATIONS,
    rand_augment,
    rotate,
    shear_x,
    translate_x,
    translate_y,
)


def frames_tchw(count=3, height=20, width=24):
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (1, 3, 3, 3), dtype=np.uint8)
    frames = torch.nn.functional.interpolate(
        torch.from_numpy(smooth).float(), (height, width), mode="bilinear"
    )
    return frames.to(torch.uint8).expand(count, -1, -1, -1).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("sign", [1, -1])
def test_every_operation_keeps_shape_type_layout_and_its_input(name, sign):
    frames = frames_tchw()
    before = frames.clone()
    operation = OPERATIONS[name]
    for level in (0.0, 0.35, 1.0):
        changed = operation.apply(frames, operation.amount(level, sign))
        assert changed.shape == frames.shape
        assert changed.dtype == torch.uint8
        assert changed.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(changed, changed[:1].expand_as(changed))  # the frames were equal
        assert torch.equal(frames, before)


GENTLE = [name for name in OPERATIONS if name not in {"autocontrast", "equalize", "invert", "posterize"}]


@pytest.mark.parametrize("name", GENTLE)
def test_what_has_a_strength_does_nothing_at_magnitude_0_and_much_at_10(name):
    frames = frames_tchw()
    operation = OPERATIONS[name]
    assert torch.equal(operation.apply(frames, operation.amount(0.0, 1)), frames)
    strongest = operation.apply(frames, operation.amount(1.0, 1))
    assert not torch.equal(strongest, frames)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if OPERATIONS[name].both_ways])
def test_a_signed_strength_lies_as_far_on_either_side(name):
    operation = OPERATIONS[name]
    above, below = operation.amount(0.7, 1), operation.amount(0.7, -1)
    assert above - operation.weakest == pytest.approx(operation.weakest - below)
    assert above != below


def test_rotation_is_counterclockwise_about_the_center():
    frames = torch.full((1, 3, 21, 21), 50, dtype=torch.uint8)
    frames[:, :, 10, 18] = 250  # right of the center
    turned = rotate(frames, 90.0)
    assert int(turned[0, 0].argmax()) == 2 * 21 + 10  # above it
    assert int(turned[0, 0, 2, 10]) == 250


def test_what_was_outside_is_gray_and_sharply_cut():
    white = torch.full((2, 3, 10, 12), 255, dtype=torch.uint8)
    right = translate_x(white, 0.25)
    assert (right[..., :3] == FILL).all()
    assert (right[..., 3:] == 255).all()
    up = translate_y(white, -0.2)
    assert (up[..., 8:, :] == FILL).all()
    assert (up[..., :8, :] == 255).all()
    corner = rotate(white, 30.0)[0, 0, 0, 0]
    assert int(corner) == FILL


def test_shearing_moves_rows_by_their_distance_from_the_top():
    frames = torch.full((1, 3, 12, 12), 10, dtype=torch.uint8)
    frames[..., 9] = 210
    sheared = shear_x(frames, 0.5)
    # Half a pixel down the first row is 0.25 to the left, the last one 5.75.
    assert sheared[0, 0, 0].tolist()[8:10] == [60, 160]
    assert sheared[0, 0, 11].tolist()[3:5] == [160, 60]


class Told:
    """Draws these operations, each done, at the magnitude itself and with a plus."""

    def __init__(self, *names):
        self.names = names

    def choice(self, names, count):
        assert set(self.names) <= set(names)
        assert count == len(self.names)
        return self.names

    def normal(self, magnitude, spread):
        return magnitude

    def random(self):
        return 0.49 if self.coin() else 0.5

    def coin(self):
        self.turn = not getattr(self, "turn", False)
        return self.turn  # done, plus, done, plus


def test_operations_are_done_in_the_order_drawn():
    frames = frames_tchw()
    ours = rand_augment(frames, 2, 5.0, Told("solarize", "rotate"))
    in_order = rotate(OPERATIONS["solarize"].apply(frames, 128.0), 15.0)
    assert torch.equal(ours, in_order)
    assert not torch.equal(ours, rand_augment(frames, 2, 5.0, Told("rotate", "solarize")))


def test_half_of_the_operations_drawn_are_done():
    frames = frames_tchw(count=1)
    rng = np.random.default_rng(0)
    untouched = sum(torch.equal(rand_augment(frames, 1, 10.0, rng), frames) for _ in range(400))
    assert 170 < untouched < 260
    rng = np.random.default_rng(0)
    untouched = sum(torch.equal(rand_augment(frames, 4, 10.0, rng), frames) for _ in range(400))
    assert untouched < 60


def test_no_operation_is_nothing():
    frames = frames_tchw()
    assert rand_augment(frames, 0, 7.0, np.random.default_rng(0)) is frames


def test_the_magnitude_spreads_by_half_and_stays_within_0_and_10(monkeypatch):
    amounts = {name: [] for name in OPERATIONS}

    class Noted:
        def __init__(self, name):
            self.name = name

        def amount(self, level, sign):
            amounts[self.name].append((level, sign))
            return 0.0

        def apply(self, frames, amount):
            return frames

    monkeypatch.setattr("videoswin.video.rand_augment.OPERATIONS", {name: Noted(name) for name in OPERATIONS})
    rng = np.random.default_rng(0)
    for magnitude in (7.0, 9.9, 0.0):
        for _ in range(1000):
            rand_augment(frames_tchw(1, 2, 2), 4, magnitude, rng)
        drawn = [pair for name in amounts for pair in amounts[name]]
        levels, signs = np.array(drawn).T
        assert len(drawn) == pytest.approx(2000, abs=150)
        assert min(map(len, amounts.values())) > 80
        assert abs(signs.mean()) < 0.1
        assert levels.min() >= 0
        assert levels.max() <= 1
        if magnitude == 7.0:
            assert levels.mean() == pytest.approx(0.7, abs=0.01)
            assert levels.std() == pytest.approx(0.05, abs=0.005)
        amounts = {name: [] for name in OPERATIONS}
