"""How much work one video file may cause: ReadLimits, and the WorkBudget that holds a reader to them.

A file of a few bytes can claim millions of frames, or frames of gigabytes. Everything that a file can ask for
is therefore bounded before it is allocated or decoded, by limits that no ordinary video comes near.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from videoswin._errors import InputError
from videoswin.video.errors import VideoError

STALL_SECONDS: Final = 60.0

# Packets are read from the file, so that all of them can hardly be larger than the file; some containers
# compress them, and a small file may do so a lot.
_MAX_PACKET_BYTES: Final = 2**28
_MAX_PACKET_BYTES_PER_BYTE: Final = 8


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """The most that reading one video file may cost; a file that asks for more is refused with a VideoError.

    Example:
        >>> open_video("film.mp4", limits=ReadLimits(max_frame_pixels=2**27))
    """

    max_frame_pixels: int = 8192 * 4352
    """Width times height of a frame; the default admits 8K video."""
    max_aspect_ratio: float = 100.0
    """Longer side of a frame divided by its shorter side, since resizing enlarges long thin frames."""
    max_clip_pixels: int = 2**30
    """Pixels of the frames of a training clip, in memory together; the default admits 32 frames of 8K."""
    max_frames: int = 2**23
    """Frames of a file. Whatever this says, a file must have at least one byte for each of its frames."""
    max_decoded_pixels: int = 2**31
    """Pixels that may be decoded from a file of any size while it is open, e.g. 1,000 frames of 1080p."""
    max_decoded_pixels_per_byte: int = 2**16
    """Pixels that may be decoded in addition for each byte of the file."""
    max_seconds: float = 3600.0
    """Seconds that may be spent in decoding a file while it is open."""
    stall_seconds: float = STALL_SECONDS
    """Seconds without a decoded frame after which a file is given up on."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise InputError(f"{field.name} must be > 0, got {value}")


class WorkBudget:
    """What reading one file has cost so far. Every method raises VideoError where the limit is exceeded."""

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        self._path = path
        self._limits = limits
        self._num_bytes = os.path.getsize(path)
        self._num_packets = 0
        self._packet_bytes = 0
        self._pixels = 0
        self._seconds = 0.0

    def require_frame_size(self, width: int, height: int) -> None:
        """Refuse frames that are too large or too long."""
        longer, shorter = max(width, height), min(width, height)
        if width * height > self._limits.max_frame_pixels:
            self._refuse(
                f"its frames are {width}x{height} pixels, the limit is max_frame_pixels = "
                f"{self._limits.max_frame_pixels}"
            )
        if longer > self._limits.max_aspect_ratio * shorter:
            self._refuse(
                f"its frames are {width}x{height} pixels, longer than max_aspect_ratio = "
                f"{self._limits.max_aspect_ratio:g} to 1"
            )

    def require_num_frames(self, num_frames: int) -> None:
        """Refuse more frames than a file of this size can hold."""
        if num_frames > self._num_bytes:
            self._refuse(f"it claims {num_frames} frames, but is only {self._num_bytes} bytes long")
        if num_frames > self._limits.max_frames:
            self._refuse(f"it has {num_frames} frames, the limit is max_frames = {self._limits.max_frames}")

    def list_packet(self, num_bytes: int) -> None:
        """Count a packet found in the file."""
        self._num_packets += 1
        self._packet_bytes += num_bytes
        self.require_num_frames(self._num_packets)
        if self._packet_bytes > _MAX_PACKET_BYTES + _MAX_PACKET_BYTES_PER_BYTE * self._num_bytes:
            self._refuse(f"its packets are many times as long as its {self._num_bytes} bytes")

    def decode(self, num_pixels: int, seconds: float) -> None:
        """Count work of the decoder."""
        self._pixels += num_pixels
        self._seconds += seconds
        allowed = self._limits.max_decoded_pixels + self._limits.max_decoded_pixels_per_byte * self._num_bytes
        if self._pixels > allowed:
            self._refuse(
                f"more than {allowed} pixels were decoded from its {self._num_bytes} bytes, the limit by "
                "max_decoded_pixels and max_decoded_pixels_per_byte"
            )
        if self._seconds > self._limits.max_seconds:
            self._refuse(f"decoding took longer than max_seconds = {self._limits.max_seconds:g}")

    def _refuse(self, reason: str) -> None:
        raise VideoError(self._path, f"{reason} (see videoswin.ReadLimits)")
