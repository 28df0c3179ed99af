"""The addresses of one remote endpoint: who told of them, and what came of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from iroh_fast.net.transport import SockAddr, is_private, is_relay

from .counters import PathCounters

__all__ = ["MAX_INACTIVE", "MAX_UNKNOWN", "MAX_UNUSABLE", "Inventory", "Known", "Status"]

Status: TypeAlias = Literal["unknown", "active", "inactive", "unusable"]
"""Never tried or still trying; a path leads there now; one did; none ever came about."""

PRUNE_FROM = 30  # addresses that are not relays: below that all are remembered
MAX_INACTIVE = 10  # of those beyond it, the newest
MAX_UNUSABLE = 30
MAX_UNKNOWN = 64  # the newest of them: a ticket, a lookup or a user may tell of many
MAX_SOURCES = 8  # names remembered for one address


@dataclass(eq=False, slots=True)
class Known:
    """What is known of one address.

    Attributes
    ----------
    since : when it got its status, seconds of the loop's clock.
    proven : when a path there last came about; None for never.
    sources : who told of it, and when last.
    """

    status: Status = "unknown"
    since: float = 0.0
    proven: float | None = None
    sources: dict[str, float] = field(default_factory=dict)


class Inventory:
    """All addresses of a remote, the relays among them.

    Bounded: of what is not a relay, those in use, the newest that nobody tried, and a few that
    were in use. Relays stay, of which a peer cannot make any.
    """

    __slots__ = ("_counters", "addrs")

    def __init__(self, counters: PathCounters) -> None:
        self._counters = counters
        self.addrs: dict[SockAddr, Known] = {}

    def __contains__(self, addr: SockAddr) -> bool:
        return addr in self.addrs

    def __iter__(self) -> Iterator[SockAddr]:
        return iter(self.addrs)

    def learn(self, addrs: Iterable[SockAddr], source: str, now: float) -> bool:
        """Remember addresses that somebody tells of; whether any of them is new."""
        before = len(self.addrs)
        for addr in addrs:
            known = self.addrs.get(addr)
            if known is None:
                known = self.addrs[addr] = Known(since=now)
            if source in known.sources or len(known.sources) < MAX_SOURCES:
                known.sources[source] = now
        if len(self.addrs) == before:
            return False
        self._prune()
        return True

    def opened(self, addr: SockAddr, now: float) -> bool:
        """A path there came about; whether none did before."""
        known = self.addrs.pop(addr, None) or Known(sources={"connection": now})
        self.addrs[addr] = known  # the newest last
        first = known.proven is None
        known.proven = now
        if known.status != "active":
            known.status, known.since = "active", now
            self._counters.added(addr)
            self._prune()
        return first

    def left(self, addr: SockAddr, now: float) -> None:
        """No path leads there any more."""
        known = self.addrs.get(addr)
        if known is None or known.status != "active":
            return
        known.status, known.since = "inactive", now
        self._counters.removed(addr)
        if known.sources:
            self._prune()
        else:
            del self.addrs[addr]

    def worked(self, addr: SockAddr, now: float) -> None:
        """It carried a connection that is over, and that nobody followed."""
        self.learn([addr], "connection", now)
        known = self.addrs[addr]
        known.status, known.since, known.proven = "inactive", now, now
        self._prune()

    def adopt(self, addr: SockAddr, now: float) -> None:
        """A connection that nobody followed until now uses it; that is counted already."""
        self.learn([addr], "connection", now)
        known = self.addrs[addr]
        known.status, known.since, known.proven = "active", now, now

    def failed(self, addr: SockAddr, now: float) -> None:
        """A path there did not come about."""
        known = self.addrs.get(addr)
        if known is not None and known.status == "unknown":
            known.status, known.since = "unusable", now
            self._prune()

    def forget(self, addr: SockAddr) -> None:
        """It is not an address of the remote any more; one in use stays until it is left."""
        known = self.addrs.get(addr)
        if known is not None and known.status != "active":
            del self.addrs[addr]
        elif known is not None:
            known.sources.clear()

    def is_forsaken(self, addr: SockAddr) -> bool:
        """Whether nobody tells of it any more."""
        known = self.addrs.get(addr)
        return known is not None and not known.sources

    def proven_since(self, addr: SockAddr, when: float) -> bool:
        """Whether a path there came about at that time or later."""
        known = self.addrs.get(addr)
        return known is not None and known.proven is not None and known.proven >= when

    def _prune(self) -> None:
        """Bound what is remembered: a peer that wanders about must not fill our memory."""
        if len(self.addrs) < PRUNE_FROM:
            return
        by_status: dict[Status, list[SockAddr]] = {"unknown": [], "inactive": [], "unusable": []}
        total = 0
        for addr, known in self.addrs.items():
            if not is_private(addr):
                total += 1
                if known.status != "active":
                    by_status[known.status].append(addr)
        if total < PRUNE_FROM:
            return
        unusable, inactive = by_status["unusable"], by_status["inactive"]
        inactive.sort(key=lambda addr: self.addrs[addr].since)
        spared = MAX_UNUSABLE if len(unusable) == total else 0
        for addr in (
            *unusable[: len(unusable) - spared],
            *inactive[:-MAX_INACTIVE],
            *by_status["unknown"][:-MAX_UNKNOWN],
        ):
            del self.addrs[addr]

    def listed(self) -> list[tuple[SockAddr, Status, dict[str, float]]]:
        """Each address with its status and who told of it when, as a copy."""
        return [(addr, known.status, dict(known.sources)) for addr, known in self.addrs.items()]

    def relays(self) -> list[SockAddr]:
        """The relays behind which the remote may be."""
        return [addr for addr in self.addrs if is_relay(addr)]
