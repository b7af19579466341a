"""Time and memory of one training step of Swin-T, compared with torchvision.

    python benchmarks/training.py --rounds 5 --output benchmarks/results/training_cpu.json

A step is forward pass, cross-entropy, backward pass and AdamW, in float32 and under bfloat16 autocast. Both
systems have the same initial weights and clips and take turns in one process; gradients are compared before
timing. Dropout and drop path are off, because their random numbers would make gradients differ. Memory is the
peak resident set size (VmHWM, Linux) in a fresh process for each row.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
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
from benchmarks.peers import as_trained, import_torchvision, torchvision_name, torchvision_swin3d
from benchmarks.systems import torch_kernels_of
from videoswin.acceleration.cpu import recompute_attention
from videoswin.model.config import TINY
from videoswin.model.swin import VideoSwin

SYSTEMS = ("torchvision", "videoswin")
DTYPES = ("float32", "bfloat16")
SHAPES = {"32x224x224": (1, 3, 32, 224, 224), "16x112x112": (4, 3, 16, 112, 112)}
"""Clips of one step: (batch, colors, frames, height, width)."""
MAX_DIFFERENCE = {"float32": 1e-5, "bfloat16": 5e-2}
"""Tolerance of the gradients against torchvision's float32 gradients, see `gradient_difference`."""


class Trainer:
    """A model, its optimizer and its training clips."""

    def __init__(self, system: str, dtype: str, shape: str) -> None:
        torch.manual_seed(0)
        self.clips = torch.randn(SHAPES[shape])
        self.targets = torch.randint(TINY.num_classes, (len(self.clips),))
        self.dtype = dtype
        # In eval mode both models only omit dropout and drop path. At 112 pixels, grids are smaller than a
        # window, and torchvision then reads other bias entries; `sliced_bias` does the same.
        model = VideoSwin(TINY.replace(sliced_bias=True), attention=recompute_attention)
        self.model: nn.Module = as_trained(model).eval()
        if system == "torchvision":
            self.model = torchvision_swin3d(self.model, "t")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def step(self) -> None:
        """Run one training step."""
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def backward(self) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bfloat16"):
            logits = self.model(self.clips)
        F.cross_entropy(logits.float(), self.targets).backward()

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradient of every parameter by torchvision's names, and clear the gradients."""
        self.backward()
        found = {
            torchvision_name(name): parameter.grad.clone()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        self.optimizer.zero_grad()
        return found


def compare(shape: str, rounds: int) -> list[dict[str, Any]]:
    """Return a row of measurements for each dtype and system; SystemExit if their gradients differ."""
    rows: list[dict[str, Any]] = []
    reference: dict[str, Tensor] = {}
    for dtype in DTYPES:
        trainers = {system: Trainer(system, dtype, shape) for system in SYSTEMS}
        gradients = {system: trainer.gradients() for system, trainer in trainers.items()}
        reference = reference or gradients["torchvision"]
        differences = {system: gradient_difference(gradients[system], reference) for system in SYSTEMS}
        if not all(difference < MAX_DIFFERENCE[dtype] for difference in differences.values()):
            raise SystemExit(f"{shape} {dtype} gradients differ: {differences}; timing stopped")
        del gradients
        passes = {system: trainer.step for system, trainer in trainers.items()}
        for one_pass in passes.values():
            one_pass()  # allocates the optimizer's state
        wall, cpu = time_in_turn(passes, rounds)
        for system in SYSTEMS:
            rows.append(
                {
                    "clips": f"{SHAPES[shape][0]} x {shape}",
                    "system": system,
                    "dtype": dtype,
                    **timing_row(system, wall, cpu),
                    "gradient_difference": differences[system],
                    "backend": torch_kernels_of(passes[system]),
                    **in_fresh_process(__file__, "--memory-of", system, dtype, shape),
                }
            )
    return rows


def gradient_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Return |ours - theirs| / |theirs| in the Euclidean norm over all parameters."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    apart = sum(float((ours[name] - theirs[name]).square().sum()) for name in theirs)
    return (apart / sum(float(gradient.square().sum()) for gradient in theirs.values())) ** 0.5


def memory(system: str, dtype: str, shape: str) -> dict[str, int]:
    """Return the peak resident memory of this process and its increase by two steps, in MiB."""
    trainer = Trainer(system, dtype, shape)
    peak, added = peak_and_added_mib(lambda: (trainer.step(), trainer.step()))
    return {"peak_mib": peak, "peak_mib_added_by_steps": added}


def print_table(rows: list[dict[str, Any]]) -> None:
    print("clips           system       dtype      median s        quartiles  speed   CPU s  MiB added")
    for row in rows:
        low, high = row["seconds_quartiles"]
        print(
            f"{row['clips']:<15} {row['system']:<12} {row['dtype']:<9} {row['seconds_median']:>9.3f}"
            f" {low:>8.3f}-{high:<7.3f} {row['times_torchvision']:>5.2f}x {row['cpu_seconds_median']:>7.2f}"
            f" {row['peak_mib_added_by_steps']:>10}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each system")
    parser.add_argument("--output", type=result_file, help="JSON file for the results")
    parser.add_argument("--quick", action="store_true", help="two rounds of the small clips only")
    parser.add_argument("--memory-of", nargs=3, metavar=("SYSTEM", "DTYPE", "SHAPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(memory(*arguments.memory_of)))
        return
    report: dict[str, Any] = {
        "circumstances": circumstances(torchvision=import_torchvision().__version__),
        "rounds": 2 if arguments.quick else arguments.rounds,
        "warm_up_passes": 1,
        "rows": [],
    }
    for shape in ("16x112x112",) if arguments.quick else SHAPES:
        report["rows"] += compare(shape, report["rounds"])
    print_table(report["rows"])
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
