"""InferenceBlock, the base class of blocks that compute a plain block's branches faster.

A block adds two branches, attention and the MLP, to its tokens.

Legend: B batch, D H W token grid, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from videoswin.model.attention import WindowAttention
from videoswin.model.swin import MLP, Block, Stage

Branch = Literal["attention", "mlp"]
BRANCHES: tuple[Branch, ...] = ("attention", "mlp")


class InferenceBlock(Block):
    """A block with the layers of another one, for inference; it has no parameters of its own.

    It computes the plain branch where a subclass has no faster one, with gradients, drop path or autocast,
    and if a layer was replaced or has hooks.
    """

    def __init__(self, block: Block) -> None:
        """Create a block that shares the layers of `block`."""
        nn.Module.__init__(self)  # Block.__init__ would create new layers
        self.training, self.drop_path = block.training, block.drop_path
        self.norm1, self.attn = block.norm1, block.attn
        self.norm2, self.mlp = block.norm2, block.mlp

    def supports(self, branch: Branch, x: Tensor) -> bool:
        """Return whether this class has a faster branch for tokens (B, D, H, W, C)."""
        return False

    def fast_attention(self, x: Tensor) -> Tensor:
        """Add the attention branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        raise NotImplementedError

    def fast_mlp(self, x: Tensor) -> Tensor:
        """Add the MLP branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        raise NotImplementedError

    def add_attention(self, x: Tensor) -> Tensor:
        """Add the attention branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        known = is_plain(self.attn, WindowAttention) and _are_plain(self.norm1, self.attn.qkv, self.attn.proj)
        if known and self._is_inference(x) and self.supports("attention", x):
            return self.fast_attention(x)
        return super().add_attention(x)

    def add_mlp(self, x: Tensor) -> Tensor:
        """Add the MLP branch to the tokens: (B, D, H, W, C) -> (B, D, H, W, C)."""
        known = is_plain(self.mlp, MLP) and _are_plain(self.norm2, self.mlp.fc1, self.mlp.fc2)
        if known and self._is_inference(x) and self.supports("mlp", x):
            return self.fast_mlp(x)
        return super().add_mlp(x)

    def _is_inference(self, x: Tensor) -> bool:
        drops_paths = self.training and self.drop_path > 0.0
        casts = torch.is_autocast_enabled(x.device.type)
        return not (torch.is_grad_enabled() or casts or drops_paths)


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Return whether the module behaves as one of these classes: no subclass, hook or weight subclass."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    special = any(
        weight is not None and type(weight) is not nn.Parameter for weight in module._parameters.values()
    )
    return type(module) in kinds and not hooks and not special


def _are_plain(norm: nn.Module, *layers: nn.Module) -> bool:
    """Return whether these are a plain LayerNorm and plain linear layers, all with weight and bias."""
    plain = is_plain(norm, nn.LayerNorm) and all(is_plain(layer, nn.Linear) for layer in layers)
    return plain and all(each.weight is not None and each.bias is not None for each in (norm, *layers))


def replace_blocks(stage: Stage, replace: Callable[[Block], Block]) -> None:
    """Replace the blocks of a stage in place; other subclasses of Block, and blocks with hooks, are kept.

    Args:
        stage: Stage of the model.
        replace: Returns a new block with the layers of the old one.
    """
    for number, block in enumerate(stage.blocks):
        known = type(block) is Block or isinstance(block, InferenceBlock)
        if known and is_plain(block, type(block)):
            assert isinstance(block, Block)
            stage.blocks[number] = replace(block)
