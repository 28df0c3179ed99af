"""What connections need to know of their endpoint, and tell it."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._later import Later
from ._why import RelayedFacts, explain
from .addr import EndpointAddr, IpAddr, SocketAddr, TransportAddr
from .aio.once import Once
from .aio.owner import Owner
from .config import EndpointConfig
from .keys import EndpointId, PublicKey
from .lookup.services import LookupItem
from .lookup.shared import SharedLookups
from .metrics import EndpointMetrics
from .net.reach import usable
from .net.remote import RemoteMap
from .net.remote.selection import by_rtt, by_user
from .net.socket import Driver
from .net.transport import is_relay
from .paths import AddrOf, Paths
from .quic._connection import QuicConnection

if TYPE_CHECKING:
    from . import events as _events
    from . import stats as _stats
    from .aio.watcher import Watchable
    from .lookup.registry import AddressLookupServices
    from .lookup.services import LookupAnswer
    from .net.transport import SockAddr
    from .net_report.report import NetReport
    from .relay.client.transport import RelayTransport  # loads more than others need
else:
    _events, _stats = Later("iroh_fast.events"), Later("iroh_fast.stats")

__all__ = ["Context"]

MAX_WAYS = 32  # addresses of all kinds that one look takes over for dialing


class Context:
    """The part of an endpoint that its connections hold.

    They do not hold the endpoint itself: it must be free to go while they are in use.
    """

    __slots__ = (
        "alpns",
        "chosen",
        "closing",
        "driver",
        "ending",
        "events",
        "followed",
        "hooks",
        "id",
        "linger",
        "lookups",
        "metrics",
        "newest",
        "owner",
        "relay",
        "relayed",
        "remotes",
        "reports",
        "searched",
        "sockets",
        "transport",
        "transport_addr",
    )

    def __init__(
        self,
        owner: Owner,
        driver: Driver,
        id: EndpointId,
        config: EndpointConfig,
        sockets: tuple[SocketAddr, ...],
        metrics: EndpointMetrics,
        lookups: AddressLookupServices,
    ) -> None:
        self.owner = owner
        self.driver = driver
        self.id = id
        self.alpns = tuple(config.alpns)
        self.transport = config.transport
        self.hooks = tuple(config.hooks)
        self.linger = config.linger
        self.sockets = sockets
        self.metrics = metrics
        self.events = _events.EventHub(owner, id)
        self.followed: dict[int, object] = {}  # connection -> its paths, as last told
        self.closing = False
        self.ending = Once()  # the endpoint is being closed
        # Converts an address of the driver. Bound once, for all connections.
        self.transport_addr: AddrOf = driver.transports.addr_of
        self.chosen = config.path_selector is not None  # paths are chosen by a function of the user
        self.remotes = RemoteMap(
            owner.loop,
            self.paths_changed,
            live=self.live,
            search=self.look_up_again,
            choose=by_user(config.path_selector, self.transport_addr)
            if config.path_selector is not None
            else by_rtt,
        )
        self.lookups = SharedLookups(lookups, self._answered)
        self.newest: dict[bytes, QuicConnection] = {}  # open ones, by the key of the peer
        self.relay: RelayTransport | None = None
        self.reports: Watchable[NetReport | None] | None = None  # of the network
        self.searched: set[bytes] = set()  # keys of those that are looked up again
        self.relayed: weakref.WeakSet[QuicConnection] = weakref.WeakSet()  # that are to stay so

    def _answered(self, remote: EndpointId, answer: LookupAnswer) -> None:
        """A lookup service said something."""
        if isinstance(answer, LookupItem):
            if self.events.wants(_events.AddressFound):
                addrs = answer.info.data.addrs
                self.events.emit(_events.AddressFound(remote, answer.provenance, addrs))
        elif self.events.wants(_events.LookupFailed):
            self.events.emit(_events.LookupFailed(remote, answer.provenance, answer.error))

    def opened(self, q: QuicConnection) -> None:
        """A connection passed handshake and hooks."""
        if q.peer_id is not None and q.close_reason is None:
            self.newest[q.peer_id] = q
        if not self.events.wants(_events.ConnectionOpened):
            return
        path = q.path_info(0)
        assert q.peer_id is not None and q.alpn is not None
        self.events.emit(
            _events.ConnectionOpened(
                q.stable_id,
                PublicKey._from_valid(q.peer_id),
                q.alpn,
                "client" if q.is_client else "server",
                None if path is None else self.transport_addr(path["remote"]),
            )
        )

    def paths_changed(self, q: QuicConnection) -> None:
        """The paths of a connection changed, or it ended."""
        reason = q.close_reason
        if q.peer_id is None:
            return
        if reason is not None:
            self.followed.pop(q.stable_id, None)
            if self.newest.get(q.peer_id) is q:
                del self.newest[q.peer_id]
            if self.events.wants(_events.ConnectionClosed):
                remote = PublicKey._from_valid(q.peer_id)
                stats = _stats.ConnectionStats.from_core(q.stats())
                self.events.emit(_events.ConnectionClosed(q.stable_id, remote, reason, stats))
        elif self.events.wants(_events.PathsChanged):
            book = Paths(q, self)
            now = book.version()
            if self.followed.get(q.stable_id) != now:
                self.followed[q.stable_id] = now
                remote = PublicKey._from_valid(q.peer_id)
                self.events.emit(_events.PathsChanged(q.stable_id, remote, tuple(book.get())))

    def live(self) -> list[QuicConnection]:
        """Connections with peers whose handshake is complete and that did not end."""
        known = self.driver.endpoint.connections.values()
        # Those of net reports lead to relays, which have no id.
        return [
            q
            for q in known
            if q.handshake_complete and q.close_reason is None and q.peer_id is not None
        ]

    def paths_with(self, id: EndpointId) -> list[Paths]:
        """The paths of each connection with a peer."""
        key = bytes(id)
        return [Paths(q, self) for q in self.live() if q.peer_id == key]

    # --- for the paths of connections
    def selected_way(self, q: QuicConnection) -> SockAddr | None:
        """The address that path selection chose for a connection; None where there was no choice."""
        key = q.peer_id
        return None if key is None else self.remotes.selected(key)

    def stays_relayed(self, q: QuicConnection) -> bool:
        """Whether a connection never gets a direct path, whatever happens."""
        own = self.sockets or "custom" in self.driver.transports
        return q in self.relayed or not q.has_multipath or not own

    def why_relayed(self, q: QuicConnection) -> str:
        """Why data of a connection goes over a relay, in words."""
        state = None if q.peer_id is None else self.remotes.get(q.peer_id)
        known = {} if state is None else state.why()
        nat = known.get("nat") or q.nat_state()
        direct = [
            (str(self.transport_addr(remote)), validated)
            for _, remote, validated, *_ in q.path_states()
            if not is_relay(remote)
        ]
        return explain(
            RelayedFacts(
                relay_only=q in self.relayed,
                has_sockets=bool(self.sockets) or "custom" in self.driver.transports,
                is_client=q.is_client,
                multipath=q.has_multipath,
                nat_traversal=q.has_nat_traversal,
                own=len(known.get("own") or nat["own"]),
                nat=nat,
                rounds=known.get("rounds", nat["round"]),
                next_round=known.get("next_round"),
                direct=direct,
                chosen=self.chosen,
                report=None if self.reports is None else self.reports.get(),
            )
        )

    def look_up_again(self, key: bytes) -> None:
        """The last way to a remote is silent: maybe it is elsewhere by now."""
        if key not in self.searched and not self.closing and not self.lookups.services.is_empty:
            self.searched.add(key)
            self.owner.spawn(self._look_up_again(key))

    async def _look_up_again(self, key: bytes) -> None:
        id = PublicKey._from_valid(key)
        search = self.lookups.join(id)
        try:
            while not self.closing and self.remotes.get(key) is not None:
                sources = self._by_source(id, search.found)
                for source, addrs in sources.items():
                    self.remotes.found(key, addrs, source)
                if search.over:
                    self.remotes.moved_to(key, [a for addrs in sources.values() for a in addrs])
                    return
                await search.news.wait()
        finally:
            self.searched.discard(key)
            self.lookups.leave(search, connected=False)

    def _by_source(
        self, id: EndpointId, found: Mapping[TransportAddr, tuple[str, ...]]
    ) -> dict[str, list[SockAddr]]:
        """What a lookup found as addresses of the driver, by the first that told of them."""
        sources: dict[str, list[SockAddr]] = {}
        for addr, services in found.items():
            ways, _ = self.sockaddrs(EndpointAddr(id, (addr,)))
            sources.setdefault(services[0], []).extend(ways)
        return sources

    def way_to(self, id: EndpointId) -> SockAddr | None:
        """Over which address an open connection with a peer runs; None without one."""
        key = bytes(id)
        q = self.newest.get(key)
        if q is None or q.close_reason is not None:
            return None
        if (selected := self.remotes.selected(key)) is not None:
            return selected
        paths = q.path_ids()
        return q.path_remote(paths[0]) if paths else None

    def sockaddrs(self, target: EndpointAddr) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
        """The ways to an endpoint that can be tried, and the others with the reason why not.

        Addresses of the driver, direct ones first.
        """
        key = bytes(target.id)
        route = self.driver.transports.route
        chosen, unreachable = usable(target.ip_addrs, self.sockets)
        refused = {str(addr): reason for addr, reason in unreachable.items()}
        found = []
        for addr in (*map(IpAddr, chosen), *(a for a in target.addrs if not a.is_ip)):
            if (sockaddr := route(addr, key)) is not None:
                found.append(sockaddr)
            elif addr.is_relay:
                refused[str(addr)] = "this endpoint has no relays"
            else:
                refused[str(addr)] = "no transport of this endpoint takes it"
        return found[:MAX_WAYS], refused
