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
from videoswin.recipes.finetune import CHOSEN, DEFAULTS, finetune
from videoswin.training.recipe import Recipe
from videoswin.training.settings import (
    describe_settings,
    flatten,
    is_recipe_file,
    read_recipe_file,
    with_settings,
)

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

RECIPE_ARGUMENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "root": "data.root",
        "val": "data.val",
        "val_fraction": "data.val_fraction",
        "group_by": "data.group_by",
        "class_balanced": "data.class_balanced",
        "class_weights": "optimizer.class_weights",
        "trainable": "model.trainable",
        "epochs": "schedule.epochs",
        "batch_size": "data.batch_size",
        "num_repeats": "data.num_repeats",
        "frames": "data.clip.frames",
        "stride": "data.clip.stride",
        "fps": "data.clip.fps",
        "size": "data.clip.size",
        "device": "run.device",
        "precision": "run.precision",
        "num_workers": "data.num_workers",
        "devices": "run.devices",
        "num_nodes": "run.num_nodes",
        "grad_checkpointing": "model.grad_checkpointing",
    }
)
"""Arguments of recipe functions beside `data` and `init_from`: settings that others follow from."""


def describe_recipes() -> list[dict[str, Any]]:
    """Return a row for each recipe: its name, and the first line of its docstring."""
    return [
        {"name": name, "description": (inspect.getdoc(function) or "").partition("\n")[0]}
        for name, function in RECIPES.items()
    ]


def describe_recipe(name: str) -> list[dict[str, Any]]:
    """Return a row for each setting of a recipe: its name, its value, and what it is.

    Args:
        name: One of RECIPES, or `my_module:my_recipe`. Values of `finetune` that depend on the videos, the
            initial weights and the machine are "chosen".

    Raises:
        InputError: There is no such recipe, or it takes more than `data`.
    """
    function = _find(name)
    if function is finetune:
        rows = describe_settings(DEFAULTS)
        return [row | {"value": "chosen"} if row["setting"] in CHOSEN else row for row in rows]
    takes_data = "data" in inspect.signature(function).parameters
    return describe_settings(_call(function, name, "DATA" if takes_data else None, None, {}))


def build_recipe(
    name: str,
    *,
    data: str | None = None,
    init_from: str | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    trust: bool = False,
) -> Recipe:
    """The recipe of that name, with settings put over it; ValueError names what does not fit, and the cure.

    name: one of RECIPES, `my_module:my_recipe`, `path/to/file.py:my_recipe`, or the recipe.json of a run
        folder, whose run is then repeated with every setting it had.
    data: videos to learn from, for functions that take them. init_from: initial weights, likewise.
    settings: see `videoswin.training.settings.with_settings`. A function that must read the videos takes
        `root` and `val` of VideoData from them, too.
    trust: run the code that a recipe.json names if its recipe is none of RECIPES. A `my_module:my_recipe`
        given as the name itself needs no trust: giving it is a choice of code.
    """
    if is_recipe_file(name):
        recipe = _run_again(name, data, init_from, trust=trust)
    else:
        recipe = _call(_find(name), name, data, init_from, settings)
    return with_settings(recipe, settings)


def _run_again(path: str, data: str | None, init_from: str | None, *, trust: bool) -> Recipe:
    """The recipe that a run folder keeps; `data` and `init_from`, where given, in place of its own."""
    written = read_recipe_file(path)
    if written.name not in RECIPES and not trust:
        raise InputError(
            f"{path} runs code outside videoswin, {written.name!r}: add --trust (in Python trust=True) if "
            "you trust both the file and that code"
        )
    replaced = {"data.train": data, "model.init_from": init_from}
    settings = {key: value for key, value in written.settings.items() if replaced.get(key) is None}
    function = _find(written.name)
    recipe = _call(function, written.name, data or written.data, init_from or written.init_from, settings)
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
    init_from: str | None,
    settings: Mapping[str, Any],
) -> Recipe:
    """What the function returns for those of the arguments that are given and that it takes."""
    options = {"data": "--data", "init_from": "--model"}
    given = {key: value for key, value in (("data", data), ("init_from", init_from)) if value is not None}
    parameters = inspect.signature(function).parameters.values()
    takes = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    needs = {p.name for p in parameters if p.name in takes and p.default is p.empty}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not takes_any and (unwanted := given.keys() - takes):
        raise InputError(f"{name} takes no {' or '.join(options[key] for key in sorted(unwanted))}")
    if strange := needs - options.keys():
        raise InputError(
            f"{name} wants {', '.join(sorted(strange))}; a recipe takes `data` and `init_from` only"
        )
    if missing := needs - given.keys():
        raise InputError(f"{name} needs {' and '.join(options[key] for key in sorted(missing))}")
    for key, setting in RECIPE_ARGUMENTS.items():
        value = settings.get(setting)
        if key in takes and value not in (None, "null"):
            given[key] = str(value)
    recipe = function(**given)
    if not isinstance(recipe, Recipe):
        raise InputError(f"{name} returned {recipe!r}, wanted a videoswin.training.recipe.Recipe")
    return recipe
