"""Frames come out upright and unmirrored, as the display matrix or the EXIF orientation of the file says."""

import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.video.numbered import write_image, write_video
from videoswin.data.fingerprint import read_stream_facts
from videoswin.video.reader import open_video

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
QUADRANTS = {(-1, -1): "red", (1, -1): "green", (-1, 1): "blue", (1, 1): "white"}
"""By place: x to the right, y down."""
MATRICES = [(a, b, 0, 0) for a, b in product((1, -1), repeat=2)] + [
    (0, 0, b, c) for b, c in product((1, -1), repeat=2)
]
"""(a, d, b, c) of x' = a x + c y, y' = b x + d y: the eight ways to lay down a square."""

# EXIF's eight orientations: what the first row and the first column of the stored picture are in the scene.
EXIF = {1: (1, 1, 0, 0), 2: (-1, 1, 0, 0), 3: (-1, -1, 0, 0), 4: (1, -1, 0, 0)} | {
    5: (0, 0, 1, 1),
    6: (0, 0, 1, -1),
    7: (0, 0, -1, -1),
    8: (0, 0, -1, 1),
}


def four_colors() -> np.ndarray:
    picture = np.zeros((32, 48, 3), np.uint8)
    for (x, y), color in QUADRANTS.items():
        picture[slice(0, 16) if y < 0 else slice(16, 32), slice(0, 24) if x < 0 else slice(24, 48)] = COLORS[
            color
        ]
    return picture


def quadrants(frame_hwc: Tensor) -> dict[tuple[int, int], str]:
    height, width = frame_hwc.shape[:2]
    found = {}
    for x, y in QUADRANTS:
        pixel = frame_hwc[(2 + y) * height // 4, (2 + x) * width // 4].int().tolist()
        found[x, y] = min(
            COLORS, key=lambda name: sum(abs(p - q) for p, q in zip(pixel, COLORS[name], strict=True))
        )
    return found


def laid_down(a: int, d: int, b: int, c: int) -> dict[tuple[int, int], str]:
    return {(a * x + c * y, b * x + d * y): color for (x, y), color in QUADRANTS.items()}


@pytest.mark.parametrize(("a", "d", "b", "c"), MATRICES)
def test_a_film_is_laid_down_as_its_display_matrix_says(tmp_path, a, d, b, c):
    path = write_video(tmp_path / "video.mp4", [four_colors()] * 2, codec="libx264", options={"crf": "1"})
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    one = 1 << 16
    content[start : start + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    with open_video(path) as video:
        frame = video.read([0])[0]
        stream = read_stream_facts(video)
    assert frame.shape == ((32, 48, 3) if a else (48, 32, 3))
    assert quadrants(frame) == laid_down(a, d, b, c)
    assert stream.mirrored == (a * d - b * c < 0)
    assert (stream.rotation % 180 == 90) == (a == 0)


@pytest.mark.parametrize("orientation", EXIF)
def test_an_image_is_laid_down_as_its_exif_orientation_says(tmp_path: Path, orientation: int):
    folder = tmp_path / "frames"
    folder.mkdir()
    path = write_image(folder / "0.jpg", four_colors())
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + content[2:])
    with open_video(folder) as video:
        assert quadrants(video.read([0])[0]) == laid_down(*EXIF[orientation])
