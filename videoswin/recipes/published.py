"""What all of the paper's training shares: configs/recognition/swin in Video-Swin-Transformer."""

from __future__ import annotations

from videoswin.model.config import VideoSwinConfig
from videoswin.training.recipe import Augment, Model, Optimizer, Recipe, Run, Schedule, VideoData
from videoswin.video.spec import ClipSpec, apply_protocol

BATCH_SIZE = 64
"""Clips of a step: 8 on each of 8 devices."""


def published(
    name: str,
    config: VideoSwinConfig,
    data: str,
    start: str,
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
        model=Model(init_from=start, config=config, drop_path=drop_path, dropout=0.5),
        augment=augment,
        optimizer=Optimizer(
            lr=rate, backbone_lr_scale=0.1, weight_decay=decay, betas=(0.9, 0.999), param_groups="official"
        ),
        schedule=Schedule(
            epochs=epochs, warmup_epochs=2.5, lr_update="epoch", warmup_start_factor=0.1, val_every=5
        ),
        run=Run(precision="fp16", grad_accum_steps=BATCH_SIZE // at_once),
    )
