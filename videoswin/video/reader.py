"""A video file, or a folder of images, read by frame number: open_video.

PyAV's bundled FFmpeg decodes. Frames come upright and in the colours of `ffmpeg -pix_fmt rgb24`: alpha is
dropped. Pixels are taken as square and frames as progressive, as the published pipelines do.
"""

from __future__ import annotations

import os
import re
import time
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

import av
import torch
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from videoswin.video.containers import IMAGE_CONTAINERS, VIDEO_CONTAINERS, claimed_samples, open_options
from videoswin.video.errors import VideoError as VideoError
from videoswin.video.ffmpeg import Entry, RgbConverter, frames_per_second, list_entries, list_packets, packets
from videoswin.video.limits import ReadLimits, WorkBudget

FOLDER_FPS: Final = 30.0
"""Frames a second of a folder of images, which does not say."""

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

# Images of optical flow, as MMAction2, TSN and GluonCV call them: flow_x_00001.jpg, x_00001.jpg.
_FLOW_NAME: Final = re.compile(r"(flow|tvl1).*|[xyuv][_-]?#")

# A seek flushes the decoder; decoding this many frames forward costs no more.
_SEEK_SAVES_FRAMES: Final = 16


class VideoReader(ABC):
    """A video whose frames are numbered from 0 in the order shown; `with` closes it."""

    path: Path
    num_frames: int
    """Frames that the file lists."""
    num_readable: int
    """`num_frames`, until reading finds that the end cannot be decoded: then the frames before it."""
    fps: float
    """Frames a second; the average if the rate varies."""
    limits: ReadLimits
    """The most that reading it may cost."""

    @property
    def duration_seconds(self) -> float:
        """How long the listed frames last at the average rate."""
        return self.num_frames / self.fps

    @property
    def damage(self) -> str | None:
        """What was found wrong so far with a video that can be read in part; None for a sound one."""
        return None

    def read(self, indices: Sequence[int], *, max_pixels: int | None = None) -> Tensor:
        """These frames, in this order, repeats included: uint8 RGB (len(indices), H, W, 3).

        ValueError for an index outside 0..num_frames - 1, VideoError if nothing can be decoded or the frames
        together have more than `max_pixels` (None: any number). The nearest frame before one that cannot be
        decoded (else after it) stands in for it, and `damage` says so.
        """
        if not len(indices):
            raise ValueError("indices is empty, wanted at least one frame number")
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(index, []).append(place)
        frames_thwc = torch.empty(0)
        for index, frame_hwc in self.frames(places):
            if not frames_thwc.numel():
                height, width, _ = frame_hwc.shape
                if max_pixels is not None and len(indices) * height * width > max_pixels:
                    raise VideoError(
                        self.path,
                        f"{len(indices)} frames of {width}x{height} were asked for at once, the limit is "
                        f"{max_pixels} pixels",
                    )
                frames_thwc = frame_hwc.new_empty(len(indices), *frame_hwc.shape)
            frames_thwc[places[index]] = frame_hwc
        return frames_thwc

    def frames(self, indices: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Each of these frames once, in the order shown: (index, uint8 RGB (H, W, 3)); errors as `read`."""
        wanted = sorted(set(indices))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < self.num_frames:
            raise ValueError(
                f"frames {wanted[0]} to {wanted[-1]} were asked for, the video has 0 to {self.num_frames - 1}"
            )
        for index in wanted:
            yield index, self._frame(index)

    @abstractmethod
    def _frame(self, index: int) -> Tensor:
        """Frame `index` as uint8 RGB (H, W, 3); cheapest if asked for in growing order."""

    def close(self) -> None:
        """Let go of the file."""
        return

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_video(
    path: str | os.PathLike[str], *, threads: int = 1, limits: ReadLimits | None = None
) -> VideoReader:
    """The video at `path`: a file in any common container, or a folder of images in natural order.

    `threads` decode it (0: as many as there are cores). `limits` bound what reading it may cost (None: the
    defaults of ReadLimits). VideoError if the path is no video or exceeds the limits.
    """
    limits = limits or ReadLimits()
    try:
        if os.path.isdir(path):
            return _ImageFolder(Path(path), limits)
        if not os.path.exists(path):
            raise VideoError(path, "there is no such file")
        # A pipe or a device could keep us waiting, or reading, for ever.
        if not os.path.isfile(path):
            raise VideoError(path, "it is not a regular file")
        if os.path.getsize(path) == 0:
            raise VideoError(path, "the file is empty")
        return _VideoFile(Path(path), threads, limits)
    except OSError as error:
        raise VideoError(path, f"it cannot be opened: {error.strerror}") from error


class _ImageFolder(VideoReader):
    """A folder of images, one a frame, at FOLDER_FPS."""

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        self.path, self.limits, self._budget = path, limits, WorkBudget(path, limits)
        images = (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        shown = [file for file in images if file.name[0] != "."]
        self._images = sorted(_one_series(path, shown), key=_natural_order)
        if not self._images:
            raise VideoError(
                path, f"the folder holds neither videos nor images ({', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        self.num_frames = self.num_readable = len(self._images)
        self.fps = FOLDER_FPS
        self._shape: torch.Size | None = None

    def _frame(self, index: int) -> Tensor:
        image = self._images[index]
        try:
            options = open_options(IMAGE_CONTAINERS, self.limits.max_frame_pixels)
            with av.open(f"file:{image}", options=options, timeout=self.limits.stall_seconds) as container:
                codec = container.streams.video[0].codec_context
                self._budget.require_frame_size(codec.width, codec.height)
                codec.options = {"max_pixels": str(self.limits.max_frame_pixels)}
                frame_hwc = RgbConverter()(next(container.decode(video=0)))
        except (av.FFmpegError, StopIteration, IndexError) as error:
            raise VideoError(self.path, f"{image.name} cannot be decoded: {error}") from error
        self._shape = self._shape or frame_hwc.shape
        if frame_hwc.shape != self._shape:
            sizes = " and ".join(f"{width}x{height}" for height, width, _ in (self._shape, frame_hwc.shape))
            raise VideoError(self.path, f"its images differ in size: {sizes} ({image.name})")
        return frame_hwc


class _Numbered(NamedTuple):
    number: int
    frame: VideoFrame


class _VideoFile(VideoReader):
    """A file, decoded by FFmpeg. Frames are known by their timestamps or, where those are no use, counted."""

    def __init__(self, path: Path, threads: int, limits: ReadLimits) -> None:
        self.path, self.limits = path, limits
        self._threads = threads
        self._budget = WorkBudget(path, limits)
        self._budget.require_num_frames(claimed_samples(path))
        self._to_rgb = RgbConverter()
        self._decoded: Iterator[_Numbered]
        self._newest: _Numbered  # the last one that was decoded,
        self._previous: _Numbered | None  # and the one before it, unless decoding has just started there
        self._missing: set[int] = set()
        self._flawed: set[int] = set()
        self._open()
        try:
            self._list_frames()
            self._start_at(self._entry_before(0))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._decoded = iter(())
        self._container.close()

    @property
    def damage(self) -> str | None:
        findings = [self._listing_damage] if self._listing_damage else []
        if self.num_readable < self.num_frames:
            findings.append(f"decoding ends after {self.num_readable} of its {self.num_frames} frames")
        if self._missing:
            findings.append(f"{len(self._missing)} of the frames read cannot be decoded, neighbours stand in")
        if self._flawed:
            findings.append(f"{len(self._flawed)} of the frames read have errors in them")
        return "; ".join(findings) or None

    def _open(self) -> None:
        self._container = _open_container(self.path, self.limits)
        try:
            self._stream = _video_stream(self.path, self._container)
            codec = self._stream.codec_context
            self._budget.require_num_frames(self._stream.frames)
            if codec.width and codec.height:
                self._budget.require_frame_size(codec.width, codec.height)
        except VideoError:
            self._container.close()
            raise
        codec.options = {"max_pixels": str(self.limits.max_frame_pixels)}
        codec.thread_count = self._threads
        if self._threads != 1:
            codec.thread_type = "AUTO"

    def _list_frames(self) -> None:
        """Find out how many frames there are, their timestamps, and at which of them decoding can start."""
        listed, self._listing_damage = list_packets(self._container, self._stream, self._budget)
        self._timestamps = sorted(packet.pts for packet in listed if packet.pts is not None)
        decoding_times = [packet.dts for packet in listed if packet.dts is not None]
        self._counted = (
            len(set(self._timestamps)) < len(listed)
            or decoding_times != sorted(decoding_times)
            # An AVI has no timestamps; FFmpeg makes them up, wrongly where B-frames change the order.
            or (self._container.format.name == "avi" and self._stream.codec_context.has_b_frames)
        )
        if self._counted:
            self._timestamps, self._entries = [], []
            self._reopen()
            self.num_frames = sum(1 for _ in self._decode(0))
        else:
            self._entries = list_entries(self._container, listed, self._timestamps)
            self.num_frames = len(self._timestamps)
        if self.num_frames == 0:
            raise VideoError(self.path, "no frame of it can be decoded")
        self.num_readable = self.num_frames
        self.fps = frames_per_second(self._stream, self._timestamps)

    def _frame(self, index: int) -> Tensor:
        entry = self._entry_before(index)
        passed = index < self._newest.number and not (self._previous and self._previous.number < index)
        if passed or (entry and entry.number > self._newest.number + _SEEK_SAVES_FRAMES):
            self._start_at(entry)
        while self._newest.number < index:
            following = next(self._decoded, None)
            if following is None:
                self.num_readable = min(self.num_readable, self._newest.number + 1)
                break
            self._previous, self._newest = self._newest, following
        if self._newest.number > index:
            self._missing.add(index)
        shown = self._previous if self._newest.number > index and self._previous else self._newest
        if shown.frame.is_corrupt:
            self._flawed.add(shown.number)
        self._budget.require_frame_size(shown.frame.width, shown.frame.height)
        try:
            return self._to_rgb(shown.frame)
        except av.FFmpegError as error:
            raise VideoError(self.path, f"frame {shown.number} cannot be turned into RGB: {error}") from error

    def _entry_before(self, index: int) -> Entry | None:
        """The last place at or before frame `index` where decoding can start."""
        before = bisect_right(self._entries, index, key=lambda entry: entry.number)
        return self._entries[before - 1] if before else None

    def _start_at(self, entry: Entry | None) -> None:
        """Decode from `entry` (None: the top) on; `_newest` is then the first frame that this gives."""
        self._previous = None
        newest = None
        if entry is not None:
            with suppress(av.FFmpegError):
                self._container.seek(entry.timestamp, stream=self._stream)
                self._decoded = self._decode(entry.number)
                newest = next(self._decoded, None)
            if newest is None or newest.number != entry.number:
                # It led past its target, or to where decoding cannot start: trust no seek in this file.
                self._entries, newest = [], None
        if newest is None:
            self._reopen()
            self._decoded = self._decode(0)
            newest = next(self._decoded, None)
        if newest is None:
            reason = f"none of its {self.num_frames} frames can be decoded"
            if not self._stream.codec_context.width:
                reason += f"; are they larger than max_frame_pixels = {self.limits.max_frame_pixels}?"
            raise VideoError(self.path, reason)
        self._newest = newest

    def _reopen(self) -> None:
        self._container.close()
        self._open()

    def _decode(self, first: int) -> Iterator[_Numbered]:
        """Numbered frames from where the container stands, which is at or before frame `first`."""
        expected = first
        for frame in self._decode_packets(from_keyframe=first > 0):
            number = expected
            if not self._counted and frame.pts is not None:
                number = bisect_left(self._timestamps, frame.pts)
            # Frames that come after `first` but are shown before it need frames from before the seek.
            if expected <= number and (self._counted or number < len(self._timestamps)):
                yield _Numbered(number, frame)
                expected = number + 1

    def _decode_packets(self, *, from_keyframe: bool) -> Iterator[VideoFrame]:
        """Every frame that can be decoded, the others left out. VideoError where the limits are exceeded."""
        decoder = self._stream.codec_context
        stalled, began = 0.0, time.monotonic()
        for packet in chain(packets(self._container, self._stream), [None]):  # None: the rest, please
            if from_keyframe and packet is not None and not packet.is_keyframe:
                continue
            from_keyframe = False
            try:
                decoded = decoder.decode(packet)
            except av.FFmpegError:
                decoded = []
            seconds = time.monotonic() - began
            self._budget.decode(sum(frame.width * frame.height for frame in decoded), seconds)
            stalled = 0.0 if decoded else stalled + seconds
            if stalled > self.limits.stall_seconds:
                raise VideoError(
                    self.path, f"decoding gave no frame for {self.limits.stall_seconds:g} seconds"
                )
            yield from decoded
            began = time.monotonic()  # without the time that the caller takes for the frames


def _open_container(path: Path, limits: ReadLimits) -> InputContainer:
    try:
        return av.open(
            f"file:{path}",
            options=open_options(VIDEO_CONTAINERS, limits.max_frame_pixels),
            timeout=limits.stall_seconds,
            metadata_errors="replace",
        )
    except av.ArgumentError as error:  # also what FFmpeg says of a container that is not on the list
        raise VideoError(path, "it is not a video, or its container is not one of those read") from error
    except av.FFmpegError as error:
        raise VideoError(path, f"it is not a video, or broken from the start ({error.strerror})") from error


def _video_stream(path: Path, container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        raise VideoError(path, "it has no video stream")
    if stream.codec_context is None:
        raise VideoError(path, "no decoder for its video stream")
    return stream


def _one_series(folder: Path, images: list[Path]) -> list[Path]:
    """The images of the one series of names, such as img_00001.jpg, ...: that of the RGB frames.

    Optical flow beside them is left out, and so is a single image of another name, such as a cover.
    VideoError if several series are there: they are not one video.
    """
    series: dict[str, list[Path]] = {}
    for image in images:
        series.setdefault(re.sub(r"\d+", "#", image.stem).lower(), []).append(image)
    if rgb := {name: files for name, files in series.items() if not _FLOW_NAME.fullmatch(name)}:
        series = rgb
    several = {name: files for name, files in series.items() if len(files) > 1}
    if len(several) > 1:
        found = ", ".join(f"{len(files)} called {name}" for name, files in sorted(several.items()))
        raise VideoError(folder, f"it holds more than one series of images: {found}; keep one in the folder")
    # Most names alike: the others are no frames. Else names say nothing, and every image is a frame.
    if several and 2 * len(largest := next(iter(several.values()))) > sum(map(len, series.values())):
        return largest
    return [image for files in series.values() for image in files]


def _natural_order(file: Path) -> list[str | int]:
    """frame_2 before frame_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]
