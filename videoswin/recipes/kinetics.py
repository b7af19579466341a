"""The paper's training on Kinetics-400 and 600, and a modern one of the same models.

Numbers from configs/recognition/swin in Video-Swin-Transformer; the paper (arXiv 2106.13230) differs in some
of them, see docs/reproduce.md. `data` is a folder or list with the splits `train` and `val`.
"""

from __future__ import annotations

import dataclasses

from videoswin.model.config import BASE, SMALL, TINY, VideoSwinConfig
from videoswin.training.recipe import Augment, Model, Optimizer, Recipe, Run, Schedule, VideoData
from videoswin.video.spec import ClipSpec, apply_protocol

BATCH_SIZE = 64
"""Clips of a step: 8 on each of 8 devices."""


def published(
    name: str,
    config: VideoSwinConfig,
    data: str,
    init_from: str,
    *,
    protocol: str,
    epochs: int,
    rate: float,
    decay: float,
    drop_path: float,
    at_once: int,
    augment: Augment,
) -> Recipe:
    """A published run. protocol: that of its test. at_once: clips that a device works on at a time.

    Published on 8 devices; one device alone takes as many at a time, and 8 times as long.
    """
    clip, views = apply_protocol(protocol, ClipSpec(frames=32, stride=2, size=224))
    return Recipe(
        name=name,
        data=VideoData(
            train=data, val_fraction=0.0, clip=clip, views=views, batch_size=BATCH_SIZE, num_workers=8
        ),
        model=Model(init_from=init_from, config=config, drop_path=drop_path, dropout=0.5),
        augment=augment,
        optimizer=Optimizer(
            lr=rate, backbone_lr_scale=0.1, weight_decay=decay, betas=(0.9, 0.999), param_groups="official"
        ),
        schedule=Schedule(
            epochs=epochs, warmup_epochs=2.5, lr_update="epoch", warmup_start_factor=0.1, val_every=5
        ),
        run=Run(precision="fp16", grad_accum_steps=BATCH_SIZE // at_once),
    )


def tiny(*, data: str, init_from: str = "image-tiny-in1k") -> Recipe:
    """Swin-T from ImageNet-1K on Kinetics-400.

    Command: `videoswin train kinetics:tiny --data k400/ --out run/`. Cost: not measured here.
    Expected: 78.8 % top-1, 93.6 % top-5 with official-4x3 (arXiv 2106.13230).
    """
    return _published("kinetics-tiny", TINY, data, init_from, rate=1e-3, decay=0.02, drop_path=0.1, at_once=2)


def small(*, data: str, init_from: str = "image-small-in1k") -> Recipe:
    """Swin-S from ImageNet-1K on Kinetics-400.

    Command: `videoswin train kinetics:small --data k400/ --out run/`. Cost: not measured here.
    Expected: 80.6 % top-1, 94.5 % top-5 with official-4x3 (arXiv 2106.13230).
    """
    return _published(
        "kinetics-small", SMALL, data, init_from, rate=1e-3, decay=0.02, drop_path=0.1, at_once=1
    )


def base(*, data: str, init_from: str = "image-base-in1k") -> Recipe:
    """Swin-B from ImageNet-1K on Kinetics-400.

    Command: `videoswin train kinetics:base --data k400/ --out run/`. Cost: not measured here.
    Expected: 80.6 % top-1, 94.6 % top-5 with official-4x3 (arXiv 2106.13230).
    """
    return _published("kinetics-base", BASE, data, init_from, rate=1e-3, decay=0.05, drop_path=0.3, at_once=1)


def base_22k(*, data: str, init_from: str = "image-base-in22k") -> Recipe:
    """Swin-B from ImageNet-22K on Kinetics-400.

    Command: `videoswin train kinetics:base_22k --data k400/ --out run/`. Cost: not measured here.
    Expected: 82.7 % top-1, 95.5 % top-5 with official-4x3 (arXiv 2106.13230).
    """
    return _published(
        "kinetics-base-22k", BASE, data, init_from, rate=3e-4, decay=0.05, drop_path=0.2, at_once=1
    )


def base_22k_600(*, data: str, init_from: str = "image-base-in22k") -> Recipe:
    """Swin-B from ImageNet-22K on Kinetics-600.

    Command: `videoswin train kinetics600:base_22k --data k600/ --out run/`. Cost: not measured here.
    Expected: 84.0 % top-1, 96.5 % top-5 with official-4x3 (arXiv 2106.13230).
    """
    return dataclasses.replace(base_22k(data=data, init_from=init_from), name="kinetics600-base-22k")


def tiny_modern(*, data: str, init_from: str = "image-tiny-in1k") -> Recipe:
    """Swin-T on Kinetics-400 as newer models are trained.

    Command: `videoswin train kinetics:tiny_modern --data k400/ --out run/`. Cost: twice the clips of
    kinetics:tiny, not measured here. Expected: unknown; nobody has published this training.
    """
    return _modern(tiny(data=data, init_from=init_from), layer_decay=0.9)


def small_modern(*, data: str, init_from: str = "image-small-in1k") -> Recipe:
    """Swin-S on Kinetics-400 as newer models are trained.

    Command: `videoswin train kinetics:small_modern --data k400/ --out run/`. Cost: twice the clips of
    kinetics:small, not measured here. Expected: unknown. Omnivore's Swin-S, which learned with mixup and
    cutmix for longer and from images too, is published at 82.2 % top-1.
    """
    return _modern(small(data=data, init_from=init_from), layer_decay=0.95)


def base_modern(*, data: str, init_from: str = "image-base-in1k") -> Recipe:
    """Swin-B from ImageNet-1K on Kinetics-400 as newer models are trained.

    Command: `videoswin train kinetics:base_modern --data k400/ --out run/`. Cost: twice the clips of
    kinetics:base, not measured here. Expected: unknown. Omnivore's Swin-B (window 16 x 7 x 7), which learned
    with mixup and cutmix for longer and from images too, is published at 83.3 % top-1.
    """
    return _modern(base(data=data, init_from=init_from), layer_decay=0.95)


def base_22k_modern(*, data: str, init_from: str = "image-base-in22k") -> Recipe:
    """Swin-B from ImageNet-22K on Kinetics-400 as newer models are trained.

    Command: `videoswin train kinetics:base_22k_modern --data k400/ --out run/`. Cost: twice the clips of
    kinetics:base_22k, not measured here. Expected: unknown; nobody has published this training.
    """
    return _modern(base_22k(data=data, init_from=init_from), layer_decay=0.95)


def _published(
    name: str,
    config: VideoSwinConfig,
    data: str,
    init_from: str,
    *,
    rate: float,
    decay: float,
    drop_path: float,
    at_once: int,
) -> Recipe:
    """What all published Kinetics runs share. at_once: clips that a device works on at a time."""
    return published(
        name,
        config,
        data,
        init_from,
        protocol="official-4x3",
        epochs=30,
        rate=rate,
        decay=decay,
        drop_path=drop_path,
        at_once=at_once,
        augment=Augment(short_side=256, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5),
    )


def _modern(recipe: Recipe, *, layer_decay: float) -> Recipe:
    """The same model, data and length with what MViTv2 and VideoMAE are trained with.

    Every decoded video gives two clips, so an epoch is twice as long. The last block learns at 0.3 of the
    head's rate and the first at about 0.09: the published 0.1 lies between them.
    """
    assert isinstance(recipe.data, VideoData)
    return dataclasses.replace(
        recipe,
        name=f"{recipe.name}-modern",
        data=dataclasses.replace(recipe.data, num_repeats=2),
        augment=dataclasses.replace(
            recipe.augment,
            color_jitter=0.4,
            rand_augment=4,
            rand_magnitude=7.0,
            erasing=0.25,
            mixup=0.8,
            cutmix=1.0,
            label_smoothing=0.1,
        ),
        optimizer=dataclasses.replace(
            recipe.optimizer,
            backbone_lr_scale=0.3,
            layer_decay=layer_decay,
            weight_decay=0.05,
            param_groups="clean",
            max_grad_norm=1.0,
            ema_decay=0.9999,
        ),
        schedule=dataclasses.replace(recipe.schedule, lr_update="step"),
        # 8 clips at a time where one device has the whole batch.
        run=dataclasses.replace(recipe.run, precision="bf16", grad_accum_steps=8),
    )
