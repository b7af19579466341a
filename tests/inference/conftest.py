"""One small checkpoint, and one file of each format exported from it, for all tests of inference."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from videoswin.camera_motion.clips import write_h264
from videoswin.inference.export import Comparison, export_model
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.video.spec import PER_CLIP, ClipSpec, ViewPlan
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.metadata import ExportPrecision

CONFIG = VideoSwinConfig(embed_dim=16, depths=(1, 2), num_heads=(1, 2), window=(2, 4, 8), num_classes=3)
WHOLE = ClipSpec(frames=4, stride=1, size=40, short_side=40)
"""Grids of 2 x 10 x 10 and 2 x 5 x 5 tokens: whole tokens, padded windows, an odd grid after merging, shifted
windows in the second stage. Only the height is divided there, because every shape of window takes time."""
PADDED = ClipSpec(frames=5, stride=1, size=34, short_side=34, normalization=PER_CLIP)
"""Incomplete tokens, incomplete windows, an odd grid to merge."""

Export = Callable[[Checkpoint, str, ExportPrecision], tuple[Path, Comparison]]


def checkpoint_for(clip: ClipSpec) -> Checkpoint:
    torch.manual_seed(0)
    model = VideoSwin(CONFIG)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if name.endswith(("bias_table", "bias")) else 0.1)
    return Checkpoint(
        weights=model.state_dict(),
        config=CONFIG,
        clip=clip,
        views=ViewPlan(clips=2, crops=3),
        labels=("walk", "run", "sit"),
        name="random",
        license="MIT",
    )


def film_thwc(frames: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(1, 3, 4, 5, 7, generator=torch.Generator().manual_seed(seed))
    frames_cthw = torch.nn.functional.interpolate(coarse, size=(frames, 48, 64), mode="trilinear")[0]
    return (frames_cthw * 255).byte().permute(1, 2, 3, 0)


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return checkpoint_for(WHOLE)


@pytest.fixture(scope="session")
def padded() -> Checkpoint:
    return checkpoint_for(PADDED)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_h264(folder / f"{number}.mp4", film_thwc(20, number), fps=10, crf=23)
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, videos: list[str]) -> Export:
    """Exports a checkpoint, once for each suffix and precision."""
    files: dict[tuple[Checkpoint, str, ExportPrecision], tuple[Path, Comparison]] = {}

    def export(checkpoint: Checkpoint, suffix: str, precision: ExportPrecision) -> tuple[Path, Comparison]:
        key = (checkpoint, suffix, precision)
        if key not in files:
            path = tmp_path_factory.mktemp("exported") / f"model{suffix}"
            level = logging.getLogger().level
            files[key] = path, export_model(checkpoint, path, precision=precision, videos=videos)
            assert logging.getLogger().level == level, "an export must not change the logging of its program"
        return files[key]

    return export
