"""Commands load weights with a restricted license if the user accepts it by `--license`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from videoswin.camera_motion.camera import LABELS
from videoswin.cli import commands
from videoswin.cli.demo import make_clip
from videoswin.weights import catalog, download

LICENSE = "CC-BY-NC-4.0"
SMALL_RUN = (
    *("--epochs", "1", "--workers", "0", "--device", "cpu", "--precision", "fp32"),
    *("--set", "model.trainable=head", "--set", "data.val_fraction=0", "--set", "data.num_repeats=1"),
)


@pytest.fixture(autouse=True)
def restricted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publish the bundled model as `restricted`, for non-commercial use."""
    entry = replace(catalog.ENTRIES["omnivore-tiny"], name="restricted")
    assert entry.license == LICENSE
    monkeypatch.setattr(catalog, "ENTRIES", {"restricted": entry})
    monkeypatch.setattr(download, "fetch", lambda entry: catalog.BUNDLED / "camera-motion.safetensors")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for label in LABELS[:2]:
        (folder / label).mkdir()
        make_clip(label, folder / label / "clip.mp4")
    return folder


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        commands.main(list(arguments))
    assert isinstance(exit.value.code, int)
    return exit.value.code


def test_train_accepts_the_license_of_the_initial_weights(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("train", "finetune", "--data", str(videos), "--model", "restricted", *SMALL_RUN)
    assert run(*command, "--out", str(tmp_path / "refused")) == 2
    assert "--license CC-BY-NC-4.0" in capsys.readouterr().err
    assert run(*command, "--license", "MIT", "--out", str(tmp_path / "refused")) == 2
    assert run(*command, "--license", LICENSE, "--out", str(tmp_path / "run")) == 0
    saved = tmp_path / "run" / "recipe.json"
    assert json.loads(saved.read_text())["settings"]["run.license"].startswith("that of the videos, and ")

    # A recipe file has all settings: the weights are read by the training loop, not to choose settings.
    repeat = ("train", str(saved), "--set", "run.license=MIT", "--out", str(tmp_path / "repeated"))
    assert run(*repeat) == 2
    assert run(*repeat, "--license", LICENSE) == 0
    again = json.loads((tmp_path / "repeated" / "recipe.json").read_text())
    assert again["settings"]["run.license"] == "MIT"


def test_demo_accepts_the_license_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("demo", "--model", "restricted", "--out", str(tmp_path))
    assert run(*command) == 2
    assert "--license CC-BY-NC-4.0" in capsys.readouterr().err
    assert run(*command, "--license", LICENSE) == 0
