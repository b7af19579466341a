"""The training loop: `training_step` trains on one batch, `train` runs everything around it.

Lightning Fabric handles device, precision and processes.

Legend: B clips, K classes, T frames, S height and width in pixels.
"""

from __future__ import annotations

import logging
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

from videoswin._distributed import (
    from_all_ranks,
    naming_killed_workers,
    require_startable_workers,
    start_data_worker,
)
from videoswin._errors import InputError
from videoswin.data.dataset import Batch, BatchSampler, collate
from videoswin.evaluation.evaluate import Report, evaluate
from videoswin.inference.predictor import NonFiniteScoresError, Predictor
from videoswin.training.data import DataSource, open_data_source
from videoswin.training.distributed import all_reduce_mean
from videoswin.training.learner import (
    Learner,
    build_learner,
    launch_fabric,
    load_initial_checkpoint,
    weights_digest,
)
from videoswin.training.losses import classification_loss
from videoswin.training.recipe import Recipe
from videoswin.training.recorder import DIVERGENCE_CURE, Recorder
from videoswin.training.run_folder import RunFolder, differing_keys, run_identity, run_origin
from videoswin.training.safeguards import (
    StopRequest,
    TrainingError,
    explain_failures,
    log_start,
    require_divisible_batch,
)
from videoswin.training.settings import flatten, with_settings
from videoswin.video.spec import ViewPlan
from videoswin.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from lightning_fabric import Fabric

logger = logging.getLogger(__name__)


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
    fabric, model, max_grad_norm = learner.fabric, learner.model, learner.recipe.optimizer.max_grad_norm
    rng = learner.rng_of_step(step)
    # Gradients are averaged over processes, so each divides by the mean number of clips that count.
    total = all_reduce_mean(batch.counts.sum(), fabric)
    # Augment before splitting the batch: mixup and cutmix combine clips of the whole batch.
    clips, soft = learner.prepare(batch, rng)
    accum_steps = learner.recipe.run.grad_accum_steps
    chunks = zip(*(t.chunk(accum_steps) for t in (clips, soft, batch.targets, batch.counts)), strict=True)
    metrics = torch.zeros(2, device=fabric.device)
    for number, (clips, soft, targets, counts) in enumerate(chunks, start=1):
        with fabric.no_backward_sync(model, enabled=number < accum_steps):
            logits = model(clips).float()  # (B, K)
            loss = classification_loss(
                logits, soft, counts, learner.class_weights, multi_label=learner.multi_label, total=total
            )
            fabric.backward(loss)
        # If no clip counts, the sum is 0, and must not become 0 / 0.
        accuracy = (top1_correct(logits, targets) * counts).sum() / total.clamp(min=1e-6)
        metrics += torch.stack([loss.detach(), accuracy])
    if max_grad_norm is not None:
        # The recorder detects NaN and infinity, with a more helpful error than this function's.
        fabric.clip_gradients(model, learner.optimizer, max_norm=max_grad_norm, error_if_nonfinite=False)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    learner.scheduler.step()
    if learner.ema is not None:
        learner.ema.update()
    return metrics


def top1_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Return whether the top-1 prediction of each clip is correct.

    Args:
        logits: (B, K).
        targets: Class indices (B,), or zeros and ones (B, K) if a clip can have several labels.

    Returns:
        1.0 where the most probable class is a label of the clip, else 0.0; (B,).
    """
    top1 = logits.argmax(1)
    if targets.ndim == 1:
        return (top1 == targets).float()
    return targets.gather(1, top1[:, None])[:, 0].float()


def train(recipe: Recipe, out: Path, *, saved_recipe: Mapping[str, Any] | None = None) -> Path | None:
    """Train a model as a recipe describes it, or resume an interrupted run.

    If the folder has the state of an earlier call with the same recipe, the run resumes from it, with the
    same result as without the interruption. If that call has finished, nothing is trained.

    Args:
        recipe: The run.
        out: The run folder, which is created if it does not exist; its files are listed in run_folder.py.
        saved_recipe: Content of recipe.json, from `recipe_to_dict`; None writes the settings of the recipe.

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
    source, folder = open_data_source(recipe), RunFolder(out)
    with folder.locked():
        if not is_finished(recipe, source, folder):
            is_complete = run_training(recipe, source, fabric, folder, saved_recipe)
            if not is_complete:
                return None
        return folder.result


def broadcast_settings(recipe: Recipe) -> Recipe:
    """Return the recipe with the settings of the first process.

    Every process builds the recipe itself, and settings that depend on measured speed may differ.
    """
    settings = from_all_ranks(flatten(recipe))
    return with_settings(recipe, settings[0]) if len(settings) > 1 else recipe


def run_training(
    recipe: Recipe,
    source: DataSource,
    fabric: Fabric,
    folder: RunFolder,
    saved_recipe: Mapping[str, Any] | None,
) -> bool:
    """Train from the first step or the saved state to the end.

    Returns:
        False if SIGTERM stopped the run before its end; its state is then saved.
    """
    require_divisible_batch(recipe, source.clips_per_item, fabric.world_size)
    sampler = BatchSampler(
        source.length,
        recipe.data.batch_size // source.clips_per_item,
        seed=recipe.run.seed,
        shuffle=source.shuffle,
        weights=source.sampling_weights(),
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    learner = build_learner(recipe, source, fabric, len(sampler))
    loader = batch_loader(learner, source, sampler)
    fabric.barrier()
    own_folder = folder if fabric.is_global_zero else None
    with (
        Recorder(own_folder, learner, sampler, source) as recorder,
        explain_failures(folder.path, recorder.describe_resume),
        StopRequest() as stop,
    ):
        if recorder.resume(folder.state):
            recorder.log(f"resuming after step {recorder.step}")
        elif own_folder is not None:
            own_folder.write_settings(dict(saved_recipe or flatten(recipe)))
            own_folder.write_video_lists(source.training, source.validation)
            log_start(learner, source, recorder.log)
        while True:
            if recorder.validation_is_due:
                # The state is already saved, so a run that stops here resumes with the validation.
                checkpoint = learner.checkpoint()
                validation = partial(validate, learner, source, checkpoint)
                # Several processes exchange their scores: none of them may stop before that.
                report = validation() if fabric.world_size > 1 else stop.wait_for(validation)
                if stop.is_set(fabric):
                    return False
                recorder.after_validation(checkpoint, report)
            if recorder.epoch >= recipe.schedule.epochs or recorder.should_stop_early:
                break
            steps_left = len(sampler) - recorder.step % len(sampler)
            for batch in iterate_batches(loader, steps_left, fabric.device, recorder, stop):
                if stop.is_set(fabric):
                    recorder.save()
                    return False
                assert batch is not None
                recorder.after_step(training_step(learner, batch, recorder.step), batch)
        recorder.finish()
    return True


def is_finished(recipe: Recipe, source: DataSource, folder: RunFolder) -> bool:
    """Return whether the folder has the finished run of this recipe.

    Raises:
        InputError: The folder has the finished run of another recipe.
        TrainingError: The run is finished, but its checkpoint is missing.
    """
    finished = folder.finished
    if finished is None:
        return False
    init_digest = weights_digest(load_initial_checkpoint(recipe.model))
    ours = run_identity(flatten(recipe), run_origin(source, init_digest))
    saved_origin = {key: value for key, value in finished.items() if key in ("data", "init_from")}
    if keys := differing_keys(ours, run_identity(folder.settings, saved_origin)):
        raise InputError(
            f"{folder.path} has a finished run with another {', '.join(keys[:3])}; choose another folder "
            "with --out"
        )
    if not folder.result.exists():
        raise TrainingError(
            f"the run in {folder.path} is finished, but its {folder.result.name} is missing: restore the "
            "file, or choose another folder with --out to train again"
        )
    logger.warning("the run in %s is already finished: nothing is trained", folder.path)
    return True


def batch_loader(learner: Learner, source: DataSource, sampler: BatchSampler) -> DataLoader[Batch]:
    """Return a data loader that prefetches batches; each iteration gives the rest of an epoch."""
    workers = learner.recipe.data.num_workers
    require_startable_workers(workers, name="data.num_workers")
    return DataLoader(
        source.dataset,  # type: ignore[arg-type]  # a dataset of items, which are collated to batches
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
        pin_memory=learner.fabric.device.type == "cuda",
        worker_init_fn=start_data_worker,
    )


def iterate_batches(
    loader: DataLoader[Batch],
    steps_left: int,
    device: torch.device,
    recorder: Recorder,
    stop: StopRequest,
) -> Iterator[Batch | None]:
    """Yield the rest of the batches of an epoch, and measure the time spent waiting for them.

    Args:
        loader: Loads the batches of this process.
        steps_left: Number of batches left in the epoch.
        device: Where the tensors of the batches are moved.
        recorder: Gets the waiting times.
        stop: Interrupts the waiting.

    Yields:
        Batches on the device; None, as the last value, after a request to stop while no batch was ready.
    """
    iterator = stop.wait_for(lambda: iter(loader))
    for _ in range(steps_left):
        start = time.monotonic()
        with naming_killed_workers():
            batch = None if iterator is None else stop.wait_for(iterator.__next__)
        recorder.progress.add_waiting_time(time.monotonic() - start)
        if batch is None:
            yield None
            return
        clips, targets, counts = (tensor.to(device, non_blocking=True) for tensor in batch[:3])
        yield Batch(clips, targets, counts, batch.failures)


def validate(learner: Learner, source: DataSource, checkpoint: Checkpoint) -> Report | None:
    """Evaluate a checkpoint on the validation videos, with one center view of each.

    Returns:
        The scores; None for a run without validation.

    Raises:
        TrainingError: Scores are NaN or infinite, which finite but very large weights can cause.
    """
    if source.validation is None:
        return None
    one_view = replace(checkpoint, views=ViewPlan(clips=1, crops=1))
    predictor = Predictor(one_view, device=str(learner.fabric.device))
    try:
        return evaluate(
            predictor,
            source.validation,
            workers=learner.recipe.data.num_workers,
            title="validate",
            progress=not sys.stderr.isatty(),  # a terminal shows the progress bar of training
        )
    except NonFiniteScoresError as error:
        raise TrainingError(
            f"the scores of the validation videos are NaN or infinite; {DIVERGENCE_CURE}"
        ) from error
