"""Every section of the GPU benchmark runs at a tiny size on a CPU, where its numbers mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_page import gpu_section
from benchmarks.gpu_timing import time_in_turn

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton interprets only where there is no GPU")
def test_a_dry_run_fills_every_section(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    result = tmp_path / "result.json"
    subprocess.run(
        [sys.executable, str(SCRIPT), str(result), "--dry-run"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    report = json.loads(result.read_text())
    assert report.keys() == {
        "machine", "correctness", "attention", "branches", "inference", "training", "tiles",
    }  # fmt: skip
    assert all(row["right"] for row in report["correctness"])
    page = gpu_section(report)
    assert page.count("triton, bfloat16") == 4  # two models, the best batch and a single clip
    assert page.count("fused, bfloat16") == 4
    assert page.count("| mlp |") == 4  # two stages of two models
    assert "no GPU" in page
    rows = [
        row for name in ("attention", "branches", "inference", "training", "tiles") for row in report[name]
    ]
    assert {row.get("failed") for row in rows} == {None, "not here"}
    assert {row["pass"] for row in report["tiles"]} == {
        "forward",
        "qkv",
        "mlp",
        *(f"backward, {kernel} kernel" for kernel in ("query", "key", "bias")),
    }


def test_a_system_that_runs_out_of_memory_says_so_beside_the_times_of_others() -> None:
    def greedy(number: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    rows = time_in_turn({"greedy": greedy, "modest": lambda number: number}, torch.device("cpu"), 0.0)
    assert rows["greedy"] == {"failed": "out of memory: CUDA out of memory. Tried to allocate 20 GiB."}
    assert rows["modest"]["ms"] >= 0
