"""CSV, TSV and Parquet with a header: what is read, and where a fault is said to be."""

from __future__ import annotations

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


FAULTS = {
    "no label column": ("path,split\na.mp4,train\n", "header: found path, split, wanted a column 'label'"),
    "no path column": ("label\nwalk\n", "header: found label, wanted a column 'path'"),
    "a column twice": ("path,label,file\na.mp4,x,b.mp4\n", "'path' and 'file' both say the path"),
    "an unknown column": ("path,label,strat\na.mp4,x,1\n", "found the column 'strat'.*did you mean 'start'"),
    "a foreign column": ("path,label,qqq\na.mp4,x,1\n", "found the column 'qqq'.*take it out"),
    "too few cells": ("path,label\na.mp4\n", "line 2: found 1 cells, wanted 2"),
    "too many cells": ("path,label\na.mp4,x\nc d, e.mp4,x\n", "line 3: found 3 cells, wanted 2.*quotes"),
    "no label": ("path,label\na.mp4,x\n\nb.mp4,\n", "line 4, column 'label': it is empty"),
    "an empty label of several": ("path,label\na.mp4,x||y\n", r"line 2, column 'label': found 'x\|\|y'"),
    "no path": ("path,label\n,x\n", "line 2, column 'path': found ''"),
    "an end before the start": (
        "path,label,start,end\na.mp4,x,3,3\n",
        "line 2, column 'end': found 3.0 s, wanted more than the start, 3.0 s",
    ),
    "an end at nothing": ("path,label,end\na.mp4,x,0\n", "line 2, column 'end': found 0.0 s"),
    "a negative start": (
        "path,label,start\na.mp4,x,-1\n",
        "line 2, column 'start': found '-1', wanted seconds",
    ),
    "a start in words": ("path,label,start\na.mp4,x,0:30\n", "line 2, column 'start': found '0:30'"),
    "an endless part": ("path,label,end\na.mp4,x,inf\n", "line 2, column 'end': found 'inf'"),
    "an unknown split": (
        "path,label,split\na.mp4,x,dev\n",
        "line 2, column 'split': found 'dev', wanted train",
    ),
    "a quote that stays open": ('path,label\n"a.mp4,x\nb.mp4,y\n', "line 2: it is no CSV.*quotes closed"),
    "a negative number": ("path,label\na.mp4,0\nb.mp4,-1\n", "line 3: found the label '-1', wanted a number"),
    "an identifier": ("path,label\na.mp4,20240131\n", "line 2: found the label '20240131'.*0 to 99999"),
    "only a header": ("path,label\n", "no video in it"),
    "no label anywhere": ("path,labels\na.mp4,\n", "no video has a label"),
    "a class of two lines": ('path,label\na.mp4,"x\ny"\n', "class name 'x.ny'"),
    "bytes that are not UTF-8": (
        b"path,label\na.mp4,x\nb.mp4,caf\xe9\n",
        "line 3, byte 10: 0xe9 is not UTF-8",
    ),
    "UTF-16": ("path,label\na.mp4,x\n".encode("utf-16"), "the text is UTF-16, wanted UTF-8"),
    "zero bytes": (b"path,label\na.mp4,x\0\n", "it holds zero bytes"),
    "nothing": ("\n \n", "the list is empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_table_is_refused_with_the_place(folder: Path, fault: str) -> None:
    text, message = FAULTS[fault]
    with pytest.raises(ValueError, match=f"(?s)list.csv.*{message}"):
        read(folder, text)


def test_a_label_outside_the_known_classes_is_refused_with_the_nearest(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"list.csv, line 2: found the label 'walks'.*did you mean 'walk'\?"):
        read(folder, "path,label\na.mp4,walks\n", classes=("run", "walk"))
    with pytest.raises(ValueError, match="line 3: found the label '2', wanted a number from 0 to 1"):
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
    )
    manifest = read_manifest(path)
    assert names_of(manifest) == [["walk"], ["run"]]
    assert [sample.start_seconds for sample in manifest.samples] == [1.0, None]
    assert manifest.splits == ("train", "val")


def test_parquet_labels_may_be_numbers_and_lists(folder: Path) -> None:
    numbers = read_manifest(write_parquet(folder, path=["a.mp4", "b.mp4"], label=[1, 0]))
    assert (numbers.classes, numbers.multi_label) == (("0", "1"), False)
    lists = read_manifest(write_parquet(folder, path=["a.mp4", "b.mp4"], labels=[["x", "y; z"], []]))
    assert (names_of(lists), lists.multi_label) == ([["x", "y; z"], []], True)


def test_a_faulty_parquet_is_refused_with_the_row(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"list.parquet, row 2, column 'label': it is empty"):
        read_manifest(write_parquet(folder, path=["a.mp4", "b.mp4"], label=["x", None]))
    with pytest.raises(ValueError, match=r"list.parquet, row 1, column 'path': found 3"):
        read_manifest(write_parquet(folder, path=[3], label=["x"]))
    (folder / "list.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"list.parquet: the Parquet file cannot be read"):
        read_manifest(folder / "list.parquet")


def test_parquet_without_pyarrow_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(folder, path=["a.mp4"], label=["x"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'videoswin\[scale\]'"):
        read_manifest(path)
