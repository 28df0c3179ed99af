"""When to look for something better than a direct path that is slow."""

from __future__ import annotations

from collections.abc import Iterable

from iroh_fast.net.transport import SockAddr

from .inventory import Inventory

__all__ = ["Upgrades"]

FIRST_S, LONGEST_S = 60.0, 600.0  # between looks; they become rare
PROVEN_S = 600.0  # a candidate that worked in that time is not tried again for its own sake


class Upgrades:
    """Pure: it is told the time."""

    __slots__ = ("_at", "_wait")

    def __init__(self) -> None:
        self._at = 0.0
        self._wait = FIRST_S

    def hopeful(self) -> None:
        """Other addresses, or another network: looks are frequent again."""
        self._wait = FIRST_S

    def direct(self, now: float) -> None:
        """A direct path came about."""
        self._at = max(self._at, now + self._wait)

    def is_due(self, now: float, candidates: Iterable[SockAddr], known: Inventory) -> bool:
        """Whether to look now; then not again for a while."""
        candidates = list(candidates)
        worked = (known.proven_since(addr, now - PROVEN_S) for addr in candidates)
        # Another round would open and close the same paths.
        if now < self._at or (candidates and all(worked)):
            return False
        self._at = now + self._wait
        self._wait = min(2 * self._wait, LONGEST_S)
        return True
