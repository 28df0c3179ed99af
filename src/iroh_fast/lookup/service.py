"""Address lookup as a service of an endpoint: what services get to see, when own addresses are published."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..addr import EndpointAddr, IpAddr, RelayAddr, SocketAddr
from ..aio.owner import Owner
from ..keys import EndpointId, SecretKey
from ..net.local_addrs import NetworkState
from ..net.service import ServiceContext
from .info import EndpointData
from .registry import AddressLookupServices
from .services import AddressLookupLike

if TYPE_CHECKING:
    from ..web.ca import CaConfig
    from ..web.client import HttpClient
    from ..web.proxy import Proxy
    from ..web.resolver import DnsResolver

__all__ = ["EndpointHost", "LookupService", "own_data"]


class EndpointHost:
    """What an endpoint shows to its address lookup services.

    Parameters
    ----------
    resolver : of names, or None for one that is made when it is first asked for.
    ca : what to trust.
    proxy : asked once, when there is a first HTTP request.
    """

    def __init__(
        self,
        owner: Owner,
        secret_key: SecretKey,
        *,
        resolver: DnsResolver | None = None,
        ca: CaConfig | ssl.SSLContext | None = None,
        proxy: Callable[[], Proxy | None] = lambda: None,
    ) -> None:
        self.owner = owner
        self.secret_key = secret_key
        self._given = resolver
        self._ca = ca
        self._proxy = proxy
        self._resolver: DnsResolver | None = None  # once it is in use here
        self._http: HttpClient | None = None

    @property
    def id(self) -> EndpointId:
        """The endpoint."""
        return self.secret_key.public

    @property
    def dns_resolver(self) -> DnsResolver:
        """Its resolver of names."""
        if self._resolver is None:
            from ..web.resolver import DnsResolver

            self._resolver = DnsResolver() if self._given is None else self._given
            self._resolver.attach(self._ca)
        return self._resolver

    @property
    def http(self) -> HttpClient:
        """Its HTTP client."""
        if self._http is None:
            from ..web.client import HttpClient

            self._http = HttpClient(self.dns_resolver, ca=self._ca, proxy=self._proxy())
        return self._http

    def network_changed(self) -> None:
        """Other name servers may be in charge now, and open connections lead nowhere."""
        if self._resolver is not None:
            self._resolver.reset()
        if self._http is not None:
            self._http.reset()

    async def close(self) -> None:
        """Close what was made, and let go of what was given."""
        if self._http is not None:
            await self._http.close()
        if self._resolver is not None:
            await self._resolver.detach()


def own_data(
    addr: EndpointAddr, user_data: str | None, best: Sequence[SocketAddr] = ()
) -> EndpointData:
    """What an endpoint publishes: direct addresses, `best` of them first, then the home relay."""
    direct = sorted(
        (a for a in addr.addrs if isinstance(a, IpAddr)),
        key=lambda a: best.index(a.addr) if a.addr in best else len(best),
    )
    relays = [a for a in addr.addrs if isinstance(a, RelayAddr)]
    return EndpointData((*direct, *relays), user_data)


class LookupService:
    """Service of an endpoint: publishes its addresses, and keeps its address lookup services.

    Parameters
    ----------
    builders : the services to begin with.
    """

    name = "address lookup"

    def __init__(
        self,
        host: EndpointHost,
        services: AddressLookupServices,
        builders: Sequence[AddressLookupLike],
        user_data: str | None,
    ) -> None:
        self._host = host
        self._services = services
        self._builders = builders
        self._user_data = user_data
        self._context: ServiceContext | None = None

    async def start(self, context: ServiceContext) -> None:
        """Make the services, which learn the addresses that are known by now."""
        self._context = context
        self.publish()
        for builder in self._builders:
            self._services.add(builder)

    @property
    def user_data(self) -> str | None:
        """Text that is published with the addresses."""
        return self._user_data

    @user_data.setter
    def user_data(self, value: str | None) -> None:
        self._user_data = value
        self.publish()

    def publish(self) -> None:
        """The addresses, or the user data, may be others than before."""
        if self._context is not None:
            own = self._context.addrs
            data = own_data(own.value.get(), self._user_data, own.candidates())
            self._services.publish(data)

    def network_changed(self, state: NetworkState) -> None:
        """Ask other name servers perhaps, and tell the services."""
        if state.major:
            self._host.network_changed()
            self._services.network_changed()

    async def close(self) -> None:
        """End all lookups, the services, and what they used."""
        await self._services.close()
        await self._host.close()

    @property
    def metrics(self) -> Mapping[str, int]:
        """Counters by full name."""
        return self._services.metrics
