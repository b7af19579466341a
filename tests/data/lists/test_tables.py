"""CSV, TSV and Parquet with a header: what is read, and where a fault is said to be."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from videoswin.data.manifest import Manifest, Sample, read_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "c d, e.mp4"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, text: str | bytes, name: str = "list.csv", **options: object) -> Manifest:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(folder / name, **options)


def names_of(manifest: Manifest) -> list[list[str]]:
    return [[manifest.classes[label] for label in sample.labels] for sample in manifest.samples]


def test_path_and_label_are_enough(folder: Path) -> None:
    manifest = read(folder, "path,label\na.mp4,walk\nb.mp4,run\n")
    assert manifest.classes == ("run", "walk")
    assert manifest.samples == (
        Sample(path=str(folder / "a.mp4"), labels=(1,)),
        Sample(path=str(folder / "b.mp4"), labels=(0,)),
    )
    assert not manifest.multi_label


def test_columns_may_stand_in_any_order_under_other_names(folder: Path) -> None:
    manifest = read(
        folder, "Subset,class, end_seconds ,start_seconds,file\nvalidation,walk,2.5,1,a.mp4\n,run,,,b.mp4\n"
    )
    assert manifest.samples == (
        Sample(path=str(folder / "a.mp4"), labels=(1,), start_seconds=1.0, end_seconds=2.5, split="val"),
        Sample(path=str(folder / "b.mp4"), labels=(0,)),
    )


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_the_delimiter_is_that_of_the_header(folder: Path, delimiter: str) -> None:
    text = 'path,label,split\na.mp4,walk,train\n"c d, e.mp4",run,test\n'.replace(", ", "~")
    manifest = read(folder, text.replace(",", delimiter).replace("~", ", "))
    assert [Path(sample.path).name for sample in manifest.samples] == ["a.mp4", "c d, e.mp4"]
    assert manifest.splits == ("test", "train")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_blank_lines_and_any_line_end_are_no_fault(folder: Path, end: str) -> None:
    text = f"\ufeffpath,label{end}{end}a.mp4,walk{end}b.mp4,run{end}{end}"
    assert names_of(read(folder, text)) == [["walk"], ["run"]]


def test_a_space_behind_a_comma_is_no_part_of_the_cell(folder: Path) -> None:
    manifest = read(folder, 'label, path\nwalk, "c d, e.mp4"\nrun, b.mp4\n')
    assert [Path(sample.path).name for sample in manifest.samples] == ["c d, e.mp4", "b.mp4"]


def test_whole_paths_are_kept_and_others_begin_at_root(folder: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    manifest = read(lists, f"path,label\n{folder}/a.mp4,walk\nb.mp4,run\n", root=folder)
    assert [sample.path for sample in manifest.samples] == [str(folder / "a.mp4"), str(folder / "b.mp4")]


@pytest.mark.parametrize("separator", ["|", ";"])
def test_several_labels_in_a_cell_make_it_multi_label(folder: Path, separator: str) -> None:
    manifest = read(folder, f"path,label\na.mp4,walk{separator} run\nb.mp4,run\n")
    assert manifest.multi_label
    assert names_of(manifest) == [["walk", "run"], ["run"]]


def test_a_column_called_labels_makes_it_multi_label_and_may_be_empty(folder: Path) -> None:
    manifest = read(folder, "path,labels\na.mp4,walk\nb.mp4,\n")
    assert manifest.multi_label
    assert names_of(manifest) == [["walk"], []]


def test_a_label_that_is_repeated_in_a_cell_counts_once(folder: Path) -> None:
    assert names_of(read(folder, "path,labels\na.mp4,walk|run|walk\n")) == [["walk", "run"]]


def test_a_semicolon_is_part_of_a_name_where_bars_separate(folder: Path) -> None:
    manifest = read(folder, "path,label\na.mp4,sit; stand|run\nb.mp4,sit; stand\n")
    assert names_of(manifest) == [["sit; stand", "run"], ["sit; stand"]]


def test_a_backslash_keeps_a_separator_in_a_name(folder: Path) -> None:
    manifest = read(folder, "path,label\na.mp4,sit\\; stand\nb.mp4,a\\|b\\c\n")
    assert not manifest.multi_label
    assert names_of(manifest) == [["sit; stand"], ["a|b\\c"]]


def test_a_cell_that_is_a_known_class_as_a_whole_is_one_label(folder: Path) -> None:
    manifest = read(folder, "path,label\na.mp4,sit; stand\n", classes=("sit; stand", "run"))
    assert not manifest.multi_label
    assert names_of(manifest) == [["sit; stand"]]


def test_a_cell_that_is_both_a_known_class_and_several_is_several(folder: Path) -> None:
    manifest = read(
        folder, "path,label\na.mp4,run|walk\nb.mp4,run\\|walk\n", classes=("run", "walk", "run|walk")
    )
    assert names_of(manifest) == [["run", "walk"], ["run|walk"]]


def test_whole_numbers_are_indices(folder: Path) -> None:
    manifest = read(folder, "path,label\na.mp4,2\nb.mp4,0\n")
    assert manifest.classes == ("0", "1", "2")
    assert names_of(read(folder, "path,label\na.mp4,2\nb.mp4,0\n", classes=("x", "y", "z"))) == [["z"], ["x"]]


def test_numbers_that_are_names_of_known_classes_are_names(folder: Path) -> None:
    manifest = read(folder, "path,label\na.mp4,7\nb.mp4,3\n", classes=("3", "7"))
    assert [sample.labels for sample in manifest.samples] == [(1,), (0,)]


def test_numbers_among_names_are_names(folder: Path) -> None:
    assert read(folder, "path,label\na.mp4,7\nb.mp4,walk\n").classes == ("7", "walk")


def test_further_columns_are_left_out_with_a_note(folder: Path) -> None:
    manifest = read(folder, "path,fps,label,annotator,end_of_shift,end\na.mp4,30,walk,me,late,3\n")
    assert names_of(manifest) == [["walk"]]
    assert manifest.notes == (f"{folder}/list.csv: columns that are not used: fps, annotator, end_of_shift",)


@pytest.mark.parametrize("index", ["", "Unnamed: 0"])
def test_the_index_of_pandas_is_no_column(folder: Path, index: str) -> None:
    manifest = read(folder, f"{index},path,label\n0,a.mp4,walk\n1,b.mp4,run\n")
    assert (names_of(manifest), manifest.notes) == ([["walk"], ["run"]], ())


def test_times_may_be_minutes_and_hours(folder: Path) -> None:
    manifest = read(folder, "path,label,start,end\na.mp4,x,1:05,75:30.5\nb.mp4,x,00:01:02.25,1:00:00\n")
    assert [(sample.start_seconds, sample.end_seconds) for sample in manifest.samples] == [
        (65.0, 4530.5),
        (62.25, 3600.0),
    ]


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;\r"])
def test_a_line_that_names_the_delimiter_is_obeyed(folder: Path, line: str) -> None:
    assert names_of(read(folder, f"{line}\npath;label\na.mp4;walk\n")) == [["walk"]]
    with pytest.raises(ValueError, match="line 4, column 'label': the label must not be empty"):
        read(folder, f"{line}\npath;label\na.mp4;walk\nb.mp4;\n")


def test_a_tab_may_be_named_as_the_delimiter(folder: Path) -> None:
    assert names_of(read(folder, "sep=\t\npath\tlabel\na.mp4\twalk\n")) == [["walk"]]


@pytest.mark.skipif(os.sep == "\\", reason="there backslashes separate folders anyway")
def test_backslashes_separate_folders_unless_they_are_in_the_name(folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "videos" / "c.mp4").touch()
    manifest = read(folder, "path,label\nvideos\\missing.mp4,x\nvideos\\c.mp4,x\n")
    assert [sample.path for sample in manifest.samples] == [
        str(folder / "videos" / "missing.mp4"),
        str(folder / "videos" / "c.mp4"),
    ]
    (folder / "videos\\c.mp4").touch()
    assert read(folder, "path,label\nvideos\\c.mp4,x\n").samples[0].path == str(folder / "videos\\c.mp4")


@pytest.mark.skipif(sys.platform == "darwin", reason="both forms name the same file there")
def test_a_file_is_found_in_another_unicode_form_of_its_name(folder: Path) -> None:
    composed, decomposed = "caf\u00e9.mp4", "cafe\u0301.mp4"
    (folder / decomposed).touch()
    manifest = read(folder, f"path,label\n{composed},x\nth\u00e9.mp4,x\n")
    assert [Path(sample.path).name for sample in manifest.samples] == [decomposed, "th\u00e9.mp4"]
    (folder / composed).touch()
    assert Path(read(folder, f"path,label\n{composed},x\n").samples[0].path).name == composed


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    assert read(folder, "path,label\n~/a.mp4,x\n").samples[0].path == str(folder / "a.mp4")
    assert read_manifest("~/list.csv", root="~").samples[0].path == str(folder / "a.mp4")


@pytest.mark.parametrize("column", ["group", "person", "place", "source_video"])
def test_a_column_may_say_what_samples_share(folder: Path, column: str) -> None:
    manifest = read(folder, f"path,label,{column}\na.mp4,x, anna\nb.mp4,x,\n")
    assert [sample.group for sample in manifest.samples] == ["anna", None]


@pytest.mark.parametrize("header", ["path,label,group,person", "path,label,person,group"])
def test_a_column_called_group_is_preferred_to_others(folder: Path, header: str) -> None:
    manifest = read(folder, f"{header}\na.mp4,x,1,2\n")
    assert manifest.samples[0].group == ("1" if header.endswith("person") else "2")


def test_several_labels_in_a_cell_are_announced(folder: Path) -> None:
    (note,) = read(folder, "path,label\na.mp4,sit; stand\nb.mp4,sit\n").notes
    assert "list.csv: multi-label: 1 of 2 videos have several labels" in note


FAULTS = {
    "no label column": ("path,split\na.mp4,train\n", "header: a column 'label' is required, got path, split"),
    "no path column": ("label\nwalk\n", "header: a column 'path' is required, got label"),
    "a column twice": ("path,label,file\na.mp4,x,b.mp4\n", "'path' and 'file' are both columns for the path"),
    "an unknown column": ("path,label,strat\na.mp4,x,1\n", "unknown column 'strat'.*did you mean 'start'"),
    "too few cells": ("path,label\na.mp4\n", "line 2: the row must have 2 cells as the header, got 1"),
    "too many cells": (
        "path,label\na.mp4,x\nc d, e.mp4,x\n",
        "line 3: the row must have 2 cells as the header, got 3; quote",
    ),
    "no label": ("path,label\na.mp4,x\n\nb.mp4,\n", "line 4, column 'label': the label must not be empty"),
    "an empty label of several": (
        "path,label\na.mp4,x||y\n",
        r"line 2, column 'label': labels must not be empty, got 'x\|\|y'",
    ),
    "no path": ("path,label\n,x\n", "line 2, column 'path': the path must be the path of a video, got ''"),
    "an end before the start": (
        "path,label,start,end\na.mp4,x,3,3\n",
        "line 2, column 'end': the end must be > the start \\(3.0 s\\), got 3.0 s",
    ),
    "an end at nothing": (
        "path,label,end\na.mp4,x,0\n",
        "line 2, column 'end': the end must be > the start \\(0.0 s\\), got 0.0 s",
    ),
    "a negative start": (
        "path,label,start\na.mp4,x,-1\n",
        "line 2, column 'start': the time must be seconds, mm:ss or hh:mm:ss, got '-1'",
    ),
    "a start in words": ("path,label,start\na.mp4,x,soon\n", "line 2, column 'start': .* got 'soon'"),
    "more than 59 seconds": ("path,label,start\na.mp4,x,1:60\n", "line 2, column 'start': .* got '1:60'"),
    "a start in frames": (
        "path,label,start_frame\na.mp4,x,30\n",
        "'start_frame' is not supported: .* seconds or mm:ss.*remove it",
    ),
    "half a part in frames": ("path,label,start,end_frame\na.mp4,x,1,30\n", "'end_frame' is not supported"),
    "two columns of groups": (
        "path,label,person,place\na.mp4,x,1,2\n",
        "are both columns for the group: .*'group'",
    ),
    "an endless part": ("path,label,end\na.mp4,x,inf\n", "line 2, column 'end': .* got 'inf'"),
    "an unknown split": (
        "path,label,split\na.mp4,x,dev\n",
        "line 2, column 'split': the split must be train, val or test, got 'dev'",
    ),
    "a quote that stays open": (
        'path,label\n"a.mp4,x\nb.mp4,y\n',
        "line 2: the file is not valid CSV.*quotes closed",
    ),
    "a negative number": (
        "path,label\na.mp4,0\nb.mp4,-1\n",
        "line 3: the label must be a number from 0 to 0, got '-1'",
    ),
    "an identifier": (
        "path,label\na.mp4,20240131\n",
        "line 2: the label must be a number from 0 to 99999, got '20240131'",
    ),
    "only a header": ("path,label\n", "the list must have at least one video, got none"),
    "no label anywhere": ("path,labels\na.mp4,\n", "at least one video must have a label, got none"),
    "a class of two lines": ('path,label\na.mp4,"x\ny"\n', "class name 'x.ny'"),
    "an escape sequence in a class": ("path,label\na.mp4,\033[2Jx\n", "class name '.x1b.2Jx'"),
    "a hidden direction in a class": ("path,label\na.mp4,x\u202ey\n", "class name 'x.u202ey'"),
    "bytes that are not UTF-8": (
        b"path,label\na.mp4,x\nb.mp4,caf\xe9\n",
        "line 3, byte 10: 0xe9 is not UTF-8",
    ),
    "UTF-16": ("path,label\na.mp4,x\n".encode("utf-16"), "the text must be UTF-8, got UTF-16"),
    "zero bytes": (b"path,label\na.mp4,x\0\n", "the file must be a list of videos as text, got binary data"),
    "nothing": ("\n \n", "the list must have at least one video, got an empty file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_table_is_refused_with_the_place(folder: Path, fault: str) -> None:
    text, message = FAULTS[fault]
    with pytest.raises(ValueError, match=f"(?s)list.csv.*{message}"):
        read(folder, text)


def test_a_label_outside_the_known_classes_is_refused_with_the_nearest(folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"list.csv, line 2: the label must be one of 2 classes, got 'walks': did you mean 'walk'\?",
    ):
        read(folder, "path,label\na.mp4,walks\n", classes=("run", "walk"))
    with pytest.raises(ValueError, match="line 3: the label must be a number from 0 to 1, got '2'"):
        read(folder, "path,label\na.mp4,0\nb.mp4,2\n", classes=("run", "walk"))


def write_parquet(folder: Path, **columns: object) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "list.parquet")
    return folder / "list.parquet"


def test_parquet_is_read_like_csv(folder: Path) -> None:
    path = write_parquet(
        folder,
        path=["a.mp4", "b.mp4"],
        label=pyarrow.array(["walk", "run"]).dictionary_encode(),
        start=[1.0, None],
        split=["train", "validation"],
        group=[3, None],
    )
    manifest = read_manifest(path)
    assert names_of(manifest) == [["walk"], ["run"]]
    assert [sample.start_seconds for sample in manifest.samples] == [1.0, None]
    assert manifest.splits == ("train", "val")
    assert [sample.group for sample in manifest.samples] == ["3", None]


def test_parquet_labels_may_be_numbers_and_lists(folder: Path) -> None:
    numbers = read_manifest(write_parquet(folder, path=["a.mp4", "b.mp4"], label=[1, 0]))
    assert (numbers.classes, numbers.multi_label) == (("0", "1"), False)
    lists = read_manifest(write_parquet(folder, path=["a.mp4", "b.mp4"], labels=[["x", "y; z"], []]))
    assert (names_of(lists), lists.multi_label) == ([["x", "y; z"], []], True)


def test_a_faulty_parquet_is_refused_with_the_row(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"list.parquet, row 2, column 'label': the label must not be empty"):
        read_manifest(write_parquet(folder, path=["a.mp4", "b.mp4"], label=["x", None]))
    with pytest.raises(
        ValueError, match=r"list.parquet, row 1, column 'path': the path must be the path of a video, got 3"
    ):
        read_manifest(write_parquet(folder, path=[3], label=["x"]))
    (folder / "list.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"list.parquet: the Parquet file cannot be read"):
        read_manifest(folder / "list.parquet")


def test_parquet_without_pyarrow_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(folder, path=["a.mp4"], label=["x"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'videoswin\[scale\]'"):
        read_manifest(path)
