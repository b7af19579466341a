"""docs/timeline.md is run as it stands, on a video of three camera movements."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.analysis.conftest import MOVEMENTS
from videoswin.cli import commands

PAGE = (Path(__file__).parents[2] / "docs" / "timeline.md").read_text(encoding="utf-8")
REDUCED = "--epochs 1 --workers 0 --set schedule.warmup_epochs=0"
"""Appended to the training command."""


def run(command: str) -> int:
    with pytest.raises(SystemExit) as exit:
        commands.main(shlex.split(command)[1:])
    return int(exit.value.code or 0)


def test_the_page_runs(
    movements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    for name in ("recording.mp4", "recordings/one.mp4", "recordings/two.mp4"):
        shutil.copy(movements, name)
    one, two, train = re.findall(r"^videoswin .*$", "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.S)), re.M)
    assert run(one) == 0
    assert re.findall(r"^ .* to .*?  (\w+(?: \w+)?) ", capsys.readouterr().out, re.M) == list(MOVEMENTS)
    assert {path.name for path in Path("timelines").iterdir()} == {
        *("recording.csv", "recording.html", "recording.timeline.json", "timelines.csv"),
    }
    assert run(two) == 0
    assert len(Path("timelines/timelines.csv").read_text().splitlines()) == 1 + 2 * len(MOVEMENTS)
    assert run(f"{train} {REDUCED}") == 0
    assert Path("run/last.safetensors").exists()
    capsys.readouterr()
    assert run(f"{one} --json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [events[0]["type"], events[-1]["type"]] == ["start", "end"]
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(example, {})
    assert "pan right" in capsys.readouterr().out


def test_the_page_has_every_format_and_option() -> None:
    from videoswin.analysis.writers import WRITERS

    formats = re.findall(r"^\| (`[^|]*) \|", PAGE.split("## Formats")[1].split("\n\n`edl`")[0], re.M)
    assert {name.strip("` ") for cell in formats for name in cell.split(",")} | {"json"} == set(WRITERS)
