"""PixelModel equals normalization and the model, at every size and precision."""

import copy

import pytest
import torch

from videoswin.inference.backends.pytorch import PixelModel
from videoswin.model.config import NANO
from videoswin.model.swin import VideoSwin
from videoswin.video.spec import IMAGENET, PER_CLIP, Normalization
from videoswin.video.views import normalize

UNEVEN = Normalization(mean=(0.1, 0.5, 0.9), std=(0.05, 0.25, 1.0))


@pytest.fixture(scope="module")
def model() -> VideoSwin:
    torch.manual_seed(0)
    return VideoSwin(NANO).eval()


@pytest.mark.parametrize("normalization", [IMAGENET, UNEVEN, PER_CLIP])
@pytest.mark.parametrize("size", [(8, 32, 32), (7, 33, 30)], ids=["whole tokens", "padded"])
@torch.no_grad()
def test_logits_are_those_of_normalized_clips(
    model: VideoSwin, normalization: Normalization, size: tuple[int, int, int]
) -> None:
    pixels = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
    expected = model(normalize(pixels, normalization))
    ours = PixelModel(model, normalization)(pixels)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_bfloat16_loses_no_more_than_on_normalized_clips(model: VideoSwin) -> None:
    pixels = torch.randint(256, (8, 3, 8, 32, 32), dtype=torch.uint8)
    exact = model(normalize(pixels, IMAGENET))
    half = copy.deepcopy(model).bfloat16()
    theirs = (half(normalize(pixels, IMAGENET).bfloat16()) - exact).abs().mean()
    ours = (PixelModel(half, IMAGENET)(pixels) - exact).abs().mean()
    assert ours < 1.5 * theirs


@torch.no_grad()
def test_hooks_of_the_model_and_of_its_embedding_are_called(model: VideoSwin) -> None:
    pixels = torch.randint(256, (1, 3, 8, 32, 32), dtype=torch.uint8)
    expected = PixelModel(model, IMAGENET)(pixels)
    for module in (model, model.patch_embed):
        seen: list[torch.Size] = []
        hook = module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape))
        ours = PixelModel(model, IMAGENET)(pixels)
        hook.remove()
        assert seen == [pixels.shape]
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_model_itself_is_left_as_it_was(model: VideoSwin) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    PixelModel(model, IMAGENET)(torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_parts_of_the_model_stay_in_their_mode(model: VideoSwin) -> None:
    partly_frozen = copy.deepcopy(model).train()
    partly_frozen.stages[0].eval()
    modes = {name: module.training for name, module in partly_frozen.named_modules()}
    assert PixelModel(partly_frozen, IMAGENET).training
    assert {name: module.training for name, module in partly_frozen.named_modules()} == modes


@pytest.mark.parametrize("size", [(8, 32, 32), (7, 33, 30)], ids=["whole tokens", "padded"])
@torch.no_grad()
def test_no_number_is_copied_from_python_while_a_graph_may_be_captured(
    model: VideoSwin, size: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = PixelModel(model, IMAGENET)
    pixels = torch.randint(256, (1, 3, *size), dtype=torch.uint8)
    ours(pixels)  # what is made once, as window geometry, is made before a graph is captured

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a copy from Python")

    monkeypatch.setattr(torch, "tensor", refuse)
    monkeypatch.setattr(torch.Tensor, "new_tensor", refuse)
    assert ours(pixels).isfinite().all()


@torch.no_grad()
def test_the_patch_embedding_is_read_once_and_all_other_weights_at_every_call(model: VideoSwin) -> None:
    changing = copy.deepcopy(model)
    ours = PixelModel(changing, IMAGENET)
    pixels = torch.randint(256, (1, 3, 8, 32, 32), dtype=torch.uint8)
    before = ours(pixels)
    torch.nn.init.normal_(changing.head.weight)
    torch.testing.assert_close(ours(pixels), changing(normalize(pixels, IMAGENET)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, ours(pixels))
    torch.nn.init.normal_(changing.patch_embed.proj.weight)
    again = PixelModel(changing, IMAGENET)
    torch.testing.assert_close(again(pixels), changing(normalize(pixels, IMAGENET)), rtol=1e-4, atol=1e-4)
