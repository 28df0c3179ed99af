"""Relays as a transport under QUIC: routes, the home relay, and what the endpoint tells of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from ...addr import RelayAddr, RelayUrl, TransportAddr
from ...net.local_addrs import NetworkState
from ...net.monitor.ways import mover
from ...net.service import ServiceContext
from ...net.transport import RELAY_SUBNET, PrivateAddrs, SockAddr
from ..map import RelayConfig, RelayMap, RelayStatus
from .home import HomePolicy
from .pool import RelayPool

if TYPE_CHECKING:
    import ssl

    from ...aio.watcher import Watchable
    from ...keys import SecretKey
    from ...web.ca import CaConfig
    from ...web.names import Names
    from ...web.proxy import Proxy

__all__ = ["RelayTransport"]

HEARD_PAUSE_S = 0.02  # peers that are back are gathered so long


class RelayRoute(NamedTuple):
    """An endpoint as reached over one relay."""

    url: RelayUrl
    key: bytes


class RelayTransport:
    """Service of an endpoint: moves QUIC batches over relay connections and keeps a home relay.

    Parameters
    ----------
    on_status : called with the state of the home relay at each change, None without one.
    home_policy : HomePolicy, optional
        Chooses the home relay; default: the nearest one.
    report_due : bool
        There will be a net report soon, see `RelayPool`.
    resolver : Names, optional
        Finds the addresses of relays; default: what the system is configured for.

    Attributes
    ----------
    statuses : Watchable
        The same to follow, as a tuple of none or one.
    """

    name = "relays"
    kind = "relay"
    subnet = RELAY_SUBNET
    max_segments = 64
    # A frame holds more. But what TCP loses holds up a whole packet, and it is the smallest window.
    max_datagram = 8100

    def __init__(
        self,
        *,
        secret_key: SecretKey,
        relay_map: RelayMap,
        ca: CaConfig | ssl.SSLContext | None,
        proxy: Proxy | str | None,
        statuses: Watchable[tuple[RelayStatus, ...]],
        on_status: Callable[[RelayStatus | None], object],
        home_policy: HomePolicy | None = None,
        report_due: bool = False,
        resolver: Names | None = None,
    ) -> None:
        self.relay_map = relay_map
        self.status: RelayStatus | None = None
        self._context: ServiceContext | None = None
        self._addrs: PrivateAddrs[RelayRoute] = PrivateAddrs(RELAY_SUBNET)
        self._unheard: set[bytes] = set()  # of whom nothing came since their relay is back
        self._heard: set[bytes] = set()
        self.statuses = statuses
        self._on_status = on_status
        self.pool = RelayPool(
            secret_key=secret_key,
            relay_map=relay_map,
            on_datagrams=self._receive,
            on_home_status=self._home_status,
            ca=ca,
            proxy=proxy,
            home_policy=home_policy,
            report_due=report_due,
            resolver=resolver,
            on_connected=self._connected,
        )

    # --- as a service
    async def start(self, context: ServiceContext) -> None:
        """Begin to carry what goes to relays, and connect to the home relay."""
        self._context = context
        self._network = context.net
        context.driver.add_transport(self)
        self.pool.follow_map()

    def network_changed(self, state: NetworkState) -> None:
        """Check the connections to relays."""
        if state.major and not state.is_cut_off:
            old, self._network = self._network, state
            self.pool.network_changed(state.ips, mover(old, state))

    async def close(self) -> None:
        """End all relay connections."""
        await self.pool.close()

    @property
    def metrics(self) -> Mapping[str, int]:
        """Counters of all relay connections."""
        return {f"socket:{name}": value for name, value in asdict(self.pool.stats).items()}

    # --- the home relay
    @property
    def home(self) -> RelayUrl | None:
        """The relay at which others find this endpoint; it may be away for the moment."""
        return None if self.status is None else self.status.url

    def _home_status(self, status: RelayStatus | None) -> None:
        self.status = status
        if self.statuses.set(() if status is None else (status,)):
            self._on_status(status)
        if self._context is not None:
            self._context.addrs.put(self.name, () if self.home is None else (RelayAddr(self.home),))

    def _connected(self, url: RelayUrl) -> None:
        """What waits for a relay need not wait for its next probe."""
        if self._context is not None:
            ips = self._addrs.ips(lambda route: route.url == url)
            self._context.driver.probe(ips)
            known = filter(self._addrs.route_of, self._unheard)
            self._unheard = {*known, *ips}

    def _heard_of(self, ip: bytes) -> None:
        """A peer is back behind a relay, perhaps after us: what we sent it before is lost."""
        self._unheard.discard(ip)
        if not self._heard and self._context is not None:
            self._context.owner.loop.call_later(HEARD_PAUSE_S, self._probe_heard)
        self._heard.add(ip)

    def _probe_heard(self) -> None:
        heard, self._heard = self._heard, set()
        if self._context is not None:
            self._context.driver.probe(heard)

    # --- as a transport of the engine
    def route(self, addr: TransportAddr, peer: bytes) -> SockAddr | None:
        """The private address of a peer behind a relay."""
        if not isinstance(addr, RelayAddr):
            return None
        return self._addrs.sockaddr_of(RelayRoute(addr.url, peer))

    def addr_of(self, sockaddr: SockAddr) -> TransportAddr | None:
        """The relay that a private address stands for."""
        route = self._addrs.route_of(sockaddr[0])
        return None if route is None else RelayAddr(route.url)

    def send(self, ip16: bytes, ecn: int, segment: int, data: bytes) -> None:
        """Hand a batch to the connection of its relay."""
        route = self._addrs.route_of(ip16)
        if route is not None:
            self.pool.send(route.url, route.key, ecn, segment, data)

    def _receive(self, url: RelayUrl, key: bytes, ecn: int, segment: int, payload: bytes) -> None:
        if self._context is not None:
            ip = self._addrs.ip_of(RelayRoute(url, key))
            self._context.driver.inject(ip, payload, segment)
            if self._unheard and ip in self._unheard:
                self._heard_of(ip)

    def insert(self, config: RelayConfig) -> RelayConfig | None:
        """Add or replace a relay; the previous configuration is returned."""
        return self.relay_map.insert(config)

    def remove(self, url: str) -> RelayConfig | None:
        """Forget a relay; its connection ends when nothing needs it."""
        return self.relay_map.remove(url)
