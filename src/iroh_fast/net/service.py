"""What the services of an endpoint get and share: its inside, the network, its own addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from ..addr import EndpointAddr, IpAddr, SocketAddr, TransportAddr
from ..aio.owner import Owner
from ..aio.services import Service, ServiceHost
from ..aio.watcher import Watchable
from ..keys import EndpointId, SecretKey
from .local_addrs import NetworkState, direct_addrs
from .monitor.read import read_network
from .socket import Driver

__all__ = ["EndpointService", "EndpointServices", "Interfaces", "OwnAddrs", "ServiceContext"]


# What others saw of us, or gave us, leads through NATs; what the user says was meant. Sources that
# are not named here come before the interfaces, which are tried by those on the same network.
_BY_USE: Final = ("qad", "stun", "portmap", "user")
_INTERFACES: Final = "interfaces"
MAX_CANDIDATES: Final = 128  # no peer takes as many


class OwnAddrs:
    """Where an endpoint can be reached, put together from whoever finds addresses.

    A source is known by its name and gives all of its addresses at once, the most useful first:
    ``"interfaces"``, ``"user"``, ``"relays"``, ``"portmap"``, and ``"qad"`` or ``"stun"`` for what
    others see of us.

    Parameters
    ----------
    changed : called with the new value at each change.
    candidates_changed : called with `candidates` when these, or their order, are others.
    """

    __slots__ = ("_candidates", "_candidates_changed", "_changed", "_found", "value")

    def __init__(
        self,
        id: EndpointId,
        owner: Owner,
        changed: Callable[[EndpointAddr], object],
        candidates_changed: Callable[[list[SocketAddr]], object] = lambda addrs: None,
    ) -> None:
        self.value = Watchable(EndpointAddr(id), owner)
        self._changed = changed
        self._candidates_changed = candidates_changed
        self._candidates: list[SocketAddr] = []
        self._found: dict[str, tuple[TransportAddr, ...]] = {}

    def of(self, source: str) -> frozenset[TransportAddr]:
        """What a source gave last."""
        return frozenset(self._found.get(source, ()))

    def put(self, source: str, addrs: Iterable[TransportAddr]) -> None:
        """Replace the addresses of a source; none takes it out."""
        self._found[source] = tuple(dict.fromkeys(addrs))
        if (candidates := self._by_use()) != self._candidates:
            self._candidates = candidates
            self._candidates_changed(list(candidates))
        found = frozenset(addr for addrs in self._found.values() for addr in addrs)
        addr = EndpointAddr(self.value.get().id, found)
        if self.value.set(addr):
            self._changed(addr)

    def candidates(self) -> list[SocketAddr]:
        """The direct addresses to try for getting here, the most useful first; at most 128."""
        return list(self._candidates)

    def _by_use(self) -> list[SocketAddr]:
        rank = {name: i for i, name in enumerate(_BY_USE)} | {_INTERFACES: len(_BY_USE) + 1}
        sources = sorted(self._found, key=lambda name: rank.get(name, len(_BY_USE)))
        found: dict[SocketAddr, None] = {}
        for source in sources:
            for addr in self._found[source]:
                if isinstance(addr, IpAddr) and _goes_on_the_wire(addr.addr):
                    found[addr.addr] = None
        return list(found)[:MAX_CANDIDATES]


def _goes_on_the_wire(addr: SocketAddr) -> bool:
    """Whether a peer is told of it: scopes of links cannot be."""
    return addr.port != 0 and not (addr.ip.is_unspecified or addr.ip.is_multicast or addr.scope_id)


@dataclass(frozen=True, slots=True, eq=False)
class ServiceContext:
    """What a service is started with.

    Attributes
    ----------
    owner : loop and thread of the endpoint.
    secret_key : its identity.
    driver : its sockets and engine, to add a transport to or to dial from.
    sockets : the addresses that the sockets are bound to.
    addrs : its own addresses, to put found ones in.
    network : gives what the network of this machine is like; `net` is that, now.
    """

    owner: Owner
    secret_key: SecretKey
    driver: Driver
    sockets: tuple[SocketAddr, ...]
    addrs: OwnAddrs
    network: Callable[[], NetworkState] = read_network

    @property
    def net(self) -> NetworkState:
        """The network of this machine as it was read last."""
        return self.network()


EndpointService: TypeAlias = Service[ServiceContext, NetworkState]
EndpointServices: TypeAlias = ServiceHost[ServiceContext, NetworkState]


class Interfaces:
    """Service: the addresses of the sockets, as far as this network reaches them."""

    name = _INTERFACES
    metrics: Mapping[str, int] = {}

    def __init__(self) -> None:
        self._context: ServiceContext | None = None

    async def start(self, context: ServiceContext) -> None:
        """Tell the addresses there are now."""
        self._context = context
        self.network_changed(context.net)

    def network_changed(self, state: NetworkState) -> None:
        """Tell those there are then."""
        if (context := self._context) is not None:
            context.addrs.put(self.name, map(IpAddr, direct_addrs(context.sockets, state)))

    async def close(self) -> None:
        """Nothing runs."""
