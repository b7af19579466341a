"""What one video file holds, found by decoding all of it, and which videos look alike by that.

H height, W width, of M moments seen through a grid of G x G patches.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videoswin.video.containers import VIDEO_CONTAINERS, open_options
from videoswin.video.ffmpeg import video_streams
from videoswin.video.reader import VideoError, VideoReader, open_video
from videoswin.video.rgb import display_matrix


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """Properties of a video stream; of a folder of frames none is known."""

    codec: str | None = None
    """As FFmpeg names it, such as h264, hevc, vp9."""
    rotation: int = 0
    """Degrees counterclockwise by which players, and this package, turn the frames."""
    mirrored: bool = False
    """Whether they are mirrored, too."""
    variable_rate: bool = False
    """Whether the time between two frames changes within the video."""


def read_stream_facts(video: VideoReader) -> StreamFacts:
    """Return the properties of the stream that `video` reads, from the head of its file."""
    if video.path.is_dir():
        return StreamFacts()
    options = open_options(VIDEO_CONTAINERS, video.limits.max_frame_pixels)
    with av.open(
        f"file:{video.path}", options=options, timeout=video.limits.stall_seconds, metadata_errors="replace"
    ) as container:
        stream = video_streams(Path(video.path), container)[0]
        try:
            a, b, c, d = display_matrix(next(container.decode(stream)))
        except (av.FFmpegError, StopIteration):
            a, b, c, d = 1.0, 0.0, 0.0, 1.0  # the first frame is damaged, which is reported elsewhere
        mirrored = a * d < b * c
        return StreamFacts(
            codec=stream.codec_context.name,
            rotation=round(math.degrees(math.atan2(-b, -a if mirrored else a))) % 360,
            mirrored=mirrored,
            variable_rate=video.times is not None,
        )


MOMENTS: Final = 8
"""Equal parts of a video, each averaged over time."""

GRID: Final = 8
"""Patches of a picture along each side, each averaged over its area."""

LOOK_TOLERANCE: Final = 8
"""Levels, of 255, by which any patch of any moment may differ between videos that look alike."""

SCENE_TOLERANCE: Final = 12
"""Levels by which half of the patches, averaged over time, may differ between films of one scene."""

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
    """(M, G, G, 3) uint8: colors averaged over patches and time; much the same for another encoding."""
    stream: StreamFacts = field(default_factory=StreamFacts)
    """What the container says of the video."""

    def __post_init__(self) -> None:
        if not self.duration_seconds:
            object.__setattr__(self, "duration_seconds", self.num_frames / self.fps)


def examine_video(path: str, alive: Callable[[], None], *, sampled: bool = False) -> VideoFacts:
    """The facts about the file or folder of frames at `path`. VideoError if nothing of it can be decoded.

    Memory does not grow with the length of the video. `alive` is called after every few frames.

    sampled: decode only the middle frame of each of the MOMENTS, so that damage elsewhere is not found.
    """
    with open_video(path) as video:
        alive()
        bytes_digest = None if os.path.isdir(path) else _bytes_digest(path, alive)
        pictures = hashlib.sha256()
        look = np.zeros((MOMENTS, GRID, GRID, 3))
        height = width = 0
        pieces = _middles(video) if sampled else _pieces(video)
        for piece in pieces:
            for index, frame_hwc in video.frames(piece):
                if index >= video.num_readable:
                    break  # where decoding ends, the last frame stands in for the others
                height, width, _ = frame_hwc.shape
                pictures.update(b"%d %d " % (height, width))
                pictures.update(frame_hwc.numpy().data)
                if sampled:
                    look[_middle_of(index, video.num_frames)] = _patches(frame_hwc)
                else:
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
            stream=read_stream_facts(video),
        )


def _pieces(video: VideoReader) -> Iterator[range]:
    """All frames, a few at a time; none behind the place where decoding ends."""
    for first in range(0, video.num_frames, _FRAMES_PER_PIECE):
        yield range(first, min(first + _FRAMES_PER_PIECE, video.num_readable))


def _middles(video: VideoReader) -> list[list[int]]:
    """The middle frame of each moment, one at a time."""
    return [[index] for index in sorted({_middle(moment, video.num_frames) for moment in range(MOMENTS)})]


def _middle(moment: int, num_frames: int) -> int:
    return (2 * moment + 1) * num_frames // (2 * MOMENTS)


def _middle_of(index: int, num_frames: int) -> list[int]:
    """The moments whose middle frame this is: several, of a video of few frames."""
    return [moment for moment in range(MOMENTS) if _middle(moment, num_frames) == index]


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

    Two look the same if no patch of any moment differs by more than LOOK_TOLERANCE from the other, or from
    its mirror image; a group holds whatever a chain of such pairs connects. Found are other encodings, sizes
    and frame rates of one film, mirrored or not; not found are copies that are cut, cropped, sped up or
    recolored. Films of one place in which next to nothing happens are taken for copies.
    """
    if not videos:
        return []
    looks = np.frombuffer(b"".join(video.look for video in videos), np.uint8).reshape(len(videos), -1)
    # Only neighbors in overall brightness can be alike: sorted by it, each is compared with a few.
    order = np.argsort(looks.mean(axis=1), kind="stable")
    looks = looks[order]
    brightness = looks.mean(axis=1)
    seconds = np.array([videos[index].duration_seconds for index in order])
    ends = np.searchsorted(brightness, brightness + LOOK_TOLERANCE, side="right")
    samples = looks[:, ::_PATCHES_PER_SAMPLE].astype(np.int16)
    group_of = np.arange(len(videos))
    for one, end in enumerate(ends):
        others = slice(one + 1, end)
        alike = np.abs(seconds[others] / seconds[one] - 1) <= DURATION_TOLERANCE
        alike &= group_of[others] != group_of[one]
        for look in (looks[one], mirrored_look(looks[one])):
            near = (np.abs(samples[others] - look[::_PATCHES_PER_SAMPLE]) <= LOOK_TOLERANCE).all(axis=1)
            for other in one + 1 + np.flatnonzero(alike & near):
                if (np.abs(looks[other].astype(np.int16) - look) <= LOOK_TOLERANCE).all():
                    group_of[group_of == group_of[other]] = group_of[one]
    return _members(group_of, order)


def mirrored_look(look: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The look, flattened, of the same video with left and right exchanged."""
    mirrored: NDArray[np.uint8] = look.reshape(MOMENTS, GRID, GRID, 3)[:, :, ::-1].reshape(-1)
    return mirrored


def are_mirrored(one: VideoFacts, other: VideoFacts) -> bool:
    """Whether one video is nearer to the other's mirror image than to the other."""
    look, theirs = (np.frombuffer(video.look, np.uint8) for video in (one, other))
    straight, mirrored = (
        np.abs(look.astype(np.int16) - compared).sum() for compared in (theirs, mirrored_look(theirs))
    )
    return bool(mirrored < straight)


def find_same_scenes(videos: Sequence[VideoFacts]) -> list[list[int]]:
    """Groups of two or more videos, as indices in order, whose backgrounds look the same.

    Of each video the colors of the patches are averaged over time; two show one scene if half of these differ
    by at most SCENE_TOLERANCE. In a group any two do, as in clustering with complete linkage: the nearest
    pairs are joined first. If chains of pairs made groups, as with single linkage, light that changes over a
    day would join all places into one group, and nothing could be held out.
    """
    if not videos:
        return []
    looks = np.frombuffer(b"".join(video.look for video in videos), np.uint8)
    means = looks.reshape(len(videos), MOMENTS, -1).mean(axis=1)  # (videos, G * G * 3)
    are_near = np.eye(len(videos), dtype=bool)
    pairs: list[NDArray[np.float64]] = [np.empty((3, 0))]
    for one in range(len(videos) - 1):
        differences = np.median(np.abs(means[one + 1 :] - means[one]), axis=1)
        others = np.flatnonzero(differences <= SCENE_TOLERANCE)
        are_near[one, one + 1 + others] = are_near[one + 1 + others, one] = True
        pairs.append(np.stack([differences[others], np.full(len(others), one), one + 1 + others]))
    group_of = np.arange(len(videos))
    distances, ones, twos = np.concatenate(pairs, axis=1)
    for pair in np.argsort(distances, kind="stable"):
        one, other = int(ones[pair]), int(twos[pair])
        kept, joined = group_of[one], group_of[other]
        if kept != joined and are_near[kept, joined]:
            # From here on the row of a group says to which groups all of its videos are near.
            are_near[kept] &= are_near[joined]
            are_near[:, kept] = are_near[kept]
            group_of[group_of == joined] = kept
    return _members(group_of, np.arange(len(videos)))


def _members(group_of: NDArray[np.intp], order: NDArray[np.intp]) -> list[list[int]]:
    """Groups of two or more; `order` says which video each entry of `group_of` is about."""
    members = defaultdict(list)
    for index in np.argsort(order):
        members[int(group_of[index])].append(int(order[index]))
    return [group for group in members.values() if len(group) > 1]
