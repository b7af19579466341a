"""The verbs of timm, and logits of single tokens."""

import pytest
import torch

from videoswin.model.config import BASE, BASE_W16, LARGE, NANO, SMALL, TINY, VideoSwinConfig
from videoswin.model.swin import VideoSwin

VARIANTS = {"T": TINY, "S": SMALL, "B": BASE, "B-w16": BASE_W16, "L": LARGE, "nano": NANO}


def shallow(config: VideoSwinConfig) -> VideoSwin:
    """A model of this variant with two blocks per stage and a quarter of the channels."""
    torch.manual_seed(0)
    small = config.replace(
        embed_dim=config.embed_dim // 4,
        depths=(2,) * len(config.depths),
        num_heads=tuple(max(1, heads // 4) for heads in config.num_heads),
        num_classes=7,
    )
    model = VideoSwin(small if config is not NANO else NANO).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(4, 32, 32), (3, 45, 30)])
def test_the_mean_of_token_logits_is_the_output_of_the_model(
    variant: str, size: tuple[int, int, int]
) -> None:
    model, clips = shallow(VARIANTS[variant]), torch.randn(2, 3, *size)
    with torch.no_grad():
        tokens, logits = model.token_logits(clips), model(clips)
        features = model.forward_features(clips)
    assert tokens.shape == (2, logits.shape[1], *features.shape[1:4])
    torch.testing.assert_close(tokens.mean((2, 3, 4)), logits, atol=1e-5, rtol=1e-5)


def test_token_logits_in_bfloat16_agree_to_its_rounding() -> None:
    model = shallow(TINY).bfloat16()
    with torch.no_grad():
        clips = torch.randn(1, 3, 4, 32, 32, dtype=torch.bfloat16)
        tokens, logits = model.token_logits(clips), model(clips)
    # 8 bits of mantissa, once for each token and once for the mean.
    torch.testing.assert_close(tokens.float().mean((2, 3, 4)), logits.float(), atol=0.05, rtol=0.02)


def test_the_model_is_its_head_after_its_features() -> None:
    model, clips = shallow(NANO), torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        features = model.forward_features(clips)
        assert torch.equal(model.forward_head(features), model(clips))
        pooled = model.forward_head(features, pre_logits=True)
        assert torch.equal(model.get_classifier()(pooled), model(clips))
    assert pooled.shape == (2, NANO.feature_dim)


def test_a_new_classifier_has_the_classes_that_were_asked_for() -> None:
    model, clips = shallow(NANO).half(), torch.randn(1, 3, 4, 32, 32)
    model.reset_classifier(3)
    assert model.config.num_classes == 3
    assert model.head.weight.dtype == torch.float16
    assert model.float()(clips).shape == (1, 3)


def test_grad_checkpointing_can_be_switched_after_construction() -> None:
    model = VideoSwin(NANO)
    model.set_grad_checkpointing()
    assert all(stage.grad_checkpointing for stage in model.stages)
    model.set_grad_checkpointing(False)
    assert not any(stage.grad_checkpointing for stage in model.stages)


def test_feature_info_describes_the_feature_maps() -> None:
    model = shallow(TINY)
    with torch.no_grad():
        maps = model.feature_maps(torch.randn(1, 3, 4, 64, 32))
    modules = dict(model.named_modules())
    for info, found in zip(model.feature_info, maps, strict=True):
        t, h, w = info["reduction"]
        assert found.shape == (1, info["num_chs"], 4 // t, 64 // h, 32 // w)
        assert info["module"] in modules
