"""A stream has the frames and the times of the indexed reader, read once from start to end."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.video.conftest import MakeVideo
from tests.video.numbered import frame_number, numbered_picture, write_video
from videoswin._errors import VideoError
from videoswin.video.limits import ReadLimits
from videoswin.video.reader import open_video
from videoswin.video.stream import VideoStream


def two_rates() -> list[int]:
    return [33 * n for n in range(20)] + [660 + 100 * n for n in range(20)]


def with_gap() -> list[int]:
    return [40 * n for n in range(20)] + [3000 + 40 * n for n in range(20)]


FILES = {
    "constant.mp4": {},
    "b-frames.mp4": {"b_frames": 2},
    "all-b-frames.mkv": {"b_frames": 4, "options": {"b-adapt": "0"}},
    "two-rates.mp4": {"milliseconds": two_rates()},
    "gap.mkv": {"milliseconds": with_gap()},
    "late-start.mkv": {"milliseconds": [700 + 40 * n for n in range(40)]},
    "transport.ts": {"b_frames": 2},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "mpeg4-b-frames.avi": {"codec": "mpeg4", "b_frames": 2},
}


@pytest.mark.parametrize("name", FILES)
def test_frames_and_times_equal_those_of_the_reader(make_video: MakeVideo, name: str) -> None:
    path = make_video(name, **FILES[name])
    with open_video(path) as reader:
        expected = [(index, reader.seconds(index)) for index in range(reader.num_frames)]
        numbers = [frame_number(reader.read([index])[0]) for index, _ in expected]
    with VideoStream(path, ahead_seconds=0.5) as stream:
        frames = [(frame.index, frame.seconds, frame_number(stream.rgb(frame))) for frame in stream]
    assert [index for index, _, _ in frames] == [index for index, _ in expected]
    assert [number for _, _, number in frames] == numbers
    np.testing.assert_allclose([s for _, s, _ in frames], [s for _, s in expected], atol=0.5e-3)
    assert stream.damage is None


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="no ffprobe command to compare with")
@pytest.mark.parametrize(
    "name", ["b-frames.mp4", "two-rates.mp4", "gap.mkv", "late-start.mkv", "transport.ts"]
)
def test_times_are_the_timestamps_that_ffprobe_finds(make_video: MakeVideo, name: str) -> None:
    path = make_video(name, **FILES[name])
    probe = subprocess.run(
        [
            "ffprobe",
            "-v",
            "error",
            "-select_streams",
            "v",
            "-show_entries",
            "frame=pts_time",
            "-of",
            "json",
            path,
        ],
        capture_output=True,
        check=True,
    )
    shown = [float(frame["pts_time"]) for frame in json.loads(probe.stdout)["frames"]]
    with VideoStream(path) as stream:
        times = [frame.seconds for frame in stream]
    np.testing.assert_allclose(times, np.array(shown) - shown[0], atol=1e-6)


def test_a_frame_is_listed_before_it_is_decoded(make_video: MakeVideo) -> None:
    with VideoStream(make_video("v.mp4", 150, b_frames=2), ahead_seconds=5.0) as stream:
        assert stream.lists_ahead
        for frame in stream:
            first, times = stream.listed
            assert first <= frame.index < first + len(times)
            assert stream.has_ended or stream.horizon >= frame.seconds + 4.0
        assert stream.num_frames == 150


def test_frames_far_behind_are_forgotten(tmp_path: Path) -> None:
    pictures = [numbered_picture(n % 256, 64, 32) for n in range(3000)]
    path = write_video(tmp_path / "long.mp4", pictures, fps=100)
    with VideoStream(path, ahead_seconds=1.0) as stream:
        longest = max(len(stream.listed[1]) for _ in stream)
    assert longest < 2500
    assert len(stream.times) == 3000


def test_a_clock_that_jumps_continues_without_the_jump() -> None:
    path = Path(__file__).resolve().parents[3] / "shared" / "cases" / "clock_jump.ts"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    with VideoStream(path) as stream:
        times = [frame.seconds for frame in stream]
    np.testing.assert_allclose(np.diff(times), 1 / 30, atol=1e-3)


def test_damage_in_the_middle_is_told_and_every_frame_has_a_picture(make_video: MakeVideo) -> None:
    path = make_video("v.mp4", 120, options={"x264-params": "keyint=10"})
    data = bytearray(path.read_bytes())
    middle = data.find(b"mdat") + (len(data) - data.find(b"mdat")) // 3
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    with VideoStream(path) as stream:
        indices = [frame.index for frame in stream]
    assert indices == list(range(len(indices)))
    assert stream.damage is not None


def test_a_file_that_is_no_video_is_one_clear_error(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    with pytest.raises(VideoError, match=r"notes\.mp4: the file is not a video"):
        VideoStream(text)
    with pytest.raises(VideoError, match="there is no such file"):
        VideoStream(tmp_path / "absent.mp4")


def test_limits_hold(make_video: MakeVideo) -> None:
    with pytest.raises(VideoError, match="max_frames = 10"):
        VideoStream(make_video("v.mp4"), limits=ReadLimits(max_frames=10))
