"""Commands check output paths and required packages before they start."""

import sys
from pathlib import Path

import pytest

from tests.cli.test_commands import run
from tests.evaluation.test_report import make_report
from videoswin.evaluation.report import Report
from videoswin.inference import predictor


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A file in the place of an output folder."""
    path = tmp_path / "blocked"
    path.write_text("in the way")
    return path


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["demo", "--out", "{blocked}"], "--out"),
        (["evaluate", "missing.csv", "--model", "missing", "--out", "{blocked}"], "--out"),
        (["train", "finetune", "--data", "missing.csv", "--out", "{blocked}/run"], "--out"),
        (["check", "missing.csv", "--out", "{blocked}/clean.csv"], "--out"),
        (["check", "missing.csv", "--out", "clean.parquet"], "--out"),
        (["convert", "missing", "{blocked}/tiny.safetensors"], "out"),
        (["export", "missing", "{folder}"], "out"),
    ],
)
def test_a_result_that_cannot_be_written_is_refused_before_anything_is_read(
    arguments: list[str], name: str, blocked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder.pt2"
    folder.mkdir()
    assert run(*(argument.format(blocked=blocked, folder=folder) for argument in arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"videoswin: {name} must be a ")


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("matplotlib", ["evaluate", "missing.csv", "--model", "missing", "--out", "report"]),
        ("matplotlib", ["train", "finetune", "--data", "missing.csv", "--out", "run"]),
        ("tensorboard", ["train", "finetune", "--data", "missing.csv", "--out", "run"]),
        ("lightning_fabric", ["train", "finetune", "--data", "missing.csv", "--out", "run"]),
    ],
)
def test_a_package_that_is_needed_at_the_end_is_required_at_the_start(
    package: str,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert run(*arguments) == 1
    assert capsys.readouterr().err == f"videoswin: this needs {package}: pip install 'videoswin[train]'\n"
    assert list(tmp_path.iterdir()) == []


def test_scores_are_printed_even_if_the_report_cannot_be_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_is_full(report: Report, folder: str) -> None:
        raise OSError(28, "No space left on device")

    report = make_report([(0,)], [[0.9, 0.1, 0.0]])
    list_of_videos = tmp_path / "videos.csv"
    list_of_videos.write_text("path,label\nvideos.csv,walk\n")
    monkeypatch.setattr(predictor.Predictor, "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr("videoswin.evaluation.evaluate.evaluate", lambda *_, **__: report)
    monkeypatch.setattr(Report, "save", disk_is_full)
    for option in ([], ["--json"]):
        arguments = ["evaluate", str(list_of_videos), "--model", "x", "--out", str(tmp_path / "out"), *option]
        assert run(*arguments) == 1
        printed = capsys.readouterr()
        assert "top-1" in printed.out or '"top1": 1.0' in printed.out
        assert printed.err == "videoswin: [Errno 28] No space left on device\n"
