"""Where a run stands: its state on disk, its metrics, its best checkpoint, what it could not read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoswin.data.dataset import Batch, BatchSampler, Failure
from videoswin.data.manifest import Sample
from videoswin.evaluation.evaluate import Report
from videoswin.evaluation.plots import shortened
from videoswin.training.data import Source
from videoswin.training.distributed import LearningState, all_reduce_mean, gather_objects, local_tensor
from videoswin.training.learner import Learner
from videoswin.training.progress import TrainingProgress
from videoswin.training.run_folder import RunFolder, load_state, save_state
from videoswin.training.safeguards import TrainingError, first_loss_warning
from videoswin.training.settings import flatten
from videoswin.weights.checkpoint import Checkpoint

EXECUTION_SETTINGS = frozenset(
    {"data.num_workers", "run.num_threads", "run.log_every", "run.save_every", "run.device", "run.devices"}
    | {"run.num_nodes", "run.strategy", "run.grad_accum_steps", "run.license", "name"}
    | {"model.init_from", "data.train", "data.val", "data.root"}
)
"""Settings under which a run may go on from another's state: how it is carried out, not what is learned.

Nor where its data and the weights that it starts from lie: their digests tell whether they are the same.
"""
VIDEO_NAME_WIDTH = 60
"""Characters of the name of a video on samples.png; of longer names the middle is left out."""
CURE = (
    "the last saved state is sound and is kept. Lower optimizer.lr or optimizer.max_grad_norm, or set "
    "run.precision=fp32"
)
"""Ends the sentence that tells of a run which has diverged."""


def identity(settings: Mapping[str, Any], origin: Mapping[str, str]) -> dict[str, Any]:
    """What makes a run this one: the settings of its recipe that decide what is learned, and its origin."""
    return {key: value for key, value in settings.items() if key not in EXECUTION_SETTINGS} | dict(origin)


def origin(source: Source, init_digest: str | None) -> dict[str, str]:
    """What a run learns from and what it starts from, as digests."""
    return {"data": source.digest} | ({} if init_digest is None else {"start": init_digest})


class Recorder:
    """The record of a run. Every process keeps one, for they must agree; the first one writes it down."""

    def __init__(
        self, folder: RunFolder | None, learner: Learner, sampler: BatchSampler, source: Source
    ) -> None:
        """folder: None in every process but the first."""
        self._folder, self._learner, self._sampler, self._source = folder, learner, sampler, source
        recipe = learner.recipe
        steps = recipe.schedule.epochs * len(sampler)
        self.progress = TrainingProgress(steps, shown=folder is not None)
        self.step = 0
        """Steps made."""
        self._saved_step: int | None = None
        self._validated_step = 0
        self._best_score, self._best_loss, self._best_epoch = -math.inf, math.inf, -1
        self._best_interval = (0.0, 1.0)
        self._best_warning: str | None = None
        self._num_validations = 0
        self._window: list[list[float]] = []
        """Loss and accuracy of every step since the last report,"""
        self._pending: list[Tensor] = []
        """but of the newest, which are still on the device."""
        self._rate = self._next_rate = self._scheduled_rate()
        """The learning rate of the newest step, and of the next one."""
        self._unreadable: list[Failure] = []
        """Failures since the last settling, of this process alone;"""
        self._failed: dict[str, str] = {}
        """of all processes, path and reason."""
        self._unvalidated: dict[str, str] = {}
        """Videos of the validation that cannot be read."""

    @property
    def epoch(self) -> int:
        """Whole epochs made."""
        return self.step // len(self._sampler)

    @property
    def validation_is_due(self) -> bool:
        """True at the end of an epoch that the recipe validates after, until that is done."""
        plan = self._learner.recipe.schedule
        ends = self.step > 0 and self.step % len(self._sampler) == 0
        due = self.epoch % plan.val_every == 0 or self.epoch >= plan.epochs
        return ends and due and self._validated_step != self.step

    @property
    def should_stop_early(self) -> bool:
        """True if validation has not become better for as many epochs as the recipe's patience."""
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

    def say(self, line: str) -> None:
        """Tell whoever watches."""
        self.progress.say(line)

    def resume(self, state: Path) -> bool:
        """Go on from `state`: learner, sampler and record are as they were then. False if it is not there."""
        resumed = load_state(state, self._identity(), self._parts())
        epoch, batch = divmod(self.step, len(self._sampler))
        self._sampler.load_state_dict({"epoch": epoch, "batch": batch})
        self.progress.resume(self.step)
        self._saved_step = self.step if resumed else None
        self._rate = self._next_rate = self._scheduled_rate()
        if self._folder is not None:
            self._folder.resume_from(self.step)
        return resumed

    def resuming(self) -> str:
        """What to do after a failure: the rest of a sentence."""
        if self._saved_step is None:
            return "run the same command again; nothing was saved yet"
        return (
            f"run the same command again to resume from the state of step {self._saved_step}, which is sound"
        )

    def stepped(self, result: Tensor, batch: Batch) -> None:
        """One step more; `result` is its loss and accuracy. Reports and saves when it is time to."""
        run = self._learner.recipe.run
        self.step += 1
        self._pending.append(result)
        self._rate, self._next_rate = self._next_rate, self._scheduled_rate()
        if self.step == 1:
            self._look_at_the_first(batch)
        self._unreadable += batch.failures
        self.progress.stepped(len(batch.clips) * self._learner.fabric.world_size)
        # Each line of metrics is the mean of as many steps, but for the last of the run.
        if self.step % run.log_every == 0 or self.epoch >= self._learner.recipe.schedule.epochs:
            self._report()
        else:
            self.progress.report_if_due()
        if self.validation_is_due or self.step % run.save_every == 0:
            self.save()

    def validated(self, checkpoint: Checkpoint, report: Report | None) -> None:
        """Record a validation of the checkpoint, if there is one; keep it, and the best; save the state."""
        self._validated_step = self.step
        # Of few videos many checkpoints name as many right: the loss tells them apart.
        improves = report is not None and (report.score, -report.loss) > (self._best_score, -self._best_loss)
        if report is not None:
            self._num_validations += 1
            if improves:
                self._best_score, self._best_loss, self._best_epoch = (
                    report.score,
                    report.loss,
                    self.epoch - 1,
                )
                self._best_interval, self._best_warning = report.score_interval, report.chance_warning
            best = "; best checkpoint so far" if improves else ""
            self.say(f"epoch {self.epoch}: validation loss {report.loss:.3f}, {report.headline}{best}")
        if self._folder is not None:
            if report is not None:
                self._folder.record(_validation_row(report, self.step, self.epoch))
                unreadable = {failure.path: failure.reason for failure in report.failures}
                fresh = {path: why for path, why in unreadable.items() if path not in self._unvalidated}
                self._folder.record_failures(self.step, fresh)
                self._unvalidated |= fresh
            if improves:
                checkpoint.save(self._folder.best)
            checkpoint.save(self._folder.last)
            self._folder.draw_curves()
        self.save()
        self.progress.speed()  # which is that of training

    def save(self) -> None:
        """Write the state of everything, if the run is sound. Every process must call it."""
        self._settle()
        self._require_sound_weights()
        save_state(None if self._folder is None else self._folder.state, self._identity(), self._parts())
        self._saved_step = self.step

    def finish(self) -> None:
        """The run is over: say how it ended."""
        if self.epoch < self._learner.recipe.schedule.epochs:
            epochs = self.epoch - 1 - self._best_epoch
            self.say(f"validation has not improved for {epochs} epochs: training stops early")
        if self._best_epoch >= 0:
            self._say_best()
        if self._failed:
            self.say(f"videos that could not be read: {len(self._failed)}; see failures.jsonl")
        if self._folder is not None:
            self._folder.finish(self.step, origin(self._source, self._learner.init_digest))

    def state_dict(self) -> dict[str, Any]:
        """What of this record a run needs to go on."""
        best = {"score": self._best_score, "loss": self._best_loss, "epoch": self._best_epoch}
        return {
            "step": self.step,
            "validated_step": self._validated_step,
            "best": best | {"interval": self._best_interval, "warning": self._best_warning},
            "validations": self._num_validations,
            "num_steps": self._window,
            "failed": self._failed,
            "unvalidated": self._unvalidated,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up that record."""
        self.step, self._window, self._failed = state["step"], state["num_steps"], state["failed"]
        self._unvalidated, self._validated_step = state["unvalidated"], state["validated_step"]
        best = state["best"]
        self._best_score, self._best_loss, self._best_epoch = best["score"], best["loss"], best["epoch"]
        self._best_interval, self._best_warning = best["interval"], best["warning"]
        self._num_validations = state["validations"]

    def _say_best(self) -> None:
        """Say which checkpoint is kept, and what its score is worth."""
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
        self.say(line)
        if self._best_warning:
            self.say(f"warning: {self._best_warning}")

    @property
    def _score_name(self) -> str:
        return "mAP" if self._learner.multi_label else "top-1"

    def _look_at_the_first(self, batch: Batch) -> None:
        """Show what the model saw, and say if its first answer is not what a new head gives."""
        self._settle()
        if warning := first_loss_warning(self._learner, self._window[0][0]):
            self.say(warning)
        if self._folder is not None:
            self._folder.draw_samples(self._learner.sample_strips(batch, self._first_videos()))

    def _first_videos(self) -> list[str]:
        """The name of the video of each clip in the first batch of this process; none for generated clips."""
        if self._source.training is None:
            return []
        first = copy(self._sampler)
        first.load_state_dict({"epoch": 0, "batch": 0})
        samples = [self._source.training.samples[draw.item] for draw in next(iter(first))]
        return [video_name(sample) for sample in samples for _ in range(self._source.clips_per_item)]

    def _parts(self) -> dict[str, Any]:
        learner = self._learner
        parts: dict[str, Any] = {
            "learning": LearningState(learner.bare, learner.optimizer),
            "schedule": learner.schedule,
            "record": self,
        }
        if learner.average is not None:
            parts["average"] = learner.average
        if (scaler := getattr(learner.fabric.strategy.precision, "scaler", None)) is not None:
            parts["scaler"] = scaler
        return parts

    def _identity(self) -> dict[str, Any]:
        learner = self._learner
        return identity(flatten(learner.recipe), origin(self._source, learner.init_digest))

    def _report(self) -> None:
        self._settle()
        window = len(self._window)
        loss, accuracy = torch.tensor(self._window, dtype=torch.float64).mean(0).tolist()
        self._window = []
        speed = self.progress.speed()
        self.progress.report(
            f"epoch {self.step / len(self._sampler):.2f}, loss {loss:.3f}, acc {accuracy:.0%}, "
            f"{speed['clips_per_second']:.1f} clips/s, waiting for data {speed['data_wait']:.0%}"
        )
        if self._folder is not None:
            row = {
                "step": self.step,
                "num_steps": window,
                "epoch": self.step / len(self._sampler),
                "loss": loss,
                "accuracy": accuracy,
            }
            self._folder.record(row | {"lr": self._rate} | speed)

    def _scheduled_rate(self) -> float:
        """The highest learning rate of the next step."""
        return float(max(self._learner.schedule.get_last_lr()))

    def _settle(self) -> None:
        """Agree with the other processes on what has happened; TrainingError if the run must not go on."""
        fabric = self._learner.fabric
        if self._pending:
            settled = all_reduce_mean(torch.stack(self._pending), fabric)  # (steps, 2)
            self._pending = []
            self._require_finite_scores(settled[:, 0])
            self._window += settled.tolist()
        failures = gather_objects(self._unreadable)
        self._unreadable = []
        fresh = {failure.path: failure.reason for failure in failures if failure.path not in self._failed}
        for path, reason in fresh.items():
            self.say(f"cannot be read, and is left out of the loss: {path}: {reason}")
        self._failed |= fresh
        if self._folder is not None:
            self._folder.record_failures(self.step, fresh)
        self._require_few_failures()

    def _require_finite_scores(self, losses: Tensor) -> None:
        broken = ~losses.isfinite()
        # A loss scaler finds its scale by overflowing now and then, and skips those steps.
        if broken.all() if self._learner.recipe.run.precision == "fp16" else broken.any():
            first = self.step - len(losses) + int(broken.nonzero()[0]) + 1
            raise TrainingError(f"the loss of step {first} is not a number; {CURE}")

    def _require_sound_weights(self) -> None:
        weights = self._learner.bare.named_parameters()
        broken = [name for name, weight in weights if not local_tensor(weight).isfinite().all()]
        # What only one process sees must stop all of them, or the others would wait for it.
        for name in gather_objects(broken):
            raise TrainingError(f"after step {self.step}, {name} is not all numbers; {CURE}")

    def _require_few_failures(self) -> None:
        if len(self._failed) > self._source.max_failure_fraction * self._source.length:
            path, reason = next(iter(self._failed.items()))
            raise TrainingError(
                f"{len(self._failed)} of {self._source.length} videos cannot be read, more than "
                f"data.max_failure_fraction allows, e.g. {path}: {reason}. `videoswin check` finds them all "
                "and writes a list without them"
            )


def video_name(sample: Sample) -> str:
    """The file of a sample with its folder, shortened, and the labeled part if it is not the whole video."""
    name = shortened("/".join(Path(sample.path).parts[-2:]), VIDEO_NAME_WIDTH)
    if sample.start_seconds is None and sample.end_seconds is None:
        return name
    end = "the end" if sample.end_seconds is None else f"{sample.end_seconds:g} s"
    return f"{name}, {sample.start_seconds or 0:g} s to {end}"


def _validation_row(report: Report, step: int, epoch: int) -> dict[str, Any]:
    """The row of metrics for one validation."""
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
