"""What the tests of this folder share: videos made on the spot, and the real clips."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.video.numbered import HEIGHT, WIDTH, numbered_picture, write_video

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


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips that lies beside the repository."""
    if not CLIPS.is_dir():
        pytest.skip(f"the real clips are not at {CLIPS}")
    return CLIPS
