"""A reader who follows a prediction to the first layer of the network opens few files and functions."""

import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

import pytest
import torch

import videoswin
from videoswin.camera_motion.clips import write_h264
from videoswin.inference.predictor import Predictor
from videoswin.model.config import VideoSwinConfig
from videoswin.model.swin import VideoSwin
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.weights.checkpoint import Checkpoint

PACKAGE = Path(videoswin.__file__).parent
FUNCTIONS, FILES = 40, 7
"""Maximum number of functions, helpers included, and of the files that they are in."""


@pytest.fixture
def predictor() -> Predictor:
    config = VideoSwinConfig(embed_dim=8, depths=(1, 1), num_heads=(1, 2), window=(2, 4, 4), num_classes=2)
    checkpoint = Checkpoint(
        weights=VideoSwin(config).state_dict(),
        config=config,
        clip=ClipSpec(frames=4, stride=2, size=32, short_side=32),
        views=ViewPlan(clips=2, crops=3),
        labels=("a", "b"),
    )
    return Predictor(checkpoint, device="cpu")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A smooth texture that pans, 30 frames of 64 x 48, H.264 with B-frames as most files have."""
    coarse = torch.rand(1, 3, 6, 40, generator=torch.Generator().manual_seed(0))
    texture_chw = torch.nn.functional.interpolate(coarse, size=(48, 124), mode="bilinear")[0]
    texture_hwc = (texture_chw * 255).byte().permute(1, 2, 0)
    frames_thwc = torch.stack([texture_hwc[:, 2 * start : 2 * start + 64] for start in range(30)])
    write_h264(tmp_path / "clip.mp4", frames_thwc, fps=10, crf=23)
    return tmp_path / "clip.mp4"


def functions_before_the_network(predictor: Predictor, video: Path) -> set[CodeType]:
    """Return the functions of this package that run before the first one of videoswin/model/.

    Comprehensions, generator expressions and lambdas are part of the function that has them; the methods that
    `dataclass` generates have no source to read.
    """
    called: set[CodeType] = set()
    reached = threading.Event()

    def trace(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event != "call" or reached.is_set() or not path.is_relative_to(PACKAGE):
            return
        if path.is_relative_to(PACKAGE / "model"):
            reached.set()
        elif not frame.f_code.co_name.startswith("<"):
            called.add(frame.f_code)

    before = sys.getprofile()
    threading.setprofile(trace)  # frames may be decoded in threads
    sys.setprofile(trace)
    try:
        predictor(video)
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    assert reached.is_set()
    return called


def test_few_functions_in_few_files_run_before_the_first_layer(predictor: Predictor, video: Path) -> None:
    functions = functions_before_the_network(predictor, video)
    by_file: dict[str, list[str]] = {}
    for code in functions:
        by_file.setdefault(str(Path(code.co_filename).relative_to(PACKAGE)), []).append(code.co_name)
    assert {"inference/predictor.py", "video/reader.py", "inference/backends/pytorch.py"} <= by_file.keys()
    assert len(by_file) <= FILES, by_file
    assert len(functions) <= FUNCTIONS, by_file
