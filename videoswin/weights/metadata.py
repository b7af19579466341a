"""Metadata of a model file: untrusted JSON, whose types, ranges and lengths are checked before use.

Each function raises InputError for the first invalid value. VideoSwinConfig, ClipSpec and ViewPlan check
their own values; everything else is checked here.
"""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from videoswin._errors import InputError
from videoswin._text import is_printable_name
from videoswin.model.config import VideoSwinConfig
from videoswin.video.spec import from_fields

FIRST_VERSION_WITH_LICENSE: Final = 3
"""First version whose metadata has `license` and `normalization` instead of their British spellings."""
MAX_METADATA: Final = 1 << 24
"""Maximum length of the JSON in characters; the names of 100,000 classes take a third of it."""
MAX_NAME: Final = 2000
"""Maximum length in characters of a label, of a model's name and of a license."""


def parse_metadata(text: str, *, latest_version: int) -> dict[str, Any]:
    """Return the JSON object in `text`, whose `version` is an integer from 1 to `latest_version`."""
    if len(text) > MAX_METADATA:
        raise InputError(f"metadata must have at most {MAX_METADATA} characters, got {len(text)}")
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"metadata must be JSON: {error}") from error
    except RecursionError as error:
        raise InputError("metadata must be JSON of few levels, got too many nested levels") from error
    if not isinstance(fields, dict):
        raise InputError(f"metadata must be a JSON object, got {reprlib.repr(fields)}")
    version = fields.get("version")
    if type(version) is not int or version < 1:
        raise InputError(f"version must be an integer >= 1, got {reprlib.repr(version)}")
    if version > latest_version:
        raise InputError(
            f"version must be <= {latest_version}, got {version}; install a newer videoswin to read it"
        )
    return _with_current_names(fields) if version < FIRST_VERSION_WITH_LICENSE else fields


def _with_current_names(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a file older than version 3 with the two British names respelled."""
    clip = fields.get("clip")
    if isinstance(clip, dict):
        renamed = {
            "normalization" if name == "normalisation" else name: value for name, value in clip.items()
        }
        fields = {**fields, "clip": renamed}
    return {"license" if name == "licence" else name: value for name, value in fields.items()}


def parse_config(fields: Mapping[str, Any]) -> VideoSwinConfig:
    """Return the VideoSwinConfig of a JSON object; raise InputError if it is invalid."""
    try:
        return from_fields(VideoSwinConfig, fields)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"config: {error}") from error


def require_fields(fields: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise InputError unless there is a value for each of `names`."""
    if missing := [name for name in names if name not in fields]:
        raise InputError(f"metadata must have {', '.join(names)}; missing: {', '.join(missing)}")


def require_description(
    *, name: object, labels: object, multi_label: object, license: object, lineage: object
) -> None:
    """Raise InputError unless names are printable, labels are unique, and the lineage maps text to text.

    The lineage may contain any text, such as a command with a file name that cannot be printed.
    """
    _require_name("name", name)
    _require_name("license", license)
    if not isinstance(labels, (tuple, list)):
        raise InputError(f"labels must be a list of names, got {reprlib.repr(labels)}")
    for index, label in enumerate(labels):
        _require_name(f"label {index}", label)
    for label, count in Counter(labels).most_common(1):
        if count > 1:
            raise InputError(f"labels must be unique, got {reprlib.repr(label)} {count} times; rename them")
    if not isinstance(multi_label, bool):
        raise InputError(f"multi_label must be True or False, got {reprlib.repr(multi_label)}")
    if not isinstance(lineage, Mapping):
        raise InputError(f"lineage must map names to text, got {reprlib.repr(lineage)}")
    for key, value in lineage.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InputError(
                f"lineage must map names to text, got {reprlib.repr(key)}: {reprlib.repr(value)}"
            )


def _require_name(what: str, text: object) -> None:
    if not isinstance(text, str) or len(text) > MAX_NAME or not is_printable_name(text):
        raise InputError(
            f"{what} must be printable text of 1 to {MAX_NAME} characters, without control or invisible "
            f"characters, got {reprlib.repr(text)}"
        )


def _refuse_constant(name: str) -> NoReturn:
    raise InputError(f"metadata must have finite numbers, got {name}")
