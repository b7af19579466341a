"""JSON of data sets and annotation tools, in the forms that they are distributed in or exported to."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoswin._errors import InputError
from videoswin.data.manifest import Manifest, Sample, read_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "data/c.mp4", "0123abcd-d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, content: Any, name: str = "list.json") -> Manifest:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text)
    return read_manifest(folder / name)


def found(manifest: Manifest, folder: Path) -> list[tuple[str, list[str]]]:
    return [
        (
            Path(sample.path).relative_to(folder).as_posix(),
            [manifest.classes[label] for label in sample.labels],
        )
        for sample in manifest.samples
    ]


# Objects with the keys of a table


def test_json_lines_with_a_file_name_and_a_label_are_a_table(folder: Path) -> None:
    text = '{"file_name": "a.mp4", "label": "walk", "fps": 30}\n{"file_name": "b.mp4", "label": "run"}\n'
    manifest = read(folder, text, "metadata.jsonl")
    assert found(manifest, folder) == [("a.mp4", ["walk"]), ("b.mp4", ["run"])]
    assert manifest.notes == (f"{folder}/metadata.jsonl: columns that are not used: fps",)
    assert found(read(folder, text.split("\n")[0], "metadata.jsonl"), folder) == [("a.mp4", ["walk"])]


def test_a_list_of_objects_may_say_all_that_a_table_says(folder: Path) -> None:
    entries = [
        {"path": "a.mp4", "label": "walk", "start": 1, "end": "0:02.5", "split": "validation", "group": 7},
        {"path": "b.mp4", "label": "run", "start": None},
    ]
    assert read(folder, entries).samples == (
        Sample(
            path=str(folder / "a.mp4"),
            labels=(1,),
            start_seconds=1.0,
            end_seconds=2.5,
            split="val",
            group="7",
        ),
        Sample(path=str(folder / "b.mp4"), labels=(0,)),
    )


def test_lists_of_labels_make_it_multi_label(folder: Path) -> None:
    manifest = read(folder, [{"path": "a.mp4", "label": ["x", "y; z"]}, {"path": "b.mp4", "label": "x"}])
    assert manifest.multi_label
    assert found(manifest, folder) == [("a.mp4", ["x", "y; z"]), ("b.mp4", ["x"])]


def test_a_faulty_line_of_json_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"metadata.jsonl, line 2, column 15"):
        read(folder, '{"path": "a.mp4", "label": "x"}\n{"path": "b", }\n', "metadata.jsonl")
    with pytest.raises(ValueError, match=r"entry 2, column 'label': the label must not be empty"):
        read(folder, [{"path": "a.mp4", "label": "x"}, {"path": "b.mp4"}])
    with pytest.raises(ValueError, match=r"entry 2: an object is required, got 7"):
        read(folder, [{"path": "a.mp4", "label": "x"}, 7])
    with pytest.raises(ValueError, match=r"'path' and a 'label' are required, got clip_id, words"):
        read(folder, [{"clip_id": 3, "words": "x"}])


def test_diving48_is_found_by_name_with_the_dives_as_classes(folder: Path) -> None:
    (folder / "Diving48_vocab.json").write_text('[["Back", "15som", "05Twis", "FREE"], ["Inward", "PIKE"]]')
    entries = [
        {"vid_name": "c", "label": 1, "start_frame": 0, "end_frame": 69},
        {"vid_name": "a", "label": 0, "start_frame": 0, "end_frame": 82},
    ]
    manifest = read(folder, entries, "Diving48_V2_train.json")
    assert manifest.classes == ("Back 15som 05Twis FREE", "Inward PIKE")
    assert found(manifest, folder) == [("data/c.mp4", ["Inward PIKE"]), ("a.mp4", ["Back 15som 05Twis FREE"])]
    assert manifest.samples[0].end_seconds is None


# ActivityNet


def test_the_parts_of_activitynet_are_samples_of_its_videos(folder: Path) -> None:
    (folder / "v_xyz.mkv").touch()
    parts = [{"segment": [0.5, 9.25], "label": "Hopscotch"}, {"segment": [12, 20], "label": "Ironing"}]
    database = {
        "xyz": {"duration": 30.0, "subset": "training", "annotations": parts},
        "a": {
            "duration": 30.0,
            "subset": "validation",
            "annotations": [{"segment": [5, 5], "label": "Ironing"}],
        },
        "b": {"subset": "testing", "annotations": []},
    }
    manifest = read(folder, {"version": "1.3", "taxonomy": [], "database": database})
    video = str(folder / "v_xyz.mkv")
    assert manifest.samples == (
        Sample(path=video, labels=(0,), start_seconds=0.5, end_seconds=9.25, split="train", group="xyz"),
        Sample(path=video, labels=(1,), start_seconds=12.0, end_seconds=20.0, split="train", group="xyz"),
    )
    assert [note.rpartition(": ")[2] for note in manifest.notes] == [
        "1 video without a label skipped",
        "1 part skipped, because the end is not after the start",
    ]


# Label Studio


def task(video: str, *results: dict[str, Any], number: int = 1, **data: str) -> dict[str, Any]:
    annotation = {"id": 9, "was_cancelled": False, "result": list(results)}
    return {"id": number, "data": {"video": video, **data}, "annotations": [annotation]}


def choice(*labels: str, name: str = "action") -> dict[str, Any]:
    return {"from_name": name, "to_name": "video", "type": "choices", "value": {"choices": list(labels)}}


def test_choices_of_label_studio_are_the_labels_of_videos(folder: Path) -> None:
    tasks = [
        task("/data/local-files/?d=data/c.mp4", choice("walk"), group="kitchen"),
        task("/data/upload/3/0123abcd-d.mp4", choice("run")),
        task("/data/upload/3/4567cdef-b.mp4", choice("run")),
        task("s3://bucket/some/a.mp4", choice("run")),
        task("x.mp4") | {"annotations": []},
    ]
    manifest = read(folder, tasks)
    assert found(manifest, folder) == [
        ("data/c.mp4", ["walk"]),
        ("0123abcd-d.mp4", ["run"]),
        ("b.mp4", ["run"]),
        ("a.mp4", ["run"]),
    ]
    assert [sample.group for sample in manifest.samples] == ["kitchen", None, None, None]
    assert manifest.notes[0].endswith("1 task without a label skipped")
    assert not manifest.multi_label


def test_parts_of_label_studio_in_seconds_are_samples_and_those_in_frames_are_refused(folder: Path) -> None:
    region = {"type": "labels", "value": {"start": 1.5, "end": 3, "labels": ["walk"]}}
    (sample,) = read(folder, [task("a.mp4", region)]).samples
    assert (sample.start_seconds, sample.end_seconds) == (1.5, 3.0)
    timeline = {
        "type": "timelinelabels",
        "value": {"ranges": [{"start": 3, "end": 5}], "timelinelabels": ["x"]},
    }
    with pytest.raises(
        ValueError,
        match=r"task 7: parts of videos must be in seconds, got frame numbers.*path,label,start,end",
    ):
        read(folder, [task("a.mp4", timeline, number=7)])


def test_annotations_of_label_studio_that_leave_the_label_open_are_refused(folder: Path) -> None:
    two = task("a.mp4", choice("walk"))
    two["annotations"].append({"result": [choice("run")]})
    with pytest.raises(ValueError, match="task 1: its 2 annotations have different labels"):
        read(folder, [two])
    two["annotations"][1]["was_cancelled"] = True
    assert found(read(folder, [two]), folder) == [("a.mp4", ["walk"])]
    with pytest.raises(
        ValueError, match=r"task 1: the task must answer one question, got several \(action, quality\)"
    ):
        read(folder, [task("a.mp4", choice("walk"), choice("good", name="quality"))])
    with pytest.raises(ValueError, match="task 1: the data of the task must have the path of a video, got"):
        read(folder, [task("a.png", choice("walk"))])


def test_the_short_export_of_label_studio_is_a_table(folder: Path) -> None:
    entries = [
        {"video": "a.mp4", "id": 1, "choice": "walk", "annotator": 1, "annotation_id": 1, "lead_time": 3.1},
        {"video": "b.mp4", "id": 2, "choice": {"choices": ["walk", "run"]}, "annotator": 1},
    ]
    assert found(read(folder, entries), folder) == [("a.mp4", ["walk"]), ("b.mp4", ["walk", "run"])]


# FiftyOne


def test_a_classification_export_of_fiftyone_is_read(folder: Path) -> None:
    manifest = read(
        folder, {"classes": ["walk", "run"], "labels": {"c": 1, "a.mp4": 0, "b": None}}, "labels.json"
    )
    assert manifest.classes == ("walk", "run")
    assert found(manifest, folder) == [("data/c.mp4", ["run"]), ("a.mp4", ["walk"])]
    assert manifest.notes[0].endswith("1 video without a label skipped")
    manifest = read(folder, {"labels": {"a": ["walk", "run"], "b": "run"}}, "labels.json")
    assert (found(manifest, folder)[0], manifest.multi_label) == (("a.mp4", ["walk", "run"]), True)


def test_temporal_detections_of_fiftyone_need_timestamps(folder: Path) -> None:
    labels = {
        "a": [{"label": 1, "timestamps": [0.5, 2], "confidence": 0.9}, {"label": 0, "timestamps": [3, 4]}]
    }
    manifest = read(folder, {"classes": ["x", "y"], "labels": labels}, "labels.json")
    assert [(s.labels, s.start_seconds, s.end_seconds) for s in manifest.samples] == [
        ((1,), 0.5, 2.0),
        ((0,), 3.0, 4.0),
    ]
    with pytest.raises(ValueError, match=r"video a: .* got frame numbers.*use_timestamps=True"):
        read(folder, {"classes": ["x"], "labels": {"a": [{"label": 0, "support": [1, 4]}]}}, "labels.json")
    with pytest.raises(ValueError, match=r"video a: the labels must be of videos, got objects in images"):
        read(folder, {"labels": {"a": [{"label": "x", "bounding_box": [0, 0, 1, 1]}]}}, "labels.json")
    with pytest.raises(ValueError, match=r"video a: the label must be from 0 to 0, got 1"):
        read(folder, {"classes": ["x"], "labels": {"a": 1}}, "labels.json")


def test_the_samples_of_a_whole_fiftyone_data_set_are_read(folder: Path) -> None:
    label = {"_cls": "Classification", "label": "walk"}
    samples = [
        {"filepath": "data/c.mp4", "tags": ["validation", "night"], "ground_truth": label, "group": "garden"},
        {"filepath": "a.mp4", "tags": [], "ground_truth": None},
    ]
    manifest = read(folder, {"samples": samples}, "samples.json")
    assert manifest.samples == (
        Sample(path=str(folder / "data/c.mp4"), labels=(0,), split="val", group="garden"),
    )
    samples[1]["guess"] = label
    with pytest.raises(
        ValueError, match="the samples must have one label field, got ground_truth, guess: export one"
    ):
        read(folder, {"samples": samples}, "samples.json")


# None of these


NAMES = st.sampled_from(["a.mp4", "b", "walk", "choices", "2", "", "TemporalDetections", "Classification"])
TABLE_KEYS = ["path", "label", "labels", "start", "end", "split", "group", "vid_name", "video", "id"]
TOOL_KEYS = ["data", "annotations", "result", "type", "value", "choices", "ranges", "from_name", "database"]
MORE_KEYS = ["segment", "subset", "classes", "timestamps", "support", "samples", "filepath", "tags", "_cls"]
KEYS = st.sampled_from([*TABLE_KEYS, *TOOL_KEYS, *MORE_KEYS, "classifications"])
CONTENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("json")
    (folder / "a.mp4").touch()
    return folder


@settings(max_examples=40)
@given(
    content=CONTENTS
    | st.fixed_dictionaries({"database": st.dictionaries(NAMES, CONTENTS)})
    | st.fixed_dictionaries({"labels": st.dictionaries(NAMES, CONTENTS), "classes": CONTENTS})
    | st.fixed_dictionaries({"samples": st.lists(CONTENTS)})
    | st.lists(st.fixed_dictionaries({"data": CONTENTS, "annotations": st.lists(CONTENTS)}), min_size=1)
)
def test_any_json_is_read_or_refused_on_purpose(content: Any, shared_folder: Path) -> None:
    with suppress(InputError):
        assert read(shared_folder, content).samples
