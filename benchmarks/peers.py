"""Other implementations of Video Swin, for tests and benchmarks only, with our weights."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from videoswin.model.swin import VideoSwin

_schemas: list[torch.library.Library] = []


def import_torchvision() -> Any:
    """Import and return torchvision, even if its compiled extension does not match the installed torch.

    Its Python models only need two operator names of that extension, which are then declared here.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        schemas = torch.library.Library("torchvision", "DEF")
        _schemas.append(schemas)  # the operators exist only as long as the library object
        for operator in ("nms", "qnms"):
            schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def torchvision_swin3d(ours: nn.Module, variant: str, **options: object) -> nn.Module:
    """Return torchvision's `swin3d_t`, `swin3d_s` or `swin3d_b` in eval mode with the weights of `ours`."""
    theirs: nn.Module = getattr(import_torchvision().models.video, f"swin3d_{variant}")(**options)
    return _with_weights(theirs, ours)


def torchvision_like(ours: VideoSwin) -> nn.Module:
    """Return torchvision's model of any size in eval mode with the sizes and weights of `ours`."""
    config = ours.config
    theirs: nn.Module = import_torchvision().models.video.swin_transformer.SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.num_heads),
        window_size=list(config.window),
        num_classes=config.num_classes,
    )
    return _with_weights(theirs, ours)


def _with_weights(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    weights = {torchvision_name(name): tensor for name, tensor in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("relative_position_index") for name in missing), missing
    return theirs.eval()


def as_trained(model: VideoSwin) -> VideoSwin:
    """Replace the initial zeros and ones of a model by random values, and return the same model.

    With position biases as large as trained ones, a wrong index changes the output. With weights other than
    0 and 1, compilers cannot remove operations that trained models need.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table"):
            nn.init.normal_(parameter, std=0.5)
        elif parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)
    return model


def torchvision_name(name: str) -> str:
    """Return torchvision's name of our parameter `name`."""
    name = re.sub(r"^stages\.(\d)\.blocks", lambda match: f"features.{2 * int(match[1])}", name)
    name = re.sub(r"^stages\.(\d)\.downsample", lambda match: f"features.{2 * int(match[1]) + 1}", name)
    return name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")


def our_name(name: str) -> str:
    """Return our name of torchvision's parameter `name`; our own names are returned unchanged."""

    def stage(match: re.Match[str]) -> str:
        number, inside = divmod(int(match[1]), 2)
        return f"stages.{number}.downsample" if inside else f"stages.{number}.blocks"

    name = re.sub(r"^features\.(\d)", stage, name)
    return name.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest absolute difference, divided by the largest absolute value of `theirs`."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
