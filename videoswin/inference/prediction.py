"""Prediction: the class probabilities of one video, as text and as JSON. K classes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from videoswin._text import BAR_WIDTH, draw_bar, dump_json, printable
from videoswin.video.spec import describe_protocol


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The class probabilities of one video."""

    path: str
    """The video."""
    model: str
    """Name or file of the checkpoint."""
    protocol: str
    """Name of the protocol whose views were averaged, e.g. `official-4x3`."""
    labels: tuple[str, ...]
    """Class names in the order of the probabilities."""
    probabilities: Tensor
    """(K,) float32 on the CPU, summing to 1 unless the model is multi-label."""
    duration_seconds: float
    """Duration of the video, or of the selected part of it."""
    damage: str | None = None
    """Description of the unreadable parts of the file, if the prediction is based on the other parts."""
    views_used: int | None = None
    """Number of views that were scored, if the protocol is adaptive."""
    multi_label: bool = False
    """Whether each class is scored independently of the others."""
    seconds_seen: float | None = None
    """Seconds of the video covered by the clips, from the first to the last frame of each."""
    notes: tuple[str, ...] = ()
    """Properties of the file that are no damage but may reduce accuracy, such as HDR."""

    @property
    def score_type(self) -> str:
        """How the probabilities were computed, in words."""
        if self.multi_label:
            return "sigmoid of each class by itself; not calibrated"
        return (
            f"softmax over the {len(self.labels)} classes of the model, mean over views: sums to 1 even if "
            "the video shows none of them; not calibrated"
        )

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the min(k, K) most probable labels with their probabilities; raise ValueError if k < 1."""
        if k < 1:
            raise ValueError(f"k must be >= 1, got {k}")
        values, indices = self.probabilities.topk(min(k, len(self.labels)))
        return [(self.labels[i], value) for i, value in zip(indices.tolist(), values.tolist(), strict=True)]

    def to_json(self, k: int = 5) -> str:
        """Return one line of JSON: path, model, protocol, top, score_type, duration_seconds.

        It also has seconds_seen, damage, and views_used of an adaptive protocol, where they are known.
        """
        fields = {
            "path": self.path,
            "model": self.model,
            "protocol": self.protocol,
            "top": [{"label": label, "probability": probability} for label, probability in self.top(k)],
            "score_type": self.score_type,
            "duration_seconds": self.duration_seconds,
        }
        seen, damage, used = self.seconds_seen, self.damage or None, self.views_used
        optional = {"seconds_seen": seen, "damage": damage, "views_used": used}
        fields |= {name: value for name, value in optional.items() if value is not None}
        return dump_json(fields)

    def to_text(self, k: int = 5) -> str:
        """Return lines for a terminal: the video and its views, then the top k labels with bars.

        Control characters are escaped. `damage` and `notes` are not included.
        """
        duration = f"{self.duration_seconds:.1f} s"
        if self.seconds_seen is not None and self.seconds_seen < 0.9 * self.duration_seconds:
            duration += f", of which the model saw {self.seconds_seen:.1f} s"
        used = f", {self.views_used} used" if self.views_used else ""
        summary = f"{duration}, {self.model}, {describe_protocol(self.protocol)}{used}"
        ranking = [(printable(label), probability) for label, probability in self.top(k)]
        width = max(len(label) for label, _ in ranking)
        return "\n".join(
            [
                f"{printable(self.path)}  {printable(summary)}",
                *(
                    f"  {label:{width}}  {draw_bar(probability):{BAR_WIDTH}} {100 * probability:5.1f} %"
                    for label, probability in ranking
                ),
            ]
        )
