"""A part of a video is the frames shown in it, as a video whose frame 0 is the first of them."""

import math
from itertools import pairwise
from pathlib import Path

import pytest

from tests.video.conftest import MakeVideo
from tests.video.numbered import frame_number, numbered_picture, write_image
from videoswin._errors import VideoError
from videoswin.video.excerpt import excerpt
from videoswin.video.reader import VideoReader, open_video
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.video.views import load_views

FPS = 30


def shown_numbers(reader: VideoReader) -> list[int]:
    return [frame_number(frame_hwc) for _, frame_hwc in reader.frames(range(reader.num_frames))]


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (0.5, 1.0, range(15, 30)),
        (None, 0.5, range(15)),
        (1.0, None, range(30, 40)),
        (0.0, 40 / FPS, range(40)),
        (13 / FPS, 14 / FPS, range(13, 14)),
        (0.1 + 0.2, 0.7, range(9, 21)),
    ],
)
def test_a_part_is_the_frames_shown_in_it(make_video: MakeVideo, start, end, wanted) -> None:
    with excerpt(open_video(make_video("v.mp4")), start, end) as part:
        assert part.num_frames == part.num_readable == len(wanted)
        assert shown_numbers(part) == list(wanted)
        assert part.fps == pytest.approx(FPS)
        assert part.duration_seconds == pytest.approx(len(wanted) / FPS)
        assert part.damage is None


def test_frames_come_in_the_order_asked_for_with_repeats(make_video: MakeVideo) -> None:
    with excerpt(open_video(make_video("v.mp4")), 0.5, 1.0) as part:
        assert [frame_number(frame) for frame in part.read([14, 0, 3, 3])] == [29, 15, 18, 18]


def test_without_times_it_is_the_video_itself(make_video: MakeVideo) -> None:
    with open_video(make_video("v.mp4")) as video:
        assert excerpt(video, None, None) is video


def test_parts_that_follow_each_other_share_no_frame_and_leave_none_out(make_video: MakeVideo) -> None:
    path, numbers = make_video("v.mp4"), []
    for start, end in pairwise([0.0, 0.11, 0.35, 0.8, 25.5 / FPS, 1.0, 40 / FPS]):
        with excerpt(open_video(path), start, end) as part:
            numbers += shown_numbers(part)
    assert numbers == list(range(40))


def test_a_part_shorter_than_a_frame_is_that_frame(make_video: MakeVideo) -> None:
    with excerpt(open_video(make_video("v.mp4")), 0.5, 0.5001) as part:
        assert shown_numbers(part) == [15]


def test_a_part_of_a_part_counts_from_its_own_beginning(make_video: MakeVideo) -> None:
    with excerpt(excerpt(open_video(make_video("v.mp4")), 0.5, None), 0.5, 0.6) as part:
        assert shown_numbers(part) == [30, 31, 32]


def test_a_part_of_a_folder_of_images_is_a_part_at_its_rate(tmp_path) -> None:
    for number in range(10):
        write_image(tmp_path / f"{number}.png", numbered_picture(number))
    with excerpt(open_video(tmp_path), 0.1, 0.2) as part:
        assert shown_numbers(part) == [3, 4, 5]


def test_an_index_outside_the_part_is_refused_though_the_video_has_it(make_video: MakeVideo) -> None:
    with (
        excerpt(open_video(make_video("v.mp4")), 0.5, 1.0) as part,
        pytest.raises(ValueError, match="indices must be from 0 to 14, got 15 to 15"),
    ):
        part.read([15])


def test_a_part_behind_the_end_is_refused_naming_both(make_video: MakeVideo) -> None:
    path = make_video("v.mp4")
    with open_video(path) as video, pytest.raises(VideoError) as refused:
        excerpt(video, 2.0, 3.5)
    assert refused.value.path == str(path)
    assert refused.value.reason == "the part 2 s to 3.5 s is outside of the video: the video lasts 1.33333 s"


def test_a_part_that_ends_behind_the_video_is_cut_and_said_to_be_damaged_by_more_than_a_second(
    make_video: MakeVideo,
) -> None:
    path = make_video("v.mp4")
    with excerpt(open_video(path), 1.0, 2.0) as part:
        assert part.num_frames == 10
        assert part.damage is None
    with excerpt(open_video(path), 1.0, 10.0) as part:
        assert part.num_frames == 10
        assert part.damage == "the part ends at 10 s, the video lasts 1.33333 s"


@pytest.mark.parametrize(
    ("start", "end"), [(-1.0, 1.0), (1.0, 1.0), (1.0, 0.5), (math.nan, 1.0), (0.0, math.inf), (None, 0.0)]
)
def test_times_that_are_no_part_of_any_video_are_refused(make_video: MakeVideo, start, end) -> None:
    with (
        open_video(make_video("v.mp4")) as video,
        pytest.raises(ValueError, match="the part must have 0 <= start < end, got"),
    ):
        excerpt(video, start, end)


def with_broken_end(make_video: MakeVideo) -> Path:
    """A video of 120 frames of which only about the first half can be decoded, though it lists them all."""
    path = make_video("broken.mp4", 120, container_options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    return path


def test_a_part_across_the_broken_end_finds_out_how_much_of_it_can_be_read(make_video: MakeVideo) -> None:
    with excerpt(open_video(with_broken_end(make_video)), 0.1, None) as part:
        listed = part.num_frames
        part.read([listed - 1])
        assert part.num_readable < listed
        assert "decoding ends after" in str(part.damage)
        assert part.num_readable == int(str(part.damage).split("after ")[1].split()[0]) - 3
        assert [frame_number(frame) for frame in part.read(range(8))] == list(range(3, 11))


def test_views_of_a_part_across_the_broken_end_show_what_there_is(make_video: MakeVideo) -> None:
    clip = ClipSpec(frames=4, stride=1, fps=None, size=32, short_side=32)
    views = load_views(with_broken_end(make_video), clip, ViewPlan(clips=2, crops=1), start_seconds=0.1)
    assert views.pixels.shape == (2, 3, 4, 32, 32)


def test_a_part_behind_the_broken_end_cannot_be_read(make_video: MakeVideo) -> None:
    with (
        excerpt(open_video(with_broken_end(make_video)), 3.8, None) as part,
        pytest.raises(
            VideoError, match=r"decoding ends after \d+ of its 120 frames, before the part 3\.8 s to 4 s"
        ),
    ):
        part.read([0])


def test_closing_the_part_closes_the_video(make_video: MakeVideo) -> None:
    video = open_video(make_video("v.mp4"))
    closed = []
    video.close = lambda: closed.append(True)  # type: ignore[method-assign]
    with excerpt(video, 0.5, 1.0):
        pass
    assert closed == [True]
