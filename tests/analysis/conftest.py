"""The fixtures of tests/video."""

from tests.video.conftest import make_video as make_video
