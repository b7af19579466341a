"""Record a run: metrics, checkpoints, unreadable videos, and the state from which it resumes."""

from __future__ import annotations

import math
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoswin.data.dataset import Batch, BatchSampler, Failure
from videoswin.data.manifest import Sample
from videoswin.evaluation.evaluate import Report
from videoswin.evaluation.plots import shortened
from videoswin.training.data import DataSource
from videoswin.training.distributed import LearningState, all_reduce_mean, gather_objects, local_tensor
from videoswin.training.learner import Learner
from videoswin.training.progress import TrainingProgress
from videoswin.training.run_folder import RunFolder, load_state, run_identity, run_origin, save_state
from videoswin.training.safeguards import TrainingError, initial_loss_warning
from videoswin.training.settings import flatten
from videoswin.weights.checkpoint import Checkpoint

VIDEO_NAME_WIDTH = 60
"""Maximum number of characters of a video name in samples.png; longer names are shortened in the middle."""
DIVERGENCE_CURE = (
    "the last saved state is not affected and is kept. Lower optimizer.lr or optimizer.max_grad_norm, or set "
    "run.precision=fp32"
)
"""End of the error messages about a run that has diverged."""


class Recorder:
    """Records metrics, checkpoints, unreadable videos and state of a run; used as a context manager.

    Every process has a Recorder, because all of them must take the same decisions; the first one writes the
    files.
    """

    def __init__(
        self, folder: RunFolder | None, learner: Learner, sampler: BatchSampler, source: DataSource
    ) -> None:
        """Prepare to record a run from its first step.

        Args:
            folder: The run folder in the first process; None in all others.
            learner: Model, optimizer and everything else that training changes.
            sampler: The sampler of the batches of this process.
            source: Training and validation data.
        """
        self._folder, self._learner, self._sampler, self._source = folder, learner, sampler, source
        recipe = learner.recipe
        num_steps = recipe.schedule.epochs * len(sampler)
        self.progress = TrainingProgress(num_steps, shown=folder is not None)
        """Progress of the run in steps."""
        self.step = 0
        """Number of finished steps."""
        self._saved_step: int | None = None
        self._validated_step = 0
        self._best_score, self._best_loss, self._best_epoch = -math.inf, math.inf, -1
        self._best_interval = (0.0, 1.0)
        self._best_warning: str | None = None
        self._num_validations = 0
        self._step_metrics: list[list[float]] = []
        """Loss and accuracy of each step since the last row of metrics, averaged over processes."""
        self._pending_metrics: list[Tensor] = []
        """The same of the newest steps of this process, still on the device."""
        self._lr = self._next_lr = self._scheduled_lr()
        """Learning rates of the last step and of the next one."""
        self._new_failures: list[Failure] = []
        """Videos that this process could not read since the last synchronization."""
        self._train_failures: dict[str, str] = {}
        """Training videos that any process could not read: path and reason."""
        self._val_failures: dict[str, str] = {}
        """Validation videos that could not be read: path and reason."""

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return self.step // len(self._sampler)

    @property
    def validation_is_due(self) -> bool:
        """Whether an epoch with validation has ended and its validation is not recorded yet."""
        schedule = self._learner.recipe.schedule
        epoch_has_ended = self.step > 0 and self.step % len(self._sampler) == 0
        has_validation = self.epoch % schedule.val_every == 0 or self.epoch >= schedule.epochs
        return epoch_has_ended and has_validation and self._validated_step != self.step

    @property
    def should_stop_early(self) -> bool:
        """Whether validation has not improved for as many epochs as the recipe's patience."""
        patience = self._learner.recipe.schedule.patience
        return (
            patience is not None and self._best_epoch >= 0 and self.epoch - 1 - self._best_epoch >= patience
        )

    def __enter__(self) -> Recorder:
        self.progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.__exit__(*error)
        if self._folder is not None:
            self._folder.close()

    def log(self, line: str) -> None:
        """Print a line, in the first process only."""
        self.progress.print_line(line)

    def resume(self, state: Path) -> bool:
        """Restore learner, sampler and record from a saved state.

        Args:
            state: Path of the state; if there is no such file, the run starts from step 0.

        Returns:
            Whether there was a state.

        Raises:
            InputError: The state is that of another run.
            TrainingError: The file is damaged or from another version.
        """
        is_resumed = load_state(state, self._identity(), self._stateful_parts())
        epoch, batch = divmod(self.step, len(self._sampler))
        self._sampler.load_state_dict({"epoch": epoch, "batch": batch})
        self.progress.resume(self.step)
        self._saved_step = self.step if is_resumed else None
        self._lr = self._next_lr = self._scheduled_lr()
        if self._folder is not None:
            self._folder.resume_from(self.step)
        return is_resumed

    def describe_resume(self) -> str:
        """Return how to resume after a failure, as the end of a sentence."""
        if self._saved_step is None:
            return "run the same command again; no state was saved yet"
        return (
            f"run the same command again to resume from the state of step {self._saved_step}, which is intact"
        )

    def after_step(self, metrics: Tensor, batch: Batch) -> None:
        """Record a training step, and write metrics and state when they are due.

        Args:
            metrics: Loss and accuracy of the step in this process, (2,).
            batch: The batch of this process.
        """
        run = self._learner.recipe.run
        self.step += 1
        self._pending_metrics.append(metrics)
        self._lr, self._next_lr = self._next_lr, self._scheduled_lr()
        if self.step == 1:
            self._check_first_batch(batch)
        self._new_failures += batch.failures
        self.progress.count_step(len(batch.clips) * self._learner.fabric.world_size)
        # Every row of metrics is the mean of the same number of steps, except the last row of the run.
        if self.step % run.log_every == 0 or self.epoch >= self._learner.recipe.schedule.epochs:
            self._write_metrics()
        else:
            self.progress.report_if_due()
        if self.validation_is_due or self.step % run.save_every == 0:
            self.save()

    def after_validation(self, checkpoint: Checkpoint, report: Report | None) -> None:
        """Record a validation, save its checkpoint as the last and possibly the best one, and save the state.

        Args:
            checkpoint: The checkpoint that was validated.
            report: Its scores; None for a run without validation.
        """
        self._validated_step = self.step
        # With few videos, many checkpoints have the same score; the loss decides between them.
        is_best = report is not None and (report.score, -report.loss) > (self._best_score, -self._best_loss)
        if report is not None:
            self._num_validations += 1
            if is_best:
                self._best_score, self._best_loss = report.score, report.loss
                self._best_epoch = self.epoch - 1
                self._best_interval, self._best_warning = report.score_interval, report.chance_warning
            best = "; best checkpoint so far" if is_best else ""
            self.log(f"epoch {self.epoch}: validation loss {report.loss:.3f}, {report.headline}{best}")
        if self._folder is not None:
            if report is not None:
                self._folder.write_metrics(_validation_row(report, self.step, self.epoch))
                unreadable = {failure.path: failure.reason for failure in report.failures}
                new = {path: why for path, why in unreadable.items() if path not in self._val_failures}
                self._folder.write_failures(self.step, new)
                self._val_failures |= new
            if is_best:
                checkpoint.save(self._folder.best)
            checkpoint.save(self._folder.last)
            self._folder.draw_curves()
        self.save()
        self.progress.measure_speed()  # restart the measurement: the speed is that of training alone

    def save(self) -> None:
        """Save the state of the run if all weights are finite. Every process must call it."""
        self._synchronize()
        self._require_finite_weights()
        path = None if self._folder is None else self._folder.state
        save_state(path, self._identity(), self._stateful_parts())
        self._saved_step = self.step

    def finish(self) -> None:
        """Log the result of the complete run, mark it as finished and delete its state."""
        if self.epoch < self._learner.recipe.schedule.epochs:
            epochs = self.epoch - 1 - self._best_epoch
            self.log(f"stopping early: validation has not improved for {epochs} epochs")
        if self._best_epoch >= 0:
            self._log_best()
        if self._train_failures:
            self.log(f"videos that could not be read: {len(self._train_failures)}; see failures.jsonl")
        if self._folder is not None:
            self._folder.finish(self.step, run_origin(self._source, self._learner.init_digest))

    def state_dict(self) -> dict[str, Any]:
        """Return the part of the record that a run needs to resume."""
        best = {"score": self._best_score, "loss": self._best_loss, "epoch": self._best_epoch}
        return {
            "step": self.step,
            "validated_step": self._validated_step,
            "best": best | {"interval": self._best_interval, "warning": self._best_warning},
            "num_validations": self._num_validations,
            "step_metrics": self._step_metrics,
            "train_failures": self._train_failures,
            "val_failures": self._val_failures,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the record from `state_dict()`."""
        self.step, self._validated_step = state["step"], state["validated_step"]
        self._step_metrics = state["step_metrics"]
        self._train_failures, self._val_failures = state["train_failures"], state["val_failures"]
        best = state["best"]
        self._best_score, self._best_loss, self._best_epoch = best["score"], best["loss"], best["epoch"]
        self._best_interval, self._best_warning = best["interval"], best["warning"]
        self._num_validations = state["num_validations"]

    def _log_best(self) -> None:
        """Log the best checkpoint and the uncertainty of its score."""
        low, high = self._best_interval
        line = (
            f"best checkpoint: epoch {self._best_epoch + 1}, "
            f"{self._score_name} {100 * self._best_score:.1f} % "
            f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        )
        if self._num_validations > 1:
            line += (
                f"; it is the highest of {self._num_validations} validations on the same videos, so expect a "
                "lower score on new videos"
            )
        self.log(line)
        if self._best_warning:
            self.log(f"warning: {self._best_warning}")

    @property
    def _score_name(self) -> str:
        return "mAP" if self._learner.multi_label else "top-1"

    def _check_first_batch(self, batch: Batch) -> None:
        """Warn about an unexpected initial loss, and draw clips of the first batch."""
        self._synchronize()
        if warning := initial_loss_warning(self._learner, self._step_metrics[0][0]):
            self.log(warning)
        if self._folder is not None:
            self._folder.draw_samples(self._learner.preview_clips(batch, self._first_videos()))

    def _first_videos(self) -> list[str]:
        """Return the name of the video of each clip in the first batch; empty for synthetic clips."""
        if self._source.training is None:
            return []
        first = copy(self._sampler)
        first.load_state_dict({"epoch": 0, "batch": 0})
        samples = [self._source.training.samples[draw.item] for draw in next(iter(first))]
        return [video_name(sample) for sample in samples for _ in range(self._source.clips_per_item)]

    def _stateful_parts(self) -> dict[str, Any]:
        """Return everything whose state is saved, by its key in the state file."""
        learner = self._learner
        parts: dict[str, Any] = {
            "learning": LearningState(learner.raw_model, learner.optimizer),
            "schedule": learner.scheduler,
            "record": self,
        }
        if learner.ema is not None:
            parts["average"] = learner.ema
        if (scaler := getattr(learner.fabric.strategy.precision, "scaler", None)) is not None:
            parts["scaler"] = scaler
        return parts

    def _identity(self) -> dict[str, Any]:
        learner = self._learner
        return run_identity(flatten(learner.recipe), run_origin(self._source, learner.init_digest))

    def _write_metrics(self) -> None:
        """Print and write the mean metrics of all steps since the last row."""
        self._synchronize()
        num_steps = len(self._step_metrics)
        loss, accuracy = torch.tensor(self._step_metrics, dtype=torch.float64).mean(0).tolist()
        self._step_metrics = []
        speed = self.progress.measure_speed()
        self.progress.report(
            f"epoch {self.step / len(self._sampler):.2f}, loss {loss:.3f}, acc {accuracy:.0%}, "
            f"{speed['clips_per_second']:.1f} clips/s, waiting for data {speed['data_wait']:.0%}"
        )
        if self._folder is not None:
            row = {
                "step": self.step,
                "num_steps": num_steps,
                "epoch": self.step / len(self._sampler),
                "loss": loss,
                "accuracy": accuracy,
            }
            self._folder.write_metrics(row | {"lr": self._lr} | speed)

    def _scheduled_lr(self) -> float:
        """Return the highest learning rate of the next step."""
        return float(max(self._learner.scheduler.get_last_lr()))

    def _synchronize(self) -> None:
        """Exchange metrics and failures between processes; TrainingError if the run must not continue."""
        fabric = self._learner.fabric
        if self._pending_metrics:
            metrics = all_reduce_mean(torch.stack(self._pending_metrics), fabric)  # (steps, 2)
            self._pending_metrics = []
            self._require_finite_losses(metrics[:, 0])
            self._step_metrics += metrics.tolist()
        failures = gather_objects(self._new_failures)
        self._new_failures = []
        new = {f.path: f.reason for f in failures if f.path not in self._train_failures}
        for path, reason in new.items():
            self.log(f"video cannot be read and is excluded from the loss: {path}: {reason}")
        self._train_failures |= new
        if self._folder is not None:
            self._folder.write_failures(self.step, new)
        self._require_few_failures()

    def _require_finite_losses(self, losses: Tensor) -> None:
        """Raise TrainingError if a loss (steps,) is NaN or infinite."""
        invalid = ~losses.isfinite()
        # A loss scaler finds its scale by occasional overflows, and skips those steps.
        if invalid.all() if self._learner.recipe.run.precision == "fp16" else invalid.any():
            first = self.step - len(losses) + int(invalid.nonzero()[0]) + 1
            raise TrainingError(f"the loss of step {first} is NaN or infinite; {DIVERGENCE_CURE}")

    def _require_finite_weights(self) -> None:
        """Raise TrainingError in every process if a weight is NaN or infinite in one of them."""
        weights = self._learner.raw_model.named_parameters()
        invalid = [name for name, weight in weights if not local_tensor(weight).isfinite().all()]
        # If one process alone raised the error, the others would wait for it.
        for name in gather_objects(invalid):
            raise TrainingError(
                f"{name} has NaN or infinite values after step {self.step}; {DIVERGENCE_CURE}"
            )

    def _require_few_failures(self) -> None:
        """Raise TrainingError if more videos are unreadable than the recipe allows."""
        if len(self._train_failures) > self._source.max_failure_fraction * self._source.length:
            path, reason = next(iter(self._train_failures.items()))
            raise TrainingError(
                f"{len(self._train_failures)} of {self._source.length} videos cannot be read, more than "
                f"data.max_failure_fraction={self._source.max_failure_fraction:g} allows, such as {path}: "
                f"{reason}. `videoswin check` finds all of them and writes a list without them"
            )


def video_name(sample: Sample) -> str:
    """Return the shortened folder and file name of a sample, with its start and end if it has them."""
    name = shortened("/".join(Path(sample.path).parts[-2:]), VIDEO_NAME_WIDTH)
    if sample.start_seconds is None and sample.end_seconds is None:
        return name
    end = "the end" if sample.end_seconds is None else f"{sample.end_seconds:g} s"
    return f"{name}, {sample.start_seconds or 0:g} s to {end}"


def _validation_row(report: Report, step: int, epoch: int) -> dict[str, Any]:
    """Return the row of metrics of one validation."""
    low, high = report.score_interval
    return {
        "step": step,
        "epoch": epoch,
        "val_score": report.score,
        "val_low": low,
        "val_high": high,
        "val_loss": report.loss,
        "chance": report.chance,
    }
