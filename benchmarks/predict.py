"""Time and memory of one forward pass of Swin-T on one 32 x 224 x 224 clip, ours against torchvision's.

    python benchmarks/predict.py --rounds 10 --output benchmarks/results/predict_cpu.json

Both run in one process with the same weights, in turn, so that a busy machine slows both; the answers are
compared before any time is believed. Memory is the resident set's high-water mark
(VmHWM, Linux) in one fresh process for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import circumstances, in_fresh_process, peak_and_added_mib, time_in_turn, timing_row
from benchmarks.peers import import_torchvision, relative_difference, torchvision_swin3d
from videoswin.model.config import TINY
from videoswin.model.swin import VideoSwin

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SYSTEMS = ("torchvision", "videoswin")
MAX_DIFFERENCE = {"float32": 1e-5, "bfloat16": 3e-2}
"""Largest believable difference from torchvision's float32 logits, relative to the largest of them."""


def build(system: str, dtype: str) -> tuple[nn.Module, Tensor]:
    """The model in eval mode and one clip (1, 3, 32, 224, 224), the same for every system."""
    torch.manual_seed(0)
    clip = torch.randn(1, 3, 32, 224, 224)
    model: nn.Module = VideoSwin(TINY).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table"):
            nn.init.normal_(parameter, std=0.5)  # as large as trained ones, so that a wrong lookup shows
    if system == "torchvision":
        model = torchvision_swin3d(model, "t")
    return model.to(DTYPES[dtype]), clip.to(DTYPES[dtype])


def compare(rounds: int) -> list[dict[str, Any]]:
    """One row of figures for each data type and system; SystemExit if their logits differ."""
    rows: list[dict[str, Any]] = []
    reference = Tensor()
    for dtype in DTYPES:
        built = {system: build(system, dtype) for system in SYSTEMS}
        logits = {system: model(clip).float() for system, (model, clip) in built.items()}  # also warms up
        if dtype == "float32":
            reference = logits["torchvision"]
        differences = {system: relative_difference(logits[system], reference) for system in SYSTEMS}
        if max(differences.values()) > MAX_DIFFERENCE[dtype]:
            raise SystemExit(f"{dtype} logits differ: {differences}; no time is worth that")
        passes = {system: partial(model, clip) for system, (model, clip) in built.items()}
        wall, cpu = time_in_turn(passes, rounds)
        for system in SYSTEMS:
            rows.append(
                {
                    "system": system,
                    "dtype": dtype,
                    **timing_row(system, wall, cpu),
                    "relative_logit_difference": differences[system],
                    **in_fresh_process(__file__, "--memory-of", system, dtype),
                }
            )
    return rows


def memory(system: str, dtype: str) -> dict[str, int]:
    """Resident memory of this process at its highest (MiB), and how much of it two forward passes added."""
    model, clip = build(system, dtype)
    peak, added = peak_and_added_mib(lambda: (model(clip), model(clip)))
    return {"peak_mib": peak, "peak_mib_added_by_forward": added}


def print_table(rows: list[dict[str, Any]]) -> None:
    print("system       dtype      median s        quartiles  speed   CPU s  MiB added")
    for row in rows:
        low, high = row["seconds_quartiles"]
        print(
            f"{row['system']:<12} {row['dtype']:<9} {row['seconds_median']:>9.3f} {low:>8.3f}-{high:<7.3f}"
            f" {row['times_torchvision']:>5.2f}x {row['cpu_seconds_median']:>7.2f}"
            f" {row['peak_mib_added_by_forward']:>10}"
        )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="timed forward passes of each model")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file too")
    parser.add_argument("--memory-of", nargs=2, metavar=("SYSTEM", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(memory(*arguments.memory_of)))
        return
    report: dict[str, Any] = {
        "circumstances": circumstances(torchvision=import_torchvision().__version__),
        "rounds": arguments.rounds,
        "rows": compare(arguments.rounds),
    }
    print_table(report["rows"])
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
