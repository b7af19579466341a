"""A recipe says everything about a training run, in plain values: they are written down and can be set.

Sizes of batches count clips over all devices; times count epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from torch.utils.data import Dataset

from videoswin._errors import InputError
from videoswin.data.batch import Item
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.video.augment import ClipAugment
from videoswin.video.spec import ClipSpec, ViewPlan

FabricPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""Precision of a training run, as Lightning Fabric spells it."""
MAX_EPOCHS: Final = 1_000_000
"""More is a mistyped number: schedules count their steps beforehand."""


def _require(wanted: Literal["above 0", "0 or more"], **values: float | None) -> None:
    """ValueError for a value, None aside, that is not as wanted."""
    for name, value in values.items():
        if value is not None and (value < 0 or (value == 0 and wanted == "above 0")):
            raise InputError(f"{name} is {value}, wanted {wanted}")


def require_one_weighting(*, class_weights: bool, balanced: bool, multi_label: bool = False) -> None:
    """Raise InputError for class weights that count rare classes twice, or that do not fit the labels."""
    if class_weights and multi_label:
        raise InputError("optimizer.class_weights is for videos with one label each; leave it off here")
    if class_weights and balanced:
        raise InputError(
            "optimizer.class_weights and data.source.balanced count rare classes twice: "
            "set one of them to false"
        )


@dataclass(frozen=True, kw_only=True)
class VideoFiles:
    """Labelled video files: any list that `videoswin.data.manifest.read_manifest` reads."""

    train: str
    """Folder or list of the training videos; its split `train` if it has splits."""
    validation: str | None = None
    """Folder or list to validate on; None takes the split `val` of `train`, or holds some back."""
    holdout: float = 0.2
    """Part of the videos of each class that is held back if nothing else says what to validate on."""
    groups: str | None = None
    """What videos share that must not be split between training and validation: `folder`, `folder:2`,
    `pattern:REGULAR_EXPRESSION` or `similarity` (data/groups.py); None takes the column `group`, if any."""
    root: str | None = None
    """Folder that relative paths start from; None is the folder of the list."""
    balanced: bool = False
    """Draw every class equally often, however many videos it has."""
    repeats: int = 1
    """Differently augmented clips made of one decoded one."""
    failure_limit: float = 0.01
    """Part of the training videos that may turn out unreadable before the run stops."""

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise InputError(f"holdout is {self.holdout}, wanted a part from 0 to below 1")
        _require("above 0", repeats=self.repeats)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Clips made on the fly; there is nothing to validate on."""

    clips: Callable[[int], Dataset[Item]]
    """Makes the dataset from the seed: `dataset[Draw(epoch, index)]` is an Item. Drawn in order."""
    description: str
    """What the clips are, in words; for the lineage of the checkpoint."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the logits."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where clips come from and what they are."""

    source: VideoFiles | Generated
    clip: ClipSpec
    """What the model is shown, in training and when it is asked about a file."""
    views: ViewPlan
    """How often a video is looked at unless asked otherwise; validation takes one centre view."""
    batch_size: int
    """Clips per step, over all devices and micro-batches."""
    workers: int = 2
    """Processes that make clips, for each device."""

    def __post_init__(self) -> None:
        _require("above 0", batch_size=self.batch_size)
        _require("0 or more", workers=self.workers)


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is trained, and where it starts from."""

    start: str | None
    """Catalog name, bundled name or file to start from; None starts from nothing, by `initialize`."""
    config: VideoSwinConfig | None = None
    """The architecture; None takes that of `start`. Its number of classes follows the data."""
    initialize: Callable[[VideoSwin], None] | None = None
    """First weights of a run from nothing; None there is an error, so that none is random by accident."""
    tune: Literal["all", "head", "lora"] = "all"
    """What learns: every weight, the head alone, or the head and low-rank changes (training/lora.py)."""
    lora_rank: int = 8
    frozen_stages: int = -1
    """Stages that do not learn, with the patch embedding before them; -1 freezes nothing, not even that."""
    drop_path: float = 0.1
    dropout: float = 0.5
    """Before the head, in training."""
    checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, a third more time."""


@dataclass(frozen=True, kw_only=True)
class Augment(ClipAugment):
    """What is done to a training clip, and to the mixture of clips and labels that a batch is."""

    mixup: float = 0.0
    """Alpha of mixup's Beta distribution; 0 is off."""
    cutmix: float = 0.0
    """Alpha of cutmix's; with both on, each batch takes one or the other."""
    label_smoothing: float = 0.0
    """Part of the target that is spread over all classes."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW, what its learning rate and decay are for whom, and the moving average kept beside it."""

    rate: float
    """Learning rate of the head at its highest."""
    backbone: float = 0.1
    """Learning rate of everything but the head, as a factor of `rate`."""
    layer_decay: float = 1.0
    """Further factor for each block that lies deeper, counted from the head."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    groups: Literal["official", "mmaction2", "clean"] = "clean"
    """Which tensors decay and at which rate bias tables learn; see training/optimizer.py."""
    clip_norm: float | None = None
    """Gradients are scaled down to this norm; None leaves them."""
    average: float | None = None
    """Decay per step of a moving average of the weights, which is then what is kept; None keeps the last."""
    class_weights: bool = False
    """Weigh the loss so that every class counts the same in sum."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, and how the learning rate goes."""

    epochs: int
    warmup_epochs: float
    decay: Literal["epoch", "step"] = "epoch"
    """Cosine to 0: over all epochs, a step an epoch (official), or from the warm-up's end, in every step."""
    warmup_start: float = 0.1
    """Where the warm-up begins, as a factor of the rate; with decay `step` it begins at one step's share."""
    validate_every: int = 1
    """Epochs between two validations, each with its checkpoint; the end of the run is always one."""
    patience: int | None = None
    """Stop when validation has not become better for this many epochs; None trains to the end."""

    def __post_init__(self) -> None:
        _require("above 0", epochs=self.epochs, validate_every=self.validate_every, patience=self.patience)
        if self.epochs > MAX_EPOCHS:
            raise InputError(f"epochs must be <= {MAX_EPOCHS}, got {self.epochs}")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InputError(
                f"warmup_epochs is {self.warmup_epochs}, wanted 0 or more, and below epochs, {self.epochs}"
            )


@dataclass(frozen=True, kw_only=True)
class Run:
    """How the run is carried out, and what is told about it."""

    seed: int = 0
    precision: FabricPrecision = "bf16-mixed"
    device: str = "auto"
    """As Lightning Fabric spells accelerators: `auto`, `cpu`, `cuda`."""
    devices: int = 1
    """Processes on each machine, one a device."""
    nodes: int = 1
    """Machines; torchrun and SLURM are recognised."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """What each device holds: `ddp` all of the model, `fsdp` a part of it (training/sharding.py; not for
    `16-mixed`). `auto` is `ddp` where there are several devices."""
    micro_batches: int = 1
    """Parts in which a device takes its share of a batch, one after another: less memory, the same result."""
    threads: int | None = None
    """CPU threads of the model in each process; None leaves torch's choice."""
    report_every: int = 20
    """Steps between two lines of metrics."""
    save_every: int = 200
    """Steps between two saved states; an interrupted run goes on from the last one."""
    licence: str = "unknown: depends on the licence of the data"
    """Licence of the trained weights, as an SPDX name."""

    def __post_init__(self) -> None:
        _require("above 0", devices=self.devices, nodes=self.nodes, micro_batches=self.micro_batches)
        _require("above 0", report_every=self.report_every, save_every=self.save_every)
        _require("0 or more", seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run."""

    name: str
    data: Data
    model: Model
    augment: Augment
    optimizer: Optimizer
    schedule: Schedule
    run: Run
