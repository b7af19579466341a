"""Write timelines for people and programs: one function per format, Timeline to text.

To add a format, write one function and add it to WRITERS.
"""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Final
from xml.sax.saxutils import quoteattr

from videoswin._errors import InputError
from videoswin._files import write_text
from videoswin._text import csv_cell, did_you_mean, dump_json, printable
from videoswin.analysis.page import to_html
from videoswin.analysis.timeline import Segment, Timeline

CSV_HEADER: Final = ("path", "start_seconds", "end_seconds", "label", "probability")
"""Columns of a CSV; it can be used as a list of training videos."""


def to_json(timeline: Timeline) -> dict[str, str]:
    """JSON of this package: all settings and segments."""
    return {".timeline.json": dump_json(timeline.to_dict(), indent=2) + "\n"}


def to_csv(timeline: Timeline) -> dict[str, str]:
    """CSV with a row per segment; after corrections, it is a training list."""
    return {".csv": csv_text([(timeline.path, timeline.segments)])}


def csv_text(segments: Iterable[tuple[str, Sequence[Segment]]]) -> str:
    """Return the CSV of the segments of several videos, given as pairs of path and segments."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(CSV_HEADER)
    for path, of_video in segments:
        for segment in of_video:
            times = (f"{segment.start_seconds:.6f}", f"{segment.end_seconds:.6f}")
            rows.writerow((csv_cell(path), *times, csv_cell(segment.label), f"{segment.probability:.4f}"))
    return text.getvalue()


def to_tsv(timeline: Timeline) -> dict[str, str]:
    """TSV as of whisper: start and end in whole milliseconds, and the label."""
    lines = ["start\tend\ttext"]
    for segment in timeline.segments:
        start, end = _milliseconds(segment.start_seconds), _milliseconds(segment.end_seconds)
        lines.append(f"{start}\t{end}\t{segment.label}")
    return {".tsv": "\n".join(lines) + "\n"}


def to_srt(timeline: Timeline) -> dict[str, str]:
    """SubRip subtitles; segments at the same time are lines of one cue."""
    cues = [
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{_srt_text(segments)}\n"
        for number, (start, end, segments) in enumerate(_cues(timeline), 1)
    ]
    return {".srt": "\n".join(cues)}


def to_vtt(timeline: Timeline) -> dict[str, str]:
    """WebVTT: captions, and a metadata track with the segments of each cue as JSON."""
    captions, metadata = ["WEBVTT\n"], ["WEBVTT\n"]
    for start, end, segments in _cues(timeline):
        times = f"{_clock(start, '.')} --> {_clock(end, '.')}"
        captions.append(f"{times}\n{html.escape(_cue_text(segments), quote=False)}\n")
        # `-->` may not be in a cue, and JSON may escape any character.
        text = dump_json({"segments": [vars(segment) for segment in segments]}).replace(">", "\\u003e")
        metadata.append(f"{times}\n{text}\n")
    return {".vtt": "\n".join(captions), ".metadata.vtt": "\n".join(metadata)}


def to_edl(timeline: Timeline) -> dict[str, str]:
    """CMX 3600 edit decision list for video editors, in frames; needs a constant frame rate."""
    rate = max(1, round(_constant_rate(timeline, "edl")))

    def timecode(frame: int) -> str:
        seconds, frames = divmod(frame, rate)
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}:{frames:02}"

    lines = [f"TITLE: {printable(Path(timeline.path).name)}", "FCM: NON-DROP FRAME", ""]
    for number, segment in enumerate(timeline.segments, 1):
        start, end = timecode(segment.start_frame), timecode(segment.end_frame)
        lines += [
            f"{number:03}  AX       V     C        {start} {end} {start} {end}",
            f"* FROM CLIP NAME: {printable(Path(timeline.path).name)}",
            f"* COMMENT: {segment.label} ({segment.probability:.2f})",
            "",
        ]
    return {".edl": "\n".join(lines)}


def to_activitynet(timeline: Timeline) -> dict[str, str]:
    """Results of temporal localization, for the evaluation code of ActivityNet and OpenTAD."""
    results = [
        {
            "label": segment.label,
            "score": segment.probability,
            "segment": [segment.start_seconds, segment.end_seconds],
        }
        for segment in timeline.segments
    ]
    content = {
        "version": "VERSION 1.3",
        "results": {Path(timeline.path).stem.removeprefix("v_"): results},
        "external_data": {"used": True, "details": f"videoswin with the model {timeline.model}"},
    }
    return {".activitynet.json": dump_json(content, indent=2) + "\n"}


def to_labelstudio(timeline: Timeline) -> dict[str, str]:
    """Predictions for Label Studio, and the labeling configuration; needs a constant frame rate."""
    rate = _constant_rate(timeline, "labelstudio")
    results = [
        {
            "id": f"segment-{number}",
            "from_name": "timelineLabels",
            "to_name": "video",
            "type": "timelinelabels",
            "score": segment.probability,
            # Frames are counted from 1, and the last one is part of the range.
            "value": {
                "ranges": [{"start": segment.start_frame + 1, "end": segment.end_frame}],
                "timelinelabels": [segment.label],
            },
        }
        for number, segment in enumerate(timeline.segments, 1)
    ]
    score = max((segment.probability for segment in timeline.segments), default=0.0)
    prediction = {"model_version": timeline.model, "score": score, "result": results}
    task = {"data": {"video": timeline.path}, "predictions": [prediction]}
    labels = "".join(f"    <Label value={quoteattr(label)}/>\n" for label in timeline.labels)
    config = (
        '<View>\n  <TimelineLabels name="timelineLabels" toName="video">\n'
        f"{labels}  </TimelineLabels>\n"
        f'  <Video name="video" value="$video" framerate="{rate:.6g}"/>\n</View>\n'
    )
    return {".labelstudio.json": dump_json([task], indent=2) + "\n", ".labelstudio.xml": config}


def to_fiftyone(timeline: Timeline) -> dict[str, str]:
    """Labels of a FiftyOneTemporalDetectionDataset, with times in seconds."""
    detections = [
        {
            "label": segment.label,
            "timestamps": [segment.start_seconds, segment.end_seconds],
            "confidence": segment.probability,
        }
        for segment in timeline.segments
    ]
    content = {"classes": list(timeline.labels), "labels": {Path(timeline.path).stem: detections}}
    return {".fiftyone.json": dump_json(content, indent=2) + "\n"}


def to_boris(timeline: Timeline) -> dict[str, str]:
    """Tabular events of BORIS: a START and a STOP row per segment."""
    events = sorted(
        (seconds, kind, segment.label)
        for segment in timeline.segments
        for seconds, kind in ((segment.start_seconds, "START"), (segment.end_seconds, "STOP"))
    )
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("Behavior", "Behavior type", "Time", "Media file name"))
    for seconds, kind, label in events:
        rows.writerow((csv_cell(label), kind, f"{seconds:.3f}", csv_cell(timeline.path)))
    return {".boris.csv": text.getvalue()}


WRITERS: Final[Mapping[str, Callable[[Timeline], dict[str, str]]]] = MappingProxyType(
    {
        "json": to_json,
        "csv": to_csv,
        "srt": to_srt,
        "vtt": to_vtt,
        "tsv": to_tsv,
        "html": to_html,
        "edl": to_edl,
        "activitynet": to_activitynet,
        "labelstudio": to_labelstudio,
        "fiftyone": to_fiftyone,
        "boris": to_boris,
    }
)
"""Format -> function that returns the text of each file of a timeline, by its suffix."""


def parse_formats(text: str) -> tuple[str, ...]:
    """Return the formats of a comma-separated list; `all` is every format.

    Raises:
        InputError: A format is unknown.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if names == ("all",):
        return tuple(WRITERS)
    for name in names:
        if name not in WRITERS:
            raise InputError(
                f"format must be one of {', '.join(WRITERS)}, or all, got {name!r}"
                f"{did_you_mean(name, WRITERS)}"
            )
    if not names:
        raise InputError(f"format must be one or more of {', '.join(WRITERS)}, got nothing")
    return names


def save(timeline: Timeline, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write a timeline in these formats, each file at once or not at all.

    The path of the video in the files is relative to their folder, as in a list of training videos.

    Args:
        timeline: The timeline; its path is absolute or relative to the working directory.
        stem: Folder and name of the files, without suffix.
        formats: Names from WRITERS.

    Returns:
        The files.
    """
    timeline = dataclasses.replace(timeline, path=os.path.relpath(timeline.path, stem.parent))
    files = []
    for name in formats:
        for suffix, text in WRITERS[name](timeline).items():
            path = stem.with_name(stem.name + suffix)
            write_text(path, text)
            files.append(path)
    return files


def _cues(timeline: Timeline) -> Iterator[tuple[int, int, list[Segment]]]:
    """Yield (start, end, segments) of each time with the same segments, in whole milliseconds.

    Cues do not overlap, because players show only one of several overlapping cues.
    """
    times = sorted(
        {_milliseconds(time) for s in timeline.segments for time in (s.start_seconds, s.end_seconds)}
    )
    for start, end in pairwise(times):
        shown = [
            segment
            for segment in timeline.segments
            if _milliseconds(segment.start_seconds) <= start and end <= _milliseconds(segment.end_seconds)
        ]
        if shown:
            yield start, end, shown


def _milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded down, so that a cue never ends after its segment."""
    return math.floor(seconds * 1000 + 1e-6)


def _clock(milliseconds: int, separator: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{separator}{milliseconds:03}"


def _cue_text(segments: Sequence[Segment]) -> str:
    return "\n".join(segment.label for segment in segments)


def _srt_text(segments: Sequence[Segment]) -> str:
    """Return the text of a cue of SRT, which has tags but no way to escape them."""
    return _cue_text(segments).translate({ord("<"): "(", ord(">"): ")"})


def _constant_rate(timeline: Timeline, name: str) -> float:
    """Return the frame rate; raise InputError if it varies, because the format counts frames."""
    if timeline.variable_rate:
        raise InputError(
            f"{timeline.path} must have a constant frame rate for the format {name}, which counts frames, "
            "got a variable rate; convert the video to a constant rate, or use csv, json, srt or vtt"
        )
    return timeline.fps
