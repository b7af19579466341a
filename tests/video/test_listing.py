"""Which videos a list of files, folders and patterns stands for."""

from pathlib import Path

import pytest

from videoswin.video.listing import find_videos


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "notes.txt", "deep/er/c.webm", "frames/0.png", "frames/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_stands_for_every_video_below_it(tree: Path) -> None:
    found = [Path(p).relative_to(tree).as_posix() for p in find_videos([str(tree)])]
    assert found == ["a.MKV", "b.mp4", "deep/er/c.webm"]


def test_a_folder_without_videos_stands_for_itself(tree: Path) -> None:
    assert list(find_videos([str(tree / "frames")])) == [str(tree / "frames")]


def test_a_named_file_is_kept_whatever_its_name_and_even_if_it_is_missing(tree: Path) -> None:
    names = [str(tree / "notes.txt"), str(tree / "missing")]
    assert list(find_videos(names)) == names


def test_a_pattern_is_expanded_and_may_cross_folders(tree: Path) -> None:
    assert list(find_videos([str(tree / "**" / "*.webm")])) == [str(tree / "deep/er/c.webm")]


def test_a_pattern_that_matches_nothing_is_passed_on_to_be_reported(tree: Path) -> None:
    assert list(find_videos([str(tree / "*.avi")])) == [str(tree / "*.avi")]


def test_a_pattern_that_matches_a_folder_and_its_files_names_each_once(tree: Path) -> None:
    assert list(find_videos([str(tree / "deep" / "**")])) == [str(tree / "deep/er/c.webm")]


def test_hidden_files_are_left_out_of_a_folder(tree: Path) -> None:
    (tree / "deep" / "._c.webm").touch()
    assert list(find_videos([str(tree / "deep")])) == [str(tree / "deep/er/c.webm")]


def test_a_folder_of_folders_of_frames_stands_for_those(tree: Path) -> None:
    (tree / "takes" / "one").mkdir(parents=True)
    (tree / "takes" / "one" / "0.png").touch()
    assert list(find_videos([str(tree / "takes")])) == [str(tree / "takes" / "one")]


def test_a_file_with_brackets_in_its_name_is_a_file(tree: Path) -> None:
    (tree / "take[1].mp4").touch()
    assert list(find_videos([str(tree / "take[1].mp4")])) == [str(tree / "take[1].mp4")]
