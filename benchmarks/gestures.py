"""Synthetic videos of camera gestures, as H.264 files in one folder per class, for fine-tuning.

The bundled camera-motion model has no class for any of them. COMPOUND gestures are several of its movements
at once, or one back and forth; none depends on left or right. Most of those in TOLD_BY_ORDER have a
counterpart with the same movements in the opposite order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.random import Generator
from torch import Tensor

from videoswin.camera_motion.camera import (
    Floats,
    add_occluder,
    exposed,
    hand_shake,
    scene_from_view,
    to_pixels,
    view_from_base,
    warp,
)
from videoswin.camera_motion.clips import write_h264
from videoswin.camera_motion.scenes import Scenery, load_photo

SECONDS: Final = 2.0
FPS: Final = 12
SIZE: Final = (96, 128)
"""Height and width of the files."""
SCENE_SIZE: Final = 320


@dataclass(frozen=True)
class Gestures:
    """Names of gestures, and the camera path of each."""

    names: tuple[str, ...]
    path: Callable[[Generator, str, Floats], Floats]
    """(generator, gesture, progress from 0 to 1 of each frame) -> poses (T, 4) as in camera_path."""


def write_gestures(
    folder: Path, gestures: Gestures, photos: Sequence[str], *, per_class: int, seed: int
) -> None:
    """Write `per_class` videos `<folder>/<gesture>/<number>.mp4` of these photos and of textures."""
    scenery = Scenery([load_photo(name) for name in photos])
    for label, gesture in enumerate(gestures.names):
        (folder / gesture).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            rng = np.random.default_rng((seed, label, number))
            film_thwc = film(rng, scenery, partial(gestures.path, rng, gesture))
            crf = int(rng.integers(18, 30))
            write_h264(folder / gesture / f"{number:03}.mp4", film_thwc, fps=FPS, crf=crf, preset="veryfast")


def film(rng: Generator, scenery: Scenery, path: Callable[[Floats], Floats]) -> Tensor:
    """Render a random scene with a camera path, which maps progress (0 to 1) to poses: uint8 (T, H, W, 3)."""
    times = np.arange(round(SECONDS * FPS)) / FPS
    poses = path(times / SECONDS) + hand_shake(rng, times, 0.006)
    aspect = SIZE[1] / SIZE[0]
    in_world = view_from_base(poses, aspect, width=aspect)
    on_screen = view_from_base(np.zeros_like(poses), aspect, width=aspect)
    scene_from_base = scene_from_view(rng, 2 * rng.uniform(0.25, 0.45)) @ in_world
    pictures = warp(scenery.scene(rng, SCENE_SIZE), scene_from_base, SIZE, outside="reflection")
    if rng.random() < 0.3:
        patch = scenery.scene(rng, 128)
        pictures = add_occluder(rng, pictures, times, patch, in_world=in_world, on_screen=on_screen)
    return to_pixels(exposed(rng, pictures, scenery.grain, 0.4))


def compound_path(rng: Generator, gesture: str, progress: Floats) -> Floats:
    """Return the camera path of one of the compound gestures:

    circle      moves in a circle, either way        pulse   zooms in and out again, or out and in
    corkscrew   zooms in and rolls, either way       rock    rolls back and forth
    nod         tilts back and forth                 shake   pans back and forth
    reveal      zooms out and tilts up               swoop   pans either way and tilts down
    """
    size, side = rng.uniform(0.15, 0.4), rng.choice([-1, 1])
    # Vary the speed, as hand movements do: the middle comes a little early or late.
    progress = progress ** np.exp(rng.normal() * 0.15)
    angle, onwards, still = 2 * np.pi * progress, 2 * size * progress, np.zeros_like(progress)
    swing, start = side * size * np.sin(angle), rng.uniform(0, 2 * np.pi)
    x, y, zoom, roll = {
        "circle": (size * np.cos(start + side * angle), size * np.sin(start + side * angle), still, still),
        "corkscrew": (still, still, onwards, side * onwards),
        "nod": (still, swing, still, still),
        "pulse": (still, still, swing, still),
        "reveal": (still, -onwards, -onwards, still),
        "rock": (still, still, still, swing),
        "shake": (swing, still, still, still),
        "swoop": (side * onwards, onwards, still, still),
    }[gesture]
    return np.stack([x, y, zoom, roll], axis=1)


def path_told_by_order(rng: Generator, gesture: str, progress: Floats) -> Floats:
    """Return the camera path of a gesture that ends where it began; "nod" and "shake" repeat twice."""
    x, y, zoom = np.zeros((3, len(progress)))
    size = rng.uniform(0.15, 0.4)
    # Vary the speed, as hand movements do: the middle comes a little early or late.
    angle = 2 * np.pi * progress ** np.exp(rng.normal() * 0.15)
    there_and_back = size * (1 - np.cos(angle))
    if gesture.startswith("circle"):
        start = rng.uniform(0, 2 * np.pi)
        turned = start + (angle if gesture == "circle clockwise" else -angle)
        x, y = size * np.cos(turned), size * np.sin(turned)  # y points down: clockwise for growing angles
    elif gesture in ("nod", "shake"):
        swing = size * np.sin(2 * angle) * rng.choice([-1, 1])
        x, y = (swing, y) if gesture == "shake" else (x, swing)
    elif gesture in ("right and back", "left and back"):
        x = there_and_back if gesture == "right and back" else -there_and_back
    else:
        zoom = there_and_back if gesture == "in and back" else -there_and_back
    return np.stack([x, y, zoom, np.zeros_like(x)], axis=1)


COMPOUND: Final = Gestures(
    ("circle", "corkscrew", "nod", "pulse", "reveal", "rock", "shake", "swoop"), compound_path
)
TOLD_BY_ORDER: Final = Gestures(
    (
        "circle clockwise",
        "circle counterclockwise",
        "right and back",
        "left and back",
        "in and back",
        "out and back",
        "nod",
        "shake",
    ),
    path_told_by_order,
)
