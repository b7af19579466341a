"""The plots of docs/performance.md."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.tables import Figures

COLORS = {"float32": "#4c78a8", "bfloat16": "#f58518", "int8": "#9d9d9d"}


def draw_model(found: Figures, folder: Path) -> None:
    """Write performance-model.png: clips per second of every system."""
    exact = [row for row in found["rows"] if row["precision"] != "int8"]
    int8 = [row for row in found["rows"] if row["precision"] == "int8"]
    ratios = [len(exact), len(int8) + 1]
    figure = Figure(figsize=(8, 0.34 * sum(ratios) + 1.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    for axes, rows in ((upper, exact), (lower, int8)):
        rows = sorted(rows, key=lambda row: -row["seconds_median"])
        names = [f"{row['system']}, {row['precision']}" for row in rows]
        speeds = [1 / row["seconds_median"] for row in rows]
        axes.barh(names, speeds, color=[COLORS[row["precision"]] for row in rows])
        for place, speed in enumerate(speeds):
            axes.text(speed, place, f" {speed:.2f}", va="center", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    lower.set_title("approximate", fontsize=9, loc="left")
    lower.set_xlabel("clips of 32 x 224 x 224 per second, Swin-T")
    figure.savefig(folder / "performance-model.png", dpi=110)


def draw_growth(found: Figures, folder: Path) -> None:
    """Write performance-growth.png: seconds and memory by frames and size, on logarithmic axes."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    grid = figure.subplots(2, 2)
    for column, axis in enumerate(("frames", "size")):
        rows = [row for row in found["rows"] if row["axis"] == axis]
        for system in ("torchvision t", "videoswin b", "videoswin s", "videoswin t"):
            points = [row for row in rows if system in row]
            x = [row[axis] for row in points]
            style = {"marker": "o", "label": system, "linestyle": "--" if system.startswith("torch") else "-"}
            for line, figure_of in enumerate(("seconds", "peak_mib_added_by_forward")):
                grid[line][column].loglog(x, [row[system][figure_of] for row in points], **style)
        ticks = [row[axis] for row in rows]
        for line, unit in enumerate(("seconds", "MiB added by a pass")):
            axes = grid[line][column]
            axes.set_xlabel("frames, 224 pixels" if axis == "frames" else "pixels, 32 frames")
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.set_ylabel(unit)
    grid[0][0].legend(fontsize=8)
    figure.savefig(folder / "performance-growth.png", dpi=110)
