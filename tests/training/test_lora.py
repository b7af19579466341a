"""The right parameters are trainable, and low-rank updates can be merged."""

import copy

import pytest
import torch
from torch import Tensor

from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.training.lora import LowRankLinear, merge_lora, merged_state_dict, set_trainable

CONFIG = VideoSwinConfig(embed_dim=8, depths=(2, 1), num_heads=(1, 2), window=(2, 2, 2), num_classes=3)
LAYERS = 2 * sum(CONFIG.depths)
"""Number of layers with a low-rank update: qkv and proj of each block."""


def clips(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def low_rank_model(*, trained: bool = True, **options) -> VideoSwin:
    torch.manual_seed(0)
    model = VideoSwin(CONFIG, **options)
    set_trainable(model, "lora", rank=2)
    if trained:
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for parameter in learning:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def learning_names(model: VideoSwin) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def gradients(model: VideoSwin) -> dict[str, Tensor]:
    model.zero_grad()
    model(clips()).square().sum().backward()
    return {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def test_everything_learns_with_all():
    model = VideoSwin(CONFIG)
    set_trainable(model, "head", rank=2)
    set_trainable(model, "all", rank=2)
    assert learning_names(model) == {name for name, _ in model.named_parameters()}


def test_the_head_alone_learns_with_head():
    model = VideoSwin(CONFIG)
    set_trainable(model, "head", rank=2)
    assert set(gradients(model)) == learning_names(model) == {"head.weight", "head.bias"}


def test_a_frozen_backbone_drops_nothing():
    model = VideoSwin(CONFIG, drop_path=0.9).train()
    set_trainable(model, "head", rank=2)
    assert torch.equal(model(clips()), model(clips()))


def test_changes_tables_norms_and_head_learn_with_lora():
    model = low_rank_model()
    wanted = {
        name
        for name, _ in model.named_parameters()
        if name.endswith((".up", ".down", "_bias_table")) or "norm" in name or name.startswith("head.")
    }
    assert learning_names(model) == wanted == set(gradients(model))
    assert sum(name.endswith(".up") for name in wanted) == LAYERS


def test_low_rank_changes_change_nothing_at_first():
    torch.manual_seed(0)
    plain = VideoSwin(CONFIG)
    model = low_rank_model(trained=False)
    assert torch.equal(model(clips()), plain(clips()))


def test_the_change_has_the_rank_and_strength_it_should():
    model = low_rank_model()
    qkv = model.stages[0].blocks[0].attn.qkv
    change = qkv.merged_weight() - qkv.weight
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2
    assert torch.allclose(change, 16 / 2 * qkv.up @ qkv.down, atol=1e-6)


def test_merging_keeps_the_logits_and_gives_back_the_ordinary_names():
    model = low_rank_model()
    before = model(clips())
    merge_lora(model)
    assert torch.equal(model(clips()), before)
    assert list(model.state_dict()) == list(VideoSwin(CONFIG).state_dict())


def test_the_merged_state_dict_is_that_of_the_merged_model():
    model = low_rank_model()
    merged = copy.deepcopy(model)
    merge_lora(merged)
    plain, wanted = merged_state_dict(model), merged.state_dict()
    assert list(plain) == list(wanted)
    assert all(torch.equal(plain[name], wanted[name]) for name in wanted)


def test_merging_a_copy_leaves_the_original_alone():
    model = low_rank_model()
    before = model(clips())
    merge_lora(copy.deepcopy(model))
    assert torch.equal(model(clips()), before)


def test_the_merged_state_dict_leaves_the_model_alone():
    model = low_rank_model()
    before = copy.deepcopy(model.state_dict())
    assert not any(tensor.requires_grad for tensor in merged_state_dict(model).values())
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_merged_state_dict_of_a_plain_model_is_its_own():
    model = VideoSwin(CONFIG)
    plain, own = merged_state_dict(model), model.state_dict()
    assert list(plain) == list(own)
    assert all(plain[name].data_ptr() == own[name].data_ptr() for name in own)


def test_a_step_moves_what_learns_and_nothing_else():
    model = low_rank_model()
    before = copy.deepcopy(model.state_dict())
    names = learning_names(model)
    gradients(model)
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    assert {
        name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    } == names


def test_a_copy_is_independent():
    model = low_rank_model()
    before = model(clips())
    copied = copy.deepcopy(model)
    assert torch.equal(copied(clips()), before)
    with torch.no_grad():
        copied.stages[0].blocks[0].attn.qkv.up.add_(1.0)
    assert torch.equal(model(clips()), before)
    assert not torch.equal(copied(clips()), before)


def test_a_state_dict_goes_into_another_model_with_changes():
    model, other = low_rank_model(), low_rank_model(trained=False)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(clips()), model(clips()))


def test_checkpointing_gives_the_same_gradients():
    plain, recomputed = gradients(low_rank_model()), gradients(low_rank_model(grad_checkpointing=True))
    assert set(plain) == set(recomputed)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_autocast_works_before_and_after_merging():
    model = low_rank_model()
    exact = model(clips())
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(clips())
        rough.float().sum().backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all()
        for p in model.parameters()
        if p.requires_grad
    )
    merge_lora(model)
    with torch.autocast("cpu", torch.bfloat16):
        merged = model(clips())
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()
    assert (merged - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("grad_checkpointing", [False, True])
def test_each_changed_matrix_is_computed_once_a_forward_pass(grad_checkpointing, monkeypatch):
    calls = []
    merged_weight = LowRankLinear.merged_weight
    monkeypatch.setattr(
        LowRankLinear, "merged_weight", lambda self: calls.append(self) or merged_weight(self)
    )
    model = low_rank_model(grad_checkpointing=grad_checkpointing)
    logits = model(clips())
    assert len(calls) == len(set(calls)) == LAYERS
    logits.sum().backward()
    assert len(calls) == (2 if grad_checkpointing else 1) * LAYERS


def test_a_second_set_of_changes_and_a_rank_of_nothing_are_refused():
    model = low_rank_model()
    with pytest.raises(ValueError, match="already"):
        set_trainable(model, "lora", rank=2)
    with pytest.raises(ValueError, match="rank must be >= 1, got 0"):
        set_trainable(VideoSwin(CONFIG), "lora", rank=0)
