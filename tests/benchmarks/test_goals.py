"""Goals are held against the figures themselves, not against what is shown of them."""

from typing import Any

import pytest

from benchmarks import page
from benchmarks.goals import Goal, goals_section
from benchmarks.gpu_page import gpu_section


@pytest.mark.parametrize(
    ("reached", "verdict"), [(0.896, "**missed**"), (0.9, "reached"), (1.1, "reached"), (1.104, "**missed**")]
)
def test_a_figure_that_is_rounded_to_its_bound_does_not_keep_it(reached: float, verdict: str) -> None:
    assert Goal("growth", 0.9, 1.1, reached).line()[-1] == verdict


def test_quartiles_stand_beside_the_figure_and_do_not_change_the_verdict() -> None:
    goal = Goal("speed", 2.0, None, 2.1, quartiles=(1.9, 2.3))
    assert goal.line() == ("speed", "at least 2.00", "2.10 (1.90 to 2.30)", "reached")


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert Goal("speed", 2.0, None, None).line() == ("speed", "at least 2.00", "not measured yet", "")


MACHINE = {"torch": "2.11.0", "date": "2026-11-25", "copy_GB_per_s": 4000, "bfloat16_TFLOP_per_s": 600}


def gpu(system: str, ms: float, clips: int = 8) -> dict[str, Any]:
    return {"variant": "T", "system": system, "clips": clips, "ms": ms * clips, "ms_per_clip": ms}


FOUND = {
    "gpu": {
        "machine": {**MACHINE, "name": "NVIDIA H100"},
        "inference": [
            gpu("torchvision, autocast", 2.0),
            gpu("torchvision, compiled, autocast", 1.2),
            gpu("reference, bfloat16", 0.1),  # neither ours nor torchvision's
            gpu("torchvision, bfloat16", 0.2),  # not the peer that was named
            gpu("triton, autocast", 0.9),
            gpu("fused, bfloat16", 0.5),
            gpu("torchvision, autocast", 9.0, clips=1),
            gpu("fused, bfloat16, CUDA graph", 1.5, clips=1),
            {"variant": "T", "clips": 32, "system": "boxes, autocast", "failed": "out of memory"},
            {"failed": "RuntimeError: the section ended here"},
        ],
        "training": [
            {**gpu("torchvision, autocast", 40.0), "peak_MiB_per_clip": 2000},
            {**gpu("boxes, autocast", 30.0), "peak_MiB_per_clip": 100},  # not the quickest of ours
            {**gpu("triton, autocast", 25.0), "peak_MiB_per_clip": 500},
        ],
    }
}


def test_ratios_on_a_gpu_are_of_the_best_of_ours_to_the_best_of_the_peer() -> None:
    section = goals_section(FOUND.get)
    assert "NVIDIA H100; the goals are for an H200" in section
    lines = section.splitlines()
    for line in (
        "| GPU, Swin-T, times eager | at least 2.50 | 4.00 | reached |",
        "| GPU, Swin-T, times compiled | at least 1.70 | 2.40 | reached |",
        "| GPU, Swin-T, one clip, times eager | at least 4.00 | 6.00 | reached |",
        "| GPU, Swin-T, training step, times eager | at least 2.00 | 1.60 | **missed** |",
        "| GPU, Swin-T, training memory a clip, of eager | at most 40.0% | 25.0% | reached |",
        "| GPU, Swin-T, milliseconds a clip | at most 0.63 | 0.50 | reached |",
        "| GPU, Swin-B, times eager | at least 2.50 | not measured yet |  |",
        "| GPU, Swin-B, milliseconds a clip | at most 1.66 | not measured yet |  |",
        "| PyTorch float32, times eager | at least 2.30 | not measured yet |  |",
    ):
        assert line in lines


def test_a_run_that_was_cut_off_has_what_it_has() -> None:
    found = {"gpu": {"machine": MACHINE}}
    assert "| GPU, Swin-T, times eager | at least 2.50 | not measured yet |  |" in goals_section(found.get)
    assert "no GPU" in gpu_section(found["gpu"])


def test_the_committed_figures_have_a_verdict_for_every_goal_on_a_cpu() -> None:
    cpu, _ = goals_section(page.results).split("On the GPU")
    assert "not measured yet" not in cpu
