"""Define the allowed containers, and count the samples of an MP4 or MOV file before FFmpeg opens it."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

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

_MAX_STREAMS: Final = 256
"""Most streams of a file, each of which opens a decoder; recordings of a whole transponder have about 100."""


def open_options(containers: tuple[str, ...], max_frame_pixels: int) -> dict[str, str]:
    """Return FFmpeg options to open a local file, without network, other files or file name patterns.

    Args:
        containers: Names of the allowed demuxers.
        max_frame_pixels: Largest width times height of a frame.
    """
    return {
        "format_whitelist": ",".join(containers),
        "protocol_whitelist": "file",
        "pattern_type": "none",
        "max_pixels": str(max_frame_pixels),
        "max_streams": str(_MAX_STREAMS),
    }


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
    with path.open("rb") as file:
        return sum(map(_count_samples, _headers(file))) if _is_iso(file) else 0


def _count_samples(header: bytes) -> int:
    samples = 0
    for track in header.split(b"trak"):
        count = sum(int.from_bytes(count, "big") for table in _SAMPLES for count in table.findall(track))
        # Old QuickTime audio counts single samples, several per byte, and FFmpeg indexes it by chunk.
        by_chunk = _HANDLER.findall(track)[:1] == [b"soun"] and _DURATIONS.findall(track) == [(_ONE, _ONE)]
        samples += count // 8 if by_chunk else count
    # Each entry of an edit list may repeat the whole track; two are common, a delay and the track itself.
    edits = max((int.from_bytes(count, "big") for count in _EDITS.findall(header)), default=0)
    return samples * max(1, edits // 2)


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


def _is_iso(file: BinaryIO) -> bool:
    """Return whether FFmpeg may detect the file as MP4 or MOV: one of its first boxes has a known type."""
    return any(kind in _ISO_BOXES for kind, start, _ in _boxes(file) if start < _PROBED_BYTES)


def _headers(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of every box without media data, decompressed."""
    for kind, start, length in _boxes(file):
        file.seek(start)
        # FFmpeg parses a `free` box with the content of a `moov` box as one.
        is_renamed = kind == b"free" and file.read(8)[4:] in (b"mvhd", b"cmov")
        if kind in _DATA and not is_renamed:
            continue
        file.seek(start)
        header = kind + file.read(min(length, _MAX_HEADER_BYTES))
        yield header
        for compressed in _COMPRESSED.finditer(header):
            with suppress(zlib.error):
                yield zlib.decompressobj().decompress(header[compressed.end() :], _MAX_HEADER_BYTES)
