"""The paper's ablations on a small scale: the effect of the window shift and of the temporal window size.

    python benchmarks/ablations.py

Dots drift in one direction, then in another, with noise; the direction changes at any frame of the middle
half, and there are eight labels. A model that sees both directions but not their order cannot distinguish two
labels, so a window must contain the change, or the shift must connect two windows. Proportions are those of
Swin-T on 32 frames: half of the time steps fit into a window; the windows of the first stage are small in
space, and one window of the last stage covers the frame.

Liu et al. 2021, ablations (Kinetics-400, top-1): shift in space and time 78.8, in space only 78.5, none 78.1;
windows of all time steps 79.1, of half 78.8, of a quarter 78.6.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

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
from benchmarks.moving_pictures import LABELS, DriftingDots
from videoswin import VideoSwin, VideoSwinConfig
from videoswin.model.swin import Block, initialize_from_scratch

STEPS = 1000
SEEDS = (0, 1, 2, 3, 4)
NOISE = 80.0
"""Strong enough that the best variants stay below 100 %."""
SMALL = VideoSwinConfig(
    embed_dim=16, depths=(2, 2), num_heads=(1, 2), window=(4, 2, 2), num_classes=len(LABELS)
)
"""The token grid is 8 x 4 x 4, then 8 x 2 x 2."""


def main() -> None:
    arguments = parsed(__doc__, "ablations")
    steps, seeds = (8, SEEDS[:1]) if arguments.quick else (STEPS, SEEDS)
    settings = {
        "steps": steps,
        "noise": NOISE,
        "chance": 1 / len(LABELS),
        "labels": LABELS,
        "model": SMALL.to_dict(),
    }
    results = Results(arguments.output, settings)
    clips = partial(DriftingDots, steps, any_turn=True, noise=NOISE)
    for seed in seeds:
        for variant, (config, reshape, initialize) in VARIANTS.items():
            if results.has(variant, seed):
                continue
            recipe = dots_recipe(variant, clips, config, partial(both, reshape, initialize), seed=seed)
            checkpoint, _ = trained(recipe, arguments.runs / f"{variant}, seed {seed}")
            model = checkpoint.model()
            reshape(model)  # a checkpoint always loads with the published shift
            accuracy = held_out_accuracy(model, clips(seed=HELD_OUT_SEED))
            results.add({"variant": variant, "seed": seed, "accuracy": accuracy})
    results.print_summary()


Change = Callable[[VideoSwin], None]


def both(first: Change, second: Change, model: VideoSwin) -> None:
    first(model)
    second(model)


def shift_everywhere(model: VideoSwin) -> None:
    """Keep the published shift."""


def shift_in_space_only(model: VideoSwin) -> None:
    for block in blocks(model):
        block.attn.shift = (0, *block.attn.shift[1:])


def shift_nowhere(model: VideoSwin) -> None:
    for block in blocks(model):
        block.attn.shift = (0, 0, 0)


def blocks(model: VideoSwin) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


def window_of(times: int) -> VideoSwinConfig:
    return SMALL.replace(window=(times, *SMALL.window[1:]))


VARIANTS: dict[str, tuple[VideoSwinConfig, Change, Change]] = {
    "windows of 4 of 8 times, shift in all axes": (SMALL, shift_everywhere, initialize_with_position),
    "shift in space only": (SMALL, shift_in_space_only, initialize_with_position),
    "no shift": (SMALL, shift_nowhere, initialize_with_position),
    "windows of 2 times": (window_of(2), shift_everywhere, initialize_with_position),
    "windows of all 8 times": (window_of(8), shift_everywhere, initialize_with_position),
    "bias tables near zero at first": (SMALL, shift_everywhere, initialize_from_scratch),
}
"""Architecture, shift and initialization; each variant differs from the first in one of the three."""


if __name__ == "__main__":
    main()
