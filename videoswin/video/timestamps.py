"""Convert between frames and display times: frame rate, variable rates, and the frame at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

UNKNOWN_FPS = 25.0
"""Frame rate of a file that neither states its rate nor has timestamps to measure it."""

TOLERANCE_SECONDS = 1e-3
"""Largest difference between equal times: files and lists round times to a millisecond."""

# The rate is measured over several frames, because pulldown alternates between two steps.
_FRAMES_MEASURED = 10
# In formats that allow jumps of the clock, a longer step is one. The value is FFmpeg's -dts_delta_threshold.
CLOCK_JUMP_SECONDS = 10.0


def measure_rate(times: NDArray[np.float64], stated: Iterable[float]) -> float:
    """Return the frame rate in frames per second, by the median step between frames.

    Args:
        times: Display time of each frame in seconds, in increasing order.
        stated: Rates stated in the file; 0 is ignored.

    Returns:
        The first stated rate that agrees with the measured one to about 1 %, else the measured rate. With
        fewer than two frames, the first stated rate, else UNKNOWN_FPS.
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
    if not (steps > CLOCK_JUMP_SECONDS).any():
        return times
    return np.append(0.0, np.cumsum(np.where(steps > CLOCK_JUMP_SECONDS, np.median(steps), steps)))


def variable_rate_times(times: NDArray[np.float64], fps: float) -> NDArray[np.float64] | None:
    """Return the times relative to the first; None if all are within half a step of a constant rate."""
    if not len(times):
        return None
    times = times - times[0]
    is_constant = np.abs(times * fps - np.arange(len(times))).max() <= 0.5
    return None if is_constant else times


def frames_at(seconds: Sequence[float], times: NDArray[np.float64], fps: float) -> list[int]:
    """Return the index of the frame displayed at each time: the last frame at or before it, or the first."""
    moments = np.asarray(seconds, dtype=np.float64) + tolerance(fps)
    frames: list[int] = np.maximum(np.searchsorted(times, moments, side="right") - 1, 0).tolist()
    return frames


def tolerance(fps: float) -> float:
    """Return the largest difference between equal times in seconds, at most a quarter of a frame."""
    return min(TOLERANCE_SECONDS, 0.25 / fps)
