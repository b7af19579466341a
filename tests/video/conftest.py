"""What the tests of this folder share: videos made on the spot, and the real clips."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.video.numbered import HEIGHT, WIDTH, numbered_picture, write_video
from videoswin.video.limits import WorkBudget

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "clips"

MakeVideo = Callable[..., Path]


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """make_video(name, num_frames, width=, height=, **options of write_video): a file of numbered frames."""

    def make(
        name: str, num_frames: int = 40, *, width: int = WIDTH, height: int = HEIGHT, **options: object
    ) -> Path:
        pictures = [numbered_picture(number, width, height) for number in range(num_frames)]
        return write_video(tmp_path / name, pictures, **options)

    return make


@pytest.fixture
def decoded_packets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the pixels of every packet that is decoded, and of every flush of a decoder."""
    counted: list[int] = []
    decode = WorkBudget.decode

    def counting(budget: WorkBudget, num_pixels: int, seconds: float) -> None:
        counted.append(num_pixels)
        decode(budget, num_pixels, seconds)

    monkeypatch.setattr(WorkBudget, "decode", counting)
    return counted


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips that lies beside the repository."""
    if not CLIPS.is_dir():
        pytest.skip(f"the real clips are not at {CLIPS}")
    return CLIPS
