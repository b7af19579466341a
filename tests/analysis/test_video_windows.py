"""A window has the frames that `load_views` would load for that part of the file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.video.conftest import MakeVideo
from videoswin._errors import InputError
from videoswin.analysis.windows import VideoWindow, seconds_ahead, sliding_windows
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.video.stream import VideoStream
from videoswin.video.views import load_views

CLIP = ClipSpec(frames=4, stride=2, size=32, short_side=32)
RESAMPLED = CLIP.replace(stride=1, fps=10.0)
SEGMENTS = CLIP.replace(rule="segments", stride=1)
ONE = ViewPlan(clips=1, crops=1, placement="official")
SIX = ViewPlan(clips=2, crops=3, placement="official")


def windows_of(path: Path, clip: ClipSpec, plan: ViewPlan, window: float, hop: float) -> list[VideoWindow]:
    with VideoStream(path, ahead_seconds=seconds_ahead(window, hop)) as stream:
        return list(sliding_windows(stream, clip, plan, window_seconds=window, hop_seconds=hop))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b-frames.mp4", {"b_frames": 2}),
        ("rates.mp4", {"milliseconds": [33 * n for n in range(40)] + [1320 + 80 * n for n in range(30)]}),
        ("gap.mkv", {"milliseconds": [40 * n for n in range(35)] + [4000 + 40 * n for n in range(35)]}),
        ("mpeg4-b-frames.avi", {"codec": "mpeg4", "b_frames": 2}),
    ],
)
@pytest.mark.parametrize(("clip", "plan"), [(CLIP, ONE), (RESAMPLED, SIX), (SEGMENTS, ONE)])
def test_a_window_equals_that_part_of_the_file(
    make_video: MakeVideo, name: str, options: dict, clip: ClipSpec, plan: ViewPlan
) -> None:
    path = make_video(name, 70, **options)
    for window in windows_of(path, clip, plan, 0.7, 0.3):
        views = load_views(
            path, clip, plan, start_seconds=window.start_seconds, end_seconds=window.end_seconds
        )
        assert torch.equal(window.pixels, views.pixels)
        np.testing.assert_allclose(window.times, views.times, atol=1e-6)


def test_windows_begin_at_multiples_of_the_hop_and_the_last_one_ends_with_the_video(
    make_video: MakeVideo,
) -> None:
    windows = windows_of(make_video("v.mp4", 64), CLIP, ONE, 0.5, 0.2)
    starts = [window.start_seconds for window in windows]
    assert starts[:-1] == pytest.approx([0.2 * n for n in range(len(windows) - 1)])
    assert windows[-1].end_seconds == pytest.approx(64 / 30)
    assert windows[-1].stop_frame == 64
    assert all(w.end_seconds - w.start_seconds == pytest.approx(0.5) for w in windows)


def test_a_video_shorter_than_a_window_is_one_window(make_video: MakeVideo) -> None:
    (window,) = windows_of(make_video("v.mp4", 10), CLIP, ONE, 2.0, 1.0)
    assert (window.start_seconds, window.end_seconds) == (0.0, pytest.approx(10 / 30))
    assert (window.first_frame, window.stop_frame) == (0, 10)


def test_a_window_in_a_gap_shows_the_frame_before_it(make_video: MakeVideo) -> None:
    path = make_video("v.mkv", milliseconds=[40 * n for n in range(20)] + [5000 + 40 * n for n in range(20)])
    inside = [
        w for w in windows_of(path, CLIP, ONE, 0.5, 0.5) if w.start_seconds >= 1 and w.end_seconds <= 4.5
    ]
    assert len(inside) == 7
    assert all((w.first_frame, w.stop_frame) == (19, 20) for w in inside)


def test_each_frame_is_resized_once(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    from videoswin.analysis import windows as module

    seen = []
    crop = module.crop_frame
    monkeypatch.setattr(module, "crop_frame", lambda *arguments: seen.append(1) or crop(*arguments))
    windows = windows_of(make_video("v.mp4", 90), CLIP, ONE, 0.5, 0.1)
    used = {time for window in windows for time in window.times.flat}
    assert len(seen) == len(used)


def test_a_hop_longer_than_the_window_is_refused(make_video: MakeVideo) -> None:
    with pytest.raises(
        InputError, match=r"hop_seconds must be > 0 and at most window_seconds = 0\.5, got 0\.6"
    ):
        windows_of(make_video("v.mp4"), CLIP, ONE, 0.5, 0.6)
