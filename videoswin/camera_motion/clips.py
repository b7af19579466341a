"""Labeled clips of a moving camera, generated: a virtual camera over photographs and textures.

T frames, S side of the model's square, H W rows and columns of a rendered frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from videoswin.camera_motion.camera import (
    LABELS,
    Floats,
    MotionRange,
    add_occluder,
    camera_path,
    mirrored_label,
    reversed_label,
    scene_from_view,
    to_pixels,
    transposed_label,
    vary_exposure,
    view_from_base,
    warp,
)
from videoswin.camera_motion.scenes import TRAIN_PHOTOS, Scenery, load_photo
from videoswin.data.dataset import Draw, Item
from videoswin.video.rgb import RgbConverter


def through_h264(frames_thwc: Tensor, *, crf: int, preset: str, keep: list[int]) -> Tensor:
    """Frames `keep` of the uint8 film (T, H, W, 3), H and W even, after libx264 at quality `crf` and back.

    Even with one thread libx264 does not give the same bits every time.
    """
    encoder = av.CodecContext.create("libx264", "w")
    _, encoder.height, encoder.width, _ = frames_thwc.shape
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 30)
    encoder.options = {"crf": str(crf), "preset": preset, "threads": "1"}
    packets = []
    for index, pixels in enumerate(frames_thwc.numpy()):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p", threads=1)
        frame.pts = index
        packets += encoder.encode(frame)
    packets += encoder.encode(None)

    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    to_rgb = RgbConverter()
    return torch.stack([to_rgb(decoded[index]) for index in keep])


def write_h264(path: Path, frames_thwc: Tensor, *, fps: int, crf: int, preset: str = "medium") -> None:
    """Write uint8 frames (T, H, W, 3), H and W even, as an H.264 file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        _, stream.height, stream.width, _ = frames_thwc.shape
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": preset}
        for pixels in frames_thwc.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


SECONDS = 2.0
"""Length of every clip."""
SCENE_SIZE = 320
PATCH_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """How hard the clips are; `at(0)` is easy to learn from, `at(1)` is what the model is for."""

    motion: MotionRange
    foreground: float
    """Probability that something moves through the picture by itself."""
    compression: float
    """Probability that the clip goes through H.264."""
    damage: float
    """0..1: how much noise and change of light."""
    wide: float
    """Probability that the view is wider than high, the model's square being cut from somewhere in it."""

    @classmethod
    def at(cls, hardness: float) -> Difficulty:
        """The difficulty between easy (0) and full (1)."""
        slowest = float(np.exp(np.interp(hardness, (0, 1), np.log((0.25, 0.045)))))
        return cls(
            motion=MotionRange(slowest=slowest, fastest=0.6, shake=0.012 * hardness, easing=0.6 * hardness),
            foreground=0.55 * hardness,
            compression=0.75 * hardness,
            damage=hardness,
            wide=0.7 * hardness,
        )


class CameraMotionClips(Dataset[Item]):
    """Clips in fours: `dataset[Draw(epoch, index)]` is an Item of uint8 (4, 3, T, S, S) and labels (4,).

    The four are one rendered clip and its reversal, each in two orientations. Items are easiest up to index
    `easy` of the first epoch and as hard as they get from `hard` on. An item depends on the seed and the draw
    alone, but for some pixels of some compressed clips (see through_h264).
    """

    def __init__(self, *, length: int, easy: int, hard: int, seed: int, frames: int, size: int) -> None:
        """frames, size: T and S."""
        self.length, self.easy, self.hard, self.seed = length, easy, hard, seed
        self.frames, self.size = frames, size
        self.scenery = Scenery([load_photo(name) for name in TRAIN_PHOTOS])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: Draw) -> Item:
        epoch, index, _ = draw
        # The epoch last: numpy ignores zeros there, so the first one is what the bundled model learned from.
        rng = np.random.default_rng((self.seed, index, epoch))
        drawn_before = epoch * self.length + index
        difficulty = Difficulty.at(float(np.interp(drawn_before, (self.easy, self.hard), (0, 1))))
        label = int(rng.integers(len(LABELS)))
        clip = render_clip(rng, self.scenery, label, difficulty, frames=self.frames, size=self.size)
        both = [(clip, label), (clip.flip(1), reversed_label(label))]
        four = [rotated_labels(rng, clip, label) for clip, label in both * 2]
        clips = torch.stack([clip for clip, _ in four])  # (4, 3, T, S, S)
        return Item(clips, torch.tensor([label for _, label in four]))


def render_clip(
    rng: Generator, scenery: Scenery, label: int, difficulty: Difficulty, *, frames: int, size: int
) -> Tensor:
    """One clip of movement `label` as the model sees it: uint8 (3, T, S, S)."""
    compressed = rng.random() < difficulty.compression
    times, seen = frame_times(rng, frames, between=compressed)
    side = 2 * int(rng.integers(40, 81))  # pixels of the rendered square; even for H.264
    poses = camera_path(rng, label, times.clip(0, SECONDS), SECONDS, difficulty.motion)
    aspect, aside = framing(rng, difficulty.wide)
    in_world = view_from_base(poses, aspect, aside=aside)
    on_screen = view_from_base(np.zeros_like(poses), aspect, aside=aside)

    film = film_that_shows(rng, scenery, label, in_world, seen, side)  # (film frames, 3, H, W)
    if rng.random() < difficulty.foreground:
        for _ in range(1 + int(rng.random() < 0.3)):
            patch = scenery.scene(rng, PATCH_SIZE)
            film = add_occluder(rng, film, times, patch, in_world=in_world, on_screen=on_screen)
    film_thwc = to_pixels(vary_exposure(rng, film, scenery.grain, difficulty.damage))
    if compressed:
        preset = ("ultrafast", "veryfast", "medium")[rng.choice(3, p=(0.3, 0.6, 0.1))]
        clip_thwc = through_h264(film_thwc, crf=int(rng.integers(18, 37)), preset=preset, keep=seen.tolist())
    else:
        clip_thwc = film_thwc[seen]
    clip_tchw = F.interpolate(
        clip_thwc.permute(0, 3, 1, 2), size=(size, size), mode="bilinear", antialias=True
    )
    return clip_tchw.transpose(0, 1)


def frame_times(rng: Generator, frames: int, *, between: bool) -> tuple[Floats, Tensor]:
    """Seconds of the frames to render, and indices of the `frames` that the model sees of them.

    between: perhaps render frames between those too, at 15 or 30 Hz; only H.264 sees the difference.
    """
    kind = rng.random()
    if between and kind < 0.6:
        rate = 30 if kind < 0.1 else 15
        count = round(SECONDS * rate)
        seen = np.floor(np.arange(frames) * count / frames + rng.uniform(0, 0.999)).clip(0, count - 1)
        return np.arange(count) / rate, torch.from_numpy(seen.astype(np.int64))
    times = np.arange(frames) * SECONDS / frames + rng.uniform(0, 0.2)
    times = times + rng.uniform(-1 / 60, 1 / 60, size=frames)  # a real film has no frame at the very moment
    return times, torch.arange(frames)


def framing(rng: Generator, wide: float) -> tuple[float, float]:
    """Width of the view over its height, and how far beside its center the square lies, in view heights."""
    if rng.random() >= wide:
        return 1.0, 0.0
    aspect = rng.uniform(1.0, 1.8)
    # Mostly where the three crops of a prediction are.
    return aspect, (aspect - 1) / 2 * (rng.integers(-1, 2) if rng.random() < 0.7 else rng.uniform(-1, 1))


def film_that_shows(
    rng: Generator, scenery: Scenery, label: int, view: Floats, seen: Tensor, side: int
) -> Tensor:
    """What the camera sees of some scene in which the movement shows: floats (frames, 3, side, side)."""
    outside = "reflection" if rng.random() < 0.85 else "border"
    while True:
        scene = scenery.scene(rng, SCENE_SIZE)
        height = np.exp(rng.uniform(np.log(0.4), np.log(1.3))) * side * 2 / SCENE_SIZE
        film = warp(scene, scene_from_view(rng, height) @ view, (side, side), outside=outside)
        first, last = film[seen[0]], film[seen[-1]]
        changed = LABELS[label] == "static" or float((last - first).abs().mean()) > 0.03
        if changed and float(first.std()) > 0.04:
            return film


def rotated_labels(rng: Generator, clip_cthw: Tensor, label: int) -> tuple[Tensor, int]:
    """The clip mirrored and transposed at random, with the label that it has then: six clips from one."""
    for change in rng.permutation(["mirror", "transpose", "mirror"]):
        if rng.random() < 0.5:
            if change == "mirror":
                clip_cthw, label = clip_cthw.flip(3), mirrored_label(label)
            else:
                clip_cthw, label = clip_cthw.transpose(2, 3), transposed_label(label)
    return clip_cthw, label
