"""Compile every kernel for a GPU that is not there, as its launcher calls it; prints a line for each.

    python -m tests.acceleration.compile_for_gpus 90

In a process of its own, because Triton either compiles or interprets.
"""

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from videoswin.acceleration.triton.backward import attention_backward
from videoswin.acceleration.triton.forward import attention_forward
from videoswin.acceleration.triton.linear import linear_add, norm_linear, norm_mlp_add
from videoswin.model.windows import Grid, bias_table_rows, window_geometry


class NoDevice:
    """As much of Triton's driver as it takes to get from a call to machine code, and no further."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 99 * 1024}  # of consumer cards, the smallest from sm_80 on

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, ...]:
        print(name, len(binary), shared)
        return 1, 1, 0, 0, 1024

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *arguments, **options: None


def compile_all(window: Grid, shift: Grid, dtype: torch.dtype, heads: int, width: int) -> None:
    """Launch forward and backward on a grid of two windows an axis."""
    grid = (2 * window[0], 2 * window[1], 2 * window[2])
    geometry = window_geometry(grid, window, shift, False, torch.device("cpu"))
    qkv = torch.zeros(1, *grid, 3, heads, width, dtype=dtype)
    table = torch.zeros(bias_table_rows(window), heads)
    cut = (geometry.window, geometry.shift)
    out, log_sums = attention_forward(qkv, table, geometry.bias_index, *cut)
    attention_backward(out, qkv, table, geometry.bias_index, out, log_sums, *cut)


def compile_linear(channels: int, dtype: torch.dtype, rows: int) -> None:
    """Launch the linear layers of a fused block on some tokens."""
    x, vector = torch.zeros(rows, channels, dtype=dtype), torch.zeros(4 * channels, dtype=dtype)
    narrow, matrix = vector[:channels], torch.zeros(4 * channels, channels, dtype=dtype)
    norm = (narrow, narrow, 1e-5)
    norm_linear(x, *norm, matrix[: 3 * channels], vector[: 3 * channels])
    linear_add(x, matrix[:channels], narrow, x)
    norm_mlp_add(x, *norm, matrix, vector, matrix.view(channels, -1), narrow)


if __name__ == "__main__":
    triton.runtime.driver.set_active(NoDevice(int(sys.argv[1])))
    compile_all((1, 7, 7), (0, 3, 3), torch.bfloat16, 3, 32)
    compile_linear(96, torch.bfloat16, 64)
