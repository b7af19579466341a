"""From uint8 pixels to logits: a model and the normalization of its clips as one module.

Pixels stay uint8 until the model's device. A fixed mean and standard deviation become part of the patch
embedding, so that no normalized copy of a clip is ever made.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn

from videoswin.model.config import PATCH
from videoswin.model.swin import VideoSwin, patches
from videoswin.video.spec import Normalization
from videoswin.video.transforms import mean_and_std, normalize

CENTER: Final = 128.0
"""Taken from every pixel first: -128 to 127 are exact in bfloat16, and what the weights lose by rounding is
then multiplied by small numbers."""


class PixelModel(nn.Module):
    """A VideoSwin that eats pixels: uint8 (V, 3, T, S, S) -> logits (V, K), in the model's own precision."""

    def __init__(self, model: VideoSwin, normalization: Normalization | Literal["per-clip"]) -> None:
        super().__init__()
        self.model = model
        self.normalization = normalization
        if isinstance(normalization, Normalization):
            # Now, because a CUDA graph cannot hold copies of Python's numbers to a device. Not as buffers,
            # which would be rounded with the model.
            self._mean, self._std = mean_and_std(normalization, model.patch_embed.proj.weight.device)
        self.training = model.training  # train() would change the model, too

    def forward(self, pixels: Tensor) -> Tensor:
        embedding = self.model.patch_embed
        dtype = embedding.proj.weight.dtype
        # What fills up incomplete tokens is zero after the normalization, and of no color before.
        whole = all(size % patch == 0 for size, patch in zip(pixels.shape[2:], PATCH, strict=True))
        if whole and isinstance(self.normalization, Normalization) and not _is_watched(self.model):
            weight, bias = self._folded(embedding.proj)
            return self.model.classify(embedding.embed(patches(pixels).to(dtype) - CENTER, weight, bias))
        logits: Tensor = self.model(self._normalized(pixels).to(dtype))
        return logits

    def _normalized(self, pixels: Tensor) -> Tensor:
        """`normalize` without copies to the device."""
        if not isinstance(self.normalization, Normalization):
            return normalize(pixels, self.normalization)
        mean, std = (each.to(pixels.device) for each in (self._mean, self._std))
        return (pixels.to(torch.float32) - mean) / std

    def _folded(self, proj: nn.Conv3d) -> tuple[Tensor, Tensor]:
        """Weight and bias that do to pixels minus CENTER what `proj` does to normalized ones.

        Made anew for each batch: they are small, and weights may have changed.
        """
        assert proj.bias is not None
        weight, bias = proj.weight.float(), proj.bias.float()
        mean, std = (each.to(weight.device) for each in (self._mean, self._std))
        weight = weight / std  # (C, 3, 2, 4, 4)
        bias = bias - (weight * (mean - CENTER)).sum((1, 2, 3, 4))
        return weight.to(proj.weight.dtype), bias.to(proj.bias.dtype)


def _is_watched(model: VideoSwin) -> bool:
    """Whether somebody relies on the model being called as a whole: by hooks, or compiled in place."""
    modules = (model, model.patch_embed)
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    return hooked or model._compiled_call_impl is not None
