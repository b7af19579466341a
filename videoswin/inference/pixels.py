"""PixelModel: a model and the normalization of its clips as one module, from uint8 pixels to logits.

Pixels stay uint8 until they are on the model's device. A fixed mean and standard deviation are folded into
the patch embedding, so that no normalized copy of a clip is needed.

Legend: V views, T frames, H W height and width of a view, C channels, K classes.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn

from videoswin.model.config import PATCH
from videoswin.model.swin import VideoSwin, patches
from videoswin.video.spec import Normalization
from videoswin.video.views import mean_and_std, normalize

CENTER: Final = 128.0
"""Subtracted from every pixel first: -128 to 127 are exact in bfloat16, and rounding errors of the weights
are multiplied by smaller values."""


class PixelModel(nn.Module):
    """A VideoSwin with uint8 input: pixels (V, 3, T, H, W) -> logits (V, K), in the model's precision."""

    def __init__(self, model: VideoSwin, normalization: Normalization | Literal["per-clip"]) -> None:
        super().__init__()
        self.model = model
        self.normalization = normalization
        if isinstance(normalization, Normalization):
            # Created here, because a CUDA graph cannot copy Python floats to a device. Not buffers, because
            # those would be rounded with the model.
            self._mean, self._std = mean_and_std(normalization, model.patch_embed.proj.weight.device)
        self.training = model.training  # train() would also change the model

    def forward(self, pixels: Tensor) -> Tensor:
        embedding = self.model.patch_embed
        dtype = embedding.proj.weight.dtype
        # Incomplete tokens are padded with zeros after the normalization, which no pixel value can represent.
        whole = all(size % patch == 0 for size, patch in zip(pixels.shape[2:], PATCH, strict=True))
        if whole and isinstance(self.normalization, Normalization) and not _has_hooks(self.model):
            weight, bias = self._folded_weights(embedding.proj)
            return self.model.classify(embedding.embed(patches(pixels).to(dtype) - CENTER, weight, bias))
        logits: Tensor = self.model(self._normalized(pixels).to(dtype))
        return logits

    def _normalized(self, pixels: Tensor) -> Tensor:
        """Normalize pixels without copying constants to the device."""
        if not isinstance(self.normalization, Normalization):
            return normalize(pixels, self.normalization)
        mean, std = (each.to(pixels.device) for each in (self._mean, self._std))
        return (pixels.to(torch.float32) - mean) / std

    def _folded_weights(self, proj: nn.Conv3d) -> tuple[Tensor, Tensor]:
        """Return weight and bias with which pixels minus CENTER give the output of `proj` of normalized ones.

        They are computed for each batch, because they are small and the weights may have changed.
        """
        assert proj.bias is not None
        weight, bias = proj.weight.float(), proj.bias.float()
        mean, std = (each.to(weight.device) for each in (self._mean, self._std))
        weight = weight / std  # (C, 3, 2, 4, 4)
        bias = bias - (weight * (mean - CENTER)).sum((1, 2, 3, 4))
        return weight.to(proj.weight.dtype), bias.to(proj.bias.dtype)


def _has_hooks(model: VideoSwin) -> bool:
    """Return whether the model must be called as a whole, because of hooks or compilation in place."""
    modules = (model, model.patch_embed)
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    return hooked or model._compiled_call_impl is not None
