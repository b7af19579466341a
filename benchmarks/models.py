"""Write the table of models in README.md from the catalog, the architectures and results/scaling_cpu.json."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tables import Figures, table
from tests.model.reference import plain_attention
from videoswin.model.config import BASE, LARGE, SMALL, TINY, VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.weights.catalog import ENTRIES, LABEL_SETS, CatalogEntry
from videoswin.weights.checkpoint import Checkpoint

CONFIGS = {"tiny": TINY, "small": SMALL, "base": BASE, "large": LARGE}
MEASURED = {TINY: "videoswin t", SMALL: "videoswin s", BASE: "videoswin b"}
"""Systems of scaling_cpu.json by architecture."""
BUNDLED = "camera-motion"
HEADS = "model | trained on | parameters | GFLOPs | top-1 | protocol | CPU s | license"


def models_table(scaling: Figures | None) -> str:
    """Return the Markdown table of the models that predict: bundled first, then in the order of the catalog.

    Args:
        scaling: Contents of results/scaling_cpu.json; without it the column of seconds is empty.
    """
    return table(HEADS, "llrrrlrl", [_bundled_row(), *_published_rows(scaling)])


def listed_entries() -> Iterator[CatalogEntry]:
    """Yield the entries with a published score, without other copies of the same weights."""
    seen = set()
    for entry in ENTRIES.values():
        key = (entry.architecture, entry.window, entry.trained_on, entry.scores[:1])
        if entry.scores and key not in seen:
            seen.add(key)
            yield entry


def _bundled_row() -> tuple[str, ...]:
    checkpoint = Checkpoint.load(BUNDLED)
    parameters, giga_macs = _size(checkpoint.config, checkpoint.clip.frames, checkpoint.clip.size)
    measured = "[measured](docs/camera-motion.md)"
    return f"`{BUNDLED}`", "synthetic clips", parameters, giga_macs, measured, "", "", checkpoint.license


def _published_rows(scaling: Figures | None) -> Iterator[tuple[str, ...]]:
    for entry in listed_entries():
        assert entry.labels is not None
        config = CONFIGS[entry.architecture].replace(window=entry.window)
        parameters, giga_macs = _size(
            config.replace(num_classes=LABEL_SETS[entry.labels]), entry.clip.frames, entry.clip.size
        )
        score = entry.scores[0]
        yield (
            f"`{entry.name}`",
            entry.trained_on,
            parameters,
            giga_macs,
            str(score.top1),
            f"`{score.protocol}`",
            _seconds(config, entry.clip.frames, entry.clip.size, scaling),
            entry.license,
        )


@cache
def _size(config: VideoSwinConfig, frames: int, size: int) -> tuple[str, str]:
    """Return parameters and multiply-adds of one view; padded windows count in full, as in the papers."""
    with torch.device("meta"):
        # All blocks of a stage cost the same: run one and multiply by the number of blocks.
        model = VideoSwin(config.replace(depths=(1,) * len(config.depths)), attention=plain_attention)
        parameters = sum(parameter.numel() for parameter in VideoSwin(config).parameters())
        clip = torch.empty(1, 3, frames, size, size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(clip)
    by_module = counter.get_flop_counts()
    flops = counter.get_total_flops()
    for stage, depth in enumerate(config.depths):
        flops += (depth - 1) * sum(by_module[f"VideoSwin.stages.{stage}.blocks.0"].values())
    giga_macs = flops / 2e9
    return f"{parameters / 1e6:.1f} M", f"{giga_macs:.0f}" if giga_macs >= 1 else f"{giga_macs:.1f}"


def _seconds(config: VideoSwinConfig, frames: int, size: int, scaling: Figures | None) -> str:
    """Return the measured seconds of one view, if this architecture was measured."""
    system = MEASURED.get(config)
    for row in scaling["rows"] if scaling and system else ():
        if (row["frames"], row["size"]) == (frames, size) and system in row:
            return f"{row[system]['seconds']:.1f}"
    return ""
