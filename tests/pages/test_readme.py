"""README.md: its Python is run, its shell lines too unless they download, its tables equal the results."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

import videoswin
from benchmarks import page
from benchmarks.models import listed_entries, models_table
from videoswin.cli import commands
from videoswin.cli.demo import make_clip
from videoswin.weights.catalog import ENTRIES

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
DOWNLOADS = "tiny-k400"
FINETUNING = ("my_videos/", "test_videos/", "run/best.safetensors", "tiny.xml")
"""Inputs of the commands of docs/finetune.md and docs/export.md, which have their own tests."""
ELSEWHERE = ("pip", "make")
"""Lines that install; .ci/run runs those of a checkout."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of a reader who has a clip and a recording."""
    folder = tmp_path_factory.mktemp("reader")
    make_clip("pan right", folder / "clip.mp4")
    shutil.copy(folder / "clip.mp4", folder / "recording.mp4")
    return folder


@pytest.fixture(autouse=True)
def current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def python_examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_python_example_prints_the_three_most_probable_labels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    predict, _ = python_examples()
    exec(predict, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("% pan right")


def test_the_backbone_example_prints_the_shape_of_each_feature_map(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, backbone = python_examples()
    exec(backbone, {})
    assert capsys.readouterr().out.splitlines() == [
        "(2, 32, 4, 16, 24)",
        "(2, 64, 4, 8, 12)",
        "(2, 128, 4, 4, 6)",
    ]


def test_the_table_of_models_is_generated_from_the_catalog() -> None:
    assert models_table(page.results("scaling_cpu")) in README


def test_the_table_of_models_has_every_distinct_checkpoint_with_a_published_score() -> None:
    listed = {entry.name for entry in listed_entries()}
    others = ENTRIES.keys() - listed
    assert {name for name in others if ENTRIES[name].scores} == {
        "tiny-k400-official",
        "small-k400-official",
        "base-k400-official",
        "base-k400-in22k-official",
    }
    assert {name for name in others if not ENTRIES[name].scores and not ENTRIES[name].is_image_model} == {
        "base-w16-k400-in22k",
        "omnivore-base-epic",
    }


def test_generated_blocks_equal_the_committed_results() -> None:
    assert page.with_results(README) == README


def test_the_table_of_names_has_every_public_name() -> None:
    names = set(re.findall(r"`(\w+)`", README.split("| name in `videoswin` |")[1].split("\n\n")[0]))
    assert names - {"videoswin"} == set(videoswin.__all__)


def test_linked_files_exist() -> None:
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (root / target).exists(), target


def test_every_shell_example_is_a_command_that_works_or_asks_for_a_download(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
    examples = [shlex.split(line, comments=True) for line in lines if not line.startswith(ELSEWHERE)]
    assert len(examples) == 11
    for program, *arguments in examples:
        assert program == "videoswin"
        if any(name in arguments for name in (DOWNLOADS, *FINETUNING)):
            # Parsed, not run.
            assert (
                commands.command_line(commands.COMMANDS).parse_args(arguments).command.__name__
                == arguments[0]
            )
            continue
        with pytest.raises(SystemExit) as exit:
            commands.main(arguments)
        assert exit.value.code == 0, capsys.readouterr().err
