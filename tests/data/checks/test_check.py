"""Files of every bad kind are named, the others are checked, and the report says what to do next."""

import os
from pathlib import Path

import pytest

from tests.data.checks.labelled import facts, report_of, same_pictures, sample
from tests.video.numbered import numbered_picture, write_image, write_video
from tests.video.test_damage import write_sound
from videoswin._terminal import print_data_report
from videoswin.data.check import check_videos
from videoswin.data.checks.report import DataReport, make_report
from videoswin.data.manifest import Manifest, Sample
from videoswin.video.reader import VideoError

REASONS = {
    "empty.mp4": "the file is empty",
    "folder.mp4": "the folder holds neither videos nor images",
    "missing.mp4": "there is no such file",
    "pipe.mp4": "it is not a regular file",
    "sound.mp4": "it has no video stream",
    "text.mp4": "it is not a video",
    "without_index.mp4": "it is not a video",
}


def write_collection(folder: Path) -> Path:
    """The files of REASONS, but the missing one; a video, its copy, a single frame, damage, and a folder."""
    video = write_video(folder / "a.mp4", [numbered_picture(number) for number in range(40)])
    (folder / "copy.mp4").write_bytes(video.read_bytes())
    (folder / "without_index.mp4").write_bytes(video.read_bytes()[:2000])
    write_video(folder / "single.mp4", [numbered_picture(7)])
    whole = write_video(folder / "damaged.mkv", [numbered_picture(255 - number) for number in range(120)])
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is not a video.\n")
    (folder / "folder.mp4").mkdir()
    (folder / "frames").mkdir()
    for number in range(3):
        write_image(folder / "frames" / f"{number}.png", numbered_picture(100 + number))
    os.mkfifo(folder / "pipe.mp4")
    write_sound(folder / "sound.mp4", "aac")
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> DataReport:
    folder = write_collection(tmp_path_factory.mktemp("videos"))
    names = sorted({*(path.name for path in folder.iterdir()), "missing.mp4"})
    samples = tuple(Sample(path=str(folder / name), labels=(0,)) for name in names)
    manifest = Manifest(source=str(folder), classes=("only",), samples=samples)
    return check_videos(manifest, workers=2, shortest_frames=32)


def test_every_file_that_is_no_video_is_named_with_the_reason(report):
    reasons = {Path(failure.path).name: failure.reason for failure in report.unreadable}
    assert list(reasons) == sorted(REASONS)
    for name, reason in reasons.items():
        assert reason.startswith(REASONS[name]), name


def test_the_videos_among_them_are_examined_in_the_order_of_the_list(report):
    names = [(Path(video.path).name, video.num_frames) for video in report.videos if not video.damage]
    assert names == [("a.mp4", 40), ("copy.mp4", 40), ("frames", 3), ("single.mp4", 1)]
    assert [Path(finding.path).name for finding in report.damaged] == ["damaged.mkv"]
    assert [Path(finding.path).name for finding in report.too_short] == ["frames", "single.mp4"]
    assert [group.what for group in report.repeats] == ["the same bytes"]
    assert report.problems == len(REASONS)


def test_a_file_in_several_rows_is_decoded_once(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", [numbered_picture(number) for number in range(30)]))
    samples = tuple(Sample(path=path, labels=(0,), start_seconds=start) for start in (0.0, 0.5))
    report = check_videos(Manifest(source="a.csv", classes=("only",), samples=samples), workers=1)
    assert len(report.videos) == 1
    assert [finding.what for finding in report.too_short] == [
        "30 frames, fewer than 64",
        "15 frames, fewer than 64",
    ]


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"shortest_frames": -1}])
def test_negative_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        check_videos(Manifest(source="a", classes=(), samples=()), **wrong)


def printed(report: DataReport, capsys: pytest.CaptureFixture[str], **options: str) -> str:
    print_data_report(report, **options)
    return capsys.readouterr().out


def test_a_sound_collection_fits_a_screen_and_ends_with_the_command_to_train(capsys):
    samples = [sample(f"{label}{i}.mp4", label) for label in ("clap", "jump", "wave") for i in range(100)]
    text = printed(report_of(*samples), capsys)
    assert len(text.splitlines()) < 24
    assert "300 samples, 3 classes, 300 videos that can be read, 50.0 minutes" in text
    assert text.splitlines()[-1] == (
        "To train: videoswin train finetune --data videos --from tiny-k400 --out run/"
    )


def test_long_lists_are_cut_and_say_how_much_is_missing(capsys):
    broken = [VideoError(f"my/clap/{number}.mp4", "the file is empty") for number in range(8)]
    samples = [sample(error.path, "clap") for error in broken]
    text = printed(report_of(*samples, sample("a.mp4", "wave"), known=broken, source="my/list.csv"), capsys)
    assert "Cannot be read (8)" in text
    assert "  clap/4.mp4: the file is empty\n  and 3 more\n" in text
    assert "clap/5.mp4" not in text
    assert "Classes without a sample (1)\n" not in text
    assert "  unassigned: clap, jump\n" in text


def test_a_collection_with_problems_ends_with_the_way_to_a_clean_list(capsys):
    known = same_pictures("a.mp4", "b.mp4")
    report = report_of(sample("a.mp4", "clap", "train"), sample("b.mp4", "clap", "val"), known=known)
    text = printed(report, capsys)
    assert "Shared between splits (1)\n  the same pictures, in train and val: a.mp4, b.mp4\n" in text
    assert "More than once" not in text
    assert "Add --write clean.csv to the command for a list of the 1 of 2 samples that can be used." in text
    assert "--data clean.csv" in text

    text = printed(report, capsys, written="my list.csv")
    assert "my list.csv lists the 1 of 2 samples that can be used." in text
    assert "--data 'my list.csv'" in text


def test_parts_of_one_video_in_two_splits_are_to_be_split_anew(capsys):
    report = report_of(sample("a.mp4", "clap", "train", end=5.0), sample("a.mp4", "clap", "val", start=5.0))
    assert "split again, whole videos and groups at a time" in printed(report, capsys)


def test_nothing_that_can_be_used_is_said_so(capsys):
    report = report_of(sample("a.mp4", "clap"), known=[VideoError("a.mp4", "the file is empty")])
    assert "no sample can be used" in printed(report, capsys)


def test_unequal_classes_are_told_about_with_the_cure(capsys):
    samples = [sample(f"{i}.mp4", "clap") for i in range(8)] + [sample("w.mp4", "wave")]
    text = printed(report_of(*samples), capsys)
    assert "the largest class has 8 times the samples of the smallest" in text
    assert "--set data.source.balanced=true" in text


def test_of_many_classes_the_largest_and_the_smallest_are_shown(capsys):
    samples = [
        Sample(path=f"{label}_{i}.mp4", labels=(label,)) for label in range(40) for i in range(40 - label)
    ]
    manifest = Manifest(source="v", classes=tuple(f"class[{i}]" for i in range(40)), samples=tuple(samples))
    examined = {sample.path: facts(sample.path) for sample in samples}
    text = printed(make_report(manifest, examined, shortest_frames=1), capsys)
    assert "  class[0] " in text
    assert "  class[5] " in text
    assert "  class[6] " not in text
    assert "(28 in between)" in text
    assert "  class[39] " in text


def test_the_same_collection_gives_the_same_report(report):
    again = check_videos(report.manifest, workers=1, shortest_frames=32)
    assert again.to_json() == report.to_json()
