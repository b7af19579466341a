"""docs/export.md is run as it stands: its commands, then its Python on the file that they made."""

import re
import shlex
from pathlib import Path

import pytest

from videoswin.cli import commands
from videoswin.cli.demo import make_clip

for runtime in ("onnx", "onnxruntime", "openvino", "nncf"):
    pytest.importorskip(runtime)

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_clip("pan right", Path("clip.mp4"))
    Path("my_videos").mkdir()
    for movement in ("zoom in", "tilt up"):
        make_clip(movement, Path("my_videos", f"{movement}.mp4"))
    (shell,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in shell.splitlines():
        _, *arguments = shlex.split(line, comments=True)
        with pytest.raises(SystemExit) as exit:
            commands.main(arguments)
        assert exit.value.code == 0, capsys.readouterr().err
    assert "pan right" in capsys.readouterr().out
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["logits"].shape == (1, 9)  # type: ignore[attr-defined]
