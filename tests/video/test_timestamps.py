"""Times go by timestamps: frames shown at a varying rate, parts of such videos, and clocks that jump."""

import math
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.video.numbered import frame_number, numbered_picture
from videoswin._errors import InputError
from videoswin.video.excerpt import excerpt
from videoswin.video.reader import open_video
from videoswin.video.sampling import close_clock_jumps, measure_rate, random_clip, sample_clips
from videoswin.video.spec import ClipSpec, ViewPlan


@pytest.fixture
def varying(make_video):
    """5 s at 30 frames a second, then 5 s at 15; the frames' numbers are modulo 256."""
    milliseconds = [round(1000 * i / 30) for i in range(150)] + [
        5000 + round(1000 * i / 15) for i in range(75)
    ]
    return make_video("varying.mp4", 225, milliseconds=milliseconds)


def shown_numbers(reader):
    return [frame_number(frame) for _, frame in reader.frames(range(reader.num_frames))]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (5.0, 6.0, range(150, 165)),
        (4.5, 5.5, range(135, 158)),
        (None, 5.0, range(150)),
        (9.0, None, range(210, 225)),
        (5.01, 5.02, range(150, 151)),
    ],
)
def test_a_part_is_the_frames_with_timestamps_in_it(varying, start, end, expected):
    with excerpt(open_video(varying), start, end) as part:
        assert shown_numbers(part) == list(expected)


def test_the_rate_is_that_of_the_median_step(varying):
    with open_video(varying) as video:
        assert video.fps == pytest.approx(30)
        assert video.duration_seconds == pytest.approx(10, abs=0.05)
        assert video.seconds(165) == pytest.approx(6, abs=1e-3)
        assert video.index_at(6.0) == video.index_at(6.03) == 165
        assert video.index_at(1e9) == 224
        assert video.index_at(-1.0) == 0
    with excerpt(open_video(varying), 5.0, 10.0) as part:
        assert part.fps == pytest.approx(15, rel=0.01)
        assert part.duration_seconds == pytest.approx(5, abs=0.01)
        assert part.seconds(15) == pytest.approx(1, abs=1e-3)


@pytest.fixture(params=["varying", "constant"])
def any_rate(request, make_video):
    """A video of each kind of timeline: with a timestamp for each frame, and with a constant rate."""
    if request.param == "varying":
        return request.getfixturevalue("varying")
    return make_video("constant.mp4", 20)


def test_a_frame_that_does_not_exist_has_no_time(any_rate):
    with open_video(any_rate) as video:
        for index in (video.num_frames, 9999, -1, math.nan):
            with pytest.raises(
                InputError, match=rf"index must be from 0 to {video.num_frames - 1}, got {index}"
            ):
                video.seconds(index)


def test_times_beyond_the_ends_give_the_first_and_the_last_frame_and_nan_is_refused(any_rate):
    with open_video(any_rate) as video:
        last = video.num_frames - 1
        assert video.index_at(-1.0) == video.index_at(-math.inf) == video.index_at(0.0) == 0
        assert video.index_at(1e9) == video.index_at(math.inf) == last
        assert video.index_at(video.seconds(last)) == last
        with pytest.raises(InputError, match="seconds must be a number, got nan"):
            video.index_at(math.nan)


def test_parts_of_a_varying_rate_that_follow_each_other_leave_no_frame_out(varying):
    numbers = []
    for start in range(10):
        with excerpt(open_video(varying), start, start + 1) as part:
            numbers += shown_numbers(part)
    assert numbers == list(range(225))


def test_clips_at_a_rate_go_by_the_times_of_frames(varying):
    clip = ClipSpec(frames=8, stride=1, fps=4.0, size=32, short_side=32)
    plan = ViewPlan(clips=5, crops=1)
    with open_video(varying) as video:
        assert video.variable_times is not None
        clips = sample_clips(video.num_frames, video.fps, clip, plan, video.variable_times)
        rng = np.random.default_rng(0)
        random = random_clip(video.num_frames, video.fps, clip, rng, video.variable_times)
        for indices in (*clips, random):
            steps = np.diff([video.seconds(index) for index in indices])
            assert np.abs(steps - 0.25).max() <= 1 / 15 + 1e-3
        # 5 clips of 1.75 s, centered in equal parts of the 10 s.
        starts = [video.seconds(indices[0]) for indices in clips]
        assert starts == pytest.approx([0.82, 2.47, 4.11, 5.75, 7.4], abs=0.07)


@pytest.mark.parametrize(("rule", "fps"), [("dense", None), ("segments", None), ("segments", 4.0)])
def test_clips_that_count_frames_do_not_look_at_times(varying, rule, fps):
    clip = ClipSpec(frames=8, stride=2, fps=fps, rule=rule, size=32, short_side=32)
    with open_video(varying) as video:
        by_times = sample_clips(225, video.fps, clip, ViewPlan(clips=1, crops=1), video.variable_times)
    assert by_times == sample_clips(225, 30, clip, ViewPlan(clips=1, crops=1))


def test_a_constant_rate_has_no_times_and_counts_frames(make_video):
    for name in ("v.mp4", "v.mkv", "v.ts"):
        with open_video(make_video(name)) as video:
            assert video.variable_times is None
            assert [video.index_at(video.seconds(index)) for index in range(40)] == list(range(40))


def test_a_jump_of_the_clock_is_no_frame_shown_for_long(make_video):
    """Two recordings of 2 s, joined, of which the second is stamped 42 s later."""
    first = make_video("first.ts", 60)
    second = make_video("second.ts", 60, milliseconds=[42_000 + round(1000 * i / 30) for i in range(60)])
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with open_video(first) as video:
        assert video.num_frames == 120
        assert video.fps == pytest.approx(30, rel=0.01)
        assert video.duration_seconds == pytest.approx(4, abs=0.1)
        assert video.damage is None


def test_the_rate_is_the_stated_one_that_agrees_else_the_measured_one():
    times = np.arange(100) / 30
    assert measure_rate(times, [0, 29.97]) == (29.97, None)
    assert measure_rate(times, [22.7, 30.0]) == (30.0, None)
    assert measure_rate(times, [25.0])[0] == pytest.approx(30)
    assert measure_rate(np.round(times, 3), [30.0]) == (30.0, None)
    assert measure_rate(times[:1], [12.5, 30.0]) == (12.5, None)
    assert measure_rate(times[:0], []) == (25.0, None)


def test_pulldown_has_the_rate_of_the_film_and_is_no_varying_rate():
    """Frames of a film at 24 a second are shown for three and two fields in turn."""
    fps, varying_times = measure_rate(np.cumsum([0] + [3, 2] * 60) / 60, [59.94])
    assert fps == pytest.approx(24)
    assert varying_times is None


def test_one_frame_left_out_makes_a_varying_rate():
    times = np.delete(np.arange(50) / 25, 20)
    fps, varying_times = measure_rate(times + 7, [25.0])
    assert fps == 25.0
    assert varying_times == pytest.approx(times)


def test_only_steps_of_more_than_ten_seconds_are_clock_jumps():
    assert close_clock_jumps(np.array([0.0, 1.0, 2.0, 3.0, 50.0, 51.0])).tolist() == [0, 1, 2, 3, 4, 5]
    assert close_clock_jumps(np.array([0.0, 1.0, 2.0, 11.0])).tolist() == [0, 1, 2, 11]


def test_a_preview_picture_marked_default_is_not_the_film(tmp_path):
    for name in ("preview.mp4", "preview.mkv"):
        path = tmp_path / name
        write_with_preview(path)
        with open_video(path) as video:
            assert video.num_frames == 30
            assert shown_numbers(video) == list(range(30))
            assert [frame_number(frame) for frame in video.read([20, 3])] == [20, 3]


def write_with_preview(path):
    with av.open(str(path), "w") as container:
        preview = container.add_stream("mjpeg", rate=1)
        preview.width, preview.height, preview.pix_fmt = 192, 128, "yuvj420p"
        film = container.add_stream("libx264", rate=30)
        film.width, film.height, film.pix_fmt = 96, 64, "yuv420p"
        preview.disposition, film.disposition = av.stream.Disposition.default, av.stream.Disposition(0)
        picture = av.VideoFrame.from_ndarray(numbered_picture(255, 192, 128), "rgb24")
        picture.pts, picture.time_base = 0, Fraction(1, 1)
        container.mux(preview.encode(picture.reformat(format="yuvj420p")))
        container.mux(preview.encode(None))
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(film.encode(frame))
        container.mux(film.encode(None))
