"""Whether a path can be written is known before the work, and looking leaves no trace."""

from pathlib import Path

import pytest

from videoswin._errors import InputError
from videoswin._files import require_writable_file, require_writable_folder, write_text


@pytest.mark.parametrize("folder", [".", "new", "new/deeper"])
def test_a_folder_that_can_be_made_is_accepted_and_not_made(folder: str, tmp_path: Path) -> None:
    require_writable_folder(tmp_path / folder, name="--out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["file", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_made_is_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"^--out must be a writable folder, got /"):
        require_writable_folder(tmp_path / folder, name="--out")


def test_a_folder_that_can_only_be_read_is_refused() -> None:
    if not Path("/proc/self").exists():
        pytest.skip("there is no /proc")
    with pytest.raises(InputError, match="got /proc/self/out: "):
        require_writable_folder("/proc/self/out", name="--out")


def test_a_file_that_can_be_written_is_accepted_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").write_text("kept")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "old", tmp_path / "new", "old"):
        require_writable_file(path, name="--out")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("file", "reason"),
    [(".", "a folder"), ("none/x", "No such file or directory"), ("old/x", "Not a directory")],
)
def test_a_file_that_cannot_be_written_is_refused(file: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("in the way")
    with pytest.raises(InputError, match=f"--out must be a writable file, got /.*: {reason}"):
        require_writable_file(tmp_path / file, name="--out")


def test_text_replaces_a_file_with_its_newlines_and_escapes_what_is_not_unicode(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("a longer old text")
    write_text(path, "a\r\nü\n\udcff\n")
    assert path.read_bytes() == "a\r\nü\n\\udcff\n".encode()
    assert list(tmp_path.iterdir()) == [path]
