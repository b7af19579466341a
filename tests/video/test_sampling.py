"""The published formulas are written out here as their authors wrote them, and compared for every length."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoswin.video.sampling import random_clip, sample_clips
from videoswin.video.spec import PER_CLIP, PROTOCOLS, ClipSpec, ViewPlan, apply_protocol

LENGTHS = range(1, 601)


def official(num_frames, clip, clips):
    """SampleFrames of Video-Swin-Transformer with test_mode=True, out_of_bound_opt='loop'."""
    clip_length = clip.frames * clip.stride
    interval = (num_frames - clip_length + 1) / float(clips)
    if num_frames > clip_length - 1:
        starts = (np.arange(clips) * interval + interval / 2.0).astype(int)
    else:
        starts = np.zeros((clips,), dtype=int)
    indices = starts[:, None] + np.arange(clip.frames)[None, :] * clip.stride
    return np.mod(indices, num_frames).tolist()


def mmaction2(num_frames, clip, clips):
    """SampleFrames of MMAction2 1.x with test_mode=True, out_of_bound_opt='loop'."""
    room = max(num_frames - ((clip.frames - 1) * clip.stride + 1), 0)
    starts = np.round(np.arange(clips) * (room / float(clips - 1))) if clips > 1 else np.array([room // 2])
    indices = starts[:, None] + np.arange(clip.frames)[None, :] * clip.stride
    return np.mod(indices, num_frames).astype(int).tolist()


def something_something(num_frames, clip):
    """SampleFrames.get_seq_frames of Video-Swin-Transformer with test_mode=True."""
    segment = float(num_frames - 1) / clip.frames
    edges = [int(np.round(segment * i)) for i in range(clip.frames + 1)]
    return [[(start + end) // 2 for start, end in pairwise(edges)]]


def omnivore(num_frames, fps):
    """Frames within 10 seconds, UniformTemporalSubsample(160), TemporalCrop(32, stride=40)."""
    within = [index for index in range(num_frames) if index / fps <= 10]
    indices = torch.linspace(0, len(within) - 1, 160)
    chosen = torch.clamp(indices, 0, len(within) - 1).long().tolist()
    return [chosen[start : start + 32] for start in range(0, 160 - 32 + 1, 40)]


@pytest.mark.parametrize("fps", [10.0, 15.0, 24.0, 25.0, 29.97, 30.0, 50.0])
def test_omnivore_clips_match_its_code_for_every_length_up_to_600(fps):
    clip, views = apply_protocol("omnivore-4x3", ClipSpec(frames=32, stride=2))
    assert (views.clips, views.crops, views.average) == (4, 3, "logits")
    for num_frames in LENGTHS:
        assert sample_clips(num_frames, fps, clip, views) == omnivore(num_frames, fps), num_frames


@pytest.mark.parametrize("clips", [1, 2, 4, 10])
@pytest.mark.parametrize(("frames", "stride"), [(32, 2), (8, 1), (16, 4)])
def test_official_clips_match_the_official_code_for_every_length_up_to_600(frames, stride, clips):
    clip = ClipSpec(frames=frames, stride=stride)
    for num_frames in LENGTHS:
        ours = sample_clips(num_frames, 30.0, clip, ViewPlan(clips=clips))
        assert ours == official(num_frames, clip, clips), num_frames


@pytest.mark.parametrize("clips", [1, 2, 4, 10])
@pytest.mark.parametrize(("frames", "stride"), [(32, 2), (8, 1), (16, 4)])
def test_mmaction2_clips_match_its_code_for_every_length_up_to_600(frames, stride, clips):
    clip = ClipSpec(frames=frames, stride=stride)
    for num_frames in LENGTHS:
        ours = sample_clips(num_frames, 30.0, clip, ViewPlan(clips=clips, placement="mmaction2"))
        assert ours == mmaction2(num_frames, clip, clips), num_frames


@pytest.mark.parametrize("frames", [8, 16, 32])
def test_segments_match_the_official_code_for_every_length_up_to_600(frames):
    clip = ClipSpec(frames=frames, rule="segments")
    for num_frames in LENGTHS:
        ours = sample_clips(num_frames, 30.0, clip, ViewPlan(clips=1))
        assert ours == something_something(num_frames, clip), num_frames


def test_the_two_protocols_start_where_their_papers_say():
    clip = ClipSpec()
    starts = [indices[0] for indices in sample_clips(300, 30.0, clip, ViewPlan(placement="official"))]
    assert starts == [29, 88, 148, 207]
    starts = [indices[0] for indices in sample_clips(300, 30.0, clip, ViewPlan(placement="mmaction2"))]
    assert starts == [0, 79, 158, 237]


def test_a_video_shorter_than_a_clip_is_looped():
    [indices] = sample_clips(5, 30.0, ClipSpec(frames=4, stride=3), ViewPlan(clips=1))
    assert indices == [0, 3, 1, 4]


@pytest.mark.parametrize("placement", ["official", "mmaction2", "torchvision"])
def test_a_short_video_is_looped_after_resampling(placement):
    views = ViewPlan(clips=1, placement=placement)
    [indices] = sample_clips(30, 30.0, ClipSpec(frames=5, stride=1, fps=3.0), views)
    assert indices == [0, 10, 20, 0, 10]


@pytest.mark.parametrize("clips", [2, 3])
def test_clips_of_a_two_second_video_at_4_fps_start_at_different_frames(clips):
    clip = ClipSpec(frames=8, stride=1, fps=4.0)
    sampled = sample_clips(60, 30.0, clip, ViewPlan(clips=clips))
    assert len({indices[0] for indices in sampled}) == clips
    for indices in sampled:
        assert indices == sorted(indices)  # none is looped
        assert set(np.diff(indices)) <= {7, 8}


@pytest.mark.parametrize("fps", [4.0, 7.3, 15.0, 24.0, 29.97, 30.0, 50.0, 120.0])
def test_resampled_clips_keep_time(fps):
    clip = ClipSpec(frames=8, stride=1, fps=4.0)
    num_frames = round(10 * fps)
    for indices in sample_clips(num_frames, fps, clip, ViewPlan(clips=3)):
        seconds = np.array(indices) / fps
        assert np.abs(seconds - seconds[0] - np.arange(8) / 4.0).max() <= 1.001 / fps


@settings(deadline=None)
@given(
    num_frames=st.integers(1, 5000),
    fps=st.floats(0.5, 240),
    clip=st.builds(
        ClipSpec,
        frames=st.integers(1, 64),
        stride=st.integers(1, 8),
        fps=st.none() | st.floats(0.5, 120),
        normalization=st.just(PER_CLIP),
    ),
    views=st.builds(
        ViewPlan,
        clips=st.integers(1, 12),
        placement=st.sampled_from(["official", "mmaction2", "torchvision"]),
    ),
)
def test_every_clip_is_full_inside_the_video_and_in_order(num_frames, fps, clip, views):
    sampled = sample_clips(num_frames, fps, clip, views)
    assert [len(indices) for indices in sampled] == [clip.frames] * views.clips
    assert all(0 <= index < num_frames for indices in sampled for index in indices)
    starts = [indices[0] for indices in sampled]
    assert starts == sorted(starts)


@settings(deadline=None)
@given(num_frames=st.integers(1, 5000), frames=st.integers(1, 64))
def test_segments_cover_the_video_in_order(num_frames, frames):
    [indices] = sample_clips(num_frames, 30.0, ClipSpec(frames=frames, rule="segments"), ViewPlan(clips=1))
    assert indices == sorted(indices)
    assert len(indices) == frames
    assert 0 <= indices[0] <= indices[-1] < num_frames


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_samples_any_video(name):
    clip, views = apply_protocol(name, ClipSpec())
    for num_frames in (1, 2, 31, 63, 64, 65, 1000):
        assert len(sample_clips(num_frames, 29.97, clip, views)) == views.clips


@pytest.mark.parametrize(
    ("num_frames", "fps", "clip", "clips", "message"),
    [
        (0, 30.0, ClipSpec(), 1, "num_frames must be >= 1, got 0"),
        (9, 0.0, ClipSpec(fps=4.0), 1, "fps must be > 0 and finite to resample .*got 0.0"),
        (9, float("nan"), ClipSpec(fps=4.0), 1, "fps must be > 0 and finite to resample .*got nan"),
        (
            9,
            30.0,
            ClipSpec(rule="segments"),
            2,
            "clips must be 1 with rule 'segments', which covers the video, got 2",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused(num_frames, fps, clip, clips, message):
    with pytest.raises(ValueError, match=message):
        sample_clips(num_frames, fps, clip, ViewPlan(clips=clips))


@pytest.mark.parametrize(
    ("num_frames", "fps", "message"),
    [
        (0, 30.0, "num_frames must be >= 1, got 0"),
        (9, 0.0, "fps must be > 0 and finite to resample .*got 0.0"),
    ],
)
def test_a_random_clip_of_what_cannot_be_sampled_is_refused(num_frames, fps, message):
    with pytest.raises(ValueError, match=message):
        random_clip(num_frames, fps, ClipSpec(fps=4.0), np.random.default_rng(0))


def many_random_clips(num_frames, fps, clip, draws=1500):
    rng = np.random.default_rng(0)
    return np.array([random_clip(num_frames, fps, clip, rng) for _ in range(draws)])


def test_a_dense_clip_starts_anywhere_that_its_span_fits_equally_often():
    clips = many_random_clips(40, 30.0, ClipSpec(frames=8, stride=4))  # a span of 32: starts 0 to 8
    starts, counts = np.unique(clips[:, 0], return_counts=True)
    assert starts.tolist() == list(range(9))
    assert counts.min() > 0.7 * 1500 / 9
    assert (np.diff(clips) == 4).all()


@pytest.mark.parametrize("num_frames", [31, 32])
def test_a_dense_clip_with_no_room_starts_at_the_first_frame(num_frames):
    clips = many_random_clips(num_frames, 30.0, ClipSpec(frames=8, stride=4), draws=20)
    assert (clips == np.arange(0, 32, 4)).all()


def test_a_dense_clip_of_a_short_video_is_looped():
    assert (many_random_clips(5, 30.0, ClipSpec(frames=4, stride=3), draws=20) == [0, 3, 1, 4]).all()


def test_a_resampled_random_clip_starts_anywhere_and_keeps_time():
    clip = ClipSpec(frames=8, stride=2, fps=10.0)
    clips = many_random_clips(60, 25.0, clip)  # a step of 5, and 36 frames from the first to the last
    assert np.unique(clips[:, 0]).tolist() == list(range(25))
    assert clips[:, -1].max() == 59
    assert (np.diff(clips) == 5).all()
    uneven = many_random_clips(60, 29.97, clip, draws=200)
    assert np.abs((uneven - uneven[:, :1]) / 29.97 - np.arange(8) / 5.0).max() <= 1.001 / 29.97


def test_a_resampled_random_clip_of_a_short_video_is_looped():
    clips = many_random_clips(30, 30.0, ClipSpec(frames=5, stride=1, fps=3.0), draws=20)
    assert (clips == [0, 10, 20, 0, 10]).all()


@pytest.mark.parametrize("num_frames", [1, 3, 8, 50, 51])
def test_random_segments_take_every_frame_of_each_part_and_no_other(num_frames):
    """SampleFrames.get_seq_frames of Video-Swin-Transformer: random.randint(start, end), both included."""
    part = float(num_frames - 1) / 8
    edges = [int(np.round(part * i)) for i in range(9)]
    clips = many_random_clips(num_frames, 30.0, ClipSpec(frames=8, rule="segments"), draws=400)
    for position, (start, end) in enumerate(pairwise(edges)):
        assert np.unique(clips[:, position]).tolist() == list(range(start, end + 1))


@settings(deadline=None)
@given(
    num_frames=st.integers(1, 3000),
    fps=st.floats(0.5, 240),
    clip=st.builds(
        ClipSpec,
        frames=st.integers(1, 64),
        stride=st.integers(1, 8),
        fps=st.none() | st.floats(0.5, 120),
        rule=st.sampled_from(["dense", "segments"]),
    ),
    seed=st.integers(0, 99),
)
def test_a_random_clip_is_full_and_inside_the_video_and_in_order_if_it_fits(num_frames, fps, clip, seed):
    indices = random_clip(num_frames, fps, clip, np.random.default_rng(seed))
    assert len(indices) == clip.frames
    assert all(type(index) is int and 0 <= index < num_frames for index in indices)
    reach = (clip.frames - 1) * clip.stride * (fps / clip.fps if clip.fps else 1)
    if clip.rule == "segments" or reach < num_frames - 1:
        assert indices == sorted(indices)


def test_a_random_clip_depends_on_its_generator_alone():
    clip = ClipSpec(frames=8, stride=2)
    drawn = [random_clip(500, 30.0, clip, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
