"""Convert a state dict of another library to our layout, and account for every name in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from videoswin._errors import InputError
from videoswin.model.config import TINY, VideoSwinConfig
from videoswin.model.windows import bias_table_rows
from videoswin.weights.containers import Unwrapped, find_head, unwrap
from videoswin.weights.infer import (
    TABLE,
    Window,
    describe_gaps,
    first_few,
    has_head,
    infer_config,
    missing_blocks,
    parameter_shapes,
    published_name,
    require_finite,
    require_floating_point,
    window_of_lookup,
    window_of_table,
)
from videoswin.weights.inflate import Method, image_window, inflate, require_method, resize_tables
from videoswin.weights.layouts import LAYOUTS, VIDEOSWIN, Layout, Renamed, StateDict, is_buffer


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
        name = published_name(self.config) or "not a published architecture"
        return (
            f"{self.layout}: {name}, {len(self.loaded)} tensors loaded, {len(self.converted)} converted, "
            f"{len(unused)} unused{names}, {len(self.unused) - len(unused)} constants recomputed, 0 missing"
        )


def convert(
    contents: Mapping[str, Any], *, method: Method = "inflate", window: Window | None = None
) -> Conversion:
    """Convert the contents of a file in any known layout and container to a video model in our layout.

    Args:
        contents: State dict, or a container with one.
        method: Inflation of an image model, `inflate` or `center`.
        window: Attention window of the result; None keeps the file's (an image model of M x M gets
            (8, M, M)).

    Raises:
        InputError: Tensors of the backbone are missing, or no layout fits.
    """
    require_method(method)
    window = None if window is None else check_window(window)
    found = unwrap(contents, is_model)
    state_dict = found.state_dict
    _refuse_swin_v2(state_dict)
    layout = recognize(state_dict)
    try:
        renamed, head_note = _with_head(layout.to_videoswin(state_dict), found)
        weights, config = _as_video(renamed.weights, state_dict, window, method)
    except ValueError as error:
        raise InputError(f"this looks like a file of {layout.name}, but {error}") from error
    _require_complete(weights, config, layout)
    places = parameter_shapes(config)
    weights = {name: tensor for name, tensor in weights.items() if name in places}
    require_finite(weights)
    used = {origin for name in weights for origin in renamed.origins[name]}
    used |= {origin.partition(".")[0] for origin in used - state_dict.keys()}  # a container with only a head
    if window is not None:
        window = check_window(window, config)
        weights = resize_tables(weights, config.window, window)
        config = config.replace(window=window)
    untouched = [name for name, tensor in weights.items() if state_dict.get(name) is tensor]
    return Conversion(
        weights=weights,
        config=config,
        layout=layout.name,
        loaded=tuple(untouched),
        converted=tuple(name for name in weights if name not in set(untouched)),
        unused=tuple(name for name in (*state_dict, *found.beside) if name not in used),
        notes=tuple(note for note in (found.choice, head_note) if note),
        license=layout.license,
    )


def check_window(window: Window, config: VideoSwinConfig = TINY) -> Window:
    """Return the window as a tuple; raise InputError if it is invalid for this config."""
    try:
        return config.replace(window=window).window
    except ValueError as error:
        raise InputError(str(error)) from error


def is_model(state_dict: StateDict) -> bool:
    """Return whether a flat state dict is in a known layout."""
    return any(layout.recognizes(state_dict) for layout in LAYOUTS)


def recognize(state_dict: StateDict) -> Layout:
    """Return the layout of a flat state dict; raise InputError with some of its names if it is unknown."""
    for layout in LAYOUTS:
        if layout.recognizes(state_dict):
            return layout
    if not state_dict:
        raise InputError("a state dict must have tensors, got none")
    raise InputError(
        f"the layout must be one of {', '.join(layout.name for layout in LAYOUTS)}, "
        f"got {len(state_dict)} tensors with other names, such as {first_few(list(state_dict))}"
    )


def _with_head(renamed: Renamed, found: Unwrapped) -> tuple[Renamed, str | None]:
    """Add a head with another name or container, if the model has none, and return a note about it."""
    if "norm.weight" not in renamed.weights or has_head(renamed.weights) or _is_image(renamed.weights):
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
    origins = renamed.origins | {f"head.{part}": (f"{head}.{part}",) for part in parts}
    return Renamed(weights, origins), f"{head} is used as the head"


def _as_video(
    weights: dict[str, Tensor], state_dict: StateDict, window: Window | None, method: Method
) -> tuple[dict[str, Tensor], VideoSwinConfig]:
    """Return the tensors and the architecture of a video model; an image model is inflated."""
    require_floating_point(weights)
    if not _is_image(weights):
        return weights, infer_config(weights, _window_in_file(weights, state_dict, window))
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    side = image_window(weights)
    window = window or (8, side, side)
    inflated = inflate(weights, window, method)
    return inflated, infer_config(inflated, window)


def _require_complete(weights: Mapping[str, Tensor], config: VideoSwinConfig, layout: Layout) -> None:
    """Raise InputError if tensors or blocks are missing; a model in our own layout may have any depth."""
    if gaps := describe_gaps(weights, config):
        raise InputError(f"this looks like a file of {layout.name}, but {gaps}")
    if layout is not VIDEOSWIN and (incomplete := missing_blocks(config)):
        name, blocks = incomplete
        raise InputError(
            f"this looks like a {name} of {layout.name}, but {len(blocks)} blocks are missing, by our names "
            f"{first_few(blocks)}"
        )


def _refuse_swin_v2(state_dict: StateDict) -> None:
    if any(part in name for name in state_dict for part in ("logit_scale", "cpb_mlp", "continuous_position")):
        raise InputError(
            "the file must be a Swin V1, got a Swin V2: V2 uses cosine attention, computes its position bias "
            "with a network and normalizes after each branch, so its weights do not fit; use a Swin V1 file"
        )


def _is_image(weights: Mapping[str, Tensor]) -> bool:
    patch = weights.get("patch_embed.proj.weight")
    return patch is not None and patch.ndim == 4


def _window_in_file(weights: Mapping[str, Tensor], state_dict: StateDict, requested: Window | None) -> Window:
    """Infer the window of a video model: stored lookup, else `requested` if it fits, else by length."""
    rows = next((len(tensor) for name, tensor in weights.items() if name.endswith(TABLE)), None)
    if rows is None:
        raise InputError(f"{TABLE} is missing, so the window is unknown")
    for name, lookup in state_dict.items():
        if name.endswith("relative_position_index") and lookup.ndim == 2:
            return window_of_lookup(lookup, rows)
    if requested and bias_table_rows(requested) == rows:
        return requested
    return window_of_table(rows)
