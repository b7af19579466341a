"""docs/finetune.md works as it is written: its commands, on videos made here, one after the other."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from videoswin.camera_motion.clips import write_h264

PAGE = Path(__file__).parents[2] / "docs" / "finetune.md"
GESTURES = ("falls", "grows", "slides")
SHORT = "--set schedule.epochs=100"
"""The page's training takes minutes; its path is the same in seconds."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def film(gesture: str, seed: int) -> torch.Tensor:
    """Two seconds of a bright square that falls, grows or slides over noise: uint8 (24, 80, 96, 3)."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 90, (1, 80, 96, 3), dtype=np.uint8), 24, axis=0)
    top, left = rng.integers(4, 30, 2)
    for number, frame in enumerate(frames):
        down, right, side = {
            "falls": (top + 2 * number, left + 20, 18),
            "grows": (top + 20 - number // 2, left + 20 - number // 2, 8 + number),
            "slides": (top + 20, left + 2 * number, 18),
        }[gesture]
        frame[down : down + side, right : right + side] = 160 + rng.integers(0, 90, 3)
    return torch.from_numpy(frames)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's reader stands: my_videos/, test_videos/ and a new clip; one of the files is broken."""
    folder = tmp_path_factory.mktemp("reader")
    for part, count, first in (("my_videos", 8, 0), ("test_videos", 4, 100)):
        for gesture in GESTURES:
            (folder / part / gesture).mkdir(parents=True)
            for seed in range(first, first + count):
                write_h264(folder / part / gesture / f"{seed}.mp4", film(gesture, seed), fps=12, crf=23)
    (folder / "my_videos" / "falls" / "broken.mp4").write_bytes(b"this is no video")
    write_h264(folder / "new_clip.mp4", film("slides", 200), fps=12, crf=23)
    return folder


def commands() -> list[str]:
    """The lines of the page's shell blocks that call videoswin."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("videoswin ")]


def start(command: str, folder: Path) -> subprocess.Popen[str]:
    """A command of the page, running in the folder."""
    arguments = [sys.executable, "-m", "videoswin.cli.commands", *shlex.split(command)[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PAGE.parents[1])}
    return subprocess.Popen(
        arguments, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def output(command: str, folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command of the page."""
    with start(command, folder) as process:
        out, err = process.communicate()
    return process.returncode, out, err


def test_the_page_has_the_commands_that_are_run_here():
    words = [command.split()[1] for command in commands()]
    assert words == ["check", "train", "evaluate", "predict", "train"]


def test_a_folder_is_checked_trained_on_killed_resumed_evaluated_and_predicted_with(folder):
    check, train, evaluate, predict, _ = commands()

    code, out, err = output(check, folder)
    assert code == 1, err
    assert "broken.mp4" in out
    assert len((folder / "clean.csv").read_text().splitlines()) == 1 + 24

    with start(f"{train} {SHORT}", folder) as process:
        while not (folder / "run" / "state.pt").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    code, out, err = output(f"{train} {SHORT}", folder)
    assert code == 0, err
    assert "resuming after step" in err
    assert out.strip() == "run/best.safetensors"
    assert (folder / "run" / "curves.png").exists()

    code, out, err = output(evaluate, folder)
    assert code == 0, err
    report = json.loads((folder / "report" / "report.json").read_text())
    assert report["num_videos"] == 12
    assert report["top1"] > 0.6, "chance is a third"

    code, out, err = output(predict, folder)
    assert code == 0, err
    _, likeliest, *_ = out.splitlines()
    assert likeliest.split()[0] == "slides"


def test_a_run_is_repeated_by_its_recipe_with_the_same_result(folder):
    code, _, err = output(f"videoswin train run/recipe.json --out again/ {SHORT}", folder)
    assert code == 0, err
    for name in ("best.safetensors", "last.safetensors"):
        assert (folder / "again" / name).read_bytes() == (folder / "run" / name).read_bytes()


def test_a_shorter_run_still_warms_up_and_reaches_the_rate_that_was_set(folder):
    *_, changed = commands()
    code, _, err = output(changed, folder)
    assert code == 0, err
    settings = json.loads((folder / "run-short" / "recipe.json").read_text())["settings"]
    assert settings["schedule.epochs"] == 2
    assert settings["schedule.warmup_epochs"] < 1
    assert settings["optimizer.lr"] == 3e-4


def test_a_wrong_setting_is_answered_with_the_nearest_right_one(folder):
    *_, changed = commands()
    # clean.csv is written by another test.
    command = changed.replace("run-short/", "none/").replace("clean.csv", "my_videos/")
    code, _, err = output(f"{command} --set optimizer.rat=1", folder)
    assert code == 2
    assert "optimizer.lr" in err
    assert not (folder / "none").exists()
