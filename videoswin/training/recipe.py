"""Describe a training run completely in plain values, which can be written down and overridden.

Batch sizes count clips over all devices; durations count epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from torch.utils.data import Dataset

from videoswin._errors import InputError
from videoswin.acceleration import Kernels
from videoswin.data.dataset import Item
from videoswin.inference.backends import Precision
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.video.augment import ClipAugment
from videoswin.video.spec import ClipSpec, ViewPlan

FABRIC_PRECISION: Final[Mapping[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]]] = MappingProxyType(
    {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
)
"""Precision on the command line -> as Lightning Fabric spells it."""
MAX_EPOCHS: Final = 1_000_000
"""More is a mistyped number: schedules count their steps beforehand."""


def _require(requirement: Literal["> 0", ">= 0"], **values: float | None) -> None:
    """Raise InputError for a value that does not meet the requirement; None passes."""
    for name, value in values.items():
        if value is not None and (value < 0 or (value == 0 and requirement == "> 0")):
            raise InputError(f"{name} must be {requirement}, got {value}")


def require_one_weighting(*, class_weights: bool, class_balanced: bool, multi_label: bool = False) -> None:
    """Raise InputError for class weights that count rare classes twice, or that do not fit the labels.

    Args:
        class_weights: Whether the loss has class weights.
        class_balanced: Whether videos of rare classes are drawn more often.
        multi_label: Whether a video can have several labels.
    """
    if class_weights and multi_label:
        raise InputError("optimizer.class_weights is for videos with one label each; leave it off here")
    if class_weights and class_balanced:
        raise InputError(
            "optimizer.class_weights and data.class_balanced count rare classes twice: "
            "set one of them to false"
        )


@dataclass(frozen=True, kw_only=True)
class Data:
    """What clips are and how they are batched; the base of VideoData and SyntheticData."""

    clip: ClipSpec
    """How a video becomes a clip, in training and in prediction."""
    views: ViewPlan
    """The default views of the trained model; validation takes one center view."""
    batch_size: int
    """Clips per step, over all devices and gradient accumulation steps."""
    num_workers: int = 2
    """Processes that load clips, for each device."""

    def __post_init__(self) -> None:
        _require("> 0", batch_size=self.batch_size)
        _require(">= 0", num_workers=self.num_workers)


@dataclass(frozen=True, kw_only=True)
class VideoData(Data):
    """Labeled video files: any list that `videoswin.data.manifest.read_manifest` reads."""

    train: str
    """Folder or list of the training videos; its split `train` if it has splits."""
    val: str | None = None
    """Folder or list of the validation videos; None takes the split `val` of `train`, or holds videos out."""
    val_fraction: float = 0.2
    """Fraction of the videos of each class that is held out if there are no validation videos."""
    group_by: str | None = None
    """What videos share that must not be split between training and validation: `folder`, `folder:2`,
    `pattern:REGULAR_EXPRESSION` or `similarity` (data/splits.py); None takes the column `group`, if any."""
    root: str | None = None
    """Folder that relative paths start from; None is the folder of the list."""
    class_balanced: bool = False
    """Sample every class equally often, however many videos it has."""
    num_repeats: int = 1
    """Differently augmented clips made from each decoded one (repeated augmentation)."""
    max_failure_fraction: float = 0.01
    """Fraction of the training videos that may turn out to be unreadable before the run stops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.val_fraction < 1:
            raise InputError(f"val_fraction must be >= 0 and < 1, got {self.val_fraction}")
        _require("> 0", num_repeats=self.num_repeats)


@dataclass(frozen=True, kw_only=True)
class SyntheticData(Data):
    """Clips that are generated on the fly; there is no validation set."""

    clips: Callable[[int], Dataset[Item]]
    """Makes the dataset from the seed: `dataset[Draw(epoch, index)]` is an Item. Read in order."""
    description: str
    """What the clips are, in words; for the lineage of the checkpoint."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the logits."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is trained, and how it is initialized."""

    init_from: str | None
    """Catalog name, bundled name or file with the initial weights; None initializes at random,
    in recipes that do so."""
    config: VideoSwinConfig | None = None
    """The architecture; None takes that of `init_from`. Its number of classes follows the data."""
    initialize: Callable[[VideoSwin], None] | None = None
    """Initializes a model that is trained from scratch. Without it and without `init_from` a run is refused,
    so that no weights are random by accident."""
    trainable: Literal["all", "head", "lora"] = "all"
    """Trainable parameters: all, those of the head, or the head and low-rank changes (training/lora.py)."""
    lora_rank: int = 8
    """Rank of the low-rank changes; used if `trainable` is `lora`."""
    frozen_stages: int = -1
    """Number of stages that are frozen, with the patch embedding before them; -1 freezes nothing."""
    drop_path: float = 0.1
    """Stochastic depth rate of the last block; it rises linearly from 0 at the first."""
    dropout: float = 0.5
    """Dropout rate before the head."""
    grad_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, a third more time."""


@dataclass(frozen=True, kw_only=True)
class Augment(ClipAugment):
    """Augmentation of training clips, and of batches of clips and labels."""

    mixup: float = 0.0
    """Alpha of the Beta distribution of mixup; 0 is off."""
    cutmix: float = 0.0
    """Alpha of the Beta distribution of cutmix; with both on, each batch takes one of them."""
    label_smoothing: float = 0.0
    """Fraction of the target that is spread over all classes."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW with its parameter groups, and the moving average of the weights."""

    lr: float
    """Peak learning rate of the head."""
    backbone_lr_scale: float = 0.1
    """Learning rate of everything but the head, as a factor of `lr`."""
    layer_decay: float = 1.0
    """Factor on the learning rate for each block of depth, counted from the head."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Coefficients of the running averages of AdamW."""
    param_groups: Literal["official", "mmaction2", "clean"] = "clean"
    """Which tensors have weight decay and which learning rate bias tables have; see training/optim.py."""
    max_grad_norm: float | None = None
    """Maximum norm of the gradients, to which they are clipped; None does not clip."""
    ema_decay: float | None = None
    """Decay per step of an exponential moving average of the weights, which is then what is saved; None saves
    the last weights."""
    class_weights: bool = False
    """Weight the loss so that every class has the same total weight."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length of training and learning rate schedule: linear warm-up, then cosine decay to 0."""

    epochs: int
    """Number of passes over the training clips."""
    warmup_epochs: float
    """Length of the linear warm-up in epochs."""
    lr_update: Literal["epoch", "step"] = "epoch"
    """`epoch`: the cosine covers all epochs and changes once per epoch (official); `step`: it begins after
    the warm-up and changes in every step."""
    warmup_start_factor: float = 0.1
    """Initial learning rate of the warm-up, as a factor of `lr`; unused if `lr_update` is `step`, which
    starts at `lr` divided by the number of warm-up steps."""
    val_every: int = 1
    """Epochs between validations, each with its checkpoint; the last epoch is always validated."""
    patience: int | None = None
    """Stop early after this many epochs without better validation; None trains to the end."""

    def __post_init__(self) -> None:
        _require("> 0", epochs=self.epochs, val_every=self.val_every, patience=self.patience)
        if self.epochs > MAX_EPOCHS:
            raise InputError(f"epochs must be <= {MAX_EPOCHS}, got {self.epochs}")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InputError(
                f"warmup_epochs must be >= 0 and < epochs ({self.epochs}), got {self.warmup_epochs}"
            )


@dataclass(frozen=True, kw_only=True)
class Run:
    """How the run is executed and logged."""

    seed: int = 0
    """Seed of everything random in the run."""
    precision: Precision = "bf16"
    """`bf16` and `fp16` are mixed precision, with parameters in float32."""
    device: str = "auto"
    """Accelerator as Lightning Fabric spells it: `auto`, `cpu`, `cuda`."""
    devices: int = 1
    """Number of processes on each node, one per device."""
    num_nodes: int = 1
    """Number of nodes; torchrun and SLURM are detected."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """`ddp` replicates the model on each device, `fsdp` shards it (training/state.py; not with `fp16`).
    `auto` is `ddp` where there are several devices."""
    kernels: Kernels | None = None
    """`triton` computes attention with the Triton kernels on NVIDIA GPUs; None with PyTorch."""
    grad_accum_steps: int = 1
    """Number of forward and backward passes per step and device: less memory, the same result."""
    num_threads: int | None = None
    """CPU threads of the model in each process; None keeps the default of torch."""
    log_every: int = 20
    """Steps between two rows of metrics."""
    save_every: int = 200
    """Steps between two saved states; an interrupted run resumes from the last one."""
    license: str = "unknown: depends on the license of the data"
    """License of the trained weights, as an SPDX identifier."""

    def __post_init__(self) -> None:
        _require(
            "> 0", devices=self.devices, num_nodes=self.num_nodes, grad_accum_steps=self.grad_accum_steps
        )
        _require("> 0", log_every=self.log_every, save_every=self.save_every)
        _require(">= 0", seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run."""

    name: str
    """Name of the run and of its checkpoints."""
    data: VideoData | SyntheticData
    """Clips and batches."""
    model: Model
    """Architecture and initialization."""
    augment: Augment
    """Augmentation of the clips, mixing and label smoothing."""
    optimizer: Optimizer
    """Learning rates, weight decay, gradient clipping and averaging of weights."""
    schedule: Schedule
    """Epochs, warm-up and validation."""
    run: Run
    """Devices, precision, seed and saving."""
