"""The systems that benchmarks/model_cpu.py compares: our model and other implementations of Swin-T.

All have the same random weights and the same clip; `BUILDERS` makes the function of one pass. Runtimes are
imported where they are used, so that the memory of one system does not include the libraries of another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.peers import as_trained, torchvision_swin3d
from benchmarks.reference import Attend, ReferenceVideoSwin, fused_with_full_mask, materialised
from videoswin.acceleration import optimize_for_inference
from videoswin.inference.backends import load_backend
from videoswin.inference.backends.openvino import settings
from videoswin.model.config import BASE, SMALL, TINY, VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import window_geometry
from videoswin.video.spec import IMAGENET, ClipSpec, ViewPlan
from videoswin.video.views import normalize
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.metadata import ExportPrecision

CONFIGS: dict[str, VideoSwinConfig] = {"t": TINY, "s": SMALL, "b": BASE}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Pass = Callable[[], Tensor]
"""Logits (1, 400) of the clip."""


def swin(variant: str = "t", *, sliced_bias: bool = False) -> VideoSwin:
    """Return our model with the random weights that all systems share."""
    torch.manual_seed(0)
    return as_trained(VideoSwin(CONFIGS[variant].replace(sliced_bias=sliced_bias))).eval()


def reference(attend: Attend) -> ReferenceVideoSwin:
    """Return the reference implementation with the same weights."""
    model = ReferenceVideoSwin(TINY, attend).eval()
    model.load_state_dict(swin().state_dict())
    return model


def pixels(frames: int = 32, size: int = 224) -> Tensor:
    """Return the clip, uint8 (1, 3, T, S, S): smooth in space and time like real video, with noise."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 5, 9, 9, generator=generator)
    film = nn.functional.interpolate(coarse, size=(frames, size, size), mode="trilinear")
    grain = 0.1 * torch.rand(film.shape, generator=generator)
    return ((film + grain) / 1.1 * 255).round().to(torch.uint8)


def clip(dtype: str = "float32", frames: int = 32, size: int = 224) -> Tensor:
    """Return the normalized clip (1, 3, T, S, S)."""
    return normalize(pixels(frames, size), IMAGENET).to(DTYPES[dtype])


def torch_pass(model: nn.Module, dtype: str, compiled: bool = False) -> Pass:
    """Return a pass of a PyTorch model on the normalized clip."""
    model, clips = model.to(DTYPES[dtype]).eval(), clip(dtype)
    if compiled:
        torch.compiler.assume_constant_result(window_geometry)  # same as in compile_blocks
    run: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model
    return lambda: run(clips)


def exported_pass(path: Path) -> Pass:
    """Return a pass of an exported file on the pixels; the file includes normalization."""
    model, views = load_backend(path, torch.device("cpu")), pixels()
    return lambda: model(views)


def openvino_pass(path: Path, dtype: str) -> Pass:
    """Return a pass of torchvision's model in OpenVINO on the normalized clip, with our settings."""
    import openvino

    compiled = openvino.Core().compile_model(
        path, "CPU", settings("float32" if dtype == "float32" else "bfloat16")
    )
    clips = clip().numpy()
    return lambda: torch.from_numpy(compiled(clips)[0])


BUILDERS: dict[tuple[str, str], Callable[[Path], Pass]] = {
    ("torchvision", "float32"): lambda _: torch_pass(torchvision_swin3d(swin(), "t"), "float32"),
    ("torchvision", "bfloat16"): lambda _: torch_pass(torchvision_swin3d(swin(), "t"), "bfloat16"),
    ("torchvision, compiled", "float32"): lambda _: torch_pass(
        torchvision_swin3d(swin(), "t"), "float32", compiled=True
    ),
    ("official mathematics", "float32"): lambda _: torch_pass(reference(materialised), "float32"),
    ("full mask, SDPA", "float32"): lambda _: torch_pass(reference(fused_with_full_mask), "float32"),
    ("full mask, SDPA", "bfloat16"): lambda _: torch_pass(reference(fused_with_full_mask), "bfloat16"),
    ("torchvision in OpenVINO", "float32"): lambda files: openvino_pass(files / "peer.xml", "float32"),
    ("torchvision in OpenVINO", "bfloat16"): lambda files: openvino_pass(files / "peer-half.xml", "bfloat16"),
    ("videoswin", "float32"): lambda _: torch_pass(optimize_for_inference(swin()), "float32"),
    ("videoswin", "bfloat16"): lambda _: torch_pass(optimize_for_inference(swin()), "bfloat16"),
    ("videoswin, compiled", "float32"): lambda _: torch_pass(swin(), "float32", compiled=True),
    ("videoswin in ONNX Runtime", "float32"): lambda files: exported_pass(files / "model.onnx"),
    ("videoswin in OpenVINO", "float32"): lambda files: exported_pass(files / "float32.xml"),
    ("videoswin in OpenVINO", "bfloat16"): lambda files: exported_pass(files / "bfloat16.xml"),
    ("videoswin in OpenVINO", "int8"): lambda files: exported_pass(files / "int8.xml"),
}
"""(system, precision) -> function that builds the pass from the folder of `write_files`."""


def write_files(folder: Path, videos: list[str]) -> None:
    """Export our model and torchvision's for the runtimes.

    The int8 scales are calibrated on the first two videos.
    """
    import openvino

    from videoswin.inference.export import export_model

    ours = Checkpoint(
        weights=swin().state_dict(),
        config=TINY,
        clip=ClipSpec(),
        views=ViewPlan(clips=1, crops=3),
        labels=tuple(str(number) for number in range(TINY.num_classes)),
        name="swin-t",
    )
    precisions: dict[str, ExportPrecision] = {
        "model.onnx": "float32",
        "float32.xml": "float32",
        "bfloat16.xml": "bfloat16",
        "int8.xml": "int8",
    }
    for name, precision in precisions.items():
        chosen_on = videos[:2] if precision == "int8" else []
        export_model(ours, folder / name, precision=precision, videos=chosen_on, say=print)
    with torch.no_grad():
        program = torch.export.export(torchvision_swin3d(swin(), "t"), (clip(),))
    theirs = openvino.convert_model(program)
    # As in our exports: 4-byte constants for float32, 2-byte constants for bfloat16.
    openvino.save_model(theirs, folder / "peer.xml", compress_to_fp16=False)
    openvino.save_model(theirs, folder / "peer-half.xml", compress_to_fp16=True)


def backend_of(system: str, precision: str, files: Path, one_pass: Pass) -> list[str]:
    """Return the kernels of matrix products and attention in a pass, as reported by the runtime."""
    if "ONNX Runtime" in system:
        import onnxruntime

        return list(onnxruntime.InferenceSession(files / "model.onnx").get_providers())
    if "OpenVINO" in system:
        import openvino

        peer = "peer.xml" if precision == "float32" else "peer-half.xml"
        path = files / (peer if "torchvision" in system else f"{precision}.xml")
        hint: ExportPrecision = "float32" if precision == "float32" else "bfloat16"
        core = openvino.Core()
        model = core.read_model(path)
        model.reshape([1, *model.input().partial_shape[1:]])  # the shape of the timed pass
        compiled = core.compile_model(model, "CPU", settings(hint)).get_runtime_model()
        metadata = (op.get_rt_info() for op in compiled.get_ops())
        kinds = {(fact["layerType"].astype(str), fact["primitiveType"].astype(str)) for fact in metadata}
        return sorted(f"{layer}: {kind}" for layer, kind in kinds if layer in OPENVINO_LAYERS)
    return torch_kernels_of(one_pass)


def torch_kernels_of(one_pass: Callable[[], object]) -> list[str]:
    """Return the operators of matrix products and attention in a PyTorch pass."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        one_pass()
    return sorted({event.key for event in profile.key_averages()} & TORCH_KERNELS)


OPENVINO_LAYERS = {"FullyConnected", "MatMul", "Subgraph", "Softmax", "ScaledDotProductAttention"}
TORCH_KERNELS = {
    "aten::addmm",
    "aten::bmm",
    "aten::mkldnn_convolution",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_attention_math",
    "mkldnn::_linear_pointwise",
}
