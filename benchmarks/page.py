"""Writes docs/performance.md and its plots from the figures in results/: no number is typed by hand.

python benchmarks/page.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
EXACT = ("float32", "bfloat16")

Figures = dict[str, Any]


def page() -> str:
    """The whole document, from the results that are there."""
    sections: list[tuple[str, Callable[[Figures], str]]] = [
        ("model_cpu", model_section),
        ("attention_cpu", attention_section),
        ("scaling_cpu", scaling_section),
        ("int8_agreement", int8_section),
        ("training_cpu", training_section),
        ("gpu", gpu_section),
    ]
    parts = [INTRODUCTION]
    for name, section in sections:
        file = RESULTS / f"{name}.json"
        parts.append(section(json.loads(file.read_text())) if file.exists() else NOT_YET[name])
    return "\n\n".join(part.strip() for part in parts) + "\n"


INTRODUCTION = """
# Performance

Made by `python benchmarks/page.py` from `benchmarks/results/*.json`; `make bench` measures all of it anew.
Each table comes from one run: the same weights, inputs and threads for all, answers compared before any time
is believed, systems in turn in one process, median and quartiles.
[benchmarks/README.md](../benchmarks/README.md) says how. Three questions have tables of their own: attention
alone, the model, and [files to predictions](fast-prediction.md). What is rounded to int8, and views that are
left out, never share a table with exact answers.
"""


NOT_YET = {
    "scaling_cpu": "## Growth with frames and resolution\n\n"
    "Not measured yet: `benchmarks/scaling_cpu.py` takes ten minutes on two quiet cores.",
    "gpu": "## GPU\n\nNot measured yet. The Triton kernels are tested for correctness in Triton's\n"
    "interpreter; `benchmarks/gpu.sh` checks and times them on a GPU.",
}
"""What the page says in the place of figures that nobody has made so far."""


def model_section(found: Figures) -> str:
    """Exact systems by speed, then int8, then how near that is to what the processor can do."""
    rows = found["rows"]
    base = "times_torchvision float32"
    table = [
        "| system | precision | median s | quartiles | speed | MiB added |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: row[base]):
        if row["precision"] in EXACT:
            table.append(_model_row(row, base))
    int8 = [_model_row(row, base) for row in rows if row["precision"] not in EXACT]
    floors = found["floors"]
    reached = [
        f"| {row['system']} | {row['precision']} | {floors[row['precision']]['gflops']:.0f} "
        f"| {floors[row['precision']]['seconds']:.2f} | {row['seconds_median']:.2f} "
        f"| {floors[row['precision']]['seconds'] / row['seconds_median']:.0%} |"
        for row in rows
        if row["system"] in ("torchvision", "videoswin", "videoswin in OpenVINO", "torchvision in OpenVINO")
        and row["precision"] in EXACT
    ]
    peer = _row(rows, "torchvision in OpenVINO", "bfloat16")["seconds_median"]
    ours = _row(rows, "videoswin in OpenVINO", "bfloat16")["seconds_median"]
    memory = {
        row["precision"]: row["peak_mib_added_by_forward"]
        for row in rows
        if row["system"] == "videoswin" and row["precision"] in EXACT
    }
    tv_memory = _row(rows, "torchvision", "float32")["peak_mib_added_by_forward"]
    return "\n".join(
        [
            "## The model on a CPU",
            "",
            f"Swin-T, one 32 x 224 x 224 clip, {_where(found)}.",
            "Speed is against torchvision in float32, eager.",
            "",
            *table,
            "",
            "![clips a second of every system](performance-model.png)",
            "",
            f"In OpenVINO and bfloat16 our graph is {peer / ours:.2f} times as fast as torchvision's.",
            f"In PyTorch we add {memory['float32'] / tv_memory:.0%} of the memory that torchvision adds in",
            f"float32, and in bfloat16 {memory['bfloat16'] / tv_memory:.0%} of that.",
            "",
            "Linear layers in int8, the rest in bfloat16: not exact, see the agreement below.",
            "",
            "| system | precision | median s | quartiles | speed | MiB added |",
            "|---|---|---:|---:|---:|---:|",
            *int8,
            "",
            "The floor is the clip's 87.8 billion multiply-adds at the rate of a 2048 x 2048 product in",
            "PyTorch (by MKL in float32), measured in the same run.",
            "",
            "| system | precision | GFLOP/s | floor s | median s | reached |",
            "|---|---|---:|---:|---:|---:|",
            *reached,
        ]
    )


def _model_row(row: Figures, base: str) -> str:
    low, high = row["seconds_quartiles"]
    return (
        f"| {row['system']} | {row['precision']} | {row['seconds_median']:.2f} | {low:.2f} to {high:.2f} "
        f"| {row[base]:.2f} | {row['peak_mib_added_by_forward']} |"
    )


def _row(rows: list[Figures], system: str, precision: str) -> Figures:
    (row,) = (row for row in rows if (row["system"], row["precision"]) == (system, precision))
    return row


def attention_section(found: Figures) -> str:
    """Milliseconds of every system in every stage."""
    systems = list(dict.fromkeys(row["system"] for row in found["rows"]))
    cases = dict.fromkeys((row["stage"], row["windows"], row["precision"]) for row in found["rows"])
    lines = []
    for case in cases:
        times = {
            row["system"]: row["seconds_median"]
            for row in found["rows"]
            if (row["stage"], row["windows"], row["precision"]) == case
        }
        cells = " | ".join(f"{1e3 * times[system]:.0f}" for system in systems)
        speed = times["torchvision"] / times["videoswin"]
        lines.append(f"| {case[0]} | {case[1]} | {case[2]} | {cells} | {speed:.2f} |")
    return "\n".join(
        [
            "## Attention alone on a CPU",
            "",
            f"One block's window attention with its two linear layers, milliseconds, {_where(found)}.",
            "Full mask, SDPA is how timm does it. The last column is ours against torchvision in the same",
            "precision.",
            "",
            f"| stage | windows | precision | {' | '.join(systems)} | speed |",
            f"|---:|---|---|{'---:|' * len(systems)}---:|",
            *lines,
        ]
    )


def scaling_section(found: Figures) -> str:
    """Seconds and memory by frames and size, and the exponents."""
    systems = ("videoswin t", "videoswin s", "videoswin b", "torchvision t")
    lines = [
        f"| {row['frames']} x {row['size']} x {row['size']} | "
        + " | ".join(
            f"{row[system]['seconds']:.2f} s, {row[system]['peak_mib_added_by_forward']} MiB"
            if system in row
            else ""
            for system in systems
        )
        + " |"
        for row in found["rows"]
    ]
    slopes = [f"| {name} | {slope:.2f} |" for name, slope in found["exponents"].items()]
    longest = found["longest"]
    return "\n".join(
        [
            "## Growth with frames and resolution",
            "",
            f"One clip in float32, {_where(found)}: the fastest pass, and the memory that a pass adds.",
            "",
            f"| clip | {' | '.join(systems)} |",
            f"|---|{'---:|' * len(systems)}",
            *lines,
            "",
            "![seconds and memory against frames and size](performance-growth.png)",
            "",
            "The slope of log(seconds) over log(tokens); 1 is a cost that grows as the clip does:",
            "",
            "| series | exponent |",
            "|---|---:|",
            *slopes,
            "",
            f"A clip of {longest['frames']} frames takes {longest['peak_mib'] / 1024:.1f} GiB with",
            "everything that the process holds.",
        ]
    )


def int8_section(found: Figures) -> str:
    """How often int8 names the same class."""
    lines = [
        f"| {row['clips_from']} | {row['clips']} | {row['top1_agreement']:.1%} "
        f"| {row['largest_probability_difference']:.3f} |"
        for row in found["rows"]
    ]
    return "\n".join(
        [
            "## What int8 costs",
            "",
            f"The bundled model against itself in float32, {_where(found)}.",
            f"Scales were chosen on every other clip of {', '.join(found['scales_chosen_on'])}.",
            "",
            "| clips | how many | same likeliest class | largest change of a probability |",
            "|---|---:|---:|---:|",
            *lines,
        ]
    )


def training_section(found: Figures) -> str:
    """A training step against torchvision's."""
    lines = [
        f"| {row['clips']} | {row['dtype']} | {row['system']} | {row['seconds_median']:.2f} "
        f"| {row['times_torchvision']:.2f} | {row['peak_mib_added_by_steps']} |"
        for row in found["rows"]
    ]
    return "\n".join(
        [
            "## A training step on a CPU",
            "",
            f"Forward, cross entropy, backward and AdamW of Swin-T, {_where(found)}.",
            "",
            "| clips | precision | system | median s | speed | MiB added |",
            "|---|---|---|---:|---:|---:|",
            *lines,
        ]
    )


def gpu_section(found: Figures) -> str:
    """Prediction and training on a GPU."""
    prediction = [
        f"| {row['variant']} | {row['clips']} | {row['system']} | {row['ms_per_clip']:.3f} "
        f"| {row['of_H200_floor']:.0%} | {row['peak_MiB']} |"
        for row in found.get("inference", [])
        if "ms_per_clip" in row
    ]
    steps = [
        f"| {row['variant']} | {row['clips']} | {row['system']} | {row['clips_per_s']:.0f} "
        f"| {row['peak_MiB_per_clip']} |"
        for row in found.get("training", [])
        if "clips_per_s" in row
    ]
    return "\n".join(
        [
            "## GPU",
            "",
            f"`bash benchmarks/gpu.sh benchmarks/results/gpu.json`: {found['machine']['name']}, clips of",
            "32 x 224 x 224.",
            "",
            "| model | clips | system | ms a clip | of an H200's floor | peak MiB |",
            "|---|---:|---|---:|---:|---:|",
            *prediction,
            "",
            "| model | clips | training step | clips a second | MiB a clip |",
            "|---|---:|---|---:|---:|",
            *steps,
        ]
    )


def _where(found: Figures) -> str:
    at = found["circumstances"]
    machine = f"{at['threads']} threads of {at['cores']} cores of {at['processor']}"
    return f"{machine}, torch {at['torch']}, {at['date']}"


def draw_model(found: Figures, path: Path) -> None:
    """Clips a second of every system."""
    from matplotlib.figure import Figure

    colours = {"float32": "#4c78a8", "bfloat16": "#f58518", "int8": "#9d9d9d"}
    rows = sorted(found["rows"], key=lambda row: -row["seconds_median"])
    figure = Figure(figsize=(8, 0.34 * len(rows) + 1), layout="constrained")
    axes = figure.subplots()
    names = [f"{row['system']}, {row['precision']}" for row in rows]
    axes.barh(
        names, [1 / row["seconds_median"] for row in rows], color=[colours[row["precision"]] for row in rows]
    )
    for place, row in enumerate(rows):
        axes.text(
            1 / row["seconds_median"], place, f" {1 / row['seconds_median']:.2f}", va="center", fontsize=8
        )
    axes.set_xlabel("clips of 32 x 224 x 224 a second, Swin-T (grey: int8, not exact)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def draw_growth(found: Figures, path: Path) -> None:
    """Seconds and memory against frames and size, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    grid = figure.subplots(2, 2)
    for column, axis in enumerate(("frames", "size")):
        rows = [row for row in found["rows"] if row["axis"] == axis]
        for system in ("torchvision t", "videoswin b", "videoswin s", "videoswin t"):
            points = [row for row in rows if system in row]
            if not points:
                continue
            style = {"marker": "o", "label": system, "linestyle": "--" if system.startswith("torch") else "-"}
            x = [row[axis] for row in points]
            grid[0][column].loglog(x, [row[system]["seconds"] for row in points], **style)
            grid[1][column].loglog(x, [row[system]["peak_mib_added_by_forward"] for row in points], **style)
        for line in range(2):
            grid[line][column].set_xlabel("frames, 224 pixels" if axis == "frames" else "pixels, 32 frames")
            ticks = [row[axis] for row in rows]
            grid[line][column].set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
            grid[line][column].minorticks_off()
            grid[line][column].grid(alpha=0.3)
        grid[0][column].set_ylabel("seconds")
        grid[1][column].set_ylabel("MiB added by a pass")
    grid[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    draw_model(json.loads((RESULTS / "model_cpu.json").read_text()), PAGE.parent / "performance-model.png")
    if (growth := RESULTS / "scaling_cpu.json").exists():
        draw_growth(json.loads(growth.read_text()), PAGE.parent / "performance-growth.png")
    print(PAGE)


if __name__ == "__main__":
    main()
