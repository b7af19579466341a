"""A recipe says everything about a training run: change a number here, and nothing else has to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.utils.data import Dataset

from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.video.spec import ClipSpec, ViewPlan

Clips = Dataset[tuple[Tensor, Tensor]]
"""Items are uint8 clips (N, 3, T, S, S) with their labels (N,); N is the same for every item."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where clips come from and what they are."""

    clips: Callable[[int], Clips]
    """Makes the dataset, whose item i is the i-th to be trained on, from the seed."""
    source: str
    """What the clips are, in words; for the lineage of the checkpoint."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    clip: ClipSpec
    """What the model will be shown when it is asked about a file."""
    views: ViewPlan
    """How often it will be shown that, unless asked otherwise."""
    items_per_step: int
    """Items in a batch; an item may hold several clips."""
    workers: int
    """Processes that make clips while the model learns."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is trained and where it starts from."""

    config: VideoSwinConfig
    initialize: Callable[[VideoSwin], None]
    """Sets the first weights, drawing from torch's global generator."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to the answers so that the model does not grow too sure."""

    label_smoothing: float
    """Part of the target that is spread over all classes."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW, and the moving average of the weights that is kept in the end."""

    peak_rate: float
    """Highest learning rate."""
    weight_decay: float
    """For matrices only: biases, norms and bias tables do not decay."""
    largest_gradient: float
    """Gradients are scaled down to this norm."""
    averaging: float
    """Decay of the moving average of the weights, per step."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One cycle: the learning rate rises for `warmup_steps`, then falls along a cosine to 0 at `steps`."""

    steps: int
    warmup_steps: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """How the run is carried out, and what is told about it."""

    command: str
    """The command that repeats this run; for the lineage of the checkpoint."""
    licence: str
    """Licence of the trained weights, as an SPDX name."""
    seed: int
    precision: str
    """As Lightning Fabric spells it: "32-true", "bf16-mixed"."""
    threads: int
    """CPU threads of the model, beside the data workers."""


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
