"""torch.compile and torch.export capture the whole model as one graph and do not pollute the cache."""

import copy
import shutil

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from videoswin.model.config import NANO
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import _cached_geometry

pytestmark = pytest.mark.timeout(600)  # compilers are slow on a busy machine

SMALLEST = NANO.replace(depths=(1, 2), num_heads=(1, 2))


@pytest.fixture
def model() -> VideoSwin:
    torch.manual_seed(0)
    torch._dynamo.reset()
    _cached_geometry.cache_clear()
    return VideoSwin(SMALLEST).eval()


def clips(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def test_compiled_model_is_one_graph_at_any_size(model: VideoSwin) -> None:
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for size in [(1, 3, 8, 40, 40), (2, 3, 12, 48, 40)]:
            torch.testing.assert_close(compiled(clips(*size)), model(clips(*size)))


def test_compiled_model_trains(model: VideoSwin) -> None:
    eager = copy.deepcopy(model)
    torch.compile(model, backend="aot_eager", fullgraph=True)(clips(2, 3, 8, 40, 40)).sum().backward()
    eager(clips(2, 3, 8, 40, 40)).sum().backward()
    for compiled, expected in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(compiled.grad, expected.grad)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile for CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # importing inductor says so
def test_inductor_compiles_the_model() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = VideoSwin(NANO.replace(depths=(2,), num_heads=(1,))).eval()
    with torch.no_grad():
        logits = torch.compile(model, fullgraph=True)(clips(1, 3, 8, 40, 40))
        torch.testing.assert_close(logits, model(clips(1, 3, 8, 40, 40)))


@pytest.mark.parametrize("strict", [False, True])
def test_exported_model_takes_any_batch(model: VideoSwin, strict: bool) -> None:
    exported = torch.export.export(
        model,
        (clips(2, 3, 8, 40, 40),),
        dynamic_shapes={"clips": {0: torch.export.Dim.DYNAMIC}},
        strict=strict,
    )
    program = exported.module()
    for batch in (1, 5):
        torch.testing.assert_close(program(clips(batch, 3, 8, 40, 40)), model(clips(batch, 3, 8, 40, 40)))
    made = [node.target for node in exported.graph.nodes if "arange" in str(node.target)]
    assert not made  # the geometry is in the program as constants


def test_tracing_leaves_only_real_tensors_in_the_cache(model: VideoSwin) -> None:
    torch.export.export(model, (clips(1, 3, 8, 40, 40),))
    grid_of_first_stage = (4, 10, 10)
    geometry = _cached_geometry(grid_of_first_stage, (4, 4, 4), (0, 0, 0), False, torch.device("cpu"))
    assert _cached_geometry.cache_info().hits >= 1
    for tensor in (geometry.restore, geometry.bias_index, geometry.boxes[0].tokens):
        assert not isinstance(tensor, FakeTensor)
    assert model(clips(1, 3, 8, 40, 40)).isfinite().all()
