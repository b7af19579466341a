"""OpenVINO files quantized to int8: what is multiplied in int8, and what is not."""

from pathlib import Path

import pytest

from tests.inference.conftest import Export
from videoswin.inference.predictor import Predictor
from videoswin.weights.checkpoint import Checkpoint

openvino = pytest.importorskip("openvino")
pytest.importorskip("nncf")

pytestmark = [
    pytest.mark.slow,  # nncf quantizes one operation after the other
    pytest.mark.timeout(600),  # compilers are slow on a busy machine
    # What the exporters' own tracing says of torch's internals.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def int8(checkpoint: Checkpoint, exported: Export) -> Path:
    path, comparison = exported(checkpoint, ".xml", "int8")
    assert 1e-5 < comparison.largest_difference < 0.2
    assert comparison.top1_agreement > 0.8
    return path


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
        [16, 96],
        [3, 32],
    ]


def _type_behind(source: object) -> str:
    """The kind of the operation that a value comes from, through changes of scale and shape."""
    node = source.get_node()  # type: ignore[attr-defined]
    while node.get_type_name() in {"Multiply", "Subtract", "Reshape", "Transpose", "VariadicSplit"}:
        node = node.input_value(0).get_node()
    return str(node.get_type_name())


def test_an_int8_file_is_smaller_and_predicts(
    int8: Path, videos: list[str], checkpoint: Checkpoint, exported: Export
) -> None:
    layers = sum(
        t.numel() for name, t in checkpoint.weights.items() if name.endswith(("fc1.weight", "fc2.weight"))
    )
    # The same model with all constants in float16.
    half = exported(checkpoint, ".xml", "bf16")[0].with_suffix(".bin").stat().st_size
    # The MLPs alone are half of the weights, and lose a byte a number.
    assert int8.with_suffix(".bin").stat().st_size < half - 0.9 * layers
    prediction = Predictor.from_pretrained(int8)(videos[0])
    assert prediction.probabilities.sum().item() == pytest.approx(1, abs=1e-4)
