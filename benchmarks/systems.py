"""Every way to put one clip through Swin-T that is measured side by side: ours, and its peers.

All carry the same random weights and see the same clip; `BUILDERS` makes the function that does one pass.
Runtimes are imported where they are used: the memory of one system must not have the libraries of another.
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
    """Our model with the random weights that all systems carry."""
    torch.manual_seed(0)
    return as_trained(VideoSwin(CONFIGS[variant].replace(sliced_bias=sliced_bias))).eval()


def reference(attend: Attend) -> ReferenceVideoSwin:
    """The official mathematics with the same weights."""
    model = ReferenceVideoSwin(TINY, attend).eval()
    model.load_state_dict(swin().state_dict())
    return model


def pixels(frames: int = 32, size: int = 224) -> Tensor:
    """The clip: uint8 (1, 3, T, S, S), smooth in space and time as a film is, with grain."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 5, 9, 9, generator=generator)
    film = nn.functional.interpolate(coarse, size=(frames, size, size), mode="trilinear")
    grain = 0.1 * torch.rand(film.shape, generator=generator)
    return ((film + grain) / 1.1 * 255).round().to(torch.uint8)


def clip(dtype: str = "float32", frames: int = 32, size: int = 224) -> Tensor:
    """The same, normalized: (1, 3, T, S, S)."""
    return normalize(pixels(frames, size), IMAGENET).to(DTYPES[dtype])


def torch_pass(model: nn.Module, dtype: str, compiled: bool = False) -> Pass:
    """A pass of a PyTorch model on the normalized clip."""
    model, clips = model.to(DTYPES[dtype]).eval(), clip(dtype)
    if compiled:
        torch.compiler.assume_constant_result(window_geometry)  # as compile_blocks does
    run: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model
    return lambda: run(clips)


def exported_pass(path: Path) -> Pass:
    """A pass of an exported file on the pixels, which it normalizes itself."""
    model, views = load_backend(path, torch.device("cpu")), pixels()
    return lambda: model(views)


def openvino_pass(path: Path, dtype: str) -> Pass:
    """A pass of somebody else's model in OpenVINO, with our settings, on the normalized clip."""
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
"""By name and precision: makes the pass, from the files of `write_files`."""


def write_files(folder: Path, videos: list[str]) -> None:
    """Export our model and torchvision's for the runtimes.

    The first two of the videos give the clips that int8 scales are chosen on.
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
    # As ours: constants in float32 for float32, and in half as many bytes for bfloat16.
    openvino.save_model(theirs, folder / "peer.xml", compress_to_fp16=False)
    openvino.save_model(theirs, folder / "peer-half.xml", compress_to_fp16=True)


def backend_of(system: str, precision: str, files: Path, one_pass: Pass) -> list[str]:
    """What computes the products and the attention of a pass, as its runtime tells of the same file."""
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
        model.reshape([1, *model.input().partial_shape[1:]])  # as it is run
        compiled = core.compile_model(model, "CPU", settings(hint)).get_runtime_model()
        metadata = (op.get_rt_info() for op in compiled.get_ops())
        kinds = {(fact["layerType"].astype(str), fact["primitiveType"].astype(str)) for fact in metadata}
        return sorted(f"{layer}: {kind}" for layer, kind in kinds if layer in OPENVINO_LAYERS)
    return torch_kernels_of(one_pass)


def torch_kernels_of(one_pass: Callable[[], object]) -> list[str]:
    """What computes the products and the attention of a pass in PyTorch."""
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
