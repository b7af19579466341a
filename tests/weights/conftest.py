"""Fixtures: a small architecture with random weights for tests of files and formats."""

import pytest
import torch
from torch import Tensor

from videoswin.model.config import VideoSwinConfig
from videoswin.weights.convert import parameter_shapes

CONFIG = VideoSwinConfig(embed_dim=32, depths=(2, 2), num_heads=(1, 2), window=(4, 4, 4), num_classes=5)


@pytest.fixture
def config() -> VideoSwinConfig:
    return CONFIG


@pytest.fixture
def weights(config: VideoSwinConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in parameter_shapes(config).items()}
