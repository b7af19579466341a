"""What is said about labeled videos follows from their files, parts, splits and labels."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.data.check.labeled import CLASSES, facts, report_of, same_pictures, sample
from videoswin.data.check.findings import split_names
from videoswin.data.check.report import DataReport
from videoswin.data.fingerprint import StreamFacts
from videoswin.video.spec import ClipSpec


def said(groups: object) -> list[tuple[tuple[int, ...], str]]:
    return [(group.rows, group.description) for group in groups]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("bytes_too", "what"), [(True, "the same bytes"), (False, "the same frames")])
def test_copies_are_found_with_what_they_share(bytes_too, what):
    report = report_of(
        sample("a.mp4", "clap"),
        sample("other.mp4", "clap"),
        sample("b.mkv", "clap"),
        known=same_pictures("a.mp4", "b.mkv", bytes_too=bytes_too),
    )
    assert said(report.duplicates) == [((0, 2), what)]
    assert (report.contradictions, report.leaks, report.near_duplicates) == ((), (), ())
    assert report.usable


def test_folders_of_frames_share_pictures_and_no_bytes():
    known = [
        facts("a", bytes_digest=None, pictures_digest="p"),
        facts("b", bytes_digest=None, pictures_digest="p"),
    ]
    report = report_of(sample("a", "clap"), sample("b", "clap"), known=known)
    assert said(report.duplicates) == [((0, 1), "the same frames")]


def test_a_row_that_is_there_twice_repeats_and_other_parts_do_not():
    parts = [(0.0, 5.0), (5.0, 10.0), (5.0, None), (0.0, 4.0)]  # the video ends at 10
    report = report_of(*(sample("a.mp4", "clap", start=start, end=end) for start, end in parts))
    assert said(report.duplicates) == [((1, 2), "one file listed more than once")]


def test_one_picture_under_two_labels_contradicts():
    report = report_of(
        sample("a.mp4", "wave"), sample("b.mp4", "clap"), known=same_pictures("a.mp4", "b.mp4")
    )
    assert said(report.contradictions) == [((0, 1), "the same frames, labeled wave and clap")]
    assert not report.usable


def test_parts_of_one_video_may_have_different_labels():
    report = report_of(sample("a.mp4", "wave", end=5.0), sample("a.mp4", "clap", start=5.0))
    assert report.contradictions == ()
    assert report.usable


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        (((None, None), (None, None)), "one file listed more than once, in train and val"),
        (((0, 5), (5, 10)), "parts of one video, in train and val"),
        (((0, 6), (5, 10)), "overlapping parts of one video, in train and val"),
        (((None, None), (9, None)), "overlapping parts of one video, in train and val"),
        (((2, 3), (0, 9)), "overlapping parts of one video, in train and val"),
    ],
)
def test_a_video_in_two_splits_leaks(parts, what):
    (start, end), (other_start, other_end) = parts
    report = report_of(
        sample("a.mp4", "clap", "train", start, end), sample("a.mp4", "clap", "val", other_start, other_end)
    )
    assert said(report.leaks) == [((0, 1), what)]
    assert not report.usable


def test_overlap_within_a_split_is_not_taken_for_overlap_between_splits():
    parts = [("train", 0, 9), ("train", 1, 2), ("val", 9, 10)]
    report = report_of(*(sample("a.mp4", "clap", split, start, end) for split, start, end in parts))
    assert said(report.leaks) == [((0, 1, 2), "parts of one video, in train and val")]


def test_copies_in_two_splits_leak_and_those_without_a_split_do_not():
    known = same_pictures("a.mp4", "b.mp4", "c.mp4", bytes_too=True)
    report = report_of(
        sample("a.mp4", "clap", "val"), sample("b.mp4", "clap"), sample("c.mp4", "clap", "train"), known=known
    )
    assert said(report.leaks) == [((0, 2), "the same bytes, in train and val")]
    assert said(report.duplicates) == [((0, 1, 2), "the same bytes, in train, val and unassigned")]


def test_look_alikes_are_possible_copies_and_no_problem():
    look = facts("a.mp4").thumbnails
    known = [facts("a.mp4"), facts("b.mp4", thumbnails=look), *same_pictures("a.mp4", "c.mp4")[1:]]
    report = report_of(
        sample("a.mp4", "clap", "train"),
        sample("b.mp4", "wave", "val"),
        sample("c.mp4", "clap", "train"),
        known=known,
    )
    assert said(report.near_duplicates) == [
        ((0, 1, 2), "visually similar, in train and val, labeled clap and wave")
    ]
    assert report.usable


@pytest.mark.parametrize(
    ("start", "end", "what"),
    [
        (12.0, 14.0, "the part begins at 12.0 s and ends at 14.0 s, the video lasts 10.0 s"),
        (10.0, None, "the part begins at 10.0 s, the video lasts 10.0 s"),
        (6.0, 6.0, "the part begins at 6.0 s and ends at 6.0 s, the video lasts 10.0 s"),
        (6.0, 5.0, "the part begins at 6.0 s and ends at 5.0 s, the video lasts 10.0 s"),
        (8.0, 10.6, "the part ends at 10.6 s, the video lasts 10.0 s"),
    ],
)
def test_parts_outside_of_their_video_are_problems(start, end, what):
    report = report_of(sample("a.mp4", "clap", start=start, end=end))
    assert [finding.description for finding in report.outside_video] == [what]
    assert report.num_problems == 1


def test_parts_that_show_nothing_share_nothing():
    report = report_of(
        sample("a.mp4", "clap", "train", 12.0, 14.0), sample("a.mp4", "wave", "val", 15.0, 16.0)
    )
    assert (report.duplicates, report.leaks) == ((), ())


@pytest.mark.parametrize(("start", "end"), [(None, 10.4), (9.9, None), (0.0, 10.0)])
def test_an_end_that_a_list_has_rounded_is_no_problem(start, end):
    assert report_of(sample("a.mp4", "clap", start=start, end=end)).usable


def test_it_is_the_labeled_part_that_must_be_long_enough():
    def short(*samples: object, shortest: int) -> list[str]:
        report: DataReport = report_of(*samples, min_frames=shortest)  # type: ignore[arg-type]
        assert report.usable
        return [finding.description for finding in report.too_short]

    assert short(sample("a.mp4", "clap"), shortest=300) == []
    assert short(sample("a.mp4", "clap"), shortest=301) == ["300 frames, fewer than 301"]
    assert short(sample("a.mp4", "clap", start=9.0), shortest=64) == ["30 frames, fewer than 64"]


def test_videos_of_another_shape_or_rate_than_most_are_odd():
    known = [
        facts("small.mp4", width=160, height=120),
        facts("wide.mp4", width=640, height=360),
        facts("slow.mp4", fps=15.0),
        facts("ntsc.mp4", fps=29.97),
    ]
    samples = [sample(f"{i}.mp4", "clap") for i in range(4)] + [sample(video.path, "clap") for video in known]
    report = report_of(*samples, known=known)
    assert [(finding.path, finding.description) for finding in report.outliers] == [
        ("wide.mp4", "640x360, most are 1.33:1"),
        ("slow.mp4", "15 frames/s, most have 30"),
    ]


def test_what_is_noted_of_a_video_is_said_though_no_shape_is_usual():
    known = [facts("a.mp4", fps=25.0, notes=("HDR",)), facts("b.mp4", fps=30.0)]
    report = report_of(sample("a.mp4", "clap"), sample("b.mp4", "clap"), known=known)
    assert report.outliers == ()
    assert [(finding.path, finding.description) for finding in report.notes] == [("a.mp4", "HDR")]


def test_frames_of_a_part_are_estimated_by_the_time_that_the_video_takes():
    """The usual step is a thirtieth of a second, but its 300 frames take 20 seconds."""
    known = [facts("slow.mp4", num_frames=300, fps=30.0, duration_seconds=20.0)]
    report = report_of(sample("slow.mp4", "clap", start=10.0, end=20.0), known=known, min_frames=151)
    assert [finding.description for finding in report.too_short] == ["150 frames, fewer than 151"]
    assert report.outside_video == ()


def test_nothing_is_odd_where_no_shape_or_rate_is_usual():
    known = [facts("a.mp4", fps=25.0), facts("b.mp4", fps=30.0)]
    assert report_of(sample("a.mp4", "clap"), sample("b.mp4", "clap"), known=known).outliers == ()


def test_splits_come_in_the_order_of_their_use():
    splits = ["val", None, "holdout", "test", "train"]
    samples = [sample("a.mp4", "clap", split) for split in splits]
    assert split_names(samples) == ["train", "val", "test", "holdout", "unassigned"]


def test_a_group_in_two_splits_is_a_leak():
    def of(path, split, group):
        return replace(sample(path, "clap", split), group=group)

    report = report_of(
        of("a.mp4", "train", "anna"),
        of("b.mp4", "val", "anna"),
        of("c.mp4", "train", "ben"),
        of("d.mp4", None, "ben"),
    )
    assert said(report.leaks) == [((0, 1), "the group 'anna', in train and val")]
    assert not report.usable


def test_a_mirrored_copy_is_found_and_called_so():
    look = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    known = [facts("a.mp4", thumbnails=look.tobytes()), facts("b.mp4", thumbnails=look[:, :, ::-1].tobytes())]
    report = report_of(sample("a.mp4", "clap"), sample("b.mp4", "clap"), known=known)
    assert said(report.near_duplicates) == [((0, 1), "visually similar, mirrored")]
    assert report.near_duplicates[0].mirrored_rows == (1,)
    (fields,) = json.loads(report.to_json())["near_duplicates"]
    assert fields["mirrored"] == ["b.mp4"]


def test_short_is_what_the_model_sees_more_than():
    slow = ClipSpec(frames=8, stride=1, fps=4.0)
    known = [
        facts("a.mp4", num_frames=59),
        facts("b.mp4", num_frames=60),
        facts("c.mp4", num_frames=14, fps=8.0),
    ]
    report = report_of(*(sample(f"{name}.mp4", "clap") for name in "abc"), known=known, clip=slow)
    assert [(finding.path, finding.description) for finding in report.too_short] == [
        ("a.mp4", "2.0 s, shorter than a clip of 2.0 s"),
        ("c.mp4", "1.8 s, shorter than a clip of 2.0 s"),
    ]
    segments = ClipSpec(frames=8, rule="segments")
    assert report_of(sample("a.mp4", "clap"), known=known, clip=segments).too_short == ()


def test_codec_rotation_and_a_varying_rate_are_named():
    plain = StreamFacts(codec="h264")
    streams = [plain, plain, plain, StreamFacts(codec="hevc", rotation=90, variable_rate=True)]
    known = [facts(f"{n}.mp4", stream=stream) for n, stream in enumerate(streams)]
    report = report_of(*(sample(video.path, "clap") for video in known), known=known)
    assert [(finding.path, finding.description) for finding in report.outliers] == [
        (
            "3.mp4",
            "variable frame rate; rotated by 90 degrees on playback, most by 0; codec hevc, most are h264",
        )
    ]
    assert report.codecs == {"h264": 3, "hevc": 1}


def labeled_and_known(rate_of):
    samples = [sample(f"{n}.mp4", CLASSES[n % 3]) for n in range(30)]
    return samples, [facts(f"{n}.mp4", fps=rate_of(n), num_frames=300) for n in range(30)]


def test_a_property_that_names_the_class_is_told_about():
    samples, known = labeled_and_known(lambda n: (24.0, 25.0, 30.0)[n % 3])
    rate, length = report_of(
        *samples, known=known
    ).predictive_properties  # 300 frames are of other length, too
    assert rate == (
        "the frame rate alone predicts the class of 100% of the videos (the most frequent class is 33%): a "
        "model may learn the frame rate instead of the action"
    )
    assert length.startswith("the length alone")


def test_a_property_that_has_nothing_to_do_with_the_class_is_not():
    samples, known = labeled_and_known(lambda n: (24.0, 25.0)[n * n % 7 % 2])
    assert report_of(*samples, known=known).predictive_properties == ()
    samples, known = labeled_and_known(lambda n: (24.0, 25.0, 30.0)[n % 3])
    assert report_of(*samples[:15], known=known).predictive_properties == ()  # so few may agree by chance


def test_classes_with_too_few_videos_to_validate_are_named():
    samples = [
        sample(f"{label}{n}.mp4", label)
        for label, k in zip(CLASSES, (20, 12, 13), strict=True)
        for n in range(k)
    ]
    assert report_of(*samples).few_val_videos == ("jump",)
    split = [sample(f"{n}.mp4", "clap", "train") for n in range(9)] + [sample("v.mp4", "clap", "val")]
    assert report_of(*split).few_val_videos == CLASSES
