"""Foreign ONNX and OpenVINO files: other inputs and outputs, external files and libraries."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.inference.backends.test_facts import FACTS
from videoswin._errors import InputError
from videoswin.inference.predictor import Predictor
from videoswin.video.spec import ClipSpec, ViewPlan

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")

METADATA = json.loads(FACTS.to_json()) | {
    "clip": ClipSpec(frames=2, stride=1, size=4, short_side=4).to_dict(),
    "views": ViewPlan(clips=1, crops=1).to_dict(),
}
PIXELS = ["batch", 3, 2, 4, 4]


def write_onnx(path: Path, nodes: list[Any], *, pixels: list[Any] = PIXELS, weights: Any = ()) -> Path:
    """A model of these nodes, from `pixels` to `logits`."""
    types = onnx.TensorProto
    graph = onnx.helper.make_graph(
        nodes,
        "model",
        [onnx.helper.make_tensor_value_info("pixels", types.UINT8, pixels)],
        [onnx.helper.make_tensor_value_info("logits", types.FLOAT, None)],
        weights,
    )
    domains = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("other", 1)]
    model = onnx.helper.make_model(graph, opset_imports=domains, ir_version=10)
    model.metadata_props.add(key="videoswin", value=json.dumps(METADATA))
    path.write_bytes(model.SerializeToString())
    return path


def to_logits(weights: str = "weights") -> list[Any]:
    """Pixels to the first two of their sums over everything but the batch and the channel."""
    node = onnx.helper.make_node
    return [
        node("Cast", ["pixels"], ["numbers"], to=onnx.TensorProto.FLOAT),
        node("ReduceMean", ["numbers", "axes"], ["means"], keepdims=0),
        node("MatMul", ["means", weights], ["logits"]),
    ]


def constants(classes: int = 2) -> list[Any]:
    arrays = {"axes": np.array([2, 3, 4]), "weights": np.ones((3, classes), np.float32)}
    return [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]


def score(path: Path) -> torch.Tensor:
    return Predictor.from_pretrained(path).score(torch.zeros(3, 3, 2, 4, 4, dtype=torch.uint8))


def test_an_onnx_file_with_logits_for_its_labels_predicts(tmp_path: Path) -> None:
    assert score(write_onnx(tmp_path / "model.onnx", to_logits(), weights=constants())).shape == (2,)


def test_an_onnx_file_with_other_outputs_than_labels_is_one_error(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", to_logits(), weights=constants(classes=5))
    with pytest.raises(InputError, match=r"must be floating point \(3, 2\).* got torch.float32 \(3, 5\)"):
        score(path)


def test_an_onnx_file_with_another_input_is_one_error(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", to_logits(), pixels=["batch", 3, 9, 9, 9], weights=constants())
    with pytest.raises(InputError, match=r"model\.onnx cannot be run: RuntimeError: .* Got: 2 Expected: 9"):
        score(path)


@pytest.mark.parametrize(
    "location", ["../secret.bin", "{folder}/secret.bin", "/dev/zero", "link.bin", "beside.bin"]
)
def test_an_onnx_file_reads_no_other_file(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(np.ones((3, 2), np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "beside.bin").write_bytes((tmp_path / "secret.bin").read_bytes())
    axes, _ = constants()
    weights = onnx.TensorProto(name="weights", data_type=onnx.TensorProto.FLOAT, dims=[3, 2])
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location.format(folder=tmp_path))
    weights.external_data.add(key="length", value="24")
    path = write_onnx(folder / "model.onnx", to_logits(), weights=[axes, weights])
    with pytest.raises(InputError, match="must have all of its weights, got 'weights' in another file"):
        score(path)


def test_an_onnx_file_reads_no_other_file_for_a_constant_either(tmp_path: Path) -> None:
    (tmp_path / "beside.bin").write_bytes(np.ones((3, 2), np.float32).tobytes())
    weights = onnx.TensorProto(name="hidden", data_type=onnx.TensorProto.FLOAT, dims=[3, 2])
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="beside.bin")
    constant = onnx.helper.make_node("Constant", [], ["weights"], value=weights)
    path = write_onnx(tmp_path / "model.onnx", [constant, *to_logits()], weights=constants()[:1])
    with pytest.raises(InputError, match="must have all of its weights, got 'hidden' in another file"):
        score(path)


def test_an_onnx_file_names_no_library(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Run", ["pixels"], ["logits"], domain="other", library="/tmp/library.so")
    with pytest.raises(InputError, match="not a registered function"):
        score(write_onnx(tmp_path / "model.onnx", [node]))


def write_openvino(path: Path, *, classes: int = 2, inputs: int = 1, frames: int = 2) -> Path:
    from openvino import opset13 as op

    pixels = [op.parameter([-1, 3, frames, 4, 4], np.uint8, f"pixels{i}") for i in range(inputs)]
    numbers = op.convert(pixels[-1], "f32")
    means = op.reduce_mean(numbers, np.array([2, 3, 4]), keep_dims=False)
    logits = op.matmul(means, op.constant(np.ones((3, classes), np.float32)), False, False)
    model = openvino.Model([logits], pixels, "model")
    model.set_rt_info(json.dumps(METADATA), ["videoswin"])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def test_an_openvino_file_with_logits_for_its_labels_predicts(tmp_path: Path) -> None:
    assert score(write_openvino(tmp_path / "model.xml")).shape == (2,)


def test_an_openvino_file_with_other_outputs_or_inputs_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "model.xml"
    with pytest.raises(InputError, match=r"must be floating point \(3, 2\).* got torch.float32 \(3, 5\)"):
        score(write_openvino(path, classes=5))
    with pytest.raises(InputError, match=r"OpenVINO cannot run .*model\.xml"):
        score(write_openvino(path, inputs=2))
    with pytest.raises(InputError, match=r"model\.xml cannot be run: RuntimeError"):
        score(write_openvino(path, frames=7))


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ('type="MatMul" version="opset1"', 'type="Run" version="/tmp/library.so"'),
        ('offset="0"', 'offset="1000000000000"'),
        ('offset="0"', 'offset="-64"'),
        ("<net ", "<other "),
    ],
)
def test_an_openvino_file_names_no_library_and_reads_its_weights_alone(
    text: str, other: str, tmp_path: Path
) -> None:
    path = write_openvino(tmp_path / "model.xml")
    contents = path.read_text()
    assert text in contents
    path.write_text(contents.replace(text, other))
    with pytest.raises(InputError, match="OpenVINO cannot read"):
        score(path)
