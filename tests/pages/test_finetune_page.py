"""docs/finetune.md works as it is written: every command runs, in order, on small generated videos."""

import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from videoswin.camera_motion.clips import write_h264
from videoswin.cli import commands

PAGE = (Path(__file__).parents[2] / "docs" / "finetune.md").read_text(encoding="utf-8")
GESTURES = ("falls", "grows", "slides")
REDUCED = {
    "check": "--workers 1",
    "train": "--epochs 14 --lr 0.003 --workers 0 --set schedule.val_every=7 --set model.trainable=all "
    "--set optimizer.backbone_lr_scale=1 --set augment.hflip=0 --set augment.scale=[0.9,1]",
    "evaluate": "--workers 0",
}
"""Appended to the page's commands: seconds instead of minutes, and few processes."""


class Result(NamedTuple):
    """What a command returned and printed."""

    code: int | str | None
    out: str
    err: str


def gesture_frames(gesture: str, seed: int) -> torch.Tensor:
    """Return two seconds of a bright square that falls, grows or slides over noise: uint8 (24, 80, 96, 3)."""
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


def page_commands() -> list[str]:
    """Return the lines of the page's shell blocks that call videoswin."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith("videoswin ")]


def run(command: str) -> Result:
    """Run a command of the page in this process and the current folder."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit:
        commands.main(shlex.split(command)[1:])
    return Result(exit.value.code, out.getvalue(), err.getvalue())


def run_until_state_is_saved(command: str) -> Result:
    """Run a training command that Ctrl-C interrupts as soon as its first state is on the disk."""
    replace = os.replace

    def interrupt(source: str | Path, target: str | Path) -> None:
        replace(source, target)
        if Path(target).name == "state.pt":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        return run(command)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder of the page's reader: my_videos/ with a broken file, test_videos/, a new clip."""
    folder = tmp_path_factory.mktemp("reader")
    for part, count, first in (("my_videos", 5, 0), ("test_videos", 2, 100)):
        for gesture in GESTURES:
            (folder / part / gesture).mkdir(parents=True)
            for seed in range(first, first + count):
                write_h264(
                    folder / part / gesture / f"{seed}.mp4", gesture_frames(gesture, seed), fps=12, crf=23
                )
    (folder / "my_videos" / "falls" / "broken.mp4").write_bytes(b"this is no video")
    write_h264(folder / "new_clip.mp4", gesture_frames("slides", 200), fps=12, crf=23)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Result]:
    """The results of the page's commands, in its order; training is interrupted once."""
    check, train, evaluate, predict, changed = page_commands()
    return {
        "check": run(f"{check} {REDUCED['check']}"),
        "interrupted": run_until_state_is_saved(f"{train} {REDUCED['train']}"),
        "train": run(f"{train} {REDUCED['train']}"),
        "evaluate": run(f"{evaluate} {REDUCED['evaluate']}"),
        "predict": run(predict),
        "changed": run(f"{changed} --workers 0"),
    }


def test_the_page_has_the_commands_that_are_run_here() -> None:
    words = [command.split()[1] for command in page_commands()]
    assert words == ["check", "train", "evaluate", "predict", "train"]


def test_check_reports_the_broken_file_and_lists_the_others(results: dict[str, Result], folder: Path) -> None:
    assert results["check"].code == 1
    assert "broken.mp4" in results["check"].out
    assert len((folder / "clean.csv").read_text().splitlines()) == 1 + 15


def test_the_same_command_resumes_an_interrupted_run(results: dict[str, Result], folder: Path) -> None:
    assert results["interrupted"].code == 130
    assert results["train"].code == 0, results["train"].err
    assert "resuming after step" in results["train"].err
    assert results["train"].out.strip() == "run/best.safetensors"
    assert (folder / "run" / "curves.png").exists()
    assert not (folder / "run" / "state.pt").exists()


def test_the_model_is_evaluated_above_chance(results: dict[str, Result], folder: Path) -> None:
    assert results["evaluate"].code == 0, results["evaluate"].err
    report = json.loads((folder / "report" / "report.json").read_text())
    assert report["num_videos"] == 6
    assert report["top1"] > 0.6, "chance is a third"


def test_a_new_clip_gets_a_probability_of_each_class(results: dict[str, Result]) -> None:
    assert results["predict"].code == 0, results["predict"].err
    _, *rows = results["predict"].out.splitlines()
    probabilities = {row.split()[0]: float(row.split()[-2]) for row in rows if row.strip()}
    assert probabilities.keys() == set(GESTURES)
    assert sum(probabilities.values()) == pytest.approx(100, abs=0.2)


def test_a_run_is_repeated_by_its_recipe_with_the_same_result(
    results: dict[str, Result], folder: Path
) -> None:
    repeat = "videoswin train run/recipe.json --out again/"
    assert f"`{repeat}`" in PAGE
    repeated = run(repeat.replace("run/", "run-short/"))
    assert repeated.code == 0, repeated.err
    for name in ("best.safetensors", "last.safetensors"):
        assert (folder / "again" / name).read_bytes() == (folder / "run-short" / name).read_bytes()


def test_a_shorter_run_still_warms_up_and_reaches_the_rate_that_was_set(
    results: dict[str, Result], folder: Path
) -> None:
    assert results["changed"].code == 0, results["changed"].err
    settings = json.loads((folder / "run-short" / "recipe.json").read_text())["settings"]
    assert settings["schedule.epochs"] == 2
    assert settings["schedule.warmup_epochs"] < 1
    assert settings["optimizer.lr"] == 3e-4


def test_a_wrong_setting_is_answered_with_the_nearest_right_one(folder: Path) -> None:
    *_, changed = page_commands()
    command = changed.replace("run-short/", "none/").replace("clean.csv", "my_videos/")
    wrong = run(f"{command} --set optimizer.rat=1")
    assert wrong.code == 2
    assert "optimizer.lr" in wrong.err
    assert not (folder / "none").exists()
