"""What happens to an endpoint and its connections, as objects and in the log.

Each kind of event is logged with its level by the logger it names, and given to those who
iterate over :meth:`Endpoint.events`.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from .addr import EndpointAddr, TransportAddr
from .aio._waiters import WaitQueue
from .aio.owner import Owner
from .errors import CloseReason, printable
from .keys import EndpointId
from .net_report.report import NetReport
from .relay.map import RelayStatus
from .stats import ConnectionStats, PathInfo

__all__ = [
    "AcceptFailed",
    "AddrChanged",
    "AddressFound",
    "ConnectionClosed",
    "ConnectionOpened",
    "DialFailed",
    "Dialing",
    "EndpointEvents",
    "Event",
    "EventsLagged",
    "LookupFailed",
    "NetReportMade",
    "PathsChanged",
    "RelayChanged",
]

LIMIT = 256  # events kept for a consumer
MAX_LISTED = 64  # addresses in one line of the log


class _Logged:
    """A kind of event: how it is logged."""

    __slots__ = ()
    level: ClassVar[int] = logging.DEBUG
    logger: ClassVar[logging.Logger] = logging.getLogger("iroh_fast.endpoint")


@dataclass(frozen=True, slots=True)
class Dialing(_Logged):
    """A connection attempt starts; `addrs` are tried."""

    remote: EndpointId
    alpn: bytes
    addrs: tuple[TransportAddr, ...]

    def __str__(self) -> str:
        return f"dialing {self.remote:short} (alpn {self.alpn!r}) at {_listed(self.addrs)}"


@dataclass(frozen=True, slots=True)
class DialFailed(_Logged):
    """No connection came about; `error` is what ``connect`` raises."""

    level = logging.INFO
    remote: EndpointId
    alpn: bytes
    error: Exception

    def __str__(self) -> str:
        notes = "; ".join(getattr(self.error, "__notes__", ()))
        return f"{self.error}; {notes}" if notes else str(self.error)


@dataclass(frozen=True, slots=True)
class AcceptFailed(_Logged):
    """The handshake of somebody who dialed failed, or a hook refused."""

    level = logging.INFO
    remote_addr: TransportAddr
    error: Exception

    def __str__(self) -> str:
        return f"not accepted from {self.remote_addr}: {self.error}"


@dataclass(frozen=True, slots=True)
class ConnectionOpened(_Logged):
    """A handshake is complete and the hooks agree.

    Attributes
    ----------
    conn_id : :attr:`Connection.stable_id`.
    path : where the first path leads.
    """

    level = logging.INFO
    logger = logging.getLogger("iroh_fast.connection")
    conn_id: int
    remote: EndpointId
    alpn: bytes
    side: Literal["client", "server"]
    path: TransportAddr | None

    def __str__(self) -> str:
        verb = "to" if self.side == "client" else "from"
        return (
            f"connection {self.conn_id} {verb} {self.remote:short} (alpn {self.alpn!r}) "
            f"open over {self.path}"
        )


@dataclass(frozen=True, slots=True)
class PathsChanged(_Logged):
    """A connection has other paths than before, or selected another one."""

    logger = logging.getLogger("iroh_fast.paths")
    conn_id: int
    remote: EndpointId
    paths: tuple[PathInfo, ...]

    def __str__(self) -> str:
        shown = [f"{path.remote_addr}{' selected' * path.is_selected}" for path in self.paths]
        return f"connection {self.conn_id} with {self.remote:short}: paths {', '.join(shown)}"


@dataclass(frozen=True, slots=True)
class ConnectionClosed(_Logged):
    """A connection ended; `stats` are its final counters."""

    level = logging.INFO
    logger = logging.getLogger("iroh_fast.connection")
    conn_id: int
    remote: EndpointId
    reason: CloseReason
    stats: ConnectionStats

    def __str__(self) -> str:
        sent, received = self.stats.udp_tx.bytes, self.stats.udp_rx.bytes
        why = "closed by this side" if self.reason.kind == "locally_closed" else self.reason
        return (
            f"connection {self.conn_id} with {self.remote:short} ended: {why} "
            f"({sent} bytes sent, {received} received)"
        )


@dataclass(frozen=True, slots=True)
class RelayChanged(_Logged):
    """The home relay is another one, or its connection came up or broke; None without one."""

    level = logging.INFO
    logger = logging.getLogger("iroh_fast.relay.client")
    status: RelayStatus | None

    def __str__(self) -> str:
        status = self.status
        if status is None:
            return "no home relay"
        why = f": {status.last_error}" if status.last_error is not None else ""
        return f"home relay {status.url} {status.state}{why}"


@dataclass(frozen=True, slots=True)
class NetReportMade(_Logged):
    """The network was looked at; `report` is what it is like, as :attr:`Endpoint.net_report`."""

    logger = logging.getLogger("iroh_fast.net_report")
    report: NetReport

    def __str__(self) -> str:
        report = self.report
        near = sorted(report.latencies().items(), key=lambda item: item[1])
        shown = ", ".join(f"{url} {seconds * 1000:.1f} ms" for url, seconds in near[:MAX_LISTED])
        return (
            f"net report: udp {_yes(report.udp_v4)} (IPv4), {_yes(report.udp_v6)} (IPv6); "
            f"seen at {report.global_v4}, {report.global_v6}; "
            f"mapping varies {_yes(report.mapping_varies_by_dest)}; "
            f"captive portal {_yes(report.captive_portal)}; relays: {shown or 'none'}"
        )


def _yes(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"


@dataclass(frozen=True, slots=True)
class AddrChanged(_Logged):
    """The endpoint can be reached at other addresses than before."""

    addr: EndpointAddr

    def __str__(self) -> str:
        return f"own addresses: {_listed(self.addr.addrs)}"


@dataclass(frozen=True, slots=True)
class AddressFound(_Logged):
    """An address lookup service found an endpoint that is dialed.

    Attributes
    ----------
    service : its name, the provenance of what it found.
    """

    logger = logging.getLogger("iroh_fast.lookup")
    remote: EndpointId
    service: str
    addrs: tuple[TransportAddr, ...]

    def __str__(self) -> str:
        return f"{self.service} found {self.remote:short} at {_listed(self.addrs)}"


@dataclass(frozen=True, slots=True)
class LookupFailed(_Logged):
    """An address lookup service could not say where an endpoint is; others may."""

    logger = logging.getLogger("iroh_fast.lookup")
    remote: EndpointId
    service: str
    error: Exception

    def __str__(self) -> str:
        why = printable(str(self.error) or type(self.error).__name__, 300)
        return f"{self.service} did not find {self.remote:short}: {why}"


@dataclass(frozen=True, slots=True)
class EventsLagged:
    """The consumer was too slow: that many events were dropped."""

    missed: int


Event: TypeAlias = (
    Dialing
    | DialFailed
    | AcceptFailed
    | ConnectionOpened
    | PathsChanged
    | ConnectionClosed
    | RelayChanged
    | AddrChanged
    | AddressFound
    | LookupFailed
    | NetReportMade
)


def _listed(addrs: tuple[TransportAddr, ...]) -> str:
    more = f" and {len(addrs) - MAX_LISTED} more" if len(addrs) > MAX_LISTED else ""
    return ", ".join(map(str, addrs[:MAX_LISTED])) + more or "no address"


class EndpointEvents:
    """Iterator of :meth:`Endpoint.events`; ends when the endpoint is closed."""

    __slots__ = ("__weakref__", "_buffer", "_hub", "_missed")

    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._buffer: deque[Event] = deque()
        self._missed = 0

    def _put(self, event: Event) -> None:
        if len(self._buffer) == LIMIT:
            self._buffer.popleft()
            self._missed += 1
        self._buffer.append(event)

    def __aiter__(self) -> EndpointEvents:
        return self

    async def __anext__(self) -> Event | EventsLagged:
        hub = self._hub
        hub.owner.check_loop()
        while True:
            if self._missed:
                missed, self._missed = self._missed, 0
                return EventsLagged(missed)
            if self._buffer:
                return self._buffer.popleft()
            if hub.ended:
                raise StopAsyncIteration
            await hub.news.wait()


class EventHub:
    """Where the parts of an endpoint tell what happens."""

    __slots__ = ("_consumers", "_name", "ended", "news", "owner")

    def __init__(self, owner: Owner, id: EndpointId) -> None:
        self.owner = owner
        self._name = f"{id:short}"
        self._consumers: weakref.WeakSet[EndpointEvents] = weakref.WeakSet()
        self.news = WaitQueue()
        self.ended = False

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody would see an event of that kind: making one costs something."""
        return bool(self._consumers) or kind.logger.isEnabledFor(kind.level)

    def emit(self, event: Event) -> None:
        """Log an event and hand it to all consumers."""
        if event.logger.isEnabledFor(event.level):
            event.logger.log(event.level, "%s: %s", self._name, event, extra={"event": event})
        if self._consumers:
            for consumer in self._consumers:
                consumer._put(event)
            self.news.wake_all()

    def consumer(self) -> EndpointEvents:
        """A new consumer of what happens from now on."""
        made = EndpointEvents(self)
        self._consumers.add(made)
        return made

    def close(self) -> None:
        """Nothing happens any more."""
        self.ended = True
        self.news.wake_all()
