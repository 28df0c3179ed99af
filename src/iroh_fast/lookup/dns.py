"""Address lookup through DNS: TXT records of ``_iroh.<key>.<origin>``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol

from .._check import check_text
from ..errors import IrohError
from ..keys import EndpointId
from ..web.resolver.stagger import DNS_STAGGER_S, staggered
from .info import EndpointData, EndpointInfo
from .n0 import n0_dns_origin
from .services import LookupAnswer, LookupFailure, LookupHost, LookupItem

__all__ = ["DnsLookup", "DnsLookupService", "lookup_by_domain_name", "lookup_by_id"]

_LABEL: Final = "_iroh."


class TxtResolver(Protocol):
    """What is needed of a :class:`DnsResolver`."""

    async def lookup_txt(self, host: str, /) -> list[list[bytes]]:
        """TXT records of a name: of each its strings."""
        ...


async def lookup_by_id(
    resolver: TxtResolver, id: EndpointId, origin: str, *, delays: Sequence[float] = DNS_STAGGER_S
) -> EndpointInfo:
    """Look up what an endpoint published below an origin such as ``dns.iroh.link.``.

    Parameters
    ----------
    resolver : DnsResolver
    origin : used as it is; without a last dot, search domains count. "." is the root.
    delays : seconds from now at which the question is asked again, besides at once.

    Raises
    ------
    DnsStaggered : nothing was found; what each call met is in its `errors`.

    Notes
    -----
    Nothing of this is signed: whoever answers may have invented it. A connection to these
    addresses comes about with the right endpoint or not at all.
    """
    below = "" if origin == "." else origin
    return await _staggered(resolver, f"{_LABEL}{id.to_z32()}.{below}", delays)


async def lookup_by_domain_name(
    resolver: TxtResolver, name: str, *, delays: Sequence[float] = DNS_STAGGER_S
) -> EndpointInfo:
    """Look up an endpoint by a name that begins with its key, in z-base-32.

    ``_iroh.`` is put before it unless it is there.  Otherwise as `lookup_by_id`.
    """
    return await _staggered(resolver, name if name.startswith(_LABEL) else _LABEL + name, delays)


async def _staggered(resolver: TxtResolver, name: str, delays: Sequence[float]) -> EndpointInfo:
    async def call() -> EndpointInfo:
        records = await resolver.lookup_txt(name)
        return EndpointInfo.from_txt(name, [b"".join(strings) for strings in records])

    return await staggered(call, delays, what=name)


class DnsLookup:
    """Finds endpoints in the DNS, as iroh does; does not publish.

    Give it to ``address_lookup`` of an endpoint, or of several.

    Parameters
    ----------
    origin : the domain below which endpoints are published; None is number 0's. With a last
        dot it is complete, else the search domains of the system are tried as well.

    Notes
    -----
    An id that nobody published fails after three seconds: it might appear until then.
    """

    provenance = "dns"

    def __init__(self, origin: str | None = None) -> None:
        self._origin = check_text("origin", origin, none=True)

    @property
    def origin(self) -> str:
        """The domain below which endpoints are looked for."""
        return self._origin or n0_dns_origin()

    def into_address_lookup(self, endpoint: LookupHost, /) -> DnsLookupService:
        """Make the service of an endpoint: with its resolver."""
        return DnsLookupService(endpoint.dns_resolver, self.origin)

    def __repr__(self) -> str:
        return f"DnsLookup({self.origin!r})"


class DnsLookupService:
    """What `DnsLookup` makes for an endpoint."""

    provenance = "dns"

    def __init__(self, resolver: TxtResolver, origin: str) -> None:
        self._resolver = resolver
        self._origin = origin

    def publish(self, data: EndpointData, /) -> None:
        """Nothing: records get into the DNS by a pkarr relay."""

    async def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer]:
        """What is published now, or why that is not known."""
        try:
            info = await lookup_by_id(self._resolver, id, self._origin)
        except IrohError as error:
            yield LookupFailure(self.provenance, error)
        else:
            yield LookupItem(info, self.provenance)
