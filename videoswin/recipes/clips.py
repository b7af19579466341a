"""Choose clips, class balance and regularization of fine-tuning; warn about clips and estimate the time."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Final

from videoswin._errors import InputError
from videoswin._text import plural
from videoswin.data.check.advice import describe_image_folders
from videoswin.recipes.autoconfig import Choice, TrainingContext, decoding_processes
from videoswin.training.memory import Trainable
from videoswin.training.recipe import Recipe, VideoData
from videoswin.video.augment import mirrored_pairs, reads_direction
from videoswin.video.spec import ClipSpec

LONG_VIDEO: Final = 8
"""Durations of a clip per video from which on a random clip is likely to miss a short action."""


def default_clip(context: TrainingContext) -> ClipSpec:
    """Return the clip of the initial checkpoint, shortened if most of the videos are shorter.

    The frame rate is raised or the stride lowered; the number of frames stays.
    """
    clip, durations = context.checkpoint.clip, context.durations
    if durations is None or (covered := clip.seconds(durations.fps)) is None or durations.median >= covered:
        return clip
    if clip.fps is not None:
        return clip.replace(fps=float(f"{clip.span / durations.median:.2g}"))
    return clip.replace(stride=max(1, int(durations.median * durations.fps / clip.frames)))


def choose_clip(context: TrainingContext, clip: ClipSpec) -> Choice:
    """Choose frames, frame rate and size of a clip; the reason compares it with the videos."""
    settings = {f"data.clip.{name}": getattr(clip, name) for name in ("frames", "stride", "fps", "size")}
    initial, durations = context.checkpoint.clip, context.durations
    frame_rate = "" if clip.fps is None else f" at {clip.fps / clip.stride:g} frames/s"
    stride = f", 1 of every {clip.stride} of the video" * (clip.fps is None and clip.stride > 1)
    covered = None if durations is None else clip.seconds(durations.fps)
    length = " over the whole video" if clip.rule == "segments" else f" = {covered:.1f} s" if covered else ""
    reason = (
        f"a clip is {plural(clip.frames, 'frame')}{frame_rate}{stride}{length}, "
        f"{clip.size}x{clip.size} pixels"
    )
    if durations is not None:
        reason += (
            f"; your videos last {durations.shortest:.1f} to {durations.longest:.1f} s, median "
            f"{durations.median:.1f} s"
        )
    default = default_clip(context)
    if clip == default != initial:
        seconds = initial.seconds(durations.fps) if durations else None
        reason += f"; clips of the initial model last {seconds or 0:.1f} s"
    elif clip != default:
        default_settings = _clip_settings(default)
        changed = next(name for name in settings if settings[name] != default_settings[name])
        reason = f"you set {changed}: {reason}"
    return Choice(settings, reason)


def _clip_settings(clip: ClipSpec) -> dict[str, Any]:
    """Return the settings of a clip by their names in a recipe."""
    return {f"data.clip.{name}": value for name, value in vars(clip).items()}


def describe_assumed_frame_rate(context: TrainingContext) -> str | None:
    """Return a note if some of the videos are folders of images, whose frame rate is unknown."""
    samples = context.training.samples if context.training else ()
    paths = {sample.path for sample in samples}
    note = describe_image_folders(sum(map(os.path.isdir, paths)), len(paths))
    return note and f"note: {note}"


def clip_warning(context: TrainingContext, clip: ClipSpec) -> str | None:
    """Return a warning if clips are longer than half of the videos, or cover a small part of them."""
    durations = context.durations
    if durations is None or (covered := clip.seconds(durations.fps)) is None:
        return None
    setting = "data.clip.fps" if clip.fps is not None else "data.clip.stride"
    if durations.median < 0.95 * covered:
        change = "raise" if clip.fps is not None else "lower"
        return (
            f"warning: half of your videos are shorter than a clip ({covered:.1f} s) and are repeated to "
            f"fill it: {change} {setting} or lower data.clip.frames"
        )
    if durations.median > LONG_VIDEO * covered:
        return (
            f"warning: a clip of {covered:.1f} s is a random part of a video of {durations.median:.1f} s "
            "(median): if the action takes a small part of a video, cut the video, or add the start and end "
            "of the action to the list"
        )
    return None


def expected_time(recipe: Recipe, context: TrainingContext) -> str | None:
    """Return the expected time of a run as a sentence; None if no speed was measured."""
    if context.speed is None:
        return None
    speed, source = context.speed, recipe.data
    assert isinstance(source, VideoData)
    schedule, batch = recipe.schedule, recipe.data.batch_size
    # Devices share the batches and the validation videos.
    clips = schedule.epochs * max(1, context.videos * source.num_repeats // batch) * batch / context.processes
    decoding = speed.decode / decoding_processes(context)
    training = max(clips * speed.train, clips / source.num_repeats * decoding)
    num_validations = math.ceil(schedule.epochs / schedule.val_every)
    validation_videos = num_validations * context.num_validation / context.processes
    # The forward pass is a third of a training step.
    validation = validation_videos * max(speed.train / 3, decoding)
    minutes = (training + validation) / 60
    duration = plural(round(minutes), "minute") if minutes < 90 else f"{minutes / 60:.1f} hours"
    if minutes < 1:
        duration = "less than a minute"
    may_stop_early = (schedule.patience or math.inf) < schedule.epochs and context.num_validation > 0
    early = "; less if training stops early" if may_stop_early else ""
    devices = context.device if context.processes == 1 else f"{context.processes} x {context.device}"
    return (
        f"expected time: {duration} on {devices}, at {1000 * speed.decode:.0f} ms to decode a clip and "
        f"{1000 * speed.train:.0f} ms to train on it{early}"
    )


def with_clip_settings(clip: ClipSpec, settings: Mapping[str, Any]) -> ClipSpec:
    """Return the clip with the settings of the user, with their types; its short side scales with its size.

    Raises:
        InputError: A value is outside of its range.
    """
    changes = {
        name.removeprefix("data.clip."): value
        for name, value in settings.items()
        if name.startswith("data.clip.") and name.count(".") == 2
    }
    if "size" in changes and changes["size"] > 0:
        changes.setdefault("short_side", round(changes["size"] * clip.short_side / clip.size))
    try:
        return clip.replace(**changes)
    except ValueError as error:
        raise InputError(f"data.clip: {error}") from error


def choose_class_balance(context: TrainingContext) -> Choice:
    """Choose whether rare classes are sampled as often as frequent ones."""
    largest, smallest = max(context.counts), min(context.counts)
    class_balanced = not context.multi_label and largest > 3 * smallest
    if largest == smallest:
        reason = f"each class has {plural(largest, 'training video')}"
    else:
        reason = f"classes have {smallest:,} to {plural(largest, 'training video')}"
    if class_balanced and context.class_weights:
        class_balanced = False
        reason += "; you set optimizer.class_weights, which balances the classes in the loss"
    elif class_balanced:
        reason += ", so each class is sampled equally often"
    return Choice({"data.class_balanced": class_balanced}, reason)


def choose_augmentation(context: TrainingContext, trainable: Trainable) -> Choice:
    """Choose the strength of the augmentation: it grows with the number of trainable parameters."""
    settings = {
        "augment.scale": [0.5, 1.0],
        "augment.rand_augment": 0,
        "augment.random_erasing": 0.0,
        "augment.mixup": 0.0,
    }
    if context.is_small:
        return Choice(settings, "the model is small: only random crops of 50 to 100 % of the frame")
    if trainable == "head":
        return Choice(settings, "only the head is trained: only random crops of 50 to 100 % of the frame")
    settings |= {"augment.scale": [0.2, 1.0], "augment.rand_augment": 2}
    if trainable == "lora":
        reason = "random crops of 20 to 100 % and RandAugment with 2 operations reduce overfitting"
        return Choice(settings, reason)
    settings |= {"augment.random_erasing": 0.25, "augment.mixup": 0.2}
    reason = (
        "all parameters are trained: random crops of 20 to 100 %, RandAugment with 2 operations, random "
        "erasing and mixup reduce overfitting"
    )
    return Choice(settings, reason)


def choose_flip(context: TrainingContext) -> Choice:
    """Choose whether clips are mirrored, and which labels are exchanged in a mirrored clip."""
    pairs = mirrored_pairs(context.classes)
    paired = {name for pair in pairs for name in pair}
    unpaired = [name for name in context.classes if reads_direction(name) and name not in paired]
    if unpaired:
        reason = f"{unpaired[0]!r} names a direction and has no mirrored class: clips are not mirrored"
        return Choice({"augment.hflip": 0.0, "augment.flip_pairs": []}, reason)
    reason = "half of the clips are mirrored; " + (
        "the labels of a mirrored pair are exchanged" if pairs else "no class name contains a direction"
    )
    return Choice({"augment.hflip": 0.5, "augment.flip_pairs": [list(pair) for pair in pairs]}, reason)


def choose_dropout(context: TrainingContext, trainable: Trainable) -> Choice:
    """Choose dropout, drop path (stochastic depth) and label smoothing."""
    num_blocks = sum(context.checkpoint.config.depths)
    drop_path = (
        0.0
        if context.is_small or trainable == "head"
        else 0.2
        if num_blocks > 12 and trainable == "all"
        else 0.1
    )
    settings = {
        "model.dropout": 0.0 if context.is_small else 0.5,
        "model.drop_path": drop_path,
        "augment.label_smoothing": 0.0 if context.multi_label else 0.1,
    }
    if context.is_small:
        return Choice(settings, "a small model is trained without dropout and drop path")
    reason = "dropout 0.5 as in the published training on Kinetics; drop path "
    if trainable == "head":
        reason += "0, because the backbone is not trained"
    else:
        reason += f"{drop_path:g} for {num_blocks} blocks"
    return Choice(settings, reason)
