"""The argument parser reports invalid calls in one line and parses valid ones."""

from typing import get_args, get_type_hints

import pytest

from videoswin.cli import commands
from videoswin.cli.arguments import command_line
from videoswin.weights.layouts import WRITERS


@pytest.mark.parametrize(
    ("call", "command", "words"),
    [
        ("predict x.mp4 --precision half", "predict", ["--precision", "'half'", "fp32", "bf16"]),
        ("export m x.onnx --format bla", "export", ["--format", "'bla'", "onnx", "aotinductor"]),
        ("predict x.mp4 --top three", "predict", ["--top", "'three'"]),
        ("convert a b --window 16", "convert", ["--window", "16,7,7", "'16'"]),
        ("train finetune", "train", ["required", "--out"]),
        ("predict x.mp4 --modle tiny", "predict", ["--modle", "did you mean '--model'?"]),
        ("predict x.mp4 --mod tiny", "predict", ["--mod"]),
        ("predict", "predict", ["required", "VIDEO"]),
    ],
)
def test_the_error_of_an_invalid_call_is_one_line_with_command_option_value_and_choices(
    call: str, command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        commands.main(call.split())
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"videoswin {command}: ")
    assert line.endswith(f"(see `videoswin {command} --help`)")
    for word in words:
        assert word in line
    assert "typing" not in line
    assert "Union" not in line


def test_the_error_of_an_unknown_command_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        commands.main(["predit", "clip.mp4"])
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'predit'" in line
    assert "predict" in line


def test_convert_offers_every_layout_that_can_be_written() -> None:
    assert get_args(get_type_hints(commands.convert)["layout"]) == ("videoswin", *WRITERS)


def test_options_become_the_arguments_of_the_function() -> None:
    parser = command_line(commands.COMMANDS)
    options = vars(parser.parse_args(["convert", "a.pth", "b.safetensors", "--window", "[16,7,7]"]))
    assert options == {
        "command": commands.convert,
        "model": "a.pth",
        "out": "b.safetensors",
        "layout": "videoswin",
        "inflation": "average",
        "window": (16, 7, 7),
        "license": None,
        "json": False,
    }
    options = vars(
        parser.parse_args(
            ["train", "finetune", "--out", "run", "--model", "x", "--set", "a=1", "--set", "b=2"]
        )
    )
    assert options["model"] == "x"
    assert options["set"] == ["a=1", "b=2"]
    assert vars(parser.parse_args(["predict", "--json", "--", "-a.mp4"]))["videos"] == ["-a.mp4"]
