"""Output, errors and exit codes of the commands."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from videoswin._errors import InputError, VideoSwinError
from videoswin.cli import commands
from videoswin.cli.demo import make_clip
from videoswin.cli.training import best_score


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for movement in ("pan right", "zoom in"):
        make_clip(movement, folder / f"{movement.replace(' ', '-')}.mp4")
    return folder


@pytest.fixture(autouse=True)
def no_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache and a proxy that does not respond, so that downloads fail."""
    monkeypatch.setenv("VIDEOSWIN_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        commands.main(list(arguments))
    assert isinstance(exit.value.code, int)
    return exit.value.code


def test_predict_recognizes_the_movement_of_every_video_in_a_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", str(folder), "--model", "camera-motion", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["pan-right.mp4", "zoom-in.mp4"]
    assert [line["top"][0]["label"] for line in lines] == ["pan right", "zoom in"]
    assert {line["model"] for line in lines} == {"camera-motion"}


def test_check_prints_notes_about_the_list(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = sorted(folder.glob("*.mp4"))
    lines = [f"{video},x,{number}" for number, video in enumerate(videos)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,fps", *lines]) + "\n")
    run("check", str(tmp_path / "list.csv"), "--json")
    out, err = capsys.readouterr()
    assert json.loads(out)["num_samples"] == 2
    # Progress may follow.
    assert err.splitlines()[0] == f"note: {tmp_path}/list.csv: columns that are not used: fps"


def test_predict_prints_bars_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict", str(folder / "zoom-in.mp4"), "--model", "camera-motion", "--top", "2") == 0
    first, best, second = capsys.readouterr().out.splitlines()
    assert "zoom-in.mp4" in first
    assert "zoom in" in best
    assert "█" in best
    assert second.endswith("%")


def test_predict_prints_how_many_views_an_adaptive_protocol_used(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "predict",
        str(folder / "zoom-in.mp4"),
        "--model",
        "camera-motion",
        "--protocol",
        "adaptive-4x3",
    )
    assert run(*arguments) == 0
    first, best, *_ = capsys.readouterr().out.splitlines()
    assert "zoom in" in best
    assert run(*arguments, "--json") == 0
    used = json.loads(capsys.readouterr().out)["views_used"]
    assert 1 <= used < 12
    assert first.endswith(f"adaptive-4x3: up to 4 clips x 3 crops = 12 views per video, {used} used")


def test_predict_reports_bad_files_and_exits_with_1(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / "*.avi"), str(folder / "zoom-in.mp4"), str(tmp_path / "missing.mp4")]
    assert run("predict", *paths, "--model", "camera-motion", "--json") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == paths
    assert ["error" in line for line in lines] == [True, False, True]
    assert "no such file" in lines[2]["error"]


def test_predict_reads_a_list_from_standard_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = f"{folder / 'zoom-in.mp4'}\r\n\n{folder / 'pan-right.mp4'}\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert run("predict", "-", "--model", "camera-motion", "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_predict_escapes_characters_that_the_output_cannot_encode(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "ŝtorm.mp4"
    odd.write_bytes((folder / "zoom-in.mp4").read_bytes())
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    command = [
        sys.executable,
        "-m",
        "videoswin.cli.commands",
        "predict",
        str(odd),
        "--model",
        "camera-motion",
    ]
    result = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert b"\\u015dtorm.mp4" in result.stdout
    assert b"###" in result.stdout


def test_the_error_of_predict_without_a_network_names_the_file_and_a_bundled_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", str(folder / "zoom-in.mp4")) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "swin3d_t-7615ae03.pth" in captured.err
    assert str(tmp_path / "cache") in captured.err
    assert "--model camera-motion" in captured.err
    assert "Traceback" not in captured.err


def test_an_invalid_call_exits_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = str(folder / "zoom-in.mp4")
    assert run("predict", video, "--model", "camera-motoin") == 2
    assert "camera-motion" in capsys.readouterr().err
    assert run("predict", video, "--model", "camera-motion", "--protocol", "4x3") == 2
    assert run("predict", video, "--top", "0") == 2
    assert run("predict", video, "--mod", "camera-motion") == 2
    assert run("predict") == 2


def test_models_lists_every_name_with_its_license_and_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--json") == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["camera-motion"]["file"].endswith("camera-motion.safetensors")
    assert rows["tiny-k400"]["file"] is None
    assert rows["tiny-k400"]["url"].startswith("https://")
    assert all(row["license"] for row in rows.values())
    assert len({tuple(row) for row in rows.values()}) == 1
    assert run("models") == 0
    assert "omnivore-base" in capsys.readouterr().out


def test_convert_writes_a_layout_and_reads_it_back(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    official, back = tmp_path / "camera.pth", tmp_path / "camera.safetensors"
    assert run("convert", "camera-motion", str(official), "--layout", "official") == 0
    assert "backbone.patch_embed.proj.weight" in torch.load(official, weights_only=True)
    assert run("convert", str(official), str(back)) == 0
    assert "labels: unknown" in capsys.readouterr().err
    assert run("predict", str(folder / "zoom-in.mp4"), "--model", str(back), "--json") == 0


@pytest.mark.parametrize("name", [b"zoom-in.mp4", b"<b>\xff\n\x1b[2J.mp4"])
def test_demo_writes_a_self_contained_page_for_any_name_of_the_video(
    name: bytes, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / os.fsdecode(name)
    video.symlink_to(folder / "zoom-in.mp4")
    assert run("demo", "--video", str(video), "--out", str(tmp_path / "demo")) == 0
    assert "pan right" in capsys.readouterr().out
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    assert page.count("<section>") == 2
    assert page.count("data:image/jpeg;base64,") == 12
    assert "http" not in page
    assert "<b>" not in page
    assert "\x1b" not in page


def test_demo_of_a_missing_video_reports_it_and_still_shows_the_generated_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("demo", "--video", str(tmp_path / "none.mp4"), "--out", str(tmp_path / "demo")) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "pan right" in captured.out
    assert "<section>" in (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")


def test_an_unknown_recipe_is_refused_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "camera", "--out", str(tmp_path)) == 2
    assert "camera-motion" in capsys.readouterr().err


def test_a_bug_is_printed_with_its_traceback_and_where_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ValueError("shapes do not match")  # like an error of numpy or torch

    monkeypatch.setattr("videoswin.weights.catalog.list_models", broken)
    assert run("models") == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "in broken" in error
    assert "ValueError: shapes do not match" in error
    assert "CONTRIBUTING.md" in error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("top must be >= 1, got 0"), 2, "videoswin: top must be >= 1, got 0\n"),
        (VideoSwinError("the disk is full"), 1, "videoswin: the disk is full\n"),
        (
            PermissionError(13, "Permission denied", "out"),
            1,
            "videoswin: [Errno 13] Permission denied: 'out'\n",
        ),
        (OSError(28, "No space left on device"), 1, "videoswin: [Errno 28] No space left on device\n"),
    ],
)
def test_an_error_raised_on_purpose_is_one_line(
    error: Exception,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing() -> None:
        raise error

    monkeypatch.setattr("videoswin.weights.catalog.list_models", failing)
    assert run("models") == code
    assert capsys.readouterr().err == line


def test_the_score_of_a_run_is_its_best_one_and_none_without_validation(tmp_path: Path) -> None:
    assert best_score(tmp_path) is None
    lines = ['{"step": 1, "loss": 2.0}', '{"val_score": 0.5}', '{"val_score": 0.75}', '{"val_score": 0.6}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines[:1]))
    assert best_score(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert best_score(tmp_path) == 0.75
