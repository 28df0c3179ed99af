"""What the services of an endpoint get and share: its inside, the network, its own addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..addr import EndpointAddr, IpAddr, SocketAddr, TransportAddr
from ..aio.owner import Owner
from ..aio.services import Service, ServiceHost
from ..aio.watcher import Watchable
from ..keys import EndpointId, SecretKey
from .local_addrs import NetworkState, direct_addrs
from .socket import Driver

__all__ = ["EndpointService", "EndpointServices", "Interfaces", "OwnAddrs", "ServiceContext"]


class OwnAddrs:
    """Where an endpoint can be reached, put together from whoever finds addresses.

    A source is known by its name and gives all of its addresses at once: interfaces, the user,
    relays, later port mappings and what others see of us.

    Parameters
    ----------
    changed : called with the new value at each change.
    """

    __slots__ = ("_changed", "_found", "value")

    def __init__(
        self, id: EndpointId, owner: Owner, changed: Callable[[EndpointAddr], object]
    ) -> None:
        self.value = Watchable(EndpointAddr(id), owner)
        self._changed = changed
        self._found: dict[str, frozenset[TransportAddr]] = {}

    def of(self, source: str) -> frozenset[TransportAddr]:
        """What a source gave last."""
        return self._found.get(source, frozenset())

    def put(self, source: str, addrs: Iterable[TransportAddr]) -> None:
        """Replace the addresses of a source; none takes it out."""
        self._found[source] = frozenset(addrs)
        addr = EndpointAddr(self.value.get().id, frozenset[TransportAddr]().union(*self._found.values()))
        if self.value.set(addr):
            self._changed(addr)


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
    """

    owner: Owner
    secret_key: SecretKey
    driver: Driver
    sockets: tuple[SocketAddr, ...]
    addrs: OwnAddrs


EndpointService: TypeAlias = Service[ServiceContext, NetworkState]
EndpointServices: TypeAlias = ServiceHost[ServiceContext, NetworkState]


class Interfaces:
    """Service: the addresses of the sockets, as far as this network reaches them."""

    name = "interfaces"
    metrics: Mapping[str, int] = {}

    def __init__(self) -> None:
        self._context: ServiceContext | None = None

    async def start(self, context: ServiceContext) -> None:
        """Tell the addresses there are now."""
        self._context = context
        self.network_changed(NetworkState())

    def network_changed(self, state: NetworkState) -> None:
        """Tell those there are then."""
        if (context := self._context) is not None:
            context.addrs.put(self.name, map(IpAddr, direct_addrs(context.sockets, state)))

    async def close(self) -> None:
        """Nothing runs."""
