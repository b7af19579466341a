"""First weights, AdamW with a learning rate and a decay for each kind of tensor, and how the rate goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from videoswin.model.swin import VideoSwin
from videoswin.training.recipe import Optimizer, Schedule

Kind = Literal["head weight", "head bias", "bias table", "norm", "bias", "matrix", "low-rank"]
"""What a tensor is to the optimizer; `low-rank` are the changes that training/lora.py adds."""


class GroupRule(NamedTuple):
    """Which kinds are not at the backbone's learning rate, and which do not decay."""

    full_rate: frozenset[Kind]
    undecayed: frozenset[Kind]


_NEW: Final[frozenset[Kind]] = frozenset({"head weight", "head bias", "low-rank"})
"""Tensors that no pretraining has shaped. They learn at the full rate under every rule."""

RULES: Final[Mapping[str, GroupRule]] = MappingProxyType(
    {
        "official": GroupRule(_NEW | {"bias table"}, frozenset({"bias table"})),
        "mmaction2": GroupRule(_NEW, frozenset({"bias table", "norm"})),
        "clean": GroupRule(_NEW, frozenset({"bias table", "norm", "bias", "head bias"})),
    }
)
"""What the published code really does, which is not what its configs say.

Video Swin's config sets a factor for `backbone` and switches decay off for `norm` and the bias tables. mmcv
applies only the longest key that a tensor's name contains (mmcv/runner/optimizer/default_constructor.py), so
the tables miss the backbone's factor and the norms decay: `official`. mmaction2 1.x multiplies all keys that
match (SwinOptimWrapperConstructor): `mmaction2`. `clean` decays matrices only, the backbone all at one rate.
"""


class GroupRow(NamedTuple):
    """One parameter group, to print before a run."""

    name: str
    tensors: int
    numbers: int
    rate: float
    """The highest learning rate, before the schedule's factor."""
    decay: float


def initialize_from_scratch(model: VideoSwin) -> None:
    """Set first weights from which a small model learns without pretraining.

    Xavier-uniform matrices and a Kaiming patch embedding. The published initialization (normal, std 0.02) is
    meant to be followed by image weights; a model as small as NANO stayed at chance with it alone.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    patches = model.patch_embed.proj
    nn.init.kaiming_normal_(patches.weight, nonlinearity="linear")
    assert patches.bias is not None
    nn.init.zeros_(patches.bias)


def adamw(model: VideoSwin, plan: Optimizer, *, fused: bool = True) -> AdamW:
    """AdamW over the groups of `parameter_groups`, in one fused step where the device has one.

    fused: False where Lightning must clip gradients under a loss scaler (`fp16`): it refuses fused steps.
    """
    groups = parameter_groups(model, plan)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return AdamW(groups, lr=plan.lr, betas=plan.betas, fused=fused and devices <= {"cpu", "cuda"})


def parameter_groups(model: VideoSwin, plan: Optimizer) -> list[dict[str, Any]]:
    """Groups for a torch optimizer (params, lr, weight_decay, name), each learning parameter in one of them.

    A parameter's learning rate is `plan.lr`, times `plan.backbone_lr_scale` unless RULES give its kind the
    full rate, times `plan.layer_decay` for each block above it, itself included (see `depth_below_head`).
    """
    rule = RULES[plan.param_groups]
    groups: dict[str, dict[str, Any]] = {}
    for path, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = kind_of(path, parameter)
        depth = depth_below_head(path, model.config.depths)
        factor = (1.0 if kind in rule.full_rate else plan.backbone_lr_scale) * plan.layer_decay**depth
        decays = kind not in rule.undecayed
        name = _part(kind, rule)
        if plan.layer_decay != 1.0 and not kind.startswith("head"):
            name += f" at depth {depth}"
        name += ", weight decay" if decays else ", no weight decay"
        empty = {
            "params": [],
            "lr": plan.lr * factor,
            "weight_decay": plan.weight_decay if decays else 0.0,
            "name": name,
        }
        groups.setdefault(name, empty)["params"].append(parameter)
    return list(groups.values())


def kind_of(path: str, parameter: Tensor) -> Kind:
    """What the parameter at `path` of a VideoSwin is to the optimizer."""
    if path.startswith("head."):
        return "head weight" if parameter.ndim > 1 else "head bias"
    if path.endswith(".relative_position_bias_table"):
        return "bias table"
    if "norm" in path:  # norm, norm1, norm2, patch_embed.norm, downsample.norm, as mmcv's key matches them
        return "norm"
    if path.endswith((".down", ".up")):
        return "low-rank"
    return "matrix" if parameter.ndim > 1 else "bias"


def depth_below_head(path: str, depths: tuple[int, ...]) -> int:
    """Blocks from the parameter at `path` to the head, its own included: 0 for the head and the last norm.

    The merging after a stage counts with the stage's last block, the patch embedding as one block more.
    """
    top, *rest = path.split(".")
    if top == "patch_embed":
        return sum(depths) + 1
    if top != "stages":
        return 0
    stage = int(rest[0])
    block = int(rest[2]) if rest[1] == "blocks" else depths[stage] - 1
    return sum(depths[stage:]) - block


def _part(kind: Kind, rule: GroupRule) -> str:
    if kind.startswith("head"):
        return "head"
    if kind not in rule.full_rate:
        return "backbone"
    return "bias tables" if kind == "bias table" else "low-rank changes"


def describe_groups(optimizer: torch.optim.Optimizer) -> list[GroupRow]:
    """One row for each parameter group, to print before a run."""
    return [
        GroupRow(
            name=group["name"],
            tensors=len(group["params"]),
            numbers=sum(parameter.numel() for parameter in group["params"]),
            rate=group.get("initial_lr", group["lr"]),  # a schedule has already changed `lr`
            decay=group["weight_decay"],
        )
        for group in optimizer.param_groups
    ]


def schedule(optimizer: torch.optim.Optimizer, plan: Schedule, steps_per_epoch: int) -> LambdaLR:
    """The learning rate of every group as `plan` says; to be stepped after every step of the optimizer."""
    make = {"epoch": _epoch_factor, "step": _step_factor}[plan.lr_update]
    return LambdaLR(optimizer, make(plan, steps_per_epoch))


def _epoch_factor(plan: Schedule, steps_per_epoch: int) -> Callable[[int], float]:
    """Cosine over whole epochs, times a linear warm-up in every step from `warmup_start` to 1.

    As CosineAnnealing with warmup="linear" in mmcv/runner/hooks/lr_updater.py, counted in optimizer steps.
    """
    warmup_steps = plan.warmup_epochs * steps_per_epoch

    def factor(step: int) -> float:
        epoch = min(step // steps_per_epoch, plan.epochs)
        regular = 0.5 * (1 + math.cos(math.pi * epoch / plan.epochs))
        missing = max(0.0, 1 - step / warmup_steps) if warmup_steps else 0.0
        return regular * (1 - missing * (1 - plan.warmup_start_factor))

    return factor


def _step_factor(plan: Schedule, steps_per_epoch: int) -> Callable[[int], float]:
    """A linear warm-up to 1, then a cosine that reaches 0 after the last step."""
    steps = plan.epochs * steps_per_epoch
    warmup_steps = round(plan.warmup_epochs * steps_per_epoch)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor
