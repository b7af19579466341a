"""Every section of the GPU benchmark runs at a tiny size on a CPU, where its numbers mean nothing."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu_page import gpu_section

pytest.importorskip("triton")

from benchmarks import gpu
from benchmarks.gpu_timing import Deadline, time_in_turn


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "--dry-run"])
    gpu.main()


@pytest.mark.slow  # Triton's interpreter and three compilations take half a minute.
@pytest.mark.timeout(3600)  # a slow machine must not fail
@pytest.mark.filterwarnings("default")  # of the compiler; the script would report them as failures
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton interprets only where there is no GPU")
def test_a_dry_run_fills_every_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_of_each_kind = ("reference, compiled, autocast", "triton, compiled blocks, autocast")
    monkeypatch.setattr(gpu, "COMPILED", {name: gpu.COMPILED[name] for name in one_of_each_kind})
    result = tmp_path / "result.json"
    run(monkeypatch, str(result))
    report = json.loads(result.read_text())
    assert report.keys() == {
        "machine", "correctness", "attention", "branches", "inference", "training", "tiles",
    }  # fmt: skip
    assert [row for row in report["correctness"] if not row["right"]] == []
    page = gpu_section(report)
    assert page.count("triton, bfloat16") == 2  # the best batch and a single clip
    assert page.count("fused, bfloat16") == 2
    assert page.count("| mlp |") == 1
    assert "| pass | materialised | sdpa with full mask | boxes | triton |" in page
    # Plain and shifted windows.
    assert page.count("| forward |") == page.count("| forward and backward |") == 2
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
    failure = "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB."
    assert rows["greedy"] == {"failed": failure}
    assert rows["modest"]["ms"] >= 0


def test_figures_of_another_machine_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "gpu.json"
    before = json.dumps({"machine": {"name": "NVIDIA H200", "torch": "2.11"}, "inference": [1]})
    result.write_text(before)
    with pytest.raises(SystemExit, match=r"has figures of .*H200.*: name another file"):
        run(monkeypatch, str(result))
    assert result.read_text() == before


def test_a_section_that_breaks_off_keeps_its_rows_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(bench: gpu.Bench, deadline: Deadline) -> Iterator[dict[str, int]]:
        yield {"number": 1}
        raise RuntimeError("illegal memory access")

    def goes_on(bench: gpu.Bench, deadline: Deadline) -> Iterator[dict[str, int]]:
        yield {"number": 2}

    monkeypatch.setattr(gpu, "SECTIONS", {"attention": breaks, "tiles": goes_on})
    result = tmp_path / "gpu.json"
    with pytest.raises(SystemExit, match="failed: attention"):
        run(monkeypatch, str(result))
    found = json.loads(result.read_text())
    assert found["attention"] == [{"number": 1}, {"failed": "RuntimeError: illegal memory access"}]
    assert found["tiles"] == [{"number": 2}]


def test_a_dry_run_has_no_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(bench: gpu.Bench, deadline: Deadline) -> Iterator[dict[str, bool]]:
        monkeypatch.setattr("benchmarks.gpu_timing.time", SimpleNamespace(monotonic=lambda: 1e12))
        yield {"late": deadline.passed()}

    monkeypatch.setattr(gpu, "SECTIONS", {"attention": late})
    run(monkeypatch, str(tmp_path / "gpu.json"))
    assert json.loads((tmp_path / "gpu.json").read_text())["attention"] == [{"late": False}]


def test_a_system_that_cannot_run_is_named_and_the_others_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(torch.nn.Module):
        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no ptxas")

    only = {name: gpu.EAGER[name] for name in ("reference, autocast", "boxes, bfloat16")}
    only["broken"] = dataclasses.replace(only["boxes, bfloat16"], build=lambda _: Broken())
    monkeypatch.setattr(gpu, "EAGER", only)
    monkeypatch.setattr(gpu, "COMPILED", {})
    result = tmp_path / "gpu.json"
    run(monkeypatch, str(result), "--sections", "correctness", "inference")
    found = json.loads(result.read_text())
    rows = {row["system"]: row for row in found["correctness"] if row["variant"] == "T"}
    assert rows["broken"]["failed"] == "RuntimeError: no ptxas"
    assert [rows[name]["right"] for name in only] == [True, True, False]
    rows = {row["system"]: row for row in found["inference"] if row["variant"] == "T"}
    assert rows["broken"]["failed"] == "RuntimeError: no ptxas"
    assert all("ms" in rows[name] for name in only if name != "broken")
