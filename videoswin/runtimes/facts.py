"""What an exported file says of itself: everything about a checkpoint but its weights, as JSON."""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from videoswin._errors import InputError
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.weights.checkpoint import Checkpoint

ExportPrecision = Literal["float32", "bfloat16", "int8"]

KEY: Final = "videoswin"
"""Under which the JSON lies in the file."""
VERSION: Final = 1
"""Files of a later version are refused."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """As the fields of Checkpoint, and the precision that the file computes in."""

    name: str
    precision: ExportPrecision
    clip: ClipSpec
    views: ViewPlan
    labels: tuple[str, ...] = field(repr=False)
    multi_label: bool
    licence: str
    lineage: dict[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        if self.precision not in get_args(ExportPrecision):
            raise InputError(f"precision must be one of {get_args(ExportPrecision)}, got {self.precision!r}")
        if not isinstance(self.multi_label, bool):
            raise InputError(f"multi_label must be true or false, got {self.multi_label!r}")
        if isinstance(self.labels, str) or not all(isinstance(text, str) for text in self.labels):
            raise InputError(f"labels must be a list of names, got {reprlib.repr(self.labels)}")
        if not isinstance(self.name, str) or not isinstance(self.licence, str):
            raise InputError(f"name and licence must be text, got {self.name!r} and {self.licence!r}")
        if not isinstance(self.lineage, dict) or not all(isinstance(v, str) for v in self.lineage.values()):
            raise InputError(f"lineage must map names to text, got {reprlib.repr(self.lineage)}")
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON gives lists

    @classmethod
    def of(cls, checkpoint: Checkpoint, precision: ExportPrecision) -> Facts:
        """Those of a checkpoint that is about to be exported."""
        return cls(
            name=checkpoint.name,
            precision=precision,
            clip=checkpoint.clip,
            views=checkpoint.views,
            labels=checkpoint.labels,
            multi_label=checkpoint.multi_label,
            licence=checkpoint.licence,
            lineage=checkpoint.lineage,
        )

    def to_json(self) -> str:
        """One object; `from_json` gives equal facts back."""
        specs = {"clip": self.clip.to_dict(), "views": self.views.to_dict()}
        return json.dumps({"version": VERSION} | vars(self) | specs)

    @classmethod
    def from_json(cls, text: str | None, path: object) -> Facts:
        """The facts in the file at `path`; ValueError if it has none, or none that this package reads."""
        if not text:
            raise InputError(
                f"{path} does not say what it was trained on: was it made by `videoswin export`? "
                "Other files run in their own runtime only"
            )
        try:
            fields = json.loads(text)
            version = fields.pop("version")
            if version > VERSION:
                raise InputError(f"it has version {version}, this package reads up to {VERSION}; upgrade it")
            clip, views = ClipSpec.from_dict(fields.pop("clip")), ViewPlan.from_dict(fields.pop("views"))
            return cls(clip=clip, views=views, **fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"{path} is an exported model that does not load: {error}") from error
