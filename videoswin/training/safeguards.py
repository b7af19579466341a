"""Check a run before it starts, stop it on SIGTERM, and explain failures that the user can fix."""

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
from torch import Tensor, nn

from videoswin._distributed import WorkerKilledError, any_rank, gather_objects, shared_memory_notice
from videoswin._errors import InputError, TrainingError
from videoswin._text import plural
from videoswin.data.splits import describe_sharing
from videoswin.training.data import DataSource
from videoswin.training.learner import Learner
from videoswin.training.losses import expected_initial_loss
from videoswin.training.memory import available_bytes, estimate_training_bytes, format_bytes
from videoswin.training.optim import describe_groups
from videoswin.training.recipe import Recipe
from videoswin.training.state import local_tensor
from videoswin.video.augment import reads_direction

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SAME_REQUEST_SECONDS = 5.0
"""Schedulers and launchers may send SIGTERM twice; after this time a second one ends the process."""

DIVERGENCE_CURE = (
    "the last saved state is not affected and is kept. Lower optimizer.lr or optimizer.max_grad_norm, or set "
    "run.precision=fp32"
)
"""End of the error messages about a run that has diverged."""

_T = TypeVar("_T")


class StopRequest:
    """A request to stop the run, set by SIGTERM, which job schedulers send; used as a context manager.

    Inside the context, SIGTERM does not end the process, unless a second one follows after more than
    `SAME_REQUEST_SECONDS`, because the run may hang. Python delivers signals to the main thread only; in
    other threads SIGTERM is handled as in the rest of the program.
    """

    def __init__(self) -> None:
        self._requested_at: float | None = None
        self._is_waiting = False
        self._previous_handler: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, self._handle_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)

    def is_set(self, fabric: Fabric) -> bool:
        """Return True in every process if one of them got the request. Every process must call it."""
        return any_rank(self._requested_at is not None, fabric)

    def wait_for(self, call: Callable[[], _T]) -> _T | None:
        """Return the result of a call that may take long; None immediately after a request to stop."""
        try:
            try:
                self._is_waiting = True
                return None if self._requested_at is not None else call()
            finally:
                self._is_waiting = False
        except _StopWaiting:
            return None

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._requested_at is None:
            self._requested_at = now
        elif now - self._requested_at > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self._is_waiting:
            raise _StopWaiting


class _StopWaiting(BaseException):
    """Interrupts `StopRequest.wait_for`; not an Exception, so that no error handler catches it."""


@contextmanager
def explain_failures(folder: Path, describe_resume: Callable[[], str]) -> Iterator[None]:
    """Convert failures of the machine to a TrainingError with a cure.

    Args:
        folder: The run folder.
        describe_resume: Returns how the run can be resumed, as the end of a sentence.

    Raises:
        TrainingError: A file of the run folder could not be written, for example on a full disk, a data
            worker was killed, or the device is out of memory.
    """
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str) or folder not in Path(error.filename).parents:
            raise
        raise TrainingError(
            f"{error.filename} cannot be written: {error.strerror}. Once that is fixed, {describe_resume()}"
        ) from error
    except WorkerKilledError as error:
        cure = describe_resume()
        raise TrainingError(f"{error} (data.num_workers). {cure[0].upper()}{cure[1:]}") from error
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise TrainingError(
                "the device is out of memory: increase run.grad_accum_steps, set "
                "model.grad_checkpointing=true, or lower data.batch_size"
            ) from error
        raise


def require_finite_losses(losses: Tensor, step: int, *, allow_overflow: bool = False) -> None:
    """Raise TrainingError if a loss is NaN or infinite.

    Args:
        losses: Losses of the newest steps, (steps,).
        step: Number of finished steps.
        allow_overflow: Raise the error only if all of the losses are NaN or infinite.
    """
    invalid = ~losses.isfinite()
    if invalid.all() if allow_overflow else invalid.any():
        first = step - len(losses) + int(invalid.nonzero()[0]) + 1
        raise TrainingError(f"the loss of step {first} is NaN or infinite; {DIVERGENCE_CURE}")


def require_finite_weights(model: nn.Module, step: int) -> None:
    """Raise TrainingError in every process if a weight is NaN or infinite in one of them."""
    invalid = [name for name, w in model.named_parameters() if not local_tensor(w).isfinite().all()]
    # If one process alone raised the error, the others would wait for it.
    for name in gather_objects(invalid):
        raise TrainingError(f"{name} has NaN or infinite values after step {step}; {DIVERGENCE_CURE}")


def require_divisible_batch(recipe: Recipe, clips_per_item: int, num_processes: int) -> None:
    """Raise InputError if a batch cannot be divided evenly over processes, accumulation steps and videos.

    Args:
        recipe: The batch size and the accumulation steps are used.
        clips_per_item: Clips made from each decoded video.
        num_processes: Processes of the run, one per device.
    """
    accum_steps = recipe.run.grad_accum_steps
    divisor = num_processes * accum_steps * clips_per_item
    if recipe.data.batch_size % divisor:
        raise InputError(
            f"data.batch_size must be a multiple of {divisor} ({plural(num_processes, 'process')} x "
            f"{plural(accum_steps, 'accumulation step')} x {plural(clips_per_item, 'clip')} of each video), "
            f"got {recipe.data.batch_size}"
        )


def log_start(learner: Learner, source: DataSource, log: Callable[[str], None]) -> None:
    """Log the data, the parameter groups and the memory of a run before it starts, with warnings.

    Args:
        learner: The learner before its first step.
        source: Training and validation data.
        log: Prints one line.
    """
    recipe = learner.recipe
    log(f"training on {source.description}; {plural(len(source.labels), 'class')}")
    if source.validation is None:
        log(
            "no validation: the accuracy on other videos is not measured, there is no early stopping, and "
            "the checkpoint of the last step, last.safetensors, is kept"
        )
    else:
        log(f"validating on {plural(len(source.validation.samples), 'video')}")
    if source.training and source.validation:
        log(describe_sharing(source.training, source.validation))
    manifests = [manifest for manifest in (source.training, source.validation) if manifest is not None]
    for note in dict.fromkeys(note for manifest in manifests for note in manifest.notes):
        log(f"note: {note}")
    log(f"initialized from {learner.lineage['started from']}; trainable parameters:")
    for row in describe_groups(learner.optimizer):
        tensors = "tensor" if row.num_tensors == 1 else "tensors"
        log(
            f"  {row.name:36} {row.num_tensors:4} {tensors:7} {row.num_parameters:12,} parameters  "
            f"lr {row.lr:.1e}  weight decay {row.weight_decay:g}"
        )
    if warning := flip_warning(recipe, source.labels):
        log(warning)
    _log_memory(learner, log)
    clip, batch_size = recipe.data.clip, recipe.data.batch_size // learner.fabric.world_size
    batch_bytes = batch_size * 3 * clip.frames * clip.size**2
    if notice := shared_memory_notice(batch_bytes, recipe.data.num_workers):
        log(notice)


def _log_memory(learner: Learner, log: Callable[[str], None]) -> None:
    """Log the estimated and the available memory, with a cure if it may not be enough."""
    recipe = learner.recipe
    clips = recipe.data.batch_size // (learner.fabric.world_size * recipe.run.grad_accum_steps)
    needed = estimate_training_bytes(
        learner.raw_model.config,
        recipe.data.clip,
        clips,
        precision=recipe.run.precision,
        grad_checkpointing=recipe.model.grad_checkpointing,
        trainable=recipe.model.trainable,
        ema=learner.ema is not None,
        lora_rank=recipe.model.lora_rank,
        device_type=learner.fabric.device.type,
    )
    available = available_bytes(learner.fabric.device)
    free = "" if available is None else f", {format_bytes(available)} are free"
    log(f"memory: about {format_bytes(needed)} for {plural(clips, 'clip')} at a time{free}")
    if available is not None and needed > available:
        log("  this may not fit: increase run.grad_accum_steps, or set model.grad_checkpointing=true")


def flip_warning(recipe: Recipe, labels: tuple[str, ...]) -> str | None:
    """Return a warning if clips are flipped although labels distinguish left and right, else None."""
    paired = {label for pair in recipe.augment.flip_pairs for label in pair}
    directional = [label for label in labels if reads_direction(label) and label not in paired]
    if recipe.augment.hflip == 0 or not directional:
        return None
    return (
        f"warning: clips are flipped horizontally, which may change the meaning of {directional[0]!r}: set "
        "augment.hflip=0, or list the labels that are swapped by flipping in augment.flip_pairs"
    )


def initial_loss_warning(learner: Learner, loss: float) -> str | None:
    """Return a warning if the loss of a new head differs from that of equal probabilities, else None."""
    expected = expected_initial_loss(
        len(learner.labels),
        multi_label=learner.multi_label,
        label_smoothing=learner.recipe.augment.label_smoothing,
        class_weights=learner.class_weights,
    )
    if learner.keeps_head or abs(loss - expected) <= 0.25 * expected + 0.25:
        return None
    return (
        f"warning: the initial loss is {loss:.2f}, but about {expected:.2f} is expected of a new head for "
        f"{len(learner.labels)} classes. Check that the labels are correct and that the initial weights are "
        "those of a video model"
    )
