"""Synthetic labeled clips of camera movements: a virtual camera over photographs and textures.

Legend: T frames, S side of the model's input, H W rows and columns of a rendered frame.
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
from videoswin.video.ffmpeg import RgbConverter


def through_h264(frames_thwc: Tensor, *, crf: int, preset: str, keep: list[int]) -> Tensor:
    """Encode a video with libx264, decode it, and return some of its frames.

    The result is not bitwise reproducible, because libx264 is not, even with one thread.

    Args:
        frames_thwc: uint8 (T, H, W, 3), H and W even.
        crf: Constant rate factor of libx264; a higher value is a lower quality.
        preset: Preset of libx264.
        keep: Indices of the returned frames.
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
    """Write uint8 frames (T, H, W, 3), H and W even, as an H.264 file.

    Args:
        path: File to write.
        frames_thwc: Frames in RGB.
        fps: Frames per second.
        crf: Constant rate factor of x264, 0 (lossless) to 51.
        preset: Preset of x264, from "ultrafast" to "veryslow".
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        _, stream.height, stream.width, _ = frames_thwc.shape
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": preset}
        for pixels in frames_thwc.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


SECONDS = 2.0
"""Duration of every clip."""
SCENE_SIZE = 320
PATCH_SIZE = 128


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """Difficulty of the clips; `at(0)` is the easiest for training, `at(1)` is realistic."""

    motion: MotionRange
    """Speeds and shake of the camera."""
    foreground: float
    """Probability of an independently moving object."""
    compression: float
    """Probability that the clip is encoded and decoded with H.264."""
    damage: float
    """Amount of noise and change of exposure, 0 to 1."""
    wide: float
    """Probability that the view is wider than high; the clip is then a square crop of it."""

    @classmethod
    def at(cls, hardness: float) -> Difficulty:
        """Return the difficulty for a hardness from 0 (easiest) to 1 (full)."""
        slowest = float(np.exp(np.interp(hardness, (0, 1), np.log((0.25, 0.045)))))
        return cls(
            motion=MotionRange(slowest=slowest, fastest=0.6, shake=0.012 * hardness, easing=0.6 * hardness),
            foreground=0.55 * hardness,
            compression=0.75 * hardness,
            damage=hardness,
            wide=0.7 * hardness,
        )


class CameraMotionClips(Dataset[Item]):
    """Synthetic clips: `dataset[Draw(epoch, index)]` is an Item of uint8 (4, 3, T, S, S) and labels (4,).

    The four clips are one rendered clip and its reverse, each in two orientations. An item depends only on
    the seed and the draw, except for some pixels of some compressed clips (see through_h264).
    """

    def __init__(self, *, length: int, easy: int, hard: int, seed: int, frames: int, size: int) -> None:
        """Create the dataset.

        Args:
            length: Items per epoch.
            easy: Items up to this index of the first epoch are the easiest.
            hard: Items from this index on have full difficulty.
            seed: Random seed.
            frames: T.
            size: S.
        """
        self.length, self.easy, self.hard, self.seed = length, easy, hard, seed
        self.frames, self.size = frames, size
        self.scenery = Scenery([load_photo(name) for name in TRAIN_PHOTOS])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, draw: Draw) -> Item:
        epoch, index, _ = draw
        # The epoch is last, because numpy ignores zeros there: the bundled model was trained on epoch 0.
        rng = np.random.default_rng((self.seed, index, epoch))
        items_before = epoch * self.length + index
        difficulty = Difficulty.at(float(np.interp(items_before, (self.easy, self.hard), (0, 1))))
        label = int(rng.integers(len(LABELS)))
        clip = render_clip(rng, self.scenery, label, difficulty, frames=self.frames, size=self.size)
        both = [(clip, label), (clip.flip(1), reversed_label(label))]
        four = [random_orientation(rng, clip, label) for clip, label in both * 2]
        clips = torch.stack([clip for clip, _ in four])  # (4, 3, T, S, S)
        return Item(clips, torch.tensor([label for _, label in four]))


def render_clip(
    rng: Generator, scenery: Scenery, label: int, difficulty: Difficulty, *, frames: int, size: int
) -> Tensor:
    """Render one clip of movement `label` at the model's input size: uint8 (3, T, S, S).

    Args:
        rng: Random generator.
        scenery: Sampler of scenes.
        label: Index in LABELS.
        difficulty: Amount of motion, distraction and damage.
        frames: T.
        size: S in pixels.
    """
    compressed = rng.random() < difficulty.compression
    times, seen = frame_times(rng, frames, between=compressed)
    side = 2 * int(rng.integers(40, 81))  # pixels of the rendered square; even for H.264
    poses = camera_path(rng, label, times.clip(0, SECONDS), SECONDS, difficulty.motion)
    aspect, aside = framing(rng, difficulty.wide)
    in_world = view_from_base(poses, aspect, aside=aside)
    on_screen = view_from_base(np.zeros_like(poses), aspect, aside=aside)

    video = render_visible_motion(rng, scenery, label, in_world, seen, side)  # (video frames, 3, H, W)
    if rng.random() < difficulty.foreground:
        for _ in range(1 + int(rng.random() < 0.3)):
            patch = scenery.scene(rng, PATCH_SIZE)
            video = add_occluder(rng, video, times, patch, in_world=in_world, on_screen=on_screen)
    video_thwc = to_pixels(vary_exposure(rng, video, scenery.grain, difficulty.damage))
    if compressed:
        preset = ("ultrafast", "veryfast", "medium")[rng.choice(3, p=(0.3, 0.6, 0.1))]
        clip_thwc = through_h264(video_thwc, crf=int(rng.integers(18, 37)), preset=preset, keep=seen.tolist())
    else:
        clip_thwc = video_thwc[seen]
    clip_tchw = F.interpolate(
        clip_thwc.permute(0, 3, 1, 2), size=(size, size), mode="bilinear", antialias=True
    )
    return clip_tchw.transpose(0, 1)


def frame_times(rng: Generator, frames: int, *, between: bool) -> tuple[Floats, Tensor]:
    """Return the seconds of the frames to render, and the indices of `frames` of them for the model.

    With `between`, frames in between may also be rendered, at 15 or 30 Hz; they only affect H.264.

    Args:
        rng: Random generator.
        frames: Number of frames for the model, T.
        between: Whether to render more frames for the encoder.
    """
    kind = rng.random()
    if between and kind < 0.6:
        rate = 30 if kind < 0.1 else 15
        count = round(SECONDS * rate)
        seen = np.floor(np.arange(frames) * count / frames + rng.uniform(0, 0.999)).clip(0, count - 1)
        return np.arange(count) / rate, torch.from_numpy(seen.astype(np.int64))
    times = np.arange(frames) * SECONDS / frames + rng.uniform(0, 0.2)
    times = times + rng.uniform(-1 / 60, 1 / 60, size=frames)  # real frame times are not exact
    return times, torch.arange(frames)


def framing(rng: Generator, wide: float) -> tuple[float, float]:
    """Return a random aspect ratio of the view, and the offset of the square crop in view heights."""
    if rng.random() >= wide:
        return 1.0, 0.0
    aspect = rng.uniform(1.0, 1.8)
    # Mostly at the positions of the three crops of a prediction.
    return aspect, (aspect - 1) / 2 * (rng.integers(-1, 2) if rng.random() < 0.7 else rng.uniform(-1, 1))


def render_visible_motion(
    rng: Generator, scenery: Scenery, label: int, view: Floats, seen: Tensor, side: int
) -> Tensor:
    """Render a random scene in which the movement is visible: floats (frames, 3, side, side).

    Args:
        rng: Random generator.
        scenery: Sampler of scenes.
        label: Index in LABELS.
        view: (frames, 3, 3) matrix of each frame from the rendered square to the unmoved view.
        seen: Indices of the frames for the model.
        side: Height and width of a frame in pixels.
    """
    outside = "reflection" if rng.random() < 0.85 else "border"
    while True:
        scene = scenery.scene(rng, SCENE_SIZE)
        height = np.exp(rng.uniform(np.log(0.4), np.log(1.3))) * side * 2 / SCENE_SIZE
        video = warp(scene, scene_from_view(rng, height) @ view, (side, side), outside=outside)
        first, last = video[seen[0]], video[seen[-1]]
        changed = LABELS[label] == "static" or float((last - first).abs().mean()) > 0.03
        if changed and float(first.std()) > 0.04:
            return video


def random_orientation(rng: Generator, clip_cthw: Tensor, label: int) -> tuple[Tensor, int]:
    """Mirror and transpose a clip at random and adapt its label; there are six different results.

    Args:
        rng: Random generator.
        clip_cthw: (3, T, S, S).
        label: Index in LABELS.
    """
    for change in rng.permutation(["mirror", "transpose", "mirror"]):
        if rng.random() < 0.5:
            if change == "mirror":
                clip_cthw, label = clip_cthw.flip(3), mirrored_label(label)
            else:
                clip_cthw, label = clip_cthw.transpose(2, 3), transposed_label(label)
    return clip_cthw, label
