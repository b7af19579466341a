"""torch.compile and torch.export capture the whole model as one graph and do not pollute the cache."""

import copy

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from videoswin.model.config import NANO
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import _cached_geometry, window_geometry

SMALLEST = NANO.replace(embed_dim=8, depths=(2,), num_heads=(1,), window=(1, 1, 2))
GRID_OF_FIRST_STAGE = (1, 4, 3)


@pytest.fixture
def model() -> VideoSwin:
    torch.manual_seed(0)
    torch._dynamo.reset()
    _cached_geometry.cache_clear()
    return VideoSwin(SMALLEST).eval()


def clips(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def test_compiled_model_is_one_graph_at_any_size_and_trains(model: VideoSwin) -> None:
    eager = copy.deepcopy(model)
    # The steps after the capture are slow; tests of compile_blocks and triton_attention have them.
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(clips(2, 3, 2, 16, 12)), eager(clips(2, 3, 2, 16, 12)))
    for each in (compiled, eager):
        each(clips(2, 3, 2, 16, 20)).sum().backward()
    for mine, expected in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_model_takes_any_batch(model: VideoSwin, strict: bool, monkeypatch) -> None:
    if strict:  # torch.compiler.assume_constant_result sets it; undone here for the other tests
        monkeypatch.setattr(window_geometry, "_dynamo_marked_constant", False, raising=False)
        torch.compiler.assume_constant_result(window_geometry)
    exported = torch.export.export(
        model,
        (clips(2, 3, 2, 16, 12),),
        dynamic_shapes={"clips": {0: torch.export.Dim.DYNAMIC}},
        strict=strict,
    )
    program = exported.module()
    for batch in (1, 5):
        torch.testing.assert_close(program(clips(batch, 3, 2, 16, 12)), model(clips(batch, 3, 2, 16, 12)))
    made = [node.target for node in exported.graph.nodes if "arange" in str(node.target)]
    assert not made  # the geometry is in the program as constants
    # Tracing left only real tensors in the cache.
    geometry = _cached_geometry(GRID_OF_FIRST_STAGE, SMALLEST.window, (0, 0, 0), False, torch.device("cpu"))
    assert _cached_geometry.cache_info().hits >= 1
    for tensor in (geometry.restore, geometry.bias_index, geometry.boxes[0].tokens):
        assert not isinstance(tensor, FakeTensor)
