"""docs/performance.md contains the committed results, and no number in it was typed by hand."""

from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.gpu_page import gpu_section

MACHINE = {"torch": "2.11.0", "date": "2026-11-25", "copy_GB_per_s": 4000, "bfloat16_TFLOP_per_s": 600}


def test_the_page_equals_the_output_of_its_generator() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


def test_a_section_without_a_result_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    assert page.page() == page.INTRODUCTION.strip() + "\n"


def test_a_gpu_run_that_was_cut_off_still_has_a_section() -> None:
    assert "no GPU" in gpu_section({"machine": MACHINE})


def test_its_plots_exist() -> None:
    for name in ("performance-model.png", "performance-growth.png"):
        assert Path(page.PAGE.parent, name).stat().st_size > 10_000
        assert f"({name})" in page.page()
