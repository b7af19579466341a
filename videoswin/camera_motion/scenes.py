"""Scenes for the virtual camera: photographs, random textures and a synthetic landscape."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from videoswin._errors import require

TRAIN_PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "clock_motion.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "text.png",
)
TEST_PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg")
"""Photographs that are not used for training: a cat, a cup on a table, a rocket against the evening sky."""


def load_photo(name: str) -> Tensor:
    """Load a photograph from scikit-image's wheel, without a download: (3, H, W) in 0 to 1."""
    read = require("skimage.io", extra="camera-motion").imread
    pixels = np.asarray(read(str(files("skimage") / "data" / name)))
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    return torch.from_numpy(pixels[..., :3].copy()).permute(2, 0, 1) / 255.0


def downscale(image: Tensor, factor: float) -> Tensor:
    """Downscale an image (C, H, W) by `factor` without aliasing; return it unchanged if `factor` <= 1."""
    if factor <= 1:
        return image
    size = [max(8, round(side / factor)) for side in image.shape[1:]]
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


def random_crop(rng: Generator, image: Tensor, size: int) -> Tensor:
    """Crop a random square (3, size, size); an image that is too small is padded by reflection.

    Args:
        rng: Random generator.
        image: (3, H, W).
        size: Side of the square in pixels.
    """
    pad_y, pad_x = (max(0, size - side) for side in image.shape[1:])
    while pad_y or pad_x:
        step_y, step_x = min(pad_y, image.shape[1] - 1), min(pad_x, image.shape[2] - 1)
        image = F.pad(image[None], (0, step_x, 0, step_y), mode="reflect")[0]
        pad_y, pad_x = pad_y - step_y, pad_x - step_x
    top = rng.integers(image.shape[1] - size + 1)
    left = rng.integers(image.shape[2] - size + 1)
    return image[:, top : top + size, left : left + size]


def soft_blobs(rng: Generator, size: int, coverage: float) -> Tensor:
    """Return a smooth random mask (size, size) in 0 to 1; about the fraction `coverage` of it is 1.

    Args:
        rng: Random generator.
        size: Side of the mask in pixels.
        coverage: Fraction of the mask, 0 to 1.
    """
    field = torch.from_numpy(rng.normal(size=(1, 1, int(rng.integers(3, 7)), int(rng.integers(3, 7)))))
    threshold = float(np.quantile(field.numpy(), 1 - coverage))
    field = F.interpolate(field.float(), size=(size, size), mode="bicubic")[0, 0]
    return ((field - threshold) / float(0.02 + 0.1 * rng.random()) + 0.5).clamp(0, 1)


def recolor(rng: Generator, image: Tensor) -> Tensor:
    """Mix the channels of an image at random, change its contrast, and sometimes invert it."""
    mix = torch.eye(3)[torch.from_numpy(rng.permutation(3))]
    gray = torch.full((3, 3), 1 / 3)
    saturation = rng.uniform(-0.3, 1.5)
    mix = saturation * mix + (1 - saturation) * gray
    tint = torch.from_numpy(rng.uniform(0.7, 1.2, size=(3, 1))).float()
    colors = tint * (mix @ image.flatten(1))
    if rng.random() < 0.3:
        colors = 1 - colors
    return colors.clamp(0, 1).pow(rng.uniform(0.6, 1.6)).view_as(image)


def noise_texture(rng: Generator, size: int) -> Tensor:
    """Return power-law noise (3, size, size), between clouds and sand."""
    frequency = torch.fft.fftfreq(size)[:, None].square() + torch.fft.rfftfreq(size).square()
    falloff = (frequency + 1 / size**2).pow(-rng.uniform(0.4, 1.1))
    spectrum = torch.fft.rfft2(torch.from_numpy(rng.standard_normal((3, size, size), dtype=np.float32)))
    texture: Tensor = torch.fft.irfft2(spectrum * falloff, s=(size, size))
    texture = texture / texture.std() * float(rng.uniform(0.1, 0.35))
    return (texture + 0.5).clamp(0, 1)


def cell_texture(rng: Generator, size: int) -> Tensor:
    """Return a random Voronoi diagram (3, size, size), similar to walls and fields from a distance."""
    count = int(rng.integers(4, 40))
    points = torch.from_numpy(rng.uniform(0, size, size=(count, 2))).float()
    line = torch.arange(size).float()
    warp = torch.from_numpy(rng.uniform(-0.5, 0.5, size=2)).float()
    distance = (line[:, None, None] - points[:, 0]).square() + (line[None, :, None] - points[:, 1]).square()
    distance = distance + warp[0] * (line[:, None, None] - points[:, 0]) * (
        line[None, :, None] - points[:, 1]
    )
    colors = torch.from_numpy(rng.uniform(0, 1, size=(count, 3))).float()
    return colors[distance.argmin(2)].permute(2, 0, 1)


def box_texture(rng: Generator, size: int) -> Tensor:
    """Return random boxes over a gradient (3, size, size), similar to houses, signs, furniture or text."""
    corner = torch.from_numpy(rng.uniform(0, 1, size=(1, 3, 2, 2))).float()
    image = F.interpolate(corner, size=(size, size), mode="bilinear", align_corners=True)[0]
    image = image.clone()
    small = rng.random() < 0.4
    for _ in range(int(rng.integers(60, 250)) if small else int(rng.integers(4, 25))):
        height, width = rng.uniform(0.01, 0.08 if small else 0.4, size=2) * size
        top, left = (rng.uniform(0, 1, size=2) * size).astype(int)
        color = torch.from_numpy(rng.uniform(0, 1, size=(3, 1, 1))).float()
        image[:, top : top + int(height) + 1, left : left + int(width) + 1] = color
    return image


def texture(rng: Generator, size: int) -> Tensor:
    """Return a random texture (3, size, size): noise, cells, boxes, or a mixture of two of them."""
    kinds = (noise_texture, cell_texture, box_texture)
    first = kinds[rng.integers(3)](rng, size)
    if rng.random() < 0.5:
        return first
    second = kinds[rng.integers(3)](rng, size)
    if rng.random() < 0.5:
        return torch.lerp(first, second, rng.uniform(0.1, 0.5))
    return torch.lerp(first, second, soft_blobs(rng, size, 0.5))


class Scenery:
    """Sampler of random scenes from photographs and textures."""

    def __init__(self, photos: list[Tensor], *, textures: float = 0.35) -> None:
        """Create the sampler.

        Args:
            photos: Photographs (3, H, W) in 0 to 1.
            textures: Fraction of scenes that are textures.
        """
        self.textures = textures
        # Photographs are used at several scales, so downscale each of them once.
        self.photos = [[downscale(photo, 2**level) for level in range(4)] for photo in photos]
        self.grain = torch.randn(3, 400, 400, generator=torch.Generator().manual_seed(0))

    def scene(self, rng: Generator, size: int) -> Tensor:
        """Return a random scene (3, size, size): a texture, a photograph, or a collage of two photographs."""
        if rng.random() < self.textures:
            return texture(rng, size)
        piece = self._piece(rng, size)
        if rng.random() < 0.3:
            piece = torch.lerp(piece, self._piece(rng, size), soft_blobs(rng, size, rng.uniform(0.2, 0.6)))
        if rng.random() < 0.3:
            piece = F.avg_pool2d(piece, int(rng.choice([3, 5])), stride=1)
        return recolor(rng, piece) if rng.random() < 0.8 else piece

    def _piece(self, rng: Generator, size: int) -> Tensor:
        levels = self.photos[rng.integers(len(self.photos))]
        usable = [level for level in levels if min(level.shape[1:]) >= 0.5 * size] or levels[:1]
        return random_crop(rng, usable[rng.integers(len(usable))], size)


def landscape(rng: Generator, size: int) -> Tensor:
    """Return a synthetic landscape (3, size, size) in 0 to 1: clouds, three ranges of hills, and houses."""
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
