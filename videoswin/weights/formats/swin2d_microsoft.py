"""Microsoft's image Swin, plain or pretrained with SimMIM (everything under `encoder.`).

Source: microsoft/Swin-Transformer, models/swin_transformer.py and models/simmim.py. timm's files from before
0.9 and MMAction2's mirrors of the image weights have these names too.
"""

from __future__ import annotations

from videoswin.weights.formats import Renamed, StateDict, official, patch_rank, rename

NAME = "Microsoft image Swin"


def recognizes(state_dict: StateDict) -> bool:
    # The one other library with `layers`, timm, keeps its classifier in head.fc and merges before a stage.
    is_microsoft = any(
        patch_rank(state_dict, f"{prefix}patch_embed.proj.weight") == 4
        and f"{prefix}layers.0.downsample.reduction.weight" in state_dict
        for prefix in ("encoder.", "backbone.", "")
    )
    return is_microsoft and "head.fc.weight" not in state_dict


def to_videoswin(state_dict: StateDict) -> Renamed:
    return rename(state_dict, lambda key: official.our_name(key.removeprefix("encoder.")))
