"""Recipes by name, from a file of the user, and from the recipe.json of a run folder."""

import contextlib
import json
import sys

import pytest

from videoswin._errors import InputError
from videoswin.recipes import RECIPES, build_recipe, read_recipe_file, recipe_to_dict
from videoswin.training.recipe import Recipe
from videoswin.training.settings import flatten

OWN = """
import dataclasses
from videoswin.recipes.kinetics import tiny

def mine(*, data, init_from="somewhere"):
    return dataclasses.replace(tiny(data=data, init_from=init_from), name="mine")

def anything(**given):
    return dataclasses.replace(tiny(data="fixed/"), name=" ".join(sorted(given)) or "nothing")

def reads(*, data, settings):
    return dataclasses.replace(tiny(data=data), name=f"{settings['data.root']} {settings['data.val']}")

def requires_more(data, size):
    return mine(data=data)

def none():
    return None

constant = 5
"""


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """A file with recipes in the working directory, whose module is unloaded afterwards."""
    path = tmp_path / "own_recipes.py"
    path.write_text(OWN)
    monkeypatch.chdir(tmp_path)
    # As for the installed console script, which does not have the working directory in sys.path.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    yield path
    sys.modules.pop("own_recipes", None)


def test_the_known_recipes_are_these():
    assert set(RECIPES) == {
        "camera-motion",
        "finetune",
        "kinetics:tiny",
        "kinetics:small",
        "kinetics:base",
        "kinetics:base_22k",
        "kinetics600:base_22k",
        "something:base",
        "something:base_imgaug",
        "kinetics:tiny_modern",
        "kinetics:small_modern",
        "kinetics:base_modern",
        "kinetics:base_22k_modern",
    }


def test_data_initial_weights_and_settings_are_in_the_recipe():
    recipe = build_recipe("kinetics:tiny", data="k400/", init_from="mine.pth", settings={"run.devices": "8"})
    assert recipe.data.train == "k400/"
    assert recipe.model.init_from == "mine.pth"
    assert recipe.run.devices == 8


def test_a_function_of_a_module_in_the_working_directory_is_a_recipe(own_file):
    recipe = build_recipe("own_recipes:mine", data="videos/")
    assert (recipe.name, recipe.data.train, recipe.model.init_from) == ("mine", "videos/", "somewhere")


def test_a_function_of_a_file_is_a_recipe(own_file, monkeypatch):
    monkeypatch.chdir("/")
    assert build_recipe(f"{own_file}:mine", data="videos/").name == "mine"


def test_a_function_with_arbitrary_keywords_gets_data_and_initial_weights(own_file):
    assert build_recipe("own_recipes:anything").name == "nothing"
    assert build_recipe("own_recipes:anything", data="d", init_from="s").name == "data init_from"


def test_a_function_with_an_argument_settings_gets_the_settings(own_file):
    settings = {"data.root": "videos/", "data.val": "held.csv"}
    assert build_recipe("own_recipes:reads", data="list.csv", settings=settings).name == "videos/ held.csv"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("camera-motion", {"data": "videos/"}, "^recipe camera-motion does not accept --data$"),
        (
            "camera-motion",
            {"data": "d", "init_from": "s"},
            "^recipe camera-motion does not accept --data or --model$",
        ),
        ("kinetics:tiny", {}, "^recipe kinetics:tiny requires --data$"),
        ("finetune", {}, "^recipe finetune requires --data and --model$"),
        ("finetune", {"data": "videos/"}, "^recipe finetune requires --model$"),
        (
            "kinetics:tinny",
            {"data": "d"},
            r"^recipe must be a known name .*, got 'kinetics:tinny' .*; did you mean 'kinetics:tiny'",
        ),
        ("finetun", {"data": "d"}, "got 'finetun'; did you mean 'finetune'"),
        ("xyzzy", {}, "got 'xyzzy'; the known ones are finetune, camera-motion, "),
        ("no_such_module:f", {}, r"\(there is no module 'no_such_module'\)"),
        ("videoswin.no_such_module:f", {}, r"\(there is no module 'videoswin.no_such_module'\)"),
        ("no_such_file.py:f", {}, "got 'no_such_file.py:f': there is no no_such_file.py"),
        ("own_recipes:min", {}, r"\(own_recipes has no function 'min'\)"),
        ("own_recipes:constant", {}, r"\(own_recipes has no function 'constant'\)"),
        ("own_recipes:none", {}, "own_recipes:none must return a .*Recipe, got None"),
        ("own_recipes:requires_more", {"data": "d"}, "own_recipes:requires_more must not .*, got size: give"),
    ],
)
def test_an_invalid_name_or_argument_is_refused_with_the_cure(name, arguments, message, own_file):
    with pytest.raises(ValueError, match=message):
        build_recipe(name, **arguments)


def test_an_import_error_inside_the_module_of_the_user_is_not_hidden(own_file):
    own_file.write_text("import no_such_library\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        build_recipe("own_recipes:mine", data="d")


def test_a_file_with_the_name_of_another_module_is_refused(tmp_path):
    (tmp_path / "json.py").write_text("def mine(): ...\n")
    with pytest.raises(
        ValueError, match=r"json\.py must not have the name of another module, .*: rename the file"
    ):
        build_recipe(f"{tmp_path}/json.py:mine")


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"did you mean 'optimizer\.lr'"):
        build_recipe("camera-motion", settings={"optimizer.rat": "1e-3"})


def saved_recipe(tmp_path, name, **changes) -> tuple[str, Recipe]:
    """Return the recipe.json that a run of this recipe saves, and the recipe."""
    recipe = build_recipe(name, **changes)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe_to_dict(recipe, name, changes.get("data"), changes.get("init_from"))))
    return str(path), recipe


def test_a_run_is_repeated_with_every_setting_it_had(tmp_path):
    path, recipe = saved_recipe(
        tmp_path,
        "kinetics:tiny",
        data="k400/",
        settings={"schedule.epochs": 3, "optimizer.max_grad_norm": "1"},
    )
    assert build_recipe(path) == recipe
    assert build_recipe(path, settings={"schedule.epochs": "4"}).schedule.epochs == 4


def test_a_run_on_generated_clips_is_repeated_with_its_functions(tmp_path):
    path, recipe = saved_recipe(tmp_path, "camera-motion", settings={"run.seed": 3})
    assert build_recipe(path) == recipe


def test_a_run_is_repeated_on_other_data_or_from_other_initial_weights(tmp_path):
    path, recipe = saved_recipe(tmp_path, "kinetics:tiny", data="k400/", settings={"data.root": "videos/"})
    other = build_recipe(path, data="mine/", init_from="mine.pth")
    moved = {"data.train": "mine/", "model.init_from": "mine.pth"}
    assert flatten(other) == flatten(recipe) | moved


def test_a_run_of_a_version_with_other_settings_is_refused_by_name(tmp_path):
    path, recipe = saved_recipe(tmp_path, "camera-motion")
    contents = recipe_to_dict(recipe, "camera-motion", None, None)
    rate = contents["settings"].pop("optimizer.lr")
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    with pytest.raises(
        ValueError, match=r"recipe\.json must have all settings of camera-motion, but lacks optimizer\.lr:"
    ):
        build_recipe(path)
    contents["settings"] |= {"optimizer.lr": rate, "optimizer.speed": 5}
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    with pytest.raises(
        ValueError, match=r"recipe\.json does not fit the current recipe camera-motion: .*optimizer\.speed"
    ):
        build_recipe(path)


def test_a_recipe_json_that_names_code_outside_videoswin_is_refused_unless_trusted(own_file, tmp_path):
    path, recipe = saved_recipe(tmp_path, "own_recipes:mine", data="videos/")
    sys.modules.pop("own_recipes")
    with pytest.raises(
        ValueError, match=r"recipe\.json runs code outside videoswin.*own_recipes:mine.*--trust"
    ):
        build_recipe(path)
    assert "own_recipes" not in sys.modules
    assert build_recipe(path, trust=True) == recipe


@pytest.mark.parametrize("name", ["os:system", "videoswin.recipes.kinetics:tiny", "evil.py:f", "recipe.json"])
def test_a_recipe_json_cannot_import_code_other_than_the_known_recipes(name, tmp_path):
    path, _ = saved_recipe(tmp_path, "camera-motion")
    contents = json.loads((tmp_path / "recipe.json").read_text()) | {"name": name}
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=r"--trust"):
        build_recipe(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", 5), ("name", None), ("data", ["a"]), ("init_from", 1.5), ("settings", []), ("settings", None)],
)
def test_a_recipe_json_with_a_field_of_the_wrong_type_is_refused_by_name(field, value, tmp_path):
    path, _ = saved_recipe(tmp_path, "camera-motion")
    contents = json.loads((tmp_path / "recipe.json").read_text()) | {field: value}
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=rf"'{field}' in .*recipe\.json must be .*, got ") as caught:
        build_recipe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("contents", [b"", b"\0", b"\xff", b"[1]", b"{}", b"[" * 100_000, b"9" * 10_000])
def test_an_invalid_recipe_json_is_an_error_of_one_line_that_names_the_file(contents, tmp_path):
    (tmp_path / "recipe.json").write_bytes(contents)
    with pytest.raises(ValueError, match=r"recipe\.json is ") as caught:
        build_recipe(str(tmp_path / "recipe.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, True, "x", 5, 1.5, [1], {"a": 1}, [[]], {}])
@pytest.mark.parametrize(
    "key", ["schedule.epochs", "augment.flip_pairs", "model.config.window", "data.num_workers"]
)
def test_a_value_of_any_kind_in_a_recipe_json_gives_a_recipe_or_an_input_error(key, value, tmp_path):
    path, _ = saved_recipe(tmp_path, "camera-motion")
    contents = json.loads((tmp_path / "recipe.json").read_text())
    contents["settings"][key] = value
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    with contextlib.suppress(InputError):
        assert isinstance(build_recipe(path), Recipe)


def test_a_written_recipe_is_read_back(tmp_path):
    recipe = build_recipe("kinetics:tiny", data="videos/", init_from="tiny-k400")
    contents = recipe_to_dict(recipe, "finetune", "videos/", "tiny-k400")
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    written = read_recipe_file(str(tmp_path / "recipe.json"))
    assert (written.name, written.data, written.init_from) == ("finetune", "videos/", "tiny-k400")
    assert written.settings == flatten(recipe)


def test_what_was_run_from_a_written_recipe_names_the_function_that_made_it(tmp_path):
    first = tmp_path / "recipe.json"
    recipe = build_recipe("kinetics:tiny", data="videos/")
    first.write_text(json.dumps(recipe_to_dict(recipe, "finetune", "videos/", "tiny-k400")))
    again = recipe_to_dict(recipe, str(first), "elsewhere/", None)
    assert (again["name"], again["data"], again["init_from"]) == ("finetune", "elsewhere/", "tiny-k400")


@pytest.mark.parametrize("contents", ["", "[]", "{}", '{"version": 2, "name": "finetune"}'])
def test_a_file_that_is_no_written_recipe_is_refused_by_name(contents, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(contents)
    with pytest.raises(
        ValueError, match=r"recipe\.json (is not JSON|is not the recipe\.json of a run folder)"
    ):
        read_recipe_file(str(path))


def test_a_recipe_of_another_version_is_refused(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(
        json.dumps(recipe_to_dict(build_recipe("camera-motion"), "finetune", None, None) | {"version": 3})
    )
    with pytest.raises(ValueError, match="must have version 2, got 3"):
        read_recipe_file(str(path))
