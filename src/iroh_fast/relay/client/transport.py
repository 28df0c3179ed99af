"""Relays as a transport under QUIC: routes, the home relay, and what the endpoint tells of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ...addr import RelayAddr, RelayUrl, TransportAddr
from ...net.transport import RELAY_SUBNET, PrivateAddrs, SockAddr
from ..map import RelayConfig, RelayMap, RelayStatus
from .pool import RelayPool

if TYPE_CHECKING:
    import ssl

    from ...keys import SecretKey
    from ...net.socket import Driver
    from ...web.ca import CaConfig
    from ...web.proxy import Proxy

__all__ = ["RelayTransport"]

logger = logging.getLogger("iroh_fast.relay")


class RelayRoute(NamedTuple):
    """An endpoint as reached over one relay."""

    url: RelayUrl
    key: bytes


class RelayTransport:
    """Moves QUIC batches over relay connections and keeps a home relay.

    Parameters
    ----------
    on_status : called with no arguments whenever `status` changed.
    """

    kind = "relay"
    subnet = RELAY_SUBNET
    max_segments = 64

    def __init__(
        self,
        *,
        driver: Driver,
        secret_key: SecretKey,
        relay_map: RelayMap,
        ca: CaConfig | ssl.SSLContext | None,
        proxy: Proxy | str | None,
        loop: asyncio.AbstractEventLoop,
        on_status: Callable[[], None],
    ) -> None:
        self.relay_map = relay_map
        self.home: RelayUrl | None = None
        self.status: RelayStatus | None = None
        self._loop = loop
        self._closing: asyncio.Task[None] | None = None
        self._driver = driver
        self._addrs: PrivateAddrs[RelayRoute] = PrivateAddrs(RELAY_SUBNET)
        self._on_status = on_status
        self.pool = RelayPool(
            secret_key=secret_key,
            relay_map=relay_map,
            on_datagrams=self._receive,
            on_home_status=self._home_status,
            ca=ca,
            proxy=proxy,
            loop=loop,
        )
        driver.add_transport(self)
        self._unsubscribe = relay_map.subscribe(self._choose_home)
        self._choose_home()

    def _choose_home(self) -> None:
        """Stay with the home relay while it is in the map; else take the first one.

        Latency is not compared yet: that is net-report's work. Order the map accordingly.
        """
        if self.home is not None and self.home in self.relay_map:
            return
        urls = [config.url for config in self.relay_map.relays()]
        self.home = urls[0] if urls else None
        if self.home is None:
            self.status = None
        self.pool.set_home(self.home)
        self._on_status()

    def _home_status(self, status: RelayStatus | None) -> None:
        if status is not None and status.url == self.home:
            self.status = status
            self._on_status()

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
        self._driver.inject(self._addrs.ip_of(RelayRoute(url, key)), payload, segment)

    def insert(self, config: RelayConfig) -> RelayConfig | None:
        """Add or replace a relay; the previous configuration is returned."""
        return self.relay_map.insert(config)

    def remove(self, url: str) -> RelayConfig | None:
        """Forget a relay; its connection ends when nothing needs it."""
        return self.relay_map.remove(url)

    async def close(self) -> None:
        """End all relay connections."""
        self._unsubscribe()
        await self.pool.close()

    def stop(self) -> None:
        """End all relay connections in the background, when there is nobody to wait for it."""
        self._closing = self._loop.create_task(self.close())
