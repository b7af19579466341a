"""Decode a video file and compute its facts and fingerprint, and find visually similar videos.

H height, W width, M moments of a video, G x G patches of a frame.
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

from videoswin._errors import VideoError
from videoswin.video.ffmpeg import display_matrix, open_container
from videoswin.video.limits import WorkBudget
from videoswin.video.reader import VideoReader, open_video


@dataclass(frozen=True, kw_only=True)
class StreamFacts:
    """Properties of a video stream; a folder of frames has the defaults."""

    codec: str | None = None
    """FFmpeg's name of the codec, such as h264, hevc, vp9; None for a folder of frames."""
    rotation: int = 0
    """Degrees counterclockwise by which players, and this package, rotate the frames."""
    mirrored: bool = False
    """True if players, and this package, also mirror the frames."""
    variable_rate: bool = False
    """True if the time between two frames changes within the video."""


def read_stream_facts(video: VideoReader) -> StreamFacts:
    """Return the properties of the stream that `video` reads, from the header and first frame of its file."""
    if video.path.is_dir():
        return StreamFacts()
    container, (stream, *_) = open_container(
        video.path, WorkBudget(video.path, video.limits, os.path.getsize(video.path))
    )
    with container:
        try:
            a, b, c, d = display_matrix(next(container.decode(stream)))
        except (av.FFmpegError, StopIteration):
            a, b, c, d = 1.0, 0.0, 0.0, 1.0  # the first frame is damaged, which is reported elsewhere
        mirrored = a * d < b * c
        return StreamFacts(
            codec=stream.codec_context.name,
            rotation=round(math.degrees(math.atan2(-b, -a if mirrored else a))) % 360,
            mirrored=mirrored,
            variable_rate=video.variable_times is not None,
        )


MOMENTS: Final = 8
"""Number of equal parts of a video, M; each is averaged over time."""

GRID: Final = 8
"""Number of patches along each side of a frame, G; each is averaged over its area."""

SIMILARITY_TOLERANCE: Final = 8
"""Largest difference of any patch in any moment between similar videos, in levels of 0..255."""

SCENE_TOLERANCE: Final = 12
"""Largest median difference of the patches, averaged over time, between videos of one scene, in levels."""

DURATION_TOLERANCE: Final = 0.02
"""Largest relative difference between the durations of similar videos."""

_FRAMES_PER_CHUNK: Final = 32
_BYTES_PER_CHUNK: Final = 2**22

_PATCHES_PER_SAMPLE: Final = 97
"""Every 97th value is compared first, which already rejects most pairs of videos."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """Facts about a video with at least one decodable frame."""

    path: str
    """Video file or folder of frames."""
    num_frames: int
    """Number of frames before the end of the video, or before the end of decoding if it is damaged."""
    fps: float
    """Frame rate in frames per second."""
    duration_seconds: float = 0.0
    """Total display time of the frames in seconds; 0 means num_frames / fps."""
    width: int
    """Width of the frames in pixels, as displayed."""
    height: int
    """Height of the frames in pixels, as displayed."""
    damage: str | None
    """Description of the parts that cannot be read; None for an undamaged file."""
    notes: tuple[str, ...] = ()
    """Properties that are not damage but may reduce the accuracy of a model, such as HDR."""
    bytes_digest: str | None
    """SHA-256 of the file; None for a folder of frames."""
    pictures_digest: str
    """SHA-256 of the size and all pixels of the frames: equal for copies of the encoded stream in any
    container."""
    thumbnails: bytes
    """(M, G, G, 3) uint8: colors averaged over patches and moments; nearly equal for another encoding."""
    stream: StreamFacts = field(default_factory=StreamFacts)
    """Properties of the video stream in its container."""

    def __post_init__(self) -> None:
        if not self.duration_seconds:
            object.__setattr__(self, "duration_seconds", self.num_frames / self.fps)


def examine_video(path: str, heartbeat: Callable[[], None], *, sampled: bool = False) -> VideoFacts:
    """Decode the file or folder of frames at `path` and return its facts.

    Memory use does not depend on the length of the video.

    Args:
        path: Video file or folder of frames.
        heartbeat: Function to call after every few frames.
        sampled: Decode only the middle frame of each of the MOMENTS; damage elsewhere is not found.

    Raises:
        VideoError: No frame can be decoded.
    """
    with open_video(path) as video:
        heartbeat()
        bytes_digest = None if os.path.isdir(path) else _bytes_digest(path, heartbeat)
        pictures = hashlib.sha256()
        thumbnails = np.zeros((MOMENTS, GRID, GRID, 3))
        height = width = 0
        chunks = _middle_frames(video) if sampled else _chunks(video)
        for chunk in chunks:
            for index, frame_hwc in video.frames(chunk):
                if index >= video.num_readable:
                    break  # after the end of decoding, the reader repeats the last frame
                height, width, _ = frame_hwc.shape
                pictures.update(b"%d %d " % (height, width))
                pictures.update(frame_hwc.numpy().data)
                if sampled:
                    thumbnails[_moments_of_middle(index, video.num_frames)] = _patches(frame_hwc)
                else:
                    _add_to_thumbnails(thumbnails, _patches(frame_hwc), index, video.num_frames)
            heartbeat()
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
            thumbnails=thumbnails.round().astype(np.uint8).tobytes(),
            stream=read_stream_facts(video),
        )


def _chunks(video: VideoReader) -> Iterator[range]:
    """Yield the indices of all frames in chunks, up to where decoding ends."""
    for first in range(0, video.num_frames, _FRAMES_PER_CHUNK):
        yield range(first, min(first + _FRAMES_PER_CHUNK, video.num_readable))


def _middle_frames(video: VideoReader) -> list[list[int]]:
    """Return the index of the middle frame of each moment, in chunks of one."""
    return [[index] for index in sorted({_middle(moment, video.num_frames) for moment in range(MOMENTS)})]


def _middle(moment: int, num_frames: int) -> int:
    return (2 * moment + 1) * num_frames // (2 * MOMENTS)


def _moments_of_middle(index: int, num_frames: int) -> list[int]:
    """Return the moments with this middle frame; several if the video has few frames."""
    return [moment for moment in range(MOMENTS) if _middle(moment, num_frames) == index]


def _bytes_digest(path: str, heartbeat: Callable[[], None]) -> str:
    content = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(_BYTES_PER_CHUNK):
                content.update(chunk)
                heartbeat()
    except OSError as error:
        raise VideoError(path, f"the file cannot be read: {error.strerror}") from error
    return content.hexdigest()


def _patches(frame_hwc: Tensor) -> NDArray[np.uint8]:
    """Downscale a frame to its patches: uint8 (H, W, 3) -> uint8 (G, G, 3)."""
    frame_1chw = frame_hwc.permute(2, 0, 1)[None]
    downscaled = functional.interpolate(frame_1chw, size=(GRID, GRID), mode="bilinear", antialias=True)
    patches: NDArray[np.uint8] = downscaled[0].permute(1, 2, 0).numpy()  # (G, G, 3)
    return patches


def _add_to_thumbnails(
    thumbnails: NDArray[np.float64], patches: NDArray[np.uint8], index: int, num_frames: int
) -> None:
    """Add frame `index` to each moment, weighted by the fraction of the moment that it covers."""
    # In units of 1 / num_frames of a moment, a frame lasts MOMENTS and a moment num_frames.
    start, end = index * MOMENTS, (index + 1) * MOMENTS
    for moment in range(start // num_frames, (end - 1) // num_frames + 1):
        overlap = min(end, (moment + 1) * num_frames) - max(start, moment * num_frames)
        thumbnails[moment] += overlap / num_frames * patches


def find_similar_videos(videos: Sequence[VideoFacts]) -> list[list[int]]:
    """Find groups of two or more videos with similar frames and durations, by their thumbnails.

    Two videos are similar if no patch of any moment differs by more than SIMILARITY_TOLERANCE, in the video
    or its mirror image. Groups are connected components of similar pairs. This finds other encodings, sizes
    and frame rates of one video, mirrored or not. It does not find copies that are cut, cropped, sped up or
    recolored, and it reports videos of one place with almost no motion as copies.

    Returns:
        Groups of indices into `videos`, in increasing order.
    """
    if not videos:
        return []
    looks = np.frombuffer(b"".join(video.thumbnails for video in videos), np.uint8).reshape(len(videos), -1)
    # Similar videos have similar mean brightness: sorted by it, each is compared with few others.
    order = np.argsort(looks.mean(axis=1), kind="stable")
    looks = looks[order]  # (videos, M * G * G * 3)
    brightness = looks.mean(axis=1)
    seconds = np.array([videos[index].duration_seconds for index in order])
    ends = np.searchsorted(brightness, brightness + SIMILARITY_TOLERANCE, side="right")
    samples = looks[:, ::_PATCHES_PER_SAMPLE].astype(np.int16)
    group_of = np.arange(len(videos))
    for one, end in enumerate(ends):
        others = slice(one + 1, end)
        candidates = np.abs(seconds[others] / seconds[one] - 1) <= DURATION_TOLERANCE
        candidates &= group_of[others] != group_of[one]
        for look in (looks[one], mirror_thumbnails(looks[one])):
            near = (np.abs(samples[others] - look[::_PATCHES_PER_SAMPLE]) <= SIMILARITY_TOLERANCE).all(axis=1)
            for other in one + 1 + np.flatnonzero(candidates & near):
                if (np.abs(looks[other].astype(np.int16) - look) <= SIMILARITY_TOLERANCE).all():
                    group_of[group_of == group_of[other]] = group_of[one]
    return _members(group_of, order)


def mirror_thumbnails(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the thumbnails of a video with left and right exchanged, flattened to (M * G * G * 3,)."""
    mirrored: NDArray[np.uint8] = thumbnails.reshape(MOMENTS, GRID, GRID, 3)[:, :, ::-1].reshape(-1)
    return mirrored


def are_mirrored(one: VideoFacts, other: VideoFacts) -> bool:
    """Return whether one video is more similar to the mirror image of the other than to the other."""
    first, second = (np.frombuffer(video.thumbnails, np.uint8) for video in (one, other))
    unmirrored, mirrored = (
        np.abs(first.astype(np.int16) - compared).sum() for compared in (second, mirror_thumbnails(second))
    )
    return bool(mirrored < unmirrored)


def find_same_scenes(videos: Sequence[VideoFacts]) -> list[list[int]]:
    """Find groups of two or more videos with similar backgrounds.

    The patches of each video are averaged over time; two videos show one scene if the median difference of
    the patches is at most SCENE_TOLERANCE. Groups come from clustering with complete linkage, nearest pairs
    first, so any two videos of a group show one scene. With single linkage, light that changes over a day
    would join all places into one group, and nothing could be held out.

    Returns:
        Groups of indices into `videos`, in increasing order.
    """
    if not videos:
        return []
    thumbnails = np.frombuffer(b"".join(video.thumbnails for video in videos), np.uint8)
    means = thumbnails.reshape(len(videos), MOMENTS, -1).mean(axis=1)  # (videos, G * G * 3)
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
        kept, merged = group_of[one], group_of[other]
        if kept != merged and are_near[kept, merged]:
            # The row of a group marks the groups that all of its videos are near to.
            are_near[kept] &= are_near[merged]
            are_near[:, kept] = are_near[kept]
            group_of[group_of == merged] = kept
    return _members(group_of, np.arange(len(videos)))


def _members(group_of: NDArray[np.intp], order: NDArray[np.intp]) -> list[list[int]]:
    """Return the groups of two or more videos; entry i of `group_of` is the group of video `order[i]`."""
    members = defaultdict(list)
    for index in np.argsort(order):
        members[int(group_of[index])].append(int(order[index]))
    return [group for group in members.values() if len(group) > 1]
