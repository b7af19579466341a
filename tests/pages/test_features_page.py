"""docs/features.md is run as it stands, on videos of three camera movements."""

import re
import shutil
from pathlib import Path

import pytest

from tests.pages.conftest import run

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text(encoding="utf-8")


def test_the_page_runs(
    movements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    for name in ("clip.mp4", "recordings/one.mp4", "recordings/two.mp4"):
        shutil.copy(movements, name)
    extract, search = re.findall(r"^videoswin .*$", PAGE, re.M)
    assert run(extract) == 0
    assert {path.name for path in Path("features").iterdir()} == {
        *("one.npz", "two.npz", "actionformer.yaml", "opentad.py"),
    }
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(example, {})
    assert "(15, 128)" in capsys.readouterr().out
    assert run(extract) == 0
    assert capsys.readouterr().out.count("(was there)") == 2
    assert run(search) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(r" *-?[01]\.\d{3} .* to .* recordings/(one|two)\.mp4", line) for line in lines)
    assert Path("matches.png").stat().st_size > 1000
