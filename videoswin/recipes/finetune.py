"""Fine-tune on your own videos, with settings chosen from the data, the checkpoint and the machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from videoswin._text import plural, printable
from videoswin.recipes import autoconfig, clips
from videoswin.recipes.autoconfig import SMALL_MODEL, Choice, TrainingContext, inspect_context
from videoswin.training.data import RunInputs, read_inputs
from videoswin.training.memory import Trainable
from videoswin.training.recipe import (
    Augment,
    Model,
    Optimizer,
    Recipe,
    Run,
    Schedule,
    VideoData,
    require_one_weighting,
)
from videoswin.training.run_folder import RunFolder
from videoswin.training.settings import flatten, parse_settings, with_settings
from videoswin.video.spec import ClipSpec, ViewPlan

FEW_PER_CLASS: Final = 10
"""Training videos per class below which only the head of a large model is trained."""
MANY_PER_CLASS: Final = 50
"""Training videos per class from which all parameters of a large model are trained."""
MANY_VIDEOS: Final = 2000
"""Training videos from which all parameters of a large model are trained, whatever the number of classes."""
STEPS_LARGE_MODEL: Final[Mapping[str, int]] = MappingProxyType({"head": 300, "lora": 800, "all": 1500})
"""Training steps of a large model, by trainable parameters, within 10 to 100 epochs."""
STEPS_SMALL_MODEL: Final = 600
MAX_EPOCHS: Final = 100
MAX_CLIPS_PER_VIDEO: Final = 400
"""Maximum number of clips of each video for a small model, differently augmented: an epoch takes seconds."""
MAX_EPOCHS_WITHOUT_GPU: Final = 10
"""Maximum number of epochs of a large model without a GPU; more if they have few clips in total."""
MAX_CLIPS_WITHOUT_GPU: Final = 1500
"""Total number of clips up to which there may be more epochs: about an hour."""
STEPS_PER_VALIDATION: Final = 20
"""Approximate minimum number of steps between two validations."""
MAX_BATCH_SIZE: Final = 64
"""Batch size of the published training, from whose learning rates ours are scaled."""

_DATA: Final = VideoData(
    train="DATA", max_failure_fraction=0.05, clip=ClipSpec(), views=ViewPlan(), batch_size=MAX_BATCH_SIZE
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
"""The recipe before any setting is chosen."""
CHOSEN_SETTINGS: Final = frozenset(
    {f"data.{name}" for name in ("batch_size", "num_repeats", "class_balanced", "num_workers")}
    | {f"data.clip.{name}" for name in ("frames", "stride", "fps", "size", "short_side", "rule", "antialias")}
    | {f"data.clip.normalization.{name}" for name in ("mean", "std")}
    | {f"data.views.{name}" for name in ("clips", "crops", "placement", "average", "margin")}
    | {"name", "run.license", "run.precision", "run.grad_accum_steps", "run.log_every"}
    | {f"model.{name}" for name in ("trainable", "dropout", "drop_path")}
    | {
        f"augment.{name}"
        for name in ("short_side", "scale", "rand_augment", "random_erasing", "mixup", "hflip")
    }
    | {"augment.flip_pairs", "augment.label_smoothing"}
    | {f"optimizer.{name}" for name in ("lr", "backbone_lr_scale", "layer_decay")}
    | {f"schedule.{name}" for name in ("epochs", "warmup_epochs", "val_every", "patience")}
)
"""Settings that `finetune` chooses, or takes from the initial checkpoint."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A recipe with the reasons for its settings."""

    recipe: Recipe
    """The recipe of the run."""
    reasons: tuple[str, ...] = ()
    """A line for each choice: settings, values, reason, and which ones the user set; then notes, warnings and
    the expected time, if they are known."""
    inputs: RunInputs | None = None
    """What was read to choose the settings, so that `train` does not read it again."""


def finetune(
    *,
    data: str,
    init_from: str,
    settings: Mapping[str, Any] = MappingProxyType({}),
    license: str | None = None,
) -> RunPlan:
    """Fine-tune any checkpoint on your own videos, with settings chosen for them.

    Command: `videoswin train finetune --data my_videos/ --model tiny-k400 --out run/`, where `my_videos` is a
    folder with a folder for each class, or a list. Cost: minutes for a small model on a CPU; the published
    models need a GPU. Expected: depends on the data; the run measures it on the validation videos.

    With few videos only the head is trained, or the head and low-rank changes (LoRA). A head uses the
    features of the initial model as they are: enough for classes that differ in appearance, not for classes
    that differ in motion. Frozen Video Swin features from Kinetics reach 85 % on FCVID and 21 % on
    Something-Something v2 (arXiv 2210.09969). For classes that differ in motion, start from a model trained
    on motion (base-ssv2, camera-motion), or set model.trainable to `all`.

    Args:
        data: Folder or list of the training videos.
        init_from: Catalog name, bundled name or file of the initial checkpoint.
        settings: Setting -> value, as text or as a JSON value. The choices of the other settings follow them.
        license: License of a restricted initial checkpoint, repeated to accept it.

    Returns:
        The recipe with these settings, the reasons for the others, and the inputs.

    Raises:
        InputError: A setting is unknown or invalid, which is found before anything is read; otherwise as for
            `read_inputs` and `inspect_context`.
    """
    given = parse_settings(DEFAULTS, settings)
    # Clip and schedule depend on values that are not chosen yet.
    late = ("data.clip.", "schedule.warmup_epochs")
    early = {key: value for key, value in given.items() if not key.startswith(late)}
    defaults = with_settings(DEFAULTS, {"data.train": data, "model.init_from": init_from} | early)
    source, optimizer = defaults.data, defaults.optimizer
    assert isinstance(source, VideoData)
    require_one_weighting(class_weights=optimizer.class_weights, class_balanced=source.class_balanced)
    inputs = read_inputs(defaults, license=license)
    context = inspect_context(inputs, given)
    require_one_weighting(
        class_weights=optimizer.class_weights, class_balanced=False, multi_label=context.multi_label
    )
    checkpoint = context.checkpoint
    clip = clips.with_clip_settings(clips.default_clip(context), given)
    # As in the published training; with antialiased resizing, the full frame can be cropped.
    short_side = None if clip.antialias else round(clip.size * 256 / 224)
    recipe = replace(
        defaults,
        name=f"{printable(Path(source.train).resolve().stem)}-from-{checkpoint.name}",
        data=replace(source, clip=clip, views=checkpoint.views),
        augment=replace(defaults.augment, short_side=short_side),
        run=replace(
            defaults.run, license=f"that of the videos, and {checkpoint.license} of {checkpoint.name}"
        ),
    )
    trainable = given.get("model.trainable")
    context = context.with_speed(clip, trainable or choose_trainable(context).settings["model.trainable"])
    choices = choose_settings(
        context,
        clip=clip,
        trainable=trainable,
        epochs=given.get("schedule.epochs"),
        batch_size=given.get("data.batch_size"),
        num_repeats=given.get("data.num_repeats"),
    )
    chosen = {key: value for choice in choices for key, value in choice.settings.items()}
    recipe = with_settings(recipe, chosen | given)
    return RunPlan(recipe=recipe, reasons=explain(choices, recipe, context), inputs=inputs)


def explain(choices: list[Choice], recipe: Recipe, context: TrainingContext) -> tuple[str, ...]:
    """Return the reasons of a `RunPlan`.

    Args:
        choices: The result of `choose_settings`.
        recipe: The recipe with these settings, and those of the user.
        context: The facts that the choices follow from.
    """
    current = flatten(recipe)
    lines = []
    for settings, reason in choices:
        values = ", ".join(f"{key}={json.dumps(current[key])}" for key in settings)
        set_by_user = [key for key, value in settings.items() if current[key] != value]
        prefix = f"you set {set_by_user[0]}; by default: " if set_by_user else ""
        lines.append(f"{values}: {prefix}{reason}")
    remarks = (
        clips.describe_assumed_frame_rate(context),
        clips.clip_warning(context, recipe.data.clip),
        clips.expected_time(recipe, context),
    )
    return (*lines, *filter(None, remarks))


def read_measured_settings(folder: Path) -> dict[str, Any]:
    """Return the settings in a run folder that depend on measured speed, which varies between calls."""
    saved = RunFolder(folder).settings if folder.is_dir() else {}  # RunFolder creates a missing folder
    return {key: saved[key] for key in ("data.num_repeats", "data.batch_size") if key in saved}


def choose_settings(
    context: TrainingContext,
    *,
    clip: ClipSpec | None = None,
    trainable: Trainable | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    num_repeats: int | None = None,
) -> list[Choice]:
    """Return all choices of fine-tuning; each setting is in one of them.

    Args:
        context: The facts that the choices follow from.
        clip: The clip; None takes the default.
        trainable: Trainable parameters that the user set; None chooses them. The same holds for the others.
        epochs: Number of epochs.
        batch_size: Clips per step.
        num_repeats: Clips per decoded video.
    """
    clip = clip or clips.default_clip(context)
    trainable_choice = choose_trainable(context)
    if trainable is None or trainable == trainable_choice.settings["model.trainable"]:
        trainable = trainable_choice.settings["model.trainable"]
    else:
        trainable_choice = Choice({"model.trainable": trainable}, "you set model.trainable")
    batch = choose_batch(context, batch_size, num_repeats)
    batch_size, num_repeats = batch.settings["data.batch_size"], batch.settings["data.num_repeats"]
    return [
        clips.choose_clip(context, clip),
        trainable_choice,
        batch,
        clips.choose_class_balance(context),
        choose_schedule(context, trainable, batch, epochs),
        choose_learning_rates(context, trainable, batch_size),
        clips.choose_augmentation(context, trainable),
        clips.choose_flip(context),
        clips.choose_dropout(context, trainable),
        autoconfig.choose_precision(context),
        autoconfig.choose_grad_accum_steps(context, clip, trainable, batch_size, num_repeats),
    ]


def choose_trainable(context: TrainingContext) -> Choice:
    """Choose the trainable parameters: all, those of the head, or the head and low-rank changes."""
    per_class = f"{plural(round(context.per_class), 'training video')} per class"
    size = f"{context.num_parameters / 1e6:.1f} million parameters"
    if context.is_small:
        trainable, reason = (
            "all",
            f"the model has {size}, fewer than {SMALL_MODEL / 1e6:.0f} million: all parameters are trained",
        )
    elif context.is_slow:
        trainable, reason = (
            "head",
            f"the model has {size} and there is no GPU: only the head is trained, without a backward pass "
            "through the backbone",
        )
    elif context.per_class < FEW_PER_CLASS:
        trainable, reason = (
            "head",
            f"{per_class}, fewer than {FEW_PER_CLASS}: only the head is trained; if classes differ in motion "
            "rather than appearance, try model.trainable=lora",
        )
    elif context.per_class < MANY_PER_CLASS and context.videos < MANY_VIDEOS:
        trainable, reason = (
            "lora",
            f"{per_class}, fewer than {MANY_PER_CLASS}: the head and low-rank changes (LoRA) are trained",
        )
    else:
        trainable, reason = (
            "all",
            f"{context.videos:,} training videos, {per_class}: all parameters are trained",
        )
    return Choice({"model.trainable": trainable}, reason)


def choose_batch(
    context: TrainingContext, batch_size: int | None = None, num_repeats: int | None = None
) -> Choice:
    """Choose the clips per step, and how many of them are made from each decoded video.

    Args:
        context: Facts about the data, the model and the machine.
        batch_size: Clips per step that the user set; None chooses.
        num_repeats: Clips from each decoded video that the user set; None chooses.
    """
    default_repeats, reason = autoconfig.choose_num_repeats(context)
    set_by_user = []
    if num_repeats not in (None, default_repeats):
        set_by_user.append("data.num_repeats")
        reason = ""
    num_repeats = num_repeats or default_repeats
    max_videos = max(1, MAX_BATCH_SIZE // num_repeats)
    enough_videos = max(context.videos // 4, min(8, context.videos))
    per_process = max(1, min(enough_videos, max_videos) // context.processes)
    # A power of 2 per process can be divided into micro-batches.
    videos = context.processes * (1 << per_process.bit_length() - 1)
    if batch_size not in (None, videos * num_repeats):
        set_by_user.append("data.batch_size")
        videos = max(1, batch_size // num_repeats)
    settings = {"data.batch_size": batch_size or videos * num_repeats, "data.num_repeats": num_repeats}
    reason = f"each step trains on {videos} of the {context.videos:,} training videos{reason}"
    return Choice(settings, f"you set {' and '.join(set_by_user)}: {reason}" if set_by_user else reason)


def choose_schedule(
    context: TrainingContext, trainable: Trainable, batch: Choice, epochs: int | None
) -> Choice:
    """Choose the epochs, unless the user set them, and the warm-up, patience and logging that follow.

    Args:
        context: Facts about the data, the model and the machine.
        trainable: Parameters that are trained.
        batch: Result of `choose_batch`.
        epochs: Epochs that the user set; None chooses.
    """
    num_repeats = batch.settings["data.num_repeats"]
    videos_per_step = max(1, batch.settings["data.batch_size"] // num_repeats)
    steps_per_epoch = max(1, context.videos // videos_per_step)
    # Few videos allow more epochs, even if each clip takes seconds.
    slow_epochs = min(max(MAX_EPOCHS_WITHOUT_GPU, MAX_CLIPS_WITHOUT_GPU // context.videos), 100)
    min_epochs, max_epochs = (1, slow_epochs) if context.is_slow else (10, MAX_EPOCHS)
    if context.is_small:
        max_epochs = MAX_CLIPS_PER_VIDEO // num_repeats
    steps = STEPS_SMALL_MODEL if context.is_small else STEPS_LARGE_MODEL[trainable]
    default = min(max(round(steps / steps_per_epoch), min_epochs), max_epochs)
    set_by_user, epochs = epochs not in (None, default), epochs or default
    max_val_every = max(1, epochs // 5)
    settings = {
        "schedule.epochs": epochs,
        "schedule.warmup_epochs": epochs / 10,
        "schedule.val_every": min(max(1, round(STEPS_PER_VALIDATION / steps_per_epoch)), max_val_every),
        "schedule.patience": max(5, epochs // 3),
    }
    # Even a short run logs a training loss for each validation.
    steps_per_validation = steps_per_epoch * settings["schedule.val_every"]
    settings["run.log_every"] = min(Run.log_every, steps_per_validation)
    reason = f"{plural(epochs * steps_per_epoch, 'step')}, {steps_per_epoch:,} per epoch"
    if context.num_validation and settings["schedule.patience"] < epochs:
        reason += f"; training stops after {settings['schedule.patience']} epochs without better validation"
    if set_by_user:
        reason = f"you set schedule.epochs: {reason}"
    return Choice(settings, reason)


def choose_learning_rates(context: TrainingContext, trainable: Trainable, batch_size: int) -> Choice:
    """Choose the learning rates of the head and of the backbone, and their decay by depth.

    Args:
        context: Facts about the data, the model and the machine.
        trainable: Parameters that are trained.
        batch_size: Clips per step, over all devices.
    """
    lr = 1e-3 * math.sqrt(batch_size / MAX_BATCH_SIZE)
    backbone_lr_scale, layer_decay = 0.1, 1.0
    reason = f"0.001 at batch size {MAX_BATCH_SIZE}, scaled by the square root of the batch size"
    if context.is_small:
        backbone_lr_scale = 1.0
        reason += "; the same for all blocks of a small model"
    elif trainable == "all":
        # The first block has about 0.3 of the learning rate of the last one, whatever the depth.
        layer_decay = round(0.3 ** (1 / sum(context.checkpoint.config.depths)), 2)
        reason += f"; 0.1 of it for the backbone, times {layer_decay:g} for each block below the head"
    elif trainable == "lora":
        reason += "; the same for the head and the low-rank changes"
    settings = {
        "optimizer.lr": float(f"{lr:.2g}"),
        "optimizer.backbone_lr_scale": backbone_lr_scale,
        "optimizer.layer_decay": layer_decay,
    }
    return Choice(settings, reason)
