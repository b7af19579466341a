"""List the bundled and the published models, and which of them are downloaded."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from videoswin.weights.catalog import ENTRIES
from videoswin.weights.checkpoint import BUNDLED, Checkpoint
from videoswin.weights.download import cached_file


def list_models() -> list[dict[str, Any]]:
    """Return one row per model, bundled models first; `file` is None if it is not downloaded.

    Every row has the same keys: the fields of CatalogEntry and `file`.
    """
    published = [_published(name) for name in ENTRIES]
    empty = dict.fromkeys(published[0])
    return [empty | _bundled(path.stem) for path in sorted(BUNDLED.glob("*.safetensors"))] + published


def _published(name: str) -> dict[str, Any]:
    entry = ENTRIES[name]
    file = cached_file(entry)
    return asdict(entry) | {"file": str(file) if file.is_file() else None}


def _bundled(name: str) -> dict[str, Any]:
    checkpoint = Checkpoint.load(name)
    file = BUNDLED / f"{name}.safetensors"
    return {
        "name": name,
        "layout": "videoswin",
        "window": checkpoint.config.window,
        "trained_on": checkpoint.lineage["trained on"],
        "labels": name,
        "license": checkpoint.license,
        "clip": checkpoint.clip.to_dict(),
        "scores": (),
        "size_mb": round(file.stat().st_size / 1e6),
        "file": str(file),
    }
