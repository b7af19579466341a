"""Learning rate and weight decay of each kind of parameter, the schedule, and the initialization."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from videoswin.model.config import NANO, VideoSwinConfig
from videoswin.model.swin import VideoSwin, initialize_from_scratch
from videoswin.training.lora import set_trainable
from videoswin.training.optim import (
    build_adamw,
    build_lr_scheduler,
    depth_below_head,
    describe_groups,
    parameter_groups,
)
from videoswin.training.recipe import Optimizer, Schedule

SMALL = VideoSwinConfig(embed_dim=8, depths=(2, 1), num_heads=(1, 2), window=(1, 2, 2), num_classes=3)

EVERY_KIND = (
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "patch_embed.norm.weight",
    "stages.0.blocks.1.norm1.bias",
    "stages.0.blocks.1.attn.relative_position_bias_table",
    "stages.0.blocks.1.attn.qkv.weight",
    "stages.0.blocks.1.attn.qkv.bias",
    "stages.0.blocks.1.mlp.fc1.bias",
    "stages.0.downsample.norm.weight",
    "stages.0.downsample.reduction.weight",
    "norm.weight",
    "norm.bias",
    "head.weight",
    "head.bias",
)

BACKBONE, FULL = 1e-4, 1e-3
WD = 0.05
EXPECTED = {
    "official": [
        *((BACKBONE, WD),) * 4,
        (FULL, 0.0),
        *((BACKBONE, WD),) * 7,
        *((FULL, WD),) * 2,
    ],
    "mmaction2": [
        *((BACKBONE, WD),) * 2,
        *((BACKBONE, 0.0),) * 3,
        *((BACKBONE, WD),) * 3,
        (BACKBONE, 0.0),
        (BACKBONE, WD),
        *((BACKBONE, 0.0),) * 2,
        *((FULL, WD),) * 2,
    ],
    "clean": [
        (BACKBONE, WD),
        *((BACKBONE, 0.0),) * 4,
        (BACKBONE, WD),
        *((BACKBONE, 0.0),) * 3,
        (BACKBONE, WD),
        *((BACKBONE, 0.0),) * 2,
        (FULL, WD),
        (FULL, 0.0),
    ],
}


def plan(**changes) -> Optimizer:
    return Optimizer(**{"lr": 1e-3, "weight_decay": WD} | changes)


def rate_and_decay(model: VideoSwin, plan: Optimizer) -> dict[str, tuple[float, float]]:
    """Return (lr, weight decay) of every trainable parameter by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, plan)
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("rule", EXPECTED)
def test_each_rule_gives_each_kind_of_tensor_its_rate_and_decay(rule):
    found = rate_and_decay(VideoSwin(SMALL), plan(param_groups=rule))
    wanted = dict(zip(EVERY_KIND, EXPECTED[rule], strict=True))
    assert {name: found[name] for name in EVERY_KIND} == {
        name: pytest.approx(w) for name, w in wanted.items()
    }


OFFICIAL_KEYS = {  # paramwise_cfg of configs/recognition/swin/*.py: (lr_mult, decay_mult)
    "absolute_pos_embed": (1.0, 0.0),
    "relative_position_bias_table": (1.0, 0.0),
    "norm": (1.0, 0.0),
    "backbone": (0.1, 1.0),
}


def official_name(name: str) -> str:
    return name.replace("head.", "cls_head.fc_cls.") if name.startswith("head.") else f"backbone.{name}"


def mmcv_factors(name: str) -> tuple[float, float]:
    """Return the factors of mmcv 1.x, which applies only the longest matching key."""
    matching = [key for key in OFFICIAL_KEYS if key in name]
    return OFFICIAL_KEYS[max(matching, key=len)] if matching else (1.0, 1.0)


def mmaction2_factors(name: str) -> tuple[float, float]:
    """Return the factors of mmaction2 1.x, which multiplies those of all matching keys."""
    matching = [factors for key, factors in OFFICIAL_KEYS.items() if key in name]
    return math.prod(rate for rate, _ in matching), math.prod(decay for _, decay in matching)


@pytest.mark.parametrize(("rule", "theirs"), [("official", mmcv_factors), ("mmaction2", mmaction2_factors)])
def test_published_rules_agree_with_key_matching_for_every_tensor(rule, theirs):
    for name, ours in rate_and_decay(VideoSwin(NANO), plan(param_groups=rule)).items():
        rate, decay = theirs(official_name(name))
        assert ours == pytest.approx((1e-3 * rate, WD * decay)), name


@given(
    depths=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    rule=st.sampled_from(sorted(EXPECTED)),
    trainable=st.sampled_from(["all", "head", "lora"]),
    layer_decay=st.sampled_from([1.0, 0.8]),
)
def test_every_learning_parameter_is_in_exactly_one_group(depths, rule, trainable, layer_decay):
    config = SMALL.replace(depths=tuple(depths), num_heads=(1,) * len(depths))
    with torch.device("meta"):  # names and shapes are enough
        model = VideoSwin(config)
    set_trainable(model, trainable, rank=2)
    groups = parameter_groups(model, plan(param_groups=rule, layer_decay=layer_decay))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    learning = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(learning)
    assert len({group["name"] for group in groups}) == len(groups)


def test_depth_counts_blocks_down_from_the_head():
    depths = {
        "patch_embed.proj.weight": 4,
        "stages.0.blocks.0.mlp.fc1.weight": 3,
        "stages.0.blocks.1.mlp.fc1.weight": 2,
        "stages.0.downsample.reduction.weight": 2,
        "stages.1.blocks.0.mlp.fc1.weight": 1,
        "norm.weight": 0,
        "head.weight": 0,
    }
    assert {name: depth_below_head(name, (2, 1)) for name in depths} == depths


def test_layer_decay_multiplies_the_rate_once_per_depth():
    even = rate_and_decay(VideoSwin(SMALL), plan())
    falling = rate_and_decay(VideoSwin(SMALL), plan(layer_decay=0.5))
    for name, (rate, decay) in falling.items():
        depth = depth_below_head(name, SMALL.depths)
        assert (rate, decay) == pytest.approx((even[name][0] * 0.5**depth, even[name][1])), name


def test_low_rank_changes_learn_at_the_full_rate():
    model = VideoSwin(SMALL)
    set_trainable(model, "lora", rank=2)
    rates = rate_and_decay(model, plan())
    low_rank = {name for name in rates if name.endswith((".down", ".up"))}
    assert len(low_rank) == 3 * 2 * 2  # blocks, linear layers, factors
    assert {rates[name] for name in low_rank} == {(FULL, WD)}
    assert rates["norm.weight"] == pytest.approx((BACKBONE, 0.0))


def test_groups_are_described_at_their_highest_rate():
    optimizer = build_adamw(VideoSwin(SMALL), plan(param_groups="official"))
    build_lr_scheduler(optimizer, Schedule(epochs=3, warmup_epochs=1), steps_per_epoch=10)
    rows = {row.name: row for row in describe_groups(optimizer)}
    assert set(rows) == {"backbone, weight decay", "bias tables, no weight decay", "head, weight decay"}
    tables = rows["bias tables, no weight decay"]
    # A (1, 2, 2) window has 1 * 3 * 3 offsets; two blocks have one head, one has two.
    assert (tables.num_tensors, tables.num_parameters, tables.lr, tables.weight_decay) == (
        3,
        9 * 4,
        1e-3,
        0.0,
    )


def test_adamw_takes_the_fused_step_unless_told_otherwise():
    model = VideoSwin(SMALL)
    optimizer = build_adamw(model, plan(betas=(0.8, 0.9)))
    assert optimizer.defaults["fused"] is True
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    assert build_adamw(model, plan(), fused=False).defaults["fused"] is False


def one_parameter() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)


def rates_of(scheduler: LambdaLR, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def mmcv_rate(
    step: int, *, steps_per_epoch: int, epochs: int, warmup_steps: float, warmup_ratio: float
) -> float:
    """Return the learning rate of CosineAnnealing with warmup="linear" in mmcv/runner/hooks/lr_updater.py."""
    regular = 0.5 * (math.cos(math.pi * (step // steps_per_epoch) / epochs) + 1)
    if step >= warmup_steps:
        return regular
    k = (1 - step / warmup_steps) * (1 - warmup_ratio)
    return regular * (1 - k)


def test_the_rate_by_epoch_is_that_of_mmcv():
    found = rates_of(build_lr_scheduler(one_parameter(), Schedule(epochs=30, warmup_epochs=2.5), 7), 30 * 7)
    theirs = dict(steps_per_epoch=7, epochs=30, warmup_steps=17.5, warmup_ratio=0.1)
    assert found == pytest.approx([mmcv_rate(step, **theirs) for step in range(30 * 7)], rel=1e-12)
    assert found[0] == pytest.approx(0.1)
    assert found[21] == found[27] == pytest.approx(0.5 * (1 + math.cos(math.pi * 3 / 30)))


def old_one_cycle(step: int, *, steps: int, warmup_steps: int) -> float:
    """Return the learning rate factor with which the bundled model was trained."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 6000), (15, 400), (60, 100), (24, 250)])
def test_the_rate_by_step_is_bit_for_bit_that_of_the_bundled_model(epochs, steps_per_epoch):
    times = Schedule(epochs=epochs, warmup_epochs=400 / steps_per_epoch, lr_update="step")
    (factor,) = build_lr_scheduler(one_parameter(), times, steps_per_epoch).lr_lambdas
    assert [factor(step) for step in range(6001)] == [
        old_one_cycle(step, steps=6000, warmup_steps=400) for step in range(6001)
    ]


@pytest.mark.parametrize("decay", ["epoch", "step"])
def test_without_a_warm_up_the_rate_begins_at_its_highest_and_ends_at_nothing(decay):
    times = Schedule(epochs=4, warmup_epochs=0, lr_update=decay)
    scheduler = build_lr_scheduler(one_parameter(), times, 5)
    rates = rates_of(scheduler, 20)
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.0)


def test_first_weights_keep_the_size_of_what_passes_through():
    torch.manual_seed(0)
    model = VideoSwin(NANO)
    initialize_from_scratch(model)
    fc1 = model.stages[0].blocks[0].mlp.fc1
    assert fc1.weight.std().item() == pytest.approx((2 / (32 + 128)) ** 0.5, rel=0.05)
    patches = model.patch_embed.proj.weight.flatten(1) @ torch.randn(96, 1000)
    assert patches.std().item() == pytest.approx(1.0, rel=0.15)
