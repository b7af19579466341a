"""What protects a user from a run that cannot go well: checks before it starts, and a way to stop it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from videoswin._errors import InputError, VideoSwinError
from videoswin._text import plural
from videoswin._workers import WorkerKilledError, shared_memory_notice
from videoswin.data.groups import describe_sharing
from videoswin.training.data import Source
from videoswin.training.distributed import any_rank
from videoswin.training.learner import Learner
from videoswin.training.losses import expected_first_loss
from videoswin.training.memory import available_bytes, estimate_training_bytes, format_bytes
from videoswin.training.optim import describe_groups
from videoswin.training.recipe import Recipe
from videoswin.video.augment import reads_direction

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SAME_REQUEST_SECONDS = 5.0
"""Schedulers and launchers may send SIGTERM twice; later than this it is a request to end at once."""

Thing = TypeVar("Thing")


class TrainingError(VideoSwinError, RuntimeError):
    """A run that cannot continue; the message says why and what helps."""


class StopRequest:
    """Whether SIGTERM has asked for an end, as schedulers do; inside `with`, it no longer kills.

    A second one, some seconds later, does: the run may be stuck. Outside the main thread, where Python takes
    no signals, SIGTERM does what it does in the rest of the program.
    """

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._waiting = False
        self._before: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def heard(self, fabric: Fabric) -> bool:
        """True in every process once one of them was asked. Every process must call it."""
        return any_rank(self._asked_at is not None, fabric)

    def wait_for(self, result: Callable[[], Thing]) -> Thing | None:
        """Return the result of a call that may take long; None, at once, if asked to stop meanwhile."""
        try:
            try:
                self._waiting = True
                return None if self._asked_at is not None else result()
            finally:
                self._waiting = False
        except _Stopped:
            return None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self._waiting:
            raise _Stopped


class _Stopped(BaseException):
    """Ends a wait; no handler of errors may take it for one."""


@contextmanager
def explain_failures(folder: Path, resuming: Callable[[], str]) -> Iterator[None]:
    """Raise a TrainingError with a cure for what the machine may do to a run in `folder`.

    That is: out of memory, a disk that is full, a data worker that was killed. resuming: says what can be
    resumed, and how.
    """
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str) or folder not in Path(error.filename).parents:
            raise
        raise TrainingError(
            f"{error.filename} cannot be written: {error.strerror}. Once that is fixed, {resuming()}"
        ) from error
    except WorkerKilledError as error:
        cure = resuming()
        raise TrainingError(f"{error} (data.num_workers). {cure[0].upper()}{cure[1:]}") from error
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise TrainingError(
                "the device is out of memory: increase run.grad_accum_steps, set "
                "model.grad_checkpointing=true, or lower data.batch_size"
            ) from error
        raise


def require_divisible_batch(recipe: Recipe, clips_per_item: int, processes: int) -> None:
    """ValueError if a batch cannot be dealt out evenly to processes and micro-batches."""
    parts = processes * recipe.run.grad_accum_steps * clips_per_item
    if recipe.data.batch_size % parts:
        raise InputError(
            f"data.batch_size is {recipe.data.batch_size}, wanted a multiple of {parts}: "
            f"{plural(processes, 'process')} x {plural(recipe.run.grad_accum_steps, 'micro-batch')} x "
            f"{plural(clips_per_item, 'clip')} of each video"
        )


def log_start(learner: Learner, source: Source, say: Callable[[str], None]) -> None:
    """Say what will happen: data, learning rates and decay by group, memory; and warn of what looks wrong."""
    recipe = learner.recipe
    say(f"training on {source.description}; {plural(len(source.labels), 'class')}")
    if source.validation is None:
        say(
            "no validation: no accuracy is measured on other videos, training does not stop early, and "
            "last.safetensors, of the last step, is the checkpoint that is kept"
        )
    else:
        say(f"validating on {plural(len(source.validation.samples), 'video')}")
    if source.training and source.validation:
        say(describe_sharing(source.training, source.validation))
    manifests = [manifest for manifest in (source.training, source.validation) if manifest is not None]
    for note in dict.fromkeys(note for manifest in manifests for note in manifest.notes):
        say(f"note: {note}")
    say(f"starting from {learner.lineage['started from']}; trainable parameters:")
    for row in describe_groups(learner.optimizer):
        tensors = "tensor" if row.tensors == 1 else "tensors"
        say(
            f"  {row.name:36} {row.tensors:4} {tensors:7} {row.numbers:12,} parameters  "
            f"lr {row.rate:.1e}  weight decay {row.decay:g}"
        )
    if warning := flip_warning(recipe, source.labels):
        say(warning)
    clips = recipe.data.batch_size // (learner.fabric.world_size * recipe.run.grad_accum_steps)
    wanted = estimate_training_bytes(
        learner.bare.config,
        recipe.data.clip,
        clips,
        precision=recipe.run.precision,
        grad_checkpointing=recipe.model.grad_checkpointing,
        trainable=recipe.model.trainable,
        average=learner.average is not None,
        lora_rank=recipe.model.lora_rank,
        device_type=learner.fabric.device.type,
    )
    there = available_bytes(learner.fabric.device)
    free = "" if there is None else f", {format_bytes(there)} are free"
    say(f"memory: about {format_bytes(wanted)} for {plural(clips, 'clip')} at a time{free}")
    if there is not None and wanted > there:
        say("  that may not fit: raise run.grad_accum_steps, or set model.grad_checkpointing=true")
    clip, batch_size = recipe.data.clip, recipe.data.batch_size // learner.fabric.world_size
    batch_bytes = batch_size * 3 * clip.frames * clip.size**2
    if notice := shared_memory_notice(batch_bytes, recipe.data.num_workers):
        say(notice)


def flip_warning(recipe: Recipe, labels: tuple[str, ...]) -> str | None:
    """What to say if clips are mirrored although labels tell left from right."""
    paired = {label for pair in recipe.augment.flip_pairs for label in pair}
    directed = [label for label in labels if reads_direction(label) and label not in paired]
    if recipe.augment.flip == 0 or not directed:
        return None
    return (
        f"warning: clips are mirrored, but {directed[0]!r} may mean something else then: set augment.flip=0, "
        "or name the labels that trade places in augment.flip_pairs"
    )


def first_loss_warning(learner: Learner, loss: float) -> str | None:
    """What to say if a new head does not start at even odds, whose loss is known beforehand."""
    expected = expected_first_loss(
        len(learner.labels),
        multi_label=learner.multi_label,
        label_smoothing=learner.recipe.augment.label_smoothing,
        class_weights=learner.class_weights,
    )
    if learner.keeps_head or abs(loss - expected) <= 0.25 * expected + 0.25:
        return None
    return (
        f"warning: the first loss is {loss:.2f}; a new head for {len(learner.labels)} classes should start "
        f"near {expected:.2f}. Are the labels right, and the weights those of a video model?"
    )
