"""Address lookup: how endpoints are found that are known by their key alone.

Names are loaded when first used.
"""

from __future__ import annotations

from .._later import public_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..errors import (
        AddressLookupError,
        AddressLookupFailed,
        DnsError,
        EndpointInfoError,
        PkarrError,
        SignedPacketError,
        UserDataTooLong,
    )
    from ..web.resolver import DnsResolver, NameserverConfig, Resolver
    from .dht.service import DhtLookup
    from .dns import DnsLookup, lookup_by_domain_name, lookup_by_id
    from .filters import AddrFilter, AddrFilterLike, ip_only, relay_only, unfiltered
    from .info import EndpointData, EndpointInfo
    from .mdns import Discovered, Expired, MdnsEvents, MdnsLookup
    from .memory import MemoryLookup
    from .merge import Lookup
    from .pkarr import PkarrPublisher, PkarrResolver
    from .registry import AddressLookupServices
    from .services import (
        AddressLookup,
        AddressLookupBuilder,
        AddressLookupLike,
        LookupAnswer,
        LookupFailure,
        LookupHost,
        LookupItem,
    )
    from .signed_packet import SignedPacket

_MODULE_OF = {
    "AddrFilter": ".filters",
    "AddrFilterLike": ".filters",
    "AddressLookup": ".services",
    "AddressLookupBuilder": ".services",
    "AddressLookupError": "..errors",
    "AddressLookupFailed": "..errors",
    "AddressLookupLike": ".services",
    "AddressLookupServices": ".registry",
    "DhtLookup": ".dht.service",
    "Discovered": ".mdns",
    "DnsError": "..errors",
    "DnsLookup": ".dns",
    "DnsResolver": "..web.resolver",
    "EndpointData": ".info",
    "EndpointInfo": ".info",
    "EndpointInfoError": "..errors",
    "Expired": ".mdns",
    "Lookup": ".merge",
    "LookupAnswer": ".services",
    "LookupFailure": ".services",
    "LookupHost": ".services",
    "LookupItem": ".services",
    "MdnsEvents": ".mdns",
    "MdnsLookup": ".mdns",
    "MemoryLookup": ".memory",
    "NameserverConfig": "..web.resolver",
    "PkarrError": "..errors",
    "PkarrPublisher": ".pkarr",
    "PkarrResolver": ".pkarr",
    "Resolver": "..web.resolver",
    "SignedPacket": ".signed_packet",
    "SignedPacketError": "..errors",
    "UserDataTooLong": "..errors",
    "ip_only": ".filters",
    "lookup_by_domain_name": ".dns",
    "lookup_by_id": ".dns",
    "relay_only": ".filters",
    "unfiltered": ".filters",
}

__all__ = [
    "AddrFilter",
    "AddrFilterLike",
    "AddressLookup",
    "AddressLookupBuilder",
    "AddressLookupError",
    "AddressLookupFailed",
    "AddressLookupLike",
    "AddressLookupServices",
    "DhtLookup",
    "Discovered",
    "DnsError",
    "DnsLookup",
    "DnsResolver",
    "EndpointData",
    "EndpointInfo",
    "EndpointInfoError",
    "Expired",
    "Lookup",
    "LookupAnswer",
    "LookupFailure",
    "LookupHost",
    "LookupItem",
    "MdnsEvents",
    "MdnsLookup",
    "MemoryLookup",
    "NameserverConfig",
    "PkarrError",
    "PkarrPublisher",
    "PkarrResolver",
    "Resolver",
    "SignedPacket",
    "SignedPacketError",
    "UserDataTooLong",
    "ip_only",
    "lookup_by_domain_name",
    "lookup_by_id",
    "relay_only",
    "unfiltered",
]

__getattr__, __dir__ = public_names(__name__, _MODULE_OF)
