"""docs/timeline.md is run as it stands, on a video of three camera movements."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.analysis.conftest import MOVEMENTS
from tests.pages.conftest import run
from videoswin.analysis.timeline import THRESHOLD

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "timeline.md").read_text(encoding="utf-8")
REDUCED = "--epochs 1 --workers 0 --set schedule.warmup_epochs=0"
"""Appended to the training command."""


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


def test_the_accuracy_is_that_of_the_committed_result() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "timeline.json").read_text())["accuracy"]
    by_hop = {row["hop_seconds"]: row for row in rows if row["threshold"] == THRESHOLD}
    text = " ".join(PAGE.split())
    chosen = by_hop[1.0]
    assert f"an F1 of {chosen['f1']:.2f} at an IoU of 0.5" in text
    assert f"off by {chosen['edge_error_mean']:.2f} s on average" in text
    assert f"90 % of them by less than {chosen['edge_error_90_percent']:.2f} s" in text
    assert f"(F1 {by_hop[2.0]['f1']:.2f}, edges {by_hop[2.0]['edge_error_mean']:.2f} s)" in text
    assert f"(edges {by_hop[0.25]['edge_error_mean']:.2f} s)" in text
