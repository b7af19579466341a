"""Training, in the open: `training_step` is what happens to a batch, `train` is everything around it.

Device, precision and processes are Lightning Fabric's business. B clips, K classes, T frames, S side.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from videoswin._errors import InputError
from videoswin._shared_memory import require_startable_workers, send_tensors_safely
from videoswin.data.batch import Batch, collate
from videoswin.data.sampler import BatchSampler
from videoswin.evaluate import Report, evaluate
from videoswin.predict import Predictor
from videoswin.training.learner import Learner, assemble, launch
from videoswin.training.loss import classification_loss
from videoswin.training.recipe import Recipe
from videoswin.training.recorder import Recorder, identity
from videoswin.training.run_folder import RunFolder
from videoswin.training.safeguards import (
    StopRequest,
    describe_start,
    ignore_stop_request,
    memory_suffices,
    require_divisible_batch,
)
from videoswin.training.settings import flatten
from videoswin.training.source import Source, open_source
from videoswin.training.state import differences
from videoswin.training.together import mean_over_processes
from videoswin.video.spec import ViewPlan
from videoswin.weights.checkpoint import Checkpoint


def training_step(learner: Learner, batch: Batch, step: int) -> Tensor:
    """Learn from one batch of uint8 clips (B, 3, T, S, S); (2,) loss and accuracy over the clips that count.

    Everything random about it follows from the seed, the step and the process, so a run that goes on after an
    interruption draws what it would have drawn.
    """
    fabric, model, plan = learner.fabric, learner.model, learner.recipe.optimizer
    rng = learner.randomness(step)
    # Gradients are averaged over processes: each divides by its share of the clips that count in all of them.
    total = mean_over_processes(batch.counts.sum(), fabric)
    # Before it is parted: clips are mixed with others of the whole batch.
    clips, shares = learner.prepare(batch, rng)
    parts = learner.recipe.run.micro_batches
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
        right = (named_right(logits, targets) * counts).sum() / total.clamp(min=1e-6)
        result += torch.stack([loss.detach(), right])
    if plan.clip_norm is not None:
        # The recorder finds numbers that are none, and says more about them than an error here would.
        fabric.clip_gradients(model, learner.optimizer, max_norm=plan.clip_norm, error_if_nonfinite=False)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    learner.schedule.step()
    if learner.average is not None:
        learner.average.update()
    return result


def named_right(logits: Tensor, targets: Tensor) -> Tensor:
    """(B,) 1.0 where the likeliest class is the clip's, or one of those it has."""
    likeliest = logits.argmax(1)
    if targets.ndim == 1:
        return (likeliest == targets).float()
    return targets.gather(1, likeliest[:, None])[:, 0].float()


def train(recipe: Recipe, out: Path, *, written_as: Mapping[str, Any] | None = None) -> Path | None:
    """Train as the recipe says into the folder `out` (see run_folder.py); the path of the best checkpoint.

    Goes on from the folder's state where an earlier call stopped, exactly as if it had not; does nothing if
    that came to the end. None if SIGTERM asked it to stop: everything is saved then, and the same call
    goes on. ValueError if the folder holds another run, TrainingError if the run cannot go on.

    written_as: what goes into the folder's recipe.json; None is the recipe's settings.
    """
    fabric = launch(recipe.run)
    source, folder = open_source(recipe), RunFolder(out)
    if finished_before(recipe, source, folder):
        return folder.result
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
    with Recorder(written, learner, sampler, source) as recorder, StopRequest() as stop:
        if recorder.resume(folder.state):
            recorder.say(f"going on after step {recorder.step}")
        elif written is not None:
            folder.describe(dict(written_as or flatten(recipe)))
            folder.list_videos(source.training, source.validation)
            describe_start(learner, source, recorder.say)
        while recorder.epoch < recipe.schedule.epochs and not recorder.no_longer_improves:
            for batch in batches(loader, fabric.device, recorder):
                with memory_suffices():
                    result = training_step(learner, batch, recorder.step)
                recorder.stepped(result, batch)
                if stop.heard(fabric) and not recorder.wants_validation:
                    recorder.save()
                    return None
            if recorder.wants_validation:
                checkpoint = learner.checkpoint()
                recorder.validated(checkpoint, validate(learner, source, checkpoint))
        recorder.finish()
    return folder.result


def finished_before(recipe: Recipe, source: Source, folder: RunFolder) -> bool:
    """Whether this very run is complete; ValueError if another one is."""
    if folder.finished is None:
        return False
    ours = identity(flatten(recipe), source.description)
    if changed := differences(ours, identity(folder.settings, folder.finished)):
        raise InputError(
            f"{folder.path} holds a finished run with another {', '.join(changed[:3])}; choose another "
            "folder, or remove that one"
        )
    return True


def batch_loader(learner: Learner, source: Source, sampler: BatchSampler) -> DataLoader[Batch]:
    """Batches that workers prepare while the model learns: the rest of an epoch at each iteration."""
    workers = learner.recipe.data.workers
    require_startable_workers(workers, name="data.workers")
    return DataLoader(
        source.dataset,  # type: ignore[arg-type]  # of items; they are collated to batches
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
        pin_memory=learner.fabric.device.type == "cuda",
        worker_init_fn=start_data_worker,
    )


def start_data_worker(worker_id: int) -> None:
    """Prepare a data worker's process."""
    ignore_stop_request(worker_id)
    send_tensors_safely()


def batches(loader: DataLoader[Batch], device: torch.device, recorder: Recorder) -> Iterator[Batch]:
    """The rest of the epoch on the device; the recorder hears how long none was ready."""
    waiting_since = time.monotonic()
    for batch in loader:
        recorder.progress.waited(time.monotonic() - waiting_since)
        clips, targets, counts = (tensor.to(device, non_blocking=True) for tensor in batch[:3])
        yield Batch(clips, targets, counts, batch.failures)
        waiting_since = time.monotonic()


def validate(learner: Learner, source: Source, checkpoint: Checkpoint) -> Report | None:
    """How a checkpoint does on the validation videos, at one centre view each; None if there are none."""
    if source.validation is None:
        return None
    one_look = replace(checkpoint, views=ViewPlan(clips=1, crops=1))
    predictor = Predictor(one_look, device=str(learner.fabric.device))
    return evaluate(
        predictor,
        source.validation,
        workers=learner.recipe.data.workers,
        progress=not sys.stderr.isatty(),  # a terminal shows the steps at that time
    )
