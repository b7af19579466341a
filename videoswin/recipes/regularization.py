"""What fine-tuning does against overfitting: augmentation, mirroring, dropout."""

from __future__ import annotations

from videoswin.recipes.situation import Choice, Situation
from videoswin.training.memory import Trainable
from videoswin.video.augment import mirrored_pairs, reads_direction


def augmentation(situation: Situation, trainable: Trainable) -> Choice:
    """How much clips are changed: the more weights learn from the fewer videos, the more."""
    strength = {
        "augment.area": [0.5, 1.0],
        "augment.rand_augment": 0,
        "augment.erasing": 0.0,
        "augment.mixup": 0.0,
    }
    if situation.is_small:
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


def mirroring(situation: Situation) -> Choice:
    """Whether clips are mirrored, and which labels trade places then."""
    pairs = mirrored_pairs(situation.classes)
    paired = {name for pair in pairs for name in pair}
    alone = [name for name in situation.classes if reads_direction(name) and name not in paired]
    if alone:
        reason = f"{alone[0]!r} names a direction and no class is its mirror image, so clips are not mirrored"
        return Choice({"augment.flip": 0.0, "augment.flip_pairs": []}, reason)
    reason = "half of the clips are mirrored; " + (
        "the labels of a pair are exchanged then" if pairs else "no class name contains a direction"
    )
    return Choice({"augment.flip": 0.5, "augment.flip_pairs": [list(pair) for pair in pairs]}, reason)


def dropout(situation: Situation, trainable: Trainable) -> Choice:
    """Dropout, drop path and label smoothing."""
    deep = sum(situation.checkpoint.config.depths) > 12
    drop_path = (
        0.0 if situation.is_small or trainable == "head" else 0.2 if deep and trainable == "all" else 0.1
    )
    settings = {
        "model.dropout": 0.0 if situation.is_small else 0.5,
        "model.drop_path": drop_path,
        "augment.label_smoothing": 0.0 if situation.multi_label else 0.1,
    }
    reason = "a small model is trained without dropout and drop path"
    if not situation.is_small:
        reason = "dropout as in the published training on Kinetics; drop path "
        blocks = f"{drop_path:g} for {sum(situation.checkpoint.config.depths)} blocks"
        reason += "acts on the backbone, which is not trained" if trainable == "head" else blocks
    return Choice(settings, reason)
