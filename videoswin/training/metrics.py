"""Keep track of a run: training metrics, unreadable videos, the best validation and early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from videoswin._distributed import all_reduce_mean, gather_objects
from videoswin._errors import TrainingError
from videoswin.data.dataset import Batch
from videoswin.evaluation.report import Report
from videoswin.training.data import DataSource
from videoswin.training.safeguards import require_finite_losses

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def accuracy(logits: Tensor, targets: Tensor, weights: Tensor, total_weight: Tensor) -> Tensor:
    """Return the weighted fraction of clips whose top-1 class is one of their labels, ().

    Args:
        logits: (B, K).
        targets: Class indices (B,), or zeros and ones (B, K) if a clip can have several labels.
        weights: (B,), 1, or 0 for clips of videos that cannot be read.
        total_weight: Sum of the weights of the whole batch, of which this may be a micro-batch.
    """
    top1 = logits.argmax(1)  # (B,)
    if targets.ndim == 1:
        correct = (top1 == targets).float()
    else:
        correct = targets.gather(1, top1[:, None])[:, 0].float()
    # If all weights are 0, so is the sum, and must not become 0 / 0.
    return (correct * weights).sum() / total_weight.clamp(min=1e-6)


def describe_metrics(row: Mapping[str, Any]) -> str:
    """Return a row of training metrics as text for the progress bar."""
    return (
        f"epoch {row['epoch']:.2f}, loss {row['loss']:.3f}, acc {row['accuracy']:.0%}, "
        f"{row['clips_per_second']:.1f} clips/s, waiting for data {row['data_wait']:.0%}"
    )


def describe_validation(report: Report, epoch: int, *, is_best: bool) -> str:
    """Return the scores of a validation, after a number of finished epochs, as a line.

    Args:
        report: Scores of the validation videos.
        epoch: Number of finished epochs.
        is_best: Whether it is the best checkpoint so far.
    """
    best = "; best checkpoint so far" if is_best else ""
    return f"epoch {epoch}: validation loss {report.loss:.3f}, {report.headline}{best}"


class TrainingMetrics:
    """Mean loss and accuracy of the training steps since the last `compute`, and their speed.

    Every process must call the same methods. Their values stay on the device until `synchronize`.
    """

    def __init__(self, fabric: Fabric) -> None:
        """Start the measurement of the speed."""
        self._fabric = fabric
        self._pending: list[Tensor] = []
        """Loss and accuracy (2,) of the newest steps of this process, on the device."""
        self._steps: list[list[float]] = []
        """Loss and accuracy of each step since the last `compute`, averaged over processes."""
        self.restart_timer()

    def restart_timer(self) -> None:
        """Measure the speed from this moment on."""
        self._num_clips, self._seconds_waiting, self._start = 0, 0.0, time.monotonic()

    def add_waiting_time(self, seconds: float) -> None:
        """Add time during which no batch was ready."""
        self._seconds_waiting += seconds

    def update(self, step_metrics: Tensor, num_clips: int) -> None:
        """Add a step.

        Args:
            step_metrics: Loss and accuracy of the step in this process, (2,).
            num_clips: Clips of the step in this process.
        """
        self._pending.append(step_metrics)
        self._num_clips += num_clips * self._fabric.world_size

    def synchronize(self, step: int, *, allow_overflow: bool = False) -> None:
        """Average the metrics of the newest steps over processes.

        Args:
            step: Number of finished steps.
            allow_overflow: Accept single losses that are not finite. A loss scaler finds its scale by
                occasional overflows, and skips those steps.

        Raises:
            TrainingError: A loss is NaN or infinite; with `allow_overflow`, all of them are.
        """
        if not self._pending:
            return
        metrics = all_reduce_mean(torch.stack(self._pending), self._fabric)  # (steps, 2)
        self._pending = []
        require_finite_losses(metrics[:, 0], step, allow_overflow=allow_overflow)
        self._steps += metrics.tolist()

    @property
    def first_loss(self) -> float:
        """Loss of the first step since the last `compute`, after `synchronize`."""
        return self._steps[0][0]

    def compute(self) -> dict[str, Any]:
        """Return the means over the steps since the last call, after `synchronize`, and reset them.

        Returns:
            num_steps, loss, accuracy, clips_per_second, and data_wait, the fraction of the time during which
            no batch was ready.
        """
        loss, accuracy = torch.tensor(self._steps, dtype=torch.float64).mean(0).tolist()
        seconds = max(time.monotonic() - self._start, 1e-9)
        row = {
            "num_steps": len(self._steps),
            "loss": loss,
            "accuracy": accuracy,
            "clips_per_second": self._num_clips / seconds,
            "data_wait": min(self._seconds_waiting / seconds, 1.0),
        }
        self._steps = []
        self.restart_timer()
        return row

    def state_dict(self) -> dict[str, Any]:
        """Return the synchronized metrics since the last `compute`."""
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the metrics from `state_dict()`."""
        self._steps = state["steps"]


class UnreadableVideos:
    """Training videos that could not be read, in any process."""

    def __init__(self, source: DataSource) -> None:
        """Take the number of videos, and how many of them may be unreadable, from the data of the run."""
        self._length, self._max_fraction = source.length, source.max_failure_fraction
        self._pending: list[tuple[str, str]] = []
        """Path and reason of failures of this process that were not synchronized yet."""
        self.reasons: dict[str, str] = {}
        """Path of each unreadable video -> reason."""

    def update(self, batch: Batch) -> None:
        """Add the failures of a batch of this process."""
        self._pending += [(failure.path, failure.reason) for failure in batch.failures]

    def synchronize(self) -> dict[str, str]:
        """Exchange failures between processes, and return path and reason of the new ones."""
        failures = gather_objects(self._pending)
        self._pending = []
        new = {path: reason for path, reason in failures if path not in self.reasons}
        self.reasons |= new
        return new

    def require_few(self) -> None:
        """Raise TrainingError if more videos are unreadable than the recipe allows."""
        if len(self.reasons) > self._max_fraction * self._length:
            path, reason = next(iter(self.reasons.items()))
            raise TrainingError(
                f"{len(self.reasons)} of {self._length} videos cannot be read, more than "
                f"data.max_failure_fraction={self._max_fraction:g} allows, such as {path}: {reason}. "
                "`videoswin check` finds all of them and writes a list without them"
            )

    def describe(self) -> list[str]:
        """Return a line with the number of videos, for the end of a run; none if all could be read."""
        count = len(self.reasons)
        return [f"videos that could not be read: {count}; see failures.jsonl"] if count else []

    def state_dict(self) -> dict[str, Any]:
        """Return the failures that were synchronized."""
        return {"reasons": self.reasons}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the failures from `state_dict()`."""
        self.reasons = state["reasons"]


@dataclass
class EarlyStopping:
    """The best validation so far, and whether to stop because it has not improved."""

    patience: int | None
    """Number of epochs without improvement after which the run stops; None never stops it."""
    best_epoch: int | None = None
    """Number of finished epochs at the best validation; None before the first."""
    best_score: float = -math.inf
    """Score of the best validation."""
    best_loss: float = math.inf
    """Its loss, which decides between equal scores."""
    interval: tuple[float, float] = (0.0, 1.0)
    """95 % interval of the best score."""
    warning: str | None = None
    """Warning about the best score, if it may be due to chance."""
    num_validations: int = 0
    """Number of validations so far."""

    def update(self, report: Report, epoch: int) -> bool:
        """Add a validation, and return whether it is the best one so far.

        Args:
            report: Scores of the validation.
            epoch: Number of finished epochs.
        """
        self.num_validations += 1
        # With few videos, many checkpoints have the same score; the loss decides between them.
        is_best = (report.score, -report.loss) > (self.best_score, -self.best_loss)
        if is_best:
            self.best_epoch, self.best_score, self.best_loss = epoch, report.score, report.loss
            self.interval, self.warning = report.score_interval, report.chance_warning
        return is_best

    def should_stop(self, epoch: int) -> bool:
        """Return whether the validation has not improved for `patience` epochs, after `epoch` epochs."""
        if self.patience is None or self.best_epoch is None:
            return False
        return epoch - self.best_epoch >= self.patience

    def describe_best(self, score_name: str) -> list[str]:
        """Return lines about the best checkpoint and its uncertainty; none without validation."""
        if self.best_epoch is None:
            return []
        low, high = self.interval
        line = (
            f"best checkpoint: epoch {self.best_epoch}, {score_name} {100 * self.best_score:.1f} % "
            f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        )
        if self.num_validations > 1:
            line += (
                f"; it is the highest of {self.num_validations} validations on the same videos, so expect a "
                "lower score on new videos"
            )
        return [line, f"warning: {self.warning}"] if self.warning else [line]

    def state_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore all fields but the patience, which is a setting."""
        vars(self).update(state | {"patience": self.patience})
