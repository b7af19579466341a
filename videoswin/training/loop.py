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
from typing import Any

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


def training_step(learner: Learner, batch: Batch, step: int) -> Tensor:
    """Train on one batch: forward, backward, optimizer, scheduler, moving average.

    All random numbers depend only on seed, step and process, so that a resumed run repeats them exactly.

    Args:
        learner: Model, optimizer and everything else that changes.
        batch: The batch of this process, with uint8 clips (B, 3, T, S, S).
        step: Index of the step in the run.

    Returns:
        Loss and accuracy over the clips that count, (2,); their mean over processes is that of the batch.
    """
    fabric, model, accum_steps = learner.fabric, learner.model, learner.recipe.run.grad_accum_steps
    # Gradients are averaged over processes, so each divides by the mean number of clips that count.
    total = all_reduce_mean(batch.counts.sum(), fabric)
    # Augment before splitting the batch: mixup and cutmix combine clips of the whole batch.
    clips, soft = learner.prepare(batch, learner.rng_of_step(step))
    chunks = zip(*(t.chunk(accum_steps) for t in (clips, soft, batch.targets, batch.counts)), strict=True)
    metrics = torch.zeros(2, device=fabric.device)
    for number, (clips, soft, targets, counts) in enumerate(chunks, start=1):
        with fabric.no_backward_sync(model, enabled=number < accum_steps):
            logits = model(clips).float()  # (B, K)
            loss = learner.loss(logits, soft, counts, total)
            fabric.backward(loss)
        metrics += torch.stack([loss.detach(), accuracy(logits, targets, counts, total)])
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
) -> Path | None:
    """Train a model as a recipe describes it, or resume an interrupted run.

    If the folder has the state of an earlier call with the same recipe, the run resumes from it, with the
    same result as without the interruption. If that call has finished, nothing is trained.

    Args:
        recipe: The run.
        out: The run folder, which is created if it does not exist; its files are listed in run_folder.py.
        saved_recipe: Content of recipe.json, from `recipe_to_dict`; None writes the settings of the recipe.
        inputs: Lists of videos and initial checkpoint, if they were read before; None reads them.

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
        inputs = read_inputs(recipe)
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
    recipe, fabric = learner.recipe, learner.fabric
    loader = build_loader(source, sampler, recipe.data.num_workers, fabric.device)
    metrics, unreadable = TrainingMetrics(fabric), UnreadableVideos(source)
    early_stopping = EarlyStopping(recipe.schedule.patience)
    parts = learner.stateful_parts()
    parts |= {"metrics": metrics, "unreadable": unreadable, "early_stopping": early_stopping}
    identity = run_identity(flatten(recipe), origin)
    run, epochs, steps_per_epoch = recipe.run, recipe.schedule.epochs, len(sampler)
    bar = Progress("train", epochs * steps_per_epoch, "steps", shown=fabric.is_global_zero)

    def synchronize() -> None:
        metrics.synchronize(step, allow_overflow=run.precision == "fp16")
        for path, reason in (new := unreadable.synchronize()).items():
            bar.print_line(f"video cannot be read and is excluded from the loss: {path}: {reason}")
        folder.write_failures(step, new)
        unreadable.require_few()

    def save() -> None:
        synchronize()
        require_finite_weights(learner.raw_model, step)
        folder.save_state(identity, parts, RunProgress(step, epoch))

    fabric.barrier()
    with bar, explain_failures(folder.path, folder.describe_resume), StopRequest() as stop:
        step, epoch = folder.resume(identity, parts)
        sampler.load_state_dict({"epoch": step // steps_per_epoch, "batch": step % steps_per_epoch})
        bar.resume(step)
        if step > 0:
            bar.print_line(f"resuming after step {step}")
        else:
            folder.write_settings(saved_recipe)
            folder.write_video_lists(source.training, source.validation)
            log_start(learner, source, bar.print_line)
        while epoch < epochs and not early_stopping.should_stop(epoch):
            needs_validation = (epoch + 1) % recipe.schedule.val_every == 0 or epoch + 1 == epochs
            last_step = (epoch + 1) * steps_per_epoch
            for batch in iterate_batches(loader, last_step - step, fabric.device, metrics, stop):
                if stop.is_set(fabric):
                    save()
                    return False
                assert batch is not None
                lr = learner.lr
                metrics.update(training_step(learner, batch, step), len(batch.clips))
                unreadable.update(batch)
                step += 1
                bar.count()
                if step == 1:
                    synchronize()
                    if warning := initial_loss_warning(learner, metrics.first_loss):
                        bar.print_line(warning)
                    folder.draw_samples(learner.preview_clips(batch, first_videos(source, sampler)))
                if step % run.log_every == 0 or step == epochs * steps_per_epoch:
                    synchronize()
                    row = {"step": step, "epoch": step / steps_per_epoch, "lr": lr} | metrics.compute()
                    folder.write_metrics(row)
                    bar.report(describe_metrics(row))
                if step % run.save_every == 0 or (needs_validation and step == last_step):
                    save()
                bar.report_if_due()
            if needs_validation:
                checkpoint = learner.checkpoint()
                report = validate(learner, source, checkpoint, stop)
                if stop.is_set(fabric):
                    return False  # the state is already saved; a run that resumes validates again
                is_best = False
                if report is not None:
                    is_best = early_stopping.update(report, epoch + 1)
                    bar.print_line(describe_validation(report, epoch + 1, is_best=is_best))
                    folder.write_validation(report, RunProgress(step, epoch + 1))
                folder.save_checkpoint(checkpoint, is_best=is_best)
                folder.draw_curves()
            epoch += 1
            if needs_validation:
                save()
                metrics.restart_timer()  # the speed is that of training alone
        if epoch < epochs:
            bar.print_line(
                f"stopping early: validation has not improved since epoch {early_stopping.best_epoch}"
            )
        for line in (*early_stopping.describe_best(learner.score_name), *unreadable.describe()):
            bar.print_line(line)
        folder.finish(step, origin)
    return True


def iterate_batches(
    loader: DataLoader[Batch],
    steps_left: int,
    device: torch.device,
    metrics: TrainingMetrics,
    stop: StopRequest,
) -> Iterator[Batch | None]:
    """Yield the rest of the batches of an epoch, and measure the time spent waiting for them.

    Args:
        loader: Loads the batches of this process.
        steps_left: Number of batches left in the epoch.
        device: Where the tensors of the batches are moved.
        metrics: Gets the waiting times.
        stop: Interrupts the waiting.

    Yields:
        Batches on the device; None, as the last value, after a request to stop while no batch was ready.
    """
    iterator = stop.wait_for(lambda: iter(loader)) if steps_left else None
    for _ in range(steps_left):
        start = time.monotonic()
        with naming_killed_workers():
            batch = None if iterator is None else stop.wait_for(iterator.__next__)
        metrics.add_waiting_time(time.monotonic() - start)
        if batch is None:
            yield None
            return
        clips, targets, counts = (tensor.to(device, non_blocking=True) for tensor in batch[:3])
        yield Batch(clips, targets, counts, batch.failures)


def validate(
    learner: Learner, source: DataSource, checkpoint: Checkpoint, stop: StopRequest
) -> Report | None:
    """Evaluate a checkpoint on the validation videos, with one center view of each.

    Returns:
        The scores; None for a run without validation, or after a request to stop.

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
