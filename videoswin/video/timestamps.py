"""When the frames of a video are shown, and which frame is on show when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

UNKNOWN_FPS = 25.0
"""Frames a second of a file that neither states its rate nor has timestamps to measure it by."""

TOLERANCE_SECONDS = 1e-3
"""Files and lists round times to a millisecond; times that are this close are the same."""

# The rate is measured over this many frames, since pulldown alternates between two steps.
_FRAMES_MEASURED = 10
# As FFmpeg's -dts_delta_threshold: in formats that allow it, a longer step is a jump of the clock.
_CLOCK_JUMP_SECONDS = 10.0


def measure_rate(times: NDArray[np.float64], stated: Iterable[float]) -> float:
    """Return the rate in frames a second, by the median step between frames.

    Args:
        times: Seconds at which each frame is shown, in increasing order.
        stated: Rates that the file states, 0 where it does not; the first that agrees to about 1 % is
            returned, else what was measured. Where there are fewer than two frames, the first counts.
    """
    stated = [rate for rate in stated if rate]
    if len(times) < 2:
        return stated[0] if stated else UNKNOWN_FPS
    apart = min(_FRAMES_MEASURED, len(times) - 1)
    step = float(np.median(times[apart:] - times[:-apart])) / apart
    for rate in stated:
        if abs(step - 1 / rate) <= 0.01 * step + TOLERANCE_SECONDS / apart:
            return rate
    return 1 / step


def close_clock_jumps(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the times with steps of more than 10 seconds replaced by the median step."""
    steps = np.diff(times)
    if not (steps > _CLOCK_JUMP_SECONDS).any():
        return times
    return np.append(0.0, np.cumsum(np.where(steps > _CLOCK_JUMP_SECONDS, np.median(steps), steps)))


def varying_times(times: NDArray[np.float64], fps: float) -> NDArray[np.float64] | None:
    """Return the times counted from the first; None if each is within half a step of a constant rate."""
    if not len(times):
        return None
    times = times - times[0]
    is_constant = np.abs(times * fps - np.arange(len(times))).max() <= 0.5
    return None if is_constant else times


def frames_shown_at(seconds: Sequence[float], times: NDArray[np.float64], fps: float) -> list[int]:
    """Return the frame on show at each moment: the last whose time has come, or the first."""
    moments = np.asarray(seconds, dtype=np.float64) + tolerance(fps)
    frames: list[int] = np.maximum(np.searchsorted(times, moments, side="right") - 1, 0).tolist()
    return frames


def tolerance(fps: float) -> float:
    """Return how far times may be apart and still be the same, in seconds."""
    return min(TOLERANCE_SECONDS, 0.25 / fps)
