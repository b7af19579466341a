"""Hugging Face's image Swin: query, key and value are three tensors, and parts of a block have other names.

Files carry the names of transformers 4; in memory a model of transformers 5 has others (q_proj, mlp.fc1).
Source: transformers/models/swin/modeling_swin.py and transformers/conversion_mapping.py.
"""

from __future__ import annotations

import re

import torch

from videoswin.weights.formats import Renamed, StateDict, is_buffer, patch_rank, rename

NAME = "Hugging Face image Swin"

_PREFIXES = {
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "embeddings.norm.": "patch_embed.norm.",
    "layernorm.": "norm.",
    "classifier.": "head.",
}
_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.blocks\.(\d+)\.(.+)")
_PART_OF_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attention.self": "attn",
    "attention.relative_position_bias": "attn",
}
_QKV = re.compile(r"attention\.(?:self\.)?(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)")
_ORDER = {"query": "0", "q_proj": "0", "key": "1", "k_proj": "1", "value": "2", "v_proj": "2"}


def recognizes(state_dict: StateDict) -> bool:
    return any(
        patch_rank(state_dict, f"{prefix}embeddings.patch_embeddings.projection.weight") == 4
        and any(key.startswith(f"{prefix}encoder.layers.0.blocks.") for key in state_dict)
        for prefix in ("swin.", "")
    )


def to_videoswin(state_dict: StateDict) -> Renamed:
    renamed = rename(state_dict, _our_name)
    for query in [key for key in renamed.weights if key.endswith(".0")]:
        joined = query.removesuffix(".0")
        parts = [f"{joined}.{part}" for part in range(3)]
        if len({renamed.weights[part].shape for part in parts if part in renamed.weights}) == 1 and all(
            part in renamed.weights for part in parts
        ):
            renamed.weights[joined] = torch.cat([renamed.weights.pop(part) for part in parts])
            renamed.origins[joined] = tuple(renamed.origins.pop(part)[0] for part in parts)
    return renamed


def _our_name(key: str) -> str | None:
    """Our name; of query, key and value our qkv's with .0, .1 or .2 after it."""
    if is_buffer(key):
        return None
    key = key.removeprefix("swin.")
    if block := _BLOCK.fullmatch(key):
        stage, index, rest = block.groups()
        if qkv := _QKV.fullmatch(rest):
            return f"stages.{stage}.blocks.{index}.attn.qkv.{qkv[2]}.{_ORDER[qkv[1]]}"
        part, _, parameter = rest.rpartition(".")
        return (
            f"stages.{stage}.blocks.{index}.{_PART_OF_BLOCK[part]}.{parameter}"
            if part in _PART_OF_BLOCK
            else None
        )
    for theirs, ours in _PREFIXES.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    if key.startswith("encoder.layers."):
        return "stages." + key.removeprefix("encoder.layers.")
    return None
