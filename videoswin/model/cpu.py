"""Faster inference on CPUs: work in pieces that fit the cache, and linear layers with oneDNN.

Legend: C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

CACHED_NUMBERS = 2**20
"""Maximum number of elements of an intermediate result that is computed as one piece (4 MiB in float32)."""
_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16"),
}
"""Instruction sets, as in torch.cpu.get_capabilities; one of them is sufficient."""


def fits_pieces(x: Tensor) -> bool:
    """Return whether `x` may be processed in pieces: on a CPU, without gradients, tracing and autocast."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def linear(x: Tensor, layer: nn.Linear, *, gelu: bool = False) -> Tensor:
    """Apply a linear layer, and optionally exact GELU in the same pass; requires `fits_pieces(x)`.

    (..., in) -> (..., out).
    """
    if is_plain(layer, nn.Linear) and _onednn_takes(x, layer.weight):
        # torch's own float32 product uses MKL, which is slow on processors that are not Intel's.
        act = ("gelu", [None], "none") if gelu else ("none", [None], "")
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, *act)
        return out
    out = layer(x)
    return F.gelu(out) if gelu else out


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Return whether the module behaves as one of these classes: no subclass, hook or weight subclass."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    special = any(
        weight is not None and type(weight) is not nn.Parameter for weight in module._parameters.values()
    )
    return type(module) in kinds and not hooks and not special


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
