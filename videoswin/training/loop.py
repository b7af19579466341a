"""Training, in the open: `training_step` is what happens to a batch, `train` is everything around it.

Device, precision and processes are Lightning Fabric's business. B clips, K classes, T frames, S side.
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

from videoswin._distributed import from_all_ranks
from videoswin._errors import InputError
from videoswin._workers import naming_killed_workers, require_startable_workers, start_data_worker
from videoswin.data.dataset import Batch, BatchSampler, collate
from videoswin.evaluation.evaluate import Report, evaluate
from videoswin.inference.predictor import NonFiniteScoresError, Predictor
from videoswin.training.data import Source, open_source
from videoswin.training.distributed import all_reduce_mean
from videoswin.training.learner import Learner, assemble, launch, load_initial_checkpoint, weights_digest
from videoswin.training.losses import classification_loss
from videoswin.training.recipe import Recipe
from videoswin.training.recorder import CURE, Recorder, identity, origin
from videoswin.training.run_folder import RunFolder, differences
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
    """Learn from one batch of uint8 clips (B, 3, T, S, S); (2,) loss and accuracy over the clips that count.

    Everything random about it follows from the seed, the step and the process, so a run that goes on after an
    interruption draws what it would have drawn.
    """
    fabric, model, plan = learner.fabric, learner.model, learner.recipe.optimizer
    rng = learner.randomness(step)
    # Gradients are averaged over processes: each divides by its share of the clips that count in all of them.
    total = all_reduce_mean(batch.counts.sum(), fabric)
    # Before it is parted: clips are mixed with others of the whole batch.
    clips, shares = learner.prepare(batch, rng)
    parts = learner.recipe.run.grad_accum_steps
    pieces = zip(*(t.chunk(parts) for t in (clips, shares, batch.targets, batch.counts)), strict=True)
    result = torch.zeros(2, device=fabric.device)
    for number, (clips, shares, targets, counts) in enumerate(pieces, start=1):
        with fabric.no_backward_sync(model, enabled=number < parts):
            logits = model(clips).float()  # (B, K)
            loss = classification_loss(
                logits, shares, counts, learner.class_weights, multi_label=learner.multi_label, total=total
            )
            fabric.backward(loss)
        # If no clip counts, the sum is 0, and must not become 0 / 0.
        right = (top1_hits(logits, targets) * counts).sum() / total.clamp(min=1e-6)
        result += torch.stack([loss.detach(), right])
    if plan.max_grad_norm is not None:
        # The recorder finds numbers that are none, and says more about them than an error here would.
        fabric.clip_gradients(model, learner.optimizer, max_norm=plan.max_grad_norm, error_if_nonfinite=False)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    learner.schedule.step()
    if learner.average is not None:
        learner.average.update()
    return result


def top1_hits(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) 1.0 where the likeliest class is the clip's, or one of those it has."""
    likeliest = logits.argmax(1)
    if targets.ndim == 1:
        return (likeliest == targets).float()
    return targets.gather(1, likeliest[:, None])[:, 0].float()


def train(recipe: Recipe, out: Path, *, written_as: Mapping[str, Any] | None = None) -> Path | None:
    """Train as the recipe says into the folder `out` (see run_folder.py); the path of the best checkpoint.

    Resumes from the folder's state where an earlier call stopped, exactly as if it had not; does nothing if
    that came to the end. None if SIGTERM asked it to stop (in the main thread; elsewhere it is not noticed):
    everything is saved then, and the same call resumes. ValueError if the folder holds another run,
    TrainingError if the run cannot continue.

    written_as: what goes into the folder's recipe.json; None is the recipe's settings.
    """
    fabric = launch(recipe.run)
    recipe = settings_of_first_process(recipe)
    source, folder = open_source(recipe), RunFolder(out)
    with folder.locked():
        if not is_finished(recipe, source, folder) and not run(recipe, source, fabric, folder, written_as):
            return None
        return folder.result


def settings_of_first_process(recipe: Recipe) -> Recipe:
    """Return the recipe with the settings of the first process.

    Each process has made the recipe for itself, and the speed that it measured for that may differ.
    """
    settings = from_all_ranks(flatten(recipe))
    return with_settings(recipe, settings[0]) if len(settings) > 1 else recipe


def run(
    recipe: Recipe,
    source: Source,
    fabric: Fabric,
    folder: RunFolder,
    written_as: Mapping[str, Any] | None,
) -> bool:
    """Train to the end; False if SIGTERM asked to stop before that, and the state is saved."""
    require_divisible_batch(recipe, source.clips_per_item, fabric.world_size)
    sampler = BatchSampler(
        source.length,
        recipe.data.batch_size // source.clips_per_item,
        seed=recipe.run.seed,
        shuffle=source.shuffle,
        weights=source.drawing_weights(),
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    learner = assemble(recipe, source, fabric, len(sampler))
    loader = batch_loader(learner, source, sampler)
    fabric.barrier()
    written = folder if fabric.is_global_zero else None
    with (
        Recorder(written, learner, sampler, source) as recorder,
        explain_failures(folder.path, recorder.resuming),
        StopRequest() as stop,
    ):
        if recorder.resume(folder.state):
            recorder.say(f"resuming after step {recorder.step}")
        elif written is not None:
            folder.describe(dict(written_as or flatten(recipe)))
            folder.list_videos(source.training, source.validation)
            log_start(learner, source, recorder.say)
        while True:
            if recorder.validation_is_due:
                # Its state is saved: a run that is stopped or killed here resumes with the validation.
                checkpoint = learner.checkpoint()
                validation = partial(validate, learner, source, checkpoint)
                # Several processes exchange their scores: none of them may leave before that.
                report = validation() if fabric.world_size > 1 else stop.wait_for(validation)
                if stop.heard(fabric):
                    return False
                recorder.validated(checkpoint, report)
            if recorder.epoch >= recipe.schedule.epochs or recorder.should_stop_early:
                break
            left = len(sampler) - recorder.step % len(sampler)
            for batch in batches(loader, left, fabric.device, recorder, stop):
                if stop.heard(fabric):
                    recorder.save()
                    return False
                assert batch is not None
                recorder.stepped(training_step(learner, batch, recorder.step), batch)
        recorder.finish()
    return True


def is_finished(recipe: Recipe, source: Source, folder: RunFolder) -> bool:
    """Whether this very run is complete.

    ValueError if another run is, TrainingError if the run is but its result is gone.
    """
    finished = folder.finished
    if finished is None:
        return False
    ours = identity(flatten(recipe), origin(source, weights_digest(load_initial_checkpoint(recipe.model))))
    theirs = {key: value for key, value in finished.items() if key in ("data", "start")}
    if changed := differences(ours, identity(folder.settings, theirs)):
        raise InputError(
            f"{folder.path} holds a finished run with another {', '.join(changed[:3])}; choose another "
            "folder with --out"
        )
    if not folder.result.exists():
        raise TrainingError(
            f"the run in {folder.path} is finished, but its {folder.result.name} is gone: put it back, or "
            "choose another folder with --out to train again"
        )
    logger.warning("the run in %s is finished already: nothing is left to train", folder.path)
    return True


def batch_loader(learner: Learner, source: Source, sampler: BatchSampler) -> DataLoader[Batch]:
    """Batches that workers prepare while the model learns: the rest of an epoch at each iteration."""
    workers = learner.recipe.data.num_workers
    require_startable_workers(workers, name="data.num_workers")
    return DataLoader(
        source.dataset,  # type: ignore[arg-type]  # of items; they are collated to batches
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
        pin_memory=learner.fabric.device.type == "cuda",
        worker_init_fn=start_data_worker,
    )


def batches(
    loader: DataLoader[Batch], left: int, device: torch.device, recorder: Recorder, stop: StopRequest
) -> Iterator[Batch | None]:
    """The batches left of the epoch, on the device; None, and no more, if asked to stop while none is ready.

    The recorder hears how long none was ready.
    """
    loaded = stop.wait_for(lambda: iter(loader))
    for _ in range(left):
        waiting_since = time.monotonic()
        with naming_killed_workers():
            batch = None if loaded is None else stop.wait_for(loaded.__next__)
        recorder.progress.waited(time.monotonic() - waiting_since)
        if batch is None:
            yield None
            return
        clips, targets, counts = (tensor.to(device, non_blocking=True) for tensor in batch[:3])
        yield Batch(clips, targets, counts, batch.failures)


def validate(learner: Learner, source: Source, checkpoint: Checkpoint) -> Report | None:
    """How a checkpoint does on the validation videos, at one center view each; None if there are none.

    TrainingError if its scores are not numbers: weights may be finite, and yet too large to compute with.
    """
    if source.validation is None:
        return None
    one_look = replace(checkpoint, views=ViewPlan(clips=1, crops=1))
    predictor = Predictor(one_look, device=str(learner.fabric.device))
    try:
        return evaluate(
            predictor,
            source.validation,
            workers=learner.recipe.data.num_workers,
            title="validate",
            progress=not sys.stderr.isatty(),  # a terminal shows the steps at that time
        )
    except NonFiniteScoresError as error:
        raise TrainingError(f"the scores of the validation videos are not numbers; {CURE}") from error
