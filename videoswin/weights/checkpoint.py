"""Checkpoint: weights together with everything needed to use them, in one .safetensors file.

Conversion, training, export and prediction exchange models as checkpoints only. The file has the Metadata as
JSON under the key `videoswin`, and tensors with the names of `VideoSwin(config).state_dict()`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin._files import replacing
from videoswin._text import first_few, printable
from videoswin.model.config import BASE, LARGE, PATCH, SMALL, TINY, VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.video.spec import ClipSpec, ViewPlan, apply_protocol
from videoswin.weights.catalog import CatalogEntry, guess_label_set, load_labels, numbered_labels
from videoswin.weights.convert import (
    Conversion,
    check_window,
    convert,
    describe_gaps,
    has_head,
    parameter_shapes,
    require_finite,
    require_floating_point,
)
from videoswin.weights.download import in_cache, locate
from videoswin.weights.inflate import Inflation, Window, resize_tables
from videoswin.weights.layouts import WRITERS
from videoswin.weights.metadata import KEY, UNKNOWN_LICENSE, Metadata, ModelPrecision
from videoswin.weights.unpickle import read_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint(Metadata):
    """Weights with their metadata: architecture, clip, views, labels, origin and license.

    Raises:
        InputError: The parts disagree, a name is not printable, or the views of one video are too large.

    Example:
        model = Checkpoint.load("tiny-k400").model()
    """

    weights: dict[str, Tensor] = field(repr=False)
    """All tensors by their name in our layout; without `head.*` for a backbone that has no classes yet."""
    config: VideoSwinConfig = field()
    """The architecture; `num_classes` has no meaning without a head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_floating_point(self.weights)
        if gaps := describe_gaps(self.weights, self.config):
            raise InputError(f"weights must match the config: {gaps}")
        if unknown := sorted(self.weights.keys() - parameter_shapes(self.config).keys()):
            raise InputError(f"weights must match the config, got unknown tensors {first_few(unknown)}")
        classes = self.config.num_classes if self.has_head else 0
        if len(self.labels) != classes:
            raise InputError(
                f"labels must have {classes} names, one for each class of the head, got {len(self.labels)}"
            )

    @property
    def has_head(self) -> bool:
        """Whether there is a classification head; False e.g. for an inflated image model."""
        return has_head(self.weights)

    @classmethod
    def load(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        inflation: Inflation = "average",
        window: Window | None = None,
        license: str | None = None,
    ) -> Checkpoint:
        """Load a published checkpoint, a bundled one, or a file in any known layout.

        Args:
            name_or_path: Catalog name (downloaded once), bundled name or file.
            inflation: See `from_state_dict`.
            window: See `from_state_dict`; it also resizes the bias tables of our own files.
            license: License of restricted weights, repeated to accept it: "CC-BY-NC-4.0".

        Raises:
            InputError: The name is unknown, the file is not a model, or a license has to be accepted.
            DownloadError: The download failed; it is an OSError.
        """
        path, entry = locate(os.fspath(name_or_path), license)
        try:
            contents, metadata = read_file(path)
        except ValueError as error:
            cure = "; remove it to download it again" if in_cache(path) else ""
            raise InputError(f"{error}{cure}") from error
        if KEY in metadata:
            checkpoint = cls._from_metadata(contents, metadata[KEY], path)
            return checkpoint.with_window(window) if window else checkpoint
        try:
            conversion = convert(contents, inflation=inflation, window=window)
            if entry is not None:
                _require_architecture(conversion.config, entry, path)
            return cls._from_conversion(conversion, name=printable(path.stem), source=str(path), entry=entry)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Any], *, inflation: Inflation = "average", window: Window | None = None
    ) -> Checkpoint:
        """Convert a state dict in any known layout, with or without the container it was saved in.

        `lineage["conversion"]` of the result accounts for every name of the state dict.

        Args:
            state_dict: Tensors by name, or what torch.load returned.
            inflation: Of an image model's 2D tensors: averaged over frames, or only in the center frame; see
                videoswin.weights.inflate. The classes of an image model are dropped: the checkpoint has no
                head.
            window: Attention window (time, height, width) in tokens. None keeps the file's window, or uses
                (8, M, M) for an image model's M x M. Another window resizes the bias tables. It is required
                if the length of a table fits several windows.

        Raises:
            InputError: Tensors of the backbone are missing (nothing is left randomly initialized), or the
                layout is unknown.
        """
        conversion = convert(state_dict, inflation=inflation, window=window)
        return cls._from_conversion(conversion, name="unnamed", source="a state dict", entry=None)

    def model(self, *, num_classes: int | None = None, **options: Any) -> VideoSwin:
        """Return the model in eval mode with these weights.

        Args:
            num_classes: Replace the head by a newly initialized one with this many classes, for fine-tuning;
                it uses torch's global random generator. Required for a checkpoint without a head.
            options: Passed to VideoSwin: drop_path, attention, ...
        """
        if num_classes is None and not self.has_head:
            raise InputError(
                f"num_classes must be set, because {self.name} is a backbone without a head; "
                "model(num_classes=...) adds an untrained one"
            )
        if num_classes is None:
            # The meta device avoids an initialization that would be overwritten.
            with torch.device("meta"):
                model = VideoSwin(self.config, **options)
            copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in self.weights.items()}
            model.load_state_dict(copies, assign=True)
            return model.eval()
        model = VideoSwin(self.config.replace(num_classes=num_classes), **options)
        _log.warning("the head with %d classes is newly initialized and has to be trained", num_classes)
        backbone = {name: tensor for name, tensor in self.weights.items() if not name.startswith("head.")}
        head = {f"head.{name}": tensor for name, tensor in model.head.state_dict().items()}
        model.load_state_dict(backbone | head)
        return model.eval()

    def with_window(self, window: Window) -> Checkpoint:
        """Return a checkpoint for another attention window; bias tables are resized (see resize_tables)."""
        window = check_window(window, self.config)
        if window == self.config.window:
            return self
        return dataclasses.replace(
            self,
            weights=resize_tables(self.weights, self.config.window, window),
            config=self.config.replace(window=window),
            lineage=self.lineage | {"window": f"tables resized from {self.config.window} to {window}"},
        )

    def to_state_dict(self, layout: str) -> dict[str, Tensor]:
        """Return the state dict, buffers included, for `official`, `mmaction2` or `torchvision` models."""
        if layout not in WRITERS:
            raise InputError(f"layout must be one of {', '.join(WRITERS)}, got {layout!r}")
        return WRITERS[layout](self.weights, self.config)

    def export_metadata(self, precision: ModelPrecision) -> Metadata:
        """Return the metadata of this model, without weights, for an exported file or a backend."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Metadata)}
        return Metadata(**(values | {"precision": precision}))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .safetensors file; an existing file is replaced only when the new one is complete."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise InputError(
                f"path must end in .safetensors, got {path}; for other layouts torch.save(to_state_dict(...))"
            )
        metadata = {KEY: self.to_json()}
        # Safetensors refuses tensors that share memory or are not contiguous.
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in self.weights.items()}
        with replacing(path) as partial:
            safetensors.torch.save_file(tensors, partial, metadata=metadata)

    @classmethod
    def _from_metadata(cls, weights: Mapping[str, Tensor], metadata: str, path: Path) -> Checkpoint:
        try:
            described = Metadata.from_json(metadata, "config")
            require_floating_point(weights)
            require_finite(weights)
            return cls(weights=dict(weights), **vars(described))
        except InputError as error:
            raise InputError(f"{path} is a videoswin checkpoint that does not load: {error}") from error

    @classmethod
    def _from_conversion(
        cls, conversion: Conversion, name: str, source: str, entry: CatalogEntry | None
    ) -> Checkpoint:
        for note in conversion.notes:
            _log.warning("%s: %s", source, note)
        lineage = {"source": source, "conversion": "; ".join((conversion.summary(), *conversion.notes))}
        labels, lineage["labels"] = _choose_labels(conversion, entry)
        if entry is None:
            license = conversion.license or UNKNOWN_LICENSE
            segments = lineage["labels"].startswith("something-v2")
            clip, views, lineage["clip"] = _assume_clip(conversion.config, segments=segments)
        else:
            name, license = entry.name, entry.license
            clip, views = entry.clip_and_views()
            identity = (
                f"verified, its SHA-256 starts with {entry.sha256}"
                if entry.sha256
                else "recognized by its file name, no hash is published"
            )
            lineage |= {"published as": entry.name, "identity": identity, "url": entry.url}
        return cls(
            weights=conversion.weights,
            config=conversion.config,
            clip=clip,
            views=views,
            labels=labels,
            lineage=lineage,
            license=license,
            name=name,
        )


def load_model(name_or_path: str | os.PathLike[str], *, license: str | None = None) -> VideoSwin:
    """Return the model of `Checkpoint.load(name_or_path)` in eval mode."""
    return Checkpoint.load(name_or_path, license=license).model()


def save_state_dict(state_dict: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write a state dict: as safetensors if `path` ends in .safetensors, else with torch.save."""
    path = Path(path)
    with replacing(path) as partial:
        if path.suffix == ".safetensors":
            # Other libraries expect the shared position index once per block.
            safetensors.torch.save_file(
                {name: tensor.clone() for name, tensor in state_dict.items()}, partial
            )
        else:
            # Given a path, torch hides system errors such as a full disk.
            with partial.open("wb") as file:
                torch.save(dict(state_dict), file)


def _require_architecture(config: VideoSwinConfig, entry: CatalogEntry, path: Path) -> None:
    """Raise InputError unless the config is that of the entry; most entries have no hash to check."""
    published = {"tiny": TINY, "small": SMALL, "base": BASE, "large": LARGE}[entry.architecture]
    sizes = ("embed_dim", "depths", "num_heads")
    if any(getattr(config, name) != getattr(published, name) for name in sizes):
        found = ", ".join(f"{name} {getattr(config, name)}" for name in sizes)
        raise InputError(
            f"{path} must be {entry.name}, a {entry.architecture} model, as its name says, got another "
            f"({found}); " + ("remove it to download it again" if in_cache(path) else "rename or remove it")
        )


def _choose_labels(conversion: Conversion, entry: CatalogEntry | None) -> tuple[tuple[str, ...], str]:
    """Return the labels and a description of their origin."""
    classes = conversion.config.num_classes
    if not has_head(conversion.weights):
        return (), "none: a backbone without a head"
    if entry is not None and entry.labels is not None and len(labels := load_labels(entry.labels)) == classes:
        return labels, f"{entry.labels}: published with the weights"
    if (guess := guess_label_set(classes)) is not None:
        return load_labels(guess), f"{guess}: inferred from the number of classes, {classes}"
    return numbered_labels(classes), "unknown: classes are numbered"


def _assume_clip(config: VideoSwinConfig, *, segments: bool) -> tuple[ClipSpec, ViewPlan, str]:
    """Return the clip and the views of published models of this architecture, and a description of them."""
    # At the size of training, the last stage's map is one window: 224 px for 7, 384 px for 12.
    size = config.window[1] * PATCH[1] * 2 ** (len(config.depths) - 1)
    protocol = "ssv2-1x3" if segments else "official-4x3"
    clip, views = apply_protocol(protocol, ClipSpec(size=size, short_side=size))
    return clip, views, f"assumed: {clip.frames} frames, stride {clip.stride}, {size} px, views of {protocol}"
