"""Metadata: the description of a model that checkpoints and exported files store as one JSON object.

The JSON is untrusted: types, ranges and lengths are checked before use, and the first invalid value raises
InputError. VideoSwinConfig, ClipSpec and ViewPlan check their own values; everything else is checked here.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn, get_args

from videoswin._errors import InputError
from videoswin._text import is_printable_name
from videoswin.model.config import VideoSwinConfig
from videoswin.video.spec import PROTOCOLS, ClipSpec, ViewPlan, from_fields, require_affordable

ExportPrecision = Literal["fp32", "bf16", "int8"]
"""Precision of an exported file."""
ModelPrecision = Literal[ExportPrecision, "fp16"]
"""Precision of a model in any runtime."""

KEY: Final = "videoswin"
"""Key of the JSON in the metadata of a file."""
VERSION: Final = 3
"""Version of the JSON that is written. Versions 1 and 2 can also be read, later ones are refused."""
FIRST_VERSION_WITH_LICENSE: Final = 3
"""First version whose metadata has `license` and `normalization` instead of their British spellings."""
MAX_METADATA: Final = 1 << 24
"""Maximum length of the JSON in characters; the names of 100,000 classes take a third of it."""
MAX_NAME: Final = 2000
"""Maximum length in characters of a label, of a model's name and of a license."""
UNKNOWN_LICENSE: Final = "unknown: ask the source of the file"


@dataclass(frozen=True, kw_only=True, eq=False)
class Metadata:
    """Everything that is needed to use a model, except its weights.

    Raises:
        InputError: A value is invalid, or the views of one video are too large.
    """

    clip: ClipSpec
    """The clips that the model was trained on."""
    views: ViewPlan
    """The default views of a video."""
    protocol: str = ""
    """Name of the protocol with this clip and these views; replaced where it does not fit them, as after
    `dataclasses.replace(metadata, views=...)`."""
    labels: tuple[str, ...] = field(repr=False)
    """Names of the classes in the order of the logits; empty without a head."""
    multi_label: bool = False
    """True if a video can show several classes: each logit then gets a sigmoid instead of the softmax."""
    lineage: dict[str, str] = field(default_factory=dict, repr=False)
    """Origin of the weights as free text: source, command, summary of the conversion."""
    license: str = UNKNOWN_LICENSE
    """License of the weights, as an SPDX name where there is one."""
    name: str = "unnamed"
    """Name of the model, for people."""
    config: VideoSwinConfig | None = None
    """The architecture; None in files that were exported without it."""
    precision: ModelPrecision = "fp32"
    """Precision in which an exported file or a backend computes; the model of a checkpoint has fp32."""

    def __post_init__(self) -> None:
        require_description(
            name=self.name,
            labels=self.labels,
            multi_label=self.multi_label,
            license=self.license,
            lineage=self.lineage,
        )
        if self.precision not in get_args(ModelPrecision):
            raise InputError(f"precision must be one of {get_args(ModelPrecision)}, got {self.precision!r}")
        require_affordable(self.clip, self.views)
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON has no tuples
        object.__setattr__(self, "protocol", _protocol_name(self.protocol, self.clip, self.views))

    def to_json(self) -> str:
        """Return the metadata as one JSON object; `from_json` is the inverse."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Metadata)}
        for name in ("clip", "views", "config"):
            values[name] = None if values[name] is None else values[name].to_dict()
        written = {name: value for name, value in values.items() if value is not None}
        text = json.dumps({"version": VERSION} | written)
        if len(text) > MAX_METADATA:
            raise InputError(
                f"metadata must have at most {MAX_METADATA} characters, got {len(text)}; shorten the lineage"
            )
        return text

    @classmethod
    def from_json(cls, text: str, *also_required: str) -> Metadata:
        """Return the Metadata of a JSON object; its unknown fields are ignored.

        Args:
            text: What `to_json` of this or an earlier version returned.
            also_required: Optional fields that this kind of file must have: `config` or `precision`.

        Raises:
            InputError: The text is no metadata, a field is missing, or a value is invalid.
        """
        known = {field.name for field in dataclasses.fields(Metadata)}
        fields = {name: value for name, value in _parse(text).items() if name in known}
        required = ("clip", "views", "labels", "lineage", "license", "name", *also_required)
        if missing := [name for name in required if fields.get(name) is None]:
            raise InputError(f"metadata must have {', '.join(required)}; missing: {', '.join(missing)}")
        specs = {"clip": ClipSpec.from_dict(fields["clip"]), "views": ViewPlan.from_dict(fields["views"])}
        config = _parse_config(fields.get("config"))
        return Metadata(**(fields | specs | {"config": config}))

    @classmethod
    def of_exported_file(cls, text: str | None, path: object) -> Metadata:
        """Return the metadata of the exported file at `path`.

        Raises:
            InputError: There is no metadata, or it is invalid.
        """
        if not text:
            raise InputError(
                f"{path} must have the metadata of videoswin, got none; only files written by "
                "`videoswin export` can be loaded"
            )
        try:
            metadata = cls.from_json(text, "precision")
            if metadata.precision not in get_args(ExportPrecision):
                raise InputError(
                    f"precision must be one of {get_args(ExportPrecision)}, got {metadata.precision!r}"
                )
            return metadata
        except InputError as error:
            raise InputError(f"{path} is an exported model that does not load: {error}") from error


def _protocol_name(stored: object, clip: ClipSpec, views: ViewPlan) -> str:
    """Return the name of the protocol with this clip and these views, or else clips x crops.

    It is `stored`, except in files written before protocols were stored and after a change of the views.
    """
    if not isinstance(stored, str):
        raise InputError(f"protocol must be text, got {reprlib.repr(stored)}")
    for name in (stored, *PROTOCOLS):
        if name in PROTOCOLS and _follows(name, clip, views):
            return name
    return views.name


def _follows(protocol: str, clip: ClipSpec, views: ViewPlan) -> bool:
    try:
        return PROTOCOLS[protocol](clip) == (clip, views)
    except InputError:  # this protocol cannot be used for such clips
        return False


def _parse(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`, whose `version` is an integer from 1 to VERSION."""
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
    if version > VERSION:
        raise InputError(f"version must be <= {VERSION}, got {version}; install a newer videoswin to read it")
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


def _parse_config(fields: Any) -> VideoSwinConfig | None:
    try:
        return None if fields is None else from_fields(VideoSwinConfig, fields)
    except InputError:
        raise
    except ValueError as error:  # VideoSwinConfig raises no InputError
        raise InputError(f"config: {error}") from error


def require_description(
    *, name: object, labels: object, multi_label: object, license: object, lineage: object
) -> None:
    """Raise InputError unless names are printable, labels are unique, and the lineage maps text to text.

    The lineage may contain any text, such as a command with a file name that cannot be printed.

    Args:
        name: Name of the model.
        labels: Names of the classes.
        multi_label: True or False.
        license: License of the weights.
        lineage: Origin of the weights.
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
