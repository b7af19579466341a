"""What one video file holds, found by decoding all of it, and which videos look alike by that.

H height, W width, of M moments seen through a grid of G x G patches.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videoswin.video.reader import VideoError, VideoReader, open_video

MOMENTS: Final = 8
"""Equal parts of a video, each averaged over time."""

GRID: Final = 8
"""Patches of a picture along each side, each averaged over its area."""

LOOK_TOLERANCE: Final = 8
"""Levels, of 255, by which any patch of any moment may differ between videos that look alike."""

DURATION_TOLERANCE: Final = 0.02
"""Part by which the durations of videos that look alike may differ."""

_FRAMES_PER_PIECE: Final = 32
_BYTES_PER_PIECE: Final = 2**22

_PATCHES_PER_SAMPLE: Final = 97
"""One patch of so many is compared first: most videos differ there already."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """A video of which at least one frame can be decoded."""

    path: str
    num_frames: int
    """Frames before the end, or before the place where decoding ends."""
    fps: float
    duration_seconds: float = 0.0
    """How long its frames are shown; 0 stands for num_frames / fps."""
    width: int
    height: int
    damage: str | None
    """What cannot be read of it; None if it is sound."""
    notes: tuple[str, ...] = ()
    """What is no damage but may make a model's answers worse, such as HDR."""
    bytes_digest: str | None
    """SHA-256 of the file; None for a folder of frames."""
    pictures_digest: str
    """SHA-256 of the frames' size and of all their pixels: whatever the container, the same for a copy of the
    encoded stream."""
    look: bytes
    """(M, G, G, 3) uint8: colours averaged over patches and time; much the same for another encoding."""

    def __post_init__(self) -> None:
        if not self.duration_seconds:
            object.__setattr__(self, "duration_seconds", self.num_frames / self.fps)


def examine_video(path: str, alive: Callable[[], None]) -> VideoFacts:
    """The facts about the file or folder of frames at `path`. VideoError if nothing of it can be decoded.

    Memory does not grow with the length of the video. `alive` is called after every few frames.
    """
    with open_video(path) as video:
        alive()
        bytes_digest = None if os.path.isdir(path) else _bytes_digest(path, alive)
        pictures = hashlib.sha256()
        look = np.zeros((MOMENTS, GRID, GRID, 3))
        height = width = 0
        for first in range(0, video.num_frames, _FRAMES_PER_PIECE):
            for index, frame_hwc in video.frames(_piece(video, first)):
                if index >= video.num_readable:
                    break  # where decoding ends, the last frame stands in for the others
                height, width, _ = frame_hwc.shape
                pictures.update(b"%d %d " % (height, width))
                pictures.update(frame_hwc.numpy().data)
                _add_to_look(look, _patches(frame_hwc), index, video.num_frames)
            alive()
        return VideoFacts(
            path=path,
            num_frames=video.num_readable,
            fps=video.fps,
            duration_seconds=video.seconds(video.num_readable - 1) + 1 / video.fps,
            width=width,
            height=height,
            damage=video.damage,
            notes=video.notes,
            bytes_digest=bytes_digest,
            pictures_digest=pictures.hexdigest(),
            look=look.round().astype(np.uint8).tobytes(),
        )


def _piece(video: VideoReader, first: int) -> range:
    """The next few frames; none behind the place where decoding ends."""
    return range(first, min(first + _FRAMES_PER_PIECE, video.num_readable))


def _bytes_digest(path: str, alive: Callable[[], None]) -> str:
    content = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while piece := file.read(_BYTES_PER_PIECE):
                content.update(piece)
                alive()
    except OSError as error:
        raise VideoError(path, f"it cannot be read: {error.strerror}") from error
    return content.hexdigest()


def _patches(frame_hwc: Tensor) -> NDArray[np.uint8]:
    """The frame shrunk to its patches: uint8 (H, W, 3) -> (G, G, 3)."""
    frame_1chw = frame_hwc.permute(2, 0, 1)[None]
    shrunk = functional.interpolate(frame_1chw, size=(GRID, GRID), mode="bilinear", antialias=True)
    patches: NDArray[np.uint8] = shrunk[0].permute(1, 2, 0).numpy()  # (G, G, 3)
    return patches


def _add_to_look(look: NDArray[np.float64], patches: NDArray[np.uint8], index: int, num_frames: int) -> None:
    """Let frame `index` count in each moment for the part of the moment that it is on show."""
    # In units of 1 / num_frames of a moment a frame lasts MOMENTS and a moment num_frames.
    begin, end = index * MOMENTS, (index + 1) * MOMENTS
    for moment in range(begin // num_frames, (end - 1) // num_frames + 1):
        shared = min(end, (moment + 1) * num_frames) - max(begin, moment * num_frames)
        look[moment] += shared / num_frames * patches


def find_look_alikes(videos: Sequence[VideoFacts]) -> list[list[int]]:
    """Groups of two or more videos, as indices in order, that last as long and look the same.

    Two look the same if no patch of any moment differs by more than LOOK_TOLERANCE; a group holds whatever a
    chain of such pairs connects. Found are other encodings, sizes and frame rates of one film; not found are
    copies that are cut, cropped, mirrored, sped up or recoloured. Films of one place in which next to nothing
    happens are taken for copies.
    """
    if not videos:
        return []
    looks = np.frombuffer(b"".join(video.look for video in videos), np.uint8).reshape(len(videos), -1)
    # Only neighbours in overall brightness can be alike: sorted by it, each is compared with a few.
    order = np.argsort(looks.mean(axis=1), kind="stable")
    looks = looks[order]
    brightness = looks.mean(axis=1)
    seconds = np.array([videos[index].duration_seconds for index in order])
    samples = looks[:, ::_PATCHES_PER_SAMPLE].astype(np.int16)
    ends = np.searchsorted(brightness, brightness + LOOK_TOLERANCE, side="right")
    group_of = np.arange(len(videos))
    for one, end in enumerate(ends):
        others = slice(one + 1, end)
        near = (np.abs(samples[others] - samples[one]) <= LOOK_TOLERANCE).all(axis=1)
        near &= np.abs(seconds[others] / seconds[one] - 1) <= DURATION_TOLERANCE
        near &= group_of[others] != group_of[one]
        for other in one + 1 + np.flatnonzero(near):
            if (np.abs(looks[other].astype(np.int16) - looks[one]) <= LOOK_TOLERANCE).all():
                group_of[group_of == group_of[other]] = group_of[one]
    members = defaultdict(list)
    for index in np.argsort(order):
        members[int(group_of[index])].append(int(order[index]))
    return [group for group in members.values() if len(group) > 1]
