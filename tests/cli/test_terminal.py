"""Output to the terminal is harmless if files and classes have hostile names."""

import json
import re
from pathlib import Path

import pytest
import torch

from videoswin._errors import VideoError
from videoswin._text import dump_json, printable
from videoswin.cli import commands, terminal
from videoswin.data.check import make_report
from videoswin.data.dataset import Failure
from videoswin.data.manifest import Manifest, Sample
from videoswin.evaluation.report import Report
from videoswin.inference.prediction import Prediction

HOSTILE = "a\x1b]0;owned\x07\x1b[2K\x9b31m\u202egnp\nclip.mp4: 100 % safe\r"
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def assert_harmless(text: str) -> None:
    assert not CONTROLS.search(text)
    assert not any(line.startswith("clip.mp4: 100 % safe") for line in text.splitlines())


def test_a_prediction_prints_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    prediction = Prediction(
        path=HOSTILE,
        model=HOSTILE,
        protocol="fast-1x1",
        labels=(HOSTILE, "plain"),
        probabilities=torch.tensor([0.9, 0.1]),
        duration_seconds=1.0,
        damage=f"{HOSTILE} is damaged",
    )
    terminal.print_prediction(prediction, 2)
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert len(printed.err.splitlines()) == 1
    for text in (*printed, prediction.to_json()):
        assert_harmless(text)
    assert json.loads(prediction.to_json())["path"] == HOSTILE


@pytest.mark.parametrize("as_json", [False, True])
def test_an_error_is_one_line_whatever_the_name_of_the_file(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.print_failure(HOSTILE, f"{HOSTILE} is no video", as_json=as_json)
    printed = "".join(capsys.readouterr())
    assert len(printed.splitlines()) == 1
    assert_harmless(printed)


def test_the_error_of_an_invalid_call_with_a_hostile_name_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        commands.main(["predict", "clip.mp4", "--model", HOSTILE])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert_harmless(error)


def test_reports_print_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(
        model=HOSTILE,
        protocol="fast-1x1",
        source=HOSTILE,
        digest="0" * 64,
        labels=(HOSTILE, "plain"),
        multi_label=False,
        samples=(Sample(path=HOSTILE, labels=(0,)), Sample(path=HOSTILE + "2", labels=(0,))),
        targets=torch.tensor([[True, False], [True, False]]),
        scores=torch.tensor([[0.1, 0.9], [float("nan")] * 2]),
        unreadable={1: HOSTILE},
        damage={0: HOSTILE},
        seconds=1.0,
    )
    assert report.failures == (Failure(HOSTILE + "2", HOSTILE),)
    terminal.print_text(report.to_text(), printable(HOSTILE))
    samples = (Sample(path=HOSTILE, labels=(0,)), Sample(path="b.mp4", labels=(1,)))
    manifest = Manifest(source=HOSTILE, classes=(HOSTILE, "plain"), samples=samples)
    found = {sample.path: VideoError(sample.path, HOSTILE) for sample in samples}
    data_report = make_report(manifest, found, min_frames=1)
    terminal.print_text(data_report.to_text(written=HOSTILE), printable(HOSTILE))
    for text in (*capsys.readouterr(), report.to_json(), data_report.to_json()):
        assert_harmless(text)


def test_json_is_read_back_unchanged() -> None:
    value = {"path": HOSTILE, "label": "走る 🏃🏽‍♀️ יד", "bytes": "\udcff"}
    assert json.loads(dump_json(value)) == value
    assert "走る 🏃🏽‍♀️ יד" in dump_json(value)


@pytest.mark.parametrize(("seen", "printed"), [(8.5, True), (212.0, False), (None, False)])
def test_the_duration_that_the_model_saw_is_printed_for_long_videos(
    seen: float | None, printed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction = Prediction(
        path="a.mp4",
        model="tiny",
        protocol="official-4x3",
        labels=("a", "b"),
        probabilities=torch.tensor([0.9, 0.1]),
        duration_seconds=212.0,
        seconds_seen=seen,
    )
    terminal.print_prediction(prediction, 2)
    assert ("212.0 s, of which the model saw 8.5 s, tiny" in capsys.readouterr().out) is printed


@pytest.mark.parametrize("as_json", [False, True])
def test_notes_about_a_video_go_to_stderr(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    note = "colors look flat, because HDR (PQ) is not tone-mapped"
    prediction = Prediction(
        path="a.mp4",
        model="tiny",
        protocol="official-4x3",
        labels=("a", "b"),
        probabilities=torch.tensor([0.9, 0.1]),
        duration_seconds=2.0,
        notes=(note,),
    )
    terminal.print_prediction(prediction, 2, as_json=as_json)
    out, err = capsys.readouterr()
    assert err == f"a.mp4: {note}\n"
    assert "HDR" not in out
