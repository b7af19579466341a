"""Time and memory of Swin-T on one 32 x 224 x 224 clip on a CPU, compared with other implementations.

    python benchmarks/model_cpu.py --clips ../shared/clips --output benchmarks/results/model_cpu.json

All systems have the same weights and the same clip; logits are compared with torchvision's in float32 before
timing. After a warm-up the systems take turns in one process, so that other load slows all of them. Memory is
the peak resident set size (VmHWM, Linux) of a fresh process for each system.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import (
    Seconds,
    circumstances,
    faulted_mib_and_system_seconds,
    in_fresh_process,
    peak_and_added_mib,
    result_file,
    time_in_turn,
    timing_row,
)
from benchmarks.peers import import_torchvision, relative_difference
from benchmarks.systems import BUILDERS, DTYPES, Pass, backend_of, write_files
from videoswin.acceleration.cpu import linear
from videoswin.cli.demo import make_clip
from videoswin.video.listing import find_videos

PRODUCT = 2048
MULTIPLY_ADDS = 87.76e9
"""Of linear layers and attention, as checked by tests/model/test_golden_counts.py."""
BASE = ("torchvision", "float32")
MAX_DIFFERENCE = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 1e-1}
"""Tolerance of the logits against torchvision's float32 logits, relative to the largest logit."""


def compare(systems: list[tuple[str, str]], rounds: int, files: Path) -> dict[str, Any]:
    """Return a row for each system and precision, and lower bounds; SystemExit if logits differ."""
    passes: dict[str, Pass] = {}
    seconds_to_ready: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    expected = BUILDERS[BASE](files)()
    for system, precision in systems:
        since = time.perf_counter()
        one_pass = BUILDERS[system, precision](files)
        logits = one_pass().float()  # also warms up
        seconds_to_ready[f"{system} {precision}"] = time.perf_counter() - since
        difference = relative_difference(logits, expected)
        if not difference < MAX_DIFFERENCE[precision]:
            raise SystemExit(f"{system}, {precision}: logits differ by {difference}; timing stopped")
        passes[f"{system} {precision}"] = one_pass
        rows.append(
            {
                "system": system,
                "precision": precision,
                "relative_logit_difference": difference,
                "backend": backend_of(system, precision, files, one_pass),
            }
        )
        print(f"{system}, {precision}: ready, logits differ by {difference:.1e}", flush=True)
    wall, cpu = time_in_turn(passes | products(), rounds)
    for row in rows:
        name = f"{row['system']} {row['precision']}"
        row |= timing_row(name, wall, cpu, against=" ".join(BASE))
        row["seconds_to_first_answer"] = round(seconds_to_ready[name], 1)
        row |= in_fresh_process(__file__, "--memory-of", row["system"], row["precision"], str(files))
    return {"floors": floors(wall), "rows": rows}


@torch.inference_mode()
def memory(system: str, precision: str, files: str) -> dict[str, float]:
    """Return peak resident memory and its increase by two passes, and page faults and kernel time of a third.

    Memory is in MiB. Each pass returns the memory of its page faults to the operating system.
    """
    one_pass = BUILDERS[system, precision](Path(files))
    peak, added = peak_and_added_mib(lambda: (one_pass(), one_pass()))
    faulted, in_system = faulted_mib_and_system_seconds(one_pass)
    return {
        "peak_mib": peak,
        "peak_mib_added_by_forward": added,
        "mib_taken_anew": faulted,
        "system_seconds": round(in_system, 3),
    }


def products() -> dict[str, Pass]:
    """Return 2048 x 2048 matrix products by precision, with torch.matmul and with our linear layers."""
    found: dict[str, Pass] = {}
    for name, dtype in DTYPES.items():
        a, b = torch.randn(2, PRODUCT, PRODUCT).to(dtype)
        layer = torch.nn.Linear(PRODUCT, PRODUCT, bias=False, dtype=dtype)
        found[f"{name} product"] = partial(torch.matmul, a, b)
        found[f"{name} product, linear"] = partial(linear, a, layer)
    return found


def floors(wall: Seconds) -> dict[str, dict[str, float]]:
    """Return the seconds of the clip's multiply-adds at the rate of the fastest matrix product."""
    found = {}
    for name in DTYPES:
        seconds = min(min(times) for system, times in wall.items() if system.startswith(f"{name} product"))
        rate = 2 * PRODUCT**3 / seconds
        found[name] = {"gflops": round(rate / 1e9, 1), "seconds": round(2 * MULTIPLY_ADDS / rate, 4)}
    return found


def _films(folder: Path) -> list[str]:
    """Write two synthetic videos, for runs without --clips."""
    for movement in ("pan right", "zoom in"):
        make_clip(movement, folder / f"{movement}.mp4")
    return [str(path) for path in folder.glob("*.mp4")]


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"{'system':<28} {'precision':<9} median s        quartiles  speed  MiB added")
    for row in rows:
        low, high = row["seconds_quartiles"]
        print(
            f"{row['system']:<28} {row['precision']:<9} {row['seconds_median']:>8.3f} "
            f"{low:>8.3f}-{high:<7.3f} "
            f"{row['times_torchvision float32']:>5.2f}x {row['peak_mib_added_by_forward']:>9}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="timed passes of each system")
    parser.add_argument("--clips", help="videos for the calibration of int8: file, folder or pattern")
    parser.add_argument("--output", type=result_file, help="JSON file for the results")
    parser.add_argument(
        "--without-compiled",
        action="store_true",
        help="omit torch.compile, which takes minutes for torchvision",
    )
    parser.add_argument(
        "--memory-of", nargs=3, metavar=("SYSTEM", "PRECISION", "FILES"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(memory(*arguments.memory_of)))
        return
    import_torchvision()
    import nncf
    import onnxruntime
    import openvino

    report: dict[str, Any] = {
        "circumstances": circumstances(
            torchvision=import_torchvision().__version__,
            openvino=openvino.__version__,
            onnxruntime=onnxruntime.__version__,
            nncf=nncf.__version__,
            torch_cpu_capability=torch.backends.cpu.get_cpu_capability(),
        ),
        "clip": "1 x 3 x 32 x 224 x 224",
        "rounds": arguments.rounds,
        "warm_up_passes": 1,
        "int8_scales_chosen_on": arguments.clips or "two generated films",
        "multiply_adds": MULTIPLY_ADDS,
    }
    systems = [name for name in BUILDERS if not (arguments.without_compiled and "compiled" in name[0])]
    with tempfile.TemporaryDirectory() as temporary:
        files = Path(temporary)
        write_files(files, list(find_videos([arguments.clips])) if arguments.clips else _films(files))
        with torch.inference_mode():
            report |= compare(systems, arguments.rounds, files)
    print_table(report["rows"])
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
