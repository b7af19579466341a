"""optimize_for_inference and use_training_attention choose by device, and refuse kernels that cannot run."""

import ast
from pathlib import Path

import pytest
import torch

import videoswin
from videoswin import acceleration
from videoswin._errors import InputError
from videoswin.acceleration import cuda, fused, optimize_for_inference, resolve_device, use_training_attention
from videoswin.acceleration.block import InferenceBlock
from videoswin.acceleration.cpu import CPUBlock, recompute_attention
from videoswin.acceleration.triton.attention import triton_attention
from videoswin.model.attention import WindowAttention, box_attention
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import Block, VideoSwin

CONFIG = VideoSwinConfig(embed_dim=192, depths=(2, 1), num_heads=(6, 12), window=(2, 3, 3), num_classes=2)


def small_model() -> VideoSwin:
    with torch.device("meta"):
        return VideoSwin(CONFIG).to_empty(device="cpu")


def blocks(model: VideoSwin) -> list[type]:
    return [type(block) for stage in model.stages for block in stage.blocks]


def attentions(model: VideoSwin) -> set[object]:
    return {module.attention for module in model.modules() if isinstance(module, WindowAttention)}


def test_a_cpu_gets_its_blocks_in_place() -> None:
    model = small_model()
    names = list(model.state_dict())
    assert videoswin.optimize_for_inference(model) is model
    assert blocks(model) == [CPUBlock] * 3
    assert attentions(model) == {box_attention}
    assert not model.training
    assert list(model.state_dict()) == names


def test_device_and_precision_are_set() -> None:
    model = optimize_for_inference(small_model(), "meta", torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    assert blocks(model) == [Block] * 3


def test_optimizing_again_leaves_the_last_choice() -> None:
    model = optimize_for_inference(small_model())
    assert blocks(optimize_for_inference(model, "meta")) == [InferenceBlock] * 3


def test_training_on_a_cpu_recomputes_attention_weights_and_elsewhere_torch_chooses() -> None:
    model = small_model()
    use_training_attention(model, "cpu", torch.float32)
    assert attentions(model) == {recompute_attention}
    use_training_attention(model, "cuda", torch.bfloat16)
    assert attentions(model) == {box_attention}


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(VideoSwin, "to", lambda model, *_: model)
    monkeypatch.setattr(cuda, "_attention_fault", lambda *_: None)
    monkeypatch.setattr(cuda, "_fused_fault", lambda *_: None)


def test_triton_kernels_fuse_the_stages_with_few_channels(as_on_a_gpu) -> None:
    model = optimize_for_inference(small_model(), "cuda:0", torch.bfloat16, kernels="triton")
    assert blocks(model) == [fused.FusedBlock] * 2 + [Block]
    assert attentions(model) == {triton_attention}


def test_triton_kernels_can_train(as_on_a_gpu) -> None:
    model = small_model()
    use_training_attention(model, "cuda:0", torch.bfloat16, kernels="triton")
    assert attentions(model) == {triton_attention}
    assert blocks(model) == [Block] * 3


def test_a_gpu_computes_with_torch_unless_told_otherwise(as_on_a_gpu) -> None:
    model = optimize_for_inference(small_model(), "cuda:0", torch.bfloat16)
    assert blocks(model) == [Block] * 3
    assert attentions(model) == {box_attention}


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("cpu", torch.bfloat16, "a CUDA device, got cpu"),
        ("cuda:0", torch.float32, "precision float16 or bfloat16, got float32"),
    ],
)
def test_triton_kernels_that_cannot_run_are_refused(
    as_on_a_gpu, device: str, dtype: torch.dtype, message: str
) -> None:
    model = small_model()
    for choose in (optimize_for_inference, use_training_attention):
        with pytest.raises(InputError, match=f"^kernels=triton needs {message}; leave kernels out"):
            choose(model, device, dtype, kernels="triton")
    assert model.training
    assert blocks(model) == [Block] * 3
    assert attentions(model) == {box_attention}


def test_an_old_gpu_is_refused(as_on_a_gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(InputError, match=r"compute capability >= \(8, 0\), got \(7, 5\)"):
        optimize_for_inference(small_model(), "cuda:0", torch.float16, kernels="triton")


def test_wrong_results_are_refused(as_on_a_gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cuda, "_fused_fault", lambda *_: "results that are off by 0.5 of the largest (mlp of 192 channels)"
    )
    with pytest.raises(InputError, match="kernels that work on cuda:0, got results that are off by"):
        optimize_for_inference(small_model(), "cuda:0", torch.float16, kernels="triton")


def test_heads_of_another_width_are_refused(as_on_a_gpu) -> None:
    with torch.device("meta"):
        model = VideoSwin(CONFIG.replace(num_heads=(8, 16)))
    with pytest.raises(InputError, match=r"\(16, 32, 64\) channels per head, got 24"):
        use_training_attention(model, "cuda:0", torch.float16, kernels="triton")


def test_other_kernels_are_refused() -> None:
    with pytest.raises(InputError, match="kernels must be 'triton' or None, got 'cutlass'"):
        optimize_for_inference(small_model(), kernels="cutlass")  # type: ignore[arg-type]


def test_choosing_and_tracing_need_no_triton() -> None:
    folder = Path(acceleration.__file__).parent
    kernels = {f"videoswin.acceleration.triton.{name}" for name in ("forward", "backward", "linear", "tiles")}
    for path in (*folder.glob("*.py"), folder / "triton" / "attention.py"):
        # Statements of the module itself, not of its functions.
        tops = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom | ast.Import)
        ]
        names = {alias.name for node in tops if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in tops if isinstance(node, ast.ImportFrom)}
        assert not names & (kernels | {"triton"}), path.name


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used here"):
        resolve_device("cuda:99")


def test_a_word_that_is_no_device_is_refused() -> None:
    with pytest.raises(ValueError, match=r"device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'$"):
        resolve_device("gpu")
