"""Which files of a folder are the frames of one video, and in which order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from videoswin.video.errors import VideoError

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

# Images of optical flow, as MMAction2, TSN and GluonCV call them: flow_x_00001.jpg, x_00001.jpg.
_FLOW_NAME: Final = re.compile(r"(flow|tvl1).*|[xyuv][_-]?#")


def frame_images(folder: Path) -> list[Path]:
    """Return the images of the folder that are frames, in natural order: frame_2 before frame_10.

    Hidden files are left out.

    Raises:
        VideoError: There are no images, or those of more than one video.
    """
    images = (file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    found = sorted(_one_series(folder, [file for file in images if file.name[0] != "."]), key=_natural_order)
    if not found:
        raise VideoError(
            folder, f"the folder holds neither videos nor images ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return found


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
