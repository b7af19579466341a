"""Read JSON lists of datasets (Something-Something, Diving48, ActivityNet) and of annotation tools.

The tools are Label Studio and FiftyOne. Lists of flat objects with the keys of a table are supported too, as
one JSON document or as one object per line, such as the metadata.jsonl of Hugging Face.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Mapping
from os.path import dirname, exists, join
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from videoswin._errors import InputError
from videoswin._text import first_few, plural
from videoswin.data.lists.rows import (
    SPLIT_NAMES,
    Listing,
    ListSource,
    Row,
    number_lines,
    parse_seconds,
    parse_split,
    read_text,
    require_order,
    resolve_path,
)
from videoswin.data.lists.tables import COLUMNS, read_records
from videoswin.video.listing import VIDEO_SUFFIXES

_UPLOAD_PREFIX: Final = re.compile(r"[0-9a-f]{8}-(?=.)")
"""Prefix that Label Studio adds to the name of an uploaded file."""

_NO_PARTS_IN_FRAMES: Final = (
    "parts of videos must be in seconds, got frame numbers without a frame rate: "
    "write a table with the header path,label,start,end, in seconds"
)

_LIMITS: Final = frozenset({"support", "timestamps"})
"""Keys of FiftyOne that limit a label to a part of the video."""


def read_label_studio(path: str, tasks: list[dict[str, Any]], root: str) -> Listing:
    """Read a JSON export of Label Studio: choices for a whole video, or labels with start and end in seconds.

    Canceled annotations and tasks without a label are skipped. Videos are searched by the path of the task,
    and then by name anywhere below `root`.

    Raises:
        InputError: A task has no video, several annotations with different labels, answers to several
            questions, or parts in frames.
    """
    rows: list[Row] = []
    unlabeled = 0
    for number, task in enumerate(tasks, 1):
        where = f"{path}, task {task.get('id', number)}"
        data = _object(task.get("data"))
        annotations = map(_object, _list(task.get("annotations") or task.get("completions")))
        done = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
        labeled = (
            _label_studio_rows(done[0], join(root, _label_studio_path(data, where)), where) if done else []
        )
        unlabeled += not labeled
        split, group = parse_split(data.get("split"), where), _text(data.get("group"))
        rows += [row._replace(split=split, group=group) for row in labeled]
        if any(_labels_of(other) != _labels_of(done[0]) for other in done[1:]):
            raise InputError(f"{where}: its {len(done)} annotations have different labels: keep one per task")
    notes = (f"{plural(unlabeled, 'task')} without a label skipped",) if unlabeled else ()
    rows = _resolve_missing(rows, root)
    return Listing(source=path, rows=rows, multi_label=_has_several(rows), notes=notes)


def _label_studio_path(data: Mapping[str, Any], where: str) -> str:
    """Return the path of the video of a task, without what the server adds to it."""
    texts = [str(value) for value in (data.get("video"), *data.values()) if isinstance(value, str)]
    for text in texts:
        try:
            url = urlsplit(text)
        except ValueError as error:
            raise InputError(f"{where}: {text[:80]!r} is not a URL: {error}") from error
        local = parse_qs(url.query).get("d")  # /data/local-files/?d=videos/a.mp4
        video = (
            local[0] if local else unquote(url.path) if url.scheme in ("http", "https", "s3", "gs") else text
        )
        if os.path.splitext(video)[1].lower() in VIDEO_SUFFIXES:
            return video if local or exists(video) else video.lstrip("/")
    raise InputError(
        f"{where}: the data of the task must have the path of a video, got {str(dict(data))[:80]}"
    )


def _label_studio_rows(annotation: Mapping[str, Any], video: str, where: str) -> list[Row]:
    whole: dict[str, list[str]] = {}
    rows = []
    for result in map(_object, _list(annotation.get("result"))):
        value = _object(result.get("value"))
        labels = value.get(str(result.get("type")))
        if "ranges" in value:
            raise InputError(f"{where}: {_NO_PARTS_IN_FRAMES}")
        if not isinstance(labels, list) or not labels:
            continue
        if isinstance(value.get("start"), int | float) and isinstance(value.get("end"), int | float):
            start, end = parse_seconds(value["start"], where), parse_seconds(value["end"], where)
            require_order(start, end, where)
            rows.append(Row(video, tuple(map(str, labels)), where, start, end))
        elif result.get("type") == "choices":
            whole.setdefault(str(result.get("from_name")), []).extend(map(str, labels))
    if len(whole) > 1:
        raise InputError(
            f"{where}: the task must answer one question, got several ({', '.join(whole)}): export one"
        )
    return rows + [Row(video, tuple(dict.fromkeys(labels)), where) for labels in whole.values()]


def _labels_of(annotation: Mapping[str, Any]) -> list[str]:
    """Return the labels with their times in a form that can be compared."""
    values = (_object(_object(result).get("value")) for result in _list(annotation.get("result")))
    return sorted(str(sorted((key, str(item)) for key, item in value.items())) for value in values)


def read_fiftyone_labels(path: str, content: Mapping[str, Any], root: str) -> Listing:
    """Read the labels.json of a classification or temporal detection export of FiftyOne.

    Raises:
        InputError: Labels are of objects in images, parts are in frames, or a label is invalid.
    """
    classes = _list(content.get("classes"))
    rows = []
    for name, target in content["labels"].items():
        where = f"{path}, video {name}"
        # Classification: a label or a list of labels. Temporal detection: a list of objects with a label.
        targets = target if isinstance(target, list) else [] if target is None else [target]
        if any(isinstance(t, dict) and "bounding_box" in t for t in targets):
            raise InputError(
                f"{where}: the labels must be of videos, got objects in images: export video labels"
            )
        whole = [t for t in targets if not isinstance(t, dict) or ("label" in t and not t.keys() & _LIMITS)]
        parts = [t for t in targets if t not in whole]
        names = tuple(_fiftyone_label(t, classes, where) for t in whole)
        rows += [Row(join(root, name), names, where)] if names else []
        for part in parts:
            if not isinstance(part.get("timestamps"), list) or len(part["timestamps"]) != 2:
                raise InputError(f"{where}: {_NO_PARTS_IN_FRAMES}, or export with use_timestamps=True")
            start, end = (parse_seconds(time, where) for time in part["timestamps"])
            require_order(start, end, where)
            rows.append(Row(join(root, name), (_fiftyone_label(part, classes, where),), where, start, end))
    unlabeled = sum(not target for target in content["labels"].values() if not isinstance(target, int))
    notes = (f"{plural(unlabeled, 'video')} without a label skipped",) if unlabeled else ()
    return Listing(
        source=path,
        rows=_resolve_missing(rows, root),
        classes=tuple(map(str, classes)) if classes else None,
        multi_label=_has_several(rows),
        notes=notes,
    )


def _fiftyone_label(target: Any, classes: list[Any], where: str) -> str:
    target = target.get("label") if isinstance(target, dict) else target
    if not isinstance(target, int | str):
        raise InputError(f"{where}: the label must be a name or a number, got {target!r}")
    if isinstance(target, int) and classes:
        if not 0 <= target < len(classes):
            raise InputError(f"{where}: the label must be from 0 to {len(classes) - 1}, got {target}")
        return str(classes[target])
    return str(target)


def read_fiftyone_samples(path: str, samples: list[dict[str, Any]], root: str) -> Listing:
    """Read the samples.json of a whole FiftyOne dataset: its one classification field; tags may be splits.

    Raises:
        InputError: A sample has no file path, an invalid label or parts in frames, or the samples have
            several classification fields.
    """
    rows: list[Row] = []
    fields: set[str] = set()
    for number, sample in enumerate(samples, 1):
        where = f"{path}, sample {number}"
        if not isinstance(sample, dict) or not isinstance(sample.get("filepath"), str):
            raise InputError(
                f"{where}: the sample must be an object with 'filepath', got {reprlib.repr(sample)}"
            )
        kinds = {key: value.get("_cls") for key, value in sample.items() if isinstance(value, dict)}
        if "TemporalDetections" in kinds.values():
            raise InputError(f"{where}: {_NO_PARTS_IN_FRAMES}")
        labels: tuple[str, ...] = ()
        for key in (key for key, kind in kinds.items() if kind in ("Classification", "Classifications")):
            fields.add(key)
            several = map(_object, _list(sample[key].get("classifications", [sample[key]])))
            found = [one["label"] for one in several if one.get("label")]
            if strange := [label for label in found if not isinstance(label, str)]:
                raise InputError(f"{where}: a label must be text, got {reprlib.repr(strange[0])}")
            labels = tuple(found)
        tags = [tag for tag in _list(sample.get("tags")) if str(tag).lower() in SPLIT_NAMES]
        split = parse_split(tags[0], where) if tags else None
        if labels:
            video = join(root, sample["filepath"])
            rows.append(Row(video, labels, where, split=split, group=_text(sample.get("group"))))
    if len(fields) > 1:
        raise InputError(
            f"{path}: the samples must have one label field, got {', '.join(sorted(fields))}: export one"
        )
    unlabeled = len(samples) - len(rows)
    notes = (f"{plural(unlabeled, 'sample')} without a label skipped",) if unlabeled else ()
    return Listing(
        source=path, rows=_resolve_missing(rows, root), multi_label=_has_several(rows), notes=notes
    )


def _resolve_missing(rows: list[Row], root: str) -> list[Row]:
    """Return the rows with videos that do not exist at their path found by name below `root`."""
    missing = [row for row in rows if not exists(row.path)]
    if not missing:
        return rows
    found = iter(resolve_path(missing, root, lambda name: (name, _UPLOAD_PREFIX.sub("", name))))
    return [row if exists(row.path) else next(found) for row in rows]


def _has_several(rows: list[Row]) -> bool:
    return any(len(row.labels) > 1 for row in rows)


def _object(value: Any) -> dict[str, Any]:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int) and str(value).strip() else None


def is_json(source: ListSource) -> bool:
    """Return whether the first line is that of a JSON list or object."""
    return re.match(r'\[\s*([{\]]|$)|\{\s*(["}]|$)', source.first_line) is not None


def read_json_list(source: ListSource) -> Listing:
    """Read the rows of any of these lists.

    Raises:
        InputError: The text is not valid JSON (with line and column), or it is none of these lists.
    """
    path, root = source.path, source.root
    content = _parse(path, source.text)
    if isinstance(content, dict):
        return _read_object(path, content, root)
    keys = {key for entry in content if isinstance(entry, dict) for key in entry}
    if not content or "template" in keys or keys == {"id"}:
        return _read_something(path, content, root)
    for number, entry in enumerate(content, 1):
        if not isinstance(entry, dict):
            raise InputError(f"{path}, entry {number}: an object is required, got {str(entry)[:80]}")
    if "data" in keys and keys & {"annotations", "completions"}:
        return read_label_studio(path, content, root)
    if not any(str(key).lower() in COLUMNS for key in keys):
        raise InputError(
            f"{path}: objects with a 'path' and a 'label' are required, got {first_few(sorted(keys), 10)}"
        )
    header = list(dict.fromkeys(key for entry in content for key in entry))
    records = [
        (f"{path}, entry {number}", [_cell(entry.get(key)) for key in header])
        for number, entry in enumerate(content, 1)
    ]
    listing = read_records(source, header, records)
    return Listing(
        source=path,
        rows=listing.rows,
        classes=_diving48_classes(dirname(path)) if "vid_name" in keys else None,
        multi_label=listing.multi_label,
        notes=listing.notes,
    )


def _parse(path: str, text: str) -> dict[str, Any] | list[Any]:
    """Parse one JSON document, or JSON lines as a list of objects."""
    lines = number_lines(text)
    if len(lines) > 1 and all(line[0] == "{" and line[-1] == "}" for _, line in lines[:2]):
        return [_json(path, line, number) for number, line in lines]
    if len(lines) == 1 and path.endswith("l"):
        return [_json(path, text, 1)]
    content: dict[str, Any] | list[Any] = _json(path, text, 1)
    return content


def _json(path: str, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(f"{path}, line {line}, column {error.colno}: {error.msg}") from error
    except ValueError as error:  # an integer with thousands of digits
        raise InputError(f"{path}, line {first_line}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}, line {first_line}: objects are nested too deeply") from error


def _cell(value: Any) -> Any:
    """Return the value as the cell of a table; Label Studio writes several choices as an object."""
    return value["choices"] if isinstance(value, dict) and isinstance(value.get("choices"), list) else value


def _read_object(path: str, content: dict[str, Any], root: str) -> Listing:
    if isinstance(content.get("database"), dict):
        return _read_activitynet(path, content["database"], root)
    if isinstance(content.get("labels"), dict):
        return read_fiftyone_labels(path, content, root)
    if isinstance(content.get("samples"), list):
        return read_fiftyone_samples(path, content["samples"], root)
    if {"categories", "annotations"} <= content.keys():
        raise InputError(f"{path}: the list must have labels of videos, got a COCO file of objects in images")
    raise InputError(
        f"{path}: the JSON must be a known list, got an object with the keys "
        f"{first_few(sorted(content), 5)}: write a list of objects with 'path' and 'label'"
    )


def _read_something(path: str, entries: list[Any], root: str) -> Listing:
    """Read a list of Something-Something v2: labels are templates without brackets, files are `<id>.webm`.

    The order of the classes is that of `labels.json` or `something-something-v2-labels.json` beside the list.
    """
    rows = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        for field in ("id", "template"):
            if not isinstance(entry, dict) or not isinstance(entry.get(field), str) or not entry[field]:
                raise InputError(
                    f"{where}: the entry must have a text {field!r}, got {str(entry)[:80]}; "
                    "the test list has no templates"
                )
        label = entry["template"].replace("[", "").replace("]", "").strip()
        rows.append(Row(join(root, f"{entry['id']}.webm"), (label,), where))
    return Listing(source=path, rows=resolve_path(rows, root), classes=_something_classes(dirname(path)))


def _something_classes(folder: str) -> tuple[str, ...] | None:
    """Read the class names in the order of their indices; None without a file of class names."""
    files = [join(folder, name) for name in ("labels.json", "something-something-v2-labels.json")]
    path = next(filter(exists, files), None)
    if path is None:
        return None
    numbers = _json(path, read_text(path), 1)
    if not isinstance(numbers, dict) or sorted(map(str, numbers.values())) != sorted(
        map(str, range(len(numbers)))
    ):
        raise InputError(
            f"{path}: the file must be an object of class names with the numbers 0, 1, 2, ..., each once, "
            f"got {reprlib.repr(numbers)}"
        )
    return tuple(sorted(numbers, key=lambda name: int(numbers[name])))


def _diving48_classes(folder: str) -> tuple[str, ...] | None:
    """Read the dives of `Diving48_vocab.json` in the order of their labels; None without that file."""
    path = join(folder, "Diving48_vocab.json")
    if not exists(path):
        return None
    names = _json(path, read_text(path), 1)
    if not isinstance(names, list) or not all(isinstance(name, list) for name in names):
        raise InputError(
            f"{path}: the file must be a list with a list of parts for each dive, got {reprlib.repr(names)}"
        )
    return tuple(" ".join(map(str, name)) for name in names)


def _read_activitynet(path: str, database: Mapping[str, Any], root: str) -> Listing:
    """Read the labeled parts of ActivityNet and THUMOS, whose videos are saved as `v_<id>` or `<id>`."""
    rows = []
    invalid = unlabeled = 0
    for name, video in database.items():
        where = f"{path}, video {name}"
        parts = video.get("annotations") if isinstance(video, dict) else None
        if not isinstance(parts, list):
            raise InputError(
                f"{where}: the video must be an object with a list 'annotations', got {reprlib.repr(video)}"
            )
        unlabeled += not parts
        split = parse_split(video.get("subset"), where)
        for part in parts:
            times = part.get("segment") if isinstance(part, dict) else None
            if not isinstance(times, list) or len(times) != 2 or "label" not in part:
                raise InputError(f"{where}: 'segment' with two times and 'label' are required, got {part}")
            start, end = (parse_seconds(time, where) or 0.0 for time in times)
            if start >= end:
                invalid += 1
                continue
            rows.append(Row(join(root, f"{name}.mp4"), (str(part["label"]),), where, start, end, split, name))
    notes = [f"{plural(unlabeled, 'video')} without a label skipped"] if unlabeled else []
    notes += [f"{plural(invalid, 'part')} skipped, because the end is not after the start"] if invalid else []
    rows = resolve_path(rows, root, lambda name: (name, f"v_{name}"))
    return Listing(source=path, rows=rows, notes=tuple(notes))
