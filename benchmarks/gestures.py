"""Films of a camera that makes a gesture: H.264 files in a folder for each class, to fine-tune on.

No gesture is a movement that the bundled camera-motion model has a name for: each comes back to where it
began, so they are told by how movements follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.random import Generator
from torch import Tensor

from videoswin.data.camera_path import Floats, hand_shake
from videoswin.data.compression import write_h264
from videoswin.data.scenes import Scenery, load_photo
from videoswin.data.virtual_camera import (
    exposed,
    looked_up,
    scene_from_view,
    to_pixels,
    view_from_base,
    with_something_in_front,
)

GESTURES: Final = (
    "circle clockwise",
    "circle anticlockwise",
    "right and back",
    "left and back",
    "in and back",
    "out and back",
    "nod",
    "shake",
)
SECONDS: Final = 2.0
FPS: Final = 12
SIZE: Final = (96, 128)
"""Height and width of the files."""
SCENE_SIZE: Final = 320


def write_gestures(folder: Path, photos: Sequence[str], *, per_class: int, seed: int) -> None:
    """Write `<folder>/<gesture>/<number>.mp4`, `per_class` of each, of these photos and of textures."""
    scenery = Scenery([load_photo(name) for name in photos])
    for label, gesture in enumerate(GESTURES):
        (folder / gesture).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            rng = np.random.default_rng((seed, label, number))
            film_thwc = film(rng, scenery, gesture)
            crf = int(rng.integers(18, 30))
            write_h264(folder / gesture / f"{number:03}.mp4", film_thwc, fps=FPS, crf=crf, preset="veryfast")


def film(rng: Generator, scenery: Scenery, gesture: str) -> Tensor:
    """One film of the gesture over some scene: uint8 (T, H, W, 3)."""
    times = np.arange(round(SECONDS * FPS)) / FPS
    poses = gesture_path(rng, gesture, times / SECONDS) + hand_shake(rng, times, 0.006)
    aspect = SIZE[1] / SIZE[0]
    in_world = view_from_base(poses, aspect, width=aspect)
    on_screen = view_from_base(np.zeros_like(poses), aspect, width=aspect)
    scene_from_base = scene_from_view(rng, 2 * rng.uniform(0.25, 0.45)) @ in_world
    pictures = looked_up(scenery.scene(rng, SCENE_SIZE), scene_from_base, SIZE, outside="reflection")
    if rng.random() < 0.3:
        patch = scenery.scene(rng, 128)
        pictures = with_something_in_front(
            rng, pictures, times, patch, in_world=in_world, on_screen=on_screen
        )
    return to_pixels(exposed(rng, pictures, scenery.grain, 0.4))


def gesture_path(rng: Generator, gesture: str, progress: Floats) -> Floats:
    """Poses (T, 4) as in camera_path, of a camera `progress` (0 to 1) of the way through the gesture."""
    x, y, zoom = np.zeros((3, len(progress)))
    size = rng.uniform(0.15, 0.4)
    # Nobody moves evenly: the middle comes a little early or late.
    angle = 2 * np.pi * progress ** np.exp(rng.normal() * 0.15)
    there_and_back = size * (1 - np.cos(angle))
    if gesture.startswith("circle"):
        start = rng.uniform(0, 2 * np.pi)
        turned = start + (angle if gesture == "circle clockwise" else -angle)
        x, y = size * np.cos(turned), size * np.sin(turned)  # y is down, so growing angles go clockwise
    elif gesture in ("nod", "shake"):
        swing = size * np.sin(2 * angle) * rng.choice([-1, 1])
        x, y = (swing, y) if gesture == "shake" else (x, swing)
    elif gesture in ("right and back", "left and back"):
        x = there_and_back if gesture == "right and back" else -there_and_back
    else:
        zoom = there_and_back if gesture == "in and back" else -there_and_back
    return np.stack([x, y, zoom, np.zeros_like(x)], axis=1)
