"""Time and memory of one forward pass of Swin-T on one 32 x 224 x 224 clip, ours against torchvision's.

    python benchmarks/predict.py --rounds 10 --output benchmarks/results/predict_cpu.json

Both run in one process with the same weights, in turn, so that a busy machine slows both; the answers are
compared before any time is believed. Memory is the resident set's high-water mark
(VmHWM, Linux) in one fresh process for each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
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
        wall, cpu = time_in_turn(built, rounds)
        for system in SYSTEMS:
            low, median, high = statistics.quantiles(wall[system], n=4, method="inclusive")
            rows.append(
                {
                    "system": system,
                    "dtype": dtype,
                    "seconds_median": round(median, 4),
                    "seconds_quartiles": [round(low, 4), round(high, 4)],
                    "cpu_seconds_median": round(statistics.median(cpu[system]), 4),
                    "times_torchvision": round(statistics.median(wall["torchvision"]) / median, 2),
                    "relative_logit_difference": differences[system],
                    **memory_in_fresh_process(system, dtype),
                }
            )
    return rows


Seconds = dict[str, list[float]]


def time_in_turn(built: dict[str, tuple[nn.Module, Tensor]], rounds: int) -> tuple[Seconds, Seconds]:
    """Seconds by the clock and seconds of processor time of each system's forward passes."""
    wall: Seconds = {system: [] for system in built}
    cpu: Seconds = {system: [] for system in built}
    for _ in range(rounds):
        for system, (model, clip) in built.items():
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            model(clip)
            wall[system].append(time.perf_counter() - wall_start)
            cpu[system].append(time.process_time() - cpu_start)
    return wall, cpu


def memory_in_fresh_process(system: str, dtype: str) -> dict[str, int]:
    command = [sys.executable, __file__, "--memory-of", system, dtype]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, int] = json.loads(result.stdout)
    return figures


def memory(system: str, dtype: str) -> dict[str, int]:
    """Resident memory of this process at its highest (MiB), and how much of it two forward passes added."""
    model, clip = build(system, dtype)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here (Linux)
    before = _peak_mib()
    model(clip)
    model(clip)
    return {"peak_mib": _peak_mib(), "peak_mib_added_by_forward": _peak_mib() - before}


def _peak_mib() -> int:
    # Not ru_maxrss: a child starts with its parent's.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) // 1024


def circumstances() -> dict[str, Any]:
    """Where and with what the figures were made."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if cpuinfo.exists()
        else []
    )
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": import_torchvision().__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


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
        "circumstances": circumstances(),
        "rounds": arguments.rounds,
        "rows": compare(arguments.rounds),
    }
    print_table(report["rows"])
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
