"""Expand the position bias for the kernels, and reduce its gradient deterministically, without atomics.

Legend: see indices.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from videoswin.acceleration.triton.tiles import padded_length

LOG2_E = 1.4426950408889634
"""Logits are base-2 logarithms, because exp2 is one instruction and exp two."""


def expand_bias(bias_table: Tensor, bias_index: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias of every pair times log2(e), (heads, N, N padded), with -inf in the padding.

    It is transposed if the index is. For bfloat16 attention it is also float16, which is eight times as
    precise with the same size; no trained bias is near its limit of 65504.
    """
    n, heads = len(bias_index), bias_table.shape[1]
    padded = padded_length(n)
    kept = torch.float32 if dtype == torch.float32 else torch.float16
    bias = torch.empty(heads, n, padded, dtype=kept, device=bias_table.device)
    block = 1024
    with torch.cuda.device_of(bias):
        _expand_kernel[(triton.cdiv(n * padded, block),)](
            bias_table.contiguous(),
            bias_index,
            bias,
            LOG2_E,
            heads,
            *bias_index.stride(),
            n,
            padded,
            BLOCK=block,
        )
    return bias


@triton.jit
def _expand_kernel(
    TABLE, INDEX, BIAS, log2_e, heads, query_stride, key_stride, n, padded, BLOCK: tl.constexpr
):
    """Expand BLOCK pairs for all heads, so that the index is read once."""
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    query, key = pair // padded, pair % padded
    real = (query < n) & (key < n)
    row = tl.load(INDEX + query * query_stride + key * key_stride, mask=real, other=0)
    for head in range(heads):
        bias = tl.load(TABLE + row * heads + head, mask=real, other=float("-inf")).to(tl.float32) * log2_e
        at = BIAS + (head * n).to(tl.int64) * padded + pair
        tl.store(at, bias.to(BIAS.dtype.element_ty), mask=query < n)


def table_gradient(pair_gradients: Tensor, bias_index: Tensor, offsets: int) -> Tensor:
    """Reduce the gradient of every pair's bias (heads, N, N) to that of the table (offsets, heads), float32.

    The index of the pairs of one offset is built in every call, because a cache filled during the capture of
    a CUDA graph would outlive the graph's memory.
    """
    heads, n, _ = pair_gradients.shape
    key_at = torch.full((offsets, n), -1, dtype=torch.int32, device=bias_index.device)
    gradient = torch.empty(offsets, heads, dtype=torch.float32, device=bias_index.device)
    block = 1024
    with torch.cuda.device_of(gradient):
        _invert_kernel[(triton.cdiv(n * n, block),)](bias_index.contiguous(), key_at, n, BLOCK=block)
        _collect_kernel[(offsets, heads)](pair_gradients, key_at, gradient, heads, n, BLOCK=512)
    return gradient


@triton.jit
def _invert_kernel(INDEX, KEY_AT, n, BLOCK: tl.constexpr):
    """Set KEY_AT[offset, query] = key; a query has at most one key per offset, so writes do not collide."""
    pair = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = pair < n * n
    offset = tl.load(INDEX + pair, mask=real, other=0)
    tl.store(KEY_AT + offset * n + pair // n, pair % n, mask=real)


@triton.jit
def _collect_kernel(PAIRS, KEY_AT, GRADIENT, heads, n, BLOCK: tl.constexpr):
    """Sum the gradients of one offset and head."""
    offset, head = tl.program_id(0), tl.program_id(1)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        query = start + tl.arange(0, BLOCK)
        key = tl.load(KEY_AT + offset * n + query, mask=query < n, other=-1)
        pair = (head * n + query).to(tl.int64) * n + key
        total += tl.load(PAIRS + pair, mask=key >= 0, other=0.0)
    tl.store(GRADIENT + offset * heads + head, tl.sum(total))
