"""Train on Kinetics-400 and Kinetics-600 as published, or with modern augmentation.

Source: configs/recognition/swin in Video-Swin-Transformer. The paper (arXiv 2106.13230) differs in some
values, see docs/reproduce.md. `data` is a folder or list with the splits `train` and `val`.
"""

from __future__ import annotations

import dataclasses

from videoswin.model.config import BASE, SMALL, TINY, VideoSwinConfig
from videoswin.training.recipe import Augment, Model, Optimizer, Recipe, Run, Schedule, VideoData
from videoswin.video.spec import ClipSpec, apply_protocol

BATCH_SIZE = 64
"""Clips per step: 8 on each of 8 devices."""


def published_recipe(
    name: str,
    config: VideoSwinConfig,
    data: str,
    init_from: str,
    *,
    protocol: str,
    epochs: int,
    lr: float,
    weight_decay: float,
    drop_path: float,
    micro_batch_size: int,
    augment: Augment,
) -> Recipe:
    """Return the recipe of a published run, for one device.

    The runs were published on 8 devices. One device uses the same micro-batch size and takes 8 times as long.

    Args:
        name: Name of the recipe.
        config: The architecture.
        data: Folder or list with the splits `train` and `val`.
        init_from: Catalog name, bundled name or file of the initial checkpoint.
        protocol: Protocol of the published test.
        epochs: Number of epochs.
        lr: Peak learning rate of the head; that of the backbone is 0.1 of it.
        weight_decay: Weight decay of AdamW.
        drop_path: Stochastic depth rate of the last block.
        micro_batch_size: Clips per forward and backward pass on each device; divides BATCH_SIZE.
        augment: Augmentation of the training clips.
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
            lr=lr,
            backbone_lr_scale=0.1,
            weight_decay=weight_decay,
            betas=(0.9, 0.999),
            param_groups="official",
        ),
        schedule=Schedule(
            epochs=epochs, warmup_epochs=2.5, lr_update="epoch", warmup_start_factor=0.1, val_every=5
        ),
        run=Run(precision="fp16", grad_accum_steps=BATCH_SIZE // micro_batch_size),
    )


def tiny(*, data: str, init_from: str = "image-tiny-in1k") -> Recipe:
    """Swin-T, ImageNet-1K to Kinetics-400, as published.

    Command: `videoswin train kinetics:tiny --data k400/ --out run/`. Cost: not measured here.
    Expected: 78.8 % top-1, 93.6 % top-5 with 4 clips x 3 crops (official-4x3; source: arXiv 2106.13230).
    """
    return _kinetics_recipe(
        "kinetics-tiny", TINY, data, init_from, lr=1e-3, weight_decay=0.02, drop_path=0.1, micro_batch_size=2
    )


def small(*, data: str, init_from: str = "image-small-in1k") -> Recipe:
    """Swin-S, ImageNet-1K to Kinetics-400, as published.

    Command: `videoswin train kinetics:small --data k400/ --out run/`. Cost: not measured here.
    Expected: 80.6 % top-1, 94.5 % top-5 with 4 clips x 3 crops (official-4x3; source: arXiv 2106.13230).
    """
    return _kinetics_recipe(
        "kinetics-small",
        SMALL,
        data,
        init_from,
        lr=1e-3,
        weight_decay=0.02,
        drop_path=0.1,
        micro_batch_size=1,
    )


def base(*, data: str, init_from: str = "image-base-in1k") -> Recipe:
    """Swin-B, ImageNet-1K to Kinetics-400, as published.

    Command: `videoswin train kinetics:base --data k400/ --out run/`. Cost: not measured here.
    Expected: 80.6 % top-1, 94.6 % top-5 with 4 clips x 3 crops (official-4x3; source: arXiv 2106.13230).
    """
    return _kinetics_recipe(
        "kinetics-base", BASE, data, init_from, lr=1e-3, weight_decay=0.05, drop_path=0.3, micro_batch_size=1
    )


def base_22k(*, data: str, init_from: str = "image-base-in22k") -> Recipe:
    """Swin-B, ImageNet-22K to Kinetics-400, as published.

    Command: `videoswin train kinetics:base_22k --data k400/ --out run/`. Cost: not measured here.
    Expected: 82.7 % top-1, 95.5 % top-5 with 4 clips x 3 crops (official-4x3; source: arXiv 2106.13230).
    """
    return _kinetics_recipe(
        "kinetics-base-22k",
        BASE,
        data,
        init_from,
        lr=3e-4,
        weight_decay=0.05,
        drop_path=0.2,
        micro_batch_size=1,
    )


def base_22k_600(*, data: str, init_from: str = "image-base-in22k") -> Recipe:
    """Swin-B, ImageNet-22K to Kinetics-600, as published.

    Command: `videoswin train kinetics600:base_22k --data k600/ --out run/`. Cost: not measured here.
    Expected: 84.0 % top-1, 96.5 % top-5 with 4 clips x 3 crops (official-4x3; source: arXiv 2106.13230).
    """
    return dataclasses.replace(base_22k(data=data, init_from=init_from), name="kinetics600-base-22k")


def tiny_modern(*, data: str, init_from: str = "image-tiny-in1k") -> Recipe:
    """Swin-T, ImageNet-1K to Kinetics-400, with modern augmentation and optimizer settings.

    Command: `videoswin train kinetics:tiny_modern --data k400/ --out run/`. Cost: not measured here;
    twice the clips of kinetics:tiny. Expected: unknown; there is no published result.
    """
    return _modern_recipe(tiny(data=data, init_from=init_from), layer_decay=0.9)


def small_modern(*, data: str, init_from: str = "image-small-in1k") -> Recipe:
    """Swin-S, ImageNet-1K to Kinetics-400, with modern augmentation and optimizer settings.

    Command: `videoswin train kinetics:small_modern --data k400/ --out run/`. Cost: not measured here;
    twice the clips of kinetics:small. Expected: unknown. Omnivore's Swin-S, trained longer, with mixup and
    cutmix, on videos and images, has a published top-1 of 82.2 %.
    """
    return _modern_recipe(small(data=data, init_from=init_from), layer_decay=0.95)


def base_modern(*, data: str, init_from: str = "image-base-in1k") -> Recipe:
    """Swin-B, ImageNet-1K to Kinetics-400, with modern augmentation and optimizer settings.

    Command: `videoswin train kinetics:base_modern --data k400/ --out run/`. Cost: not measured here;
    twice the clips of kinetics:base. Expected: unknown. Omnivore's Swin-B (window 16 x 7 x 7), trained
    longer, with mixup and cutmix, on videos and images, has a published top-1 of 83.3 %.
    """
    return _modern_recipe(base(data=data, init_from=init_from), layer_decay=0.95)


def base_22k_modern(*, data: str, init_from: str = "image-base-in22k") -> Recipe:
    """Swin-B, ImageNet-22K to Kinetics-400, with modern augmentation and optimizer settings.

    Command: `videoswin train kinetics:base_22k_modern --data k400/ --out run/`. Cost: not measured here;
    twice the clips of kinetics:base_22k. Expected: unknown; there is no published result.
    """
    return _modern_recipe(base_22k(data=data, init_from=init_from), layer_decay=0.95)


def _kinetics_recipe(
    name: str,
    config: VideoSwinConfig,
    data: str,
    init_from: str,
    *,
    lr: float,
    weight_decay: float,
    drop_path: float,
    micro_batch_size: int,
) -> Recipe:
    """Return a published recipe with the protocol, length and augmentation of all Kinetics runs."""
    return published_recipe(
        name,
        config,
        data,
        init_from,
        protocol="official-4x3",
        epochs=30,
        lr=lr,
        weight_decay=weight_decay,
        drop_path=drop_path,
        micro_batch_size=micro_batch_size,
        augment=Augment(short_side=256, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5),
    )


def _modern_recipe(recipe: Recipe, *, layer_decay: float) -> Recipe:
    """Return the recipe with the augmentation and optimizer settings of MViTv2 and VideoMAE.

    Model, data and number of epochs stay. Every decoded video gives two clips, so an epoch has twice as many
    steps. The learning rate of the last block is 0.3 of that of the head, and that of the first block about
    0.09; the published 0.1 for all blocks is between them.
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
            random_erasing=0.25,
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
        # Micro-batches of 8 clips on one device.
        run=dataclasses.replace(recipe.run, precision="bf16", grad_accum_steps=8),
    )
