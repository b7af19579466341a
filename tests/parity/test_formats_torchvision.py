"""torchvision's Swin3D files: read, written back bit for bit, and described in the catalog as they should."""

import pytest
import torch
from torch import nn

from benchmarks.peers import relative_difference
from videoswin.model.config import VideoSwinConfig
from videoswin.weights.catalog import ENTRIES, load_labels
from videoswin.weights.checkpoint import Checkpoint

video = pytest.importorskip("torchvision").models.video

CONFIG = VideoSwinConfig(embed_dim=32, depths=(2, 2), num_heads=(1, 2), window=(4, 7, 7), num_classes=11)


def swin3d(seed: int) -> nn.Module:
    """torchvision's network of CONFIG, with random weights of some size everywhere."""
    model = video.swin_transformer.SwinTransformer3d(
        patch_size=[2, 4, 4],
        embed_dim=CONFIG.embed_dim,
        depths=list(CONFIG.depths),
        num_heads=list(CONFIG.num_heads),
        window_size=list(CONFIG.window),
        num_classes=CONFIG.num_classes,
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


@torch.inference_mode()
def test_file_of_torchvision_gives_its_logits(tmp_path):
    theirs = swin3d(0)
    torch.save(theirs.state_dict(), tmp_path / "swin.pth")
    checkpoint = Checkpoint.load(tmp_path / "swin.pth")
    assert checkpoint.config == CONFIG
    clips = torch.randn(2, 3, 12, 56, 60)
    assert relative_difference(checkpoint.model()(clips), theirs(clips)) < 1e-5


def test_written_state_dict_loads_strictly_and_is_the_one_that_was_read():
    original = swin3d(0).state_dict()
    written = Checkpoint.from_state_dict(original).to_state_dict("torchvision")
    assert written.keys() == original.keys()
    for name, tensor in original.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor)
    assert swin3d(1).load_state_dict(written, strict=True)


def test_catalog_says_of_torchvision_files_what_torchvision_says():
    theirs = {
        weights.url: weights.meta
        for enum in (video.Swin3D_T_Weights, video.Swin3D_S_Weights, video.Swin3D_B_Weights)
        for weights in enum
    }
    ours = {entry.url: entry for entry in ENTRIES.values() if entry.layout == "torchvision"}
    assert ours.keys() == theirs.keys()
    for url, meta in theirs.items():
        score = ours[url].scores[1]
        assert {"acc@1": score.top1, "acc@5": score.top5} == meta["_metrics"]["Kinetics-400"]
        assert ours[url].size_mb == round(meta["_file_size"] * 2**20 / 1e6)
        assert load_labels(ours[url].labels) == tuple(meta["categories"])
