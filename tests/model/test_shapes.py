"""Shape after each stage for each config and input size."""

import pytest
import torch

from videoswin.model.config import NANO, TINY, VideoSwinConfig
from videoswin.model.swin import VideoSwin

ODD = VideoSwinConfig(embed_dim=6, depths=(1, 2), num_heads=(2, 3), window=(3, 2, 5), num_classes=4)
ONE_STAGE = ODD.replace(depths=(2,), num_heads=(3,))

SHAPES = [
    # config, (T, H, W), [(C, T', H', W') after each stage]
    (TINY, (4, 64, 32), [(96, 2, 16, 8), (192, 2, 8, 4), (384, 2, 4, 2), (768, 2, 2, 1)]),
    (TINY, (1, 1, 1), [(96, 1, 1, 1), (192, 1, 1, 1), (384, 1, 1, 1), (768, 1, 1, 1)]),
    (TINY, (7, 97, 61), [(96, 4, 25, 16), (192, 4, 13, 8), (384, 4, 7, 4), (768, 4, 4, 2)]),
    (NANO, (8, 64, 64), [(32, 4, 16, 16), (64, 4, 8, 8), (128, 4, 4, 4)]),
    (NANO, (19, 33, 70), [(32, 10, 9, 18), (64, 10, 5, 9), (128, 10, 3, 5)]),
    (ODD, (9, 5, 200), [(6, 5, 2, 50), (12, 5, 1, 25)]),
    (ONE_STAGE, (2, 4, 4), [(6, 1, 1, 1)]),
]


@torch.inference_mode()
@pytest.mark.parametrize(("config", "size", "maps"), SHAPES)
def test_shapes_of_logits_and_feature_maps(
    config: VideoSwinConfig, size: tuple[int, int, int], maps: list[tuple[int, ...]]
) -> None:
    model = VideoSwin(config).eval()
    clips = torch.randn(2, 3, *size)
    assert model(clips).shape == (2, config.num_classes)
    assert [tuple(m.shape) for m in model.feature_maps(clips)] == [(2, *shape) for shape in maps]
    assert [config.stage_dim(stage) for stage in range(len(maps))] == [shape[0] for shape in maps]
    assert config.feature_dim == maps[-1][0]


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("height", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("width", [3, 64])
def test_any_size_is_rounded_up_to_whole_tokens(frames: int, height: int, width: int) -> None:
    model = VideoSwin(NANO).eval()
    first = model.feature_maps(torch.zeros(1, 3, frames, height, width))[0]
    assert tuple(first.shape[2:]) == (-(-frames // 2), -(-height // 4), -(-width // 4))


@torch.inference_mode()
@pytest.mark.parametrize("in_channels", [1, 2, 3, 4])
def test_one_to_four_input_channels(in_channels: int) -> None:
    model = VideoSwin(NANO.replace(in_channels=in_channels)).eval()
    assert model(torch.randn(1, in_channels, 2, 16, 16)).shape == (1, 9)


@torch.inference_mode()
def test_logits_are_the_head_of_the_mean_of_the_last_map() -> None:
    model = VideoSwin(NANO).eval()
    clips = torch.randn(2, 3, 5, 30, 30)
    torch.testing.assert_close(model(clips), model.head(model.feature_maps(clips)[-1].mean((2, 3, 4))))


@torch.inference_mode()
def test_a_clip_does_not_feel_the_others_of_its_batch() -> None:
    model = VideoSwin(NANO).eval()
    clips = torch.randn(3, 3, 5, 30, 30)
    torch.testing.assert_close(model(clips), torch.cat([model(clip[None]) for clip in clips]))
