"""docs/security.md states the limits that hold."""

import re
from pathlib import Path

import pytest

from videoswin.model import config
from videoswin.video import limits, spec
from videoswin.weights import metadata, transfer, unpickle

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
READ = limits.ReadLimits()
WAIT = transfer.Timeouts()


@pytest.mark.parametrize(
    ("subject", "numbers"),
    [
        ("a frame", [READ.max_frame_pixels, READ.max_aspect_ratio]),
        ("a video", [READ.max_frames, int(limits.OPEN_OPTIONS["max_streams"]), READ.max_decoded_pixels]),
        ("a video", [READ.max_decoded_pixels_per_byte, READ.stall_seconds]),
        ("a training clip", [READ.max_clip_pixels]),
        ("a checkpoint's clip", [spec.MAX_FRAMES, spec.MAX_STRIDE, spec.MIN_FPS, spec.MAX_FPS]),
        ("a checkpoint's clip", [spec.MAX_SIDE, spec.MAX_CLIP_BYTES]),
        ("a checkpoint's protocol", [spec.MAX_CLIPS, spec.MAX_SAMPLED_FRAMES, spec.MAX_VIEW_BYTES]),
        (
            "an architecture",
            [config.MAX_STAGES, config.MAX_DEPTH, config._LIMITS["embed_dim"], config._LIMITS["num_classes"]],
        ),
        ("an architecture", [config._MAX_WINDOW_PAIRS]),
        ("metadata", [metadata.MAX_METADATA, metadata.MAX_NAME]),
        ("a PyTorch file", [unpickle._MAX_GROWTH, unpickle._MAX_TUPLE]),
        ("a download", [transfer.MAX_BYTES, WAIT.answer, WAIT.silence, WAIT.stall]),
    ],
)
def test_the_page_states_the_limits_that_hold(subject: str, numbers: list[float]) -> None:
    found = re.search(rf"^\| {subject} \| (.*) \|$", PAGE, re.M)
    assert found is not None
    stated = {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", found[1])}
    stated |= {float(2 ** int(power)) for power in re.findall(r"2\^(\d+)", found[1])}
    stated |= {float(int(gib) << 30) for gib in re.findall(r"(\d+) GiB", found[1])}
    assert set(map(float, numbers)) <= stated
    assert READ.max_seconds == 3600
    assert "one hour of decoding" in PAGE
