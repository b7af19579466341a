"""Convert a state dict of another library to our layout, and account for every name in it.

`convert` calls each step once: recognize -> rename -> infer -> inflate -> verify. Our layout has the names of
VideoSwin's own state dict, and its shapes are those of VideoSwin(config).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin._text import first_few
from videoswin.model.config import (
    BASE,
    LARGE,
    MAX_DEPTH,
    MAX_STAGES,
    PATCH,
    SMALL,
    TINY,
    VideoSwinConfig,
)
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import bias_table_rows
from videoswin.weights.containers import Recognized, find_head, recognize
from videoswin.weights.inflate import (
    Inflation,
    Window,
    image_window,
    inflate,
    require_inflation,
    resize_tables,
    window_of_lookup,
    window_of_table,
)
from videoswin.weights.layouts import INDEX, TABLE, VIDEOSWIN, Layout, Renamed, is_buffer
from videoswin.weights.unpickle import is_dense

_PUBLISHED: Final = {"Swin-T": TINY, "Swin-S": SMALL, "Swin-B": BASE, "Swin-L": LARGE}
_BLOCK: Final = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")
_PATCH_KERNEL: Final = "patch_embed.proj.weight"
_DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A file in our layout, and how each of its tensors was used."""

    weights: dict[str, Tensor]
    """Tensors by our name; without `head.*` if the file has no head for video."""
    config: VideoSwinConfig
    """Inferred architecture."""
    layout: str
    """Name of the file's layout, such as "torchvision Swin3D"."""
    loaded: tuple[str, ...]
    """Our names of tensors whose name and values are unchanged."""
    converted: tuple[str, ...]
    """Our names of tensors that were renamed, joined, inflated or resized."""
    unused: tuple[str, ...]
    """Names in the file that are not part of the model."""
    notes: tuple[str, ...]
    """Sentences about choices that may surprise the user, e.g. averaged weights, a dropped head."""
    license: str | None
    """License of all weights published in this layout, if there is only one."""

    def summary(self) -> str:
        """Return one line that accounts for all tensors of the file. Missing tensors are an error instead."""
        unused = [name for name in self.unused if not is_buffer(name)]
        names = f" ({first_few(unused)})" if unused else ""
        name = _published_name(self.config) or "not a published architecture"
        return (
            f"{self.layout}: {name}, {len(self.loaded)} tensors loaded, {len(self.converted)} converted, "
            f"{len(unused)} unused{names}, {len(self.unused) - len(unused)} constants recomputed, 0 missing"
        )


def convert(
    contents: Mapping[str, Any], *, inflation: Inflation = "average", window: Window | None = None
) -> Conversion:
    """Convert the contents of a file in any known layout and container to a video model in our layout.

    Args:
        contents: State dict, or a container with one.
        inflation: Distribution of an image model's weights over frames, see `inflate`.
        window: Attention window of the result; None keeps the file's (an image model of M x M gets
            (8, M, M)).

    Raises:
        InputError: Tensors of the backbone are missing, or no layout fits.
    """
    require_inflation(inflation)
    window = None if window is None else check_window(window)
    found = recognize(contents)
    layout, state_dict = found.layout, found.state_dict
    try:
        renamed, note = rename(found)
        config = infer_config(renamed.weights, window, _stored_lookup(state_dict))
        weights, config = _with_window(renamed.weights, config, window, inflation)
    except ValueError as error:
        raise InputError(f"this looks like a file of {layout.name}, but {error}") from error
    weights = verify(weights, config, layout)
    used = {origin for name in weights for origin in renamed.origins[name]}
    used |= {origin.partition(".")[0] for origin in used - state_dict.keys()}  # a container with only a head
    untouched = [name for name, tensor in weights.items() if state_dict.get(name) is tensor]
    return Conversion(
        weights=weights,
        config=config,
        layout=layout.name,
        loaded=tuple(untouched),
        converted=tuple(name for name in weights if name not in set(untouched)),
        unused=tuple(name for name in (*state_dict, *found.beside) if name not in used),
        notes=tuple(text for text in (found.choice, note) if text),
        license=layout.license,
    )


def rename(found: Recognized) -> tuple[Renamed, str | None]:
    """Return the tensors by our names, and a note about the head if it is not the library's own.

    An image model loses its head, because its classes are not those of videos.
    """
    renamed = found.layout.to_videoswin(found.state_dict)
    require_floating_point(renamed.weights)
    if _is_image(renamed.weights):
        weights = {name: w for name, w in renamed.weights.items() if not name.startswith("head.")}
        return Renamed(weights, renamed.origins), None
    if "norm.weight" not in renamed.weights or has_head(renamed.weights):
        return renamed, None
    placed = {
        name for ours, names in renamed.origins.items() if not ours.startswith("head.") for name in names
    }
    tensors = found.around | {name: tensor for name, tensor in found.state_dict.items() if name not in placed}
    head, left_out = find_head(tensors, len(renamed.weights["norm.weight"]))
    if left_out:
        return renamed, (
            f"the head is not one linear layer with a bias and was dropped: {first_few(left_out)}"
        )
    if head is None:
        return renamed, None
    parts = ("weight", "bias")
    weights = renamed.weights | {f"head.{part}": tensors[f"{head}.{part}"] for part in parts}
    require_floating_point(weights)
    origins = renamed.origins | {f"head.{part}": (f"{head}.{part}",) for part in parts}
    return Renamed(weights, origins), f"{head} is used as the head"


def infer_config(
    weights: Mapping[str, Tensor], window: Window | None = None, lookup: Tensor | None = None
) -> VideoSwinConfig:
    """Infer the architecture of a model from its tensors, which have our names.

    Args:
        weights: Tensors by our name. Without a head, `num_classes` of the result is the default. An image
            model has 2D shapes, and its window is (1, M, M).
        window: Required if the length of the bias table fits several windows and none is published.
        lookup: The (N, N) relative_position_index of the file, which decides between such windows.

    Raises:
        InputError: No architecture fits.
    """
    patch = weights.get(_PATCH_KERNEL)
    if patch is None or patch.ndim not in (4, 5):
        raise InputError(f"{_PATCH_KERNEL}, the kernel of the patch embedding, is missing")
    size = PATCH[5 - patch.ndim :]
    if tuple(patch.shape[2:]) != size:
        axes = "(frames, rows, columns)" if patch.ndim == 5 else "(rows, columns)"
        raise InputError(f"tokens must be {size} pixels {axes}, got {tuple(patch.shape[2:])}")
    blocks = {(int(match[1]), int(match[2])) for match in map(_BLOCK.match, weights) if match}
    num_stages = 1 + max((stage for stage, _ in blocks), default=-1)
    if num_stages > MAX_STAGES or max((block for _, block in blocks), default=0) >= MAX_DEPTH:
        raise InputError(
            f"a model must have at most {MAX_STAGES} stages of {MAX_DEPTH} blocks, got more, such as "
            f"(stage, block) {max(blocks)}"
        )
    depths = [
        1 + max((block for s, block in blocks if s == stage), default=-1) for stage in range(num_stages)
    ]
    tables = [_table_of_stage(weights, stage, depth) for stage, depth in enumerate(depths)]
    if not tables:
        raise InputError("a model must have attention blocks, got none")
    if _is_image(weights):
        side = image_window(tables[0])
        window = (1, side, side)
    elif lookup is not None:
        window = window_of_lookup(lookup, len(tables[0]))
    elif window is None or bias_table_rows(window) != len(tables[0]):
        window = window_of_table(len(tables[0]))
    config = VideoSwinConfig(
        embed_dim=patch.shape[0],
        depths=tuple(depths),
        num_heads=tuple(table.shape[1] for table in tables),
        window=window,
        in_channels=patch.shape[1],
    )
    return config.replace(num_classes=len(weights["head.weight"])) if "head.weight" in weights else config


def verify(weights: Mapping[str, Tensor], config: VideoSwinConfig, layout: Layout) -> dict[str, Tensor]:
    """Return the tensors that the model has; raise InputError if any is missing, misshapen or not finite.

    A file in our own layout may have any depth; one of another library is a published model.

    Args:
        weights: Tensors by our names.
        config: Architecture of the model.
        layout: Layout of the file.
    """
    if gaps := describe_gaps(weights, config):
        raise InputError(f"this looks like a file of {layout.name}, but {gaps}")
    if layout is not VIDEOSWIN and (incomplete := _missing_blocks(config)):
        name, blocks = incomplete
        raise InputError(
            f"this looks like a {name} of {layout.name}, but {len(blocks)} blocks are missing, by our names "
            f"{first_few(blocks)}"
        )
    kept = {name: tensor for name, tensor in weights.items() if name in parameter_shapes(config)}
    require_finite(kept)
    return kept


@lru_cache(maxsize=8)
def parameter_shapes(config: VideoSwinConfig) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every parameter of the architecture by name; it takes no memory for values."""
    with torch.device("meta"):
        model = VideoSwin(config)
    return MappingProxyType({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})


def check_window(window: Window, config: VideoSwinConfig = TINY) -> Window:
    """Return the window as a tuple; raise InputError if it is invalid for this config."""
    try:
        return config.replace(window=window).window
    except ValueError as error:
        raise InputError(str(error)) from error


def describe_gaps(weights: Mapping[str, Tensor], config: VideoSwinConfig) -> str:
    """Describe the tensors of `config` that are missing in `weights` or have another shape; "" if none.

    A model without any head is complete.
    """
    # A module is created for each block, so a file must have the tensors of all of its blocks.
    if len(weights) < 6 * (blocks := sum(config.depths)):
        return f"{blocks} blocks have 13 tensors each, got only {len(weights)} tensors"
    expected = dict(parameter_shapes(config))
    if not has_head(weights):
        expected = {name: shape for name, shape in expected.items() if not name.startswith("head.")}
    missing = [name for name in expected if name not in weights]
    misshapen = [
        f"{name} must be {shape}, got {tuple(weights[name].shape)}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(expected)} tensors are missing: {first_few(missing)}")
    if misshapen:
        parts.append(f"{len(misshapen)} tensors have another shape: {first_few(misshapen)}")
    return "; ".join(parts)


def require_floating_point(weights: Mapping[str, Tensor]) -> None:
    """Raise InputError for integer, 8-bit float, quantized, sparse and other unsupported tensors."""
    others = [name for name, tensor in weights.items() if not is_dense(tensor) or tensor.dtype not in _DTYPES]
    if others:
        raise InputError(
            "weights must be dense tensors of float16, bfloat16, float32 or float64, "
            f"got others in {first_few(others)}; save them as one of these"
        )


def require_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise InputError if tensors contain NaN or infinity, as after a diverged training."""
    broken = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(
            f"weights must be finite, got {len(broken)} tensors with NaN or infinity: {first_few(broken)}"
        )


def has_head(weights: Mapping[str, Tensor]) -> bool:
    """Return whether any tensor of a classification head exists (an incomplete head is then an error)."""
    return "head.weight" in weights or "head.bias" in weights


def _published_name(config: VideoSwinConfig) -> str | None:
    """Return the published name, such as `Swin-T`, regardless of window and classes, or None."""
    sizes = _sizes(config)
    return next((name for name, published in _PUBLISHED.items() if _sizes(published) == sizes), None)


def _with_window(
    weights: dict[str, Tensor], config: VideoSwinConfig, window: Window | None, inflation: Inflation
) -> tuple[dict[str, Tensor], VideoSwinConfig]:
    """Return a video model with this window: an image model is inflated, the tables of others are resized."""
    is_image = _is_image(weights)
    if window is None:
        window = (8, *config.window[1:]) if is_image else config.window
    resized = config.replace(window=window)
    if is_image:
        return inflate(weights, window, inflation), resized
    return resize_tables(weights, config.window, window), resized


def _is_image(weights: Mapping[str, Tensor]) -> bool:
    patch = weights.get(_PATCH_KERNEL)
    return patch is not None and patch.ndim == 4


def _stored_lookup(state_dict: Mapping[str, Tensor]) -> Tensor | None:
    return next((w for name, w in state_dict.items() if name.endswith(INDEX) and w.ndim == 2), None)


def _table_of_stage(weights: Mapping[str, Tensor], stage: int, depth: int) -> Tensor:
    for block in range(depth):
        table = weights.get(f"stages.{stage}.blocks.{block}.attn.{TABLE}")
        if table is not None and table.ndim == 2:
            return table
    raise InputError(f"stages.{stage}.blocks.*.attn.{TABLE} is missing, so its window and heads are unknown")


def _missing_blocks(config: VideoSwinConfig) -> tuple[str, list[str]] | None:
    """Return the published architecture with the same width and heads, and its blocks that are missing here.

    None if the architecture is published itself, or is deeper in some stage than every published one.
    """
    if _published_name(config) is not None:
        return None
    same_width = {
        name: published
        for name, published in _PUBLISHED.items()
        if (published.embed_dim, published.num_heads) == (config.embed_dim, config.num_heads)
    }
    for name, published in same_width.items():  # shallow ones first
        pairs = list(zip(config.depths, published.depths, strict=True))
        if all(have <= want for have, want in pairs):
            return name, [
                f"stages.{stage}.blocks.{block}"
                for stage, (have, want) in enumerate(pairs)
                for block in range(have, want)
            ]
    return None


def _sizes(config: VideoSwinConfig) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return config.embed_dim, config.depths, config.num_heads
