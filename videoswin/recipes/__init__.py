"""Build the recipe of a training run from its name, your own function or a saved recipe.json."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final

from videoswin._errors import InputError
from videoswin._text import did_you_mean
from videoswin.camera_motion.recipe import camera_motion
from videoswin.recipes import kinetics, something
from videoswin.recipes.finetune import CHOSEN_SETTINGS, DEFAULTS, finetune
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
"""Name of a recipe, as in `videoswin train NAME` -> function that returns it."""

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
"""Argument of a recipe function, besides `data` and `init_from` -> setting whose value it gets."""


def describe_recipes() -> list[dict[str, Any]]:
    """Return a row for each recipe: its name, and the first line of its docstring."""
    return [
        {"name": name, "description": (inspect.getdoc(function) or "").partition("\n")[0]}
        for name, function in RECIPES.items()
    ]


def describe_recipe(name: str) -> list[dict[str, Any]]:
    """Return a row for each setting of a recipe: its name, value and description.

    Args:
        name: One of RECIPES, or `my_module:my_recipe`. Values of `finetune` that depend on the videos, the
            initial weights and the machine are "auto".

    Raises:
        InputError: There is no such recipe, or it requires other arguments than `data`.
    """
    function = _find_function(name)
    if function is finetune:
        rows = describe_settings(DEFAULTS)
        return [row | {"value": "auto"} if row["setting"] in CHOSEN_SETTINGS else row for row in rows]
    has_data = "data" in inspect.signature(function).parameters
    return describe_settings(_call_function(function, name, "DATA" if has_data else None, None, {}))


def build_recipe(
    name: str,
    *,
    data: str | None = None,
    init_from: str | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    trust: bool = False,
) -> Recipe:
    """Return the recipe of that name, with changed settings.

    Args:
        name: One of RECIPES, `my_module:my_recipe`, `path/to/file.py:my_recipe`, or the recipe.json of a run
            folder, which repeats the run with all of its settings.
        data: Training videos, for recipe functions that have this argument.
        init_from: Initial weights, for recipe functions that have this argument.
        settings: Setting -> value, see `videoswin.training.settings.with_settings`. Recipe functions also get
            those of RECIPE_ARGUMENTS for which they have an argument.
        trust: Run the function that a recipe.json names although it is not one of RECIPES. A
            `my_module:my_recipe` as the name itself needs no trust: the caller chose the code.

    Raises:
        InputError: There is no such recipe, or an argument or a setting does not fit it.

    Example:
        >>> build_recipe("kinetics:tiny", data="k400/", settings={"run.devices": "8"}).run.devices
        8
    """
    if is_recipe_file(name):
        recipe = _repeat_run(name, data, init_from, trust=trust)
    else:
        recipe = _call_function(_find_function(name), name, data, init_from, settings)
    return with_settings(recipe, settings)


def _repeat_run(path: str, data: str | None, init_from: str | None, *, trust: bool) -> Recipe:
    """Return the recipe in a recipe.json, with its `data` and `init_from` replaced unless they are None."""
    saved = read_recipe_file(path)
    if saved.name not in RECIPES and not trust:
        raise InputError(
            f"{path} runs code outside videoswin, {saved.name!r}: add --trust (in Python trust=True) if "
            "you trust both the file and that code"
        )
    replaced = {"data.train": data, "model.init_from": init_from}
    settings = {key: value for key, value in saved.settings.items() if replaced.get(key) is None}
    recipe = _call_function(
        _find_function(saved.name), saved.name, data or saved.data, init_from or saved.init_from, settings
    )
    try:
        recipe = with_settings(recipe, settings)
    except InputError as error:
        raise InputError(f"{path} does not fit the current recipe {saved.name}: {error}") from error
    if missing := flatten(recipe).keys() - saved.settings.keys():
        names = ", ".join(sorted(missing))
        raise InputError(
            f"{path} must have all settings of {saved.name}, but lacks {names}: it is from another version "
            "of videoswin; use that version, or the name of the recipe"
        )
    return recipe


def _find_function(name: str) -> Callable[..., Recipe]:
    """Return the recipe function of a name; raise InputError if there is none."""
    if name in RECIPES:
        return RECIPES[name]
    module_or_file, colon, function_name = name.rpartition(":")
    module = _import_module(module_or_file, name) if colon else None
    attribute = getattr(module, function_name, None)
    if not callable(attribute):
        reason = f"{module_or_file} has no function {function_name!r}" if module else ""
        raise _unknown_recipe_error(name, reason)
    function: Callable[..., Recipe] = attribute
    return function


def _import_module(module_or_file: str, name: str) -> ModuleType:
    """Import a .py file, or a module by name; the working directory is searched as with `python -m`."""
    file = Path(module_or_file).resolve() if module_or_file.endswith(".py") else None
    folder, module_name = (file.parent, file.stem) if file else (Path.cwd(), module_or_file)
    if file and not file.is_file():
        raise InputError(f"recipe must be in an existing file, got {name!r}: there is no {module_or_file}")
    if str(folder) not in sys.path:
        # The entry stays: data workers may import the module, too.
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise _unknown_recipe_error(name, f"there is no module {module_name!r}") from error
    if file and Path(module.__file__ or "").resolve() != file:
        raise InputError(
            f"{module_or_file} must not have the name of another module, {module.__file__}: rename the file"
        )
    return module


def _unknown_recipe_error(name: str, reason: str) -> InputError:
    """Return an InputError that suggests similar names, or lists all."""
    cure = did_you_mean(name, RECIPES, count=3) or f"the known ones are {', '.join(RECIPES)}"
    detail = f" ({reason})" if reason else ""
    return InputError(
        f"recipe must be a known name or MODULE:FUNCTION or FILE.py:FUNCTION, got {name!r}{detail}; {cure}"
    )


def _call_function(
    function: Callable[..., Recipe],
    name: str,
    data: str | None,
    init_from: str | None,
    settings: Mapping[str, Any],
) -> Recipe:
    """Call a recipe function with the arguments and settings that it has parameters for.

    Raises:
        InputError: `data` or `init_from` is given but not a parameter, a required argument is missing, or the
            function does not return a Recipe.
    """
    options = {"data": "--data", "init_from": "--model"}
    given = {key: value for key, value in (("data", data), ("init_from", init_from)) if value is not None}
    parameters = inspect.signature(function).parameters.values()
    accepted = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    required = {p.name for p in parameters if p.name in accepted and p.default is p.empty}
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not accepts_any and (unexpected := given.keys() - accepted):
        names = " or ".join(options[key] for key in sorted(unexpected))
        raise InputError(f"recipe {name} does not accept {names}")
    if unsupported := required - options.keys():
        names = ", ".join(sorted(unsupported))
        raise InputError(
            f"recipe {name} must not require other arguments than `data` and `init_from`, got {names}: give "
            "defaults to the others"
        )
    if missing := required - given.keys():
        names = " and ".join(options[key] for key in sorted(missing))
        raise InputError(f"recipe {name} requires {names}")
    for key, setting in RECIPE_ARGUMENTS.items():
        value = settings.get(setting)
        if key in accepted and value not in (None, "null"):
            given[key] = str(value)
    recipe = function(**given)
    if not isinstance(recipe, Recipe):
        raise InputError(f"{name} must return a videoswin.training.recipe.Recipe, got {recipe!r}")
    return recipe
