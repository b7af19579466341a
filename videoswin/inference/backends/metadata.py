"""What every runtime gives for a file: its facts, and a function that runs it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

from torch import Tensor

from videoswin._errors import InputError
from videoswin.video.spec import ClipSpec, ViewPlan, require_affordable
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.metadata import parse_metadata, require_description, require_fields

ExportPrecision = Literal["fp32", "bf16", "int8"]

KEY: Final = "videoswin"
"""Under which the JSON lies in the file."""
VERSION: Final = 3
"""Files of a later version are refused."""


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """As the fields of Checkpoint, and the precision that the file computes in."""

    name: str
    precision: ExportPrecision
    clip: ClipSpec
    views: ViewPlan
    labels: tuple[str, ...] = field(repr=False)
    multi_label: bool
    license: str
    lineage: dict[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        if self.precision not in get_args(ExportPrecision):
            raise InputError(f"precision must be one of {get_args(ExportPrecision)}, got {self.precision!r}")
        require_description(
            name=self.name,
            labels=self.labels,
            multi_label=self.multi_label,
            license=self.license,
            lineage=self.lineage,
        )
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON gives lists
        require_affordable(self.clip, self.views)

    @classmethod
    def of(cls, checkpoint: Checkpoint, precision: ExportPrecision) -> ExportMetadata:
        """Those of a checkpoint that is about to be exported."""
        return cls(
            name=checkpoint.name,
            precision=precision,
            clip=checkpoint.clip,
            views=checkpoint.views,
            labels=checkpoint.labels,
            multi_label=checkpoint.multi_label,
            license=checkpoint.license,
            lineage=checkpoint.lineage,
        )

    def to_json(self) -> str:
        """One object; `from_json` gives equal facts back."""
        specs = {"clip": self.clip.to_dict(), "views": self.views.to_dict()}
        return json.dumps({"version": VERSION} | vars(self) | specs)

    @classmethod
    def from_json(cls, text: str | None, path: object) -> ExportMetadata:
        """The facts in the file at `path`; ValueError if it has none, or none that this package reads."""
        if not text:
            raise InputError(
                f"{path} does not say what it was trained on: was it made by `videoswin export`? "
                "Other files run in their own runtime only"
            )
        try:
            fields = parse_metadata(text, latest_version=VERSION)
            names = tuple(field.name for field in dataclasses.fields(cls))
            require_fields(fields, names)
            specs = {"clip": ClipSpec.from_dict(fields["clip"]), "views": ViewPlan.from_dict(fields["views"])}
            return cls(**({name: fields[name] for name in names} | specs))
        except InputError as error:
            raise InputError(f"{path} is an exported model that does not load: {error}") from error


class LoadedFile(NamedTuple):
    """An exported file, ready to run."""

    metadata: ExportMetadata
    run: Callable[[Tensor], Tensor]
    """uint8 (V, 3, T, S, S) -> logits (V, K)."""
