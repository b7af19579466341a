"""The moving average follows its formula, can be saved and restored, and does not change the model."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.training.lora import merged_state_dict, set_trainable
from videoswin.training.optim import ExponentialMovingAverage

CONFIG = VideoSwinConfig(embed_dim=8, depths=(1,), num_heads=(1,), window=(1, 2, 2), num_classes=3)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def change(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.ones_like(parameter))


def numbers(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def averaged(average: ExponentialMovingAverage, model: nn.Module) -> list[torch.Tensor]:
    with average.average_parameters():
        return numbers(model)


def test_the_average_is_the_one_of_its_formula():
    weight = nn.Linear(1, 1, bias=False)
    average = ExponentialMovingAverage(weight, 0.3)
    values = [0.5, -1.0, 2.0, 7.0, 7.0]
    expected = weight.weight.item()
    for n, value in enumerate(values):
        nn.init.constant_(weight.weight, value)
        average.update()
        decay = min(0.3, (1 + n) / (10 + n))  # 0.1, 2/11, 0.25, 0.3, 0.3
        expected = decay * expected + (1 - decay) * value
    assert averaged(average, weight)[0].item() == pytest.approx(expected, rel=1e-6)


def test_a_long_average_forgets_where_it_began():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1e6)
    average = ExponentialMovingAverage(model, 0.9999)
    nn.init.constant_(model.weight, 1.0)
    for _ in range(100):
        average.update()
    assert averaged(average, model)[0].item() == pytest.approx(1.0, abs=1e-3)


def test_the_model_gets_its_own_weights_back_bit_for_bit():
    model = small_model()
    average = ExponentialMovingAverage(model, 0.9)
    change(model)
    before = numbers(model)
    with average.average_parameters():
        assert not torch.equal(model[0].weight, before[0])
    assert all(torch.equal(a, b) for a, b in zip(before, numbers(model), strict=True))


def test_the_model_gets_its_own_weights_back_after_an_error():
    model = small_model()
    average = ExponentialMovingAverage(model, 0.9)
    change(model)
    before = numbers(model)
    with pytest.raises(KeyError), average.average_parameters():
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(before, numbers(model), strict=True))


def test_swapping_leaves_the_average_as_it_is():
    model = small_model()
    average = ExponentialMovingAverage(model, 0.9)
    change(model)
    average.update()
    first = averaged(average, model)
    assert all(torch.equal(a, b) for a, b in zip(first, averaged(average, model), strict=True))


def test_frozen_parameters_and_buffers_are_the_models_own():
    model = small_model()
    model[0].requires_grad_(False)
    average = ExponentialMovingAverage(model, 0.9)
    with torch.no_grad():
        model[0].weight.fill_(5.0)
        model[1].running_mean.fill_(7.0)
    with average.average_parameters():
        assert (model[0].weight == 5.0).all()
        assert (model[1].running_mean == 7.0).all()
    assert set(average.state_dict()["averages"]) == {"1.weight", "1.bias", "2.weight", "2.bias"}


def test_a_saved_average_goes_on_as_if_it_had_not_stopped(tmp_path):
    model, twin = small_model(), small_model()
    average, other = ExponentialMovingAverage(model, 0.9), ExponentialMovingAverage(twin, 0.9)
    change(model)
    average.update()
    torch.save(average.state_dict(), tmp_path / "average.pt")
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
    for network, kept in ((model, average), (twin, other)):
        change(network)
        kept.update()
    pairs = zip(averaged(average, model), averaged(other, twin), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_average_of_another_model_is_refused():
    average = ExponentialMovingAverage(small_model(), 0.9)
    with pytest.raises(ValueError, match=r"0\.bias"):
        average.load_state_dict(ExponentialMovingAverage(nn.Linear(3, 4), 0.9).state_dict())
    wider = copy.deepcopy(average.state_dict())
    wider["averages"]["0.bias"] = torch.zeros(9)
    with pytest.raises(ValueError, match="different shapes"):
        average.load_state_dict(wider)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_a_decay_that_never_learns_or_is_none_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        ExponentialMovingAverage(small_model(), decay)


def test_low_rank_changes_are_averaged_and_can_be_written_out():
    torch.manual_seed(0)
    model = VideoSwin(CONFIG)
    set_trainable(model, "lora", rank=2)
    average = ExponentialMovingAverage(model, 0.5)
    frozen = model.stages[0].blocks[0].mlp.fc1.weight.clone()
    change(model)
    with average.average_parameters():
        written = merged_state_dict(model)
    assert torch.equal(
        written["stages.0.blocks.0.attn.qkv.weight"], model.stages[0].blocks[0].attn.qkv.weight
    )
    assert torch.equal(written["stages.0.blocks.0.mlp.fc1.weight"], frozen)
    assert "stages.0.blocks.0.attn.qkv.up" not in written


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrap", ["ddp", "fsdp2"])
def test_it_works_on_models_that_are_wrapped_or_sharded(wrap):
    plain, wrapped = nn.Linear(3, 4), nn.Linear(3, 4)
    wrapped.load_state_dict(plain.state_dict())
    if wrap == "ddp":
        wrapped = DistributedDataParallel(wrapped)
    else:
        fully_shard(wrapped, mesh=init_device_mesh("cpu", (1,)))
        assert isinstance(wrapped.weight, DTensor)
    results = []
    for model in (plain, wrapped):
        average = ExponentialMovingAverage(model, 0.9)
        change(model)
        average.update()
        average.load_state_dict(average.state_dict())
        weight, _ = averaged(average, model)
        results.append(weight.full_tensor() if isinstance(weight, DTensor) else weight)
    assert torch.equal(*results)
