"""Limit what a video file may open and cost: allowed containers, ReadLimits and the WorkBudget of one file.

A file of a few bytes can claim millions of frames, or frames of gigabytes. All sizes claimed by a file are
therefore checked before memory is allocated or frames are decoded, with limits far above ordinary videos.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

from videoswin._errors import InputError, VideoError

# Excluded: playlists and manifests, which open other files (concat, hls, dash), text rendered as in a
# terminal, single images, raw pixels and devices.
_FILES: Final = """
    mov matroska webm avi flv live_flv kux asf asf_o ogg mxf gxf nut mpegts mpeg dv rm wtv nsv nuv ty pva lxf
    swf cine r3d dhav hxvs ifv lmlm4 luodat dxa flic smk bink ipmovie mtv yuv4mpegpipe
"""
_ANIMATED_IMAGES: Final = "gif apng jpegxl_anim"
_ELEMENTARY_STREAMS: Final = """
    mpegvideo m4v h261 h263 h264 hevc vvc evc vc1 vc1test ivf obu av1 mjpeg mjpeg_2000 cavsvideo avs2 avs3
    dirac dnxhd ipu apv
"""
VIDEO_CONTAINERS: Final = tuple(f"{_FILES} {_ANIMATED_IMAGES} {_ELEMENTARY_STREAMS}".split())
"""FFmpeg demuxers that are allowed for videos."""

IMAGE_CONTAINERS: Final = ("image2", "jpeg_pipe", "png_pipe", "bmp_pipe", "webp_pipe")
"""FFmpeg demuxers that are allowed for the images of a folder."""

OPEN_OPTIONS: Final = MappingProxyType(
    # Without network, other files and file name patterns. Each stream opens a decoder; recordings of a whole
    # transponder have about 100.
    {"protocol_whitelist": "file", "pattern_type": "none", "max_streams": "256"}
)
"""FFmpeg options for every file, in addition to `format_whitelist` and `max_pixels`."""

STALL_SECONDS: Final = 60.0
"""Default of `ReadLimits.stall_seconds`."""

# Packets are read from the file, so together they are usually not larger than the file, except in containers
# that compress them, where a small file may have a high compression ratio.
_MAX_PACKET_BYTES: Final = 2**28
_MAX_PACKET_BYTES_PER_BYTE: Final = 8


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """Limits on the cost of reading one video file; a file above a limit raises a VideoError.

    Raises:
        InputError: A limit is not > 0.

    Example:
        >>> open_video("video.mp4", limits=ReadLimits(max_frame_pixels=2**27))
    """

    max_frame_pixels: int = 8192 * 4352
    """Largest width times height of a frame; the default allows 8K video."""
    max_aspect_ratio: float = 100.0
    """Largest ratio of the longer to the shorter side, because resizing enlarges long thin frames."""
    max_clip_pixels: int = 2**30
    """Most pixels of all frames of a training clip together; the default allows 32 frames of 8K."""
    max_frames: int = 2**23
    """Most frames of a file. Regardless of this limit, a file must have at least one byte per frame."""
    max_decoded_pixels: int = 2**31
    """Most pixels decoded from a file of any size while it is open; by default 1,000 frames of 1080p."""
    max_decoded_pixels_per_byte: int = 2**16
    """Additional pixels that may be decoded per byte of the file."""
    max_seconds: float = 3600.0
    """Most seconds spent on decoding a file while it is open."""
    stall_seconds: float = STALL_SECONDS
    """Most seconds without a decoded frame."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise InputError(f"{field.name} must be > 0, got {value}")


@dataclass
class WorkBudget:
    """Cost of reading one file so far; every method raises VideoError if a limit is exceeded."""

    path: Path
    """The file, or the folder of images."""
    limits: ReadLimits
    """The limits to enforce."""
    num_bytes: int
    """Size of the file in bytes."""
    num_pixels: int = 0
    """Pixels decoded so far."""
    seconds: float = 0.0
    """Time spent on decoding so far."""

    def require_frame_size(self, width: int, height: int) -> None:
        """Check the size and aspect ratio of a frame."""
        longer, shorter = max(width, height), min(width, height)
        if width * height > self.limits.max_frame_pixels:
            self._raise_error(
                f"frames must have at most max_frame_pixels = {self.limits.max_frame_pixels} pixels, got "
                f"{width}x{height}"
            )
        if longer > self.limits.max_aspect_ratio * shorter:
            self._raise_error(
                f"the aspect ratio of frames must be at most max_aspect_ratio = "
                f"{self.limits.max_aspect_ratio:g}, got {width}x{height} pixels"
            )

    def require_num_frames(self, num_frames: int, packet_bytes: int = 0) -> None:
        """Check a number of frames, which must also be possible for a file of this size.

        Args:
            num_frames: Number of frames that the file claims, or that were found in it so far.
            packet_bytes: Total size of the packets that were found so far.
        """
        if num_frames > self.num_bytes:
            self._raise_error(f"a file of {self.num_bytes} bytes cannot have the claimed {num_frames} frames")
        if num_frames > self.limits.max_frames:
            self._raise_error(
                f"the file must have at most max_frames = {self.limits.max_frames} frames, got {num_frames}"
            )
        if packet_bytes > _MAX_PACKET_BYTES + _MAX_PACKET_BYTES_PER_BYTE * self.num_bytes:
            self._raise_error(
                f"the packets must not be much larger than the file of {self.num_bytes} bytes, got "
                f"{packet_bytes} bytes"
            )

    def decode(self, num_pixels: int, seconds: float) -> None:
        """Count decoded pixels and decoding time."""
        self.num_pixels += num_pixels
        self.seconds += seconds
        allowed = self.limits.max_decoded_pixels + self.limits.max_decoded_pixels_per_byte * self.num_bytes
        if self.num_pixels > allowed:
            self._raise_error(
                f"at most {allowed} pixels may be decoded from its {self.num_bytes} bytes "
                f"(max_decoded_pixels and max_decoded_pixels_per_byte), got {self.num_pixels}"
            )
        if self.seconds > self.limits.max_seconds:
            self._raise_error(
                f"decoding must take at most max_seconds = {self.limits.max_seconds:g}, got "
                f"{self.seconds:.1f} seconds"
            )

    def _raise_error(self, reason: str) -> None:
        raise VideoError(self.path, f"{reason} (see videoswin.ReadLimits)")


# Larger than any real header.
_MAX_HEADER_BYTES: Final = 2**28
_PROBED_BYTES: Final = 2**20
_DATA: Final = frozenset({b"mdat", b"free", b"skip", b"wide", b"junk", b"pict", b"pnot", b"uuid"})
_ISO_BOXES: Final = _DATA | {b"ftyp", b"moov", b"moof", b"styp", b"sidx", b"udta", b"ediw", b"prfl"}
# One pattern per name, because patterns that begin with a fixed text are ten times as fast.
_SAMPLES: Final = tuple(
    re.compile(pattern, re.DOTALL) for pattern in (rb"stsz.{8}(.{4})", rb"stz2.{8}(.{4})", rb"trun.{4}(.{4})")
)
_EDITS: Final = re.compile(rb"elst.{4}(.{4})", re.DOTALL)
_HANDLER: Final = re.compile(rb"hdlr.{8}(.{4})", re.DOTALL)
_DURATIONS: Final = re.compile(rb"stts.{4}(.{4}).{4}(.{4})", re.DOTALL)
_COMPRESSED: Final = re.compile(rb"cmvd.{4}", re.DOTALL)
_ONE: Final = (1).to_bytes(4, "big")


def count_claimed_samples(path: Path) -> int:
    """Return the number of samples that an MP4 or MOV file claims to have; 0 for other files.

    The number is the sum over all tracks and fragments. FFmpeg allocates memory for all samples when it opens
    the file, before it reads any. Its parser accepts a table anywhere in a header, so tables are found by
    name, not by walking the tree of boxes.
    """
    total = 0
    with path.open("rb") as file:
        # FFmpeg may detect a file as MP4 or MOV if one of its first boxes has a known type.
        if not any(kind in _ISO_BOXES for kind, start, _ in _boxes(file) if start < _PROBED_BYTES):
            return 0
        for kind, start, length in _boxes(file):
            file.seek(start)
            # FFmpeg parses a `free` box with the content of a `moov` box as one.
            is_renamed = kind == b"free" and file.read(8)[4:] in (b"mvhd", b"cmov")
            if kind in _DATA and not is_renamed:
                continue
            file.seek(start)
            first = kind + file.read(min(length, _MAX_HEADER_BYTES))
            for header in chain([first], _decompress(first) if _COMPRESSED.search(first) else ()):
                samples = 0
                for track in header.split(b"trak"):
                    counts = (count for table in _SAMPLES for count in table.findall(track))
                    count = sum(int.from_bytes(each, "big") for each in counts)
                    # Old QuickTime audio counts single samples, several per byte, and is indexed by chunk.
                    by_chunk = _HANDLER.findall(track)[:1] == [b"soun"] and _DURATIONS.findall(track) == [
                        (_ONE, _ONE)
                    ]
                    samples += count // 8 if by_chunk else count
                # Each entry of an edit list may repeat the whole track; two are common, for a delay.
                edits = max((int.from_bytes(each, "big") for each in _EDITS.findall(header)), default=0)
                total += samples * max(1, edits // 2)
    return total


def _decompress(header: bytes) -> Iterator[bytes]:
    """Yield the content of each compressed box in a header, one at a time to limit memory."""
    for compressed in _COMPRESSED.finditer(header):
        with suppress(zlib.error):
            yield zlib.decompressobj().decompress(header[compressed.end() :], _MAX_HEADER_BYTES)


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, content start and content length of each top-level box, as FFmpeg interprets them."""
    end = file.seek(0, os.SEEK_END)
    position = 0
    while position + 8 <= end:
        file.seek(position)
        head = file.read(16)
        size, header_size = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, header_size = int.from_bytes(head[8:16], "big"), 16
        size = size or end - position
        if size < header_size:
            return
        yield head[4:8], position + header_size, min(size, end - position) - header_size
        position += size
