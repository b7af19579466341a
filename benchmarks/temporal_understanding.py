"""Use of temporal order: dots drift in one direction, then in another; only the order reveals the label.

    python benchmarks/temporal_understanding.py

Each part of the movement is a full cycle of the torus, so a picture of dots gives the same sixteen frames,
pixel for pixel, for each of the eight labels (tests/benchmarks/test_moving_pictures.py). Single frames and
unordered frames carry no information: the accuracy of any model of a set of frames is one in eight.

The same small model is trained with temporal information removed in two places, in both, and in neither:
attention windows one token long do not connect time steps, and if every frame is doubled, the two frames of
a token are equal. With both, only the final mean over time remains, which ignores the order; the script
measures that, too.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.experiments import (
    HELD_OUT_SEED,
    Results,
    dots_recipe,
    held_out_accuracy,
    initialize_with_position,
    parsed,
    trained,
)
from benchmarks.moving_pictures import CLIP, LABELS, DriftingDots
from videoswin import VideoSwin, VideoSwinConfig
from videoswin.data.dataset import Draw
from videoswin.model.config import PATCH
from videoswin.video.views import normalize

STEPS = 1200
SEEDS = (0, 1, 2)
SMALL = VideoSwinConfig(
    embed_dim=16, depths=(2, 2), num_heads=(1, 2), window=(4, 2, 2), num_classes=len(LABELS)
)
VARIANTS = {
    "all of time": (SMALL, False),
    "frames doubled": (SMALL, True),
    "window of one": (SMALL.replace(window=(1, 2, 2)), False),
    "frames doubled, window of one": (SMALL.replace(window=(1, 2, 2)), True),
}
"""The architecture, and whether every frame is doubled, in training and in the test."""


def main() -> None:
    arguments = parsed(__doc__, "temporal_understanding")
    steps, seeds = (10, SEEDS[:1]) if arguments.quick else (STEPS, SEEDS)
    settings = {"steps": steps, "chance": 1 / len(LABELS), "labels": LABELS, "model": SMALL.to_dict()}
    results = Results(arguments.output, settings)
    for seed in seeds:
        for variant, (config, doubled) in VARIANTS.items():
            if results.has(variant, seed):
                continue
            clips = partial(DriftingDots, steps, doubled=doubled)
            recipe = dots_recipe(variant, clips, config, initialize_with_position, seed=seed)
            checkpoint, _ = trained(recipe, arguments.runs / f"{variant}, seed {seed}")
            model = checkpoint.model()
            unseen = clips(seed=HELD_OUT_SEED)
            figures = {"accuracy": held_out_accuracy(model, unseen), "shuffling": shuffling(model, unseen)}
            results.add({"variant": variant, "seed": seed, **figures})
    results.print_summary()


@torch.inference_mode()
def shuffling(model: VideoSwin, dots: DriftingDots) -> float:
    """Return the largest change of a logit if tokens are shuffled in time, relative to the largest logit."""
    clips = normalize(dots[Draw(0, 0)].clips, CLIP.normalization)
    pairs = clips.unflatten(2, (-1, PATCH[0]))  # (N, 3, T', 2, S, S)
    order = torch.randperm(pairs.shape[2], generator=torch.Generator().manual_seed(0))
    before, after = model(clips), model(pairs[:, :, order].flatten(2, 3))
    return float((after - before).abs().max() / before.abs().max())


if __name__ == "__main__":
    main()
