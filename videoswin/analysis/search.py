"""Find the moments in a folder of extracted features that are most like a clip.

N windows, C channels.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from videoswin._errors import InputError
from videoswin._files import replacing
from videoswin._text import dump_json
from videoswin.analysis.features import Features, read_features
from videoswin.evaluation.plots import draw_contact_sheet
from videoswin.video.reader import open_video

_VECTORS: Final = ".search.vectors.npy"
_WINDOWS: Final = ".search.windows.npz"
_ROWS_AT_ONCE: Final = 2**17
"""Windows that are compared at a time, so that the memory of a search does not grow with the index."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A moment that is like the clip."""

    path: str
    """The video."""
    start_seconds: float
    """Start in seconds from the first frame of the video."""
    end_seconds: float
    """End in seconds from the first frame of the video."""
    similarity: float
    """Cosine of the angle between the features, without the mean of the index: -1 to 1."""


class FeatureIndex:
    """The features of all videos of a folder, memory-mapped.

    The first use of a folder writes two hidden files with the vectors and times of all windows. They are
    written again after files of features were added, changed or removed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open the index of a folder of `videoswin extract`.

        Args:
            folder: Folder with files of the format `npz`, also in folders inside.

        Raises:
            InputError: There are none, or they have different models or rates.
        """
        self.folder = Path(folder)
        files = sorted(path for path in self.folder.rglob("*.npz") if not path.name.startswith("."))
        if not files:
            raise InputError(
                f"index must be a folder with files of `videoswin extract`, got {self.folder} without any"
            )
        fingerprint = _fingerprint(files)
        if self._stored_fingerprint() != fingerprint:
            self._build(files, fingerprint)
        self._vectors: NDArray[np.float32] = np.load(self.folder / _VECTORS, mmap_mode="r")
        with np.load(self.folder / _WINDOWS, allow_pickle=False) as arrays:
            self._mean = arrays["mean"]
            self._video = arrays["video"]
            self._times = arrays["times"]
            content = json.loads(str(arrays["meta"]))
        self.paths: list[str] = content["paths"]
        """The videos."""
        self.model: str = content["model"]
        self.fps: float = content["fps"]
        self.stride_frames: int = content["stride_frames"]

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self._vectors)

    def search(self, query: Features, *, top: int = 5) -> list[Match]:
        """Return the moments most like a clip, the most similar first.

        Of windows of one video that overlap, only the most similar one is a match.

        Args:
            query: Features of the clip, with the model of the index.
            top: Largest number of matches, >= 1.

        Raises:
            InputError: The model is another one, or `top` is out of range.
        """
        if top < 1:
            raise InputError(f"top must be >= 1, got {top}")
        if query.model != self.model:
            raise InputError(f"the clip must have features of {self.model}, as the index, got {query.model}")
        vector = _normalized(query.feats - self._mean).mean(0)
        vector /= max(float(np.linalg.norm(vector)), 1e-12)
        parts = (self._vectors[first : first + _ROWS_AT_ONCE] for first in range(0, len(self), _ROWS_AT_ONCE))
        similarity = np.concatenate([part @ vector for part in parts])
        matches: list[Match] = []
        taken: list[int] = []
        for index in np.argsort(-similarity, kind="stable").tolist():
            if len(matches) == top:
                break
            if any(self._overlap(index, other) for other in taken):
                continue
            taken.append(index)
            start, end = self._times[index].tolist()
            matches.append(
                Match(
                    path=self.paths[self._video[index]],
                    start_seconds=start,
                    end_seconds=end,
                    similarity=float(similarity[index]),
                )
            )
        return matches

    def _overlap(self, one: int, other: int) -> bool:
        (start, end), (start_of_other, end_of_other) = self._times[one], self._times[other]
        return bool(self._video[one] == self._video[other] and start < end_of_other and start_of_other < end)

    def _stored_fingerprint(self) -> str | None:
        """Return the fingerprint of the files that the index was built from; None without an index."""
        try:
            with np.load(self.folder / _WINDOWS, allow_pickle=False) as arrays:
                fingerprint = json.loads(str(arrays["meta"]))["fingerprint"]
        except (OSError, ValueError, KeyError):
            return None
        return str(fingerprint) if (self.folder / _VECTORS).exists() else None

    def _build(self, files: list[Path], fingerprint: str) -> None:
        """Write the vectors and the times of the windows of all files."""
        features = [read_features(path) for path in files]  # paths are relative to the folder of the file
        kinds = {(each.model, each.fps, each.stride_frames, each.feats.shape[1]) for each in features}
        if len(kinds) > 1:
            raise InputError(
                f"all features of {self.folder} must have one model, fps and stride, got "
                f"{', '.join(f'{model} {fps:g} {stride}' for model, fps, stride, _ in sorted(kinds))}; "
                "extract them again into a folder of their own"
            )
        vectors = np.concatenate([each.feats for each in features])
        mean = vectors.mean(0)
        meta: dict[str, Any] = {
            "fingerprint": fingerprint,
            "paths": [os.path.normpath(f.parent / e.path) for f, e in zip(files, features, strict=True)],
            "model": features[0].model,
            "fps": features[0].fps,
            "stride_frames": features[0].stride_frames,
        }
        with replacing(self.folder / _VECTORS) as partial, partial.open("wb") as file:
            np.save(file, _normalized(vectors - mean))
        with replacing(self.folder / _WINDOWS) as partial, partial.open("wb") as file:
            np.savez(
                file,
                mean=mean,
                video=np.repeat(np.arange(len(features)), [len(each.feats) for each in features]),
                times=np.concatenate(
                    [np.stack([each.start_seconds, each.end_seconds], axis=1) for each in features]
                ),
                meta=np.array(dump_json(meta)),
            )


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors (N, C) of length 1; vectors of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def _fingerprint(files: list[Path]) -> str:
    """Return a digest of the names, sizes and times of files."""
    states = [(os.fspath(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(states).encode()).hexdigest()


def draw_matches(path: Path, clip: str, matches: list[Match], *, frames: int = 6) -> None:
    """Draw a contact sheet with frames of a clip and of the matches.

    Args:
        path: PNG file to write.
        clip: The video that was searched for.
        matches: The moments that were found.
        frames: Frames of each.

    Raises:
        VideoError: A video cannot be read.
    """
    rows = [(f"searched: {clip}", _frames(clip, 0.0, None, frames))]
    for match in matches:
        times = f"{match.start_seconds:.1f} s to {match.end_seconds:.1f} s"
        caption = f"{match.similarity:.3f}  {match.path}, {times}"
        rows.append((caption, _frames(match.path, match.start_seconds, match.end_seconds, frames)))
    with replacing(path) as partial:
        draw_contact_sheet(partial, rows)


def _frames(path: str, start: float, end: float | None, count: int) -> Tensor:
    """Return evenly spaced frames of a part of a video, uint8 (count, H, W, 3)."""
    with open_video(path) as video:
        last = video.duration_seconds if end is None else end
        moments = np.linspace(start, last, count, endpoint=False)
        return video.read([video.index_at(float(moment)) for moment in moments])
