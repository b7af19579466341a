"""Progress on stderr: a progress bar on a terminal, else plain lines with the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from videoswin._text import printable

if TYPE_CHECKING:
    from rich.console import Console

FIRST_LINE_SECONDS: Final = 5.0
"""Time before the first plain line; the interval doubles with every further line."""
MAX_INTERVAL_SECONDS: Final = 300.0
"""Maximum interval between plain lines."""


class Progress:
    """Progress of a known or unknown number of units: count, speed and remaining time.

    Use it as a context manager. It writes to stderr, so that it does not mix with the output.

    Example:
        with Progress("check", len(paths), "files") as progress:
            for path in paths:
                check(path)
                progress.advance()
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        *,
        shown: bool = True,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the progress; nothing is printed before the context is entered.

        Args:
            title: Name of the work, in a word.
            total: Number of units; None if unknown.
            unit: Name of the units in the plural.
            shown: False to print nothing, as in all processes except the first.
            console: Console to print to instead of stderr.
            clock: Returns seconds since any fixed time.
        """
        # Imported here, because a prediction shows no progress and should not wait for the import.
        import rich.progress
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        self._title, self._total, self._unit, self._shown, self._clock = title, total, unit, shown, clock
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_live = shown and self._console.is_terminal
        self._bar = rich.progress.Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._is_live,
            get_time=clock,
        )
        self._task = self._bar.add_task(title, total=total, facts="")
        self._done = self._done_before = 0
        self._facts = ""
        self._start = self._last_line = clock()
        self._interval = FIRST_LINE_SECONDS

    def __enter__(self) -> Progress:
        self._start = self._last_line = self._clock()
        self._bar.start()
        if not self._is_live:
            self.print_line(
                self._title if self._total is None else f"{self._title}: {self._total} {self._unit_of_total}"
            )
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if not self._is_live and self._done == self._total and self._elapsed > FIRST_LINE_SECONDS:
            self.print_line(f"{self._count_text}, took {format_duration(self._elapsed)}")

    def resume(self, done: int) -> None:
        """Set the number of units finished before this process started, which do not count for the speed."""
        self._done = self._done_before = done
        self._bar.update(self._task, completed=done)

    def advance(self, facts: str | None = None) -> None:
        """Count one more unit, and print a line if it is due.

        Args:
            facts: New text next to the count; None keeps the current text.
        """
        self.count(facts)
        self.report_if_due()

    def advance_to(self, done: int) -> None:
        """Set the number of finished units, and print a line if it is due."""
        self._done = done
        self._bar.update(self._task, completed=done, facts=f"{self._speed}  {self._facts}")
        self.report_if_due()

    def count(self, facts: str | None = None) -> None:
        """Count one more unit without printing a line."""
        self._done += 1
        if facts is not None:
            self._facts = facts
        self._bar.update(self._task, completed=self._done, facts=f"{self._speed}  {self._facts}")

    def report_if_due(self) -> None:
        """Print a line if the interval since the last line has passed."""
        elapsed = self._clock() - self._last_line
        if (
            not self._is_live
            and elapsed >= self._interval
            and (self._total is None or self._done < self._total)
        ):
            self._interval = min(2 * self._interval, MAX_INTERVAL_SECONDS)
            self.report()

    def report(self, facts: str | None = None) -> None:
        """Update the text next to the bar, or print a line if there is no terminal."""
        if facts is not None:
            self._facts = facts
        self._bar.update(self._task, facts=f"{self._speed}  {self._facts}")
        if not self._is_live:
            self._last_line = self._clock()
            left = "" if self._total is None else f"{format_duration(self._seconds_left(self._total))} left"
            self.print_line(", ".join(filter(None, (self._count_text, self._speed, left, self._facts))))

    def print_line(self, line: str) -> None:
        """Print a permanent line."""
        if self._shown:
            self._console.print(printable(line), markup=False)

    @property
    def _elapsed(self) -> float:
        return self._clock() - self._start

    @property
    def _count_text(self) -> str:
        if self._total is None:
            return f"{self._title}: {self._done} {self._unit}"
        percent = 100 * self._done // max(self._total, 1)
        return f"{self._title}: {self._done} of {self._total} {self._unit_of_total} ({percent} %)"

    @property
    def _unit_of_total(self) -> str:
        return self._unit.removesuffix("s") if self._total == 1 else self._unit

    @property
    def _speed(self) -> str:
        per_second = (self._done - self._done_before) / max(self._elapsed, 1e-9)
        return f"{per_second:.2g} {self._unit}/s" if per_second < 10 else f"{per_second:.0f} {self._unit}/s"

    def _seconds_left(self, total: int) -> float:
        return (total - self._done) * self._elapsed / max(self._done - self._done_before, 1)


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units, such as `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
