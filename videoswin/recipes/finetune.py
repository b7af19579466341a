"""Fine-tuning on your own videos: a recipe whose numbers follow from the data, the start and the machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, get_args

from videoswin._errors import InputError
from videoswin._text import plural, printable
from videoswin.recipes import autoconfig, clips
from videoswin.recipes.autoconfig import SMALL_MODEL, Choice, TrainingContext, inspect_context
from videoswin.recipes.clips import (
    as_number,
    choose_clip,
    clip_for,
    clip_warning,
    expected_time,
    rate_note,
    with_clip_settings,
)
from videoswin.training.memory import Trainable
from videoswin.training.recipe import (
    Augment,
    Model,
    Optimizer,
    Recipe,
    Run,
    Schedule,
    TrainingPrecision,
    VideoData,
    require_one_weighting,
)
from videoswin.training.run_folder import RunFolder
from videoswin.training.settings import flatten, with_settings
from videoswin.video.spec import ClipSpec, ViewPlan

FEW_PER_CLASS: Final = 10
"""Training videos of a class below which only the head of a large model learns."""
MANY_PER_CLASS: Final = 50
"""Training videos of a class from which all of a large model learns."""
MANY_VIDEOS: Final = 2000
"""Training videos from which all of a large model learns, however many classes they have."""
STEPS: Final[Mapping[str, int]] = MappingProxyType({"head": 300, "lora": 800, "all": 1500})
"""Steps to take with a large model, by what learns, if that makes 10 to 100 epochs."""
STEPS_OF_SMALL: Final = 600
MOST_EPOCHS: Final = 100
MOST_CLIPS_OF_A_VIDEO: Final = 400
"""That a small model learns from, each differently augmented: an epoch takes seconds."""
SLOW_EPOCHS: Final = 10
"""The most for a large model where there is no GPU."""
STEPS_TO_VALIDATION: Final = 20
"""Steps that are made at least before looking at the validation videos again, about."""
LARGEST_BATCH: Final = 64
"""That of the published training, whose learning rates are the measure of ours."""
SLOW_CLIPS: Final = 1500
"""Clips that such a model may learn from there, if that makes more epochs: an hour or so."""


_DATA: Final = VideoData(
    train="DATA", max_failure_fraction=0.05, clip=ClipSpec(), views=ViewPlan(), batch_size=LARGEST_BATCH
)
DEFAULTS: Final = Recipe(
    name="finetune",
    data=_DATA,
    model=Model(init_from="MODEL"),
    augment=Augment(),
    optimizer=Optimizer(lr=1e-3, weight_decay=0.05, param_groups="clean", max_grad_norm=1.0),
    schedule=Schedule(epochs=1, warmup_epochs=0.1, lr_update="step"),
    run=Run(),
)
"""The recipe before anything is chosen."""
CHOSEN: Final = frozenset(
    {f"data.{name}" for name in ("batch_size", "num_repeats", "class_balanced", "num_workers")}
    | {f"data.clip.{name}" for name in ("frames", "stride", "fps", "size", "short_side", "rule", "antialias")}
    | {f"data.clip.normalization.{name}" for name in ("mean", "std")}
    | {f"data.views.{name}" for name in ("clips", "crops", "placement", "average", "margin")}
    | {"name", "run.license", "run.precision", "run.grad_accum_steps", "run.log_every"}
    | {f"model.{name}" for name in ("trainable", "dropout", "drop_path")}
    | {f"augment.{name}" for name in ("short_side", "area", "rand_augment", "erasing", "mixup", "flip")}
    | {"augment.flip_pairs", "augment.label_smoothing"}
    | {f"optimizer.{name}" for name in ("lr", "backbone_lr_scale", "layer_decay")}
    | {f"schedule.{name}" for name in ("epochs", "warmup_epochs", "val_every", "patience")}
)
"""Settings that `finetune` chooses, or takes from the initial checkpoint."""


def finetune(
    *,
    data: str,
    init_from: str,
    root: str | None = None,
    val: str | None = None,
    val_fraction: str | None = None,
    group_by: str | None = None,
    class_balanced: str | None = None,
    trainable: Trainable | None = None,
    epochs: str | None = None,
    batch_size: str | None = None,
    num_repeats: str | None = None,
    frames: str | None = None,
    stride: str | None = None,
    fps: str | None = None,
    size: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    num_workers: str | None = None,
    devices: str | None = None,
    num_nodes: str | None = None,
    grad_checkpointing: str | None = None,
    class_weights: str | None = None,
) -> Recipe:
    """Any checkpoint on your own videos, with numbers chosen for them; `explain` says what and why.

    Command: `videoswin train finetune --data my_videos/ --model tiny-k400 --out run/`, where `my_videos` is a
    folder with a folder for each class, or a list. Cost: minutes for a small model on a CPU; published models
    want a GPU. Expected: that depends on the data; the run's own validation tells.

    With few videos only the head learns, or the head and low-rank changes. A head alone sees what the start
    saw already: enough for classes that look different, not for classes that move differently. Frozen Video
    Swin features from Kinetics reach 85 % on FCVID and 21 % on Something-Something v2 (arXiv 2210.09969). For
    such classes start from a model of movements (base-ssv2, camera-motion), or set model.trainable to `all`.

    root, val, val_fraction, group_by: as in VideoData. The others are settings made by hand, from which the
    rest follows: model.trainable, schedule.epochs, data.batch_size, data.num_repeats, those of data.clip,
    what the run takes of the machine, data.class_balanced and optimizer.class_weights, which exclude each
    other. ValueError as for `inspect_context`.
    """
    weighted = (class_weights or "").lower() == "true"
    require_one_weighting(class_weights=weighted, class_balanced=(class_balanced or "").lower() == "true")
    source = replace(
        _DATA,
        train=data,
        val=val,
        group_by=group_by,
        root=root,
    )
    if val_fraction is not None:
        source = replace(source, val_fraction=as_number("data.val_fraction", val_fraction))
    context = inspect_context(
        source,
        init_from,
        device=device or "auto",
        # What is none of them is reported when it is put in its place.
        precision=next((name for name in get_args(TrainingPrecision) if name == precision), None),
        workers=int(num_workers) if num_workers and num_workers.isdecimal() else None,
        devices=_count(devices) or 1,
        nodes=_count(num_nodes) or 1,
        grad_checkpointing=(grad_checkpointing or "").lower() == "true",
        class_weights=weighted,
    )
    require_one_weighting(class_weights=weighted, class_balanced=False, multi_label=context.multi_label)
    checkpoint = context.checkpoint
    clip = clip_for(context)
    clip = with_clip_settings(clip, {"frames": frames, "stride": stride, "fps": fps, "size": size})
    # As in published training; where shrinking is antialiased, the frame may be cropped as it is.
    short_side = None if clip.antialias else round(clip.size * 256 / 224)
    plain = replace(
        DEFAULTS,
        name=f"{printable(Path(data).resolve().stem)}-from-{checkpoint.name}",
        data=replace(source, clip=clip, views=checkpoint.views),
        model=Model(init_from=init_from),
        augment=Augment(short_side=short_side),
        run=Run(license=f"that of the videos, and {checkpoint.license} of {checkpoint.name}"),
    )
    chosen = choices(
        context.with_speed(clip, trainable or choose_trainable(context).settings["model.trainable"]),
        clip=clip,
        trainable=trainable,
        epochs=_count(epochs),
        batch_size=_count(batch_size),
        num_repeats=_count(num_repeats),
    )
    return with_settings(plain, {key: value for choice in chosen for key, value in choice.settings.items()})


def explain(recipe: Recipe) -> list[str]:
    """A line for each choice that `finetune` made: settings, values, why; what was set by hand says so.

    recipe: what `finetune` returned, settings changed or not. ValueError as for `finetune`.
    """
    source, init_from = recipe.data, recipe.model.init_from
    if not isinstance(source, VideoData) or init_from is None:
        raise InputError(f"{recipe.name} is no recipe for fine-tuning: it needs video files and a start")
    now = flatten(recipe)
    lines = []
    context = inspect_context(
        source,
        init_from,
        device=recipe.run.device,
        precision=recipe.run.precision,
        workers=recipe.data.num_workers,
        devices=recipe.run.devices,
        nodes=recipe.run.num_nodes,
        grad_checkpointing=recipe.model.grad_checkpointing,
        class_weights=recipe.optimizer.class_weights,
    ).with_speed(recipe.data.clip, recipe.model.trainable)
    made = choices(
        context,
        clip=recipe.data.clip,
        trainable=recipe.model.trainable,
        epochs=recipe.schedule.epochs,
        batch_size=recipe.data.batch_size,
        num_repeats=source.num_repeats,
    )
    for settings, reason in made:
        chosen = flatten(with_settings(recipe, settings))
        values = ", ".join(f"{key}={json.dumps(now[key])}" for key in settings)
        by_hand = [key for key in settings if now[key] != chosen[key]]
        lines.append(f"{values}: {f'you set {by_hand[0]}; without it: {reason}' if by_hand else reason}")
    remarks = (
        rate_note(context),
        clip_warning(context, recipe.data.clip),
        expected_time(recipe, context),
    )
    return [*lines, *filter(None, remarks)]


def read_measured_settings(folder: Path) -> dict[str, Any]:
    """Return the settings in a run folder that follow from measurements, which differ from time to time."""
    kept = RunFolder(folder).settings if folder.is_dir() else {}  # a RunFolder makes its folder
    return {key: kept[key] for key in ("data.num_repeats", "data.batch_size") if key in kept}


def choices(
    context: TrainingContext,
    *,
    clip: ClipSpec | None = None,
    trainable: Trainable | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    num_repeats: int | None = None,
) -> list[Choice]:
    """Everything that is chosen; no setting twice. What the user has set is given, the rest follows."""
    clip = clip or clip_for(context)
    tuning = choose_trainable(context)
    if trainable is None or trainable == tuning.settings["model.trainable"]:
        trainable = tuning.settings["model.trainable"]
    else:
        tuning = Choice({"model.trainable": trainable}, "you set model.trainable")
    drawing = choose_batch(context, batch_size, num_repeats)
    batch, num_repeats = drawing.settings["data.batch_size"], drawing.settings["data.num_repeats"]
    return [
        choose_clip(context, clip),
        tuning,
        drawing,
        choose_class_balance(context),
        choose_length(context, trainable, drawing, epochs),
        choose_learning_rates(context, trainable, batch),
        clips.choose_augmentation(context, trainable),
        clips.choose_flip(context),
        clips.choose_dropout(context, trainable),
        autoconfig.precision(context),
        autoconfig.memory(context, clip, trainable, batch, num_repeats),
    ]


def choose_trainable(context: TrainingContext) -> Choice:
    """All weights, the head alone, or the head and low-rank changes."""
    each = f"{plural(round(context.per_class), 'training video')} per class"
    size = f"{context.num_parameters / 1e6:.1f} million parameters"
    if context.is_small:
        trainable, reason = (
            "all",
            f"the model has {size}, fewer than {SMALL_MODEL / 1e6:.0f} million: all are trained",
        )
    elif context.is_slow:
        trainable, reason = (
            "head",
            f"the model has {size} and there is no GPU: only the head is trained, without a backward pass "
            "through the rest",
        )
    elif context.per_class < FEW_PER_CLASS:
        trainable, reason = (
            "head",
            f"{each}, fewer than {FEW_PER_CLASS}: only the head is trained; if classes differ in motion "
            "rather than appearance, try model.trainable=lora",
        )
    elif context.per_class < MANY_PER_CLASS and context.videos < MANY_VIDEOS:
        trainable, reason = (
            "lora",
            f"{each}, fewer than {MANY_PER_CLASS}: the head and low-rank changes (LoRA) are trained",
        )
    else:
        trainable, reason = "all", f"{context.videos:,} training videos, {each}: all parameters are trained"
    return Choice({"model.trainable": trainable}, reason)


def choose_batch(
    context: TrainingContext, batch_size: int | None = None, num_repeats: int | None = None
) -> Choice:
    """How many clips make a step, and how many of them come from one decoded video."""
    own_repeats, reason = autoconfig.repeats_for(context)
    by_hand = {}
    if num_repeats not in (None, own_repeats):
        by_hand["data.num_repeats"], reason = num_repeats, ""
    num_repeats = num_repeats or own_repeats
    most = max(1, LARGEST_BATCH // num_repeats)
    enough = max(context.videos // 4, min(8, context.videos))
    of_each = max(1, min(enough, most) // context.processes)
    videos = context.processes * (1 << of_each.bit_length() - 1)  # a power of two, for micro-batches
    if batch_size not in (None, videos * num_repeats):
        by_hand["data.batch_size"] = batch_size
        videos = max(1, batch_size // num_repeats)
    settings = {"data.batch_size": batch_size or videos * num_repeats, "data.num_repeats": num_repeats}
    reason = f"each step trains on {videos} of the {context.videos:,} training videos{reason}"
    return Choice(settings, f"you set {' and '.join(by_hand)}: {reason}" if by_hand else reason)


def choose_class_balance(context: TrainingContext) -> Choice:
    """Whether rare classes are drawn as often as common ones."""
    most, least = max(context.counts), min(context.counts)
    uneven = not context.multi_label and most > 3 * least
    if most == least:
        reason = f"each class has {plural(most, 'training video')}"
    else:
        reason = f"classes have {least:,} to {plural(most, 'training video')}"
    if uneven and context.class_weights:
        uneven, reason = False, f"{reason}; you set optimizer.class_weights, which weighs them in the loss"
    elif uneven:
        reason += ", so each class is drawn equally often"
    return Choice({"data.class_balanced": uneven}, reason)


def choose_length(
    context: TrainingContext, trainable: Trainable, drawing: Choice, epochs: int | None
) -> Choice:
    """Epochs, if they are not set, and the warm-up and patience that go with them."""
    videos = max(1, drawing.settings["data.batch_size"] // drawing.settings["data.num_repeats"])
    steps_per_epoch = max(1, context.videos // videos)
    # Few videos may be seen often even where each takes seconds.
    slow_epochs = min(max(SLOW_EPOCHS, SLOW_CLIPS // context.videos), 100)
    fewest, most = (1, slow_epochs) if context.is_slow else (10, MOST_EPOCHS)
    if context.is_small:
        most = MOST_CLIPS_OF_A_VIDEO // drawing.settings["data.num_repeats"]
    steps = STEPS_OF_SMALL if context.is_small else STEPS[trainable]
    own = min(max(round(steps / steps_per_epoch), fewest), most)
    by_hand, epochs = epochs not in (None, own), epochs or own
    most_between = max(1, epochs // 5)
    settings = {
        "schedule.epochs": epochs,
        "schedule.warmup_epochs": epochs / 10,
        "schedule.val_every": min(max(1, round(STEPS_TO_VALIDATION / steps_per_epoch)), most_between),
        "schedule.patience": max(5, epochs // 3),
    }
    # Short runs have a point of the training loss for each of the validation.
    steps_between = steps_per_epoch * settings["schedule.val_every"]
    settings["run.log_every"] = min(Run.log_every, steps_between)
    reason = f"{plural(epochs * steps_per_epoch, 'step')}, {steps_per_epoch:,} per epoch"
    if context.num_validation and settings["schedule.patience"] < epochs:
        reason += f"; training stops after {settings['schedule.patience']} epochs without better validation"
    if by_hand:
        reason = f"you set schedule.epochs: {reason}"
    return Choice(settings, reason)


def choose_learning_rates(context: TrainingContext, trainable: Trainable, batch: int) -> Choice:
    """Learning rates of the head, of the rest, and by depth."""
    rate = 1e-3 * math.sqrt(batch / LARGEST_BATCH)
    backbone, layer_decay = 0.1, 1.0
    reason = f"0.001 at batch size {LARGEST_BATCH}, scaled by the square root of the batch size"
    if context.is_small:
        backbone = 1.0
        reason += "; the same for all layers of a small model"
    elif trainable == "all":
        # The first block learns at about 0.3 of the last one's rate, however deep the model is.
        layer_decay = round(0.3 ** (1 / sum(context.checkpoint.config.depths)), 2)
        reason += f"; a tenth of it for the backbone, times {layer_decay:g} for each block below the head"
    elif trainable == "lora":
        reason += "; the same for the head and the low-rank changes"
    settings = {
        "optimizer.lr": float(f"{rate:.2g}"),
        "optimizer.backbone_lr_scale": backbone,
        "optimizer.layer_decay": layer_decay,
    }
    return Choice(settings, reason)


def _count(text: str | None) -> int | None:
    """The number that was set by hand; None if it is none, which is reported when it is put in its place."""
    return int(text) if text and text.isdecimal() and int(text) > 0 else None
