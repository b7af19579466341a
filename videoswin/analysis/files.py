"""Timelines of many videos in a folder; a repeated call continues where the last one ended."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch

from videoswin._errors import VideoError
from videoswin._files import write_text
from videoswin._progress import Progress
from videoswin._text import BAR_WIDTH, draw_bar, dump_json, printable
from videoswin.analysis.page import format_seconds
from videoswin.analysis.segments import TokenEvidence
from videoswin.analysis.timeline import Segment, WindowScores, timeline
from videoswin.analysis.writers import csv_text, save
from videoswin.inference.backends import Backend
from videoswin.inference.backends.pytorch import PyTorchBackend
from videoswin.inference.predictor import Predictor
from videoswin.video.limits import ReadLimits
from videoswin.video.stream import VideoStream

_NOT_IN_END: Final = ("format", "version", "fingerprint", "files")
"""Keys of the JSON file that are not in the `end` event."""

COMBINED_CSV: Final = "timelines.csv"
"""File with the segments of all videos of a call."""


@dataclass(frozen=True)
class SavedTimeline:
    """The timeline of one video, in files."""

    path: str
    """The video."""
    files: tuple[Path, ...]
    """The files of the timeline; the last one is the JSON file."""
    content: Mapping[str, Any]
    """Content of the JSON file: that of `Timeline.to_dict`, a fingerprint and the names of the files."""
    is_new: bool
    """False if an earlier call had written it."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments in the order of their start."""
        return tuple(Segment(**fields) for fields in self.content["segments"])

    def to_text(self) -> str:
        """Return lines for a terminal: the video, its segments with bars, damage and notes, and the files."""
        content, segments = self.content, self.segments
        summary = (
            f"{format_seconds(content['duration_seconds'])}, {content['model']}, windows of "
            f"{content['window_seconds']:.3g} s every {content['hop_seconds']:.3g} s"
        )
        width = max((len(printable(segment.label)) for segment in segments), default=0)
        lines = [
            f"  {format_seconds(s.start_seconds):>9} to {format_seconds(s.end_seconds):>9}  "
            f"{printable(s.label):{width}}  {draw_bar(s.probability):{BAR_WIDTH}} "
            f"{100 * s.probability:5.1f} %"
            for s in segments
        ]
        if not segments:
            lines = [f"  no label has a probability of at least {content['threshold']:g}"]
        problems = [f"  {text}" for text in (content["damage"], *content["notes"]) if text]
        files = ", ".join(path.name for path in self.files)
        return "\n".join(
            [f"{printable(self.path)}  {printable(summary)}", *lines, *map(printable, problems), f"  {files}"]
        )


def save_timelines(
    paths: Iterable[str],
    predictor: Predictor,
    out: Path,
    *,
    formats: Sequence[str] = ("json", "csv", "html"),
    progress: bool = True,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    **settings: Any,
) -> Iterator[SavedTimeline | VideoError]:
    """Write the timeline of each video into a folder, and at the end a CSV of the segments of all videos.

    A video is skipped if the folder has its timeline for the same file, model, protocol and settings. After
    an interruption, windows that were already scored are not scored again.

    Args:
        paths: Video files.
        predictor: Model and views of a window.
        out: Folder, which is created if it does not exist.
        formats: Names from WRITERS; JSON is always written.
        progress: Show the position in each video on stderr.
        on_event: Called with a dictionary for each start of a video, window, segment and end of a video, as
            soon as it is known. Every video ends with an `end` or an `error`.
        settings: Arguments of `timeline`: window_seconds, hop_seconds, threshold, ...

    Yields:
        The files of each video, or the VideoError of one that cannot be read.
    """
    paths = list(paths)
    out.mkdir(parents=True, exist_ok=True)
    others = [name for name in dict.fromkeys(formats) if name != "json"]
    report = on_event or (lambda event: None)
    identity = identity_of(predictor) | {"settings": {**settings, "formats": others}}
    saved = []
    for path, stem in zip(paths, unique_stems(paths), strict=True):
        report({"type": "start", "path": path, "model": predictor.name, "protocol": predictor.protocol})
        try:
            result = _save_one(path, predictor, out / stem, others, progress, report, settings, identity)
        except VideoError as error:
            report({"type": "error", "path": path, "error": error.reason})
            yield error
            continue
        for segment in result.segments:
            report({"type": "segment", "path": path} | vars(segment))
        facts = {name: value for name, value in result.content.items() if name not in _NOT_IN_END}
        report({"type": "end"} | facts | {"path": path, "segments": len(result.segments)})
        saved.append(result)
        yield result
    text = csv_text([(os.path.relpath(each.path, out), each.segments) for each in saved])
    write_text(out / COMBINED_CSV, text)


def _save_one(
    path: str,
    predictor: Predictor,
    stem: Path,
    formats: Sequence[str],
    progress: bool,
    report: Callable[[dict[str, Any]], None],
    settings: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> SavedTimeline:
    position = VideoPosition(path, predictor.limits, shown=progress)
    fingerprint = fingerprint_of(path, identity)
    json_file = stem.with_name(f"{stem.name}.timeline.json")
    if (content := _finished(json_file, fingerprint)) is not None:
        return SavedTimeline(path, tuple(stem.with_name(name) for name in content["files"]), content, False)
    part = stem.with_name(f".{stem.name}.windows.part")
    known = _read_windows(part, fingerprint)
    with position, _WindowFile(part, fingerprint, known) as file:

        def on_window(scores: WindowScores) -> None:
            file.append(scores)
            report({"type": "window", "path": path} | scores.to_dict(predictor.labels))
            position.advance_to(scores.end_seconds)

        result = timeline(path, predictor, known=known, on_window=on_window, **settings)
    files = save(result, stem, formats)
    # Last, because it marks the timeline as finished.
    names = [file.name for file in files] + [json_file.name]
    content = result.to_dict() | {"fingerprint": fingerprint, "files": names}
    content["path"] = os.path.relpath(path, stem.parent)
    write_text(json_file, dump_json(content, indent=2) + "\n")
    part.unlink(missing_ok=True)
    return SavedTimeline(path, (*files, json_file), content, True)


class VideoPosition:
    """Progress of the work on one video, in seconds of the video; a context manager."""

    def __init__(self, path: str, limits: ReadLimits, *, shown: bool) -> None:
        """Read the duration that a video states.

        Args:
            path: Video file.
            limits: Limits on the cost of reading.
            shown: False to print nothing.

        Raises:
            VideoError: The video cannot be read.
        """
        with VideoStream(path, limits=limits) as stream:
            stated = stream.stated_seconds
        self._total = None if stated is None else round(stated)
        self._bar = Progress(Path(path).name, self._total, "video seconds", shown=shown)

    def advance_to(self, seconds: float) -> None:
        """Set the position; no further than the stated duration, which may be too short."""
        self._bar.advance_to(min(int(seconds), self._total or int(seconds)))

    def __enter__(self) -> VideoPosition:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)


def identity_of(predictor: Predictor) -> dict[str, Any]:
    """Return what determines the scores of a predictor, as values for JSON. All weights are read for it."""
    return {
        "model": predictor.name,
        "weights": _weights_digest(predictor.backend),
        "clip": predictor.clip.to_dict(),
        "views": predictor.views.to_dict(),
    }


def fingerprint_of(path: str, identity: Mapping[str, Any]) -> str:
    """Return a digest of everything that determines a result.

    Args:
        path: Video file; its absolute path, size and modification time are included.
        identity: Result of `identity_of` with the settings, as values for JSON.
    """
    status = os.stat(path)
    file = [os.path.abspath(path), status.st_size, status.st_mtime_ns]
    return hashlib.sha256(dump_json({"file": file, **identity}).encode()).hexdigest()


def _weights_digest(backend: Backend) -> str:
    """Return a digest of the weights of a checkpoint, or of an exported file."""
    digest = hashlib.sha256()
    if isinstance(backend, PyTorchBackend):
        for name, tensor in backend.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy())
    else:
        digest.update(backend.metadata.to_json().encode())
    return digest.hexdigest()


def _finished(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Return the content of a finished timeline with this fingerprint; None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("fingerprint") != fingerprint:
        return None
    return content if all(path.with_name(name).exists() for name in content["files"]) else None


def unique_stems(paths: Sequence[str]) -> list[str]:
    """Return a name for the files of each video: its stem, or as much of its name as makes it unique."""
    stems, names = (Counter(each) for each in ([Path(p).stem for p in paths], [Path(p).name for p in paths]))
    unique = []
    for path in map(Path, paths):
        digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:8]
        name = path.name if names[path.name] == 1 else f"{path.name}-{digest}"
        unique.append(path.stem if stems[path.stem] == 1 else name)
    return unique


class _WindowFile:
    """The scores of the windows of an unfinished timeline, as arrays in the format of numpy.save."""

    def __init__(self, path: Path, fingerprint: str, known: Sequence[WindowScores]) -> None:
        self._path, self._known = path, known
        self._header = np.array(fingerprint)

    def __enter__(self) -> _WindowFile:
        # Rewritten, because its last window may be incomplete.
        self._file: BinaryIO = self._path.open("wb")
        np.save(self._file, self._header, allow_pickle=False)
        for scores in self._known:
            self.append(scores)
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, scores: WindowScores) -> None:
        """Add the scores of the next window."""
        arrays = [np.array([scores.start_seconds, scores.end_seconds, len(scores.evidence)])]
        arrays.append(scores.probabilities)
        for tokens in scores.evidence:
            arrays += [tokens.seconds, tokens.classes, tokens.probabilities]
        for array in arrays:
            np.save(self._file, array, allow_pickle=False)
        self._file.flush()


def _read_windows(path: Path, fingerprint: str) -> list[WindowScores]:
    """Return the complete windows of an unfinished timeline with this fingerprint."""
    windows: list[WindowScores] = []
    # numpy raises ValueError or EOFError at an incomplete array, the end of an interrupted file.
    with suppress(FileNotFoundError, ValueError, EOFError), path.open("rb") as file:

        def read() -> Any:
            return np.load(file, allow_pickle=False)

        if str(read()) != fingerprint:
            return []
        while True:
            start, end, count = read().tolist()
            probabilities = read()
            evidence = tuple(TokenEvidence(read(), read(), read()) for _ in range(int(count)))
            windows.append(WindowScores(start, end, probabilities, evidence))
    return windows
