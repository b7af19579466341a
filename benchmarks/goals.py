"""What this project set out to reach, and what the figures say of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from benchmarks.tables import Figures, span, table

Results = Callable[[str], Figures | None]
"""Figures of a result file by its name, if there is one."""
EAGER = ("torchvision", "float32")
TWICE_THE_FLOOR = {"T": 0.63, "B": 1.66}
"""Milliseconds a clip on an H200; the aim for T is 0.45."""


class Goal(NamedTuple):
    """A bound, and the figure that must keep it; None if that was not measured.

    quartiles: of the figure, round by round.
    """

    what: str
    least: float | None
    most: float | None
    reached: float | None
    form: str = ".2f"
    quartiles: tuple[float, float] | None = None

    def line(self) -> tuple[str, str, str, str]:
        """What, wanted, reached, and whether that is enough."""
        bounds = {"at least": self.least, "at most": self.most}
        wanted = ", ".join(
            f"{name} {bound:{self.form}}" for name, bound in bounds.items() if bound is not None
        )
        if self.reached is None:
            return self.what, wanted, "not measured yet", ""
        low, high = self.least or 0.0, self.most or math.inf
        verdict = "reached" if low <= self.reached <= high else "**missed**"
        spread = f" ({span(self.quartiles, self.form)})" if self.quartiles else ""
        return self.what, wanted, f"{self.reached:{self.form}}{spread}", verdict


def goals_section(results: Results) -> str:
    """A line for every goal: exact ways on the CPU, those that are not, the GPU."""
    exact, approximate, gpu = (
        table(
            "goal | wanted | reached | ",
            "lrrl",
            [goal.line() for goals in group for goal in goals(results)],
        )
        for group in ((_cpu, _growth, _files), (_int8, _one_view), (_gpu,))
    )
    return f"""
Times are ratios to the peer that is named, of one run: of medians, and where the peer is eager with the
quartiles of rounds in brackets. Other runs gave other ratios, as far apart as the
[log](../benchmarks/LOG.md) says. On the CPU, Swin-T, one clip of 32 x 224 x 224, two threads; "eager" is
torchvision in float32:

{exact}

Ways that are not exact:

{approximate}

On the GPU ({_card(results)}), bfloat16, clips of 32 x 224 x 224, the best of the batches that were
timed of each, which are fewer for compiled models; "eager" and "compiled" are torchvision under autocast:

{gpu}
"""


def _systems(results: Results) -> dict[tuple[str, str], Figures]:
    """Rows of the model on a CPU by system and precision."""
    found = results("model_cpu")
    return {(row["system"], row["precision"]): row for row in found["rows"]} if found else {}


def _share(
    rows: dict[tuple[str, str], Figures], ours: tuple[str, str], theirs: tuple[str, str], figure: str
) -> float | None:
    """Of a figure, ours by theirs."""
    share: float | None = rows[ours][figure] / rows[theirs][figure] if rows else None
    return share


def _times_eager(
    rows: dict[tuple[str, str], Figures], what: str, least: float, system: tuple[str, str]
) -> Goal:
    """How many times as fast a system is as EAGER, the peer that rounds are compared with."""
    speed = _share(rows, EAGER, system, "seconds_median")
    quartiles = rows[system]["times_torchvision float32_quartiles"] if rows else None
    return Goal(f"{what}, times eager", least, None, speed, quartiles=quartiles)


def _cpu(results: Results) -> Iterator[Goal]:
    rows = _systems(results)
    full, in_openvino = ("videoswin", "float32"), ("videoswin in OpenVINO", "bfloat16")
    yield _times_eager(rows, "PyTorch float32", 2.3, full)
    yield _times_eager(rows, "PyTorch bfloat16", 4.0, ("videoswin", "bfloat16"))
    yield _times_eager(rows, "OpenVINO bfloat16", 6.0, in_openvino)
    there = _share(rows, ("torchvision in OpenVINO", "bfloat16"), in_openvino, "seconds_median")
    yield Goal("OpenVINO bfloat16, times torchvision there", 1.15, None, there)
    for what, figure in (
        ("memory that a pass adds", "peak_mib_added_by_forward"),
        ("memory at most, libraries and weights included", "peak_mib"),
    ):
        yield Goal(f"{what}, of eager", None, 0.4, _share(rows, full, EAGER, figure), ".1%")


def _int8(results: Results) -> Iterator[Goal]:
    yield _times_eager(_systems(results), "OpenVINO int8", 9.0, ("videoswin in OpenVINO", "int8"))
    found = results("int8_agreement")
    real = [row["top1_agreement"] for row in found["rows"] if "real" in row["clips_from"]] if found else []
    # A trained Swin-T was not at hand.
    what = "int8, same likeliest class on real videos, bundled model"
    yield Goal(what, 0.99, None, min(real, default=None), ".1%")


def _growth(results: Results) -> Iterator[Goal]:
    found = results("scaling_cpu")
    for variant in "tsb":
        slope = found["exponents"][f"videoswin {variant} by frames"] if found else None
        yield Goal(f"Swin-{variant.upper()}, seconds by frames: tokens to the power of", 0.9, 1.1, slope)
    longest = found["longest"]["peak_mib"] / 1024 if found else None
    yield Goal("512 frames, GiB", None, 16.0, longest, ".1f")


def _files(results: Results, *, one_view: bool = False) -> Iterator[Goal]:
    found = results("file_to_prediction")
    reached = {row["case"]: row["of_the_slower"]["median"] for row in found["rows"]} if found else {}
    for case in ("Swin-T fast-1x1",) if one_view else ("camera-motion 3x3", "Swin-T official-4x3"):
        yield Goal(f"{case}, of the slower of decoding and model", 0.9, None, reached.get(case), ".1%")


def _one_view(results: Results) -> Iterator[Goal]:
    yield from _files(results, one_view=True)


def _card(results: Results) -> str:
    found = results("gpu")
    return f"{found['machine'].get('name', 'none')}; the goals are for an H200" if found else "an H200"


def _gpu(results: Results) -> Iterator[Goal]:
    found = results("gpu") or {}
    for variant in "TB":
        name = f"GPU, Swin-{variant}"
        best = _quickest(found.get("inference", ()), variant, "ms_per_clip")
        single = _quickest(found.get("inference", ()), variant, "ms_per_clip", clips=1)
        step = _quickest(found.get("training", ()), variant, "ms")
        yield Goal(f"{name}, times eager", 2.5, None, _ratio(best, "eager", "ms_per_clip"))
        yield Goal(f"{name}, times compiled", 1.7, None, _ratio(best, "compiled", "ms_per_clip"))
        ours = best["ours"]["ms_per_clip"] if "ours" in best else None
        yield Goal(f"{name}, milliseconds a clip", None, TWICE_THE_FLOOR[variant], ours)
        yield Goal(f"{name}, one clip, times eager", 4.0, None, _ratio(single, "eager", "ms_per_clip"))
        yield Goal(f"{name}, training step, times eager", 2.0, None, _ratio(step, "eager", "ms"))
        memory = _ratio(step, "eager", "peak_MiB_per_clip")
        yield Goal(f"{name}, training memory a clip, of eager", None, 0.4, memory and 1 / memory, ".1%")


def _quickest(
    rows: Iterable[Figures], variant: str, figure: str, clips: int | None = None
) -> dict[str, Figures]:
    """The row of the quickest system of ours, and those of torchvision's eager and compiled model."""
    peers = {"torchvision, autocast": "eager", "torchvision, compiled, autocast": "compiled"}
    found: dict[str, Figures] = {}
    for row in rows:
        if row.get("variant") == variant and figure in row and clips in (None, row["clips"]):
            ours = "ours" if row["system"].startswith(("boxes", "triton", "fused")) else None
            who = peers.get(row["system"], ours)
            if who and (who not in found or row[figure] < found[who][figure]):
                found[who] = row
    return found


def _ratio(rows: dict[str, Figures], peer: str, figure: str) -> float | None:
    """How many times as much of a figure the peer takes as ours."""
    if not {peer, "ours"} <= rows.keys() or rows["ours"][figure] is None:
        return None
    ratio: float = rows[peer][figure] / rows["ours"][figure]
    return ratio
