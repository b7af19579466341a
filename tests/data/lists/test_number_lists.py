"""Lists with a path and numbers on each line: what the numbers are follows from all lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from videoswin.data.manifest import Manifest, read_manifest
from videoswin.video.reader import FOLDER_FPS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "dir-1").mkdir()
    return tmp_path


def read(folder: Path, text: str, **options: object) -> Manifest:
    (folder / "list.txt").write_text(text)
    return read_manifest(folder / "list.txt", **options)


def labels(manifest: Manifest) -> list[tuple[int, ...]]:
    return [sample.labels for sample in manifest.samples]


def test_frames_before_the_label_of_a_video_are_no_label(folder: Path) -> None:
    manifest = read(folder, "a.mp4 250 3\nb.mp4 300 0\nc.mp4 32 1\n")
    assert (labels(manifest), manifest.multi_label) == ([(3,), (0,), (1,)], False)
    assert len(manifest.classes) == 4
    assert "videos are read as: a number of frames, then labels" in manifest.notes[0]


def test_few_frames_before_the_label_are_told_by_known_classes(folder: Path) -> None:
    manifest = read(folder, "a.mp4 5 1\nb.mp4 7 0\n", classes=("run", "walk"))
    assert (labels(manifest), manifest.multi_label) == ([(1,), (0,)], False)


def test_start_and_frames_before_the_label_of_a_video_are_no_labels(folder: Path) -> None:
    for text in (
        "a.mp4 0 250 3\nb.mp4 0 300 0\n",
        "a.mp4 0 -1 3\nb.mp4 0 -1 0\n",
        "a.mp4 1 250 3\nb.mp4 1 9 0\n",
    ):
        manifest = read(folder, text)
        assert (labels(manifest), manifest.multi_label) == ([(3,), (0,)], False)
        assert {(s.start_seconds, s.end_seconds) for s in manifest.samples} == {(None, None)}
        assert "first frame, number of frames, label" in manifest.notes[0]


def test_a_part_of_a_video_in_frames_is_refused(folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"list.txt, line 2: the part must begin at the start .*got frame 90.*start,end, in seconds",
    ):
        read(folder, "a.mp4 0 250 3\na.mp4 90 300 0\n")


def test_a_part_of_a_folder_of_frames_is_that_part(folder: Path) -> None:
    manifest = read(folder, "dir-1 12 163 3\ndir-1 0 122 4\n")
    assert (labels(manifest), manifest.multi_label) == ([(3,), (4,)], False)
    assert [(s.start_seconds, s.end_seconds) for s in manifest.samples] == [
        (12 / FOLDER_FPS, (12 + 163) / FOLDER_FPS),
        (None, 122 / FOLDER_FPS),
    ]


def test_several_labels_behind_the_frames_of_a_folder_are_several_labels(folder: Path) -> None:
    manifest = read(folder, "dir-1 163 1 3\ndir-2 122 0 2\n")
    assert (labels(manifest), manifest.multi_label) == ([(1, 3), (0, 2)], True)


@pytest.mark.parametrize(
    "text", ["a.mp4 0 -1\nb.mp4 0 -1\n", "a.mp4 0 300\nb.mp4 0 250\n", "dir-1 1 300\ndir-2 1 9\n"]
)
def test_a_list_for_pre_training_without_labels_is_named(folder: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1: .* pre-training VideoMAE, which has no labels"):
        read(folder, text)


@pytest.mark.parametrize("text", ["a.mp4 163 1\nb.mp4 5 0\n", "a.mp4 163 1\nb.mp4 0\n"])
def test_several_labels_that_look_like_a_number_of_frames_are_refused(folder: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1: 163 looks like a number of frames.*\.classes\.txt"):
        read(folder, text)


def test_large_labels_are_labels_where_the_classes_are_known(folder: Path) -> None:
    manifest = read(folder, "a.mp4 163 1\nb.mp4 0\n", classes=tuple(f"class {n}" for n in range(200)))
    assert labels(manifest) == [(163, 1), (0,)]


def test_several_labels_are_announced(folder: Path) -> None:
    (note,) = read(folder, "a.mp4 2 0\nb.mp4 1\n").notes
    assert "list.txt: multi-label: 1 of 2 videos have several labels" in note
    assert "mAP" in note


def test_folders_that_are_called_by_numbers_are_folders(folder: Path) -> None:
    (folder / "78687").mkdir()
    manifest = read(folder, "78687 48 105\n42326 17 3\n")
    assert (labels(manifest), manifest.multi_label) == ([(105,), (3,)], False)
    assert [Path(sample.path).name for sample in manifest.samples] == ["78687", "42326"]


def test_a_number_of_thousands_of_digits_is_no_label(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"line 2: the line must be a path followed by integers, got 'a.mp4 999"
    ):
        read(folder, f"a.mp4 1\na.mp4 {'9' * 5000}\n")


def test_a_list_with_one_label_each_needs_no_note(folder: Path) -> None:
    assert read(folder, "a.mp4 2\nb.mp4 1\n").notes == ()
    assert read(folder, "dir-1 163 2\ndir-2 16 1\n").notes == ()
