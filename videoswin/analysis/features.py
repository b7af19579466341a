"""Features of the windows of a video, for libraries of temporal localization and for search.

T windows, C channels, V views.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray

from videoswin._errors import InputError, VideoError
from videoswin._files import replacing, write_text
from videoswin._text import dump_json, plural, printable
from videoswin.analysis.files import VideoPosition, fingerprint_of, identity_of, unique_stems
from videoswin.analysis.timeline import read_ahead
from videoswin.analysis.windows import seconds_ahead, sliding_windows
from videoswin.inference.backends.pytorch import PyTorchBackend
from videoswin.inference.predictor import Predictor
from videoswin.video.stream import VideoStream

FPS: Final = 30.0
"""Default rate to which videos are resampled, because the libraries expect one constant rate."""
STRIDE: Final = 16
"""Default number of frames between the starts of two windows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """The features of a video: row i is the mean token of the window that starts at frame i * stride."""

    path: str
    """The video."""
    model: str
    """Name or file of the checkpoint."""
    fps: float
    """Rate in frames per second to which the video was resampled."""
    stride_frames: int
    """Frames between the starts of two windows."""
    window_frames: int
    """Frames of a window, from the first frame of its clip to the step after the last."""
    feats: NDArray[np.float32] = field(repr=False)
    """(T, C)."""
    start_seconds: NDArray[np.float64] = field(repr=False)
    """(T,) start of each window."""
    end_seconds: NDArray[np.float64] = field(repr=False)
    """(T,) end of each window."""
    duration_seconds: float
    """Duration of the video."""
    damage: str | None = None
    """Description of the unreadable parts of the file; None if everything could be read."""
    fingerprint: str = field(default="", repr=False)
    """Digest of the file, the model and the settings."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What belongs to the features besides the arrays, as values for JSON."""
        arrays = ("feats", "start_seconds", "end_seconds")
        names = [each.name for each in dataclasses.fields(self) if each.name not in arrays]
        fields = {name: getattr(self, name) for name in names}
        return {"format": "videoswin-features", "version": 1, "shape": list(self.feats.shape)} | fields


def extract(
    path: str | os.PathLike[str],
    predictor: Predictor,
    *,
    stride: int = STRIDE,
    fps: float = FPS,
    on_window: Callable[[float], None] | None = None,
) -> Features:
    """Compute the features of a video at a constant rate, in one pass and constant memory.

    There are floor((N - W) / stride) + 1 windows for a video of N frames at `fps` and windows of W frames; a
    shorter video has one window, whose clip is looped.

    Args:
        path: Video file.
        predictor: Model and views; the features of several views are averaged.
        stride: Frames between the starts of two windows, >= 1.
        fps: Rate in frames per second to which the video is resampled, > 0.
        on_window: Called with the end of each window in seconds.

    Raises:
        VideoError: The video cannot be read.
        InputError: A value is out of range, the model has no features because it is an exported file, or its
            clips have no constant rate.
    """
    backend, clip = predictor.backend, predictor.clip
    if not isinstance(backend, PyTorchBackend):
        raise InputError(f"features need a checkpoint, got the exported model {predictor.name}")
    if clip.rule != "dense":
        raise InputError(
            f"features need clips at a constant rate, got the rule {clip.rule!r} of {predictor.name}"
        )
    if not 0 < fps < math.inf:
        raise InputError(f"fps must be > 0, got {fps:g}")
    frames = round(clip.span * fps / (clip.fps or fps))
    if not 1 <= stride <= frames:
        raise InputError(f"stride must be from 1 to {frames}, the frames of a window, got {stride}")
    rows: list[NDArray[np.float32]] = []
    starts: list[float] = []
    window_seconds, hop_seconds = frames / fps, stride / fps
    at_rate = clip if clip.fps is not None else clip.replace(fps=fps)
    ahead = seconds_ahead(window_seconds, hop_seconds)
    with VideoStream(path, ahead_seconds=ahead, limits=predictor.limits) as stream:
        windows = sliding_windows(
            stream, at_rate, predictor.views, window_seconds=window_seconds, hop_seconds=hop_seconds
        )
        for number, window in enumerate(read_ahead(windows, 4)):
            if number and window.start_seconds < number * hop_seconds * (1 - 1e-9):
                break  # the window that ends with the video is not on the grid
            batches = torch.split(window.pixels, predictor.views_per_batch)
            with torch.inference_mode():
                pooled = [
                    backend.model.forward_head(backend.features(batch), pre_logits=True) for batch in batches
                ]  # each (V, C)
            rows.append(torch.cat(pooled).float().mean(0).cpu().numpy())
            starts.append(window.start_seconds)
            if on_window is not None:
                on_window(window.end_seconds)
        duration = stream.times[-1] + 1 / stream.fps
        damage = stream.damage
    start_seconds = np.array(starts)
    return Features(
        path=os.fspath(path),
        model=predictor.name,
        fps=fps,
        stride_frames=stride,
        window_frames=frames,
        feats=np.stack(rows),
        start_seconds=start_seconds,
        end_seconds=np.minimum(start_seconds + window_seconds, duration),
        duration_seconds=duration,
        damage=damage,
    )


def _save_npz(features: Features, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(
            file,
            feats=features.feats,
            start_seconds=features.start_seconds,
            end_seconds=features.end_seconds,
            meta=np.array(dump_json(features.metadata)),
        )


def _save_npy(features: Features, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, features.feats)


def _save_safetensors(features: Features, path: Path) -> None:
    arrays = {name: getattr(features, name) for name in ("feats", "start_seconds", "end_seconds")}
    safetensors.numpy.save_file(arrays, path, metadata={"meta": dump_json(features.metadata)})


FORMATS: Final[Mapping[str, Callable[[Features, Path], None]]] = MappingProxyType(
    {"npz": _save_npz, "npy": _save_npy, "safetensors": _save_safetensors}
)
"""Format -> function that writes features; a file of the format `npy` has no metadata."""


def save_features(features: Features, stem: Path, format: str = "npz") -> Path:
    """Write features to `stem` with the suffix of the format, at once or not at all, and return the path.

    The path of the video in the file is relative to its folder.

    Args:
        features: The features; the path is absolute or relative to the working directory.
        stem: Folder and name of the file, without suffix.
        format: One of FORMATS.

    Raises:
        InputError: The format is unknown.
    """
    if format not in FORMATS:
        raise InputError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    path = stem.with_name(f"{stem.name}.{format}")
    features = dataclasses.replace(features, path=os.path.relpath(features.path, path.parent))
    with replacing(path) as partial:
        FORMATS[format](features, partial)
    return path


def read_features(path: str | os.PathLike[str]) -> Features:
    """Read a file of the format `npz`.

    Raises:
        InputError: The file is not one.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            fields = json.loads(str(arrays["meta"]))
            content = {name: arrays[name] for name in ("feats", "start_seconds", "end_seconds")}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(
            f"{os.fspath(path)} must be a file of `videoswin extract`, got another one"
        ) from error
    if fields.get("format") != "videoswin-features" or fields.get("version") != 1:
        raise InputError(f"{os.fspath(path)} must be a file of `videoswin extract`, got another one")
    for name in ("format", "version", "shape"):
        del fields[name]
    return Features(**fields, **content)


def _read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a file of features; nothing if there is none."""
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "numpy") as file:
                text = file.metadata()["meta"]
        else:
            with np.load(path, allow_pickle=False) as arrays:
                text = str(arrays["meta"])
        return dict(json.loads(text))
    # There is no such file, or one of another program, or of the format npy, which has no metadata.
    except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, safetensors.SafetensorError):
        return {}


@dataclass(frozen=True)
class SavedFeatures:
    """The features of one video, in a file."""

    path: str
    """The video."""
    file: Path
    """The file with the features."""
    metadata: Mapping[str, Any]
    """As of Features."""
    is_new: bool
    """False if an earlier call had written the file."""

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return {**self.metadata, "path": self.path, "file": str(self.file)}

    def to_text(self) -> str:
        """Return a line for a terminal."""
        windows, channels = self.metadata["shape"]
        skipped = "" if self.is_new else " (was there)"
        damage = f"; {self.metadata['damage']}" if self.metadata["damage"] else ""
        return printable(
            f"{self.path}  {plural(windows, 'window')} x {channels}, {self.file}{skipped}{damage}"
        )


def save_all_features(
    paths: Iterable[str],
    predictor: Predictor,
    out: Path,
    *,
    format: str = "npz",
    stride: int = STRIDE,
    fps: float = FPS,
    progress: bool = True,
) -> Iterator[SavedFeatures | VideoError]:
    """Write the features of each video into a folder, and the settings for ActionFormer and OpenTAD.

    A video is skipped if the folder has its features with the same file, model and settings.

    Args:
        paths: Video files.
        predictor: Model and views of a window.
        out: Folder, which is created if it does not exist.
        format: One of FORMATS.
        stride: As for `extract`.
        fps: As for `extract`.
        progress: Show the position in each video on stderr.

    Yields:
        The file of each video, or the VideoError of one that cannot be read.
    """
    paths = list(paths)
    out.mkdir(parents=True, exist_ok=True)
    identity = identity_of(predictor) | {"settings": {"stride": stride, "fps": fps}}
    for path, stem in zip(paths, unique_stems(paths), strict=True):
        try:
            yield _save_one(path, predictor, out / stem, format, stride, fps, progress, identity)
        except VideoError as error:
            yield error


def _save_one(
    path: str,
    predictor: Predictor,
    stem: Path,
    format: str,
    stride: int,
    fps: float,
    progress: bool,
    identity: Mapping[str, Any],
) -> SavedFeatures:
    position = VideoPosition(path, predictor.limits, shown=progress)
    fingerprint = fingerprint_of(path, identity)
    file = stem.with_name(f"{stem.name}.{format}")
    metadata = _read_metadata(file)
    if metadata.get("fingerprint") == fingerprint:
        return SavedFeatures(path, file, metadata, False)
    with position:
        found = extract(path, predictor, stride=stride, fps=fps, on_window=position.advance_to)
    found = dataclasses.replace(found, fingerprint=fingerprint)
    save_features(found, stem, format)
    write_configs(found, stem.parent, format)
    return SavedFeatures(path, file, found.metadata, True)


def write_configs(features: Features, folder: Path, format: str) -> list[Path]:
    """Write the settings that ActionFormer and OpenTAD need for these features.

    Args:
        features: Features of any of the videos; all have the same stride, window and rate.
        folder: Folder of the features.
        format: Format of the files.

    Returns:
        `actionformer.yaml` and `opentad.py`.
    """
    channels = features.feats.shape[1]
    texts = {
        "actionformer.yaml": f"""dataset:
  feat_folder: {folder}
  file_ext: .{format}
  input_dim: {channels}
  feat_stride: {features.stride_frames}
  num_frames: {features.window_frames}
  default_fps: {features.fps:g}
  downsample_rate: 1
""",
        "opentad.py": f"""# The center of feature i is at (i * snippet_stride + offset_frames) / fps seconds.
dataset = dict(
    data_path="{folder}",
    feature_stride={features.stride_frames},
    sample_stride=1,
    offset_frames={features.window_frames // 2},
    fps={features.fps:g},
)
load = dict(type="LoadFeats", feat_format="{format}")
model = dict(projection=dict(in_channels={channels}))
""",
    }
    paths = []
    for name, text in texts.items():
        write_text(folder / name, text)
        paths.append(folder / name)
    return paths
