"""Build AdamW with its parameter groups, and the learning rate schedule; average the weights (EMA)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from videoswin._errors import InputError
from videoswin._text import first_few
from videoswin.model.swin import VideoSwin
from videoswin.training.recipe import Optimizer, Schedule
from videoswin.training.state import distribute_like, full_tensor

Kind = Literal["head weight", "head bias", "bias table", "norm", "bias", "matrix", "low-rank"]
"""Kind of a parameter; `low-rank` are the factors of the low-rank updates (training/lora.py)."""


class GroupRule(NamedTuple):
    """Learning rate and weight decay by kind of parameter."""

    full_lr: frozenset[Kind]
    """Kinds with the learning rate `lr`; all others have `lr` times `backbone_lr_scale`."""
    no_weight_decay: frozenset[Kind]
    """Kinds without weight decay."""


_NOT_PRETRAINED: Final[frozenset[Kind]] = frozenset({"head weight", "head bias", "low-rank"})
"""Kinds that are trained from scratch; they have the full learning rate under every rule."""

RULES: Final[Mapping[str, GroupRule]] = MappingProxyType(
    {
        "official": GroupRule(_NOT_PRETRAINED | {"bias table"}, frozenset({"bias table"})),
        "mmaction2": GroupRule(_NOT_PRETRAINED, frozenset({"bias table", "norm"})),
        "clean": GroupRule(_NOT_PRETRAINED, frozenset({"bias table", "norm", "bias", "head bias"})),
    }
)
"""What the published code does, which differs from what its configs suggest.

Video Swin's config sets a learning rate factor for `backbone` and switches weight decay off for `norm` and
the bias tables.

official: mmcv applies only the longest key that is part of a parameter's name
    (mmcv/runner/optimizer/default_constructor.py), so that the bias tables miss the factor of the backbone,
    and norms have weight decay.
mmaction2: mmaction2 1.x multiplies the factors of all matching keys (SwinOptimWrapperConstructor).
clean: Only matrices have weight decay, and the whole backbone has one learning rate.
"""


class GroupRow(NamedTuple):
    """Description of one parameter group, to be printed before a run."""

    name: str
    """Part of the model, with or without weight decay."""
    num_tensors: int
    """Number of parameter tensors."""
    num_parameters: int
    """Number of parameters."""
    lr: float
    """Peak learning rate, before the schedule is applied."""
    weight_decay: float
    """Weight decay of the group."""


def build_adamw(model: VideoSwin, config: Optimizer, *, fused: bool = True) -> AdamW:
    """Build AdamW over the groups of `parameter_groups`.

    Args:
        model: The model on its device, after `set_trainable`.
        config: Learning rate, weight decay and the rule of the groups.
        fused: Use the fused implementation if the device has it. Pass False if Lightning clips gradients
            under a loss scaler (`fp16`), which it refuses to do for fused optimizers.
    """
    groups = parameter_groups(model, config)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return AdamW(groups, lr=config.lr, betas=config.betas, fused=fused and devices <= {"cpu", "cuda"})


def parameter_groups(model: VideoSwin, config: Optimizer) -> list[dict[str, Any]]:
    """Divide the trainable parameters into groups for a torch optimizer.

    The learning rate of a parameter is `lr`, times `backbone_lr_scale` unless its kind is in
    `GroupRule.full_lr`, times `layer_decay` to the power of `depth_below_head`.

    Args:
        model: The model, after `set_trainable`.
        config: Learning rate, weight decay and the rule of the groups.

    Returns:
        Groups with the keys params, lr, weight_decay and name; each trainable parameter is in one of them.
    """
    rule = RULES[config.param_groups]
    groups: dict[str, dict[str, Any]] = {}
    for path, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = parameter_kind(path, parameter)
        depth = depth_below_head(path, model.config.depths)
        lr_scale = (1.0 if kind in rule.full_lr else config.backbone_lr_scale) * config.layer_decay**depth
        has_decay = kind not in rule.no_weight_decay
        name = _part_name(kind, rule)
        if config.layer_decay != 1.0 and not kind.startswith("head"):
            name += f" at depth {depth}"
        name += ", weight decay" if has_decay else ", no weight decay"
        empty = {
            "params": [],
            "lr": config.lr * lr_scale,
            "weight_decay": config.weight_decay if has_decay else 0.0,
            "name": name,
        }
        groups.setdefault(name, empty)["params"].append(parameter)
    return list(groups.values())


def parameter_kind(path: str, parameter: Tensor) -> Kind:
    """Return the kind of a parameter, given its name in a VideoSwin."""
    if path.startswith("head."):
        return "head weight" if parameter.ndim > 1 else "head bias"
    if path.endswith(".relative_position_bias_table"):
        return "bias table"
    if "norm" in path:  # norm, norm1, norm2, patch_embed.norm, downsample.norm: those that mmcv's key matches
        return "norm"
    if path.endswith((".down", ".up")):
        return "low-rank"
    return "matrix" if parameter.ndim > 1 else "bias"


def depth_below_head(path: str, depths: tuple[int, ...]) -> int:
    """Return the depth of a parameter, counted in blocks from the head.

    Args:
        path: Name of the parameter in a VideoSwin.
        depths: Number of blocks of each stage.

    Returns:
        0 for the head and the final norm, 1 for the last block, and so on. The patch merging after a stage
        has the depth of the last block of that stage; the patch embedding is one deeper than the first block.
    """
    top, *rest = path.split(".")
    if top == "patch_embed":
        return sum(depths) + 1
    if top != "stages":
        return 0
    stage = int(rest[0])
    block = int(rest[2]) if rest[1] == "blocks" else depths[stage] - 1
    return sum(depths[stage:]) - block


def _part_name(kind: Kind, rule: GroupRule) -> str:
    """Return the part of the model that a group of this kind is named after."""
    if kind.startswith("head"):
        return "head"
    if kind not in rule.full_lr:
        return "backbone"
    return "bias tables" if kind == "bias table" else "low-rank updates"


def describe_groups(optimizer: torch.optim.Optimizer) -> list[GroupRow]:
    """Return one row for each parameter group of an optimizer from `build_adamw`."""
    return [
        GroupRow(
            name=group["name"],
            num_tensors=len(group["params"]),
            num_parameters=sum(parameter.numel() for parameter in group["params"]),
            lr=group.get("initial_lr", group["lr"]),  # a scheduler has already changed `lr`
            weight_decay=group["weight_decay"],
        )
        for group in optimizer.param_groups
    ]


def build_lr_scheduler(optimizer: torch.optim.Optimizer, config: Schedule, steps_per_epoch: int) -> LambdaLR:
    """Build the learning rate scheduler; call its `step()` after every step of the optimizer.

    Args:
        optimizer: Optimizer whose parameter groups have their maximum learning rates.
        config: Epochs, warm-up and shape of the schedule.
        steps_per_epoch: Optimizer steps per epoch.
    """
    build_factor = {"epoch": _epoch_factor, "step": _step_factor}[config.lr_update]
    return LambdaLR(optimizer, build_factor(config, steps_per_epoch))


def _epoch_factor(config: Schedule, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the factor on the learning rate by step: cosine decay per epoch, times linear warm-up per step.

    The warm-up rises from `warmup_start_factor` to 1.

    Source: CosineAnnealing with warmup="linear" in mmcv/runner/hooks/lr_updater.py, in optimizer steps.
    """
    warmup_steps = config.warmup_epochs * steps_per_epoch

    def factor(step: int) -> float:
        epoch = min(step // steps_per_epoch, config.epochs)
        cosine = 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
        remaining = max(0.0, 1 - step / warmup_steps) if warmup_steps else 0.0
        return cosine * (1 - remaining * (1 - config.warmup_start_factor))

    return factor


def _step_factor(config: Schedule, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the factor on the learning rate by step: linear warm-up to 1, then cosine decay to 0."""
    num_steps = config.epochs * steps_per_epoch
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


class ExponentialMovingAverage:
    """Exponential moving average of the trainable parameters of a model, initialized with their values.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the initial values do not dominate
    the average of a short run. Parameters that are frozen when the average is created, and buffers, are not
    averaged.

    Example:
        ema = ExponentialMovingAverage(model, decay=0.999)
        optimizer.step()
        ema.update()
        with ema.average_parameters():
            torch.save(model.state_dict(), "model.pt")
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy the trainable parameters.

        Args:
            model: The model on its final device, already wrapped and sharded as in training.
            decay: Fraction of the average that an update keeps, >= 0 and < 1.

        Raises:
            InputError: `decay` is outside this range.
        """
        if not 0.0 <= decay < 1.0:
            raise InputError(f"ema_decay must be >= 0 and < 1, such as 0.999, got {decay}")
        self.decay = decay
        self.num_updates = 0
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current parameters; to be called after each optimizer step."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self._averages.values()), list(self._parameters.values()), 1 - decay)
        self.num_updates += 1

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Replace the parameters of the model by their averages inside the context, and restore them after.

        The parameters are restored bit for bit, also after an error. This takes one more copy of the
        trainable parameters, at a time when no gradients are computed.
        """
        originals = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        try:
            self._copy_to_model(self._averages)
            yield
        finally:
            self._copy_to_model(originals)

    def state_dict(self) -> dict[str, Any]:
        """Return the unsharded averages, which may share memory with this object, and the update count."""
        averages = {name: full_tensor(average) for name, average in self._averages.items()}
        return {"updates": self.num_updates, "averages": averages}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the averages from `state_dict()`.

        Raises:
            InputError: The state has averages of other parameters.
        """
        averages = state["averages"]
        if {n: t.shape for n, t in averages.items()} != {n: t.shape for n, t in self._averages.items()}:
            differing = sorted(averages.keys() ^ self._averages.keys()) or ["same names, different shapes"]
            raise InputError(
                f"the saved moving average does not match the trainable parameters: "
                f"{first_few(differing)}; start a new run"
            )
        for name, average in self._averages.items():
            average.copy_(distribute_like(average, averages[name]))
        self.num_updates = state["updates"]

    @torch.no_grad()
    def _copy_to_model(self, values: dict[str, torch.Tensor]) -> None:
        # One by one: there is no fused copy for sharded tensors.
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
