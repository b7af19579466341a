"""docs/reproduce.md names only recipes, settings, weights, protocols and files that there are."""

import re
import shlex
from pathlib import Path

import pytest

from videoswin.recipes import RECIPES, build_recipe
from videoswin.training.settings import parse_assignments
from videoswin.video.spec import PROTOCOLS
from videoswin.weights.catalog import ENTRIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"videoswin (?:train|evaluate|convert) [^`#\n]+", PAGE)))
TRAINED = [command for command in COMMANDS if command.startswith("videoswin train")]
EVALUATED = [command for command in COMMANDS if command.startswith("videoswin evaluate")]


def options_of(command: str) -> dict[str, list[str]]:
    """The values of each option; the positional argument has the empty name."""
    _, _, target, *rest = shlex.split(command)
    options: dict[str, list[str]] = {"": [target]}
    for name, value in zip(rest[::2], rest[1::2], strict=True):
        options.setdefault(name, []).append(value)
    return options


def test_the_page_has_commands():
    assert len(TRAINED) >= 9
    assert len(EVALUATED) >= 15


@pytest.mark.parametrize("command", TRAINED)
def test_training_commands_make_recipes_whose_batch_can_be_dealt_out(command):
    options = options_of(command)
    assert options.keys() <= {"", "--data", "--out", "--root", "--set"}
    settings = parse_assignments(options.get("--set", []))
    recipe = build_recipe(options[""][0], data=options["--data"][0], settings=settings)
    assert recipe.data.batch_size % (recipe.run.devices * recipe.run.grad_accum_steps) == 0


def test_on_eight_devices_as_many_clips_at_a_time_as_published():
    at_a_time = {}
    for command in TRAINED:
        if "run.devices=8" in command:
            options = options_of(command)
            recipe = build_recipe(options[""][0], data="d", settings=parse_assignments(options["--set"]))
            at_a_time[recipe.name] = recipe.data.batch_size // (8 * recipe.run.grad_accum_steps)
    assert at_a_time == {"kinetics-tiny": 2, "kinetics-base": 1}


def test_settings_of_the_ablations_exist():
    assignments = re.findall(r"--set (?:'([^']+)'|([\w.]+=[\w.]+))", PAGE)
    for quoted, plain in assignments:
        build_recipe("kinetics:tiny", data="d", settings=parse_assignments([quoted or plain]))
    assert len(assignments) >= 10


@pytest.mark.parametrize("command", EVALUATED)
def test_evaluation_commands_name_weights_and_protocols(command):
    options = options_of(command)
    assert options["--protocol"][0] in PROTOCOLS
    model = options["--model"][0]
    assert model in ENTRIES or model == "run/last.safetensors"


def test_quoted_scores_are_those_of_the_catalog():
    quoted = re.findall(r"--model (\S+) --protocol (\S+) +# ([\d.]+) / ([\d.]+)", PAGE)
    assert len(quoted) >= 13
    for model, protocol, top1, top5 in quoted:
        published = {(score.protocol, score.top1, score.top5) for score in ENTRIES[model].scores}
        assert (protocol, float(top1), float(top5)) in published


def test_every_published_recipe_is_there_with_its_start():
    for name in set(RECIPES) - {"finetune", "camera-motion"}:
        assert name in PAGE
        if not name.endswith("_modern"):
            init_from = build_recipe(name, data="d").model.init_from
            assert re.search(rf"train {name} .*`{init_from}`", PAGE)


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)`", PAGE))))
def test_files_that_are_named_exist(file):
    assert (ROOT / file).is_file()
