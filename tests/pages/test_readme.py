"""What the README shows is run: its Python as it stands, its shell lines unless they would download."""

import re
import shlex
from pathlib import Path

import pytest

from videoswin.cli import commands
from videoswin.cli.demo import make_clip

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
DOWNLOADS = "tiny-k400"
FINETUNING = ("my_videos/", "test_videos/", "run/best.safetensors", "tiny.xml")
"""What the commands of docs/finetune.md and docs/export.md work on; tests of their own run those pages."""
ELSEWHERE = ("pip", "make")
"""Lines that set up; .ci/run goes through those of a checkout."""


@pytest.fixture(autouse=True)
def somewhere_with_a_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_clip("pan right", Path("clip.mp4"))


def test_the_python_example_prints_the_three_likeliest_labels(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(example, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("% pan right")


def test_every_shell_example_is_a_command_that_works_or_asks_for_a_download(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
    examples = [shlex.split(line, comments=True) for line in lines if not line.startswith(ELSEWHERE)]
    assert len(examples) == 10
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
