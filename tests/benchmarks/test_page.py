"""docs/performance.md says what the result files say, and no number in it was typed by hand."""

from pathlib import Path

from benchmarks import page


def test_the_page_is_what_the_results_make() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


def test_the_readme_has_the_seconds_of_the_results() -> None:
    readme = page.README.read_text(encoding="utf-8")
    found = page.results("model_cpu")
    assert found is not None
    assert readme == page.with_speed(readme, found)


def test_its_plots_are_there() -> None:
    for name in ("performance-model.png", "performance-growth.png"):
        assert Path(page.PAGE.parent, name).stat().st_size > 10_000
        assert f"({name})" in page.page()
