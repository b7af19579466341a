"""Exported files have the outputs of the PyTorch model and its metadata, or are not kept."""

import dataclasses
import json
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from videoswin.camera_motion.clips import write_h264
from videoswin.cli.commands import main
from videoswin.data.manifest import Manifest, Sample
from videoswin.evaluation.evaluate import evaluate
from videoswin.inference import export
from videoswin.inference.backends import openvino as runtime
from videoswin.inference.backends.exported import ExportedModel
from videoswin.inference.export import ExportError, Format, export_model
from videoswin.inference.predictor import Predictor
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin, token_grid
from videoswin.video.spec import PER_CLIP, ClipSpec, ViewPlan
from videoswin.video.views import load_views
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.metadata import ExportPrecision

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")

pytestmark = [
    pytest.mark.timeout(600),  # compilers are slow on a busy machine
    # What the exporters' own tracing says of torch's internals.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

SHALLOW = VideoSwinConfig(embed_dim=32, depths=(1, 2), num_heads=(1, 2), window=(2, 4, 4), num_classes=3)
WHOLE = ClipSpec(frames=8, stride=1, size=48, short_side=48)
"""Grids of 4 x 12 x 12 and 4 x 6 x 6 tokens: whole tokens, the second padded to windows and shifted."""
PADDED = ClipSpec(frames=5, stride=1, size=34, short_side=34, normalization=PER_CLIP)
"""Incomplete tokens, incomplete windows, an odd grid to merge."""


def checkpoint_for(clip: ClipSpec) -> Checkpoint:
    torch.manual_seed(0)
    model = VideoSwin(SHALLOW)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if name.endswith(("bias_table", "bias")) else 0.1)
    return Checkpoint(
        weights=model.state_dict(),
        config=SHALLOW,
        clip=clip,
        views=ViewPlan(clips=2, crops=3),
        labels=("walk", "run", "sit"),
        name="random",
        license="MIT",
    )


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return checkpoint_for(WHOLE)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_h264(folder / f"{number}.mp4", film_thwc(20, number), fps=10, crf=23)
    return sorted(map(str, folder.iterdir()))


def film_thwc(frames: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(1, 3, 4, 5, 7, generator=torch.Generator().manual_seed(seed))
    frames_cthw = torch.nn.functional.interpolate(coarse, size=(frames, 48, 64), mode="trilinear")[0]
    return (frames_cthw * 255).byte().permute(1, 2, 3, 0)


@pytest.fixture(scope="module")
def onnx_file(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert export_model(checkpoint, target).largest_difference < 1e-5
    return target


@pytest.mark.parametrize("clip", [WHOLE, PADDED], ids=["whole", "padded"])
@pytest.mark.parametrize(
    ("name", "format", "precision", "difference"),
    [
        ("model.xml", None, "fp32", 1e-5),
        ("model.xml", None, "bf16", 3e-2),
        ("model.pt2", None, "fp32", 1e-5),
        ("model.pt2", "torch", "bf16", 3e-2),
    ],
)
def test_a_file_answers_as_the_checkpoint_does(
    clip: ClipSpec,
    name: str,
    format: Format | None,
    precision: ExportPrecision,
    difference: float,
    tmp_path: Path,
    videos: list[str],
) -> None:
    checkpoint = checkpoint_for(clip)
    comparison = export_model(checkpoint, tmp_path / name, format=format, precision=precision, videos=videos)
    assert comparison.largest_difference < difference
    # Of three videos two clips of one crop, or one clip of three crops: at most 8 and 16.
    assert comparison.clips == {"fp32": 6, "bf16": 9}[precision]
    assert comparison.path == str(tmp_path / name)
    ours = Predictor.from_pretrained(tmp_path / name)
    theirs = Predictor(checkpoint, device="cpu")
    assert (ours.labels, ours.clip, ours.views, ours.protocol) == (
        (theirs.labels, theirs.clip, theirs.views, theirs.protocol)
    )
    for path in videos:
        torch.testing.assert_close(
            ours(path).probabilities, theirs(path).probabilities, rtol=0, atol=10 * difference
        )


@pytest.mark.slow
def test_compiled_code_answers_as_the_checkpoint_does(checkpoint: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "model.pt2"
    comparison = export_model(checkpoint, target, format="aotinductor")
    assert comparison.largest_difference < 1e-5
    with pytest.raises(ValueError, match=r"machine code compiled by AOTInductor; .* use --trust"):
        ExportedModel(target, device=torch.device("cpu"))
    model = ExportedModel(target, device=torch.device("cpu"), trust=True)
    assert model.metadata.labels == checkpoint.labels
    assert model(torch.zeros(3, 3, 8, 48, 48, dtype=torch.uint8)).shape == (3, 3)


@pytest.fixture(scope="module")
def int8(checkpoint: Checkpoint, videos: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("int8") / "model.xml"
    comparison = export_model(checkpoint, target, precision="int8", videos=videos)
    assert 1e-5 < comparison.largest_difference < 0.2
    assert comparison.top1_agreement > 0.8
    return target


def test_what_is_no_exported_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"an exported model must end in \.onnx, \.xml, \.pt2"):
        ExportedModel(tmp_path / "model.safetensors", device=torch.device("cpu"))


def test_an_int8_model_multiplies_queries_and_keys_in_int8_and_not_attention_weights(int8: Path) -> None:
    attention = [
        op
        for op in openvino.Core().read_model(int8).get_ordered_ops()
        if op.get_type_name() == "ScaledDotProductAttention"
    ]
    assert attention
    for operation in attention:
        query, key, value, *_ = (_type_behind(source) for source in operation.input_values())
        assert (query, key) == ("FakeQuantize", "FakeQuantize")
        assert value != "FakeQuantize"


def test_an_int8_model_multiplies_all_linear_layers_but_embedding_and_head_in_int8(int8: Path) -> None:
    model = openvino.Core().read_model(int8)
    rounded = {
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if operation.get_type_name() == "MatMul"
        and all(
            "FakeQuantize" in _type_behind(source) or "Convert" in _type_behind(source)
            for source in operation.input_values()
        )
    }
    products = [op for op in model.get_ordered_ops() if op.get_type_name() == "MatMul"]
    # Of every block q, k, v, proj, fc1 and fc2, and the merging between the stages.
    assert len(products) == 3 * 6 + 1 + 2
    left = [op for op in products if op.get_friendly_name() not in rounded]
    # By their sizes: the embedding of 3 x 2 x 4 x 4 pixels and the head of three classes.
    assert [sorted(int(n) for n in op.input_value(1).get_partial_shape().to_shape()) for op in left] == [
        [32, 96],
        [3, 64],
    ]


def _type_behind(source: object) -> str:
    """The kind of the operation that a value comes from, through changes of scale and shape."""
    node = source.get_node()  # type: ignore[attr-defined]
    while node.get_type_name() in {"Multiply", "Subtract", "Reshape", "Transpose", "VariadicSplit"}:
        node = node.input_value(0).get_node()
    return str(node.get_type_name())


def export_sizes(checkpoint: Checkpoint, folder: Path) -> int:
    """Bytes of the weights of the same model with all constants in float16."""
    export_model(checkpoint, folder / "half.xml", precision="bf16")
    return (folder / "half.bin").stat().st_size


def test_an_int8_file_is_smaller_and_predicts(int8: Path, videos: list[str], checkpoint: Checkpoint) -> None:
    layers = sum(
        t.numel() for name, t in checkpoint.weights.items() if name.endswith(("fc1.weight", "fc2.weight"))
    )
    half = export_sizes(checkpoint, int8.parent)
    # The MLPs alone are half of the weights, and lose a byte a number.
    assert int8.with_suffix(".bin").stat().st_size < half - 0.9 * layers
    prediction = Predictor.from_pretrained(int8)(videos[0])
    assert prediction.probabilities.sum().item() == pytest.approx(1, abs=1e-4)


def test_onnx_has_neither_roll_nor_pad_nor_open_sizes_but_the_batch(onnx_file: Path, tmp_path: Path) -> None:
    padded = tmp_path / "padded.onnx"
    assert export_model(checkpoint_for(PADDED), padded).largest_difference < 1e-5
    for path, size in ((padded, (5, 34, 34)), (onnx_file, (8, 48, 48))):
        model = onnx.load(path)
        assert [opset.version for opset in model.opset_import if opset.domain == ""] == [20]
        operators = {node.op_type for node in model.graph.node}
        # What TensorRT reads, and nothing that depends on numbers: no Roll, Pad, If, Loop, NonZero, Where.
        assert not operators & {"Roll", "Pad", "If", "Loop", "NonZero", "Where", "ScatterND", "RandomNormal"}
        assert {node.domain for node in model.graph.node} == {""}
        (pixels,) = model.graph.input
        batch, *fixed = pixels.type.tensor_type.shape.dim
        assert batch.dim_param
        assert [dim.dim_value for dim in fixed] == [3, *size]
        assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        # TensorRT takes uint8 for nothing else: https://github.com/NVIDIA/TensorRT/issues/3985
        assert {node.op_type for node in model.graph.node if "pixels" in node.input} == {"Cast"}


def test_evaluation_runs_an_exported_file(checkpoint: Checkpoint, videos: list[str], onnx_file: Path) -> None:
    samples = tuple(Sample(path=path, labels=(0,)) for path in videos)
    manifest = Manifest(source="made", classes=checkpoint.labels, samples=samples)
    ours = evaluate(Predictor.from_pretrained(onnx_file), manifest, workers=0)
    theirs = evaluate(Predictor(checkpoint, device="cpu"), manifest, workers=0)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)


def test_reading_and_comparing_show_their_progress_on_stderr(
    checkpoint: Checkpoint, videos: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    comparison = export_model(checkpoint, tmp_path / "model.pt2", videos=videos[:1], progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert [line for line in shown.err.splitlines() if re.match("read|compare|measure", line)] == [
        "read: 1 video",
        f"compare: {comparison.clips} clips",
        "measure speed: 5 rounds",
    ]


def test_every_phase_is_reported_before_it_starts(checkpoint: Checkpoint, tmp_path: Path) -> None:
    said: list[str] = []
    export_model(checkpoint, tmp_path / "model.pt2", say=said.append)
    patterns = (
        r"phase 1 of 4: tracing the model, \d+\.\d million parameters, with torch\.export",
        r"traced in \d+ s",
        r"phase 2 of 4: writing model\.pt2 \(torch, fp32\)",
        r"written in \d+ s",
        r"phase 3 of 4: comparing the file with PyTorch on 4 clips, synthetic",
        r"comparing 3 clips in one batch with the same clips one by one",
        r"phase 4 of 4: measuring the speed on one clip",
    )
    for pattern, line in zip(patterns, said, strict=True):
        assert re.fullmatch(pattern, line), line


@pytest.mark.parametrize(("number", "clips"), [(1, 6), (30, 8)])
def test_few_clips_are_compared_however_long_or_many_the_videos_are(
    number: int, clips: int, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "video.mp4"
    write_h264(path, film_thwc(120), fps=10, crf=23)
    comparison = export_model(checkpoint, tmp_path / "model.pt2", videos=[str(path)] * number)
    assert comparison.clips == clips


def test_a_multi_label_file_answers_by_sigmoid(
    checkpoint: Checkpoint, videos: list[str], tmp_path: Path
) -> None:
    several = dataclasses.replace(checkpoint, multi_label=True)
    export_model(several, tmp_path / "model.pt2")
    ours = Predictor.from_pretrained(tmp_path / "model.pt2")(videos[0]).probabilities
    torch.testing.assert_close(ours, Predictor(several, device="cpu")(videos[0]).probabilities)


def test_a_file_with_other_outputs_is_not_kept_and_the_old_file_remains(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model.pt2"
    target.write_bytes(b"what was there")
    monkeypatch.setattr(export, "LARGEST_DIFFERENCE", {"fp32": 1e-12})
    with pytest.raises(ExportError, match="differ"):
        export_model(checkpoint, target)
    assert target.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("name", "format"), [("model.xml", "openvino"), ("model.pt2", "torch")])
def test_a_file_slower_than_float32_is_reported(
    name: str, format: Format, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[object] = []

    def times(*passes: partial[object], progress: bool) -> list[float]:
        compared.extend(each.func for each in passes)
        return [2.0, 3.0, 2.0]

    monkeypatch.setattr(export, "_fastest_of_each", times)
    said: list[str] = []
    comparison = export_model(checkpoint, tmp_path / name, precision="bf16", say=said.append)
    assert said[-1] == "bf16 takes 1.50 times as long as float32 on this CPU: use fp32 for it"
    assert comparison.seconds_per_clip_float32 == 2.0
    pytorch, exported, in_float32 = compared
    assert isinstance(exported, ExportedModel)
    assert exported.metadata.precision == "bf16"
    if format == "openvino":
        assert isinstance(in_float32, ExportedModel)
        assert in_float32.metadata.precision == "fp32"
    else:
        assert in_float32 is pytorch


def test_a_file_that_is_not_slower_needs_no_word(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_fastest_of_each", lambda *passes, progress: [3.0, 2.0, 2.0])
    said: list[str] = []
    export_model(checkpoint, tmp_path / "model.xml", say=said.append)
    export_model(checkpoint, tmp_path / "model.xml", precision="bf16", say=said.append)
    assert not any("times as long" in line for line in said)


def test_impossible_exports_are_refused_before_any_work(
    checkpoint: Checkpoint, tmp_path: Path, videos: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"must end in \.onnx, \.xml, \.pt2"):
        export_model(checkpoint, tmp_path / "model.tflite")
    with pytest.raises(
        ValueError, match="precision of onnx must be one of fp32, got int8; int8 is available for openvino"
    ):
        export_model(checkpoint, tmp_path / "model.onnx", precision="int8", videos=videos)
    with pytest.raises(ValueError, match="int8 needs at least 1 video for calibration, got 0"):
        export_model(checkpoint, tmp_path / "model.xml", precision="int8")
    with pytest.raises(ValueError, match="there is no folder"):
        export_model(checkpoint, tmp_path / "nowhere" / "model.xml")
    with pytest.raises(ValueError, match=r"a file for openvino must end in \.xml"):
        export_model(checkpoint, tmp_path / "model.onnx", format="openvino")
    weights = {name: t for name, t in checkpoint.weights.items() if not name.startswith("head.")}
    backbone = dataclasses.replace(checkpoint, weights=weights, labels=())
    with pytest.raises(ValueError, match="must have a head to be exported"):
        export_model(backbone, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "precision", "library", "extra"),
    [
        ("model.onnx", "fp32", "onnxruntime", "export"),
        ("model.xml", "fp32", "openvino", "openvino"),
        ("model.xml", "int8", "nncf", "openvino"),
    ],
)
def test_a_library_that_is_not_here_is_missed_before_any_work(
    target: str,
    precision: ExportPrecision,
    library: str,
    extra: str,
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # imports as if it were not installed
    said: list[str] = []
    with pytest.raises(ImportError, match=rf"this needs {library}: pip install 'videoswin\[{extra}\]'"):
        export_model(checkpoint, tmp_path / target, precision=precision, videos=["a.mp4"], say=said.append)
    assert said == []


def test_the_command_refuses_a_target_before_it_loads_a_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", str(tmp_path / "absent.safetensors"), str(tmp_path / "model.tflite")])
    assert stopped.value.code == 2
    assert "must end in .onnx, .xml, .pt2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pt2"])
def test_a_file_that_is_none_is_one_clear_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("not a model")
    with pytest.raises(ValueError, match=name):
        Predictor.from_pretrained(tmp_path / name)


def test_a_zip_file_that_is_no_program_is_one_clear_error(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="archive, got another zip file"):
        Predictor.from_pretrained(tmp_path / "model.pt2")


def test_a_program_holds_every_weight_once(checkpoint: Checkpoint) -> None:
    from videoswin.inference.backends.graph import fold_norms, trace

    numbers = sum(tensor.numel() for tensor in trace(checkpoint, torch.bfloat16).state_dict.values())
    folded = checkpoint.model()
    fold_norms(folded, token_grid((checkpoint.clip.frames, checkpoint.clip.size, checkpoint.clip.size)))
    assert numbers == sum(parameter.numel() for parameter in folded.parameters())


def test_a_file_from_elsewhere_is_one_clear_error(onnx_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    model = onnx.load(onnx_file)
    later = json.loads(model.metadata_props[0].value) | {"version": 99}
    for value, message in (
        (json.dumps(later), "version must be <= 3, got 99"),
        ("{}", "does not load"),
        ("", "export"),
    ):
        del model.metadata_props[:]
        model.metadata_props.add(key="videoswin", value=value)
        onnx.save(model, target)
        with pytest.raises(ValueError, match=message):
            Predictor.from_pretrained(target)


def test_clips_of_another_size_and_another_precision_are_refused(onnx_file: Path) -> None:
    predictor = Predictor.from_pretrained(onnx_file)
    with pytest.raises(
        ValueError, match=r"must be uint8 \(3, 8, 48, 48\), got .* a checkpoint, which supports any size"
    ):
        predictor.score(torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="precision must be fp32, the precision of"):
        Predictor.from_pretrained(onnx_file, precision="bf16")


def test_a_full_frame_is_not_for_a_file_of_fixed_size(onnx_file: Path, videos: list[str]) -> None:
    predictor = Predictor.from_pretrained(onnx_file, protocol="full-frame-1x1")
    with pytest.raises(
        ValueError, match=r"got torch.uint8 \(3, 8, 48, 64\); use a protocol with square crops"
    ):
        predictor(videos[0])


def test_an_onnx_file_runs_without_this_package(onnx_file: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    pixels = torch.zeros(5, 3, 8, 48, 48, dtype=torch.uint8).numpy()
    assert session.run(["logits"], {"pixels": pixels})[0].shape == (5, 3)


def test_onnx_answers_as_the_checkpoint_does(
    checkpoint: Checkpoint, onnx_file: Path, videos: list[str]
) -> None:
    ours, theirs = Predictor.from_pretrained(onnx_file), Predictor(checkpoint, device="cpu")
    for path in videos:
        torch.testing.assert_close(ours(path).probabilities, theirs(path).probabilities, rtol=0, atol=1e-4)


@pytest.mark.parametrize("frames", [20, 11, 6], ids=["long", "shorter than two clips", "shorter than one"])
def test_scales_are_not_chosen_on_what_is_compared(
    frames: int, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = tmp_path / "video.mp4"
    write_h264(video, film_thwc(frames), fps=10, crf=23)
    chosen_on: list[torch.Tensor] = []
    write = runtime.write

    def noted(*arguments: object, calibration: torch.Tensor | tuple[()] = ()) -> None:
        if isinstance(calibration, torch.Tensor):  # not the file in float32 that it is compared with
            chosen_on.append(calibration)
        write(*arguments, calibration=calibration)

    monkeypatch.setattr(runtime, "write", noted)
    comparison = export_model(checkpoint, tmp_path / "model.xml", precision="int8", videos=[str(video)])
    plan = ViewPlan(clips=10, crops=3)
    first, second = (
        load_views(video, checkpoint.clip, plan, **part).pixels
        for part in ({"end_seconds": frames / 20}, {"start_seconds": frames / 20})
    )
    (calibration,) = chosen_on
    assert {view.numpy().tobytes() for view in calibration} == {view.numpy().tobytes() for view in first}
    # Clips that repeat because the half is short count once.
    assert comparison.clips == len({view.numpy().tobytes() for view in second})


def test_int8_needs_more_than_a_single_picture(checkpoint: Checkpoint, tmp_path: Path) -> None:
    video = tmp_path / "picture.mp4"
    write_h264(video, film_thwc(1), fps=10, crf=23)
    with pytest.raises(
        ValueError,
        match=r"picture\.mp4 must have at least 2 frames, got a single picture; int8 is calibrated",
    ):
        export_model(checkpoint, tmp_path / "model.xml", precision="int8", videos=[str(video)])


def test_int8_needs_more_than_one_clip_of_one_video(
    checkpoint: Checkpoint, tmp_path: Path, videos: list[str]
) -> None:
    clip, views = checkpoint.clip.replace(rule="segments"), ViewPlan(clips=1, crops=1)
    segments = dataclasses.replace(checkpoint, clip=clip, views=views)
    with pytest.raises(ValueError, match="int8 needs at least 2 videos, got 1"):
        export_model(segments, tmp_path / "model.xml", precision="int8", videos=videos[:1])
    assert list(tmp_path.iterdir()) == []
