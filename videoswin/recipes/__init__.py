"""Whole training runs as functions that return a Recipe, by name or from your own file."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final

from videoswin._errors import InputError
from videoswin.camera_motion.recipe import camera_motion
from videoswin.recipes import kinetics, something
from videoswin.recipes.finetune import finetune
from videoswin.training.recipe import Recipe
from videoswin.training.settings import flatten, is_written, read_written, with_settings

RECIPES: Final[Mapping[str, Callable[..., Recipe]]] = MappingProxyType(
    {
        "finetune": finetune,
        "camera-motion": camera_motion,
        "kinetics:tiny": kinetics.tiny,
        "kinetics:small": kinetics.small,
        "kinetics:base": kinetics.base,
        "kinetics:base_22k": kinetics.base_22k,
        "kinetics600:base_22k": kinetics.base_22k_600,
        "something:base": something.base,
        "something:base_imgaug": something.base_imgaug,
        "kinetics:tiny_modern": kinetics.tiny_modern,
        "kinetics:small_modern": kinetics.small_modern,
        "kinetics:base_modern": kinetics.base_modern,
        "kinetics:base_22k_modern": kinetics.base_22k_modern,
    }
)
"""The recipes that `videoswin train` knows, by name."""

DECIDING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "root": "data.root",
        "validation": "data.val",
        "holdout": "data.val_fraction",
        "groups": "data.group_by",
        "balanced": "data.class_balanced",
        "class_weights": "optimizer.class_weights",
        "tune": "model.trainable",
        "epochs": "schedule.epochs",
        "batch_size": "data.batch_size",
        "repeats": "data.num_repeats",
        "frames": "data.clip.frames",
        "stride": "data.clip.stride",
        "fps": "data.clip.fps",
        "size": "data.clip.size",
        "device": "run.device",
        "precision": "run.precision",
        "workers": "data.num_workers",
        "devices": "run.devices",
        "nodes": "run.num_nodes",
        "checkpointing": "model.grad_checkpointing",
    }
)
"""Arguments that a recipe function may take beside `data` and `start`: settings that others follow from."""


def build_recipe(
    name: str,
    *,
    data: str | None = None,
    start: str | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    trust: bool = False,
) -> Recipe:
    """The recipe of that name, with settings put over it; ValueError names what does not fit, and the cure.

    name: one of RECIPES, `my_module:my_recipe`, `path/to/file.py:my_recipe`, or the recipe.json of a run
        folder, whose run is then repeated with every setting it had.
    data: videos to learn from, for functions that take them. start: weights to start from, likewise.
    settings: see `videoswin.training.settings.with_settings`. A function that must read the videos takes
        `root` and `validation` of VideoFiles from them, too.
    trust: run the code that a recipe.json names if its recipe is none of RECIPES. A `my_module:my_recipe`
        given as the name itself needs no trust: giving it is a choice of code.
    """
    if is_written(name):
        recipe = _run_again(name, data, start, trust=trust)
    else:
        recipe = _call(_find(name), name, data, start, settings)
    return with_settings(recipe, settings)


def _run_again(path: str, data: str | None, start: str | None, *, trust: bool) -> Recipe:
    """The recipe that a run folder keeps; `data` and `start`, where given, in place of its own."""
    written = read_written(path)
    if written.name not in RECIPES and not trust:
        raise InputError(
            f"{path} runs code outside videoswin, {written.name!r}: add --trust (in Python trust=True) if "
            "you trust both the file and that code"
        )
    replaced = {"data.train": data, "model.init_from": start}
    settings = {key: value for key, value in written.settings.items() if replaced.get(key) is None}
    function = _find(written.name)
    recipe = _call(function, written.name, data or written.data, start or written.start, settings)
    try:
        recipe = with_settings(recipe, settings)
    except InputError as error:
        raise InputError(f"{path} does not fit {written.name} as it is now: {error}") from error
    if missing := flatten(recipe).keys() - written.settings.keys():
        raise InputError(
            f"{path} was written without {', '.join(sorted(missing))}: it is from another version"
        )
    return recipe


def _find(name: str) -> Callable[..., Recipe]:
    """The function that a name stands for."""
    if name in RECIPES:
        return RECIPES[name]
    place, colon, function = name.rpartition(":")
    module = _import(place, name) if colon else None
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(_no_such_recipe(name, f"{place} has no function {function!r}" if module else ""))
    recipe_function: Callable[..., Recipe] = found
    return recipe_function


def _import(place: str, name: str) -> ModuleType:
    """The module at a path that ends in .py, or of a name, from the working directory as with `python -m`."""
    file = Path(place).resolve() if place.endswith(".py") else None
    folder, module_name = (file.parent, file.stem) if file else (Path.cwd(), place)
    if file and not file.is_file():
        raise InputError(f"there is no file {place}, where the recipe {name!r} should be")
    if str(folder) not in sys.path:
        # Left there: processes that prepare clips may have to import the module, too.
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InputError(_no_such_recipe(name, f"there is no module {module_name!r}")) from error
    if file and Path(module.__file__ or "").resolve() != file:
        raise InputError(f"{place} has the name of another module, {module.__file__}; rename it")
    return module


def _no_such_recipe(name: str, reason: str) -> str:
    near = difflib.get_close_matches(name, RECIPES, n=3)
    cure = f"did you mean {' or '.join(near)}?" if near else f"the known ones are {', '.join(RECIPES)}"
    return f"no recipe is called {name!r}" + (f" ({reason}); " if reason else "; ") + cure


def _call(
    function: Callable[..., Recipe],
    name: str,
    data: str | None,
    start: str | None,
    settings: Mapping[str, Any],
) -> Recipe:
    """What the function returns for those of the arguments that are given and that it takes."""
    options = {"data": "--data", "start": "--from"}
    given = {key: value for key, value in (("data", data), ("start", start)) if value is not None}
    parameters = inspect.signature(function).parameters.values()
    takes = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    needs = {p.name for p in parameters if p.name in takes and p.default is p.empty}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not takes_any and (unwanted := given.keys() - takes):
        raise InputError(f"{name} takes no {' or '.join(options[key] for key in sorted(unwanted))}")
    if strange := needs - options.keys():
        raise InputError(f"{name} wants {', '.join(sorted(strange))}; a recipe takes `data` and `start` only")
    if missing := needs - given.keys():
        raise InputError(f"{name} needs {' and '.join(options[key] for key in sorted(missing))}")
    for key, setting in DECIDING.items():
        value = settings.get(setting)
        if key in takes and value not in (None, "null"):
            given[key] = str(value)
    recipe = function(**given)
    if not isinstance(recipe, Recipe):
        raise InputError(f"{name} returned {recipe!r}, wanted a videoswin.training.recipe.Recipe")
    return recipe
