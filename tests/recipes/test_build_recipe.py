"""Recipes by name, from one's own file, and again from what a run folder kept."""

import contextlib
import json
import sys

import pytest

from videoswin._errors import InputError
from videoswin.recipes import RECIPES, build_recipe
from videoswin.training.recipe import Recipe
from videoswin.training.settings import flatten, recipe_to_dict

OWN = """
import dataclasses
from videoswin.recipes.kinetics import tiny

def mine(*, data, init_from="somewhere"):
    return dataclasses.replace(tiny(data=data, init_from=init_from), name="mine")

def anything(**given):
    return dataclasses.replace(tiny(data="fixed/"), name=" ".join(sorted(given)) or "nothing")

def reads(*, data, root=None, validation=None):
    return dataclasses.replace(tiny(data=data), name=f"{root} {validation}")

def wants_more(data, size):
    return mine(data=data)

def none():
    return None

constant = 5
"""


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """A file with recipes in the working directory, forgotten afterwards."""
    path = tmp_path / "own_recipes.py"
    path.write_text(OWN)
    monkeypatch.chdir(tmp_path)
    # As for the installed console script: the working directory is not where Python looks.
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


def test_data_start_and_settings_arrive():
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


def test_a_function_with_keywords_of_any_name_gets_what_is_given(own_file):
    assert build_recipe("own_recipes:anything").name == "nothing"
    assert build_recipe("own_recipes:anything", data="d", init_from="s").name == "data init_from"


def test_a_function_that_reads_the_videos_is_told_where_they_are(own_file):
    settings = {"data.root": "videos/", "data.val": "null"}
    assert build_recipe("own_recipes:reads", data="list.csv", settings=settings).name == "videos/ None"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("camera-motion", {"data": "videos/"}, "camera-motion takes no --data"),
        ("camera-motion", {"data": "d", "init_from": "s"}, "camera-motion takes no --data or --model"),
        ("kinetics:tiny", {}, "kinetics:tiny needs --data"),
        ("finetune", {}, "finetune needs --data and --model"),
        ("finetune", {"data": "videos/"}, "finetune needs --model"),
        (
            "kinetics:tinny",
            {"data": "d"},
            r"no recipe is called 'kinetics:tinny' .*did you mean kinetics:tiny",
        ),
        ("finetun", {"data": "d"}, "no recipe is called 'finetun'; did you mean finetune"),
        ("xyzzy", {}, "no recipe is called 'xyzzy'; the known ones are finetune, camera-motion, "),
        ("no_such_module:f", {}, r"\(there is no module 'no_such_module'\)"),
        ("videoswin.no_such_module:f", {}, r"\(there is no module 'videoswin.no_such_module'\)"),
        ("no_such_file.py:f", {}, "there is no file no_such_file.py"),
        ("own_recipes:min", {}, r"\(own_recipes has no function 'min'\)"),
        ("own_recipes:constant", {}, r"\(own_recipes has no function 'constant'\)"),
        ("own_recipes:none", {}, "own_recipes:none returned None, wanted a .*Recipe"),
        ("own_recipes:wants_more", {"data": "d"}, "own_recipes:wants_more wants size"),
    ],
)
def test_what_does_not_fit_is_said_with_the_cure(name, arguments, message, own_file):
    with pytest.raises(ValueError, match=message):
        build_recipe(name, **arguments)


def test_an_error_inside_ones_own_module_is_not_hidden(own_file):
    own_file.write_text("import no_such_library\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        build_recipe("own_recipes:mine", data="d")


def test_a_file_with_the_name_of_a_module_is_not_mistaken_for_it(tmp_path):
    (tmp_path / "json.py").write_text("def mine(): ...\n")
    with pytest.raises(ValueError, match="has the name of another module"):
        build_recipe(f"{tmp_path}/json.py:mine")


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"did you mean optimizer\.lr"):
        build_recipe("camera-motion", settings={"optimizer.rat": "1e-3"})


def written(tmp_path, name, **changes) -> tuple[str, Recipe]:
    """The file that a run of this recipe keeps, and the recipe."""
    recipe = build_recipe(name, **changes)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe_to_dict(recipe, name, changes.get("data"), changes.get("init_from"))))
    return str(path), recipe


def test_a_run_is_repeated_with_every_setting_it_had(tmp_path):
    path, recipe = written(
        tmp_path,
        "kinetics:tiny",
        data="k400/",
        settings={"schedule.epochs": 3, "optimizer.max_grad_norm": "1"},
    )
    assert build_recipe(path) == recipe
    assert build_recipe(path, settings={"schedule.epochs": "4"}).schedule.epochs == 4


def test_a_run_on_generated_clips_is_repeated_with_its_functions(tmp_path):
    path, recipe = written(tmp_path, "camera-motion", settings={"run.seed": 3})
    assert build_recipe(path) == recipe


def test_a_run_is_repeated_on_other_data_or_from_another_start(tmp_path):
    path, recipe = written(tmp_path, "kinetics:tiny", data="k400/", settings={"data.root": "videos/"})
    other = build_recipe(path, data="mine/", init_from="mine.pth")
    moved = {"data.train": "mine/", "model.init_from": "mine.pth"}
    assert flatten(other) == flatten(recipe) | moved


def test_a_run_of_a_version_with_other_settings_is_refused_by_name(tmp_path):
    path, recipe = written(tmp_path, "camera-motion")
    contents = recipe_to_dict(recipe, "camera-motion", None, None)
    rate = contents["settings"].pop("optimizer.lr")
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=r"recipe\.json was written without optimizer\.lr"):
        build_recipe(path)
    contents["settings"] |= {"optimizer.lr": rate, "optimizer.speed": 5}
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    with pytest.raises(
        ValueError, match=r"recipe\.json does not fit camera-motion as it is now: .*optimizer\.speed"
    ):
        build_recipe(path)


def test_a_recipe_json_that_names_code_outside_videoswin_is_refused_unless_trusted(own_file, tmp_path):
    path, recipe = written(tmp_path, "own_recipes:mine", data="videos/")
    sys.modules.pop("own_recipes")
    with pytest.raises(
        ValueError, match=r"recipe\.json runs code outside videoswin.*own_recipes:mine.*--trust"
    ):
        build_recipe(path)
    assert "own_recipes" not in sys.modules
    assert build_recipe(path, trust=True) == recipe


@pytest.mark.parametrize("name", ["os:system", "videoswin.recipes.kinetics:tiny", "evil.py:f", "recipe.json"])
def test_nothing_that_a_recipe_json_names_is_imported_but_the_recipes_of_the_package(name, tmp_path):
    path, _ = written(tmp_path, "camera-motion")
    contents = json.loads((tmp_path / "recipe.json").read_text()) | {"name": name}
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=r"--trust"):
        build_recipe(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", 5), ("name", None), ("data", ["a"]), ("init_from", 1.5), ("settings", []), ("settings", None)],
)
def test_a_recipe_json_with_a_field_of_the_wrong_type_is_refused_by_name(field, value, tmp_path):
    path, _ = written(tmp_path, "camera-motion")
    contents = json.loads((tmp_path / "recipe.json").read_text()) | {field: value}
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=rf"'{field}' in .*recipe\.json must be .*, got ") as caught:
        build_recipe(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("junk", [b"", b"\0", b"\xff", b"[1]", b"{}", b"[" * 100_000, b"9" * 10_000])
def test_junk_in_a_recipe_json_is_one_line_that_names_the_file(junk, tmp_path):
    (tmp_path / "recipe.json").write_bytes(junk)
    with pytest.raises(ValueError, match=r"recipe\.json is ") as caught:
        build_recipe(str(tmp_path / "recipe.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, True, "x", 5, 1.5, [1], {"a": 1}, [[]], {}])
@pytest.mark.parametrize(
    "key", ["schedule.epochs", "augment.flip_pairs", "model.config.window", "data.num_workers"]
)
def test_a_value_of_any_kind_in_a_recipe_json_gives_a_recipe_or_an_input_error(key, value, tmp_path):
    path, _ = written(tmp_path, "camera-motion")
    contents = json.loads((tmp_path / "recipe.json").read_text())
    contents["settings"][key] = value
    (tmp_path / "recipe.json").write_text(json.dumps(contents))
    with contextlib.suppress(InputError):
        assert isinstance(build_recipe(path), Recipe)
