"""Find the state dict of one model inside a training checkpoint.

Trainers save the tensors of a model under `state_dict`, `model`, `module`, `net` and many more names, often
nested, next to optimizer state, moving averages and counters. A model is found by its tensors, not by the
name of its container.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from videoswin._errors import InputError
from videoswin._text import first_few
from videoswin.weights import layouts
from videoswin.weights.layouts import Layout, StateDict, find_layout

_MAX_PREFIXES: Final = 100
_MAX_MODELS: Final = 16
_MAX_DEPTH: Final = 6
"""Maximum nesting of containers."""
_AVERAGE = re.compile(r"(?:.*[._])?(?:ema|swa|averaged?)(?:[._].*)?", re.IGNORECASE)
"""Names of containers and prefixes of averaged weights, such as state_dict_ema, model_ema, ema.module."""


@dataclass(frozen=True, kw_only=True)
class Recognized:
    """The state dict of one model, its layout, and the other contents of the file."""

    layout: Layout
    """Layout of the tensor names."""
    state_dict: dict[str, Tensor]
    """Tensors by name, without the common prefix of a wrapper."""
    around: dict[str, Tensor]
    """Tensors outside that prefix or container by full name; they may include a head."""
    beside: tuple[str, ...]
    """Names of everything that is not in `state_dict`."""
    choice: str | None
    """A sentence about which model of the file was chosen; None if there is only one."""


@dataclass(frozen=True)
class _Model:
    path: tuple[str, ...]
    """Keys of the nested mappings."""
    prefix: str
    """Common prefix of the tensor names."""

    @property
    def name(self) -> str:
        return ".".join((*self.path, self.prefix)).rstrip(".") or "no prefix"


def recognize(contents: Mapping[str, Any]) -> Recognized:
    """Find the model's state dict inside the usual containers and wrappers, and its layout.

    Averaged weights (EMA, SWA) are preferred to raw weights in the same file, as in timm.

    Args:
        contents: Result of `torch.load`.

    Raises:
        InputError: There is no model of a known layout, or there are several, and none can be preferred.
    """
    if not isinstance(contents, Mapping):
        raise InputError(f"a state dict must map names to tensors, got {type(contents).__name__}")
    mappings = dict(_mappings(contents))
    models = [
        _Model(path, prefix) for path, entries in mappings.items() for prefix in _prefixes(_tensors(entries))
    ]
    chosen, choice = _choose(models, contents)
    if chosen is None:  # the mapping most like a model, for the error message
        chosen = _Model(max(mappings, key=lambda path: _num_tensors(mappings[path])), "")
    entries, prefix = mappings[chosen.path], chosen.prefix
    if unnamed := [
        name for name, value in entries.items() if _is_tensor(value) and not isinstance(name, str)
    ]:
        raise InputError(f"the keys of a state dict must be names, got {unnamed[0]!r}")
    tensors = _tensors(entries)
    outside = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    beside = [
        str(key)
        for depth, step in enumerate(chosen.path)
        for key in mappings[chosen.path[:depth]]
        if str(key) != step
    ]
    state_dict = {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
    return Recognized(
        layout=_require_layout(state_dict),
        state_dict=state_dict,
        around=_of_no_other_model(outside, chosen.path, models) | _siblings(mappings, chosen, models),
        beside=(*beside, *(str(name) for name in entries if name not in tensors), *outside),
        choice=choice,
    )


def _require_layout(state_dict: StateDict) -> Layout:
    """Return the layout of a flat state dict; raise InputError with some of its names if it is unknown."""
    if any(part in name for name in state_dict for part in layouts.SWIN_V2_NAMES):
        raise InputError(
            "the file must be a Swin V1, got a Swin V2: V2 uses cosine attention, computes its position bias "
            "with a network and normalizes after each branch, so its weights do not fit; use a Swin V1 file"
        )
    if not state_dict:
        raise InputError("a state dict must have tensors, got none")
    if (layout := find_layout(state_dict)) is None:
        raise InputError(
            f"the layout must be one of {', '.join(layout.name for layout in layouts.LAYOUTS)}, "
            f"got {len(state_dict)} tensors with other names, such as {first_few(list(state_dict))}"
        )
    return layout


def find_head(tensors: StateDict, width: int) -> tuple[str | None, tuple[str, ...]]:
    """Find the linear classifier of a model among tensors that do not belong to its backbone.

    Args:
        tensors: These tensors by name.
        width: Number of features of the backbone.

    Returns:
        The common prefix of its weight and bias, or None; and the names of heads that do not fit.
    """
    named = tuple(name for name in tensors if layouts.HEAD_NAMES.intersection(name.split(".")))
    layers = [name.removesuffix(".weight") for name in named if name.endswith(".weight")]
    # Several layers are several heads, or one head with several layers.
    if len(layers) == 1 and _is_linear(tensors, layers[0], width):
        return layers[0], ()
    return None, named


def _mappings(contents: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Yield every mapping in `contents` with its path of keys, outer mappings first."""
    queue: deque[tuple[tuple[str, ...], Mapping[Any, Any]]] = deque([((), contents)])
    seen = {id(contents)}
    while queue:
        path, mapping = queue.popleft()
        yield path, _with_parts_joined(mapping, seen)
        for key, value in mapping.items():
            if isinstance(value, Mapping) and id(value) not in seen and len(path) < _MAX_DEPTH:
                seen.add(id(value))
                queue.append(((*path, str(key)), value))


def _with_parts_joined(mapping: Mapping[Any, Any], seen: set[int]) -> Mapping[Any, Any]:
    """Join nested state dicts that are the parts of one model (see Layout.parts)."""
    for layout in layouts.LAYOUTS:
        parts = {part: mapping.get(part) for part in layout.parts}
        if parts and all(isinstance(part, Mapping) for part in parts.values()):
            seen.update(map(id, parts.values()))
            rest = {key: value for key, value in mapping.items() if key not in parts}
            return rest | {f"{part}.{name}": mapping[part][name] for part in parts for name in mapping[part]}
    return mapping


def _prefixes(state_dict: StateDict) -> list[str]:
    """Return the prefix of each model's names, as added by DDP, torch.compile, Lightning or a trainer."""
    found: list[str] = []
    patch_embeddings = "|".join({re.escape(layout.patch_embed) for layout in layouts.LAYOUTS})
    with_parent = re.compile(rf"((?:.+\.)?)(?:{patch_embeddings})")
    parents = (match[1] for match in map(with_parent.fullmatch, state_dict) if match)
    prefixes = {parent[: dot.end()] for parent in parents for dot in re.finditer(r"^|\.", parent)}
    if len(wrappers := prefixes - {""}) > _MAX_PREFIXES:
        raise InputError(
            f"a state dict must have at most {_MAX_PREFIXES} possible prefixes of a model, "
            f"got {len(wrappers)}; give the tensors of one model"
        )
    for prefix in sorted(prefixes, key=len):
        inside = {
            key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)
        }
        nested = any(prefix.startswith(outer) for outer in found)
        if not nested and find_layout(inside) is not None:
            found.append(prefix)
    return found


def _choose(models: list[_Model], contents: Mapping[str, Any]) -> tuple[_Model | None, str | None]:
    """Return the model to use, or None if there is none, and a sentence if there were several."""
    if len(models) > _MAX_MODELS:
        raise InputError(f"a file must have at most {_MAX_MODELS} models, got {len(models)}")
    # mmengine's EMAHook swaps the two when it saves: its `state_dict` is the average.
    swapped = "message_hub" in contents
    averages = [m for m in models if _AVERAGE.fullmatch(m.name) and not swapped]
    raw = [m for m in models if m not in averages and not (swapped and m.path[:1] == ("ema_state_dict",))]
    for some, others in ((averages, raw), (raw, averages)):
        if len(some) == 1 and len(others) <= 1:
            if not others:
                return some[0], None
            return some[0], (
                f"the averaged weights under {some[0].name} are used, not the raw ones under {others[0].name}"
            )
    if models:
        names = ", ".join(m.name for m in models)
        raise InputError(f"a file must have one model, got one under each of {names}; give one state dict")
    return None, None


def _siblings(
    mappings: Mapping[tuple[str, ...], Mapping[Any, Any]], chosen: _Model, models: list[_Model]
) -> dict[str, Tensor]:
    """Return tensors next to the model's container and in its siblings, as in {"backbone":, "head":}."""
    if not chosen.path:
        return {}
    parent = chosen.path[:-1]
    tensors = _of_no_other_model(_tensors(mappings[parent]), parent, models)
    for path, entries in mappings.items():
        if path and path[:-1] == parent and path not in [m.path for m in models]:
            tensors |= {f"{path[-1]}.{name}": tensor for name, tensor in _tensors(entries).items()}
    return tensors


def _of_no_other_model(
    tensors: dict[str, Tensor], path: tuple[str, ...], models: list[_Model]
) -> dict[str, Tensor]:
    prefixes = tuple(m.prefix for m in models if m.path == path)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def _tensors(entries: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the named tensors that may be parameters; scalars cannot."""
    return {name: value for name, value in entries.items() if isinstance(name, str) and _is_tensor(value)}


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _num_tensors(entries: Mapping[Any, Any]) -> int:
    return sum(map(_is_tensor, entries.values()))


def _is_linear(tensors: StateDict, name: str, width: int) -> bool:
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    return bias is not None and bias.ndim == 1 and weight.shape == (len(bias), width)
