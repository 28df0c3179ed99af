"""The port mapper of an endpoint: a mapping for its socket, as one of its addresses."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Address

from ..addr import IpAddr, SocketAddr
from ..aio.tasks import Tasks
from ..errors import DnsError, PortmapError
from ..net.local_addrs import NetworkState
from ..net.service import ServiceContext
from .keeper import Keeper, new_counters
from .model import PROTOCOLS, Gateway, Lease, MappingProtocol, ProtocolName, is_public
from .nat_pmp import NatPmp
from .pcp import Pcp

__all__ = ["PortMapper", "gateway_of", "protocols_of", "socket_to_map"]

log = logging.getLogger("iroh_fast.portmapper")

SOURCE = "portmap"


class _NoNames:
    """Gateways are asked by address alone."""

    async def lookup(self, host: str, family: int, /) -> list[str]:
        raise DnsError("a gateway has no name", host=host)


def protocols_of(names: Collection[ProtocolName]) -> list[MappingProtocol]:
    """Make the protocols of these names, the best first."""
    found: list[MappingProtocol] = []
    for name in PROTOCOLS:
        if name not in names:
            continue
        if name == "pcp":
            found.append(Pcp())
        elif name == "nat_pmp":
            found.append(NatPmp())
        else:
            from ..web.client import HttpClient  # late: loads much when it is used
            from .upnp import Upnp

            found.append(Upnp(HttpClient(_NoNames())))
    return found


def socket_to_map(sockets: Sequence[SocketAddr]) -> SocketAddr | None:
    """The socket that a mapping leads to: the first of IPv4 that others can reach at all."""
    for bound in sockets:
        if bound.ip.version == 4 and bound.port and not bound.ip.is_loopback:
            return bound
    return None


def gateway_of(state: NetworkState, bound: SocketAddr) -> Gateway:
    """The gateway to ask for a mapping to a socket.

    Raises
    ------
    PortmapError : there is none, or it would be of no use.
    """
    if state.gateway is None:
        raise PortmapError("no_gateway", "this network has no IPv4 gateway")
    local = bound.ip if not bound.ip.is_unspecified else _local_towards(state.gateway)
    if not isinstance(local, IPv4Address):
        raise PortmapError("no_gateway", f"no way to the gateway {state.gateway}")
    if is_public(local):
        raise PortmapError("no_gateway", f"{local} is a public address: no mapping is needed")
    return Gateway(state.gateway, local)


def _local_towards(ip: IPv4Address) -> IPv4Address | None:
    """Which of our addresses packets to a destination get; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((str(ip), 9))
        except OSError:
            return None
        return IPv4Address(sock.getsockname()[0])


class PortMapper:
    """Service of an endpoint: keeps a mapping for its IPv4 socket.

    Parameters
    ----------
    names : of the protocols to use.
    find : replaces how the gateway is found.
    make : replaces the protocols.
    """

    name = "port mapper"

    def __init__(
        self,
        names: Collection[ProtocolName] = PROTOCOLS,
        *,
        find: Callable[[NetworkState, SocketAddr], Gateway] | None = None,
        make: Callable[[Collection[ProtocolName]], list[MappingProtocol]] = protocols_of,
    ) -> None:
        self._names = names
        self._find = find or gateway_of
        self._make = make
        self._bound: SocketAddr | None = None
        self._context: ServiceContext | None = None
        self._keeper: Keeper | None = None
        self._tasks = Tasks(self._failed)

    async def start(self, context: ServiceContext) -> None:
        """Begin to ask; nothing waits for the answer."""
        self._bound = socket_to_map(context.sockets)
        if self._bound is None:
            return
        self._context = context
        self.network_changed(context.net)

    def network_changed(self, state: NetworkState) -> None:
        """Ask the gateway there is now, and the same one whether the mapping is still there."""
        if self._context is None or self._bound is None:
            return
        gateway: Gateway | None = None
        try:
            gateway = self._find(state, self._bound)
        except PortmapError as error:
            log.debug("no port mapping: %s", error)
        if self._keeper is None:
            if gateway is None:
                return  # nothing is loaded before it is needed
            self._keeper = Keeper(self._make(self._names), self._bound.port, self._changed)
            self._tasks.start(self._keeper.run())
        self._keeper.look(gateway)

    def _changed(self, lease: Lease | None) -> None:
        assert self._context is not None
        self._context.addrs.put(SOURCE, [] if lease is None else [IpAddr(lease.external)])

    def _failed(self, error: BaseException) -> None:
        log.error("port mapping ended", exc_info=error)

    @property
    def lease(self) -> Lease | None:
        """The mapping there is."""
        return None if self._keeper is None else self._keeper.lease

    @property
    def metrics(self) -> Mapping[str, int]:
        """What was asked, and what came of it."""
        return new_counters() if self._keeper is None else self._keeper.counters

    async def close(self) -> None:
        """Give the mapping back."""
        keeper = self._keeper
        await self._tasks.end()
        if keeper is not None:
            await keeper.close()
        self._context = None
