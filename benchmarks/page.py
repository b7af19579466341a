"""Writes docs/performance.md, its plots and README's line of speed from the figures in results/: no number is
typed by hand.

python benchmarks/page.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.goals import goals_section
from benchmarks.gpu_page import gpu_section
from benchmarks.plots import draw_growth, draw_model
from benchmarks.tables import Figures, span, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
SPEED_BEGINS, SPEED_ENDS = "<!-- speed: written by benchmarks/page.py -->\n", "<!-- end of speed -->\n"
EXACT = ("float32", "bfloat16")
BASE = "times_torchvision float32"


def page() -> str:
    """The whole document, from the results that are there."""
    parts = [INTRODUCTION, "## Goals", goals_section(results)]
    for name, (title, section) in SECTIONS.items():
        found = results(name)
        parts += [f"## {title}", section(found) if found else NOT_YET]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def with_speed(readme: str, found: Figures) -> str:
    """README with the seconds of the main ways between its marks."""
    ways = {
        "torchvision": ("torchvision", "float32"),
        "videoswin": ("videoswin", "float32"),
        "in bfloat16": ("videoswin", "bfloat16"),
        "in OpenVINO and bfloat16": ("videoswin in OpenVINO", "bfloat16"),
    }
    seconds = {name: _row(found["rows"], *way)["seconds_median"] for name, way in ways.items()}
    int8 = _row(found["rows"], "videoswin in OpenVINO", "int8")["seconds_median"]
    at = found["circumstances"]
    line = f"""
Swin-T over 32 x 224 x 224, {at["cores"]} cores of {at["processor"]}, torch {at["torch"]}, {at["date"]}:
{", ".join(f"{name} {took:.2f} s" for name, took in seconds.items())}.
Rounded to int8, which is not exact, {int8:.2f} s.
""".lstrip()
    before, rest = readme.split(SPEED_BEGINS)
    return before + SPEED_BEGINS + line + SPEED_ENDS + rest.split(SPEED_ENDS)[1]


def results(name: str) -> Figures | None:
    """Those of one script, if it has ever been run."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


INTRODUCTION = """
# Performance

Made by `python benchmarks/page.py` from `benchmarks/results/*.json`; `make bench` measures what a CPU can
anew, int8 agreement and looking less often with the videos that `benchmarks/camera_motion.py` names
(`make bench CLIPS=folder`). Each table comes from one run: the same weights, inputs and threads for all,
answers compared before any time is believed. Where a table has quartiles, systems took turns in one process.
[benchmarks/README.md](../benchmarks/README.md) says how. Three questions have tables of their own: the model,
attention alone, and files to predictions. What is rounded to int8 never shares a table with exact answers,
nor do views that are left out, but for the exact line that they are compared with.
"""


NOT_YET = "Not measured yet: [benchmarks/README.md](../benchmarks/README.md) names the script."


def model_section(found: Figures) -> str:
    """Exact systems by speed, then int8, then how near that is to what the processor can do."""
    rows = sorted(found["rows"], key=lambda row: row[BASE])
    peer = _row(rows, "torchvision in OpenVINO", "bfloat16")["seconds_median"]
    ours = _row(rows, "videoswin in OpenVINO", "bfloat16")["seconds_median"]
    eager = _row(rows, "torchvision", "float32")
    in_pytorch = {precision: _row(rows, "videoswin", precision) for precision in EXACT}
    share = {
        precision: row["peak_mib_added_by_forward"] / eager["peak_mib_added_by_forward"]
        for precision, row in in_pytorch.items()
    }
    peak = in_pytorch["float32"]["peak_mib"] / eager["peak_mib"]
    return f"""
Swin-T, one 32 x 224 x 224 clip, {_where(found)}.
Speed is against torchvision in float32, eager. "Anew" is what a pass takes from the system and gives back:
{eager["mib_taken_anew"]} MiB there, where {eager["system_seconds"]:.1f} of {eager["cpu_seconds_median"]:.1f}
processor seconds are the system's. Its time moves between runs more than ours, and every speed here with it
([log](../benchmarks/LOG.md)).

{_model_table(row for row in rows if row["precision"] in EXACT)}

![clips a second of every system](performance-model.png)

In OpenVINO and bfloat16 our graph is {peer / ours:.2f} times as fast as torchvision's.
Of the memory that a pass of torchvision's adds in float32, ours in PyTorch adds
{share["float32"]:.0%}, and in bfloat16 {share["bfloat16"]:.0%}.
With the libraries and weights that a process holds anyway the peak is {peak:.0%} of torchvision's.
Runtimes that set memory aside while they compile had done so before a pass was counted; "at most" has it.
"Compiled" is torch.compile as it comes, without freezing. Torchvision compiled in bfloat16, in ONNX Runtime
and in int8 was not measured.

Linear layers and products of queries and keys in int8, the rest in bfloat16: not exact, see the agreement
below.

{_model_table(row for row in rows if row["precision"] not in EXACT)}

{_floor_part(found).strip()}
"""


def _model_table(rows: Iterable[Figures]) -> str:
    return table(
        "system | precision | median s | quartiles | speed | MiB added | MiB at most | MiB anew",
        "llrlrrrr",
        (
            (
                row["system"],
                row["precision"],
                f"{row['seconds_median']:.2f}",
                span(row["seconds_quartiles"], ".2f"),
                f"{row[BASE]:.2f}",
                row["peak_mib_added_by_forward"],
                row["peak_mib"],
                row["mib_taken_anew"],
            )
            for row in rows
        ),
    )


def _floor_part(found: Figures) -> str:
    floors = found["floors"]
    systems = ("torchvision", "videoswin", "torchvision in OpenVINO", "videoswin in OpenVINO")
    lines = []
    for row in found["rows"]:
        if row["system"] in systems and row["precision"] in EXACT:
            floor, median = floors[row["precision"]], row["seconds_median"]
            lines.append(
                (
                    row["system"],
                    row["precision"],
                    f"{floor['gflops']:.0f}",
                    f"{floor['seconds']:.2f}",
                    f"{median:.2f}",
                    f"{floor['seconds'] / median:.0%}",
                )
            )
    heads = "system | precision | GFLOP/s | floor s | median s | reached"
    return f"""
The floor is the clip's {found["multiply_adds"] / 1e9:.1f} billion multiply-adds at the rate of a 2048 x 2048
product in PyTorch, by MKL or oneDNN, whichever is faster, measured in the same run.

{table(heads, "llrrrr", lines)}
"""


def _row(rows: list[Figures], system: str, precision: str) -> Figures:
    (row,) = (row for row in rows if (row["system"], row["precision"]) == (system, precision))
    return row


def attention_section(found: Figures) -> str:
    """Milliseconds of every system in every stage."""
    systems = list(dict.fromkeys(row["system"] for row in found["rows"]))
    cases: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in found["rows"]:
        case = cases.setdefault((row["stage"], row["windows"], row["precision"]), {})
        case[row["system"]] = row["seconds_median"]
    lines = (
        (
            *case,
            *(f"{1e3 * times[system]:.0f}" for system in systems),
            f"{times['torchvision'] / times['videoswin']:.2f}",
        )
        for case, times in cases.items()
    )
    heads = f"stage | windows | precision | {' | '.join(systems)} | speed"
    return f"""
One block's window attention with its two linear layers, milliseconds, {_where(found)}.
Full mask, SDPA is how timm does it. The last column is ours against torchvision in the same precision.

{table(heads, "rll" + "r" * len(systems) + "r", lines)}
"""


def scaling_section(found: Figures) -> str:
    """Seconds and memory by frames and size, and the exponents."""
    systems = ("videoswin t", "videoswin s", "videoswin b", "torchvision t")
    lines = []
    for row in found["rows"]:
        cells = (
            f"{row[name]['seconds']:.2f} s, {row[name]['peak_mib_added_by_forward']} MiB"
            if name in row
            else ""
            for name in systems
        )
        lines.append((f"{row['frames']} x {row['size']} x {row['size']}", *cells))
    slopes = ((name, f"{slope:.2f}") for name, slope in found["exponents"].items())
    longest = found["longest"]
    return f"""
One clip in float32, {_where(found)}: the fastest of three to five passes, and the memory that a pass adds.

{table("clip | " + " | ".join(systems), "lrrrr", lines)}

![seconds and memory against frames and size](performance-growth.png)

The slope of log(seconds) over log(tokens); 1 is a cost that grows as the clip does:

{table("series | exponent", "lr", slopes)}

Swin-T on a clip of {longest["frames"]} frames takes {longest["peak_mib"] / 1024:.1f} GiB with everything that
the process holds.
"""


def int8_section(found: Figures) -> str:
    """How often int8 names the same class."""
    lines = (
        (
            row["clips_from"],
            row["videos"],
            row["clips"],
            f"{row['top1_agreement']:.1%}",
            f"{row['largest_probability_difference']:.3f}",
        )
        for row in found["rows"]
    )
    heads = "views of | videos | views | same likeliest class | largest change of a probability"
    return f"""
The bundled model against itself in float32, {_where(found)}.
Scales were chosen on the first half of {", ".join(found["scales_chosen_on"])}.

{table(heads, "lrrrr", lines)}

Views of one video resemble each other, and these are few videos. The bundled model is a small one; a trained
Swin-T was not at hand. `videoswin export` says what int8 costs yours.
"""


def files_section(found: Figures) -> str:
    """What predict reaches of decoding alone and of the model alone: exact ways to look, then others."""
    exact, approximate = (
        _files_table(row for row in found["rows"] if ("fast" in row["case"]) is fast)
        for fast in (False, True)
    )
    return f"""
Videos a second of ten seconds of H.264, 340x256 at 30 fps, {_where(found)}.
Decoding alone, with as many threads as `predict_all` gives it, not all cores; the model alone on views that
are loaded; and `Predictor.predict_all`, in turn.

{exact}

One view of a video instead of twelve is no exact answer:

{approximate}

Where decoding and the model share the same cores, nothing can overlap that leaves a core idle: both together
take their processor seconds divided by the cores, or longer. "Cores allow" is what that leaves of the slower;
it is too low by what threads spend on waiting for each other, which counts as processor time, too.
"""


def _files_table(rows: Iterable[Figures]) -> str:
    heads = "model and views | decoding threads | decoding | model | both | of the slower | quartiles"
    lines = []
    for row in rows:
        of_slower = row["of_the_slower"]
        lines.append(
            (
                row["case"],
                row["decoding_threads"],
                *(f"{each['median']:.2f}" for each in row["videos_per_second"].values()),
                f"{of_slower['median']:.0%}",
                span(of_slower["quartiles"], ".0%"),
                f"{row['bound_of_the_slower']['median']:.0%}",
                f"{row['of_the_bound']['median']:.0%}",
            )
        )
    return table(f"{heads} | cores allow | of what they allow", "lrrrrrlrr", lines)


def views_section(found: Figures) -> str:
    """Accuracy and time of looking less often, against every view."""
    parts = []
    for kind, figures in found["kinds"].items():
        ways: Figures = figures["ways"]
        exact = found["exact"]
        adaptive = [way for way in ways if way.startswith("adaptive")]
        fixed = [way for way in ways if way not in (exact, *adaptive)]
        films = f"{figures['films']} films of {figures['seconds_of_film']:.0f} seconds"
        parts.append(
            f"""
{kind.capitalize()}, {films}:

{_views_table({way: ways[way] for way in (exact, *fixed)})}

The same, adaptive views:

{_views_table({way: ways[way] for way in (exact, *adaptive)})}
"""
        )
    return f"""
The bundled model on films that it has not seen, half of photographs and half of frames of real videos: those
of its test set, and longer ones, slower and shakier than what it learned from. The first line of each table
is exact; milliseconds are of processor time, {_where(found)}. Margins were compared on
these films, so elsewhere a safe one here may change some answers.
{"".join(parts)}
"""


def _views_table(ways: dict[str, Figures]) -> str:
    heads = "views | right | 95 % interval | agrees with exact | looked at | decoding ms | model ms"
    lines = (
        (
            way,
            f"{row['top1']:.1%}",
            span(row["top1_interval_95"], ".1%"),
            f"{row['agrees_with_exact']:.1%}",
            f"{row['views_mean']:.1f}",
            f"{1e3 * row['decode_seconds']:.0f}",
            f"{1e3 * row['model_seconds']:.0f}",
        )
        for way, row in ways.items()
    )
    return table(heads, "lrlrrrr", lines)


def training_section(found: Figures) -> str:
    """A training step against torchvision's."""
    lines = (
        (
            row["clips"],
            row["dtype"],
            row["system"],
            f"{row['seconds_median']:.2f}",
            f"{row['times_torchvision']:.2f}",
            row["peak_mib_added_by_steps"],
        )
        for row in found["rows"]
    )
    return f"""
Forward, cross entropy, backward and AdamW of Swin-T, {_where(found)}.

{table("clips | precision | system | median s | speed | MiB added", "lllrrr", lines)}
"""


def _where(found: Figures) -> str:
    at = found["circumstances"]
    threads = "1 thread" if at["threads"] == 1 else f"{at['threads']} threads"
    return (
        f"{threads} of {at['cores']} cores of {at['processor']}, torch {at['torch']}, {at['date']}, "
        f"{at['busy_before']:.0%} busy before, at {at['commit']}"
    )


SECTIONS: dict[str, tuple[str, Callable[[Figures], str]]] = {
    "model_cpu": ("The model on a CPU", model_section),
    "int8_agreement": ("What int8 costs", int8_section),
    "attention_cpu": ("Attention alone on a CPU", attention_section),
    "scaling_cpu": ("Growth with frames and resolution", scaling_section),
    "file_to_prediction": ("Files to predictions", files_section),
    "approximate_views": ("Looking less often", views_section),
    "training_cpu": ("A training step on a CPU", training_section),
    "gpu": ("GPU", gpu_section),
}
"""By result file: the title, and what is made of the figures."""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    if found := results("model_cpu"):
        README.write_text(with_speed(README.read_text(encoding="utf-8"), found), encoding="utf-8")
    for name, draw in {"model_cpu": draw_model, "scaling_cpu": draw_growth}.items():
        if found := results(name):
            draw(found, PAGE.parent)
    print(PAGE)


if __name__ == "__main__":
    main()
