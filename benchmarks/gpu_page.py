"""Write the section of docs/performance.md from gpu.json."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.tables import Figures, table


def gpu_section(found: Figures) -> str:
    """Return the text: best batch size of each system, single clip, training, attention, fused branches."""
    timed = [row for row in found.get("inference", ()) if "ms" in row]
    best: dict[tuple[str, str], Figures] = {}
    for row in sorted(timed, key=lambda row: row["ms_per_clip"]):
        best.setdefault((row["variant"], row["system"]), row)
    single = {(row["variant"], row["system"]): row for row in timed if row["clips"] == 1}
    training_heads = "model | clips | training step | clips per second | speedup over eager | MiB per clip"
    steps = [
        (
            row["variant"],
            row["clips"],
            row["system"],
            f"{row['clips_per_s']:.0f}",
            _times(row["ms"], _peer(found.get("training", ()), row["variant"], "", row["clips"])),
            row["peak_MiB_per_clip"],
        )
        for row in found.get("training", ())
        if "ms" in row
    ]
    ways: dict[tuple[object, ...], dict[str, float]] = {}
    for row in found.get("branches", ()):
        if "ms" in row:
            place = (row["variant"], row["stage"], row["branch"], row["tokens"])
            ways.setdefault(place, {})[row["way"]] = row["ms"]
    branches = [
        (*place, f"{times['plain']:.3f}", f"{times['fused']:.3f}", _times(times["fused"], times["plain"]))
        for place, times in ways.items()
        if len(times) == 2
    ]
    at = found["machine"]
    return f"""
`bash benchmarks/gpu.sh benchmarks/results/gpu.json`: {at.get("name", "no GPU")}, torch {at["torch"]},
{at["date"]}; memory copies at {at["copy_GB_per_s"]:.0f} GB/s, bf16 matrix products at
{at["bfloat16_TFLOP_per_s"]:.0f} TFLOP/s. Clips of 32 x 224 x 224. The baseline is torchvision's model under
autocast, or the official mathematics (`benchmarks/reference.py`) where torchvision is not installed.
"First pass" includes compilation.

Best batch size of each system:

{_inference_table(best)}

Batch size 1:

{_inference_table(single)}

{table(training_heads, "lrlrrr", steps)}

Attention, milliseconds:

{_attention_table(found.get("attention", ()))}

Branches of a block in the first stages, in several kernels and fused (`videoswin/acceleration/fused.py`):

{table("model | stage | branch | tokens | plain (ms) | fused (ms) | speedup", "lrlrrrr", branches)}
"""


def _attention_table(rows: Iterable[Figures]) -> str:
    cases: dict[tuple[object, ...], dict[str, float]] = {}
    for row in rows:
        if "ms" in row:
            windows = "shifted" if any(row["shift"]) else "plain"
            case = (row["variant"], row["stage"], windows, row["clips"], row["pass"])
            cases.setdefault(case, {})[row["system"]] = row["ms"]
    systems = list(dict.fromkeys(system for times in cases.values() for system in times))
    lines = [
        (*case, *(f"{times[system]:.3f}" if system in times else "" for system in systems))
        for case, times in cases.items()
    ]
    heads = " | ".join(("model | stage | windows | clips | pass", *systems))
    return table(heads, "lrlrl" + "r" * len(systems), lines)


def _inference_table(rows: dict[tuple[str, str], Figures]) -> str:
    lines = []
    for row in rows.values():
        eager, compiled = (_peer(rows.values(), row["variant"], kind) for kind in ("", ", compiled"))
        lines.append(
            (
                row["variant"],
                row["system"],
                row["clips"],
                f"{row['ms_per_clip']:.3f}",
                f"{row['of_H200_floor']:.0%}",
                _times(row["ms_per_clip"], eager),
                _times(row["ms_per_clip"], compiled),
                row["first_call_seconds"],
                row["peak_MiB"] or "",
            )
        )
    heads = (
        "model | system | clips | ms per clip | H200 efficiency | speedup over eager | speedup over compiled"
    )
    return table(f"{heads} | first pass (s) | MiB", "llrrrrrrr", lines)


def _peer(rows: Iterable[Figures], variant: str, kind: str, clips: int | None = None) -> float | None:
    """Return milliseconds per clip, or per step of `clips`: of torchvision, else of the reference."""
    known = {
        row["system"]: row["ms"] if clips else row["ms_per_clip"]
        for row in rows
        if "ms" in row and row["variant"] == variant and clips in (None, row["clips"])
    }
    names = (f"{who}{kind}, autocast" for who in ("torchvision", "reference"))
    return next((known[name] for name in names if name in known), None)


def _times(ours: float, theirs: float | None) -> str:
    return f"{theirs / ours:.2f}" if theirs else ""
