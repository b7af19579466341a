"""ExportMetadata, the metadata of an exported file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from videoswin._errors import InputError
from videoswin.video.spec import ClipSpec, ViewPlan, require_affordable
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.metadata import parse_metadata, require_description, require_fields

ExportPrecision = Literal["fp32", "bf16", "int8"]

KEY: Final = "videoswin"
"""Key of the JSON in the file's metadata."""
VERSION: Final = 3
"""Version of the metadata; files of a later version are refused."""


@dataclass(frozen=True, kw_only=True)
class ExportMetadata:
    """Metadata of an exported file: the fields of Checkpoint without weights and config, and the precision.

    Raises:
        InputError: A value is invalid, or the views of one video are too large.
    """

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
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON has no tuples
        require_affordable(self.clip, self.views)

    @classmethod
    def of(cls, checkpoint: Checkpoint, precision: ExportPrecision) -> ExportMetadata:
        """Return the metadata of a checkpoint that is exported in this precision."""
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
        """Return the metadata as one JSON object; `from_json` is the inverse."""
        specs = {"clip": self.clip.to_dict(), "views": self.views.to_dict()}
        return json.dumps({"version": VERSION} | vars(self) | specs)

    @classmethod
    def from_json(cls, text: str | None, path: object) -> ExportMetadata:
        """Parse the metadata of the file at `path`.

        Raises:
            InputError: There is no metadata, or it is invalid.
        """
        if not text:
            raise InputError(
                f"{path} must have the metadata of videoswin, got none; only files written by "
                "`videoswin export` can be loaded"
            )
        try:
            fields = parse_metadata(text, latest_version=VERSION)
            names = tuple(field.name for field in dataclasses.fields(cls))
            require_fields(fields, names)
            specs = {"clip": ClipSpec.from_dict(fields["clip"]), "views": ViewPlan.from_dict(fields["views"])}
            return cls(**({name: fields[name] for name in names} | specs))
        except InputError as error:
            raise InputError(f"{path} is an exported model that does not load: {error}") from error
