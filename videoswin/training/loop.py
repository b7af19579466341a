"""The training loop: `training_step` trains on one batch, `train` runs everything around it.

Lightning Fabric handles device, precision and processes.

Legend: B clips, K classes, T frames, S height and width in pixels.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from videoswin._distributed import all_reduce_mean, from_all_ranks, naming_killed_workers
from videoswin._errors import NonFiniteScoresError, TrainingError
from videoswin._progress import Progress
from videoswin.data.dataset import Batch, BatchSampler
from videoswin.evaluation.evaluate import evaluate
from videoswin.evaluation.report import Report
from videoswin.inference.predictor import Predictor
from videoswin.training.data import (
    DataSource,
    RunInputs,
    build_loader,
    build_sampler,
    first_videos,
    open_data_source,
    read_inputs,
)
from videoswin.training.learner import Learner, build_learner, launch_fabric
from videoswin.training.metrics import (
    EarlyStopping,
    TrainingMetrics,
    UnreadableVideos,
    accuracy,
    describe_metrics,
    describe_validation,
)
from videoswin.training.recipe import Recipe
from videoswin.training.run_folder import RunFolder
from videoswin.training.safeguards import (
    DIVERGENCE_CURE,
    StopRequest,
    explain_failures,
    initial_loss_warning,
    log_start,
    require_divisible_batch,
    require_finite_weights,
)
from videoswin.training.settings import flatten, with_settings
from videoswin.training.state import RunProgress, run_identity, run_origin
from videoswin.video.spec import ViewPlan
from videoswin.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def training_step(learner: Learner, batch: Batch, step: int) -> Tensor:
    """Train on one batch: forward, backward, optimizer, scheduler, moving average.

    All random numbers depend only on seed, step and process, so that a resumed run repeats them exactly.

    Args:
        learner: Model, optimizer and everything else that changes.
        batch: The batch of this process, with uint8 clips (B, 3, T, S, S).
        step: Index of the step in the run.

    Returns:
        Weighted loss and accuracy of the clips, (2,); their mean over processes is that of the batch.
    """
    fabric, model, accum_steps = learner.fabric, learner.model, learner.recipe.run.grad_accum_steps
    # Gradients are averaged over processes, so each divides by the mean of the total weights.
    total_weight = all_reduce_mean(batch.weights.sum(), fabric)
    # Augment before splitting the batch: mixup and cutmix combine clips of the whole batch.
    clips, soft_targets = learner.prepare(batch, learner.rng_of_step(step))
    parts = (tensor.chunk(accum_steps) for tensor in (clips, soft_targets, batch.targets, batch.weights))
    metrics = torch.zeros(2, device=fabric.device)
    for number, micro_batch in enumerate(zip(*parts, strict=True), start=1):
        micro_clips, micro_soft_targets, micro_targets, micro_weights = micro_batch
        with fabric.no_backward_sync(model, enabled=number < accum_steps):
            logits = model(micro_clips).float()  # (B / accum_steps, K)
            loss = learner.loss(logits, micro_soft_targets, micro_weights, total_weight)
            fabric.backward(loss)
        metrics += torch.stack([loss.detach(), accuracy(logits, micro_targets, micro_weights, total_weight)])
    learner.clip_gradients()
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    learner.scheduler.step()
    if learner.ema is not None:
        learner.ema.update()
    return metrics


def train(
    recipe: Recipe,
    out: Path,
    *,
    saved_recipe: Mapping[str, Any] | None = None,
    inputs: RunInputs | None = None,
    license: str | None = None,
) -> Path | None:
    """Train a model as a recipe describes it, or resume an interrupted run.

    If the folder has the state of an earlier call with the same recipe, the run resumes from it, with the
    same result as without the interruption. If that call has finished, nothing is trained.

    Args:
        recipe: The run.
        out: The run folder, which is created if it does not exist; its files are listed in run_folder.py.
        saved_recipe: Content of recipe.json, from `recipe_to_dict`; None writes the settings of the recipe.
        inputs: Lists of videos and initial checkpoint, if they were read before; None reads them.
        license: License of a restricted initial checkpoint, repeated to accept it.

    Returns:
        Path of the best checkpoint, or of the last one without validation. None if SIGTERM stopped the run:
        its state is saved, and the same call resumes it. SIGTERM is noticed in the main thread only.

    Raises:
        InputError: The recipe is invalid, its data cannot be read, or the folder has another run.
        TrainingError: The run cannot continue, for example because it has diverged.

    Example:
        recipe = build_recipe("finetune", data="my_videos/", init_from="camera-motion")
        checkpoint = train(recipe, Path("run"))
    """
    fabric = launch_fabric(recipe.run)
    recipe = broadcast_settings(recipe)
    if inputs is None or not inputs.are_those_of(recipe):
        inputs = read_inputs(recipe, license=license)
    source, folder = open_data_source(recipe, inputs), RunFolder(out)
    origin = run_origin(source, inputs.checkpoint)
    with folder.locked():
        if folder.is_finished(run_identity(flatten(recipe), origin)):
            return folder.result
        require_divisible_batch(recipe, source.clips_per_item, fabric.world_size)
        sampler = build_sampler(source, recipe, fabric.global_rank, fabric.world_size)
        learner = build_learner(recipe, source, inputs.checkpoint, fabric, len(sampler))
        is_complete = run_epochs(learner, source, sampler, folder, origin, saved_recipe or flatten(recipe))
        return folder.result if is_complete else None


def broadcast_settings(recipe: Recipe) -> Recipe:
    """Return the recipe with the settings of the first process.

    Every process builds the recipe itself, and settings that depend on measured speed may differ.
    """
    settings = from_all_ranks(flatten(recipe))
    return with_settings(recipe, settings[0]) if len(settings) > 1 else recipe


def run_epochs(
    learner: Learner,
    source: DataSource,
    sampler: BatchSampler,
    folder: RunFolder,
    origin: Mapping[str, str],
    saved_recipe: Mapping[str, Any],
) -> bool:
    """Train from the first step or the saved state to the end, with validation, logging and checkpoints.

    Args:
        learner: Model, optimizer and everything else that a step changes.
        source: Training and validation data.
        sampler: The batches of this process.
        folder: The run folder.
        origin: Digests of data and initial weights.
        saved_recipe: Content of recipe.json.

    Returns:
        False if SIGTERM stopped the run before its end; its state is then saved.
    """
    run = TrainingRun(learner, source, sampler, folder, run_identity(flatten(learner.recipe), origin))
    learner.fabric.barrier()
    with run.bar, explain_failures(folder.path, folder.describe_resume), StopRequest() as stop:
        run.start_or_resume(saved_recipe)
        while run.epoch < run.num_epochs and not run.early_stopping.should_stop(run.epoch):
            if not (run.train_epoch(stop) and run.end_epoch(stop)):
                return False
        run.describe_end()
        folder.finish(run.step, origin)
    return True


class TrainingRun:
    """What `run_epochs` keeps between steps, and the parts of its work."""

    def __init__(
        self,
        learner: Learner,
        source: DataSource,
        sampler: BatchSampler,
        folder: RunFolder,
        identity: Mapping[str, Any],
    ) -> None:
        """Create a run before its first step.

        Args:
            learner: As for `run_epochs`, and so are the next three.
            source: Training and validation data.
            sampler: The batches of this process.
            folder: The run folder.
            identity: Settings and digests that a saved state must have, from `run_identity`.
        """
        recipe, fabric = learner.recipe, learner.fabric
        self.learner, self.source, self.sampler, self.folder = learner, source, sampler, folder
        self.identity = identity
        self.loader = build_loader(source, sampler, recipe.data.num_workers, fabric.device)
        self.metrics, self.unreadable = TrainingMetrics(fabric), UnreadableVideos(source)
        self.early_stopping = EarlyStopping(recipe.schedule.patience)
        self.stateful_parts = learner.stateful_parts() | {
            "metrics": self.metrics,
            "unreadable": self.unreadable,
            "early_stopping": self.early_stopping,
        }
        self.step, self.epoch = 0, 0
        """Finished steps and epochs."""
        self.num_epochs, self.steps_per_epoch = recipe.schedule.epochs, len(sampler)
        self.num_steps = self.num_epochs * self.steps_per_epoch
        self.bar = Progress("train", self.num_steps, "steps", shown=fabric.is_global_zero)

    @property
    def needs_validation(self) -> bool:
        """Whether the current epoch ends with a validation."""
        num_finished = self.epoch + 1
        return num_finished % self.learner.recipe.schedule.val_every == 0 or num_finished == self.num_epochs

    def start_or_resume(self, saved_recipe: Mapping[str, Any]) -> None:
        """Restore the saved state, or write and log the settings of a new run."""
        self.step, self.epoch = self.folder.resume(self.identity, self.stateful_parts)
        epoch, batch = divmod(self.step, self.steps_per_epoch)
        self.sampler.load_state_dict({"epoch": epoch, "batch": batch})
        self.bar.resume(self.step)
        if self.step > 0:
            self.bar.print_line(f"resuming after step {self.step}")
        else:
            self.folder.write_settings(saved_recipe)
            self.folder.write_video_lists(self.source.training, self.source.validation)
            log_start(self.learner, self.source, self.bar.print_line)

    def train_epoch(self, stop: StopRequest) -> bool:
        """Train on the rest of an epoch; save the state and return False after a request to stop."""
        learner, settings = self.learner, self.learner.recipe.run
        last_step = (self.epoch + 1) * self.steps_per_epoch
        for batch in iterate_batches(self.loader, last_step - self.step, learner.fabric, self.metrics, stop):
            lr = learner.lr
            self.metrics.update(training_step(learner, batch, self.step), len(batch.clips))
            self.unreadable.update(batch)
            self.step += 1
            self.bar.count()
            if self.step == 1:
                self.check_first_step(batch)
            if self.step % settings.log_every == 0 or self.step == self.num_steps:
                self.log_metrics(lr)
            # Also before a validation: if it fails or is stopped, a run that resumes needs no training.
            if self.step % settings.save_every == 0 or (self.needs_validation and self.step == last_step):
                self.save_state()
            self.bar.report_if_due()
        if self.step < last_step:
            self.save_state()
            return False
        return True

    def end_epoch(self, stop: StopRequest) -> bool:
        """Validate if it is due, and count the epoch; return False if a request stopped the validation."""
        if not self.needs_validation:
            self.epoch += 1
            return True
        checkpoint = self.learner.checkpoint()
        report = validate(self.learner, self.source, checkpoint, stop)
        if stop.is_set(self.learner.fabric):
            return False  # `train_epoch` has saved the state; a run that resumes validates again
        self.epoch += 1
        self.record(checkpoint, report)
        self.save_state()  # again, so that a run that resumes does not repeat the validation
        self.metrics.restart_timer()  # the speed is that of training alone
        return True

    def record(self, checkpoint: Checkpoint, report: Report | None) -> None:
        """Write a checkpoint and the scores of its validation, if any."""
        is_best = False
        if report is not None:
            is_best = self.early_stopping.update(report, self.epoch)
            self.bar.print_line(describe_validation(report, self.epoch, is_best=is_best))
            self.folder.write_validation(report, RunProgress(self.step, self.epoch))
        self.folder.save_checkpoint(checkpoint, is_best=is_best)
        self.folder.draw_curves()

    def synchronize(self) -> None:
        """Exchange metrics and unreadable videos between processes; raise TrainingError if either is bad."""
        self.metrics.synchronize(self.step, allow_overflow=self.learner.recipe.run.precision == "fp16")
        for path, reason in (new := self.unreadable.synchronize()).items():
            self.bar.print_line(f"video cannot be read and is excluded from the loss: {path}: {reason}")
        self.folder.write_failures(self.step, new)
        self.unreadable.require_few()

    def save_state(self) -> None:
        """Save everything that a resumed run needs."""
        self.synchronize()
        require_finite_weights(self.learner.raw_model, self.step)
        self.folder.save_state(self.identity, self.stateful_parts, RunProgress(self.step, self.epoch))

    def check_first_step(self, batch: Batch) -> None:
        """Warn if the first loss is unexpected, and draw the clips of the first batch."""
        self.synchronize()
        if warning := initial_loss_warning(self.learner, self.metrics.first_loss):
            self.bar.print_line(warning)
        names = first_videos(self.source, self.sampler)
        self.folder.draw_samples(self.learner.preview_clips(batch, names))

    def log_metrics(self, lr: float) -> None:
        """Write and print the metrics since the last call, with the learning rate of the newest step."""
        self.synchronize()
        row = {"step": self.step, "epoch": self.step / self.steps_per_epoch, "lr": lr}
        row |= self.metrics.compute()
        self.folder.write_metrics(row)
        self.bar.report(describe_metrics(row))

    def describe_end(self) -> None:
        """Print why the run has ended early, its best checkpoint, and the number of unreadable videos."""
        best = self.early_stopping
        if self.epoch < self.num_epochs:
            self.bar.print_line(f"stopping early: validation has not improved since epoch {best.best_epoch}")
        for line in (*best.describe_best(self.learner.score_name), *self.unreadable.describe()):
            self.bar.print_line(line)


def iterate_batches(
    loader: DataLoader[Batch], steps_left: int, fabric: Fabric, metrics: TrainingMetrics, stop: StopRequest
) -> Iterator[Batch]:
    """Yield the rest of the batches of an epoch, and measure the time spent waiting for them.

    After a request to stop in any process, it ends early in all of them, also if no batch is ready.

    Args:
        loader: Loads the batches of this process.
        steps_left: Number of batches left in the epoch.
        fabric: Has the device to which the tensors are moved, and the processes.
        metrics: Gets the waiting times.
        stop: The request to stop.
    """
    iterator = stop.wait_for(lambda: iter(loader)) if steps_left else None
    for _ in range(steps_left):
        start = time.monotonic()
        with naming_killed_workers():
            batch = None if iterator is None else stop.wait_for(iterator.__next__)
        metrics.add_waiting_time(time.monotonic() - start)
        # There is no batch only after a request, but every process must call `is_set` equally often.
        if stop.is_set(fabric) or batch is None:
            return
        clips, targets, weights = (
            tensor.to(fabric.device, non_blocking=True)
            for tensor in (batch.clips, batch.targets, batch.weights)
        )
        yield Batch(clips, targets, weights, batch.failures)


def validate(
    learner: Learner, source: DataSource, checkpoint: Checkpoint, stop: StopRequest
) -> Report | None:
    """Return the scores of a checkpoint; None for a run without validation, or after a request to stop.

    Args:
        learner: Its device and its number of workers are used.
        source: Its validation videos are evaluated, with one center view of each.
        checkpoint: The weights to evaluate.
        stop: Interrupts the evaluation, if there is only one process.

    Raises:
        TrainingError: Scores are NaN or infinite, which finite but very large weights can cause.
    """
    if source.validation is None:
        return None
    predictor = Predictor(
        replace(checkpoint, views=ViewPlan(clips=1, crops=1)), device=str(learner.fabric.device)
    )
    evaluation = partial(
        evaluate,
        predictor,
        source.validation,
        workers=learner.recipe.data.num_workers,
        title="validate",
        progress=not sys.stderr.isatty(),  # a terminal shows the progress bar of training
    )
    try:
        # Several processes exchange their scores: none of them may stop before that.
        return evaluation() if learner.fabric.world_size > 1 else stop.wait_for(evaluation)
    except NonFiniteScoresError as error:
        raise TrainingError(
            f"the scores of the validation videos are NaN or infinite; {DIVERGENCE_CURE}"
        ) from error
