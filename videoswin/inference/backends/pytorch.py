"""Run a checkpoint with PyTorch: PyTorchBackend, and PixelModel, a VideoSwin that takes uint8 pixels.

Pixels stay uint8 until they are on the model's device. A fixed mean and standard deviation are folded into
the patch embedding, so that no normalized copy of a clip is needed.

Legend: V views, T frames, H W height and width of a view, C channels, K classes.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn

from videoswin._errors import InputError
from videoswin.acceleration import optimize_for_inference
from videoswin.inference.backends import Precision
from videoswin.model.config import PATCH
from videoswin.model.swin import VideoSwin, extract_patches
from videoswin.video.spec import Normalization
from videoswin.video.views import mean_and_std, normalize
from videoswin.weights.checkpoint import Checkpoint

PRECISIONS: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CENTER: Final = 128.0
"""Subtracted from every pixel first: -128 to 127 are exact in bfloat16, and rounding errors of the weights
are multiplied by smaller values."""


class PyTorchBackend:
    """The VideoSwin of a checkpoint in PyTorch, on any device and in any precision.

    Attributes: metadata, device, model (VideoSwin in eval mode), pixel_model (PixelModel of `model`).
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: Precision = "fp32") -> None:
        """Create the model and move it to the device.

        Args:
            checkpoint: Checkpoint of an RGB model.
            device: Device of weights and activations.
            precision: Precision of weights and activations.

        Raises:
            InputError: The model does not take RGB videos.
        """
        if checkpoint.config.in_channels != 3:
            raise InputError(
                f"{checkpoint.name} must take RGB videos, got {checkpoint.config.in_channels} channels"
            )
        self.metadata = checkpoint.export_metadata(precision)
        self.device = device
        self.model = optimize_for_inference(checkpoint.model(), device, PRECISIONS[precision])
        self.pixel_model = PixelModel(self.model, checkpoint.clip.normalization)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Compute logits (V, K) of uint8 pixels (V, 3, T, H, W), in the precision of the model."""
        logits: Tensor = self.pixel_model(pixels.to(self.device))
        return logits

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Compute the normalized tokens of the last stage.

        Pixels (V, 3, T, H, W), uint8, -> (V, T', H', W', C), in the precision of the model.
        `model.forward_head` gives the logits of `__call__` for them.
        """
        features: Tensor = self.pixel_model(pixels.to(self.device), pooled=False)
        return features


class PixelModel(nn.Module):
    """A VideoSwin with uint8 input: pixels (V, 3, T, H, W) -> logits (V, K), in the model's precision.

    The weights of the patch embedding are read once, here; all other weights are those of `model`. After a
    change of the patch embedding (its values, type or device), create a new PixelModel. Hooks and compilation
    of the model or of its patch embedding may be added at any time.
    """

    def __init__(self, model: VideoSwin, normalization: Normalization | Literal["per-clip"]) -> None:
        super().__init__()
        self.model = model
        self.normalization = normalization
        self.training = model.training  # train() would also change the model
        if isinstance(normalization, Normalization):
            proj = model.patch_embed.proj
            assert proj.bias is not None
            # No buffers, because those would be rounded with the model. They are created here, because a CUDA
            # graph cannot copy Python floats to a device.
            self._mean, self._std = mean_and_std(normalization, proj.weight.device)
            # Applied to pixels minus CENTER, they give the output of `proj` for normalized pixels.
            weight = proj.weight.detach().float() / self._std  # (C, 3, 2, 4, 4)
            bias = proj.bias.detach().float() - (weight * (self._mean - CENTER)).sum((1, 2, 3, 4))
            self._weight, self._bias = weight.to(proj.weight.dtype), bias.to(proj.bias.dtype)

    def forward(self, pixels: Tensor, *, pooled: bool = True) -> Tensor:
        """Return logits (V, K), or else the normalized tokens (V, T', H', W', C) of the last stage."""
        embedding = self.model.patch_embed
        # Incomplete tokens are padded with zeros after the normalization, which no pixel value can represent.
        whole = all(size % patch == 0 for size, patch in zip(pixels.shape[2:], PATCH, strict=True))
        # Hooks and compilation in place need a call of the whole model.
        hooked = self.model._compiled_call_impl is not None or any(
            module._forward_hooks or module._forward_pre_hooks for module in (self.model, embedding)
        )
        if pooled and hooked:
            logits: Tensor = self.model(self._normalized(pixels))
            return logits
        if whole and isinstance(self.normalization, Normalization):
            centered = extract_patches(pixels).to(self._weight.dtype) - CENTER  # (V, T/2, H/4, W/4, 96)
            features = self.model.encode(embedding.embed(centered, self._weight, self._bias))
        else:
            features = self.model.encode(embedding(self._normalized(pixels)))
        return self.model.forward_head(features) if pooled else features

    def _normalized(self, pixels: Tensor) -> Tensor:
        """Return clips as input of the model, normalized in float32 first."""
        if isinstance(self.normalization, Normalization):
            clips = (pixels.to(torch.float32) - self._mean) / self._std
        else:
            clips = normalize(pixels, self.normalization)
        return clips.to(self.model.patch_embed.proj.weight.dtype)
