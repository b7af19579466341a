import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.video.numbered import numbered_picture, write_image
from videoswin._errors import VideoError
from videoswin.video import ffmpeg
from videoswin.video.reader import open_video
from videoswin.video.sampling import sample_clips
from videoswin.video.spec import PER_CLIP, PROTOCOLS, ClipSpec, ViewPlan, apply_protocol
from videoswin.video.views import (
    adaptive_order,
    load_views,
    resize_short_side,
    seconds_covered,
    spatial_crops,
)

SMALL = ClipSpec(frames=8, stride=2, size=32, short_side=32)
CAMERA_MOTION = ClipSpec(
    frames=8, stride=1, fps=4.0, size=64, short_side=64, normalization=PER_CLIP, antialias=True
)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_gives_its_views(make_video, name):
    clip, views = apply_protocol(name, SMALL)
    views_cthw = load_views(make_video("video.mp4", 100), clip, views).pixels
    assert views_cthw.dtype == torch.uint8
    width = 48 if views.crops == "full" else clip.size  # of a frame of 96 x 64
    assert views_cthw.shape == (views.num_views, 3, clip.frames, clip.size, width)


def test_a_full_frame_view_is_all_of_each_frame_resized_once(make_video):
    path, views = make_video("video.mp4", 100), ViewPlan(clips=3, crops="full")
    with open_video(path) as video:
        expected = [
            resize_short_side(video.read(indices), 32, antialias=False).permute(3, 0, 1, 2)
            for indices in sample_clips(video.num_frames, video.fps, SMALL, views)
        ]
    found = load_views(path, SMALL, views).pixels
    assert torch.equal(found, torch.stack(expected))
    assert found.is_contiguous()


@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_times_are_those_of_the_frames_of_each_view(make_video, margin):
    path, plan = make_video("video.mp4", 100), ViewPlan(clips=3, crops=3, margin=margin)
    views = load_views(path, SMALL, plan, start_seconds=1.0, end_seconds=3.0)
    assert views.times.shape == (9, 8)
    with open_video(path) as video:
        for times, view_cthw in zip(views.times, views.pixels, strict=True):
            frames_thwc = video.read([video.index_at(seconds) for seconds in times])
            crops = spatial_crops(resize_short_side(frames_thwc, 32, antialias=False), 32, 3)
            assert any(torch.equal(view_cthw, crop) for crop in crops)
    assert 1.0 <= views.times.min() < views.times.max() <= 3.0
    assert views.duration_seconds == pytest.approx(2.0)


def test_frames_too_long_for_one_view_are_an_error_of_that_video(make_video):
    views = ViewPlan(clips=1, crops="full")
    assert load_views(make_video("4.mp4", 8, width=128, height=32), SMALL, views).pixels.shape[-1] == 128
    with pytest.raises(VideoError, match=r"must be <= 4, got frames of 130x32.*three crops"):
        load_views(make_video("5.mp4", 8, width=130, height=32), SMALL, views)
    with pytest.raises(VideoError, match="32x130"):
        load_views(make_video("tall.mp4", 8, width=32, height=130), SMALL, views)


def test_adaptive_views_are_the_exact_ones_in_another_order(make_video):
    path, views = make_video("video.mp4", 100), ViewPlan(clips=4, crops=3)
    exact = load_views(path, SMALL, views).pixels
    adaptive = load_views(path, SMALL, views.replace(margin=0.5)).pixels
    assert torch.equal(adaptive, exact[adaptive_order(views)])


def test_the_middle_clips_come_first_and_their_centers_before_everything_else():
    assert adaptive_order(ViewPlan(clips=4, crops=3)) == [5, 8, 2, 11, 4, 7, 1, 10, 3, 6, 0, 9]
    assert adaptive_order(ViewPlan(clips=3, crops=1)) == [1, 0, 2]
    assert adaptive_order(ViewPlan(clips=2, crops="full")) == [0, 1]


@given(clips=st.integers(1, 12), crops=st.sampled_from([1, 3, "full"]))
def test_every_view_is_looked_at_once(clips, crops):
    views = ViewPlan(clips=clips, crops=crops)
    assert sorted(adaptive_order(views)) == list(range(views.num_views))


def test_views_are_the_sampled_frames_resized_and_cropped_clip_by_clip(make_video):
    path, views = make_video("video.mp4", 100), ViewPlan(clips=3, crops=3)
    with open_video(path) as video:
        expected = [
            spatial_crops(resize_short_side(video.read(indices), 32, antialias=False), 32, 3)
            for indices in sample_clips(video.num_frames, video.fps, SMALL, views)
        ]
    assert torch.equal(load_views(path, SMALL, views).pixels, torch.cat(expected))


@pytest.mark.parametrize("clips", [2, 3])
def test_the_camera_motion_model_sees_two_seconds_at_different_moments(make_video, clips):
    views = ViewPlan(clips=clips, crops=3)
    views_cthw = load_views(make_video("video.mp4", 60), CAMERA_MOTION, views).pixels
    assert views_cthw.shape == (3 * clips, 3, 8, 64, 64)
    middles = views_cthw[2::3, :, 0]  # the first frame of each clip, middle crop
    assert len({picture.numpy().tobytes() for picture in middles}) == clips


def test_a_video_shorter_than_a_clip_is_looped(make_video):
    views = load_views(make_video("video.mp4", 3), SMALL.replace(stride=1), ViewPlan(clips=1, crops=1)).pixels
    assert torch.equal(views[:, :, 0], views[:, :, 3])
    assert torch.equal(views[:, :, 1], views[:, :, 7])


def test_each_frame_is_decoded_converted_and_resized_once(make_video, monkeypatch, decoded_packets):
    converted, convert = [], ffmpeg.RgbConverter.__call__
    monkeypatch.setattr(
        ffmpeg.RgbConverter,
        "__call__",
        lambda self, frame: converted.append(0) or convert(self, frame),
    )
    views = ViewPlan(clips=10, crops=3)
    sampled = sample_clips(100, 30.0, SMALL, views)
    load_views(make_video("video.mp4", 100), SMALL, views)
    assert len(decoded_packets) <= 102  # with the first frame, when the file was opened, and the flush
    assert len(converted) == len({index for indices in sampled for index in indices})


def test_a_folder_of_frames_gives_views(make_video, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(20):
        write_image(folder / f"{number}.png", numbered_picture(number))
    assert load_views(folder, SMALL, ViewPlan(clips=2, crops=3)).pixels.shape == (6, 3, 8, 32, 32)


def test_a_file_that_is_no_video_raises_video_error(tmp_path):
    with pytest.raises(VideoError, match="there is no such file"):
        load_views(tmp_path / "missing.mp4", SMALL, ViewPlan())


def test_a_broken_end_is_left_out_and_said(make_video):
    path = make_video("video.mp4", 120, container_options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    views = ViewPlan(clips=2, crops=1)
    loaded = load_views(path, SMALL, views)
    assert "decoding ends after" in str(loaded.damage)
    views_cthw = loaded.pixels
    with open_video(path) as video:
        video.read(range(video.num_frames))  # finds out where decoding ends
        sampled = sample_clips(video.num_readable, video.fps, SMALL, views)
        assert max(max(indices) for indices in sampled) < video.num_readable < 120
        last_clip = resize_short_side(video.read(sampled[-1]), 32, antialias=False)
    assert torch.equal(views_cthw[-1:], spatial_crops(last_clip, 32, 1))


def test_load_views_and_its_inputs_can_be_sent_to_another_process():
    for value in (load_views, SMALL, CAMERA_MOTION, ViewPlan()):
        assert pickle.loads(pickle.dumps(value)) == value


def test_real_clips_give_views_by_every_protocol(clips):
    for name in ("demo.mp4", "test.avi", "unordered.mov", "video_90.mov"):
        for protocol in PROTOCOLS:
            clip, views = apply_protocol(protocol, ClipSpec(frames=4, size=56, short_side=56))
            shape = load_views(clips / name, clip, views).pixels.shape
            assert shape[:3] == (views.num_views, 3, 4), (name, protocol)
            assert min(shape[3:]) == 56
            assert max(shape[3:]) == 56 or views.crops == "full"


def test_views_are_the_same_every_time(clips):
    clip, views = ClipSpec(size=56, short_side=56), ViewPlan(clips=2, crops=3)
    first = load_views(clips / "test.mp4", clip, views).pixels
    assert torch.equal(load_views(clips / "test.mp4", clip, views).pixels, first)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_the_length_of_the_video(make_video):
    """A 360p frame is 0.7 MB in RGB: 300 frames kept would be 200 MB."""

    program = (
        "import sys, re; from videoswin.video.spec import ClipSpec, ViewPlan;"
        "from videoswin.video.views import load_views;"
        "clip = ClipSpec(frames=64, stride=8, size=32, short_side=32);"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]);"
        "short, long = ((load_views(path, clip, ViewPlan(clips=1)), peak())[1] for path in sys.argv[1:]);"
        "print((long - short) / 1024)"
    )
    size = {"width": 640, "height": 360, "options": {"preset": "ultrafast"}}
    paths = [str(make_video(f"{count}.mp4", count, **size)) for count in (60, 300)]
    answer = subprocess.run(
        [sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True
    )
    assert float(answer.stdout) < 50


@pytest.mark.parametrize(
    ("clip", "views", "num_frames", "seconds"),
    [
        (ClipSpec(), ViewPlan(clips=4, crops=3), 6360, 4 * 64 / 30),
        (ClipSpec(), ViewPlan(clips=4, crops=1), 64, 64 / 30),
        (ClipSpec(), ViewPlan(clips=1, crops=1), 30, 1.0),
        (ClipSpec(frames=8, stride=1, fps=4.0), ViewPlan(clips=1, crops=1), 6360, 2.0),
        (ClipSpec(frames=8, rule="segments"), ViewPlan(clips=1, crops=1), 6360, 212.0),
    ],
)
def test_seconds_covered_are_those_that_clips_cover_together(clip, views, num_frames, seconds):
    clips = sample_clips(num_frames, 30.0, clip, views)
    assert seconds_covered(clips, clip, num_frames, 30.0) == pytest.approx(seconds, abs=0.15)


def test_seconds_covered_of_a_varying_rate_are_those_of_its_timestamps():
    # 150 frames at 30 a second, then 75 at 15: the middle 64 frames lie in both halves.
    times = np.concatenate([np.arange(150) / 30, 5 + np.arange(75) / 15])
    views = ViewPlan(clips=1, crops=1)
    (indices,) = sample_clips(225, 30.0, ClipSpec(), views, times)
    shown = times[indices[-1] + 1] - times[indices[0]]
    assert seconds_covered([indices], ClipSpec(), 225, 30.0, times) == pytest.approx(shown, abs=0.15)
