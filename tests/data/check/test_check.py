"""Files of every bad kind are named, the others are checked, and the report says what to do next."""

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.check.labeled import facts, report_of, same_pictures, sample
from tests.video.numbered import numbered_picture, write_image, write_video
from tests.video.test_damage import write_sound
from videoswin._errors import VideoError
from videoswin.cli.arguments import command_line
from videoswin.cli.commands import COMMANDS
from videoswin.data.check import check_videos, make_report
from videoswin.data.check.report import DataReport
from videoswin.data.manifest import Manifest, Sample, read_manifest
from videoswin.training.data import training_and_validation
from videoswin.training.recipe import VideoData
from videoswin.training.settings import parse_assignments
from videoswin.video.spec import ClipSpec, ViewPlan

REASONS = {
    "empty.mp4": "the file is empty",
    "folder.mp4": "the folder must have videos or images",
    "missing.mp4": "there is no such file",
    "pipe.mp4": "the path must be a regular file or a folder, got another kind of file",
    "sound.mp4": "the file has no video stream",
    "text.mp4": "the file is not a video",
    "without_index.mp4": "the file is not a video",
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
    return check_videos(manifest, workers=2, min_frames=32)


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
    assert [group.description for group in report.duplicates] == ["the same bytes"]
    assert report.num_problems == len(REASONS)


def test_a_file_in_several_rows_is_decoded_once(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", [numbered_picture(number) for number in range(30)]))
    samples = tuple(Sample(path=path, labels=(0,), start_seconds=start) for start in (0.0, 0.5))
    report = check_videos(Manifest(source="a.csv", classes=("only",), samples=samples), workers=1)
    assert len(report.videos) == 1
    assert [finding.description for finding in report.too_short] == [
        "30 frames, fewer than 64",
        "15 frames, fewer than 64",
    ]


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"min_frames": -1}])
def test_negative_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        check_videos(Manifest(source="a", classes=(), samples=()), **wrong)


def test_a_sound_collection_fits_a_screen_and_ends_with_the_command_to_train():
    samples = [sample(f"{label}{i}.mp4", label) for label in ("clap", "jump", "wave") for i in range(100)]
    text = report_of(*samples).to_text()
    assert len(text.splitlines()) < 24
    assert "300 samples, 3 classes, 300 videos that can be read, 50.0 minutes" in text
    assert text.splitlines()[-1] == (
        "To train: videoswin train finetune --data videos --model tiny-k400 --out run/"
    )


def test_long_lists_are_cut_and_say_how_much_is_missing():
    broken = [VideoError(f"my/clap/{number}.mp4", "the file is empty") for number in range(8)]
    samples = [sample(error.path, "clap") for error in broken]
    text = report_of(*samples, sample("a.mp4", "wave"), known=broken, source="my/list.csv").to_text()
    assert "problem: cannot be read (8)" in text
    assert "  clap/4.mp4: the file is empty\n  and 3 more\n" in text
    assert "clap/5.mp4" not in text
    assert "warning: classes without a sample (1)\n" in text
    assert "  unassigned: clap, jump\n" in text


def test_a_collection_with_problems_ends_with_the_way_to_a_clean_list():
    known = same_pictures("a.mp4", "b.mp4")
    report = report_of(sample("a.mp4", "clap", "train"), sample("b.mp4", "clap", "val"), known=known)
    text = report.to_text()
    assert "problem: shared between splits (1)\n  the same frames, in train and val: a.mp4, b.mp4\n" in text
    assert "duplicates" not in text
    assert "Add --out clean.csv to the command for a list of the 1 of 2 samples that can be used." in text
    assert "--data clean.csv" in text

    text = report.to_text(written="my list.csv")
    assert "my list.csv lists the 1 of 2 samples that can be used." in text
    assert "--data 'my list.csv'" in text


def test_parts_of_one_video_in_two_splits_are_to_be_split_anew():
    report = report_of(sample("a.mp4", "clap", "train", end=5.0), sample("a.mp4", "clap", "val", start=5.0))
    assert "split again, whole videos and groups at a time" in report.to_text()


def test_nothing_that_can_be_used_is_said_so():
    report = report_of(sample("a.mp4", "clap"), known=[VideoError("a.mp4", "the file is empty")])
    assert "no sample can be used" in report.to_text()


def test_unequal_classes_are_told_about_with_the_cure():
    samples = [sample(f"{i}.mp4", "clap") for i in range(8)] + [sample("w.mp4", "wave")]
    text = report_of(*samples).to_text()
    assert "the largest class has 8 times the samples of the smallest" in text
    assert "--set data.class_balanced=true" in text


def test_of_many_classes_the_largest_and_the_smallest_are_shown():
    samples = [
        Sample(path=f"{label}_{i}.mp4", labels=(label,)) for label in range(40) for i in range(40 - label)
    ]
    manifest = Manifest(source="v", classes=tuple(f"class[{i}]" for i in range(40)), samples=tuple(samples))
    examined = {sample.path: facts(sample.path) for sample in samples}
    text = make_report(manifest, examined, min_frames=1).to_text()
    assert "  class[0] " in text
    assert "  class[5] " in text
    assert "  class[6] " not in text
    assert "(28 in between)" in text
    assert "  class[39] " in text


def test_the_same_collection_gives_the_same_report(report):
    again = check_videos(report.manifest, workers=1, min_frames=32)
    assert again.to_json() == report.to_json()


def commands_in(text: str) -> list[dict[str, Any]]:
    """The options of each `videoswin train` command in what was printed, as the command line reads them."""
    lines = [line[line.index("videoswin train") :] for line in text.splitlines() if "videoswin train" in line]
    return [vars(command_line(COMMANDS).parse_args(shlex.split(line)[1:])) for line in lines]


def source_of(options: dict[str, Any]) -> VideoData:
    """The videos that such a command trains on."""
    settings = parse_assignments(options["set"])
    arguments = {key.removeprefix("data."): value for key, value in settings.items()}
    arguments |= {"root": options["root"]} if options["root"] else {}
    return VideoData(train=options["data"], clip=ClipSpec(), views=ViewPlan(), batch_size=1, **arguments)


def checked(source: Path | str, root: str | None = None) -> DataReport:
    """The report on a list whose videos all are sound."""
    manifest = read_manifest(source, root=root)
    examined = {sample.path: facts(sample.path) for sample in manifest.samples}
    return make_report(manifest, examined, min_frames=1)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_the_command_to_train_has_the_root_and_reads_the_same_videos(tmp_path, monkeypatch):
    touch(tmp_path, *(f"my videos/{name}.mp4" for name in "abcd"))
    lines = "".join(f"{name}.mp4,{label}\n" for name, label in zip("abcd", "xxyy", strict=True))
    (tmp_path / "list.csv").write_text(f"path,label\n{lines}")
    monkeypatch.chdir(tmp_path)
    text = checked("list.csv", root="my videos").to_text(root="my videos")
    (options,) = commands_in(text)
    training, validation = training_and_validation(source_of(options), seed=0)
    assert len(training.samples) + len(validation.samples) == 4


def test_the_command_for_a_clean_list_has_no_root():
    samples = [sample("v/a.mp4", "clap"), sample("v/b.mp4", "wave"), sample("v/c.mp4", "wave")]
    report = report_of(*samples, known=[VideoError("v/c.mp4", "the file is empty")])
    assert commands_in(report.to_text(root="v"))[-1]["root"] is None


def test_folders_inside_the_classes_are_suggested_as_groups_by_a_command_that_works(tmp_path):
    places = ("garden", "hall", "kitchen", "street")
    touch(tmp_path, *(f"{label}/{place}/{n}.mp4" for label in "xy" for place in places for n in range(2)))
    text = checked(tmp_path).to_text()
    assert "No groups are known, so training and validation may share people, places" in text
    assert "together (garden, hall, kitchen and 1 more): videoswin train finetune" in text
    grouped, plain = commands_in(text)
    assert plain["set"] == []
    training, validation = training_and_validation(source_of(grouped), seed=0)
    sides = [{sample.group for sample in side.samples} for side in (training, validation)]
    assert sides[0] | sides[1] == set(places)
    assert not sides[0] & sides[1]


def test_folders_above_the_classes_are_suggested_as_groups(tmp_path):
    names = [f"{who}/{label}/{who}.mp4" for who in ("anna", "ben", "carl") for label in "xy"]
    touch(tmp_path, *names)
    lines = "".join(f"{name},{name.split('/')[1]}\n" for name in names)
    (tmp_path / "list.csv").write_text(f"path,label\n{lines}")
    grouped, _ = commands_in(checked(tmp_path / "list.csv").to_text())
    assert grouped["set"] == ["data.group_by=folder:2"]


@pytest.mark.parametrize(
    "names",
    [
        [f"{label}/{n}.mp4" for label in "xy" for n in range(3)],
        [f"{label}/take{label}{n}/a.mp4" for label in "xy" for n in range(3)],
        [f"{split}/{label}/{split}.mp4" for split in ("train", "val") for label in "xy"],
    ],
)
def test_folders_of_classes_splits_or_single_videos_are_not_suggested(tmp_path, names):
    touch(tmp_path, *names)
    text = checked(tmp_path).to_text()
    assert len(commands_in(text)) == 1
    assert "No groups are known" in text
    assert "--set data.group_by=similarity" in text


def test_nothing_is_said_of_groups_where_the_list_has_some():
    samples = [replace(sample(f"{n}.mp4", label), group="g") for n, label in enumerate(("clap", "wave"))]
    assert "groups" not in report_of(*samples).to_text()


def test_a_single_class_is_said_to_teach_nothing_instead_of_a_command():
    text = report_of(sample("a.mp4", "clap"), sample("b.mp4", "clap")).to_text()
    assert "at least 2 classes with training videos are required, got 1 (clap)" in text
    assert commands_in(text) == []


def test_paths_are_printed_as_the_list_has_them():
    broken = [VideoError("./clap/a.mp4", "the file is empty")]
    for source in ("list.csv", "./list.csv"):
        report = report_of(sample("./clap/a.mp4", "clap"), known=broken, source=source)
        assert "  clap/a.mp4: the file is empty\n" in report.to_text()


def test_folders_of_images_are_said_to_have_no_rate(report):
    text = report.to_text()
    assert "  1 of 5 videos is a folder of images, which have no frame rate: 30 frames/s are assumed." in text


def test_a_mirrored_video_is_named():
    look = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    known = [facts("a.mp4", thumbnails=look.tobytes()), facts("b.mp4", thumbnails=look[:, :, ::-1].tobytes())]
    text = report_of(sample("a.mp4", "clap"), sample("b.mp4", "clap"), known=known).to_text()
    assert "  visually similar, mirrored: a.mp4, b.mp4 (a mirror image of a.mp4)\n" in text


def test_hdr_is_a_sentence_of_its_own():
    known = [facts(f"{n}.mp4", notes=("colors look flat",)) for n in range(2)]
    text = report_of(*(sample(video.path, "clap") for video in known), known=known).to_text()
    assert "\nwarning: colors look flat (2)\n  0.mp4\n  1.mp4\n" in text
    assert "outliers" not in text
