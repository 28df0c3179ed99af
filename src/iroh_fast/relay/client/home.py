"""Which relay is home: where others find this endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ..._later import Later
from ...addr import RelayUrl
from ..map import RelayMap, RelayState

if TYPE_CHECKING:
    from ...net_report import report as _net_report
else:
    _net_report = Later("iroh_fast.net_report.report")

__all__ = ["PATIENCE_S", "Candidate", "HomePolicy", "ListOrder", "Nearest"]

PATIENCE_S: Final = 3.0
"""How long a relay may take to connect, or to come back, before the next one is tried."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A relay that was or is being tried.

    Parameters
    ----------
    state : {"connecting", "connected", "disconnected"}
    home : bool
        Whether it is home now.
    waiting : float
        Seconds since it was tried first, or since it was connected last; 0 while it is.
    failed : bool
        Its latest attempt or connection ended with an error.
    was_connected : bool
        It has been connected before.
    """

    state: RelayState
    home: bool
    waiting: float
    failed: bool
    was_connected: bool

    @property
    def hopeful(self) -> bool:
        """Whether it is worth waiting for."""
        if self.waiting >= PATIENCE_S:
            return False
        # One that was there a moment ago may just have been restarted.
        return self.was_connected or not self.failed


class HomePolicy(Protocol):
    """Chooses the home relay: the option `home_policy` of :meth:`Endpoint.bind`.

    Any object with such a method will do.
    """

    def choose(
        self, relays: RelayMap, report: _net_report.NetReport | None, states: Mapping[RelayUrl, Candidate]
    ) -> RelayUrl | None:
        """Choose among the relays of the map; None is no home relay.

        Called at each change of the map, of the report and of the states, and when patience may
        be over: from within the event loop, so it must not block.  The one chosen is connected to and kept;
        while it is away, the others of the map that were tried stay connected too.  What is
        raised here, or given that is no relay of the map, is logged, and the home stays.

        Parameters
        ----------
        relays : RelayMap
        report : NetReport or None
            What was measured last; the first one may not be complete. None before, and without.
        states : mapping
            The relays in use; others have not been tried.
        """
        ...


class ListOrder:
    """The first relay of the list that can be reached.

    A home that is connected stays home. While it is not, the relays before and behind it are
    tried in their order, and the first one that is connected takes over.
    """

    def choose(
        self, relays: RelayMap, report: _net_report.NetReport | None, states: Mapping[RelayUrl, Candidate]
    ) -> RelayUrl | None:
        """See :class:`HomePolicy`."""
        return _first_reachable(relays.urls(), states)


class Nearest:
    """The relay that answers fastest, once that is known; until then as :class:`ListOrder`.

    What counts as nearest, and by how much another relay has to be nearer to become home, the net
    report says. Where that relay does not take this endpoint, the next ones by latency are tried,
    then those that were silent.
    """

    def choose(
        self, relays: RelayMap, report: _net_report.NetReport | None, states: Mapping[RelayUrl, Candidate]
    ) -> RelayUrl | None:
        """See :class:`HomePolicy`."""
        urls = relays.urls()
        nearest = None if report is None else report.preferred_relay
        if report is None or nearest is None or nearest not in urls:
            return _first_reachable(urls, states)
        state = states.get(nearest)
        if state is None or state.state == "connected" or state.hopeful:
            return nearest
        seconds = report.latencies()
        return _first_reachable(
            sorted(urls, key=lambda url: seconds.get(url, float("inf"))), states
        )


def _first_reachable(
    urls: Sequence[RelayUrl], states: Mapping[RelayUrl, Candidate]
) -> RelayUrl | None:
    current = next((u for u in urls if u in states and states[u].home), None)
    if current is not None and (
        states[current].state == "connected"
        or (states[current].was_connected and states[current].hopeful)
    ):
        return current
    for url in urls:
        if url in states and states[url].state == "connected":
            return url
    for url in urls:
        if url not in states or states[url].hopeful:
            return url
    return current or (urls[0] if urls else None)
