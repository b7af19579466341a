"""docs/export.md is run as it stands: its commands, then its Python on the file that they made."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from videoswin import Checkpoint, ClipSpec, VideoSwin, VideoSwinConfig, ViewPlan
from videoswin.cli import commands
from videoswin.cli.demo import make_clip

for runtime in ("onnx", "onnxruntime", "openvino", "nncf"):
    pytest.importorskip(runtime)

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
MODEL = "camera-motion"
"""The model that the page exports; here a much smaller one, because compilers take a minute for it."""

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def small_checkpoint() -> Checkpoint:
    """Return a model of one block with random weights."""
    config = VideoSwinConfig(embed_dim=16, depths=(1,), num_heads=(1,), window=(2, 4, 4), num_classes=3)
    torch.manual_seed(0)
    return Checkpoint(
        weights=VideoSwin(config).state_dict(),
        config=config,
        clip=ClipSpec(frames=4, stride=2, size=32, short_side=32),
        views=ViewPlan(clips=1, crops=1),
        labels=("walk", "run", "sit"),
        name="small",
    )


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_checkpoint().save("small.safetensors")
    make_clip("pan right", Path("clip.mp4"))
    Path("my_videos").mkdir()
    shutil.copy("clip.mp4", "my_videos/one.mp4")
    (shell,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in shell.splitlines():
        assert line.startswith((f"videoswin export {MODEL} ", "videoswin predict "))
        _, *arguments = shlex.split(line.replace(MODEL, "small.safetensors"), comments=True)
        with pytest.raises(SystemExit) as exit:
            commands.main(arguments)
        assert exit.value.code == 0, capsys.readouterr().err
    assert re.search(r"(walk|run|sit) .* %", capsys.readouterr().out)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["logits"].shape == (1, 3)  # type: ignore[attr-defined]
