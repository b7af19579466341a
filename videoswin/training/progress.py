"""Progress of training: steps, and how much of the time is spent waiting for data."""

from __future__ import annotations

import time

from videoswin._progress import Progress


class TrainingProgress(Progress):
    """Progress over all steps that also measures clips/s and the part of the time spent waiting for data.

    Only the first process of a distributed run shows anything.
    """

    def __init__(self, steps: int, *, shown: bool) -> None:
        super().__init__("train", steps, "steps", shown=shown)
        self._clips, self._waited, self._since = 0, 0.0, time.monotonic()

    def waited(self, seconds: float) -> None:
        """This long no batch was ready."""
        self._waited += seconds

    def stepped(self, clips: int) -> None:
        """One more step, of so many clips over all devices."""
        self._clips += clips
        self.count()

    def speed(self) -> dict[str, float]:
        """Clips a second and the part of the time that was waiting, since this was last asked."""
        now = time.monotonic()
        passed = max(now - self._since, 1e-9)
        facts = {"clips_per_second": self._clips / passed, "data_wait": min(self._waited / passed, 1.0)}
        self._clips, self._waited, self._since = 0, 0.0, now
        return facts
