"""Every format is read back by a parser that is not ours, or by the reader of training lists."""

import csv
import io
import json
import re
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pysubs2
import pytest

from videoswin._errors import InputError
from videoswin.analysis.timeline import Segment, Timeline
from videoswin.analysis.writers import WRITERS, csv_text, parse_formats, save
from videoswin.data.manifest import read_manifest

LABELS = ("juggling <balls> & clubs", "a --> b", "waving hand", "none")


def segment(start: float, end: float, label: int, probability: float = 0.75) -> Segment:
    return Segment(
        start_seconds=start,
        end_seconds=end,
        start_frame=round(start * 25),
        end_frame=round(end * 25),
        label=LABELS[label],
        probability=probability,
        peak_seconds=(start + end) / 2,
    )


def timeline(*segments: Segment, **changes: object) -> Timeline:
    fields = Timeline(
        path="videos/a b.mp4",
        model="camera-motion",
        protocol="fast-1x1",
        labels=LABELS,
        duration_seconds=20.0,
        num_frames=500,
        fps=25.0,
        variable_rate=False,
        window_seconds=2.0,
        hop_seconds=1.0,
        threshold=0.3,
        min_seconds=1.0,
        segments=segments,
        starts=np.arange(19.0),
        ends=np.arange(19.0) + 2,
        probabilities=np.full((19, 4), 0.25, np.float32),
    )
    return replace(fields, **changes)


EXAMPLE = timeline(segment(1.2345678, 4.0, 0), segment(3.0, 6.5, 1), segment(6.5, 20.0, 2))


def text_of(name: str, example: Timeline = EXAMPLE) -> str:
    return next(iter(WRITERS[name](example).values()))


def test_the_cues_of_srt_do_not_overlap_and_have_truncated_times() -> None:
    cues = pysubs2.SSAFile.from_string(text_of("srt"), format_="srt")
    assert [(cue.start, cue.end) for cue in cues] == [
        (1234, 3000),
        (3000, 4000),
        (4000, 6500),
        (6500, 20000),
    ]
    assert cues[1].plaintext.splitlines() == ["juggling (balls) & clubs", "a --) b"]
    assert cues[3].plaintext == "waving hand"


def test_vtt_is_read_by_its_own_parser_with_escaped_labels() -> None:
    files = WRITERS["vtt"](EXAMPLE)
    cues = pysubs2.SSAFile.from_string(files[".vtt"], format_="vtt")
    assert [cue.start for cue in cues] == [1234, 3000, 4000, 6500]
    assert "juggling &lt;balls&gt; &amp; clubs" in files[".vtt"]
    assert files[".vtt"].count("-->") == files[".metadata.vtt"].count("-->") == 4
    first = files[".metadata.vtt"].split("\n\n")[1].splitlines()[1]
    assert json.loads(first)["segments"][0]["label"] == LABELS[0]


def test_a_segment_below_a_millisecond_has_no_cue() -> None:
    assert text_of("srt", timeline(segment(1.0001, 1.0004, 0))) == ""


def test_srt_has_hours_always() -> None:
    long = timeline(segment(3599.0, 7261.5, 0), duration_seconds=8000.0)
    assert "00:59:59,000 --> 02:01:01,500" in text_of("srt", long)


def test_csv_is_a_list_of_training_videos(tmp_path: Path) -> None:
    plain = timeline(segment(1.25, 4.0, 3), segment(6.5, 20.0, 3))
    video = tmp_path / "videos" / "a b.mp4"
    for folder in (video.parent, tmp_path / "out"):
        folder.mkdir()
    video.write_bytes(b"")
    (path,) = save(replace(plain, path=str(video)), tmp_path / "out" / "a", ["csv"])
    manifest = read_manifest(path)
    assert [(s.start_seconds, s.end_seconds) for s in manifest.samples] == [(1.25, 4.0), (6.5, 20.0)]
    assert all(Path(sample.path).samefile(video) for sample in manifest.samples)


def test_several_videos_share_one_header() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text([(EXAMPLE.path, EXAMPLE.segments)] * 2))))
    assert len(rows) == 6
    assert rows[0] == {
        "path": "videos/a b.mp4",
        "start_seconds": "1.234568",
        "end_seconds": "4.000000",
        "label": LABELS[0],
        "probability": "0.7500",
    }


def test_tsv_has_whole_milliseconds() -> None:
    rows = list(csv.DictReader(io.StringIO(text_of("tsv")), delimiter="\t"))
    assert (rows[0]["start"], rows[0]["end"]) == ("1234", "4000")


def test_edl_counts_frames_at_the_nominal_rate() -> None:
    lines = text_of("edl", timeline(segment(1.0, 3.2, 3), fps=24000 / 1001)).splitlines()
    assert lines[3] == "001  AX       V     C        00:00:01:01 00:00:03:08 00:00:01:01 00:00:03:08"


def test_activitynet_has_the_keys_of_the_official_evaluation() -> None:
    content = json.loads(text_of("activitynet"))
    assert content.keys() == {"version", "results", "external_data"}
    assert content["results"]["a b"][1] == {"label": "a --> b", "score": 0.75, "segment": [3.0, 6.5]}


def test_labelstudio_counts_frames_from_one_including_the_last() -> None:
    files = WRITERS["labelstudio"](EXAMPLE)
    (task,) = json.loads(files[".labelstudio.json"])
    (value, *_) = [result["value"] for result in task["predictions"][0]["result"]]
    assert value == {"ranges": [{"start": 32, "end": 100}], "timelinelabels": [LABELS[0]]}
    config = xml.etree.ElementTree.fromstring(files[".labelstudio.xml"])
    assert config.find("Video").get("framerate") == "25"
    assert [label.get("value") for label in config.iter("Label")] == list(LABELS)


def test_fiftyone_labels_are_a_list_of_training_videos(tmp_path: Path) -> None:
    (tmp_path / "a b.mp4").write_bytes(b"")
    labels = tmp_path / "labels.json"
    labels.write_text(text_of("fiftyone", timeline(segment(1.25, 4.0, 3))))
    (sample,) = read_manifest(labels).samples
    assert (sample.start_seconds, sample.end_seconds) == (1.25, 4.0)


def test_boris_has_a_start_and_a_stop_per_segment_in_order_of_time() -> None:
    rows = list(csv.DictReader(io.StringIO(text_of("boris"))))
    assert [row["Behavior type"] for row in rows] == ["START", "START", "STOP", "START", "STOP", "STOP"]
    assert [float(row["Time"]) for row in rows] == sorted(float(row["Time"]) for row in rows)


@pytest.mark.parametrize("name", ["edl", "labelstudio"])
def test_a_format_that_counts_frames_refuses_a_variable_rate(name: str) -> None:
    with pytest.raises(InputError, match=f"must have a constant frame rate for the format {name}"):
        WRITERS[name](replace(EXAMPLE, variable_rate=True))


def test_the_page_is_one_file_with_escaped_labels_and_a_button_per_segment() -> None:
    page = text_of("html")
    assert "<balls>" not in page
    assert page.count("data-seek=") == 3
    assert not re.search(r'(?:src|href)="(?!videos/a%20b\.mp4)', page)
    data = re.search(r'type="application/json">(.*?)</script>', page)[1]
    assert json.loads(data)["segments"][0] == [1.2345678, 4.0, LABELS[0]]


@pytest.mark.parametrize("name", WRITERS)
def test_a_video_without_segments_has_a_file_too(name: str) -> None:
    assert WRITERS[name](timeline())


def test_formats_are_separated_by_commas() -> None:
    assert parse_formats("json, csv,json") == ("json", "csv")
    assert parse_formats("all") == tuple(WRITERS)
    with pytest.raises(InputError, match=r"format must be one of json, csv, .*, got 'cvs'"):
        parse_formats("csv,cvs")


def test_no_partial_file_stays_when_a_format_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        save(replace(EXAMPLE, variable_rate=True), tmp_path / "a", ["csv", "edl"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
