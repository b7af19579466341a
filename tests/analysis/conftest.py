"""A video of three camera movements, and the predictor of the bundled model; videos as in tests/video."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.video.conftest import make_video as make_video
from videoswin.camera_motion.camera import LABELS, MotionRange, camera_path, to_pixels, view_from_base, warp
from videoswin.camera_motion.clips import write_h264
from videoswin.camera_motion.scenes import landscape
from videoswin.inference.predictor import Predictor

MOVEMENTS = ("pan right", "tilt up", "static")
SECONDS, FPS, HEIGHT, WIDTH = 3.2, 20, 96, 128


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    return Predictor.from_pretrained("camera-motion", device="cpu", protocol="fast-1x1")


@pytest.fixture(scope="session")
def movements(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three camera movements, each of another scene."""
    rng, frames = np.random.default_rng(3), []
    steady = MotionRange(slowest=0.15, fastest=0.15, shake=0.003, easing=0.0)
    for movement in MOVEMENTS:
        times = np.arange(round(SECONDS * FPS)) / FPS
        poses = camera_path(rng, LABELS.index(movement), times, SECONDS, steady)
        view = view_from_base(poses, WIDTH / HEIGHT, width=WIDTH / HEIGHT)
        frames.append(to_pixels(warp(landscape(rng, 320), view, (HEIGHT, WIDTH), outside="reflection")))
    path = tmp_path_factory.mktemp("movements") / "three.mp4"
    write_h264(path, torch.cat(frames), fps=FPS, crf=20, preset="veryfast")
    return path
