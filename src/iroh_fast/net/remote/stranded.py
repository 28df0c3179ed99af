"""Looking up again where a remote is, when the last way to it is a relay that is silent."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Stranded"]

FIRST_S, LONGEST_S = 1.0, 15.0  # between lookups; the first one is at once


class Stranded:
    """Repeats a lookup, with growing pauses, for as long as it is needed.

    Parameters
    ----------
    search : begins a lookup; None where there is no way to look anybody up.

    Attributes
    ----------
    due : when the next lookup is.
    """

    __slots__ = ("_pause", "_search", "due")

    def __init__(self, search: Callable[[], object] | None) -> None:
        self._search = search
        self._pause = FIRST_S
        self.due: float | None = None

    def update(self, now: float, stranded: bool) -> None:
        """Say whether some connection has no way that works."""
        if not stranded or self._search is None:
            self.stop()
        elif self.due is None:
            self.expire(now)

    def expire(self, now: float) -> None:
        """Look again now."""
        if self._search is not None:
            self.due = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_S)
            self._search()

    def stop(self) -> None:
        """There is a way, or nobody needs one."""
        self.due = None
        self._pause = FIRST_S
