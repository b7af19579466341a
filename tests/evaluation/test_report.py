"""Report: metrics computed from scores, and the saved files."""

import csv
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from videoswin.camera_motion.clips import write_h264
from videoswin.data.dataset import Failure
from videoswin.data.manifest import Sample
from videoswin.evaluation import report as report_module
from videoswin.evaluation.report import SHOWN_MISTAKES, Report, worst_mistakes
from videoswin.video.spec import ClipSpec

pytest.importorskip("matplotlib")

NAN = math.nan
LABELS = ("walk", "run, fast", "sit")


def make_report(
    labels: list[tuple[int, ...]],
    scores: list[list[float]],
    *,
    paths: list[str] | None = None,
    names: tuple[str, ...] = LABELS,
    multi_label: bool = False,
) -> Report:
    """Rows of NaN are videos that could not be read."""
    paths = paths or [f"{number}.mp4" for number in range(len(labels))]
    targets = torch.zeros(len(labels), len(names), dtype=torch.bool)
    for row, own in zip(targets, labels, strict=True):
        row[list(own)] = True
    return Report(
        model="random",
        protocol="fast-1x1",
        source="made here",
        digest="0" * 64,
        labels=names,
        multi_label=multi_label,
        samples=tuple(Sample(path=path, labels=own) for path, own in zip(paths, labels, strict=True)),
        targets=targets,
        scores=torch.tensor(scores),
        unreadable={i: "the file is empty" for i, row in enumerate(scores) if math.isnan(row[0])},
        damage={0: "half of it"},
        seconds=2.0,
    )


@pytest.fixture
def report() -> Report:
    """Right, wrong, wrong and surer, unreadable."""
    return make_report(
        [(0,), (0,), (2,), (2,)], [[0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.8, 0.1, 0.1], [NAN, NAN, NAN]]
    )


@pytest.fixture
def several() -> Report:
    """Multi-label: right by its second label, wrong, no label at all."""
    return make_report(
        [(0, 2), (1,), ()], [[0.1, 0.2, 0.9], [0.8, 0.7, 0.1], [0.4, 0.3, 0.2]], multi_label=True
    )


def test_an_unreadable_video_is_wrong_in_every_number(report: Report) -> None:
    assert report.top1 == pytest.approx(1 / 4)
    assert report.top5 is None  # of three classes
    assert report.mean_class_accuracy == pytest.approx((1 / 2 + 0) / 2)
    assert [(entry.videos, entry.score) for entry in report.per_class] == [(2, 0.5), (0, None), (2, 0.0)]
    assert report.failures == (Failure("3.mp4", "the file is empty"),)
    assert report.confusion is not None
    assert report.confusion.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]


def test_intervals_contain_their_metric_and_have_width(report: Report) -> None:
    for name, (low, high) in report.intervals.items():
        assert 0 <= low < getattr(report, name) < high <= 1


def test_multi_label_videos_are_scored_by_average_precision(several: Report) -> None:
    assert several.top1 == pytest.approx(1 / 2)  # of the two that show a class
    assert several.mean_average_precision == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert several.score == several.mean_average_precision
    assert several.mean_class_accuracy is None
    assert several.intervals.keys() == {"top1", "mean_average_precision"}
    assert several.confusion is None


def test_json_is_one_line_without_the_scores(report: Report) -> None:
    text = report.to_json()
    assert "\n" not in text
    assert "NaN" not in text
    fields = json.loads(text)
    assert "scores" not in fields
    assert fields["top1"] == report.top1
    assert fields["num_videos"] == 4
    assert fields["videos_per_second"] == 2
    assert fields["failures"] == [{"path": "3.mp4", "reason": "the file is empty"}]
    assert fields["damaged"] == [{"path": "0.mp4", "reason": "half of it"}]
    assert [entry["label"] for entry in fields["per_class"]] == list(LABELS)


def test_mistakes_are_sorted_by_how_sure_the_model_was(report: Report) -> None:
    assert worst_mistakes(report) == [2, 1]


def test_no_more_than_the_worst_mistakes_are_shown() -> None:
    assert len(worst_mistakes(make_report([(0,)] * 20, [[0.1, 0.8, 0.1]] * 20))) == SHOWN_MISTAKES


def test_the_folder_has_every_file_and_no_partial_ones(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "new" / "folder")
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == [
        "confusion.json",
        "confusion.png",
        "failures.jsonl",
        "mistakes.png",
        "per_class.csv",
        "predictions.jsonl",
        "report.json",
    ]


def test_every_video_has_a_line_of_predictions(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [(line["path"], line["label"], line["correct"]) for line in lines] == [
        ("0.mp4", "walk", True),
        ("1.mp4", "walk", False),
        ("2.mp4", "sit", False),
        ("3.mp4", "sit", False),
    ]
    assert [entry["label"] for entry in lines[1]["top"]] == ["run, fast", "walk", "sit"]
    assert lines[1]["top"][0]["probability"] == pytest.approx(0.5)
    assert lines[0]["damage"] == "half of it"
    assert lines[3]["error"] == "the file is empty"
    assert "top" not in lines[3]


def test_the_table_of_classes_reads_back(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    with (tmp_path / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["videos"], row["accuracy"]) for row in rows] == [
        ("walk", "2", "0.5"),
        ("run, fast", "0", ""),
        ("sit", "2", "0.0"),
    ]
    assert float(rows[0]["low"]) < 0.5 < float(rows[0]["high"])


def test_no_label_is_a_formula_in_the_table_of_classes(tmp_path: Path) -> None:
    names = ("=HYPERLINK(1)", "walk;=1+1", "walk")
    make_report([(0,)], [[0.6, 0.3, 0.1]], names=names).save(tmp_path)
    text = (tmp_path / "per_class.csv").read_text()
    labels = [row[0] for row in csv.reader(text.splitlines())]
    assert labels == ["label", "'=HYPERLINK(1)", "walk;=1+1", "walk"]
    assert not any(
        row[0].startswith("=") for line in text.splitlines() for row in csv.reader([line], delimiter=";")
    )
    assert [len(row) for row in csv.reader(text.splitlines(), delimiter=";")] == [1] * 4


def test_the_confusion_reads_back_with_its_pairs(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path)
    content = json.loads((tmp_path / "confusion.json").read_text())
    assert content["labels"] == list(LABELS)
    assert content["matrix"] == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert {(pair["true"], pair["predicted"], pair["videos"]) for pair in content["confused"]} == {
        ("walk", "run, fast", 1),
        ("sit", "walk", 1),
    }


def test_what_does_not_apply_is_not_written_and_an_earlier_one_is_removed(
    report: Report, several: Report, tmp_path: Path
) -> None:
    report.save(tmp_path)
    several.save(tmp_path)
    assert not (tmp_path / "confusion.json").exists()
    assert not (tmp_path / "confusion.png").exists()
    line = (tmp_path / "predictions.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["labels"] == ["walk", "sit"]
    make_report([(0,)], [[0.6, 0.3, 0.1]]).save(tmp_path)
    assert not (tmp_path / "mistakes.png").exists()


def test_mistakes_show_frames_of_the_video(tmp_path: Path) -> None:
    from matplotlib.image import imread

    green = torch.zeros(9, 64, 64, 3, dtype=torch.uint8)
    green[..., 1] = 200
    write_h264(tmp_path / "green.mp4", green, fps=10, crf=10)
    make_report([(0,)], [[0.1, 0.8, 0.1]], paths=[str(tmp_path / "green.mp4")]).save(tmp_path)
    picture = imread(tmp_path / "mistakes.png")[..., :3]
    is_green = (picture[..., 1] - picture[..., 0] > 0.5) & (picture[..., 1] - picture[..., 2] > 0.5)
    assert is_green.sum() > 4 * 128 * 128 * 0.9


def test_mistakes_show_the_crop_that_the_model_saw_and_the_probability_of_the_true_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = torch.zeros(40, 32, 96, 3, dtype=torch.uint8)
    wide[:20, :, 32:64] = 200  # the crop in the middle, in the part that no clip of 2 frames reaches
    wide[20:, :, 32:64, 1] = 200
    write_h264(tmp_path / "wide.mp4", wide, fps=10, crf=10)
    drawn = []
    monkeypatch.setattr(
        report_module, "draw_contact_sheet", lambda path, *a, **k: (drawn.extend(a[0]), path.touch())
    )
    report = make_report([(0,)], [[0.1, 0.8, 0.1]], paths=[str(tmp_path / "wide.mp4")])
    clip = ClipSpec(frames=2, stride=1, size=32, short_side=32)
    replace(report, clip=clip).save(tmp_path / "report")
    ((caption, frames_thwc),) = drawn
    assert caption.endswith("true: walk, 10 %   predicted: run, fast, 80 %")
    assert frames_thwc.shape == (2, 32, 32, 3)
    inside = frames_thwc[:, 8:24, 8:24].float().mean((0, 1, 2))
    assert inside[1] > 150


def test_a_file_name_that_is_no_text_is_written_as_json_can(tmp_path: Path) -> None:
    path = os.fsdecode(b"video-\xff.mp4")
    make_report([(0,)], [[0.1, 0.8, 0.1]], paths=[path]).save(tmp_path)
    assert json.loads((tmp_path / "predictions.jsonl").read_text(encoding="utf-8"))["path"] == path


def test_a_report_of_400_classes_has_a_confusion_too(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(400))
    scores = torch.rand(40, 400, generator=torch.manual_seed(0)).tolist()
    make_report([(number,) for number in range(40)], scores, names=names).save(tmp_path)
    assert len((tmp_path / "confusion.json").read_text().splitlines()) > 800
    assert (tmp_path / "confusion.png").stat().st_size > 10_000


def test_a_report_shows_itself_in_one_line_with_its_score(report: Report) -> None:
    assert repr(report) == (
        "Report(random, fast-1x1, made here, top-1 25.0 % (95 % interval 4.6 to 69.9 %) of 4 videos, 1 of "
        "them unreadable; chance 33.3 %, most frequent class 50.0 %, 2.0 s)"
    )


def test_the_headline_says_what_was_measured(report: Report, several: Report) -> None:
    assert report.headline == (
        "top-1 25.0 % (95 % interval 4.6 to 69.9 %) of 4 videos, 1 of them unreadable; chance 33.3 %, most "
        "frequent class 50.0 %"
    )
    assert re.fullmatch(
        r"mAP 77\.8 % \(95 % interval [\d.]+ to [\d.]+ %\) of 3 videos; chance 33\.3 %", several.headline
    )


def test_a_person_sees_scores_weakest_classes_and_failures(report: Report) -> None:
    text = report.to_text()
    assert "top-5" not in text
    for line in (
        r"random  fast-1x1: 1 clip x 1 crop = 1 view per video, 4 videos of made here, 2.0 s, 2.0 videos/s",
        r"top-1 +25\.0  4\.6 to 69\.9",
        r"baselines: chance 33\.3 %, most frequent class 50\.0 %",
        r"warning: the 95 % interval, 4\.6 to 69\.9 %, includes the 50\.0 % of always predicting the most",
        r"sit +2 +0\.0[^%]+walk +2 +50\.0",
        r"sit predicted as walk: 1",
        r"cannot be read, and count as wrong: 1\n  3\.mp4: the file is empty",
        r"damaged: 1\n  0\.mp4: half of it",
    ):
        assert re.search(line, text), line


def test_a_person_sees_the_map_of_multi_label_videos(several: Report) -> None:
    assert re.search(r"mAP +77\.8  \d", several.to_text())


def test_a_new_metric_is_printed_under_its_own_name(report: Report) -> None:
    report.intervals["majority_class_accuracy"] = (0.25, 0.75)
    assert re.search(r"majority_class_accuracy +50\.0  25\.0 to 75\.0", report.to_text())
