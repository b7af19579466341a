"""What fine-tuning chooses about clips and regularization, and why."""

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
"""Clips that fit into a video from which on a random one may miss the action."""


def clip_for(context: TrainingContext) -> ClipSpec:
    """What the start model sees of a video, faster where most of the videos are shorter than that."""
    clip, durations = context.checkpoint.clip, context.durations
    if durations is None or (covered := clip.seconds(durations.fps)) is None or durations.median >= covered:
        return clip
    if clip.fps is not None:
        return clip.replace(fps=float(f"{clip.span / durations.median:.2g}"))
    return clip.replace(stride=max(1, int(durations.median * durations.fps / clip.frames)))


def choose_clip(context: TrainingContext, clip: ClipSpec) -> Choice:
    """Frames, rate and size of a clip, beside the length of the videos."""
    settings = {f"data.clip.{name}": getattr(clip, name) for name in ("frames", "stride", "fps", "size")}
    start, durations = context.checkpoint.clip, context.durations
    rate = "" if clip.fps is None else f" at {clip.fps / clip.stride:g} frames/s"
    steps = f", 1 of every {clip.stride} of the video" * (clip.fps is None and clip.stride > 1)
    covered = None if durations is None else clip.seconds(durations.fps)
    length = " over the whole video" if clip.rule == "segments" else f" = {covered:.1f} s" if covered else ""
    reason = f"a clip is {plural(clip.frames, 'frame')}{rate}{steps}{length}, {clip.size}x{clip.size} pixels"
    if durations is not None:
        reason += (
            f"; your videos last {durations.shortest:.1f} to {durations.longest:.1f} s, median "
            f"{durations.median:.1f} s"
        )
    if clip == clip_for(context) != start:
        usual = start.seconds(durations.fps) if durations else None
        reason += f"; clips of the start model last {usual or 0:.1f} s"
    elif clip != clip_for(context):
        changed = next(name for name in settings if settings[name] != flat_clip(clip_for(context))[name])
        reason = f"you set {changed}: {reason}"
    return Choice(settings, reason)


def flat_clip(clip: ClipSpec) -> dict[str, Any]:
    """Settings of the clip by their names in a recipe."""
    return {f"data.clip.{name}": value for name, value in vars(clip).items()}


def rate_note(context: TrainingContext) -> str | None:
    """What to say if some of the videos are folders of images, whose frame rate is not known."""
    samples = context.training.samples if context.training else ()
    paths = {sample.path for sample in samples}
    note = describe_image_folders(sum(map(os.path.isdir, paths)), len(paths))
    return note and f"note: {note}"


def clip_warning(context: TrainingContext, clip: ClipSpec) -> str | None:
    """What to say if clips are longer than half of the videos, or a small part of them."""
    durations = context.durations
    if durations is None or (covered := clip.seconds(durations.fps)) is None:
        return None
    rate = "data.clip.fps" if clip.fps is not None else "data.clip.stride"
    if durations.median < 0.95 * covered:
        way = "raise" if clip.fps is not None else "lower"
        return (
            f"warning: half of your videos are shorter than a clip, {covered:.1f} s, repeated to fill it: "
            f"{way} {rate} or lower data.clip.frames"
        )
    if durations.median > LONG_VIDEO * covered:
        return (
            f"warning: a clip is {covered:.1f} s, drawn at random from videos of {durations.median:.1f} s "
            "(median): if the action takes a small part of a video, cut the video, or give start and end of "
            "the action in the list"
        )
    return None


def expected_time(recipe: Recipe, context: TrainingContext) -> str | None:
    """How long the run takes at the speed that was measured; None if it was not."""
    if context.speed is None:
        return None
    speed, source = context.speed, recipe.data
    assert isinstance(source, VideoData)
    schedule, batch = recipe.schedule, recipe.data.batch_size
    # Of each device, which share batches and validation videos.
    clips = schedule.epochs * max(1, context.videos * source.num_repeats // batch) * batch / context.processes
    decoding = speed.decode / decoding_processes(context)
    training = max(clips * speed.learn, clips / source.num_repeats * decoding)
    looks = math.ceil(schedule.epochs / schedule.val_every)
    videos = looks * context.num_validation / context.processes
    # A third of a training step is its forward pass.
    validation = videos * max(speed.learn / 3, decoding)
    minutes = (training + validation) / 60
    amount = plural(round(minutes), "minute") if minutes < 90 else f"{minutes / 60:.1f} hours"
    if minutes < 1:
        amount = "less than a minute"
    can_stop = (schedule.patience or math.inf) < schedule.epochs and context.num_validation > 0
    early = "; less if training stops early" if can_stop else ""
    place = context.device if context.processes == 1 else f"{context.processes} x {context.device}"
    return (
        f"expected time: {amount} on {place}, at {1000 * speed.decode:.0f} ms to decode a clip and "
        f"{1000 * speed.learn:.0f} ms to train on it{early}"
    )


def with_clip_settings(clip: ClipSpec, given: Mapping[str, str | None]) -> ClipSpec:
    """The clip with settings changed, None aside, and its short side in the same proportion to a new size."""
    for name, text in given.items():
        if text is None:
            continue
        setting = f"data.clip.{name}"
        value = as_number(setting, text) if name == "fps" else _as_whole_number(setting, text)
        changes = {name: value}
        if name == "size":
            changes["short_side"] = round(value * clip.short_side / clip.size)
        clip = clip.replace(**changes)
    return clip


def as_number(name: str, text: str) -> float:
    """The number that a setting was given as text; InputError if it is none."""
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{name} must be a number, got {text!r}") from error


def _as_whole_number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"{name} must be a whole number, got {text!r}")
    return int(text[:12])  # far above every limit, which the clip knows


def choose_augmentation(context: TrainingContext, trainable: Trainable) -> Choice:
    """How much clips are changed: the more weights learn from the fewer videos, the more."""
    strength = {
        "augment.area": [0.5, 1.0],
        "augment.rand_augment": 0,
        "augment.erasing": 0.0,
        "augment.mixup": 0.0,
    }
    if context.is_small:
        return Choice(strength, "a small model: random crops of 50 to 100 % of the frame, nothing else")
    if trainable == "head":
        return Choice(strength, "only the head is trained: random crops of 50 to 100 % of the frame")
    strength |= {"augment.area": [0.2, 1.0], "augment.rand_augment": 2}
    if trainable == "lora":
        return Choice(strength, "against overfitting: crops of 20 to 100 %, 2 random changes per clip")
    strength |= {"augment.erasing": 0.25, "augment.mixup": 0.2}
    reason = (
        "all parameters are trained: crops, 2 random changes per clip, erasing and mixup against overfitting"
    )
    return Choice(strength, reason)


def choose_flip(context: TrainingContext) -> Choice:
    """Whether clips are mirrored, and which labels trade places then."""
    pairs = mirrored_pairs(context.classes)
    paired = {name for pair in pairs for name in pair}
    alone = [name for name in context.classes if reads_direction(name) and name not in paired]
    if alone:
        reason = f"{alone[0]!r} names a direction and no class is its mirror image, so clips are not mirrored"
        return Choice({"augment.flip": 0.0, "augment.flip_pairs": []}, reason)
    reason = "half of the clips are mirrored; " + (
        "the labels of a pair are exchanged then" if pairs else "no class name contains a direction"
    )
    return Choice({"augment.flip": 0.5, "augment.flip_pairs": [list(pair) for pair in pairs]}, reason)


def choose_dropout(context: TrainingContext, trainable: Trainable) -> Choice:
    """Dropout, drop path and label smoothing."""
    deep = sum(context.checkpoint.config.depths) > 12
    drop_path = (
        0.0 if context.is_small or trainable == "head" else 0.2 if deep and trainable == "all" else 0.1
    )
    settings = {
        "model.dropout": 0.0 if context.is_small else 0.5,
        "model.drop_path": drop_path,
        "augment.label_smoothing": 0.0 if context.multi_label else 0.1,
    }
    reason = "a small model is trained without dropout and drop path"
    if not context.is_small:
        reason = "dropout as in the published training on Kinetics; drop path "
        blocks = f"{drop_path:g} for {sum(context.checkpoint.config.depths)} blocks"
        reason += "acts on the backbone, which is not trained" if trainable == "head" else blocks
    return Choice(settings, reason)
