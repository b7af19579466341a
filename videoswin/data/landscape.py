"""A picture made of nothing but numbers that a person takes for a place."""

from __future__ import annotations

import torch
from numpy.random import Generator
from torch import Tensor

from videoswin.data.scenes import noise_texture


def landscape(rng: Generator, size: int) -> Tensor:
    """Clouds, three ranges of hills, one before the other, and houses: (3, size, size) in 0..1."""
    line = torch.linspace(0, 1, size)
    clouds = noise_texture(rng, size)[0]
    sky = torch.tensor([0.35, 0.6, 0.95])[:, None, None] + 0.5 * line[None, :, None]
    scene = torch.lerp(sky.expand(3, size, size), torch.ones(3, size, size), (2 * clouds - 0.7).clamp(0, 1))
    ranges = (((0.45, 0.55, 0.65), 0.35), ((0.3, 0.45, 0.3), 0.5), ((0.25, 0.5, 0.15), 0.68))
    for color, level in ranges:
        waves = rng.uniform(2, 12, size=4)
        profile = sum(torch.sin(wave * 2 * line + rng.uniform(0, 6)) / wave for wave in waves)
        hill = line[:, None] > level + 0.12 * profile  # (size, size)
        shade = 0.6 + 0.8 * noise_texture(rng, size).mean(0)
        scene = torch.where(hill, torch.tensor(color)[:, None, None] * shade, scene)
    for left, top in zip(rng.uniform(0.05, 0.9, 9), rng.uniform(0.66, 0.85, 9), strict=True):
        wall = torch.from_numpy(rng.uniform(0.6, 0.95, 3)).float()
        _build_house(scene, int(left * size), int(top * size), unit=size // 80, wall=wall)
    return scene.clamp(0, 1)


def _build_house(scene: Tensor, left: int, top: int, *, unit: int, wall: Tensor) -> None:
    """Draw a wall, a roof and two windows into the scene (3, H, W)."""
    scene[:, top : top + 4 * unit, left : left + 6 * unit] = wall[:, None, None]
    roof = torch.tensor([0.5, 0.2, 0.15])
    scene[:, top - unit : top, left - unit // 2 : left + 13 * unit // 2] = roof[:, None, None]
    for window in (left + unit, left + 4 * unit):
        scene[:, top + unit : top + 2 * unit, window : window + unit] = 0.15
