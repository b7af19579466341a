"""Time of window attention with its linear layers in each stage, compared with other implementations.

    python benchmarks/attention_cpu.py --output benchmarks/results/attention_cpu.json

The four grids of Swin-T on one 32 x 224 x 224 clip, plain and shifted windows, float32 and bfloat16, the same
weights. Outputs are compared with torchvision's in float32 before timing; the systems take turns in one
process.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import circumstances, result_file, time_in_turn, timing_row
from benchmarks.peers import import_torchvision, relative_difference, torchvision_swin3d
from benchmarks.reference import fused_with_full_mask, materialised, stage_mask
from benchmarks.systems import DTYPES, reference, swin, torch_kernels_of
from videoswin.acceleration.cpu import attention_in_pieces
from videoswin.model.config import TINY

GRIDS = ((16, 56, 56), (16, 28, 28), (16, 14, 14), (16, 7, 7))
"""Tokens along time, height and width in each stage."""
MAX_DIFFERENCE = {"float32": 1e-5, "bfloat16": 3e-2}
SYSTEMS = ("torchvision", "official mathematics", "full mask, SDPA", "videoswin")


def attention_of(system: str, stage: int, block: int, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Return the attention of one block of a model: (B, D, H, W, C) -> (B, D, H, W, C)."""
    if system == "torchvision":
        name = f"features.{2 * stage}.{block}.attn"
        return torchvision_swin3d(swin(), "t").to(dtype).get_submodule(name)
    if system == "videoswin":
        attn = swin().to(dtype).get_submodule(f"stages.{stage}.blocks.{block}.attn")
        return partial(attention_in_pieces, attn=attn)
    attend = materialised if system == "official mathematics" else fused_with_full_mask
    model = reference(attend).to(dtype)
    # The mask is computed once per stage, not in every block, so it is not timed here.
    mask = stage_mask(GRIDS[stage], TINY.window, dtype)
    return partial(model.stages[stage].blocks[block].attended, mask=mask)


def compare(stage: int, block: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row of measurements for each system and dtype; SystemExit if their outputs differ."""
    x = torch.randn(1, *GRIDS[stage], TINY.stage_dim(stage), generator=torch.Generator().manual_seed(2))
    expected = attention_of("torchvision", stage, block, torch.float32)(x)
    rows = []
    for name, dtype in DTYPES.items():
        passes = {
            system: partial(attention_of(system, stage, block, dtype), x.to(dtype)) for system in SYSTEMS
        }
        differences = {system: relative_difference(run(), expected) for system, run in passes.items()}
        if not all(difference < MAX_DIFFERENCE[name] for difference in differences.values()):
            raise SystemExit(f"stage {stage}, {name}: outputs differ: {differences}; timing stopped")
        wall, cpu = time_in_turn(passes, rounds)
        for system in SYSTEMS:
            rows.append(
                {
                    "stage": stage + 1,
                    "windows": "shifted" if block else "plain",
                    "precision": name,
                    "system": system,
                    **timing_row(system, wall, cpu),
                    "relative_difference": differences[system],
                    "backend": torch_kernels_of(passes[system]),
                }
            )
    return rows


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed passes of each system")
    parser.add_argument("--output", type=result_file, help="JSON file for the results")
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "circumstances": circumstances(torchvision=import_torchvision().__version__),
        "rounds": arguments.rounds,
        "warm_up_passes": 1,
        "rows": [],
    }
    for stage in range(len(GRIDS)):
        for block in (0, 1):
            report["rows"] += (rows := compare(stage, block, arguments.rounds))
            for row in rows:
                print(
                    f"stage {row['stage']} {row['windows']:<8} {row['precision']:<9} {row['system']:<21}"
                    f"{1e3 * row['seconds_median']:8.1f} ms {row['times_torchvision']:6.2f}x",
                    flush=True,
                )
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
