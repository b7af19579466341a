"""Our own layout: tensor names and shapes of an architecture, and the inverse, inferring the architecture."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from videoswin._errors import InputError
from videoswin.model.config import (
    BASE,
    BASE_W16,
    LARGE,
    LARGE_384,
    MAX_DEPTH,
    MAX_STAGES,
    MLP_RATIO,
    NANO,
    PATCH,
    SMALL,
    TINY,
    VideoSwinConfig,
)
from videoswin.model.windows import bias_table_rows, relative_position_index

Window = tuple[int, int, int]

_PUBLISHED = {"Swin-T": TINY, "Swin-S": SMALL, "Swin-B": BASE, "Swin-L": LARGE}
_PUBLISHED_WINDOWS = tuple(config.window for config in (TINY, BASE_W16, LARGE_384, NANO))
_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")
TABLE = "relative_position_bias_table"
_MAX_TABLE_ROWS = 1 << 18  # no valid config has a table with more rows
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def parameter_shapes(config: VideoSwinConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of the architecture, by its name in our layout."""
    c = config.embed_dim
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (c, config.in_channels, *PATCH),
        "patch_embed.proj.bias": (c,),
    }

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.weight": (channels,), f"{name}.bias": (channels,)})

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    norm("patch_embed.norm", c)
    for stage, (depth, heads) in enumerate(zip(config.depths, config.num_heads, strict=True)):
        c = config.stage_dim(stage)
        for block in (f"stages.{stage}.blocks.{index}" for index in range(depth)):
            norm(f"{block}.norm1", c)
            linear(f"{block}.attn.qkv", c, 3 * c)
            linear(f"{block}.attn.proj", c, c)
            shapes[f"{block}.attn.{TABLE}"] = (bias_table_rows(config.window), heads)
            norm(f"{block}.norm2", c)
            linear(f"{block}.mlp.fc1", c, MLP_RATIO * c)
            linear(f"{block}.mlp.fc2", MLP_RATIO * c, c)
        if stage < len(config.depths) - 1:
            norm(f"stages.{stage}.downsample.norm", 4 * c)
            shapes[f"stages.{stage}.downsample.reduction.weight"] = (2 * c, 4 * c)
    norm("norm", c)
    linear("head", c, config.num_classes)
    return shapes


def infer_config(weights: Mapping[str, Tensor], window: Window | None = None) -> VideoSwinConfig:
    """Infer the architecture of a video model from its tensors, which have our names.

    Args:
        weights: Tensors by our name. Without a head, `num_classes` of the result is the default.
        window: Required if the length of the bias table fits several windows and none is published.

    Raises:
        InputError: No architecture fits.
    """
    patch = weights.get("patch_embed.proj.weight")
    if patch is None or patch.ndim != 5:
        raise InputError("patch_embed.proj.weight, the 5D kernel of the patch embedding, is missing")
    if tuple(patch.shape[2:]) != PATCH:
        raise InputError(
            f"tokens must be {PATCH} pixels (frames, rows, columns), got {tuple(patch.shape[2:])}"
        )
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
    config = VideoSwinConfig(
        embed_dim=patch.shape[0],
        depths=tuple(depths),
        num_heads=tuple(table.shape[1] for table in tables),
        window=window or window_of_table(len(tables[0])),
        in_channels=patch.shape[1],
    )
    return config.replace(num_classes=len(weights["head.weight"])) if "head.weight" in weights else config


def window_of_table(rows: int) -> Window:
    """Return the window (P, M, N) whose table has (2P - 1)(2M - 1)(2N - 1) rows.

    It is a published one, or the only one that fits; else InputError is raised.
    """
    windows = _windows_that_fit(rows)
    for window in windows:
        if window in _PUBLISHED_WINDOWS or len(windows) == 1:
            return window
    likely = [window for window in windows if min(window) > 1] or windows
    found = (
        f"{len(windows)} windows fit, such as {first_few([str(window) for window in likely])}; "
        "pass window=(time, height, width)"
        if windows
        else "no window fits"
    )
    raise InputError(f"a position bias table of {rows} rows: {found}")


def window_of_lookup(lookup: Tensor, rows: int) -> Window:
    """Return the window whose (N, N) relative_position_index is `lookup`, for a table of `rows` rows.

    Raise InputError if no window has it.
    """
    for window in _windows_that_fit(rows):
        if math.prod(window) == len(lookup) and torch.equal(
            relative_position_index(window, window), lookup.long().cpu()
        ):
            return window
    raise InputError(
        f"its relative_position_index {tuple(lookup.shape)} and its position bias tables of {rows} rows "
        "fit no window"
    )


def _windows_that_fit(rows: int) -> list[Window]:
    """Return every window whose table has this number of rows; none above _MAX_TABLE_ROWS."""
    if rows > _MAX_TABLE_ROWS:
        return []
    odd = [factor for factor in range(1, rows + 1, 2) if rows % factor == 0]
    return [
        ((p + 1) // 2, (m + 1) // 2, (rows // (p * m) + 1) // 2)
        for p, m in itertools.product(odd, odd)
        if rows % (p * m) == 0 and rows // (p * m) % 2
    ]


def published_name(config: VideoSwinConfig) -> str | None:
    """Return the published name, such as `Swin-T`, regardless of window and classes, or None."""
    sizes = _sizes(config)
    return next((name for name, published in _PUBLISHED.items() if _sizes(published) == sizes), None)


def missing_blocks(config: VideoSwinConfig) -> tuple[str, list[str]] | None:
    """Return the published architecture with the same width and heads, and its blocks that are missing here.

    None if the architecture is published itself, or is deeper in some stage than every published one.
    """
    if published_name(config) is not None:
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


def describe_gaps(weights: Mapping[str, Tensor], config: VideoSwinConfig) -> str:
    """Describe the tensors of `config` that are missing in `weights` or have another shape; "" if none.

    A model without any head is complete.
    """
    expected = parameter_shapes(config)
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


def first_few(names: list[str] | tuple[str, ...], count: int = 3) -> str:
    """Return the first names as text: `a, b, c and 7 more`."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def is_dense(tensor: Tensor) -> bool:
    """Return whether every element of the tensor is stored, unlike in sparse and nested tensors."""
    return tensor.layout is torch.strided and not tensor.is_nested


def _table_of_stage(weights: Mapping[str, Tensor], stage: int, depth: int) -> Tensor:
    for block in range(depth):
        table = weights.get(f"stages.{stage}.blocks.{block}.attn.{TABLE}")
        if table is not None and table.ndim == 2:
            return table
    raise InputError(f"stages.{stage}.blocks.*.attn.{TABLE} is missing, so its window and heads are unknown")
