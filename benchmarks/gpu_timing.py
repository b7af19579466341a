"""One GPU, or a CPU for a dry run: description of the device, times of systems in turn, peak memory."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from videoswin._text import in_one_line
from videoswin.acceleration.cuda import kernel_failures

Pass = Callable[[int], object]
"""One pass of a system on the inputs of a round; inputs rotate, so that they are not in a cache."""
Row = dict[str, Any]
FAILURES = kernel_failures()
"""Errors of compilation or memory that end the measurement of one system only."""


def failed(error: Exception) -> Row:
    """Return the row of a failure, and free the cached memory for the next system."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"failed": in_one_line(error)}


def machine(device: torch.device, seconds: float) -> Row:
    """Return the device, its software, and its measured rates of copies and matrix products."""
    row: Row = {"torch": torch.__version__, "device": str(device), "date": time.strftime("%Y-%m-%d")}
    if device.type == "cuda":
        import triton

        row |= {
            "name": torch.cuda.get_device_name(),
            "triton": triton.__version__,
            "cuda": torch.version.cuda,
        }
    if device.type == "cuda" and shutil.which("nvidia-smi"):
        asked = "clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,driver_version"
        query = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        first, *_ = subprocess.check_output(query, text=True).splitlines()  # one line per GPU
        row["nvidia-smi"] = dict(zip(asked.split(","), first.split(", "), strict=True))
    numbers, n = (2**29, 8192) if device.type == "cuda" else (2**16, 64)
    source, target = (torch.zeros(numbers, dtype=torch.bfloat16, device=device) for _ in "ab")
    a, b = (torch.randn(n, n, device=device).bfloat16() for _ in "ab")
    times = time_in_turn(
        {"copy": lambda _: target.copy_(source), "product": lambda _: a @ b}, device, seconds
    )
    row["copy_GB_per_s"] = round(2 * 2 * numbers / times["copy"]["ms"] / 1e6, 1)
    row["bfloat16_TFLOP_per_s"] = round(2 * n**3 / times["product"]["ms"] / 1e9, 2)
    return row


class Deadline:
    """The time at which a section has to end."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def passed(self) -> bool:
        return time.monotonic() > self.end


def time_in_turn(passes: dict[str, Pass], device: torch.device, seconds: float) -> dict[str, Row]:
    """Return the median and quartiles in milliseconds of each system, over rounds in which all take turns.

    After two warm-up passes of each system, there are as many rounds as fit into `seconds`, 5 to 30. If a
    system runs out of memory, its row has the error instead.
    """
    rows: dict[str, Row] = {}
    running: dict[str, Pass] = {}
    once = 0.0
    for system, one_pass in passes.items():
        try:
            one_pass(0)
            once += _milliseconds(one_pass, 1, device)
            running[system] = one_pass
        except torch.OutOfMemoryError as error:
            rows[system] = failed(error)
    rounds = min(30, max(5, int(seconds * 1000 / max(once, 1e-3)))) if device.type == "cuda" else 2
    times: dict[str, list[float]] = {system: [] for system in running}
    for number in range(rounds):
        for system, one_pass in running.items():
            times[system].append(_milliseconds(one_pass, number, device))
    for system, measured in times.items():
        low, median, high = statistics.quantiles(measured, n=4, method="inclusive")
        rows[system] = {
            "ms": round(median, 4),
            "ms_quartiles": [round(low, 4), round(high, 4)],
            "rounds": rounds,
        }
    return {system: rows[system] for system in passes}


def peak_mib(one_pass: Pass, device: torch.device) -> int | None:
    """Return the increase of peak memory by a pass in MiB; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    one_pass(0)
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) >> 20


def _milliseconds(one_pass: Pass, number: int, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        one_pass(number)
        return (time.perf_counter() - start) * 1000
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    one_pass(number)
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end)
