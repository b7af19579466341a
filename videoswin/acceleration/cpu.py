"""Faster inference and training on CPUs: work in pieces that fit the cache, and linear layers with oneDNN.

Legend: B batch, D H W token grid, N tokens per box, C = heads * head_dim channels.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from videoswin.acceleration.block import Branch, InferenceBlock, is_plain
from videoswin.model.attention import WindowAttention, box_attention, box_bias
from videoswin.model.swin import MLP
from videoswin.model.windows import WindowGeometry, pad_axes

logger = logging.getLogger(__name__)

CACHED_NUMBERS = 2**20
"""Maximum number of elements of an intermediate result that is computed as one piece (4 MiB in float32)."""
_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16"),
}
"""Instruction sets, as in torch.cpu.get_capabilities; one of them is sufficient."""


class CPUBlock(InferenceBlock):
    """A block that computes both branches in pieces that fit the cache."""

    def supports(self, branch: Branch, x: Tensor) -> bool:
        """Return whether the tokens are on a CPU and not traced; attention must be `box_attention`."""
        replaced = branch == "attention" and self.attn.attention is not box_attention
        return x.device.type == "cpu" and not replaced and not torch.compiler.is_compiling()

    def fast_attention(self, x: Tensor) -> Tensor:
        """Add the attention branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        return x + attention_in_pieces(self.norm1(x), self.attn)

    def fast_mlp(self, x: Tensor) -> Tensor:
        """Add the MLP branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        return x + mlp_in_pieces(self.norm2(x), self.mlp)


def attention_in_pieces(x: Tensor, attn: WindowAttention) -> Tensor:
    """Compute both linear layers and box attention for a few boxes at a time, without gradients.

    Tokens are gathered before qkv triples their size, so that qkv fits the cache.
    (B, D, H, W, C) -> (B, D, H, W, C).
    """
    b, d, h, w, c = x.shape
    geometry = attn.geometry_of(x)
    x = pad_axes(x, geometry.grid)
    tokens = x.flatten(1, 3)  # (B, tokens of the padded grid, C)
    out = torch.empty_like(tokens)
    for boxes in geometry.boxes:
        bias = box_bias(attn.relative_position_bias_table, boxes, x.dtype)  # (1, heads, N, N)
        n = bias.shape[-1]
        few = max(1, CACHED_NUMBERS // (b * n * 3 * c))
        for places in torch.split(boxes.tokens, few * n):
            gathered = tokens.index_select(1, places)  # (B, few*N, C)
            qkv = linear(gathered, attn.qkv).view(-1, n, 3, attn.heads, c // attn.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B*few, heads, N, head_dim)
            attended = _attend(q, k, v, bias).transpose(1, 2).reshape(b, -1, c)  # (B, few*N, C)
            out.index_copy_(1, places, linear(attended, attn.proj))
    return out.view(x.shape)[:, :d, :h, :w]


def mlp_in_pieces(x: Tensor, mlp: MLP) -> Tensor:
    """Apply the MLP to a few tokens at a time, without gradients: (..., C) -> (..., C).

    The hidden layer is the largest tensor of the model.
    """
    pieces = torch.split(x.flatten(0, -2), max(1, CACHED_NUMBERS // mlp.fc1.out_features))
    return torch.cat([linear(linear(p, mlp.fc1, gelu=True), mlp.fc2) for p in pieces]).view(x.shape)


def recompute_attention(qkv: Tensor, bias_table: Tensor, geometry: WindowGeometry) -> Tensor:
    """Compute `box_attention` with a backward pass that recomputes the attention weights; see AttentionFn.

    It is for training on CPUs, where it needs much less memory.

    Args:
        qkv: (B, D, H, W, 3, heads, head_dim).
        bias_table: (offsets, heads).
        geometry: How the grid is partitioned into windows.

    Returns:
        (B, D, H, W, heads * head_dim).
    """
    return box_attention(qkv, bias_table, geometry, _recomputed)


def _recomputed(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    if not bias.requires_grad or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    out: Tensor = _RecomputeAttention.apply(q, k, v, bias)  # type: ignore[no-untyped-call]
    return out


class _RecomputeAttention(torch.autograd.Function):
    """Attention whose backward pass recomputes the attention weights, a few boxes at a time.

    torch's fused CPU kernel has no gradient of the bias. With a trainable bias, torch falls back to separate
    operations that keep the attention weights of all boxes, (B*boxes, heads, N, N), for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.detach())
        ctx.save_for_backward(q, k, v, bias, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        *saved, bias, out = ctx.saved_tensors
        scale = saved[0].shape[-1] ** -0.5
        few = max(1, CACHED_NUMBERS // (2 * bias.numel()))  # boxes whose weights and gradients fit the cache
        grad_bias = torch.zeros_like(bias, dtype=torch.promote_types(bias.dtype, torch.float32))
        grads = []
        for q, k, v, o, up in zip(*(x.split(few) for x in (*saved, out, upstream)), strict=True):
            weights = (q @ k.mT).mul_(scale).add_(bias).softmax(-1)  # (few, heads, N, N)
            grad_logits = weights * (up @ v.mT - (up * o).sum(-1, keepdim=True))
            grad_bias += grad_logits.sum(0)
            grads.append((grad_logits @ k * scale, grad_logits.mT @ q * scale, weights.mT @ up))
        grad_q, grad_k, grad_v = map(torch.cat, zip(*grads, strict=True))
        return grad_q, grad_k, grad_v, grad_bias.to(bias.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Compute softmax(q k / sqrt(head_dim) + bias) v.

    q, k and v are (B*boxes, heads, N, head_dim), and the bias is (1, heads, N, N).
    """
    if q.dtype == torch.bfloat16 and has_instructions_for(q.dtype):
        return _attend_in_steps(q, k, v, bias)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _attend_in_steps(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Compute attention as products and a softmax, which is faster for bfloat16 on a CPU.

    This was measured on processors with AVX-512 and without AMX; none with AMX was available. If bfloat16 is
    emulated, torch's fused kernel is faster. The attention weights of a few boxes at a time fit the cache.
    Unlike in the fused kernel, logits are rounded to bfloat16 before the softmax.
    """
    few = max(1, CACHED_NUMBERS // bias.numel())
    outputs = []
    for q_few, k_few, v_few in zip(*(x.split(few) for x in (q * q.shape[-1] ** -0.5, k, v)), strict=True):
        weights = (q_few @ k_few.mT).add_(bias).softmax(-1)  # (few, heads, N, N)
        outputs.append(weights @ v_few)
    return torch.cat(outputs)


def linear(x: Tensor, layer: nn.Linear, *, gelu: bool = False) -> Tensor:
    """Apply a linear layer, and optionally exact GELU in the same pass, without gradients and autocast.

    (..., in) -> (..., out).

    Args:
        x: (..., in).
        layer: Linear layer; its weight is (out, in).
        gelu: Whether to apply GELU to the output.
    """
    if is_plain(layer, nn.Linear) and _onednn_takes(x, layer.weight):
        # torch's own float32 product uses MKL, which is slow on processors that are not Intel's.
        act = ("gelu", [None], "none") if gelu else ("none", [None], "")
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, *act)
        return out
    out = layer(x)
    return F.gelu(out) if gelu else out


def _onednn_takes(x: Tensor, weight: Tensor) -> bool:
    return (
        torch._C._get_mkldnn_enabled()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and has_instructions_for(x.dtype)
        # Tools that count operations expect the ordinary ones.
        and not is_in_torch_dispatch_mode()
    )


def has_instructions_for(dtype: torch.dtype) -> bool:
    """Return whether this CPU has native arithmetic for `dtype`; emulation is slow.

    Return False for half precision on processors other than x86, where nothing has been measured.
    """
    capabilities = torch.cpu.get_capabilities()
    return dtype not in _INSTRUCTIONS or any(capabilities.get(name) for name in _INSTRUCTIONS[dtype])


def warn_if_emulated(device: torch.device | str, dtype: torch.dtype) -> None:
    """Log a warning if the CPU emulates this precision.

    Args:
        device: Device of the model; only CPUs emulate.
        dtype: Type of weights and activations.
    """
    if torch.device(device).type == "cpu" and not has_instructions_for(dtype):
        name = str(dtype).removeprefix("torch.")
        logger.warning(
            "this CPU has no instructions for %s and emulates it, which is slow: use float32", name
        )
