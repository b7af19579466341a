"""Progress of long work: lines off a terminal, at growing intervals, by a clock of the test's own."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from videoswin._progress import Progress, format_duration


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def lines_of(
    total: int, seconds_per_unit: float, *, done_before: int = 0, facts: str | None = None, **options: object
) -> list[tuple[float, str]]:
    """When each line was printed, and the line."""
    clock, text = Clock(), io.StringIO()
    lines: list[tuple[float, str]] = []

    def collect() -> Iterator[tuple[float, str]]:
        for line in text.getvalue().splitlines():
            yield clock.seconds, line
        text.seek(0)
        text.truncate()

    console = Console(file=text, soft_wrap=True, highlight=False)
    with Progress("check", total, "files", console=console, clock=clock, **options) as progress:
        progress.resume(done_before)
        lines += collect()
        for _ in range(done_before, total):
            clock.seconds += seconds_per_unit
            progress.advance(facts)
            lines += collect()
    return [*lines, *collect()]


def test_the_first_line_comes_before_the_work_and_the_last_says_how_long_it_took() -> None:
    lines = lines_of(100, 1.0)
    assert lines[0] == (0, "check: 100 files")
    assert lines[-1] == (100, "check: 100 of 100 files (100 %), took 1 min 40 s")


def test_lines_come_at_growing_intervals_with_speed_and_time_left() -> None:
    lines = lines_of(100, 1.0)[1:-1]
    assert [when for when, _ in lines] == [5, 15, 35, 75]
    assert lines[0][1] == "check: 5 of 100 files (5 %), 1 files/s, 1 min 35 s left"
    assert lines[-1][1] == "check: 75 of 100 files (75 %), 1 files/s, 25 s left"


def test_the_interval_stops_growing_after_five_minutes() -> None:
    when = [seconds for seconds, _ in lines_of(3600, 1.0)[1:-1]]
    assert {later - earlier for earlier, later in zip(when[-8:], when[-7:], strict=False)} == {300}


def test_slow_units_give_a_line_each_and_a_speed_of_two_digits() -> None:
    lines = lines_of(3, 40.0)
    assert lines[1] == (40, "check: 1 of 3 files (33 %), 0.025 files/s, 1 min 20 s left")
    assert len(lines) == 4


def test_quick_work_gives_one_line() -> None:
    assert lines_of(100, 0.01) == [(0, "check: 100 files")]


def test_facts_stand_at_the_end_of_the_line() -> None:
    assert lines_of(100, 1.0, facts="3 damaged")[1][1].endswith("1 min 35 s left, 3 damaged")


def test_units_of_an_earlier_process_say_nothing_about_the_speed() -> None:
    lines = lines_of(1000, 1.0, done_before=900)
    assert lines[1][1] == "check: 905 of 1000 files (90 %), 1 files/s, 1 min 35 s left"


def test_nothing_is_printed_if_it_is_not_shown() -> None:
    assert lines_of(100, 1.0, shown=False) == []


def test_no_last_line_claims_an_end_that_was_not_reached() -> None:
    clock, text = Clock(), io.StringIO()
    with Progress("check", 10, "files", console=Console(file=text), clock=clock) as progress:
        clock.seconds += 100
        progress.advance()
    assert "took" not in text.getvalue()


def test_a_terminal_has_a_live_bar_and_no_lines() -> None:
    clock, text = Clock(), io.StringIO()
    console = Console(file=text, force_terminal=True, width=100)
    with Progress("check", 10, "files", console=console, clock=clock) as progress:
        for _ in range(10):
            clock.seconds += 10
            progress.advance("3 damaged")
    assert "10/10" in text.getvalue()
    assert "3 damaged" in text.getvalue()
    assert "left" not in text.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.9, "1 h 00 min"), (100_000, "27 h 46 min")],
)
def test_durations_are_told_in_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_work_of_unknown_size_shows_what_is_done() -> None:
    clock, text = Clock(), io.StringIO()
    with Progress("model.pth", None, "MB", console=Console(file=text), clock=clock) as progress:
        for done in (10, 20, 30):
            clock.seconds += 4
            progress.advance_to(done)
    assert text.getvalue().splitlines() == ["model.pth", "model.pth: 20 MB, 2.5 MB/s"]
