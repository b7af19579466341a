"""Fine-tuning on your own videos: a recipe whose numbers follow from the data, the start and the machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from videoswin._errors import InputError
from videoswin._text import plural, printable
from videoswin.recipes.clip_choice import (
    as_number,
    clip_for,
    clip_warning,
    expected_time,
    rate_note,
    what_is_seen,
    with_clip_settings,
)
from videoswin.recipes.situation import Choice, Situation, look_at
from videoswin.training.memory import Tune, estimate_training_bytes
from videoswin.training.recipe import (
    Augment,
    Data,
    Model,
    Optimizer,
    Recipe,
    Run,
    Schedule,
    VideoFiles,
    require_one_weighting,
)
from videoswin.training.run_folder import RunFolder
from videoswin.training.settings import flatten, with_settings
from videoswin.video.augment import mirrored_pairs, reads_direction
from videoswin.video.spec import ClipSpec

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


def finetune(
    *,
    data: str,
    start: str,
    root: str | None = None,
    validation: str | None = None,
    holdout: str | None = None,
    groups: str | None = None,
    balanced: str | None = None,
    class_weights: str | None = None,
    tune: Tune | None = None,
    epochs: str | None = None,
    batch_size: str | None = None,
    repeats: str | None = None,
    frames: str | None = None,
    stride: str | None = None,
    fps: str | None = None,
    size: str | None = None,
) -> Recipe:
    """Any checkpoint on your own videos, with numbers chosen for them; `explain` says what and why.

    Command: `videoswin train finetune --data my_videos/ --from tiny-k400 --out run/`, where `my_videos` is a
    folder with a folder for each class, or a list. Cost: minutes for a small model on a CPU; published models
    want a GPU. Expected: that depends on the data; the run's own validation tells.

    With few videos only the head learns, or the head and low-rank changes. A head alone sees what the start
    saw already: enough for classes that look different, not for classes that move differently. Frozen Video
    Swin features from Kinetics reach 85 % on FCVID and 21 % on Something-Something v2 (arXiv 2210.09969). For
    such classes start from a model of movements (base-ssv2, camera-motion), or set model.tune to `all`.

    root, validation, holdout, groups: as in VideoFiles. The others are settings made by hand, from which the
    rest follows: model.tune, schedule.epochs, data.batch_size, data.source.repeats, those of data.clip, and
    data.source.balanced and optimizer.class_weights, which exclude each other.
    ValueError as for `look_at`.
    """
    weighted = str(class_weights).lower() == "true"
    require_one_weighting(class_weights=weighted, balanced=str(balanced).lower() == "true")
    source = VideoFiles(train=data, root=root, validation=validation, groups=groups, failure_limit=0.05)
    if holdout is not None:
        source = replace(source, holdout=as_number("data.source.holdout", holdout))
    situation = look_at(source, start)
    require_one_weighting(class_weights=weighted, balanced=False, multi_label=situation.multi_label)
    checkpoint = situation.checkpoint
    clip = clip_for(situation)
    clip = with_clip_settings(clip, {"frames": frames, "stride": stride, "fps": fps, "size": size})
    # As in published training; where shrinking is antialiased, the frame may be cropped as it is.
    short_side = None if clip.antialias else round(clip.size * 256 / 224)
    plain = Recipe(
        name=f"{printable(Path(data).resolve().stem)}-from-{checkpoint.name}",
        data=Data(source=source, clip=clip, views=checkpoint.views, batch_size=LARGEST_BATCH),
        model=Model(start=start),
        augment=Augment(short_side=short_side),
        optimizer=Optimizer(rate=1e-3, weight_decay=0.05, groups="clean", clip_norm=1.0),
        schedule=Schedule(epochs=1, warmup_epochs=0.1, decay="step"),
        run=Run(licence=f"that of the videos, and {checkpoint.licence} of {checkpoint.name}"),
    )
    chosen = choices(
        situation.timed(clip, tune or what_learns(situation).settings["model.tune"]),
        clip=clip,
        tune=tune,
        epochs=_count(epochs),
        batch_size=_count(batch_size),
        repeats=_count(repeats),
        weighted=weighted,
    )
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
    situation = look_at(source, start).timed(recipe.data.clip, recipe.model.tune)
    made = choices(
        situation,
        clip=recipe.data.clip,
        tune=recipe.model.tune,
        epochs=recipe.schedule.epochs,
        batch_size=recipe.data.batch_size,
        repeats=source.repeats,
        weighted=recipe.optimizer.class_weights,
    )
    for settings, reason in made:
        chosen = flatten(with_settings(recipe, settings))
        values = ", ".join(f"{key}={json.dumps(now[key])}" for key in settings)
        by_hand = [key for key in settings if now[key] != chosen[key]]
        lines.append(f"{values}: {f'you set {by_hand[0]}, else {reason}' if by_hand else reason}")
    remarks = (
        rate_note(situation),
        clip_warning(situation, recipe.data.clip),
        expected_time(recipe, situation),
    )
    return [*lines, *filter(None, remarks)]


def measured_before(folder: Path) -> dict[str, Any]:
    """Return the settings in a run folder that follow from measurements, which differ from time to time."""
    kept = RunFolder(folder).settings if folder.is_dir() else {}  # a RunFolder makes its folder
    return {key: kept[key] for key in ("data.source.repeats", "data.batch_size") if key in kept}


def choices(
    situation: Situation,
    *,
    clip: ClipSpec | None = None,
    tune: Tune | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    repeats: int | None = None,
    weighted: bool = False,
) -> list[Choice]:
    """Everything that is chosen; no setting twice. What the user has set is given, the rest follows."""
    clip = clip or clip_for(situation)
    tuning = what_learns(situation)
    if tune is None or tune == tuning.settings["model.tune"]:
        tune = tuning.settings["model.tune"]
    else:
        tuning = Choice({"model.tune": tune}, "you set model.tune")
    drawing = what_is_drawn(situation, batch_size, repeats)
    batch = drawing.settings["data.batch_size"]
    return [
        what_is_seen(situation, clip),
        tuning,
        drawing,
        balance(situation, weighted),
        length(situation, tune, drawing, epochs),
        rates(situation, tune, batch),
        augmentation(situation, tune),
        mirroring(situation),
        regularisation(situation, tune),
        precision(situation),
        memory(situation, clip, tune, drawing),
    ]


def what_learns(situation: Situation) -> Choice:
    """All weights, the head alone, or the head and low-rank changes."""
    each = f"{plural(round(situation.per_class), 'video')} a class"
    if situation.is_small:
        tune, reason = "all", "the model is small: all of it learns quickly, and few videos are enough"
    elif situation.is_slow:
        tune, reason = "head", "without a GPU only a head learns in bearable time, and only what can be seen"
    elif situation.per_class < FEW_PER_CLASS:
        tune, reason = (
            "head",
            f"{each}: too few for more; if classes differ by movement, try model.tune=lora",
        )
    elif situation.per_class < MANY_PER_CLASS and situation.videos < MANY_VIDEOS:
        tune, reason = "lora", f"{each}: enough to adapt the weights, not to learn them anew"
    else:
        tune, reason = "all", f"{plural(situation.videos, 'video')}, {each}, are enough for all weights"
    return Choice({"model.tune": tune}, reason)


def what_is_drawn(situation: Situation, batch_size: int | None = None, repeats: int | None = None) -> Choice:
    """How many clips make a step, and how many of them come from one decoded video."""
    own_repeats, reason = _own_repeats(situation)
    by_hand = {}
    if repeats not in (None, own_repeats):
        by_hand["data.source.repeats"], reason = repeats, ""
    repeats = repeats or own_repeats
    most = max(1, LARGEST_BATCH // repeats)
    enough = max(situation.videos // 4, min(8, situation.videos))
    videos = 1 << min(enough, most).bit_length() - 1  # a power of two, for micro-batches and devices
    if batch_size not in (None, videos * repeats):
        by_hand["data.batch_size"] = batch_size
        videos = max(1, batch_size // repeats)
    settings = {"data.batch_size": batch_size or videos * repeats, "data.source.repeats": repeats}
    reason = f"{videos} of {plural(situation.videos, 'video')} a step{reason}"
    return Choice(settings, f"you set {' and '.join(by_hand)}: {reason}" if by_hand else reason)


def _own_repeats(situation: Situation) -> tuple[int, str]:
    """Clips made of a decoded one, as many as keep the model busy, and why."""
    speed = situation.speed
    if speed is None or situation.videos < 4:
        return 1, ""
    waiting = speed.decode / min(_workers(situation), situation.cores) / speed.learn
    repeats = 4 if waiting > 2 else 2 if waiting > 1 else 1
    times = (
        f"decoding a clip takes {1000 * speed.decode:.0f} ms and learning from it {1000 * speed.learn:.0f} ms"
    )
    return repeats, f", {plural(repeats, 'clip')} of each: {times}"


def balance(situation: Situation, weighted: bool) -> Choice:
    """Whether rare classes are drawn as often as common ones, if the loss does not weigh them more."""
    most, least = max(situation.counts), min(situation.counts)
    uneven = not situation.multi_label and not weighted and most > 3 * least
    reason = (
        f"classes have {least:,} to {plural(most, 'video')}" + ", so each is drawn equally often" * uneven
    )
    return Choice({"data.source.balanced": uneven}, reason)


def length(situation: Situation, tune: Tune, drawing: Choice, epochs: int | None) -> Choice:
    """Epochs, if they are not set, and the warm-up and patience that go with them."""
    videos = max(1, drawing.settings["data.batch_size"] // drawing.settings["data.source.repeats"])
    steps_per_epoch = max(1, situation.videos // videos)
    # Few videos may be seen often even where each takes seconds.
    slow_epochs = min(max(SLOW_EPOCHS, SLOW_CLIPS // situation.videos), 100)
    fewest, most = (1, slow_epochs) if situation.is_slow else (10, MOST_EPOCHS)
    if situation.is_small:
        most = MOST_CLIPS_OF_A_VIDEO // drawing.settings["data.source.repeats"]
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
    reason = f"{plural(epochs * steps_per_epoch, 'step')}; it stops early if validation no longer gets better"
    if by_hand:
        reason = f"you set schedule.epochs, which makes {plural(epochs * steps_per_epoch, 'step')}"
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
    return Choice(
        {"run.precision": situation.precision, "data.workers": _workers(situation)},
        f"this machine computes on {situation.device} and has {situation.cores} cores",
    )


def _workers(situation: Situation) -> int:
    return min(8 if situation.device == "cuda" else 2, situation.cores)


def memory(situation: Situation, clip: ClipSpec, tune: Tune, drawing: Choice) -> Choice:
    """Micro-batches that fit into the situation's memory, by estimate."""
    batch, repeats = drawing.settings["data.batch_size"], drawing.settings["data.source.repeats"]
    parts = 1
    while (
        batch % (2 * parts * repeats) == 0
        and _step_bytes(situation, clip, tune, batch // parts) > situation.memory
    ):
        parts *= 2
    gibibytes = _step_bytes(situation, clip, tune, batch // parts) / 2**30
    reason = f"{plural(batch // parts, 'clip')} at a time: about {gibibytes:.1f} GiB"
    return Choice({"run.micro_batches": parts}, reason)


def _count(text: str | None) -> int | None:
    """The number that was set by hand; None if it is none, which is reported when it is put in its place."""
    return int(text) if text and text.isdecimal() and int(text) > 0 else None


def _step_bytes(situation: Situation, clip: ClipSpec, tune: Tune, clips: int) -> int:
    return estimate_training_bytes(
        situation.checkpoint.config,
        clip,
        clips,
        precision=situation.precision,
        checkpointing=False,
        tune=tune,
        average=False,
        device_type=situation.device,
    )
