"""A virtual camera over a still image: its path, the rendered frames, exposure and sensor noise.

Legend: T frames, H W rows and columns of a frame, C channels. Coordinates are x to the right and y down.
Matrices are homogeneous, (T, 3, 3), and are named from right to left: `scene_from_base` maps coordinates of
the base to the scene. The base is the rendered rectangle and the scene the image; both range from -1 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from videoswin.camera_motion.scenes import soft_blobs

Floats = NDArray[np.float64]

MOVEMENTS: dict[str, tuple[int, int, int, int]] = {
    "static": (0, 0, 0, 0),
    "pan left": (-1, 0, 0, 0),
    "pan right": (1, 0, 0, 0),
    "tilt up": (0, -1, 0, 0),
    "tilt down": (0, 1, 0, 0),
    "zoom in": (0, 0, 1, 0),
    "zoom out": (0, 0, -1, 0),
    "roll left": (0, 0, 0, 1),
    "roll right": (0, 0, 0, -1),
}
"""Movement -> sign of each pose component (x, y, zoom, roll)."""

LABELS: tuple[str, ...] = tuple(MOVEMENTS)
_LABEL_OF = {signs: label for label, signs in enumerate(MOVEMENTS.values())}


def reversed_label(label: int) -> int:
    """Return the label of the clip played backward."""
    x, y, zoom, roll = MOVEMENTS[LABELS[label]]
    return _LABEL_OF[-x, -y, -zoom, -roll]


def mirrored_label(label: int) -> int:
    """Return the label of the clip flipped horizontally."""
    x, y, zoom, roll = MOVEMENTS[LABELS[label]]
    return _LABEL_OF[-x, y, zoom, -roll]


def transposed_label(label: int) -> int:
    """Return the label of the clip with rows and columns swapped."""
    x, y, zoom, roll = MOVEMENTS[LABELS[label]]
    return _LABEL_OF[y, x, zoom, -roll]


@dataclass(frozen=True, kw_only=True)
class MotionRange:
    """Range of camera speeds, and the amount of camera shake."""

    slowest: float
    """Minimum mean speed per second, in view widths (pan), view heights (tilt), log scale (zoom) or radians
    (roll)."""
    fastest: float
    """Maximum mean speed in the same units; rolls are up to 1.5 times as fast."""
    shake: float
    """Maximum root mean square of the camera shake, as a fraction of the view."""
    easing: float
    """Probability that the movement accelerates, decelerates or both, instead of having a constant speed."""


def camera_path(rng: Generator, label: int, times: Floats, seconds: float, motion: MotionRange) -> Floats:
    """Return camera poses (T, 4) (x, y, zoom, roll) of one movement, including camera shake.

    Speeds are sampled log-uniformly, so slow movements are as common as fast ones.

    Args:
        rng: Random generator.
        label: Index in LABELS.
        times: (T,) seconds of the frames.
        seconds: Duration of the movement.
        motion: Range of speeds and shake.
    """
    fastest = motion.fastest * (1.5 if LABELS[label].startswith("roll") else 1.0)
    speed = float(np.exp(rng.uniform(np.log(motion.slowest), np.log(fastest))))
    progress = ease(rng, times / seconds) if rng.random() < motion.easing else times / seconds
    signs = np.array(MOVEMENTS[LABELS[label]], dtype=np.float64)
    return speed * seconds * progress[:, None] * signs + hand_shake(rng, times, motion.shake)


def ease(rng: Generator, progress: Floats) -> Floats:
    """Apply random easing (slow start, slow end, or both) to progress from 0 to 1."""
    power = rng.uniform(1.2, 2.2)
    shape = rng.integers(3)
    slow_start: Floats = progress**power
    slow_end: Floats = (1 - progress) ** power
    if shape == 0:
        return slow_start
    if shape == 1:
        return 1 - slow_end
    return slow_start / (slow_start + slow_end)


def hand_shake(rng: Generator, times: Floats, largest: float) -> Floats:
    """Return poses (T, 4) of camera shake: tremor, sway, and a drift far slower than any movement.

    Args:
        rng: Random generator.
        times: (T,) times of the frames in seconds.
        largest: Maximum root mean square of the shake, as a fraction of the view.
    """
    rms = largest * rng.beta(1.0, 1.5)
    waves = np.zeros((len(times), 4))
    for frequency in rng.uniform(0.6, 7.0, size=4):
        phase, gain = rng.uniform(0, 2 * np.pi, 4), rng.normal(size=4) / np.sqrt(frequency)
        waves += gain * np.sin(2 * np.pi * frequency * times[:, None] + phase)
    jitter = 0.3 * rng.random() * rng.normal(size=(len(times), 4))
    drift = rng.normal(size=4) * (times[:, None] - times[0])
    # The roll and zoom of a handheld camera vary less than its direction.
    shake: Floats = rms * (waves + jitter + 0.4 * drift.clip(-2, 2)) * np.array([1.0, 1.0, 0.6, 0.6])
    return shake


def shift(x: Floats, y: Floats) -> Floats:
    """Return translation matrices (T, 3, 3)."""
    matrix = np.tile(np.eye(3), (len(x), 1, 1))
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def turn(counterclockwise: Floats, scale: Floats) -> Floats:
    """Return matrices (T, 3, 3) that rotate counterclockwise on screen, in radians, and scale."""
    matrix = np.tile(np.eye(3), (len(scale), 1, 1))
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(counterclockwise) * scale
    matrix[:, 0, 1] = np.sin(counterclockwise) * scale
    matrix[:, 1, 0] = -np.sin(counterclockwise) * scale
    return matrix


def view_from_base(poses: Floats, aspect: float, *, width: float = 1.0, aside: float = 0.0) -> Floats:
    """Return the matrices (T, 3, 3) from the rendered rectangle to the unmoved view, in view heights.

    Args:
        poses: (T, 4), as in camera_path.
        aspect: Width of the view over its height.
        width: Width of the rectangle, which is as high as the view, in view heights.
        aside: Offset of the rectangle's center to the right, in view heights.
    """
    x, y, zoom, roll = poses.T
    rectangle = shift(np.array([aside]), np.zeros(1)) @ np.diag([width / 2, 0.5, 1.0])
    return shift(x * aspect, y) @ turn(roll, np.exp(-zoom)) @ rectangle


def scene_from_view(rng: Generator, height: float) -> Floats:
    """Return a random placement (1, 3, 3), slightly rotated, of a view with this height in the scene."""
    spread = 0.5 * max(0.0, 1 - height)
    lens = turn(np.array([rng.normal() * 0.2]), np.array([height]))
    return shift(rng.uniform(-spread, spread, 1), rng.uniform(-spread, spread, 1)) @ lens


def warp(scene: Tensor, scene_from_base: Floats, size: tuple[int, int], *, outside: str) -> Tensor:
    """Render the scene (C, H, W) with each matrix: (T, C, *size). `outside`: padding_mode of grid_sample.

    Args:
        scene: Image (C, H, W).
        scene_from_base: Matrices (T, 3, 3) from the frame to the scene; both have coordinates from -1 to 1.
        size: Height and width of a frame in pixels.
        outside: Pixels outside the scene: `padding_mode` of `grid_sample`.
    """
    rows, columns = ((torch.arange(side) + 0.5) * 2 / side - 1 for side in size)
    matrix = torch.from_numpy(scene_from_base[:, :2].astype(np.float32))[:, None, None]  # (T, 1, 1, 2, 3)
    # Equal to affine_grid, which takes longer than the sampling itself.
    grid = matrix[..., 0] * columns[None, None, :, None] + (
        matrix[..., 1] * rows[None, :, None, None] + matrix[..., 2]
    )
    images = scene.expand(len(grid), -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=outside, align_corners=False)


def add_occluder(
    rng: Generator, video: Tensor, times: Floats, patch: Tensor, *, in_world: Floats, on_screen: Floats
) -> Tensor:
    """Add an independently moving blob to a video (T, 3, H, W); it covers 5 to 30 % of the frame.

    Args:
        rng: Random generator.
        video: Frames in 0 to 1.
        times: (T,) seconds of the frames.
        patch: Texture of the blob, (3, side, side).
        in_world: Matrices (T, 3, 3) of an object that moves in the world, from view_from_base.
        on_screen: The same for an object that the camera follows.
    """
    line = torch.linspace(-1, 1, patch.shape[-1])
    mask = soft_blobs(rng, patch.shape[-1], rng.uniform(0.4, 0.7))
    mask = mask * ((1 - (line[:, None].square() + line.square()).sqrt()) * 6).clamp(0, 1)
    area = rng.uniform(0.05, 0.3)
    scale = np.sqrt(area / float(mask.mean().clamp(min=0.05))) / 2
    position, velocity, curve = (rng.normal(size=2) * spread for spread in (0.25, 0.2, 0.1))
    offset = times - 1.0  # seconds from the middle of a clip of 2 s
    center = position + offset[:, None] * velocity + offset[:, None] ** 2 * curve
    growth = scale * np.exp(rng.normal() * 0.1 * times)
    spin = rng.uniform(-np.pi, np.pi) + rng.normal() * 0.15 * times
    view_from_patch = shift(center[:, 0], center[:, 1]) @ turn(spin, growth)
    patch_from_base = np.linalg.inv(view_from_patch) @ (in_world if rng.random() < 0.6 else on_screen)
    layer = warp(
        torch.cat([patch, mask[None]]), patch_from_base, (video.shape[2], video.shape[3]), outside="zeros"
    )
    return torch.lerp(video, layer[:, :3], layer[:, 3:])


def vary_exposure(rng: Generator, video: Tensor, grain: Tensor, amount: float) -> Tensor:
    """Change brightness and contrast of a video (T, 3, H, W) slowly over time, and add sensor noise.

    Args:
        rng: Random generator.
        video: Frames in 0 to 1.
        grain: Noise (3, side, side), cropped at random for each frame.
        amount: Strength, from 0 (no change) to 1.
    """
    ramp = torch.linspace(-0.5, 0.5, len(video))
    gain = 1 + amount * (rng.uniform(-0.25, 0.25) + rng.normal() * 0.06 * ramp)
    offset = 0.5 - 0.5 * gain + amount * (rng.uniform(-0.15, 0.15) + rng.normal() * 0.03 * ramp)
    video = torch.addcmul(offset.view(-1, 1, 1, 1), video, gain.view(-1, 1, 1, 1))
    if rng.random() < 0.5 * amount:
        strength = rng.exponential(0.02)
        height, width = video.shape[2:]
        for frame in video:
            top, left = rng.integers(grain.shape[1] - height), rng.integers(grain.shape[2] - width)
            frame.add_(grain[:, top : top + height, left : left + width], alpha=strength)
    return video


def to_pixels(video: Tensor) -> Tensor:
    """Convert floats (T, 3, H, W) in 0 to 1 to uint8 (T, H, W, 3)."""
    return video.mul(255).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
