"""VideoSwin as a module: initialization, training-only behavior, copies, and invalid input."""

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videoswin.model.config import NANO, TINY
from videoswin.model.swin import Block, StageNorms, VideoSwin, freeze_stages, initialize
from videoswin.model.windows import _cached_geometry

CLIP_SHAPE = (2, 3, 6, 40, 36)  # shifted, padded and clipped windows all occur


@pytest.fixture
def clips() -> Tensor:
    return torch.randn(CLIP_SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> VideoSwin:
    torch.manual_seed(0)
    return VideoSwin(NANO).eval()


def gradients(model: nn.Module, clips: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(clips).square().sum().backward()
    return {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }


# Initialization


def test_initial_weights_have_the_statistics_that_the_docstring_promises() -> None:
    torch.manual_seed(0)
    for name, parameter in VideoSwin(TINY).state_dict().items():
        if name.startswith("patch_embed.proj"):
            bound = 1 / math.sqrt(3 * 2 * 4 * 4)  # torch's default for convolutions
            assert parameter.abs().max() <= bound
            assert parameter.std() == pytest.approx(bound / math.sqrt(3), rel=0.15)
        elif "norm" in name:
            assert torch.all(parameter == (1.0 if name.endswith("weight") else 0.0))
        elif name.endswith("bias"):
            assert torch.all(parameter == 0)
        else:
            assert parameter.std() == pytest.approx(0.01 if name == "head.weight" else 0.02, rel=0.05)
            assert abs(parameter.mean()) < 0.001


def test_initialize_starts_a_model_over() -> None:
    model = VideoSwin(NANO)
    nn.init.constant_(model.head.weight, 7.0)
    torch.manual_seed(3)
    initialize(model)
    assert model.head.weight.abs().max() < 0.1


def test_the_same_seed_makes_the_same_model() -> None:
    torch.manual_seed(5)
    one = VideoSwin(NANO).state_dict()
    torch.manual_seed(5)
    other = VideoSwin(NANO).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_state_dict_holds_parameters_only(model: VideoSwin) -> None:
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert not list(model.buffers())


# What happens only in training


def test_drop_path_rises_linearly_over_the_blocks() -> None:
    model = VideoSwin(NANO, drop_path=0.5)
    rates = [block.drop_path for stage in model.stages for block in stage.blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_drop_path_skips_whole_clips_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    block = _block(drop_path=0.25)
    dropped = block._drop_path(torch.ones(4000, 1, 2, 2, 3))
    assert torch.equal(dropped, dropped[:, :1, :1, :1, :1].expand_as(dropped))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean() == pytest.approx(1.0, abs=0.03)


def test_drop_path_and_dropout_act_in_training_only(clips: Tensor) -> None:
    torch.manual_seed(0)
    model = VideoSwin(NANO, drop_path=0.5, dropout=0.5)
    assert not torch.equal(model(clips), model(clips))
    model.eval()
    plain = VideoSwin(NANO).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(clips), plain(clips))


def test_no_drop_path_and_no_dropout_make_training_deterministic(model: VideoSwin, clips: Tensor) -> None:
    evaluated = model(clips)
    assert torch.equal(model.train()(clips), evaluated)


def test_dropout_is_before_the_head_and_keeps_the_mean(clips: Tensor) -> None:
    torch.manual_seed(0)
    model = VideoSwin(NANO, dropout=0.5)
    seen: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    features = model.feature_maps(clips)[-1].mean((2, 3, 4))
    model(clips)
    kept = seen[0] != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(seen[0][kept], 2 * features[kept])


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_checkpointing_changes_no_gradient(clips: Tensor, drop_path: float) -> None:
    torch.manual_seed(0)
    model = VideoSwin(NANO, drop_path=drop_path)
    saving = VideoSwin(NANO, drop_path=drop_path, grad_checkpointing=True)
    saving.load_state_dict(model.state_dict())
    torch.manual_seed(7)
    expected = gradients(model, clips)
    torch.manual_seed(7)
    actual = gradients(saving, clips)
    assert expected.keys() == actual.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_checkpointing_keeps_less_for_the_backward_pass(clips: Tensor) -> None:
    def kept_bytes(grad_checkpointing: bool) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            VideoSwin(NANO, grad_checkpointing=grad_checkpointing)(clips).sum()
        return sum(kept.values())

    assert kept_bytes(grad_checkpointing=True) < kept_bytes(grad_checkpointing=False) / 3


def test_every_parameter_gets_a_gradient(model: VideoSwin, clips: Tensor) -> None:
    # The softmax does not feel the bias of the keys, so only a third of that one is truly moved.
    assert all(gradient.abs().max() > 0 for gradient in gradients(model.train(), clips).values())


# Copies, dtypes, modes


def test_deepcopy_and_pickle_give_the_same_model(model: VideoSwin, clips: Tensor) -> None:
    logits = model(clips)  # fills the cache of geometries first
    assert torch.equal(copy.deepcopy(model)(clips), logits)
    pickled = pickle.dumps(model)
    assert torch.equal(pickle.loads(pickled)(clips), logits)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(clips), logits)
    assert len(pickled) < 1.1 * 4 * sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def test_dtype_may_change_between_calls(model: VideoSwin, clips: Tensor) -> None:
    single = model(clips)
    double = model.double()(clips.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)
    half = model.bfloat16()(clips.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), double, rtol=0, atol=0.05 * float(double.abs().max()))
    torch.testing.assert_close(model.float()(clips), single, rtol=0, atol=0.05 * float(single.abs().max()))


@torch.no_grad()
def test_autocast_runs_in_bfloat16(model: VideoSwin, clips: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(clips)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), model(clips), rtol=0, atol=0.02)


def test_training_works_after_a_first_call_under_inference_mode(model: VideoSwin, clips: Tensor) -> None:
    _cached_geometry.cache_clear()
    with torch.inference_mode():
        model(clips)
    assert gradients(model.train(), clips)


def test_model_can_be_built_and_run_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = VideoSwin(TINY)
        logits = model(torch.empty(2, 3, 32, 224, 224))
    assert logits.is_meta
    assert logits.shape == (2, 400)


def test_clips_need_not_be_contiguous(model: VideoSwin, clips: Tensor) -> None:
    channels_last = clips.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    assert torch.equal(model(channels_last), model(clips))


# Bad input


@pytest.mark.parametrize(
    ("clips", "came"),
    [
        (torch.zeros(3, 8, 32, 32), r"got \(3, 8, 32, 32\)"),
        (torch.zeros(1, 1, 3, 8, 32, 32), r"got \(1, 1, 3, 8, 32, 32\)"),
        (torch.zeros(1, 4, 8, 32, 32), r"got \(1, 4, 8, 32, 32\)"),
        (torch.zeros(1, 8, 3, 32, 32), r"got \(1, 8, 3, 32, 32\)"),
        (torch.zeros(1, 3, 0, 32, 32), r"no empty axis, got \(1, 3, 0, 32, 32\)"),
        (torch.zeros(1, 3, 8, 32, 0), r"no empty axis, got \(1, 3, 8, 32, 0\)"),
    ],
)
def test_wrong_shapes_are_named(model: VideoSwin, clips: Tensor, came: str) -> None:
    for call in (model, model.feature_maps):
        with pytest.raises(ValueError, match=rf"^clips must be \(batch, 3, frames, height, width\).*{came}$"):
            call(clips)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_clips_that_are_not_floating_point_are_refused(model: VideoSwin, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"normalized and floating point, got {dtype}"):
        model(torch.zeros(1, 3, 8, 32, 32, dtype=dtype))


@pytest.mark.parametrize("name", ["drop_path", "dropout"])
@pytest.mark.parametrize("rate", [-0.1, 1.0, 2, math.nan, math.inf])
def test_rates_outside_zero_to_one_are_refused(name: str, rate: float) -> None:
    options: dict[str, Any] = {name: rate}
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\), got {rate}"):
        VideoSwin(NANO, **options)


def _block(drop_path: float) -> Block:
    block = VideoSwin(NANO, drop_path=drop_path).stages[-1].blocks[-1]  # type: ignore[index]
    assert isinstance(block, Block)
    return block


# Backbone options


@pytest.mark.parametrize("count", [-1, 0, 1, 3])
def test_frozen_stages_are_not_trained_and_have_no_drop_path(count: int, clips: Tensor) -> None:
    model = VideoSwin(NANO, drop_path=0.5)
    freeze_stages(model, count)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = ("patch_embed.", *(f"stages.{stage}." for stage in range(count))) if count >= 0 else ()
    assert learning == {name for name, _ in model.named_parameters() if not name.startswith(frozen or "-")}
    for stage, blocks in enumerate(model.stages):
        dropping = [module.drop_path for module in blocks.modules() if isinstance(module, Block)]
        assert (sum(dropping) == 0) == (stage < count)
    assert gradients(model.train(), clips).keys() == learning


@pytest.mark.parametrize("count", [-2, 4])
def test_stages_that_are_not_there_cannot_be_frozen(count: int) -> None:
    with pytest.raises(ValueError, match=f"frozen_stages must be from -1 to 3, got {count}"):
        freeze_stages(VideoSwin(NANO), count)


def test_every_map_can_have_a_norm_of_its_own_as_in_mmaction2(model: VideoSwin, clips: Tensor) -> None:
    maps = model.feature_maps(clips)
    norms = StageNorms(NANO)
    normed = norms(maps)
    assert [m.shape for m in normed] == [m.shape for m in maps]
    assert normed[-1] is maps[-1]
    for index, (before, after) in enumerate(zip(maps[:-1], normed[:-1], strict=True)):
        variance, mean = torch.var_mean(before, dim=1, correction=0, keepdim=True)
        torch.testing.assert_close(after, (before - mean) / (variance + 1e-5).sqrt())
        assert f"norms.{index}.weight" in norms.state_dict()
    normed[0].sum().backward()
    assert norms.norms[0].bias.grad is not None
