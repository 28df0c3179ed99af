"""Notices that the machine slept."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

__all__ = ["SleepClock"]


def _asleep_s() -> float:
    """Seconds spent asleep until now, from a beginning that does not matter.

    Where no clock tells, a wall clock that runs ahead of the other does.
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    return time.time() - time.monotonic()


class SleepClock:
    """Tells how long the machine slept since it was asked last."""

    __slots__ = ("_asleep", "_last")

    def __init__(self, asleep: Callable[[], float] = _asleep_s) -> None:
        self._asleep = asleep
        self._last = asleep()

    def slept(self) -> float:
        """Seconds; a wall clock that was set back counts as none."""
        last, self._last = self._last, self._asleep()
        return max(0.0, self._last - last)
