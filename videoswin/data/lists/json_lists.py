"""Lists in JSON: of data sets (Something-Something, Diving48, ActivityNet) and of annotation tools.

Label Studio, FiftyOne, and any list of flat objects with the keys of a table, one JSON document or one object
a line, such as the metadata.jsonl of Hugging Face.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from os.path import dirname, exists, join
from typing import Any, Final

from videoswin._errors import InputError
from videoswin._text import plural
from videoswin.data.lists.annotation_tools import (
    read_fiftyone_labels,
    read_fiftyone_samples,
    read_label_studio,
)
from videoswin.data.lists.find_by_name import located
from videoswin.data.lists.rows import Listing, Row, numbered_lines, read_text, seconds, split_name
from videoswin.data.lists.tables import COLUMNS, read_records

JSON_START: Final = re.compile(r'\[\s*([{\]]|$)|\{\s*(["}]|$)')
"""What the first line of a JSON list looks like."""


def read_json_list(path: str, text: str, root: str, classes: Collection[str]) -> Listing:
    """The rows of any of these lists; InputError naming what the JSON is, if it is none of them."""
    content = _parse(path, text)
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
            f"{path}: objects with a 'path' and a 'label' are required, got {', '.join(sorted(keys)[:10])}"
        )
    header = list(dict.fromkeys(key for entry in content for key in entry))
    records = [
        (f"{path}, entry {number}", [_cell(entry.get(key)) for key in header])
        for number, entry in enumerate(content, 1)
    ]
    listing = read_records(path, header, records, root, classes)
    return Listing(
        source=path,
        rows=listing.rows,
        classes=_diving48_classes(dirname(path)) if "vid_name" in keys else None,
        multi_label=listing.multi_label,
        notes=listing.notes,
    )


def _parse(path: str, text: str) -> dict[str, Any] | list[Any]:
    """One JSON document, or the list of the objects of JSON lines."""
    lines = numbered_lines(text)
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
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"{path}, line {first_line}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}, line {first_line}: objects are nested too deeply") from error


def _cell(value: Any) -> Any:
    """What a table would have in the cell: Label Studio puts several choices into an object."""
    return value["choices"] if isinstance(value, dict) and isinstance(value.get("choices"), list) else value


def _read_object(path: str, content: dict[str, Any], root: str) -> Listing:
    if isinstance(content.get("database"), dict):
        return _read_activitynet(path, content["database"], root)
    if isinstance(content.get("labels"), dict):
        return read_fiftyone_labels(path, content, root)
    if isinstance(content.get("samples"), list):
        return read_fiftyone_samples(path, content["samples"], root)
    if {"categories", "annotations"} <= content.keys():
        raise InputError(f"{path}: it is a COCO file of objects in pictures, which has no labels of videos")
    raise InputError(
        f"{path}: found a JSON object with the keys {', '.join(sorted(content)[:5])}, which is no "
        "known list: write a list of objects with 'path' and 'label'"
    )


def _read_something(path: str, entries: list[Any], root: str) -> Listing:
    """Something-Something v2: the label is the template without its brackets, the file `<id>.webm`.

    The order of the classes is that of `labels.json` or `something-something-v2-labels.json` beside the list.
    """
    rows = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}, entry {number}"
        for field in ("id", "template"):
            if not isinstance(entry, dict) or not isinstance(entry.get(field), str) or not entry[field]:
                raise InputError(
                    f"{where}: found no text {field!r} in {str(entry)[:80]}; the test list has no templates"
                )
        label = entry["template"].replace("[", "").replace("]", "").strip()
        rows.append(Row(join(root, f"{entry['id']}.webm"), (label,), where))
    return Listing(source=path, rows=located(rows, root), classes=_something_classes(dirname(path)))


def _something_classes(folder: str) -> tuple[str, ...] | None:
    """The names in the order of their numbers; None without a file of them."""
    files = [join(folder, name) for name in ("labels.json", "something-something-v2-labels.json")]
    path = next(filter(exists, files), None)
    if path is None:
        return None
    numbers = _json(path, read_text(path), 1)
    if not isinstance(numbers, dict) or sorted(map(str, numbers.values())) != sorted(
        map(str, range(len(numbers)))
    ):
        raise InputError(f"{path}: wanted an object of names with the numbers 0, 1, 2, ..., each once")
    return tuple(sorted(numbers, key=lambda name: int(numbers[name])))


def _diving48_classes(folder: str) -> tuple[str, ...] | None:
    """The dives of `Diving48_vocab.json`, whose places are the labels; None without that file."""
    path = join(folder, "Diving48_vocab.json")
    if not exists(path):
        return None
    names = _json(path, read_text(path), 1)
    if not isinstance(names, list) or not all(isinstance(name, list) for name in names):
        raise InputError(f"{path}: a list with the parts of each dive is required")
    return tuple(" ".join(map(str, name)) for name in names)


def _read_activitynet(path: str, database: Mapping[str, Any], root: str) -> Listing:
    """ActivityNet and THUMOS: the labeled parts of videos, which are saved as `v_<id>` or `<id>`."""
    rows = []
    odd = unlabeled = 0
    for name, video in database.items():
        where = f"{path}, video {name}"
        parts = video.get("annotations") if isinstance(video, dict) else None
        if not isinstance(parts, list):
            raise InputError(f"{where}: a list 'annotations' is required")
        unlabeled += not parts
        split = split_name(video.get("subset"), where)
        for part in parts:
            times = part.get("segment") if isinstance(part, dict) else None
            if not isinstance(times, list) or len(times) != 2 or "label" not in part:
                raise InputError(f"{where}: 'segment' with two times and 'label' are required, got {part}")
            start, end = (seconds(time, where) or 0.0 for time in times)
            if start >= end:
                odd += 1
                continue
            rows.append(Row(join(root, f"{name}.mp4"), (str(part["label"]),), where, start, end, split, name))
    notes = [f"{plural(unlabeled, 'video')} left out for lack of a label"] if unlabeled else []
    notes += [f"{plural(odd, 'part')} left out, as the end is before the beginning"] if odd else []
    rows = located(rows, root, lambda name: (name, f"v_{name}"))
    return Listing(source=path, rows=rows, notes=tuple(notes))
