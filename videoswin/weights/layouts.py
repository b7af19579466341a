"""Tensor names of other libraries, as one table per library.

A layout maps their names to ours and is used in both directions: reading uses the first rule that matches
their name, writing the first that matches ours. Tensors are only renamed here; an image model keeps its 2D
tensors, which convert.py inflates.

In a rule, `{i}` is the index of a stage, `{j}` that of a block, `{2i+1}` an index computed from one, and `*`
the rest of the name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin.model.config import VideoSwinConfig
from videoswin.model.windows import relative_position_index

StateDict = Mapping[str, Tensor]
Rules = Mapping[str, str]

TABLE: Final = "relative_position_bias_table"
"""Last part of the name of a position bias table, (rows, heads); the same in every library."""
INDEX: Final = "relative_position_index"
"""Last part of the name of a lookup (N, N) in such a table, which other libraries store."""

_NUMBER: Final = re.compile(r"\{(\d*)([ij])(?:\+(\d+))?\}")
"""Factor, name and offset of an index in a rule."""
_LAYERS: Final[Rules] = MappingProxyType(
    {"patch_embed.*": "patch_embed.*", "layers.*": "stages.*", "norm.*": "norm.*"}
)
"""Names of Microsoft's code, which the official video code and Omnivore share."""
_THEIR_BLOCK: Final = "encoder.layers.{i}.blocks.{j}."
_OUR_BLOCK: Final = "stages.{i}.blocks.{j}."


@dataclass(frozen=True)
class Renamed:
    """A foreign state dict under our names."""

    weights: dict[str, Tensor]
    """Tensors by our name."""
    origins: dict[str, tuple[str, ...]]
    """Our name -> the name in the file, or several names where tensors were joined."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Tensor names of one library, and the rules that recognize its files."""

    name: str
    """Name of the layout in messages, such as "torchvision Swin3D"."""
    rules: Rules
    """Their names -> ours, without prefixes and without the head."""
    prefixes: tuple[str, ...] = ("",)
    """Possible prefixes of the names of `rules`; the first is used for writing."""
    heads: tuple[str, ...] = ("head.",)
    """Possible prefixes of the classifier; the first is used for writing."""
    patch_embed: str = "patch_embed.proj.weight"
    """Their name of the kernel of the patch embedding."""
    rank: int | None = 5
    """Number of dimensions of that kernel: 5 in a video model, 4 in an image model; None for both."""
    required: tuple[str, ...] = ()
    """Prefixes, each of which some name in a file must have."""
    excluded: tuple[str, ...] = ()
    """Names that a file must not have, with or without a prefix."""
    parts: tuple[str, ...] = ()
    """Keys of the nested state dicts that a file of this library splits one model into."""
    license: str | None = None
    """License of all weights published in this layout, if there is only one."""

    def recognizes(self, state_dict: StateDict) -> bool:
        """Return whether the names and the rank of the patch embedding match this layout."""
        if any(f"{prefix}{name}" in state_dict for prefix in ("", *self.prefixes) for name in self.excluded):
            return False
        return any(self._fits(state_dict, prefix) for prefix in self.prefixes)

    def to_videoswin(self, state_dict: StateDict) -> Renamed:
        """Rename the tensors of a file to our names; tensors that the model does not have are dropped.

        Raises:
            InputError: Two tensors have the same name of ours.
        """
        weights: dict[str, Tensor] = {}
        origins: dict[str, tuple[str, ...]] = {}
        for key, tensor in state_dict.items():
            ours = self._our_name(key)
            if ours is None:
                continue
            if ours in weights:
                raise InputError(f"it must have one tensor for {ours}, got {origins[ours][0]} and {key}")
            weights[ours], origins[ours] = tensor, (key,)
        return _join_qkv(Renamed(weights, origins))

    def from_videoswin(self, weights: StateDict, config: VideoSwinConfig) -> dict[str, Tensor]:
        """Return the state dict that the library loads strictly, buffers included."""
        renamed = {self._their_name(key): tensor for key, tensor in weights.items()}
        # Other libraries keep an (N, N) lookup with every bias table: one tensor, shared by all.
        index = relative_position_index(config.window, config.window)
        return renamed | {key.replace(TABLE, INDEX): index for key in renamed if key.endswith(TABLE)}

    def _fits(self, state_dict: StateDict, prefix: str) -> bool:
        kernel = state_dict.get(prefix + self.patch_embed)
        if kernel is None or self.rank not in (None, kernel.ndim):
            return False
        return all(any(key.startswith(prefix + start) for key in state_dict) for start in self.required)

    def _our_name(self, key: str) -> str | None:
        """Return our name of a tensor, or None if the model does not have it."""
        if is_buffer(key):
            return None
        for head in self.heads:
            if key.startswith(head):
                return "head." + key.removeprefix(head)
        prefix = next((prefix for prefix in self.prefixes if key.startswith(prefix)), None)
        return None if prefix is None else _translate(key.removeprefix(prefix), self.rules.items())

    def _their_name(self, key: str) -> str:
        if key.startswith("head."):
            return self.heads[0] + key.removeprefix("head.")
        theirs = _translate(key, ((ours, theirs) for theirs, ours in self.rules.items()))
        assert theirs is not None, f"no rule for {key}"
        return self.prefixes[0] + theirs


def is_buffer(key: str) -> bool:
    """Return whether the name is that of a buffer that other libraries store and we compute."""
    return key.endswith((f".{INDEX}", ".attn_mask"))


VIDEOSWIN: Final = Layout(
    name="videoswin",
    rules={"patch_embed.*": "patch_embed.*", "stages.*": "stages.*", "norm.*": "norm.*"},
    rank=None,
    required=("stages.0.",),
)

# SwinTransformer/Video-Swin-Transformer, mmaction/models/backbones/swin_transformer.py. A file with only the
# backbone has no prefix.
OFFICIAL: Final = Layout(
    name="official Video Swin (mmaction 0.x)",
    rules=_LAYERS,
    prefixes=("backbone.", ""),
    heads=("cls_head.fc_cls.", "head."),
    required=("layers.0.blocks.",),
    excluded=("norm3.weight",),
)

# open-mmlab/mmaction2 v1.2.0, mmaction/models/backbones/swin.py: only the name of the last norm differs.
MMACTION2: Final = Layout(
    name="mmaction2 1.x Swin",
    rules={"patch_embed.*": "patch_embed.*", "layers.*": "stages.*", "norm3.*": "norm.*"},
    prefixes=("backbone.", ""),
    heads=("cls_head.fc_cls.", "head."),
    required=("layers.0.blocks.", "norm3.weight"),
)

# torchvision/models/video/swin_transformer.py: stages and mergings alternate in one list.
TORCHVISION_3D: Final = Layout(
    name="torchvision Swin3D",
    rules={
        "patch_embed.*": "patch_embed.*",
        "features.{2i}.{j}.mlp.0.*": "stages.{i}.blocks.{j}.mlp.fc1.*",
        "features.{2i}.{j}.mlp.3.*": "stages.{i}.blocks.{j}.mlp.fc2.*",
        "features.{2i}.{j}.*": "stages.{i}.blocks.{j}.*",
        "features.{2i+1}.*": "stages.{i}.downsample.*",
        "norm.*": "norm.*",
    },
    required=("features.0.",),
)

# facebookresearch/omnivore, omnivore/models/omnivore_model.py: the official backbone, a patch embedding for
# depth, a head for each task. Only the video part is read; the EPIC-Kitchens model has only that head.
OMNIVORE: Final = Layout(
    name="Omnivore",
    rules=_LAYERS,
    prefixes=("trunk.",),
    heads=("heads.video.1.", "heads.1."),
    parts=("trunk", "heads"),
    license="CC-BY-NC-4.0",
)

# microsoft/Swin-Transformer, models/swin_transformer.py, and models/simmim.py with the prefix `encoder.`.
# Files of timm before 0.9 and MMAction2's mirrors of the image weights also have these names.
MICROSOFT_2D: Final = Layout(
    name="Microsoft image Swin",
    rules=_LAYERS,
    prefixes=("encoder.", "backbone.", ""),
    rank=4,
    # The only other library with `layers`, timm, merges before a stage and has its classifier in head.fc.
    required=("layers.0.downsample.reduction.weight",),
    excluded=("head.fc.weight",),
)

# timm/models/swin_transformer.py since 0.9, checkpoint_filter_fn: merging is at the start of a stage. Its
# order and everything inside a block equal Microsoft's.
TIMM_2D: Final = Layout(
    name="timm image Swin",
    rules={
        "patch_embed.*": "patch_embed.*",
        "layers.{i+1}.downsample.*": "stages.{i}.downsample.*",
        "layers.*": "stages.*",
        "norm.*": "norm.*",
    },
    heads=("head.fc.", "head."),
    rank=4,
    required=("layers.1.downsample.reduction.weight",),
    excluded=("layers.0.downsample.reduction.weight",),
)

# transformers/models/swin/modeling_swin.py and transformers/conversion_mapping.py. Files have the names of
# transformers 4; a model of transformers 5 has others in memory (q_proj, mlp.fc1). Query, key and value are
# three tensors, which get the suffixes 0 to 2 until they are joined.
HUGGING_FACE_2D: Final = Layout(
    name="Hugging Face image Swin",
    rules={
        "embeddings.patch_embeddings.projection.*": "patch_embed.proj.*",
        "embeddings.norm.*": "patch_embed.norm.*",
        **{
            f"{_THEIR_BLOCK}attention.{parent}{part}.*": f"{_OUR_BLOCK}attn.qkv.*.{number}"
            for parent in ("", "self.")
            for parts in (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"))
            for number, part in enumerate(parts)
        },
        **{
            f"{_THEIR_BLOCK}{theirs}.*": f"{_OUR_BLOCK}{ours}.*"
            for theirs, ours in (
                ("layernorm_before", "norm1"),
                ("layernorm_after", "norm2"),
                ("attention.output.dense", "attn.proj"),
                ("attention.o_proj", "attn.proj"),
                ("attention.self", "attn"),
                ("attention.relative_position_bias", "attn"),
                ("intermediate.dense", "mlp.fc1"),
                ("output.dense", "mlp.fc2"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            )
        },
        "encoder.layers.{i}.downsample.*": "stages.{i}.downsample.*",
        "layernorm.*": "norm.*",
    },
    prefixes=("swin.", ""),
    heads=("classifier.",),
    patch_embed="embeddings.patch_embeddings.projection.weight",
    rank=4,
    required=("encoder.layers.0.blocks.",),
)

# torchvision/models/swin_transformer.py: like its video models, with the patch embedding in features.0.
TORCHVISION_2D: Final = Layout(
    name="torchvision image Swin",
    rules={
        "features.0.0.*": "patch_embed.proj.*",
        "features.0.2.*": "patch_embed.norm.*",
        "features.{2i+1}.{j}.mlp.0.*": "stages.{i}.blocks.{j}.mlp.fc1.*",
        "features.{2i+1}.{j}.mlp.3.*": "stages.{i}.blocks.{j}.mlp.fc2.*",
        "features.{2i+1}.{j}.*": "stages.{i}.blocks.{j}.*",
        "features.{2i+2}.*": "stages.{i}.downsample.*",
        "norm.*": "norm.*",
    },
    patch_embed="features.0.0.weight",
    rank=4,
    required=("features.1.0.norm1.weight",),
)

LAYOUTS: Final = (
    VIDEOSWIN,
    OFFICIAL,
    MMACTION2,
    TORCHVISION_3D,
    OMNIVORE,
    MICROSOFT_2D,
    TIMM_2D,
    HUGGING_FACE_2D,
    TORCHVISION_2D,
)
WRITERS: Final[Mapping[str, Callable[[StateDict, VideoSwinConfig], dict[str, Tensor]]]] = MappingProxyType(
    {
        "official": OFFICIAL.from_videoswin,
        "mmaction2": MMACTION2.from_videoswin,
        "torchvision": TORCHVISION_3D.from_videoswin,
    }
)
"""Layouts that can also be written."""
HEAD_NAMES: Final = frozenset({"head", "heads", "fc", "fc_cls", "cls_head", "classifier"})
"""Parts of the names that trainers give to a classifier in place of the head of the library."""
SWIN_V2_NAMES: Final = ("logit_scale", "cpb_mlp", "continuous_position")
"""Parts of names that only Swin V2 has."""


def find_layout(state_dict: StateDict) -> Layout | None:
    """Return the layout of a flat state dict, or None if it is unknown."""
    return next((layout for layout in LAYOUTS if layout.recognizes(state_dict)), None)


def _translate(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    """Rename a tensor by the first rule that matches it, or return None."""
    for source, target in rules:
        if values := _match(source, name):
            return _fill(target, values)
    return None


def _match(template: str, name: str) -> dict[str, str] | None:
    """Return the values of `i`, `j` and `*` in a name, or None if the template does not match it."""
    pattern, numbers = _compiled(template)
    found = pattern.fullmatch(name)
    if found is None:
        return None
    values = {"*": found["rest"]}
    for letter, factor, offset in numbers:
        number, remainder = divmod(int(found[letter]) - offset, factor)
        if remainder or number < 0:
            return None
        values[letter] = str(number)
    return values


def _fill(template: str, values: Mapping[str, str]) -> str:
    def number(found: re.Match[str]) -> str:
        factor, letter, offset = found.groups()
        return str(int(factor or 1) * int(values[letter]) + int(offset or 0))

    return _NUMBER.sub(number, template).replace("*", values["*"])


@cache
def _compiled(template: str) -> tuple[re.Pattern[str], tuple[tuple[str, int, int], ...]]:
    """Return a pattern, and the letter, factor and offset of each index in it."""
    numbers = tuple(
        (letter, int(factor or 1), int(offset or 0)) for factor, letter, offset in _NUMBER.findall(template)
    )
    # The texts between indices; re.split also returns the three groups of each index.
    texts = [re.escape(text).replace(r"\*", "(?P<rest>.+)") for text in _NUMBER.split(template)[::4]]
    pattern = texts[0] + "".join(
        rf"(?P<{letter}>\d+){text}" for (letter, _, _), text in zip(numbers, texts[1:], strict=True)
    )
    return re.compile(pattern), numbers


def _join_qkv(renamed: Renamed) -> Renamed:
    """Join query, key and value (suffixes .0, .1 and .2) where all three exist and have the same shape."""
    weights, origins = dict(renamed.weights), dict(renamed.origins)
    for query in [key for key in weights if key.endswith(".0")]:
        joined = query.removesuffix(".0")
        parts = [f"{joined}.{number}" for number in range(3)]
        if all(part in weights for part in parts) and len({weights[part].shape for part in parts}) == 1:
            weights[joined] = torch.cat([weights.pop(part) for part in parts])
            origins[joined] = tuple(origins.pop(part)[0] for part in parts)
    return Renamed(weights, origins)
