"""Report: the results of an evaluation, and the files that it is saved to. K classes."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from videoswin._errors import VideoError
from videoswin._files import replacing, write_text
from videoswin._text import LINES_PER_LIST, csv_cell, draw_bar, dump_json, plural, printable, truncate
from videoswin.data.dataset import Failure
from videoswin.data.manifest import Sample
from videoswin.evaluation.metrics import TOP, VideoScores, confused_pairs
from videoswin.evaluation.plots import FRAME_HEIGHT, draw_confusion, draw_contact_sheet
from videoswin.video.excerpt import excerpt
from videoswin.video.reader import VideoReader, open_video
from videoswin.video.sampling import sample_clips
from videoswin.video.spec import ClipSpec, ViewPlan, describe_protocol
from videoswin.video.views import resize_short_side

SHOWN_MISTAKES: Final = 12
MISTAKES_PER_LINE: Final = 2
FRAMES_OF_A_MISTAKE: Final = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Report(VideoScores):
    """The results of a model on a list of videos. Unreadable videos are included and count as wrong."""

    model: str
    """Name or file of the checkpoint."""
    protocol: str
    """Name of the protocol whose views were averaged."""
    source: str
    """The list of videos."""
    digest: str
    """SHA-256 of the contents of the list."""
    samples: tuple[Sample, ...] = field(repr=False)
    """The videos; their labels are indices of the list's classes, not of the model's."""
    unreadable: Mapping[int, str] = field(repr=False)
    """Errors of unreadable videos, by the index of the sample."""
    damage: Mapping[int, str] = field(repr=False)
    """Unreadable parts of videos that were scored nevertheless, by the index of the sample."""
    seconds: float
    """Time from opening the first file to the last score."""
    clip: ClipSpec | None = field(default=None, repr=False)
    """Clip of the model; None if unknown."""

    def __repr__(self) -> str:
        facts = (self.model, self.protocol, self.source, self.headline, f"{self.seconds:.1f} s")
        return f"Report({', '.join(facts)})"

    @property
    def num_videos(self) -> int:
        """Number of videos, including unreadable ones."""
        return len(self.samples)

    @property
    def videos_per_second(self) -> float:
        """Videos read and scored per second."""
        return self.num_videos / self.seconds

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Videos that could not be read."""
        return tuple(Failure(self.samples[index].path, reason) for index, reason in self.unreadable.items())

    @property
    def damaged(self) -> tuple[Failure, ...]:
        """Videos that could be read in part."""
        return tuple(Failure(self.samples[index].path, reason) for index, reason in self.damage.items())

    @property
    def headline(self) -> str:
        """One line with the score, its 95 % interval and the baselines."""
        score = "mAP" if self.multi_label else "top-1"
        low, high = self.score_interval
        unreadable = f", {len(self.unreadable)} of them unreadable" if self.unreadable else ""
        return (
            f"{score} {100 * self.score:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %) of "
            f"{plural(self.num_videos, 'video')}{unreadable}; {self.baselines}"
        )

    @property
    def baselines(self) -> str:
        """Text with the accuracies that need no model: chance and the most frequent class."""
        chance = f"chance {100 * self.chance:.1f} %"
        return (
            chance
            if self.multi_label
            else f"{chance}, most frequent class {100 * self.majority_class_accuracy:.1f} %"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the scores as a JSON-serializable dict."""
        return {
            "model": self.model,
            "protocol": self.protocol,
            "source": self.source,
            "digest": self.digest,
            "multi_label": self.multi_label,
            "num_videos": self.num_videos,
            "num_classes": len(self.labels),
            "top1": self.top1,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "mean_average_precision": self.mean_average_precision,
            "intervals": self.intervals,
            "chance": self.chance,
            "majority_class_accuracy": self.majority_class_accuracy,
            "warning": self.chance_warning,
            "seconds": self.seconds,
            "videos_per_second": self.videos_per_second,
            "failures": [vars(failure) for failure in self.failures],
            "damaged": [vars(failure) for failure in self.damaged],
            "per_class": [vars(entry) for entry in self.per_class],
        }

    def to_json(self) -> str:
        """Return `to_dict` as one line of JSON."""
        return dump_json(self.to_dict())

    def to_text(self) -> str:
        """Return lines for a terminal: scores, weakest classes, confused pairs and unreadable videos.

        Control characters are escaped, and long lists are truncated.
        """
        speed = f"{self.seconds:.1f} s, {self.videos_per_second:.1f} videos/s"
        protocol = describe_protocol(self.protocol)
        summary = f"{protocol}, {plural(self.num_videos, 'video')} of {self.source}, {speed}"
        lines = [f"{printable(self.model)}  {printable(summary)}", *self._score_lines()]
        lines += ["", *self._weakest_class_lines()]
        if self.confusion is not None and (pairs := confused_pairs(self.confusion)):
            lines += ["", "  most often confused"]
            for true, predicted, videos in pairs[:LINES_PER_LIST]:
                lines.append(f"  {self.labels[true]} predicted as {self.labels[predicted]}: {videos}")
        for title, videos_with_reason in (
            ("cannot be read, and count as wrong", self.failures),
            ("damaged", self.damaged),
        ):
            if videos_with_reason:
                named = [f"{video.path}: {video.reason}" for video in videos_with_reason]
                lines += ["", f"{title}: {len(named)}", *(f"  {line}" for line in truncate(named))]
        return "\n".join(printable(line) for line in lines)

    def _score_lines(self) -> list[str]:
        """Return a table of the scores with their 95 % intervals, the baselines and a warning."""
        short_names = {
            "top1": "top-1",
            "top5": "top-5",
            "mean_class_accuracy": "mean class",
            "mean_average_precision": "mAP",
        }
        names = {name: short_names.get(name, name) for name in self.intervals}
        width = max(map(len, names.values()))
        lines = [f"  {'':{width}}      %  95 % interval"]
        for name, (low, high) in self.intervals.items():
            score = 100 * getattr(self, name)
            lines.append(f"  {names[name]:{width}}  {score:5.1f}  {100 * low:.1f} to {100 * high:.1f}")
        lines.append(f"  baselines: {self.baselines}")
        return lines + ([f"  warning: {self.chance_warning}"] if self.chance_warning else [])

    def _weakest_class_lines(self) -> list[str]:
        """Return a table of the classes with the lowest scores."""
        scored = [(entry.score, entry) for entry in self.per_class if entry.score is not None]
        weakest = sorted(scored, key=lambda pair: pair[0])[:LINES_PER_LIST]
        title = "weakest classes"
        width = max(len(title), *(len(printable(entry.label)) for _, entry in weakest))
        return [
            f"  {title:{width}}  videos      %",
            *(
                f"  {printable(entry.label):{width}}  {entry.videos:6}  {100 * score:5.1f}  {draw_bar(score)}"
                for score, entry in weakest
            ),
        ]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the report, its tables and its plots into `folder`; each file is complete or absent.

        report.json        everything except the scores
        per_class.csv      accuracy or average precision of each class
        predictions.jsonl  one line per video: labels, the TOP most probable classes, whether it is correct
        failures.jsonl     one line per unreadable video
        confusion.json     confusion matrix and all confused pairs; not if multi-label
        confusion.png      plot of the confusion matrix
        mistakes.png       frames of the wrong predictions with the highest confidence; not if there are none
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        write_text(path / "report.json", dump_json(self.to_dict(), indent=1) + "\n")
        write_text(path / "per_class.csv", _per_class_table(self))
        write_text(
            path / "predictions.jsonl", _lines(_prediction(self, index) for index in range(self.num_videos))
        )
        write_text(path / "failures.jsonl", _lines(vars(failure) for failure in self.failures))
        # Files of an earlier report must not be mistaken for files of this one.
        for name in ("confusion.json", "confusion.png", "mistakes.png"):
            (path / name).unlink(missing_ok=True)
        if self.confusion is not None:
            write_text(path / "confusion.json", _confusion_json(self.confusion, self.labels))
            with replacing(path / "confusion.png") as partial:
                title = f"{self.model}: {self.headline}"
                draw_confusion(partial, self.confusion, self.labels, title=title)
        if mistakes := worst_mistakes(self):
            with replacing(path / "mistakes.png") as partial:
                strips = [_mistake(self, index) for index in mistakes]
                draw_contact_sheet(partial, strips, columns=MISTAKES_PER_LINE)


def worst_mistakes(report: Report) -> list[int]:
    """Return up to SHOWN_MISTAKES wrong predictions by sample index, highest confidence first."""
    wrong = (~report.correct & report.scores.isfinite().all(1)).nonzero().flatten()
    confidence = report.scores[wrong].max(1).values
    order = confidence.argsort(descending=True, stable=True)[:SHOWN_MISTAKES]
    most_confident: list[int] = wrong[order].tolist()
    return most_confident


def _prediction(report: Report, index: int) -> dict[str, Any]:
    """Return one line of predictions.jsonl."""
    sample = report.samples[index]
    true_labels = _true_labels(report, index)
    fields: dict[str, Any] = {"path": sample.path}
    fields |= {"start_seconds": sample.start_seconds} if sample.start_seconds is not None else {}
    fields |= {"end_seconds": sample.end_seconds} if sample.end_seconds is not None else {}
    fields |= {"labels": true_labels} if report.multi_label else {"label": true_labels[0]}
    fields |= {"correct": report.correct[index].item()}
    if index in report.unreadable:
        return fields | {"error": report.unreadable[index]}
    top = [{"label": name, "probability": probability} for name, probability in _top(report, index, TOP)]
    fields |= {"top": top}
    return fields | ({"damage": report.damage[index]} if index in report.damage else {})


def _true_labels(report: Report, index: int) -> list[str]:
    return [report.labels[label] for label in report.targets[index].nonzero().flatten().tolist()]


def _top(report: Report, index: int, k: int) -> list[tuple[str, float]]:
    """Return the k most probable labels and their probabilities."""
    classes = report.ranking[index, :k]
    probabilities = report.scores[index, classes].tolist()
    return [(report.labels[i], value) for i, value in zip(classes.tolist(), probabilities, strict=True)]


def _per_class_table(report: Report) -> str:
    """Return the text of per_class.csv."""
    table = io.StringIO()
    # With quotes, a label with a semicolon stays one cell in spreadsheets that split at semicolons.
    writer = csv.writer(table, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(
        ("label", "videos", "average_precision" if report.multi_label else "accuracy", "low", "high")
    )
    for entry in report.per_class:
        writer.writerow((csv_cell(entry.label), entry.videos, entry.score, *(entry.interval or ("", ""))))
    return table.getvalue()


def _confusion_json(matrix: Tensor, labels: tuple[str, ...]) -> str:
    """Return confusion.json with one label, row or pair per line, so that a large matrix stays readable."""
    confused = [
        {"true": labels[true], "predicted": labels[predicted], "videos": videos}
        for true, predicted, videos in confused_pairs(matrix)
    ]
    parts = {"labels": labels, "matrix": matrix.tolist(), "confused": confused}
    blocks = (
        f"{json.dumps(name)}: [\n" + ",\n".join(map(dump_json, rows)) + "\n]" for name, rows in parts.items()
    )
    return "{" + ",\n".join(blocks) + "}\n"


def _mistake(report: Report, index: int) -> tuple[str, Tensor]:
    """Return the caption and the frames of a wrongly classified video."""
    sample = report.samples[index]
    ((label, probability),) = _top(report, index, 1)
    names = ", ".join(_true_labels(report, index)) or "nothing"
    true_scores = report.scores[index][report.targets[index]]
    true = f"{names}, {100 * true_scores.max().item():.0f} %" if len(true_scores) else names
    caption = f"{sample.path}\ntrue: {true}   predicted: {label}, {100 * probability:.0f} %"
    try:
        with open_video(sample.path) as video:
            part = excerpt(video, sample.start_seconds, sample.end_seconds)
            return caption, _frames_of_clip(part, report.clip)
    except VideoError as error:
        # The file was readable during the evaluation, so its scores remain valid.
        return f"{caption}\n{error.reason}", torch.empty(0, 1, 1, 3, dtype=torch.uint8)


def _frames_of_clip(video: VideoReader, clip: ClipSpec | None) -> Tensor:
    """Return some frames of the middle clip, cropped as for the model: (frames, H, W, 3) uint8."""
    if clip is None:
        clip = ClipSpec(frames=FRAMES_OF_A_MISTAKE, rule="segments")
        shown = sample_clips(video.num_readable, video.fps, clip, ViewPlan(clips=1, crops=1))[0]
        return resize_short_side(video.read(shown), FRAME_HEIGHT, antialias=True)
    (indices,) = sample_clips(video.num_readable, video.fps, clip, ViewPlan(clips=1, crops=1))
    count = min(FRAMES_OF_A_MISTAKE, len(indices))
    shown = [indices[(2 * place + 1) * len(indices) // (2 * count)] for place in range(count)]
    frames_thwc = resize_short_side(video.read(shown), clip.short_side, antialias=clip.antialias)
    top, left = ((side - clip.size) // 2 for side in frames_thwc.shape[1:3])
    return frames_thwc[:, top : top + clip.size, left : left + clip.size]


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(f"{dump_json(row)}\n" for row in rows)
