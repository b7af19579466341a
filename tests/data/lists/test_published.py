"""Lists of published data sets and of MMAction2, as they are distributed, and folders of classes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from videoswin.data.lists.rows import find_by_name
from videoswin.data.manifest import Manifest, read_manifest


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def rows(manifest: Manifest, root: Path) -> list[tuple[str, str, str | None]]:
    """(path below root, label names, split) of every sample."""
    return [
        (
            os.path.relpath(sample.path, root),
            "+".join(manifest.classes[label] for label in sample.labels),
            sample.split,
        )
        for sample in manifest.samples
    ]


# Kinetics


KINETICS = (
    "label,youtube_id,time_start,time_end,split,is_cc\n"
    "abseiling,-3B32lodo2M,59,69,validate,0\n"
    '"air drumming",_dbcJuKJQNs,4.0,14.0,validate,0\n'
)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("-3B32lodo2M_000059_000069.mp4", "_dbcJuKJQNs_000004_000014.mp4"),
        ("val/-3B32lodo2M_000059_000069.mp4", "val/_dbcJuKJQNs_000004_000014.mkv"),
        ("abseiling/-3B32lodo2M_000059_000069.mp4", "air drumming/_dbcJuKJQNs_000004_000014.mp4"),
        ("v/abseiling/-3B32lodo2M_000059_000069.mp4", "v/air_drumming/_dbcJuKJQNs_000004_000014.webm"),
    ],
)
def test_kinetics_files_are_found_in_whatever_folders(tmp_path: Path, first: str, second: str) -> None:
    touch(tmp_path, first, second)
    manifest = read_manifest(write(tmp_path / "val.csv", KINETICS))
    assert rows(manifest, tmp_path) == [(first, "abseiling", "val"), (second, "air drumming", "val")]
    # The file is the part already.
    assert {(s.start_seconds, s.end_seconds) for s in manifest.samples} == {(None, None)}
    assert [s.group for s in manifest.samples] == ["-3B32lodo2M", "_dbcJuKJQNs"]
    assert manifest.notes == ()


def test_kinetics_as_folders_of_frames_is_found_too(tmp_path: Path) -> None:
    touch(tmp_path, "abseiling/-3B32lodo2M_000059_000069/0.jpg")
    manifest = read_manifest(write(tmp_path / "val.csv", KINETICS))
    assert rows(manifest, tmp_path)[0][0] == "abseiling/-3B32lodo2M_000059_000069"


@pytest.mark.parametrize("folder", ["air_drumming", "air drumming"])
def test_of_two_files_of_one_name_that_of_the_class_is_taken(tmp_path: Path, folder: str) -> None:
    name = "_dbcJuKJQNs_000004_000014.mp4"
    touch(tmp_path, f"a/{name}", f"{folder}/{name}")
    assert rows(read_manifest(write(tmp_path / "val.csv", KINETICS)), tmp_path)[1][0] == f"{folder}/{name}"


def test_a_kinetics_file_that_was_never_downloaded_is_kept(tmp_path: Path) -> None:
    touch(tmp_path, "x/-3B32lodo2M_000059_000069.mp4")
    manifest = read_manifest(write(tmp_path / "val.csv", KINETICS))
    assert rows(manifest, tmp_path)[1][0] == "_dbcJuKJQNs_000004_000014.mp4"


def test_videos_are_found_behind_links_even_if_these_lead_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "disk/-3B32lodo2M_000059_000069.mp4")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "round").symlink_to(tmp_path / "lists")
    manifest = read_manifest(write(tmp_path / "lists" / "val.csv", KINETICS))
    assert rows(manifest, tmp_path / "lists")[0][0] == "train/-3B32lodo2M_000059_000069.mp4"


def test_a_folder_that_links_lead_back_to_is_entered_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    assert find_by_name(str(tmp_path), {"x"}) == {"x": [str(tmp_path / "a" / "x.mp4")]}


def test_the_working_directory_is_a_root_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "val/-3B32lodo2M_000059_000069.mp4", "_dbcJuKJQNs_000004_000014.mp4")
    write(tmp_path / "val.csv", KINETICS)
    monkeypatch.chdir(tmp_path)
    paths = [sample.path for sample in read_manifest("val.csv").samples]
    assert paths == ["val/-3B32lodo2M_000059_000069.mp4", "_dbcJuKJQNs_000004_000014.mp4"]


def test_a_kinetics_list_without_labels_or_times_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "test.csv", "youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n")
    with pytest.raises(ValueError, match=r"test.csv, header: .* column 'label'.*test lists have no labels"):
        read_manifest(path)
    path = write(tmp_path / "val.csv", "label,youtube_id,time_start,time_end\nx,--6bJUbfpnQ,,27\n")
    with pytest.raises(ValueError, match=r"val.csv, line 2: start must be in seconds, got an empty cell"):
        read_manifest(path)


# Something-Something


ENTRIES = [
    {"id": "78687", "label": "holding potato", "template": "Holding [something]", "placeholders": ["potato"]},
    {
        "id": "42326",
        "label": "putting tape next to cup",
        "template": "Putting [something] next to [something]",
        "placeholders": ["tape", "cup"],
    },
]


def test_the_label_of_something_is_its_template_without_brackets(tmp_path: Path) -> None:
    touch(tmp_path, "20bn-something-something-v2/78687.webm", "20bn-something-something-v2/42326.mp4")
    manifest = read_manifest(write(tmp_path / "labels" / "train.json", json.dumps(ENTRIES)), root=tmp_path)
    assert rows(manifest, tmp_path) == [
        ("20bn-something-something-v2/78687.webm", "Holding something", None),
        ("20bn-something-something-v2/42326.mp4", "Putting something next to something", None),
    ]


@pytest.mark.parametrize("name", ["labels.json", "something-something-v2-labels.json"])
def test_the_classes_of_something_have_the_order_of_their_file(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "78687.webm")
    write(
        tmp_path / name,
        '{"Putting something next to something": "0", "Holding something": "2", "Closing something": "1"}',
    )
    manifest = read_manifest(write(tmp_path / "train.json", json.dumps(ENTRIES)))
    assert manifest.classes == (
        "Putting something next to something",
        "Closing something",
        "Holding something",
    )
    assert [sample.labels for sample in manifest.samples] == [(2,), (0,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[{"id": "1", "template": "Holding"},\n {"id": 2}\n]',
            "entry 2: the entry must have a text 'id', got",
        ),
        ('[{"id": "1"}]', "entry 1: the entry must have a text 'template', got .*test list"),
        ('[{"id": "1", "template": "x"}\n {]', "line 2, column 2: Expecting"),
        ('{"Holding something": "0"}', "the JSON must be a known list, got an object with the keys"),
        ("[]", "the list must have at least one video, got none"),
    ],
)
def test_a_faulty_json_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)train.json.*{message}"):
        read_manifest(write(tmp_path / "train.json", text))


def test_a_faulty_or_foreign_labels_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train.json", json.dumps(ENTRIES))
    write(tmp_path / "labels.json", '{"Holding something": "1"}')
    with pytest.raises(
        ValueError, match=r"labels.json: the file must be an object of class names with the numbers 0"
    ):
        read_manifest(path)
    write(tmp_path / "labels.json", '{"Holding something": "0"}')
    with pytest.raises(
        ValueError,
        match=r"train.json, entry 2: the label must be one of . class(es)?, got 'Putting something next",
    ):
        read_manifest(path)


# MMAction2


@pytest.mark.parametrize("space", [" ", "  ", "\t", ",", ", "])
def test_a_list_of_videos_has_a_number_behind_each_path(tmp_path: Path, space: str) -> None:
    touch(tmp_path, "some/path/000.mp4", "some/a b 2.avi")
    text = f"some/path/000.mp4{space}1\nsome/a b 2.avi{space}0\r\n"
    manifest = read_manifest(write(tmp_path / "list.txt", text))
    assert rows(manifest, tmp_path) == [("some/path/000.mp4", "1", None), ("some/a b 2.avi", "0", None)]
    assert manifest.classes == ("0", "1")
    assert not manifest.multi_label


def test_a_path_in_quotes_is_read_without_them(tmp_path: Path) -> None:
    touch(tmp_path, "c, d.mp4")
    manifest = read_manifest(write(tmp_path / "list.csv", '"c, d.mp4",0\n'))
    assert rows(manifest, tmp_path) == [("c, d.mp4", "0", None)]


def test_numbers_of_a_list_are_names_if_these_are_known(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    path = write(tmp_path / "list.txt", "a.mp4 1\n")
    assert read_manifest(path, classes=("walk", "run")).classes == ("walk", "run")
    assert rows(read_manifest(path, classes=("walk", "run")), tmp_path) == [("a.mp4", "run", None)]


def test_several_numbers_behind_a_video_are_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    manifest = read_manifest(write(tmp_path / "list.txt", "a.mp4 2 0\nb.mp4 1\n"))
    assert manifest.multi_label
    assert [sample.labels for sample in manifest.samples] == [(2, 0), (1,)]


def test_the_first_number_behind_a_folder_counts_its_frames(tmp_path: Path) -> None:
    touch(tmp_path, "some/dir-1/img_00001.jpg")
    manifest = read_manifest(write(tmp_path / "list.txt", "some/dir-1 163 1\nsome/dir-2 122 0\n"))
    assert rows(manifest, tmp_path) == [("some/dir-1", "1", None), ("some/dir-2", "0", None)]
    manifest = read_manifest(write(tmp_path / "list.txt", "some/dir-1 163 1 3\nsome/dir-2 122 0\n"))
    assert [sample.labels for sample in manifest.samples] == [(1, 3), (0,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4\n", "line 2: the line must be a path followed by integers, got 'b.mp4'"),
        ("a.mp4 0\n\nb.mp4 walk\n", "line 3: the line must be a path followed by integers, got 'b.mp4 walk'"),
        ("a.mp4 0\nb.mp4 -1\n", "line 2: the label must be a number from 0 to 0, got '-1'"),
        ("folder 0 1\n", "line 1: the number of frames must be >= 1, got 0"),
        ("a.mp4 1\n7\n", "line 2: the line must be a path followed by integers, got '7'"),
    ],
)
def test_a_faulty_list_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"list.txt, {message}"):
        read_manifest(write(tmp_path / "list.txt", text))


def test_a_long_line_of_nonsense_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the first line must be that of a known list format"):
        read_manifest(write(tmp_path / "list.txt", "1, 2, " * 100_000 + "x"))


# UCF101 and HMDB51


@pytest.fixture
def ucf101(tmp_path: Path) -> Path:
    touch(
        tmp_path,
        "UCF-101/Archery/v_Archery_g08_c01.avi",
        "UCF-101/Archery/v_Archery_g01_c01.avi",
        "UCF-101/Apply/v_Apply_g08_c01.avi",
    )
    lists = tmp_path / "ucfTrainTestlist"
    # The order of the data set, which need not be sorted.
    write(lists / "classInd.txt", "1 Archery\r\n2 Apply\r\n")
    write(lists / "trainlist01.txt", "Archery/v_Archery_g08_c01.avi 1\r\nApply/v_Apply_g08_c01.avi 2\r\n")
    write(lists / "testlist01.txt", "Archery/v_Archery_g01_c01.avi\r\n")
    write(lists / "trainlist02.txt", "Archery/v_Archery_g01_c01.avi 1\r\n")
    write(lists / "testlist02.txt", "Archery/v_Archery_g08_c01.avi\r\n")
    return lists


FOLD_1 = [
    ("UCF-101/Archery/v_Archery_g08_c01.avi", "Archery", "train"),
    ("UCF-101/Apply/v_Apply_g08_c01.avi", "Apply", "train"),
    ("UCF-101/Archery/v_Archery_g01_c01.avi", "Archery", "test"),
]


@pytest.mark.parametrize("name", ["", "trainlist01.txt", "testlist01.txt"])
def test_a_file_of_ucf101_stands_for_its_fold_and_the_folder_for_the_first(ucf101: Path, name: str) -> None:
    manifest = read_manifest(ucf101 / name, root=ucf101.parent)
    assert rows(manifest, ucf101.parent) == FOLD_1
    assert manifest.classes == ("Archery", "Apply")
    assert "list01.txt" in manifest.source
    assert [sample.group for sample in manifest.samples] == ["v_Archery_g08", "v_Apply_g08", "v_Archery_g01"]


def test_another_fold_of_ucf101_is_asked_for_by_its_file(ucf101: Path) -> None:
    manifest = read_manifest(ucf101 / "trainlist02.txt", root=ucf101.parent / "UCF-101")
    assert rows(manifest, ucf101.parent) == [
        ("UCF-101/Archery/v_Archery_g01_c01.avi", "Archery", "train"),
        ("UCF-101/Archery/v_Archery_g08_c01.avi", "Archery", "test"),
    ]


def test_a_video_of_ucf101_that_is_missing_is_kept_where_the_list_has_it(ucf101: Path) -> None:
    write(ucf101 / "testlist01.txt", "Apply/v_Apply_g99_c01.avi\n")
    manifest = read_manifest(ucf101, root=ucf101.parent / "UCF-101")
    assert rows(manifest, ucf101.parent)[2][0] == "UCF-101/Apply/v_Apply_g99_c01.avi"


def test_faulty_lists_of_ucf101_are_refused_with_the_line(ucf101: Path) -> None:
    write(ucf101 / "trainlist01.txt", "Archery/v_Archery_g08_c01.avi 2\n")
    with pytest.raises(
        ValueError,
        match=r"trainlist01.txt, line 1: the number of class Archery must be 1 as in classInd.txt, got 2",
    ):
        read_manifest(ucf101, root=ucf101.parent)
    write(ucf101 / "trainlist01.txt", "Archer/v_Archery_g08_c01.avi 1\n")
    with pytest.raises(
        ValueError, match=r"trainlist01.txt, line 1: the folder must be a class of classInd.txt, got"
    ):
        read_manifest(ucf101, root=ucf101.parent)
    write(ucf101 / "classInd.txt", "1 Archery\n3 Apply\n")
    with pytest.raises(ValueError, match=r"classInd.txt, line 2: the line must be '2 Name', got '3 Apply"):
        read_manifest(ucf101, root=ucf101.parent)
    (ucf101 / "classInd.txt").unlink()
    with pytest.raises(ValueError, match=r"classInd.txt: there is no such file"):
        read_manifest(ucf101, root=ucf101.parent)


@pytest.fixture
def hmdb51(tmp_path: Path) -> Path:
    touch(tmp_path, "wave/a b(1).avi", "wave/c.avi", "brush_hair/c.avi")
    lists = tmp_path / "testTrainMulti_7030_splits"
    write(lists / "brush_hair_test_split1.txt", "c.avi 2 \n")
    write(lists / "wave_test_split1.txt", "a b(1).avi 1 \nunused.avi 0 \nc.avi 2 \n")
    write(lists / "brush_hair_test_split2.txt", "c.avi 1 \n")
    write(lists / "wave_test_split2.txt", "c.avi 0 \n")
    return lists


@pytest.mark.parametrize("name", ["", "wave_test_split1.txt"])
def test_a_file_of_hmdb51_stands_for_its_fold_and_the_folder_for_the_first(hmdb51: Path, name: str) -> None:
    manifest = read_manifest(hmdb51 / name, root=hmdb51.parent)
    assert rows(manifest, hmdb51.parent) == [
        ("brush_hair/c.avi", "brush_hair", "test"),
        ("wave/a b(1).avi", "wave", "train"),
        ("wave/c.avi", "wave", "test"),
    ]


def test_another_fold_of_hmdb51_is_asked_for_by_one_of_its_files(hmdb51: Path) -> None:
    manifest = read_manifest(hmdb51 / "wave_test_split2.txt", root=hmdb51.parent)
    assert rows(manifest, hmdb51.parent) == [("brush_hair/c.avi", "brush_hair", "train")]


def test_clips_of_one_film_are_a_group_of_hmdb51(hmdb51: Path) -> None:
    write(hmdb51 / "wave_test_split1.txt", "Some_Film_wave_u_cm_np1_fr_med_7.avi 1 \nc.avi 2 \n")
    manifest = read_manifest(hmdb51, root=hmdb51.parent)
    assert [sample.group for sample in manifest.samples] == [None, "Some_Film", None]


def test_a_faulty_list_of_hmdb51_is_refused_with_the_line(hmdb51: Path) -> None:
    write(hmdb51 / "wave_test_split1.txt", "c.avi 1\nd.avi 3\n")
    with pytest.raises(
        ValueError,
        match=r"wave_test_split1.txt, line 2: the line must be a file and 0, 1 or 2, got 'd.avi 3'",
    ):
        read_manifest(hmdb51, root=hmdb51.parent)


# Folders


def test_a_folder_per_class_is_read_to_any_depth(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "walk/b.mp4",
        "walk/deep/er/a.MOV",
        "run/c.webm",
        "run/notes.txt",
        "notes/x.txt",
        ".git/x.mp4",
    )
    manifest = read_manifest(tmp_path)
    assert rows(manifest, tmp_path) == [
        ("run/c.webm", "run", None),
        ("walk/b.mp4", "walk", None),
        ("walk/deep/er/a.MOV", "walk", None),
    ]
    assert manifest.classes == ("run", "walk")


def test_folders_of_splits_may_stand_above_the_classes(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "train/walk/a.mp4",
        "train/run/b.mp4",
        "Validation/walk/c.mp4",
        "test/run/d.mp4",
        "doc/x.txt",
    )
    (tmp_path / "Validation" / "run").mkdir()
    assert set(rows(read_manifest(tmp_path), tmp_path)) == {
        ("train/walk/a.mp4", "walk", "train"),
        ("train/run/b.mp4", "run", "train"),
        ("Validation/walk/c.mp4", "walk", "val"),
        ("test/run/d.mp4", "run", "test"),
    }


@pytest.mark.parametrize("names", [("train_set", "val_set"), ("train", "dev"), ("Training", "eval1")])
def test_folders_that_look_like_splits_are_no_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, *(f"{name}/{label}/a.mp4" for name in names for label in ("run", "walk")))
    with pytest.raises(
        ValueError, match=r"look like splits, because each has the folders run, walk: rename them"
    ) as caught:
        read_manifest(tmp_path)
    train, val = (tmp_path / name for name in names)
    assert str(caught.value).endswith(f"--data {train} --set data.val={val}")
    touch(tmp_path, *(f"Test_set/{label}/a.mp4" for label in ("run", "walk")))
    with pytest.raises(ValueError, match=f"--data {train} --set data.val={val}"):
        read_manifest(tmp_path)


def test_classes_with_names_like_splits_stay_classes(tmp_path: Path) -> None:
    touch(tmp_path, "test drive/street/a.mp4", "train ride/street/b.mp4")
    assert read_manifest(tmp_path).classes == ("test drive", "train ride")


def test_a_class_may_have_folders_of_frames(tmp_path: Path) -> None:
    touch(tmp_path, "walk/take1/0.jpg", "walk/take1/1.jpg", "walk/take2/0.png", "run/a.mp4", "run/thumb.jpg")
    assert rows(read_manifest(tmp_path), tmp_path) == [
        ("run/a.mp4", "run", None),
        ("walk/take1", "walk", None),
        ("walk/take2", "walk", None),
    ]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "bus/a.mp4", "train/b.mp4")
    assert read_manifest(tmp_path).classes == ("bus", "train")


def test_names_that_are_numbers_stay_names_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "7/a.mp4", "12/b.mp4")
    assert read_manifest(tmp_path).classes == ("12", "7")


def test_classes_that_are_known_keep_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4", "run/b.mp4")
    manifest = read_manifest(tmp_path, classes=("walk", "sit", "run"))
    assert manifest.classes == ("walk", "sit", "run")
    assert [sample.labels for sample in manifest.samples] == [(2,), (0,)]
    with pytest.raises(ValueError, match=r"walk.a.mp4: the label must be one of 1 class, got 'walk'"):
        read_manifest(tmp_path, classes=("run",))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["walk/a.mp4", "loose.mp4"], r"loose.mp4: the video is not in a class folder \(1 in"),
        (["train/walk/a.mp4", "val/loose.mp4"], r"val.loose.mp4: the video is not in a class folder"),
        (["train/walk/a.mp4", "raw/b.mp4"], "'train' looks like a split, but 'raw' beside it does not"),
        (
            ["walk/a.txt", "list.csv"],
            "must have one folder with videos for each class, got none.*perhaps .*list.csv",
        ),
        (["walk/a.mp4", "run/"], "run: the class folder is empty"),
        (["walk/a.mp4", "run/.DS_Store"], "run: the class folder is empty"),
        (["walk/a.mp4", "run/more/"], "run: the class folder is empty"),
        (["walk/a.mp4", "run/a.txt"], r"run: none of its files .*: 1 \.txt; add videos, or move"),
    ],
)
def test_a_folder_of_another_shape_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).mkdir(parents=True) if name.endswith("/") else touch(tmp_path, name)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path)


def test_class_folders_behind_links_are_read_even_if_links_lead_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "disk/a.mp4", "videos/run/b.mp4", "elsewhere/c.mp4")
    (tmp_path / "videos" / "walk").symlink_to(tmp_path / "disk")
    (tmp_path / "videos" / "run" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos" / "run" / "round").symlink_to(tmp_path / "videos")
    assert rows(read_manifest(tmp_path / "videos"), tmp_path / "videos") == [
        ("run/b.mp4", "run", None),
        ("run/more/c.mp4", "run", None),
        ("walk/a.mp4", "walk", None),
    ]


def test_recordings_of_cameras_are_videos(tmp_path: Path) -> None:
    names = [f"walk/a{suffix}" for suffix in (".3g2", ".MXF", ".asf", ".dav", ".h264", ".m2v")]
    touch(tmp_path, *names)
    assert [path for path, _, _ in rows(read_manifest(tmp_path), tmp_path)] == names


def test_files_that_are_no_videos_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4", "walk/a.xyz", "walk/b.xyz", "run/c.mp4", "run/notes.txt", "docs/list.pdf")
    (note,) = read_manifest(tmp_path).notes
    assert "no videos: 2 .xyz, 1 .pdf, 1 .txt, such as " in note
    assert note.endswith("list.pdf")


def test_a_class_of_which_no_file_is_a_video_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4", "run/b.xyz", "run/c.xyz")
    with pytest.raises(ValueError, match=r"run: none of its files has the suffix of a video: 2 \.xyz; add"):
        read_manifest(tmp_path)
    touch(tmp_path, "split/train/run/a.mp4", "split/train/walk/b.mp4", "split/val/run/c.xyz")
    assert "1 .xyz" in read_manifest(tmp_path / "split").notes[0]


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    touch(tmp_path, f"train/{composed}/a.mp4", f"val/{decomposed}/b.mp4")
    manifest = read_manifest(tmp_path)
    assert manifest.classes == (composed,)
    assert [sample.labels for sample in manifest.samples] == [(0,), (0,)]
    path = write(tmp_path / "list.csv", f"path,label\na.mp4,{composed}\nb.mp4,{decomposed}\n")
    touch(tmp_path, "a.mp4")
    assert read_manifest(path).classes == (composed,)


def test_a_class_folder_with_underscores_is_the_known_class_with_spaces(tmp_path: Path) -> None:
    touch(tmp_path, "pan_left/a.mp4", "Pan  Right/b.mp4")
    manifest = read_manifest(tmp_path, classes=("pan right", "pan left"))
    assert [sample.labels for sample in manifest.samples] == [(0,), (1,)]
    assert manifest.classes == ("pan right", "pan left")


def test_names_that_could_mean_two_known_classes_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "pan_left/a.mp4")
    with pytest.raises(ValueError, match="the label must be one of 2 classes, got 'pan_left'"):
        read_manifest(tmp_path, classes=("pan left", "Pan Left"))


def test_a_list_in_a_folder_of_classes_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4", "run/b.mp4", "metadata.jsonl")
    (note,) = read_manifest(tmp_path).notes
    assert note.endswith(f"labels are folder names; to use {tmp_path}/metadata.jsonl, pass that file")


def test_splits_with_a_list_each_are_refused_with_the_settings_for_these(tmp_path: Path) -> None:
    names = ("train", "validation", "test")
    touch(tmp_path, *(f"{name}/a.mp4" for name in names))
    for name in names:
        write(tmp_path / name / "metadata.csv", "file_name,label\na.mp4,walk\n")
    with pytest.raises(ValueError, match="the video is not in a class folder") as caught:
        read_manifest(tmp_path)
    train, val, test = (f"{tmp_path}/{name}/metadata.csv" for name in names)
    assert str(caught.value).endswith(
        f"pass the list files: to train, --data {train} --set data.val={val}; to evaluate, {test}"
    )
    assert read_manifest(train).classes == ("walk",)


def test_two_classes_that_differ_by_an_underscore_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "pan_left/a.mp4", "pan left/b.mp4", "run/c.mp4")
    (note,) = read_manifest(tmp_path).notes
    assert note.endswith("'pan left' and 'pan_left' are different classes: should they be one?")


def test_a_class_folder_with_a_control_character_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "wa\033[31mlk/a.mp4")
    with pytest.raises(ValueError, match=r"the class name 'wa.x1b.31mlk' .* control characters"):
        read_manifest(tmp_path)


def test_videos_beside_a_list_are_refused_naming_the_list(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "metadata.jsonl")
    with pytest.raises(
        ValueError, match=r"a.mp4: the video is not in a class folder .*perhaps .*metadata.jsonl"
    ):
        read_manifest(tmp_path)


# None of these


@pytest.mark.parametrize(
    "text", ["a.mp4 walk\n", "name,category\na.mp4,walk\n", "hello\n", "[not json] x\n", "\n\nhello\n"]
)
def test_a_list_that_nothing_recognizes_is_refused_naming_the_known_forms(tmp_path: Path, text: str) -> None:
    message = r"list.txt, line \d: the first line must be that of a known list format, got "
    with pytest.raises(ValueError, match=message) as refused:
        read_manifest(write(tmp_path / "list.txt", text))
    assert all(name in str(refused.value) for name in ("path,label", "MMAction2", "UCF101", "folder"))


def test_a_video_is_no_list(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(
        ValueError, match=r"a.mp4: the path must be a list or a folder of videos, got a video file"
    ):
        read_manifest(tmp_path / "a.mp4")


def test_a_path_and_a_root_that_are_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file or folder"):
        read_manifest(tmp_path / "list.csv")
    path = write(tmp_path / "list.csv", "path,label\na.mp4,x\n")
    with pytest.raises(ValueError, match=r"root must be a folder, got .*nowhere"):
        read_manifest(path, root=tmp_path / "nowhere")
