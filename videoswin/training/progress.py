"""How training goes, for whoever watches: a live bar, and lines that stay."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """A bar over all steps with loss, clips/s and the part of the time spent waiting for data.

    Goes to stderr; only the first process of a distributed run shows anything.
    """

    def __init__(self, name: str, steps: int, *, shown: bool) -> None:
        self._shown = shown
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (shown and self._console.is_terminal),
        )
        self._task = self._bar.add_task(name, total=steps, facts="")
        self._clips, self._waited, self._since = 0, 0.0, time.monotonic()

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def made(self, steps: int) -> None:
        """So many steps were made before."""
        self._bar.update(self._task, completed=steps)

    def waited(self, seconds: float) -> None:
        """This long no batch was ready."""
        self._waited += seconds

    def stepped(self, clips: int) -> None:
        """One more step, of so many clips over all devices."""
        self._clips += clips
        self._bar.advance(self._task)

    def speed(self) -> dict[str, float]:
        """Clips a second and the part of the time that was waiting, since this was last asked."""
        now = time.monotonic()
        passed = max(now - self._since, 1e-9)
        facts = {"clips_per_second": self._clips / passed, "data_wait": min(self._waited / passed, 1.0)}
        self._clips, self._waited, self._since = 0, 0.0, now
        return facts

    def show(self, facts: str) -> None:
        """Facts beside the bar; a line of their own where there is no live display."""
        self._bar.update(self._task, facts=facts)
        if not self._console.is_terminal:
            self.say(facts)

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._shown:
            self._console.print(line, markup=False)
