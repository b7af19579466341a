"""The part of docs/performance.md that gpu.json makes."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.tables import Figures, table


def gpu_section(found: Figures) -> str:
    """The best batch of every system, a single clip, training steps, attention alone and fused branches."""
    timed = [row for row in found.get("inference", ()) if "ms" in row]
    best: dict[tuple[str, str], Figures] = {}
    for row in sorted(timed, key=lambda row: row["ms_per_clip"]):
        best.setdefault((row["variant"], row["system"]), row)
    single = {(row["variant"], row["system"]): row for row in timed if row["clips"] == 1}
    training_heads = "model | clips | training step | clips a second | times eager | MiB a clip"
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
{at["date"]}; copies at {at["copy_GB_per_s"]:.0f} GB/s, bfloat16 products at
{at["bfloat16_TFLOP_per_s"]:.0f} TFLOP/s. Clips of 32 x 224 x 224. The peer is torchvision's model under
autocast, or the official mathematics (`benchmarks/reference.py`) where torchvision is not installed.
"First s" is the first pass, with what is compiled then.

The best batch of each:

{_inference_table(best)}

A single clip:

{_inference_table(single)}

{table(training_heads, "lrlrrr", steps)}

Attention alone, milliseconds:

{_attention_table(found.get("attention", ()))}

Branches of a block of the first stages, in several kernels and fused (`videoswin/acceleration/fused.py`):

{table("model | stage | branch | tokens | plain ms | fused ms | times plain", "lrlrrrr", branches)}
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
    heads = "model | system | clips | ms a clip | of an H200's floor | times eager | times compiled"
    return table(f"{heads} | first s | MiB", "llrrrrrrr", lines)


def _peer(rows: Iterable[Figures], variant: str, kind: str, clips: int | None = None) -> float | None:
    """Milliseconds of torchvision's model, else of the reference: of a clip, or of a step of `clips`."""
    known = {
        row["system"]: row["ms"] if clips else row["ms_per_clip"]
        for row in rows
        if "ms" in row and row["variant"] == variant and clips in (None, row["clips"])
    }
    names = (f"{who}{kind}, autocast" for who in ("torchvision", "reference"))
    return next((known[name] for name in names if name in known), None)


def _times(ours: float, theirs: float | None) -> str:
    return f"{theirs / ours:.2f}" if theirs else ""
