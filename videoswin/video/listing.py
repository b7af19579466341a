"""Find the videos and frame folders in files, folders and glob patterns."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from videoswin._errors import InputError, VideoError

IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

# Names of optical flow images in MMAction2, TSN and GluonCV: flow_x_00001.jpg, x_00001.jpg.
_FLOW_NAME: Final = re.compile(r"(flow|tvl1).*|[xyuv][_-]?#")


def frame_images(folder: Path) -> list[Path]:
    """Return the images of the folder that are frames, in natural order: frame_2 before frame_10.

    Hidden files are left out.

    Raises:
        VideoError: There are no images, or images of more than one video.
    """
    images = (file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    visible = [file for file in images if file.name[0] != "."]
    frames = sorted(_select_series(folder, visible), key=_natural_order)
    if not frames:
        raise VideoError(
            folder,
            f"the folder must have videos or images ({', '.join(sorted(IMAGE_SUFFIXES))}), got neither",
        )
    return frames


def _select_series(folder: Path, images: list[Path]) -> list[Path]:
    """Return the images of the series of RGB frames, such as img_00001.jpg, img_00002.jpg, ...

    Optical flow images and single images with another name, such as a cover, are left out.

    Raises:
        VideoError: There are several series, which are not one video.
    """
    series: dict[str, list[Path]] = {}
    for image in images:
        series.setdefault(re.sub(r"\d+", "#", image.stem).lower(), []).append(image)
    if rgb := {name: files for name, files in series.items() if not _FLOW_NAME.fullmatch(name)}:
        series = rgb
    several = {name: files for name, files in series.items() if len(files) > 1}
    if len(several) > 1:
        counts = ", ".join(f"{len(files)} named {name}" for name, files in sorted(several.items()))
        raise VideoError(folder, f"the folder must have one series of images, got {counts}; keep one of them")
    # If most images are one series, the others are not frames. Otherwise, every image is a frame.
    if several and 2 * len(largest := next(iter(several.values()))) > sum(map(len, series.values())):
        return largest
    return [image for files in series.values() for image in files]


def _natural_order(file: Path) -> list[str | int]:
    """Return a sort key that orders frame_2 before frame_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", file.name)]


VIDEO_SUFFIXES: Final = frozenset(
    {".3g2", ".3gp", ".amv", ".asf", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264"}
    | {".h265", ".hevc", ".264", ".265", ".insv", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg"}
    | {".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".ogm"}
    | {".ogv", ".qt", ".rm", ".rmvb", ".tod", ".trp", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m"}
)

# Names of optical flow folders that extraction tools write beside the folder of RGB frames.
_FLOW_FOLDERS: Final = frozenset({"flow", "flow_x", "flow_y", "flow_u", "flow_v", "tvl1_flow", "u", "v"})


class FolderContents(NamedTuple):
    """The visible files below a folder, at any depth."""

    videos: list[str]
    """Sorted paths of the video files or, if there are none, of the folders of frames."""
    others: Counter[str]
    """Suffix -> number of files that are not part of `videos`."""
    example: str
    """The path of one of `others`; empty if there are none."""


def find_videos(paths: Iterable[str], on_skipped: Callable[[str], None] | None = None) -> Iterator[str]:
    """Yield files unchanged, and folders and glob patterns as the sorted videos in them.

    A folder gives all videos below it, at any depth, or the folders of frames below it if it has no videos.
    Hidden files and folders are ignored, and links are followed. A path that does not exist and a pattern
    without a match are yielded unchanged, so that opening them reports the error.

    Args:
        paths: Files, folders and glob patterns.
        on_skipped: Function that receives a sentence on the skipped files of a folder.

    Raises:
        InputError: A folder cannot be read.
    """
    for path in paths:
        if Path(path).is_dir():
            videos, others, example = scan_folder(path)
            if on_skipped and videos and others:
                on_skipped(f"{path}: {report_skipped(others, example)}")
            yield from videos or [path]
        elif glob.has_magic(path) and glob.glob(path, recursive=True) and not Path(path).exists():
            # `**` matches a folder and its contents; yield each video once.
            yield from dict.fromkeys(find_videos(sorted(glob.glob(path, recursive=True)), on_skipped))
        else:
            yield path


def scan_folder(folder: str) -> FolderContents:
    """Return the videos below a folder, and the files that are not part of them.

    Raises:
        InputError: A folder below cannot be read.
    """
    videos: list[str] = []
    images: dict[Path, Counter[str]] = {}
    others: Counter[str] = Counter()
    examples: list[str] = []
    for here, _, names in walk(folder):
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name[0] == ".":
                continue
            if suffix in VIDEO_SUFFIXES:
                videos.append(str(Path(here, name)))
            elif suffix in IMAGE_SUFFIXES:
                images.setdefault(Path(here), Counter())[suffix] += 1
            else:
                others[suffix] += 1
                examples += [str(Path(here, name))] if not examples else []
    frames = set() if videos else images.keys() - _flow_folders(images)
    for ignored in sorted(images.keys() - frames):
        others += images[ignored]
        examples.append(str(ignored))
    return FolderContents(sorted(videos or map(str, frames)), others, examples[0] if examples else "")


def _flow_folders(folders: Iterable[Path]) -> set[Path]:
    """Return the folders with names of optical flow that are beside a folder with another name."""
    flow = {folder for folder in folders if folder.name.lower() in _FLOW_FOLDERS}
    beside = {folder.parent for folder in folders if folder not in flow}
    return {folder for folder in flow if folder.parent in beside}


def report_skipped(suffixes: Counter[str], example: str) -> str:
    """Return a sentence on the files of a folder that are not videos, of which there must be at least one."""
    return f"skipped files that are no videos: {count_suffixes(suffixes)}, such as {example}"


def count_suffixes(suffixes: Counter[str]) -> str:
    """Return the number of files per suffix, such as `12 .jpg, 1 .txt`."""
    return ", ".join(f"{n} {suffix or 'without a suffix'}" for suffix, n in suffixes.most_common())


def walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk like os.walk top down, following links, in sorted order and without hidden folders.

    No folder is visited twice, and parents of `folder` are not visited, even if links lead there.

    Raises:
        InputError: A folder cannot be read.
    """
    visited = {_identity(parent) for parent in Path(folder).resolve().parents}
    for here, subfolders, files in os.walk(folder, followlinks=True, onerror=_raise_error):
        if _identity(here) in visited:
            subfolders.clear()
            continue
        visited.add(_identity(here))
        subfolders[:] = sorted(name for name in subfolders if name[0] != ".")
        yield here, subfolders, sorted(files)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _raise_error(error: OSError) -> None:
    raise InputError(f"{error.filename}: the folder cannot be read: {error.strerror}") from error
