"""Time and memory by frames and resolution on a CPU in float32: T, S and B, and torchvision's T.

    python benchmarks/scaling_cpu.py --output benchmarks/results/scaling_cpu.json

One clip of every size; all systems of one size take turns. The exponent is the slope of log(seconds) over
log(tokens), of the fastest pass of each size, which other load affects least: 1 is linear cost. Before
timing, logits are compared with torchvision's for the same weights. Memory is the increase of the peak
resident set size (VmHWM, Linux) by one pass in a fresh process.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import (
    circumstances,
    in_fresh_process,
    peak_and_added_mib,
    result_file,
    time_in_turn,
    timing_row,
)
from benchmarks.peers import import_torchvision, relative_difference, torchvision_swin3d
from benchmarks.systems import clip, swin, torch_kernels_of
from videoswin.acceleration import optimize_for_inference

FRAMES = (16, 32, 64, 128)
SIZES = (112, 160, 224, 320, 448)
LONGEST = 512
"""Frames of the longest clip, which is only run once, to measure memory."""
SYSTEMS = ("videoswin t", "videoswin s", "videoswin b", "torchvision t")
MAX_DIFFERENCE = 1e-5
WHOLE_WINDOWS = 224
"""Smallest size in pixels at which the grid of every stage is at least one window."""
MANY_PIXELS = 64 * 224 * 224
"""Clips with more pixels are timed with fewer passes."""


def model_of(system: str) -> nn.Module:
    maker, variant = system.split()
    if maker == "torchvision":
        return torchvision_swin3d(swin(variant), variant)
    return optimize_for_inference(swin(variant))


def cases() -> Iterator[tuple[str, int, int]]:
    """Yield (axis, frames, size) of every clip; axis is the series that it belongs to."""
    for frames in FRAMES:
        yield "frames", frames, 224
    for size in SIZES:
        yield "size", 32, size


def measure(frames: int, size: int, systems: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return seconds and added MiB of one pass of each system; SystemExit if logits differ."""
    clips = clip("float32", frames, size)
    differences = {
        system: difference_from_torchvision(system[-1], clips)
        for system in systems
        if system.startswith("videoswin")
    }
    models = {system: model_of(system) for system in systems}
    passes = {system: partial(model, clips) for system, model in models.items()}
    for one_pass in passes.values():
        one_pass()
    rounds = 3 if frames * size * size > MANY_PIXELS else 5
    wall, cpu = time_in_turn(passes, rounds)
    backends = {system: torch_kernels_of(one_pass) for system, one_pass in passes.items()}
    del models, passes
    rows: dict[str, dict[str, Any]] = {
        system: {
            "seconds": round(min(wall[system]), 4),
            "rounds": rounds,
            **timing_row(system, wall, cpu, against="torchvision t"),
            "backend": backends[system],
            **in_fresh_process(__file__, "--memory-of", system, str(frames), str(size)),
        }
        for system in systems
    }
    for system, difference in differences.items():
        rows[system]["relative_logit_difference"] = difference
    return rows


def difference_from_torchvision(variant: str, clips: Tensor) -> float:
    """Return the relative difference between our logits and torchvision's; SystemExit above MAX_DIFFERENCE.

    If the frame is smaller than a window, torchvision reads the bias of wrong offsets; with `sliced_bias` our
    model does the same.
    """
    ours = optimize_for_inference(swin(variant, sliced_bias=clips.shape[-1] < WHOLE_WINDOWS))
    difference = relative_difference(ours(clips), torchvision_swin3d(ours, variant)(clips))
    if not difference < MAX_DIFFERENCE:
        raise SystemExit(f"Swin-{variant}, {tuple(clips.shape)}: logits differ by {difference}")
    return difference


def memory(system: str, frames: int, size: int) -> dict[str, int]:
    """Return the peak resident memory of this process and its increase by one pass, in MiB."""
    model, clips = model_of(system), clip("float32", frames, size)
    peak, added = peak_and_added_mib(lambda: model(clips))
    return {"peak_mib": peak, "peak_mib_added_by_forward": added}


def tokens(frames: int, size: int) -> int:
    """Return the number of tokens of the first stage."""
    return -(-frames // 2) * (-(-size // 4)) ** 2


def exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the slope of log(seconds) over log(tokens) for each series and system."""
    found = {}
    for axis in ("frames", "size"):
        for system in SYSTEMS:
            points = [
                (math.log(tokens(row["frames"], row["size"])), math.log(row[system]["seconds"]))
                for row in rows
                if row["axis"] == axis and system in row
            ]
            if len(points) > 1:
                slope, _ = statistics.linear_regression(*zip(*points, strict=True))
                found[f"{system} by {axis}"] = round(slope, 3)
    return found


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=result_file, help="JSON file for the results")
    parser.add_argument("--memory-of", nargs=3, metavar=("SYSTEM", "FRAMES", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        system, frames, size = arguments.memory_of
        print(json.dumps(memory(system, int(frames), int(size))))
        return
    report: dict[str, Any] = {
        "circumstances": circumstances(torchvision=import_torchvision().__version__),
        "warm_up_passes": 1,
        "rows": [],
    }
    for axis, frames, size in cases():
        systems = SYSTEMS if axis == "frames" else ("videoswin t", "torchvision t")
        row = {"axis": axis, "frames": frames, "size": size, **measure(frames, size, systems)}
        report["rows"].append(row)
        print(row, flush=True)
    report["exponents"] = exponents(report["rows"])
    report["longest"] = {
        "frames": LONGEST,
        "size": 224,
        **in_fresh_process(__file__, "--memory-of", "videoswin t", str(LONGEST), "224"),
    }
    print(report["exponents"], report["longest"])
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
