"""Build the recipe of a training run from its name, your own function or a saved recipe.json."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final, get_type_hints

from videoswin._errors import InputError
from videoswin._text import did_you_mean
from videoswin.camera_motion.recipe import camera_motion
from videoswin.recipes import kinetics, something
from videoswin.recipes.finetune import CHOSEN_SETTINGS, DEFAULTS, RunPlan, finetune
from videoswin.training.recipe import Recipe
from videoswin.training.settings import describe_settings, describe_type, flatten, with_settings

FORMAT_VERSION: Final = 2
"""Version of the format of recipe.json; files with another version are refused."""

RECIPES: Final[Mapping[str, Callable[..., Recipe | RunPlan]]] = MappingProxyType(
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
    return describe_settings(_call_function(function, name, "DATA" if has_data else None, None, {}).recipe)


def build_recipe(
    name: str,
    *,
    data: str | None = None,
    init_from: str | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    trust: bool = False,
    license: str | None = None,
) -> Recipe:
    """Return the recipe of that name, with changed settings.

    Args:
        name: One of RECIPES, `my_module:my_recipe`, `path/to/file.py:my_recipe`, or the recipe.json of a run
            folder, which repeats the run with all of its settings.
        data: Training videos, for recipe functions that have this argument.
        init_from: Initial weights, for recipe functions that have this argument.
        settings: Setting -> value, see `videoswin.training.settings.with_settings`. Recipe functions with an
            argument `settings` get them, too.
        trust: Run the function that a recipe.json names although it is not one of RECIPES. A
            `my_module:my_recipe` as the name itself needs no trust: the caller chose the code.
        license: License of restricted initial weights, repeated to accept it; for recipe functions that have
            this argument.

    Raises:
        InputError: There is no such recipe, or an argument or a setting does not fit it.

    Example:
        >>> build_recipe("kinetics:tiny", data="k400/", settings={"run.devices": "8"}).run.devices
        8
    """
    return plan_run(
        name, data=data, init_from=init_from, settings=settings, trust=trust, license=license
    ).recipe


def plan_run(
    name: str,
    *,
    data: str | None = None,
    init_from: str | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    trust: bool = False,
    license: str | None = None,
) -> RunPlan:
    """Return the recipe of that name with the reasons for its settings, and what was read to choose them.

    Args:
        name: As for `build_recipe`; so are the other arguments.
        data: Training videos.
        init_from: Initial weights.
        settings: Setting -> value.
        trust: Run the function that a recipe.json names although it is not one of RECIPES.
        license: License of restricted initial weights, repeated to accept it.

    Raises:
        InputError: As for `build_recipe`.
    """
    if is_recipe_file(name):
        plan = RunPlan(recipe=_repeat_run(name, data, init_from, trust=trust, license=license))
    else:
        plan = _call_function(_find_function(name), name, data, init_from, settings, license)
    return dataclasses.replace(plan, recipe=with_settings(plan.recipe, settings))


def _repeat_run(
    path: str, data: str | None, init_from: str | None, *, trust: bool, license: str | None
) -> Recipe:
    """Return the recipe in a recipe.json, with its `data` and `init_from` replaced unless they are None."""
    saved = read_recipe_file(path)
    if saved.name not in RECIPES and not trust:
        raise InputError(
            f"{path} runs code outside videoswin, {saved.name!r}: add --trust (in Python trust=True) if "
            "you trust both the file and that code"
        )
    data, init_from = data or saved.data, init_from or saved.init_from
    replaced = {"data.train": data, "model.init_from": init_from}
    settings = {key: value for key, value in saved.settings.items() if replaced.get(key) is None}
    if saved.name == "finetune":  # the file has all settings, so that none has to be chosen
        recipe = with_settings(DEFAULTS, {key: value for key, value in replaced.items() if value is not None})
    else:
        recipe = _call_function(
            _find_function(saved.name), saved.name, data, init_from, settings, license
        ).recipe
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


def _find_function(name: str) -> Callable[..., Recipe | RunPlan]:
    """Return the recipe function of a name; raise InputError if there is none."""
    if name in RECIPES:
        return RECIPES[name]
    module_or_file, colon, function_name = name.rpartition(":")
    module = _import_module(module_or_file, name) if colon else None
    attribute = getattr(module, function_name, None)
    if not callable(attribute):
        reason = f"{module_or_file} has no function {function_name!r}" if module else ""
        raise _unknown_recipe_error(name, reason)
    function: Callable[..., Recipe | RunPlan] = attribute
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
    function: Callable[..., Recipe | RunPlan],
    name: str,
    data: str | None,
    init_from: str | None,
    settings: Mapping[str, Any],
    license: str | None = None,
) -> RunPlan:
    """Call a recipe function with the arguments that it has parameters for.

    Raises:
        InputError: `data` or `init_from` is given but not a parameter, a required argument is missing, or the
            function does not return a Recipe.
    """
    options = {"data": "--data", "init_from": "--model"}
    given: dict[str, Any] = {
        key: value for key, value in (("data", data), ("init_from", init_from)) if value is not None
    }
    parameters = inspect.signature(function).parameters.values()
    accepted = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    required = {p.name for p in parameters if p.name in accepted and p.default is p.empty}
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not accepts_any and (unexpected := given.keys() - accepted):
        names = " or ".join(options[key] for key in sorted(unexpected))
        raise InputError(f"recipe {name} does not accept {names}")
    if unsupported := required - options.keys() - {"settings"}:
        names = ", ".join(sorted(unsupported))
        raise InputError(
            f"recipe {name} must not require other arguments than `data` and `init_from`, got {names}: give "
            "defaults to the others"
        )
    if missing := (required & options.keys()) - given.keys():
        names = " and ".join(options[key] for key in sorted(missing))
        raise InputError(f"recipe {name} requires {names}")
    if "settings" in accepted:
        given["settings"] = settings
    if "license" in accepted and license is not None:
        given["license"] = license
    result = function(**given)
    if not isinstance(result, (Recipe, RunPlan)):
        raise InputError(f"{name} must return a videoswin.training.recipe.Recipe, got {result!r}")
    return RunPlan(recipe=result) if isinstance(result, Recipe) else result


@dataclass(frozen=True, kw_only=True)
class SavedRecipe:
    """Content of the recipe.json of a run folder."""

    name: str
    """Name of the function that built the recipe: one of videoswin.recipes, or `module:function`."""
    data: str | None
    """The argument `data` of that function."""
    init_from: str | None
    """Its argument `init_from`."""
    settings: dict[str, Any]
    """All settings of the run, including those that the user has changed."""


def recipe_to_dict(recipe: Recipe, name: str, data: str | None, init_from: str | None) -> dict[str, Any]:
    """Return the content of recipe.json, with which `videoswin.recipes.build_recipe` can repeat the run.

    Args:
        recipe: The recipe of the run.
        name: The name that was passed to `build_recipe`. If it is a recipe file, the function, and missing
            data and weights, are taken from that file.
        data: The data that was passed to `build_recipe`.
        init_from: The initial weights that were passed to `build_recipe`.
    """
    if is_recipe_file(name):
        origin = read_recipe_file(name)
        name, data, init_from = origin.name, data or origin.data, init_from or origin.init_from
    saved = SavedRecipe(name=name, data=data, init_from=init_from, settings=flatten(recipe))
    return {"version": FORMAT_VERSION} | dataclasses.asdict(saved)


def is_recipe_file(name: str) -> bool:
    """Return whether the name of a recipe is a file name, not the name of a function."""
    return name.endswith(".json")


def read_recipe_file(path: str) -> SavedRecipe:
    """Read the recipe.json of a run folder.

    Raises:
        InputError: The file cannot be read, is not a recipe.json, or is from another version.
    """
    try:
        contents = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or too many digits or brackets
        raise InputError(f"{path} is not JSON ({error}): is it the recipe.json of a run folder?") from error
    types = get_type_hints(SavedRecipe) | {"version": int, "settings": dict}
    if not isinstance(contents, dict) or contents.keys() != types.keys():
        raise InputError(
            f"{path} is not the recipe.json of a run folder: it must have the keys {', '.join(sorted(types))}"
        )
    if (version := contents.pop("version")) != FORMAT_VERSION:
        raise InputError(
            f"{path} must have version {FORMAT_VERSION}, got {version!r}: use the version of videoswin that "
            "wrote it"
        )
    for name, value in contents.items():
        if not isinstance(value, types[name]):
            kind = describe_type(types[name]) if name != "settings" else "an object"
            raise InputError(f"{name!r} in {path} must be {kind}, got {value!r:.80}")
    return SavedRecipe(**contents)
