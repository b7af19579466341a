"""ONNX files have the outputs of the checkpoint, and only operators that other programs read."""

import json
from pathlib import Path

import pytest
import torch

from tests.inference.conftest import Export
from videoswin.data.manifest import Manifest, Sample
from videoswin.evaluation.evaluate import evaluate
from videoswin.inference.predictor import Predictor
from videoswin.weights.checkpoint import Checkpoint

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = [
    pytest.mark.timeout(600),  # compilers are slow on a busy machine
    # What the exporters' own tracing says of torch's internals.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def onnx_file(checkpoint: Checkpoint, exported: Export) -> Path:
    path, comparison = exported(checkpoint, ".onnx", "fp32")
    assert comparison.largest_difference < 1e-5
    return path


@pytest.mark.parametrize(
    ("clip", "size"),
    [
        ("checkpoint", (4, 40, 40)),
        # Another export of ten seconds, for incomplete tokens and per-clip normalization.
        pytest.param("padded", (5, 34, 34), marks=pytest.mark.slow),
    ],
)
def test_onnx_has_neither_roll_nor_pad_nor_open_sizes_but_the_batch(
    clip: str, size: tuple[int, int, int], exported: Export, request: pytest.FixtureRequest
) -> None:
    path, comparison = exported(request.getfixturevalue(clip), ".onnx", "fp32")
    assert comparison.largest_difference < 1e-5
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


def test_an_onnx_file_runs_without_this_package(onnx_file: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    pixels = torch.zeros(5, 3, 4, 40, 40, dtype=torch.uint8).numpy()
    assert session.run(["logits"], {"pixels": pixels})[0].shape == (5, 3)


def test_onnx_answers_as_the_checkpoint_does(
    checkpoint: Checkpoint, onnx_file: Path, videos: list[str]
) -> None:
    ours, theirs = Predictor.from_pretrained(onnx_file), Predictor(checkpoint, device="cpu")
    for path in videos:
        torch.testing.assert_close(ours(path).probabilities, theirs(path).probabilities, rtol=0, atol=1e-4)


def test_evaluation_runs_an_exported_file(checkpoint: Checkpoint, videos: list[str], onnx_file: Path) -> None:
    samples = tuple(Sample(path=path, labels=(0,)) for path in videos)
    manifest = Manifest(source="made", classes=checkpoint.labels, samples=samples)
    ours = evaluate(Predictor.from_pretrained(onnx_file), manifest, workers=0)
    theirs = evaluate(Predictor(checkpoint, device="cpu"), manifest, workers=0)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=0, atol=1e-4)


def test_clips_of_another_size_and_another_precision_are_refused(onnx_file: Path) -> None:
    predictor = Predictor.from_pretrained(onnx_file)
    with pytest.raises(
        ValueError, match=r"must be uint8 \(3, 4, 40, 40\), got .* a checkpoint, which supports any size"
    ):
        predictor.score(torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="precision must be fp32, the precision of"):
        Predictor.from_pretrained(onnx_file, precision="bf16")


def test_a_full_frame_is_not_for_a_file_of_fixed_size(onnx_file: Path, videos: list[str]) -> None:
    predictor = Predictor.from_pretrained(onnx_file, protocol="full-frame-1x1")
    with pytest.raises(
        ValueError, match=r"got torch.uint8 \(3, 4, 40, 53\); use a protocol with square crops"
    ):
        predictor(videos[0])
