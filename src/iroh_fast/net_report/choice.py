"""Which relay is nearest: of what was measured lately, without changing for little."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from ..addr import RelayUrl
from .report import NetReport

__all__ = ["History"]

KEEP_S: Final = 300.0
LITTLE_S: Final = 0.01
"""Less than that is no reason to be elsewhere: iroh knows no such limit, and moves for microseconds."""
CLEARLY: Final = 2 / 3  # of its latency: who is faster than that takes over
MAX_KEPT: Final = 64
OF_HTTPS: Final = 3
"""Round trips of a request on a new connection: TCP, TLS, the request itself."""


def round_trips(report: NetReport) -> dict[RelayUrl, float]:
    """Seconds of a round trip to each relay that answered.

    DIFFERS: iroh compares the time of a whole HTTPS request with round trips of QUIC as it is; a
    relay without address discovery would never be near.
    """
    found: dict[RelayUrl, float] = {}
    for probe, relay, seconds in report:
        if probe == "https":
            seconds /= OF_HTTPS
        found[relay] = min(seconds, found.get(relay, seconds))
    return found


class History:
    """Round trips of the last minutes, and the relay that was chosen last."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, dict[RelayUrl, float]]] = deque(maxlen=MAX_KEPT)
        self.preferred: RelayUrl | None = None

    def forget(self) -> None:
        """The network is another one: what was measured says nothing any more."""
        self._kept.clear()

    def add(self, report: NetReport, order: Sequence[RelayUrl], now: float) -> RelayUrl | None:
        """Take a report in, and choose; None when no relay answered.

        Parameters
        ----------
        order : the relays as the user lists them; of those that are as near the first one counts.
        now : seconds of any clock that does not jump.
        """
        self._kept.append((now, round_trips(report)))
        while self._kept[0][0] < now - KEEP_S:
            self._kept.popleft()
        chosen = self.choose(report, order)
        if chosen is not None:
            self.preferred = chosen
        return chosen

    def choose(self, report: NetReport, order: Sequence[RelayUrl]) -> RelayUrl | None:
        """The same of a report that may not be finished, without taking it in."""
        current = {url: now for url, now in round_trips(report).items() if url in order}
        if not current:
            return None
        best = {url: min(now, self._best(url, now)) for url, now in current.items()}
        least = min(best.values())
        nearest = next(url for url in order if best.get(url, least + 1) <= least + LITTLE_S)
        old = current.get(self.preferred) if self.preferred is not None else None
        if old is None or self.preferred is None:
            return nearest
        # As in iroh: the old one counts as it is now, the others with their best.
        if least <= old * CLEARLY and least + LITTLE_S < old:
            return nearest
        return self.preferred

    def _best(self, url: RelayUrl, now: float) -> float:
        return min((kept.get(url, now) for _, kept in self._kept), default=now)
