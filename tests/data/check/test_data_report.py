"""A clean manifest is one to train on, and the JSON has everything."""

import json

import pytest

from tests.data.check.labeled import facts, report_of, same_pictures, sample
from videoswin._errors import VideoError
from videoswin.data.check import make_report
from videoswin.data.check.findings import Finding
from videoswin.data.check.report import DataReport
from videoswin.data.manifest import Manifest, Sample

BROKEN = VideoError("broken.mp4", "the file is empty")


def cleaned(report: DataReport) -> list[str]:
    return [sample.path for sample in report.clean().samples]


def test_a_sound_collection_is_left_as_it_is():
    report = report_of(sample("a.mp4", "clap", "train"), sample("b.mp4", "wave", "val"))
    assert report.num_problems == 0
    assert report.clean() == report.manifest


def test_unreadable_files_and_empty_parts_are_left_out():
    report = report_of(
        sample("broken.mp4", "clap"),
        sample("a.mp4", "clap"),
        sample("a.mp4", "wave", start=11.0),
        known=[BROKEN],
    )
    assert [(failure.path, failure.reason) for failure in report.unreadable] == [
        ("broken.mp4", "the file is empty")
    ]
    assert cleaned(report) == ["a.mp4"]
    assert report.num_problems == 2


def test_a_part_that_ends_after_its_video_is_cut_to_it():
    report = report_of(sample("a.mp4", "clap", start=2.0, end=20.0))
    assert report.clean().samples == (sample("a.mp4", "clap", start=2.0),)


@pytest.mark.parametrize(
    ("splits", "kept"),
    [((None, None, None), 0), (("train", "val", "test"), 2), (("train", "val", "train"), 1)],
)
def test_of_repeats_the_one_stays_that_scores_depend_on(splits, kept):
    paths = ("0.mp4", "1.mp4", "2.mp4")
    samples = [sample(path, "clap", split) for path, split in zip(paths, splits, strict=True)]
    assert cleaned(report_of(*samples, known=same_pictures(*paths))) == [paths[kept]]


def test_of_contradicting_repeats_none_stays():
    paths = ("0.mp4", "1.mp4", "2.mp4")
    samples = [sample(path, label) for path, label in zip(paths, ("clap", "wave", "clap"), strict=True)]
    assert cleaned(report_of(*samples, sample("a.mp4", "jump"), known=same_pictures(*paths))) == ["a.mp4"]


def test_warnings_stay():
    known = [facts("a.mp4", damage="its last frame is cut off", num_frames=3, fps=15.0)]
    report = report_of(sample("a.mp4", "clap"), sample("b.mp4", "wave"), known=known, min_frames=64)
    assert report.damaged == (Finding(path="a.mp4", description="its last frame is cut off"),)
    assert cleaned(report) == ["a.mp4", "b.mp4"]


def test_a_clean_manifest_has_no_problems_but_videos_whose_parts_are_in_several_splits():
    samples = [
        sample("broken.mp4", "clap", "train"),
        sample("copy.mp4", "clap", "train"),
        sample("original.mp4", "clap", "val"),
        sample("twice.mp4", "wave", "train"),
        sample("again.mp4", "jump", "train"),
        sample("long.mp4", "jump", "train", 0.0, 5.0),
        sample("late.mp4", "jump", "train", 4.0, 60.0),
        sample("gone.mp4", "jump", "train", 40.0, 60.0),
    ]
    known = [BROKEN, *same_pictures("copy.mp4", "original.mp4"), *same_pictures("twice.mp4", "again.mp4")]
    report = report_of(*samples, known=known)
    assert (report.num_problems, report.lasting_leaks) == (5, ())
    assert report_of(*report.clean().samples, known=known).num_problems == 0

    report = report_of(*samples, sample("long.mp4", "jump", "val", 5.0, 10.0), known=known)
    assert [leak.description for leak in report.lasting_leaks] == ["parts of one video, in train and val"]


def test_classes_are_counted_by_split_without_what_cannot_be_read():
    report = report_of(
        sample("a.mp4", "clap", "val"),
        sample("b.mp4", "clap", "train"),
        sample("c.mp4", "clap", "train"),
        sample("d.mp4", "wave", "train"),
        sample("broken.mp4", "jump", "train"),
        known=[BROKEN],
    )
    assert report.class_counts == {"train": (2, 0, 1), "val": (1, 0, 0)}
    assert report.missing_classes == {"train": ("jump",), "val": ("jump", "wave")}
    assert report.class_imbalance == 2.0


def test_several_labels_all_count():
    manifest = Manifest(
        source="v", classes=("a", "b"), samples=(Sample(path="x", labels=(0, 1)),), multi_label=True
    )
    report = make_report(manifest, {"x": facts("x")}, min_frames=1)
    assert report.class_counts == {"unassigned": (1, 1)}


def test_durations_are_those_of_parts_and_the_total_counts_each_video_once():
    report = report_of(
        sample("a.mp4", "clap", start=1.0, end=3.0),
        sample("a.mp4", "clap", start=5.0),
        sample("b.mp4", "clap"),
    )
    assert report.durations == (2.0, 5.0, 10.0)
    assert report.total_seconds == 20.0


def test_sizes_and_rates_are_counted_the_most_frequent_first():
    known = [facts("a.mp4", width=160, height=120, fps=29.97)]
    report = report_of(*(sample(path, "clap") for path in ("a.mp4", "b.mp4", "c.mp4")), known=known)
    assert list(report.frame_sizes.items()) == [("320x240", 2), ("160x120", 1)]
    assert list(report.frame_rates.items()) == [("30", 2), ("29.97", 1)]


def test_nothing_readable_is_a_report_too():
    report = report_of(sample("broken.mp4", "clap"), known=[BROKEN])
    assert (report.durations, report.class_imbalance, report.total_seconds) == (None, None, 0)
    assert json.loads(report.to_json())["durations"] is None
    assert cleaned(report) == []


def test_the_json_has_every_list_with_names_instead_of_numbers():
    report = report_of(
        sample("a.mp4", "clap", "train"),
        sample("b.mp4", "clap", "val", start=0.0),
        sample("broken.mp4", "clap", "train"),
        known=[BROKEN, *same_pictures("a.mp4", "b.mp4")],
        min_frames=500,
    )
    fields = json.loads(report.to_json())
    assert "\n" not in report.to_json()
    assert fields["num_problems"] == 2
    assert fields["unreadable"] == [{"path": "broken.mp4", "reason": "the file is empty"}]
    assert fields["leaks"] == [
        {
            "description": "overlapping parts of one video, in train and val",
            "samples": [
                {"path": "a.mp4", "labels": ["clap"], "split": "train"},
                {"path": "b.mp4", "labels": ["clap"], "split": "val", "start_seconds": 0.0},
            ],
        }
    ]
    assert fields["too_short"][0] == {"path": "a.mp4", "description": "300 frames, fewer than 500"}
    assert fields["class_counts"]["train"] == {"clap": 1, "jump": 0, "wave": 0}
    assert fields["durations"] == {"shortest": 10.0, "median": 10.0, "longest": 10.0}
    assert fields["videos"][0] == {
        "path": "a.mp4",
        "num_frames": 300,
        "fps": 30.0,
        "width": 320,
        "height": 240,
        "damage": None,
        "notes": [],
        "bytes_digest": "bytes of a.mp4",
        "pictures_digest": "pictures of a.mp4",
        "duration_seconds": 10.0,
        "codec": None,
        "rotation": 0,
        "mirrored": False,
        "variable_rate": False,
    }


def test_a_report_and_its_manifest_show_themselves_in_one_line():
    report = report_of(sample("broken.mp4", "clap"), sample("a.mp4", "wave"), known=[BROKEN])
    assert repr(report) == "DataReport(videos, 2 samples, 1 readable video, 1 problem)"
    assert repr(report.manifest) == "Manifest(videos, 2 samples, 3 classes)"
