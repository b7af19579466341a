"""The memory estimate is monotonic, counts what autograd saves, and is close to measured values."""

import pytest
import torch
from torch import Tensor

from videoswin.acceleration.cpu import recompute_attention
from videoswin.model import config as architectures
from videoswin.model.config import NANO, TINY, VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.training.lora import set_trainable
from videoswin.training.memory import BYTES_PER_VALUE, estimate_training_bytes, format_bytes, layer_bytes
from videoswin.video.spec import ClipSpec

MIB = 2**20

MEASURED = """
NANO  8  64  4 fp32 plain      all     46
NANO  8  64 64 fp32 plain      all    722
NANO  8  64 64 fp32 plain      lora   562
NANO  8  64 64 fp32 recomputed all    634
NANO 16 112 16 bf16 plain      all    635
TINY  8 112  1 fp32 plain      all    552
TINY  8 112  4 fp32 plain      head   216
TINY  8 112  4 bf16 plain      all    748
TINY  8 112  4 fp32 recomputed all    762
TINY 16 224  1 fp32 plain      all   1508
TINY 16 224  1 fp32 recomputed all   1047
TINY 32 224  1 bf16 plain      all   1568
BASE  8 112  1 fp32 plain      all   1581
"""
"""Model, frames, pixels, clips, precision, blocks, trainable parameters: MiB by which the peak of the
resident memory (VmHWM) over two or three whole training steps exceeded that of the process before it made
the model. One thread of a CPU (AMD EPYC, AVX-512, Linux with glibc), torch 2.13."""

SMALL_RUN = dict(precision="fp32", grad_checkpointing=False, trainable="all", ema=False, device_type="cpu")


def shape(frames: int = 8, size: int = 64) -> ClipSpec:
    return ClipSpec(frames=frames, size=size, short_side=size)


def estimate(config: VideoSwinConfig = NANO, clip: ClipSpec | None = None, clips: int = 4, **changes) -> int:
    return estimate_training_bytes(config, clip or shape(), clips, **(SMALL_RUN | changes))


@pytest.mark.parametrize("row", MEASURED.split("\n")[1:-1])
def test_the_estimate_is_within_thirty_per_cent_of_what_was_measured(row):
    name, frames, size, clips, precision, blocks, trainable, mib = row.split()
    found = estimate(
        getattr(architectures, name),
        shape(int(frames), int(size)),
        int(clips),
        precision=precision,
        grad_checkpointing=blocks == "recomputed",
        trainable=trainable,
    )
    assert 0.7 < found / MIB / int(mib) < 1.3


def saved_bytes(config: VideoSwinConfig, clip: ClipSpec, clips: int, precision: str, trainable: str) -> int:
    """Return the bytes that autograd saves in a forward pass, without parameters and their copies."""
    torch.manual_seed(0)
    model = VideoSwin(config, attention=recompute_attention)
    set_trainable(model, trainable, rank=2)
    weights = {tuple(parameter.shape) for parameter in model.parameters()}
    weights |= {shape[::-1] for shape in weights}
    weights.add((config.embed_dim, config.in_channels * 32))  # the patch embedding as a matrix
    weights.add((config.in_channels * 32, config.embed_dim))
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) not in weights and tensor.is_floating_point():
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    frames = torch.randn(clips, 3, clip.frames, clip.size, clip.size)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=BYTES_PER_VALUE[precision] < 4)
    with autocast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(frames)
    assert logits.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trainable", ["all", "lora", "head"])
def test_what_the_layers_keep_is_what_autograd_keeps(trainable, precision):
    clip, clips = shape(8, 64), 4
    layers = layer_bytes(
        NANO, clip, clips, value_bytes=BYTES_PER_VALUE[precision], trainable=trainable, device_type="cpu"
    )
    counted = sum(layer.saved for layer in layers)
    saved = saved_bytes(NANO, clip, clips, precision, trainable)
    assert counted == pytest.approx(saved, rel=0.03, abs=100_000)


@pytest.mark.parametrize(
    ("fewer", "more"),
    [
        (dict(clips=4), dict(clips=5)),
        (dict(clip=shape(frames=8)), dict(clip=shape(frames=16))),
        (dict(clip=shape(size=64)), dict(clip=shape(size=80))),
        (dict(config=NANO), dict(config=TINY)),
        (dict(grad_checkpointing=True), dict(grad_checkpointing=False)),
        (dict(trainable="head"), dict(trainable="lora")),
        (dict(trainable="lora"), dict(trainable="all")),
        (dict(trainable="lora", lora_rank=4), dict(trainable="lora", lora_rank=8)),
        (dict(ema=False), dict(ema=True)),
        (dict(precision="bf16"), dict(precision="fp32")),
        (dict(config=TINY, device_type="cpu"), dict(config=TINY, device_type="cuda")),
    ],
    ids=str,
)
def test_more_takes_more(fewer, more):
    assert estimate(**({"clip": shape(16, 112)} | fewer)) < estimate(**({"clip": shape(16, 112)} | more))


@pytest.mark.parametrize("trainable", ["all", "lora", "head"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_clips_to_speak_of_the_states_of_the_weights_are_left(trainable, precision):
    with torch.device("meta"):
        model = VideoSwin(TINY)
    set_trainable(model, trainable, rank=8)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    gradient_and_two_moments = 3 * 4 * learning
    copies = {"fp32": 0, "bf16": 2 * (learning if trainable == "head" else numbers)}[precision]
    changed_matrices = 0
    if trainable == "lora":
        changed = (
            module.attn.qkv.weight.numel() * 4 // 3 for stage in model.stages for module in stage.blocks
        )
        changed_matrices = sum(changed) * BYTES_PER_VALUE[precision]
    point = dict(config=TINY, clip=shape(frames=1, size=1), clips=1, trainable=trainable, precision=precision)
    expected = 4 * numbers + gradient_and_two_moments + copies + changed_matrices
    assert estimate(**point) == pytest.approx(expected, rel=0.1)
    assert estimate(**point, ema=True) - estimate(**point) == 4 * learning


def test_estimating_draws_no_random_numbers():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    estimate(trainable="lora")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_precision_that_recipes_do_not_have_is_refused():
    with pytest.raises(ValueError, match=r"precision must be one of fp32, bf16, fp16, got '64-true'"):
        estimate(precision="64-true")


def test_little_memory_is_given_in_mib():
    assert [format_bytes(count) for count in (0, 30 << 20, (1 << 30) // 10 + 1, 3 << 30)] == [
        "0 MiB",
        "30 MiB",
        "0.1 GiB",
        "3.0 GiB",
    ]
