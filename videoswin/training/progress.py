"""Show the progress of training in steps, and measure its speed and the time spent waiting for data."""

from __future__ import annotations

import time

from videoswin._progress import Progress


class TrainingProgress(Progress):
    """Progress over all steps that also measures clips/s and the fraction of time spent waiting for data.

    In a distributed run only the first process prints.
    """

    def __init__(self, num_steps: int, *, shown: bool) -> None:
        """Start the measurement.

        Args:
            num_steps: Number of steps of the whole run.
            shown: False in every process but the first.
        """
        super().__init__("train", num_steps, "steps", shown=shown)
        self._num_clips, self._waiting_seconds, self._start_of_interval = 0, 0.0, time.monotonic()

    def add_waiting_time(self, seconds: float) -> None:
        """Add time during which no batch was ready."""
        self._waiting_seconds += seconds

    def count_step(self, num_clips: int) -> None:
        """Count one step with this number of clips over all devices."""
        self._num_clips += num_clips
        self.count()

    def measure_speed(self) -> dict[str, float]:
        """Return clips per second and the fraction of time spent waiting for data since the last call."""
        now = time.monotonic()
        seconds = max(now - self._start_of_interval, 1e-9)
        speed = {
            "clips_per_second": self._num_clips / seconds,
            "data_wait": min(self._waiting_seconds / seconds, 1.0),
        }
        self._num_clips, self._waiting_seconds, self._start_of_interval = 0, 0.0, now
        return speed
