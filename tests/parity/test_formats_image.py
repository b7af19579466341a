"""Image Swin of every library, from a file as it writes it: a still clip gives the image's features.

test_timm_still_video.py says why they must be equal. Maps here are whole windows, because libraries disagree
about padding before or after the roll.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.peers import relative_difference
from videoswin.model.config import VideoSwinConfig
from videoswin.weights.checkpoint import Checkpoint

CONFIG = VideoSwinConfig(embed_dim=32, depths=(2, 2), num_heads=(1, 2), window=(4, 7, 7))
SIZE = 112  # maps of 28 x 28, shifted, and 14 x 14


class Peer(NamedTuple):
    layout: str
    model: nn.Module
    features: Callable[[Tensor], Tensor]
    """(1, 3, SIZE, SIZE) -> (1, H, W, C), normed."""
    save: Callable[[Path], Path]
    """Writes the file as people have it into a folder."""


def timm() -> Peer:
    swin = pytest.importorskip("timm.models.swin_transformer")
    sizes = {"embed_dim": 32, "depths": (2, 2), "num_heads": (1, 2), "window_size": 7}
    model = swin.SwinTransformer(img_size=SIZE, num_classes=10, **sizes)
    return Peer(
        "timm image Swin", model, model.forward_features, lambda folder: save(model.state_dict(), folder)
    )


def microsoft() -> Peer:
    """timm's network under Microsoft's names: the inverse of timm's checkpoint_filter_fn."""
    peer = timm()

    def save_as_microsoft(folder: Path) -> Path:
        state_dict = {
            name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head"): tensor
            for name, tensor in peer.model.state_dict().items()
        }
        return save({"model": state_dict}, folder)

    return peer._replace(layout="Microsoft image Swin", save=save_as_microsoft)


def torchvision() -> Peer:
    swin = pytest.importorskip("torchvision").models.swin_transformer
    sizes = {"embed_dim": 32, "depths": [2, 2], "num_heads": [1, 2], "window_size": [7, 7]}
    model = swin.SwinTransformer(patch_size=[4, 4], num_classes=10, **sizes)
    return Peer(
        "torchvision image Swin",
        model,
        lambda image: model.norm(model.features(image)),
        lambda folder: save(model.state_dict(), folder),
    )


def huggingface() -> Peer:
    """What transformers 5 has in memory."""
    transformers = pytest.importorskip("transformers")
    sizes = {"embed_dim": 32, "depths": [2, 2], "num_heads": [1, 2], "window_size": 7}
    config = transformers.SwinConfig(image_size=SIZE, num_labels=10, **sizes)
    model = transformers.SwinForImageClassification(config)
    return Peer(
        "Hugging Face image Swin",
        model,
        lambda image: model.swin(image).last_hidden_state.unflatten(1, (14, 14)),
        lambda folder: save(model.state_dict(), folder),
    )


def huggingface_hub() -> Peer:
    """What `save_pretrained` writes: the names of transformers 4, as on the hub."""
    peer = huggingface()

    def save_pretrained(folder: Path) -> Path:
        peer.model.save_pretrained(folder)
        assert any("attention.self.query" in name for name in load_file(folder / "model.safetensors"))
        return folder / "model.safetensors"

    return peer._replace(save=save_pretrained)


def save(contents: dict[str, object], folder: Path) -> Path:
    torch.save(contents, folder / "model.pth")
    return folder / "model.pth"


@torch.inference_mode()
@pytest.mark.parametrize("library", [timm, microsoft, torchvision, huggingface, huggingface_hub])
def test_still_clip_gives_the_features_of_the_image(library: Callable[[], Peer], tmp_path: Path) -> None:
    torch.manual_seed(0)
    peer = library()
    peer.model.eval()
    for parameter in peer.model.parameters():
        parameter += torch.randn_like(parameter) * 0.1  # position biases and norms must show
    checkpoint = Checkpoint.load(peer.save(tmp_path), window=CONFIG.window)
    assert checkpoint.lineage["conversion"].startswith(f"{peer.layout}: ")
    assert checkpoint.config == CONFIG
    assert not checkpoint.has_head
    image = torch.randn(1, 3, SIZE, SIZE)
    clip = image[:, :, None].expand(-1, -1, 8, -1, -1)
    maps = checkpoint.model(num_classes=1).feature_maps(clip)[-1]  # (1, C, T', H, W)
    theirs = peer.features(image).permute(0, 3, 1, 2)[:, :, None]  # (1, C, 1, H, W)
    assert maps.shape[2] == 4
    assert relative_difference(maps, theirs.expand_as(maps)) < 1e-5
