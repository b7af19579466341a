"""Fine-tuning on your own videos: a recipe whose numbers follow from the data, the start and the machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from videoswin._errors import InputError
from videoswin.recipes.situation import Situation, look_at
from videoswin.training.memory import Tune, estimate_training_bytes
from videoswin.training.recipe import Augment, Data, Model, Optimizer, Recipe, Run, Schedule, VideoFiles
from videoswin.training.settings import flatten, with_settings
from videoswin.video.augment import mirrored_pairs, reads_direction

FEW_PER_CLASS: Final = 10
"""Training videos of a class below which only the head of a large model learns."""
MANY_PER_CLASS: Final = 50
"""Training videos of a class from which all of a large model learns."""
MANY_VIDEOS: Final = 2000
"""Training videos from which all of a large model learns, however many classes they have."""
STEPS: Final[Mapping[str, int]] = MappingProxyType({"head": 300, "lora": 800, "all": 1500})
"""Steps to take with a large model, by what learns, if that makes 10 to 100 epochs."""
STEPS_OF_SMALL: Final = 600
SLOW_EPOCHS: Final = 10
"""The most for a large model where there is no GPU."""
STEPS_TO_VALIDATION: Final = 20
"""Steps that are made at least before looking at the validation videos again, about."""
LARGEST_BATCH: Final = 64
"""That of the published training, whose learning rates are the measure of ours."""
SLOW_CLIPS: Final = 1500
"""Clips that such a model may learn from there, if that makes more epochs: an hour or so."""


class Choice(NamedTuple):
    """Settings, and why they are what they are."""

    settings: dict[str, Any]
    reason: str


def finetune(
    *,
    data: str,
    start: str,
    root: str | None = None,
    validation: str | None = None,
    holdout: str | None = None,
    groups: str | None = None,
    tune: Tune | None = None,
    epochs: str | None = None,
) -> Recipe:
    """Any checkpoint on your own videos, with numbers chosen for them; `explain` says what and why.

    Command: `videoswin train finetune --data my_videos/ --from tiny-k400 --out run/`, where `my_videos` is a
    folder with a folder for each class, or a list. Cost: minutes for a small model on a CPU; published models
    want a GPU. Expected: that depends on the data; the run's own validation tells.

    With few videos only the head learns, or the head and low-rank changes. A head alone sees what the start
    saw already: enough for classes that look different, not for classes that move differently. Frozen Video
    Swin features from Kinetics reach 85 % on FCVID and 21 % on Something-Something v2 (arXiv 2210.09969). For
    such classes start from a model of movements (base-ssv2, camera-motion), or set model.tune to `all`.

    root, validation, holdout, groups: as in VideoFiles. tune, epochs: as in Model and Schedule, where they
    are set by hand: the rest follows from them. ValueError as for `look_at`.
    """
    source = VideoFiles(train=data, root=root, validation=validation, groups=groups, failure_limit=0.05)
    if holdout is not None:
        try:
            fraction = float(holdout)
        except ValueError as error:
            raise InputError(f"data.source.holdout must be a number, got {holdout!r}") from error
        source = replace(source, holdout=fraction)
    situation = look_at(source, start)
    checkpoint = situation.checkpoint
    # As in published training; where shrinking is antialiased, the frame may be cropped as it is.
    short_side = None if checkpoint.clip.antialias else round(checkpoint.clip.size * 256 / 224)
    plain = Recipe(
        name=f"{Path(data).resolve().stem}-from-{checkpoint.name}",
        data=Data(source=source, clip=checkpoint.clip, views=checkpoint.views, batch_size=LARGEST_BATCH),
        model=Model(start=start),
        augment=Augment(short_side=short_side),
        optimizer=Optimizer(rate=1e-3, weight_decay=0.05, groups="clean", clip_norm=1.0),
        schedule=Schedule(epochs=1, warmup_epochs=0.1, decay="step"),
        run=Run(licence=f"that of the videos, and {checkpoint.licence} of {checkpoint.name}"),
    )
    chosen = choices(situation, tune=tune, epochs=int(epochs) if epochs and epochs.isdigit() else None)
    return with_settings(plain, {key: value for choice in chosen for key, value in choice.settings.items()})


def explain(recipe: Recipe) -> list[str]:
    """A line for each choice that `finetune` made: settings, values, why; what was set by hand says so.

    recipe: what `finetune` returned, settings changed or not. ValueError as for `finetune`.
    """
    source, start = recipe.data.source, recipe.model.start
    if not isinstance(source, VideoFiles) or start is None:
        raise InputError(f"{recipe.name} is no recipe for fine-tuning: it needs video files and a start")
    now = flatten(recipe)
    lines = []
    situation = look_at(source, start)
    for settings, reason in choices(situation, tune=recipe.model.tune, epochs=recipe.schedule.epochs):
        chosen = flatten(with_settings(recipe, settings))
        values = ", ".join(f"{key}={json.dumps(now[key])}" for key in settings)
        by_hand = [key for key in settings if now[key] != chosen[key]]
        lines.append(f"{values}: {f'you set {by_hand[0]}, else {reason}' if by_hand else reason}")
    return lines


def choices(situation: Situation, *, tune: Tune | None = None, epochs: int | None = None) -> list[Choice]:
    """Everything that is chosen; no setting twice. tune, epochs: what the user has set, the rest follows."""
    tuning = what_learns(situation)
    if tune is None or tune == tuning.settings["model.tune"]:
        tune = tuning.settings["model.tune"]
    else:
        tuning = Choice({"model.tune": tune}, "you set model.tune")
    drawing = what_is_drawn(situation)
    batch = drawing.settings["data.batch_size"]
    return [
        tuning,
        drawing,
        balance(situation),
        length(situation, tune, drawing, epochs),
        rates(situation, tune, batch),
        augmentation(situation, tune),
        mirroring(situation),
        regularisation(situation, tune),
        precision(situation),
        memory(situation, tune, drawing),
    ]


def what_learns(situation: Situation) -> Choice:
    """All weights, the head alone, or the head and low-rank changes."""
    each = f"{situation.per_class:.0f} videos a class"
    if situation.is_small:
        tune, reason = "all", "the model is small: all of it learns quickly, and few videos are enough"
    elif situation.is_slow:
        tune, reason = "head", "without a GPU only a head learns in bearable time, and only what can be seen"
    elif situation.per_class < FEW_PER_CLASS:
        tune, reason = (
            "head",
            f"{each} are too few for more; if classes differ by movement, try model.tune=lora",
        )
    elif situation.per_class < MANY_PER_CLASS and situation.videos < MANY_VIDEOS:
        tune, reason = "lora", f"{each} are enough to adapt the weights, not to learn them anew"
    else:
        tune, reason = "all", f"{situation.videos:,} videos, {each}, are enough for all weights"
    return Choice({"model.tune": tune}, reason)


def what_is_drawn(situation: Situation) -> Choice:
    """How many clips make a step, and how many of them come from one decoded video."""
    repeats = 4 if situation.is_small and situation.videos >= 4 else 1
    most = LARGEST_BATCH // repeats
    wanted = max(situation.videos // 4, min(8, situation.videos))
    videos = 1 << min(wanted, most).bit_length() - 1  # a power of two, for micro-batches and devices
    reason = f"{videos} of {situation.videos:,} videos a step"
    if repeats > 1:
        reason += f", {repeats} clips of each, because decoding takes longer than learning"
    return Choice({"data.batch_size": videos * repeats, "data.source.repeats": repeats}, reason)


def balance(situation: Situation) -> Choice:
    """Whether rare classes are drawn as often as common ones."""
    most, least = max(situation.counts), min(situation.counts)
    uneven = not situation.multi_label and most > 3 * least
    reason = f"classes have {least:,} to {most:,} videos" + ", so each is drawn equally often" * uneven
    return Choice({"data.source.balanced": uneven}, reason)


def length(situation: Situation, tune: Tune, drawing: Choice, epochs: int | None) -> Choice:
    """Epochs, if they are not set, and the warm-up and patience that go with them."""
    videos = drawing.settings["data.batch_size"] // drawing.settings["data.source.repeats"]
    steps_per_epoch = situation.videos // videos
    # Few videos may be seen often even where each takes seconds.
    slow_epochs = min(max(SLOW_EPOCHS, SLOW_CLIPS // situation.videos), 100)
    fewest, most = (1, slow_epochs) if situation.is_slow else (10, 100)
    steps = STEPS_OF_SMALL if situation.is_small else STEPS[tune]
    own = min(max(round(steps / steps_per_epoch), fewest), most)
    by_hand, epochs = epochs not in (None, own), epochs or own
    most_between = max(1, epochs // 5)
    settings = {
        "schedule.epochs": epochs,
        "schedule.warmup_epochs": epochs / 10,
        "schedule.validate_every": min(max(1, round(STEPS_TO_VALIDATION / steps_per_epoch)), most_between),
        "schedule.patience": max(5, epochs // 3),
    }
    reason = f"{epochs * steps_per_epoch:,} steps; it stops early if validation no longer gets better"
    if by_hand:
        reason = f"you set schedule.epochs, which makes {epochs * steps_per_epoch:,} steps"
    return Choice(settings, reason)


def rates(situation: Situation, tune: Tune, batch: int) -> Choice:
    """Learning rates of the head, of the rest, and by depth."""
    rate = 1e-3 * math.sqrt(batch / LARGEST_BATCH)
    backbone, layer_decay = 0.1, 1.0
    reason = f"the rates of published training for a batch of {batch}"
    if situation.is_small:
        backbone = 1.0
        reason = f"the rate of published training for a batch of {batch}, for all of a small model"
    elif tune == "all":
        # The first block learns at about 0.3 of the last one's rate, however deep the model is.
        layer_decay = round(0.3 ** (1 / sum(situation.checkpoint.config.depths)), 2)
        reason += ", lower the further from the head"
    settings = {
        "optimizer.rate": float(f"{rate:.2g}"),
        "optimizer.backbone": backbone,
        "optimizer.layer_decay": layer_decay,
    }
    return Choice(settings, reason)


def augmentation(situation: Situation, tune: Tune) -> Choice:
    """How much clips are changed: the more weights learn from the fewer videos, the more."""
    strength = {
        "augment.area": [0.5, 1.0],
        "augment.rand_augment": 0,
        "augment.erasing": 0.0,
        "augment.mixup": 0.0,
    }
    if situation.is_small:
        return Choice(strength, "small frames bear little change")
    if tune == "head":
        return Choice(strength, "a head alone can learn little by heart")
    strength |= {"augment.area": [0.2, 1.0], "augment.rand_augment": 2}
    if tune == "lora":
        return Choice(strength, "against learning the videos by heart")
    strength |= {"augment.erasing": 0.25, "augment.mixup": 0.2}
    return Choice(strength, "all weights learn, and could learn the videos by heart")


def mirroring(situation: Situation) -> Choice:
    """Whether clips are mirrored, and which labels trade places then."""
    pairs = mirrored_pairs(situation.classes)
    paired = {name for pair in pairs for name in pair}
    alone = [name for name in situation.classes if reads_direction(name) and name not in paired]
    if alone:
        reason = f"{alone[0]!r} tells left from right and has no counterpart, so that nothing is mirrored"
        return Choice({"augment.flip": 0.0, "augment.flip_pairs": []}, reason)
    reason = "mirrored labels trade places" if pairs else "no label tells left from right"
    return Choice({"augment.flip": 0.5, "augment.flip_pairs": [list(pair) for pair in pairs]}, reason)


def regularisation(situation: Situation, tune: Tune) -> Choice:
    """Dropout, drop path and label smoothing."""
    deep = sum(situation.checkpoint.config.depths) > 12
    drop_path = 0.0 if situation.is_small or tune == "head" else 0.2 if deep and tune == "all" else 0.1
    settings = {
        "model.dropout": 0.0 if situation.is_small else 0.5,
        "model.drop_path": drop_path,
        "augment.label_smoothing": 0.0 if situation.multi_label else 0.1,
    }
    return Choice(
        settings, "a small model has nothing to spare" if situation.is_small else "near published training"
    )


def precision(situation: Situation) -> Choice:
    """The number format, and the processes that decode."""
    workers = min(8 if situation.device == "cuda" else 2, situation.cores)
    return Choice(
        {"run.precision": situation.precision, "data.workers": workers},
        f"this machine computes on {situation.device} and has {situation.cores} cores",
    )


def memory(situation: Situation, tune: Tune, drawing: Choice) -> Choice:
    """Micro-batches that fit into the situation's memory, by estimate."""
    batch, repeats = drawing.settings["data.batch_size"], drawing.settings["data.source.repeats"]
    parts = 1
    while parts * repeats < batch and _step_bytes(situation, tune, batch // parts) > situation.memory:
        parts *= 2
    gibibytes = _step_bytes(situation, tune, batch // parts) / 2**30
    reason = f"{batch // parts} clips at a time take about {gibibytes:.1f} GiB"
    return Choice({"run.micro_batches": parts}, reason)


def _step_bytes(situation: Situation, tune: Tune, clips: int) -> int:
    return estimate_training_bytes(
        situation.checkpoint.config,
        situation.checkpoint.clip,
        clips,
        precision=situation.precision,
        checkpointing=False,
        tune=tune,
        average=False,
        device_type=situation.device,
    )
