"""Which videos a list of files, folders and patterns stands for."""

import os
from pathlib import Path

import pytest

from videoswin._errors import InputError
from videoswin.video.listing import find_videos, scan_folder


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


def found(folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in find_videos([str(folder)])]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    for name in ("here/a.mp4", "there/b.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "here" / "up").symlink_to(tmp_path)
    (tmp_path / "there" / "self").symlink_to(tmp_path / "there")
    assert found(tmp_path / "here") == ["a.mp4", "link/b.mp4"]


def test_the_working_directory_is_written_as_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert list(find_videos(["."])) == ["a.MKV", "b.mp4", "deep/er/c.webm"]


def test_what_is_no_video_is_counted_as_something_else(tree: Path) -> None:
    assert scan_folder(str(tree)).others == {".png": 2, ".txt": 1}
    assert scan_folder(str(tree)).example == str(tree / "notes.txt")
    assert scan_folder(str(tree / "frames")) == ([str(tree / "frames")], {}, "")


def test_files_that_are_left_out_are_said(tree: Path) -> None:
    said: list[str] = []
    assert len(list(find_videos([str(tree / "frames"), str(tree / "deep"), str(tree)], said.append))) == 5
    (line,) = said
    assert line.startswith(f"{tree}: skipped files that are no videos: 2 .png, 1 .txt, such as")


def test_folders_of_optical_flow_beside_those_of_frames_are_left_out(tmp_path: Path) -> None:
    for name in ("take/rgb/0.jpg", "take/flow_x/0.jpg", "take/flow_y/0.jpg", "flow/water/0.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert found(tmp_path) == ["flow/water", "take/rgb"]
    assert scan_folder(str(tmp_path)).others == {".jpg": 2}


def test_a_folder_that_cannot_be_read_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match="deep: the folder cannot be read: Permission denied"):
        list(find_videos([str(tree)]))
