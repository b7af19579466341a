"""A whole model made faster without another line of mathematics: compiled blocks, or one captured graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videoswin.model.swin import Block, VideoSwin


def compile_blocks(model: VideoSwin, backend: str = "inductor") -> VideoSwin:
    """The model itself, with each block to be compiled when it first runs: slow at first, then fewer kernels.

    Block by block, because blocks that differ in their weights alone share a graph, where compiling the model
    whole would make one graph as long as all of them. Every stage, parity of blocks, drop path, mode and
    input size needs one of its own: torch's limit for that, of the whole process, is raised.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for module in model.modules():
        if isinstance(module, Block):
            # Windows depend on the size of the grid, so a graph for all sizes would not be a graph.
            module.compile(fullgraph=True, dynamic=False, backend=backend)
    return model


class CapturedModel:
    """Logits of one shape of clips by replaying a CUDA graph, as launches take longer than small batches."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        """model: a VideoSwin, or a PixelModel around one.

        example: what it will get, clips or pixels (B, in, T, H, W), on its GPU; ValueError elsewhere.

        The graph reads the model's weights where they are: changed values count, moved weights do not. If the
        clips are to be computed under autocast, capture there, with cache_enabled=False.
        """
        if example.device.type != "cuda":
            raise ValueError(f"a graph is captured on a CUDA device, got clips on {example.device}")
        if model.training:
            raise ValueError("a graph is captured of a model that predicts; call model.eval() first")
        self._clips = example.clone()
        with torch.cuda.device(example.device), torch.no_grad():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            # What is made once (kernels, workspaces, geometries) must not be made inside the graph.
            with torch.cuda.stream(side):
                for _ in range(3):
                    model(self._clips)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._logits: Tensor = model(self._clips)

    def __call__(self, clips: Tensor) -> Tensor:
        """(B, in, T, H, W) of the example's shape and type -> logits (B, K), the caller's to keep."""
        wanted, got = ((tuple(each.shape), each.dtype) for each in (self._clips, clips))
        if wanted != got:
            raise ValueError(f"captured for clips {wanted}, got {got}")
        self._clips.copy_(clips)
        self._graph.replay()
        return self._logits.clone()
