"""Measurement of time and memory, shared by the benchmark scripts."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

Seconds = dict[str, list[float]]


def result_file(name: str) -> Path:
    """Return the path of a JSON file to write, for argparse; its folder must exist before the measurement."""
    if not Path(name).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(name).parent}")
    return Path(name)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile; a single value is allowed."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(median), float(high)


def time_in_turn(passes: dict[str, Callable[[], object]], rounds: int) -> tuple[Seconds, Seconds]:
    """Return wall seconds and CPU seconds of the passes of each system; the systems take turns.

    There is no warm-up: call each system once before.
    """
    wall: Seconds = {system: [] for system in passes}
    cpu: Seconds = {system: [] for system in passes}
    order, dice = list(passes), random.Random(0)
    for _ in range(rounds):
        dice.shuffle(order)  # otherwise each would always run after the same other system
        for system in order:
            one_pass = passes[system]
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            one_pass()
            wall[system].append(time.perf_counter() - wall_start)
            cpu[system].append(time.process_time() - cpu_start)
    return wall, cpu


def timing_row(system: str, wall: Seconds, cpu: Seconds, *, against: str = "torchvision") -> dict[str, Any]:
    """Return median and quartiles of the seconds of a system, and of its speedup over another system."""
    low, median, high = quartiles(wall[system])
    slowest, _, fastest = quartiles([a / b for a, b in zip(wall[against], wall[system], strict=True)])
    return {
        "seconds_median": round(median, 4),
        "seconds_quartiles": [round(low, 4), round(high, 4)],
        "cpu_seconds_median": round(statistics.median(cpu[system]), 4),
        f"times_{against}": round(statistics.median(wall[against]) / median, 3),
        f"times_{against}_quartiles": [round(slowest, 3), round(fastest, 3)],
    }


def in_fresh_process(script: str, *arguments: str) -> dict[str, float]:
    """Run a script with these arguments in a new process and return the JSON object that it prints."""
    result = subprocess.run(
        [sys.executable, script, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    figures: dict[str, float] = json.loads(result.stdout)
    return figures


def peak_and_added_mib(work: Callable[[], object]) -> tuple[int, int]:
    """Return the peak resident memory of this process during `work`, and its increase by it, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak (Linux)
    before = _peak_mib()
    work()
    return _peak_mib(), _peak_mib() - before


def faulted_mib_and_system_seconds(work: Callable[[], object]) -> tuple[int, float]:
    """Return the memory that `work` requests from the kernel by page faults (MiB), and its kernel seconds."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    faults = after.ru_minflt - before.ru_minflt
    return faults * resource.getpagesize() >> 20, after.ru_stime - before.ru_stime


def _peak_mib() -> int:
    # Not ru_maxrss: a child process inherits the value of its parent.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) // 1024


CODE = ("videoswin", "benchmarks", "pyproject.toml", "constraints.txt", ":!benchmarks/results", ":!*.md")
"""Files that results depend on; `make bench` changes other files, such as results and pages."""


def commit_of(root: Path) -> str:
    """Return the commit of a working tree, with a + if files of CODE differ from it, or "none"."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=root).stdout.strip()

    changed = git("status", "--porcelain", "--", *CODE)
    return (git("rev-parse", "--short", "HEAD") or "none") + ("+" if changed else "")


def circumstances(**versions: str) -> dict[str, Any]:
    """Return the environment of a measurement; `versions` of other libraries are added."""
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
        # The load of other programs (on shared cores, also of other machines): this process sleeps.
        "busy_before": round(psutil.cpu_percent(interval=2) / 100, 3),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **versions,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit_of(Path(__file__).parents[1]),
    }
