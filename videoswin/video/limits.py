"""Limit the cost of reading one video file: ReadLimits, and the WorkBudget that enforces them.

A file of a few bytes can claim millions of frames, or frames of gigabytes. All sizes claimed by a file are
therefore checked before memory is allocated or frames are decoded, with limits far above ordinary videos.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from videoswin._errors import InputError
from videoswin.video.errors import VideoError

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


class WorkBudget:
    """Cost of reading one file so far; every method raises VideoError if a limit is exceeded."""

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        self._path = path
        self._limits = limits
        self._num_bytes = os.path.getsize(path)
        self._num_packets = 0
        self._packet_bytes = 0
        self._pixels = 0
        self._seconds = 0.0

    def require_frame_size(self, width: int, height: int) -> None:
        """Check the size and aspect ratio of a frame."""
        longer, shorter = max(width, height), min(width, height)
        if width * height > self._limits.max_frame_pixels:
            self._raise_error(
                f"frames must have at most max_frame_pixels = {self._limits.max_frame_pixels} pixels, got "
                f"{width}x{height}"
            )
        if longer > self._limits.max_aspect_ratio * shorter:
            self._raise_error(
                f"the aspect ratio of frames must be at most max_aspect_ratio = "
                f"{self._limits.max_aspect_ratio:g}, got {width}x{height} pixels"
            )

    def require_num_frames(self, num_frames: int) -> None:
        """Check the number of frames, which must also be possible for a file of this size."""
        if num_frames > self._num_bytes:
            self._raise_error(
                f"a file of {self._num_bytes} bytes cannot have the claimed {num_frames} frames"
            )
        if num_frames > self._limits.max_frames:
            self._raise_error(
                f"the file must have at most max_frames = {self._limits.max_frames} frames, got {num_frames}"
            )

    def list_packet(self, num_bytes: int) -> None:
        """Count a packet found in the file."""
        self._num_packets += 1
        self._packet_bytes += num_bytes
        self.require_num_frames(self._num_packets)
        if self._packet_bytes > _MAX_PACKET_BYTES + _MAX_PACKET_BYTES_PER_BYTE * self._num_bytes:
            self._raise_error(
                f"the packets must not be much larger than the file of {self._num_bytes} bytes, got "
                f"{self._packet_bytes} bytes"
            )

    def decode(self, num_pixels: int, seconds: float) -> None:
        """Count decoded pixels and decoding time."""
        self._pixels += num_pixels
        self._seconds += seconds
        allowed = self._limits.max_decoded_pixels + self._limits.max_decoded_pixels_per_byte * self._num_bytes
        if self._pixels > allowed:
            self._raise_error(
                f"at most {allowed} pixels may be decoded from its {self._num_bytes} bytes "
                f"(max_decoded_pixels and max_decoded_pixels_per_byte), got {self._pixels}"
            )
        if self._seconds > self._limits.max_seconds:
            self._raise_error(
                f"decoding must take at most max_seconds = {self._limits.max_seconds:g}, got "
                f"{self._seconds:.1f} seconds"
            )

    def _raise_error(self, reason: str) -> None:
        raise VideoError(self._path, f"{reason} (see videoswin.ReadLimits)")
