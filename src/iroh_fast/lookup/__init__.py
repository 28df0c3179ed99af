"""Address lookup: how endpoints are found that are known by their key alone.

Names are loaded when first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..errors import (
        AddressLookupError,
        AddressLookupFailed,
        EndpointInfoError,
        SignedPacketError,
        UserDataTooLong,
    )
    from .dht.service import DhtLookup
    from .filters import AddrFilter, AddrFilterLike, ip_only, relay_only, unfiltered
    from .info import EndpointData, EndpointInfo
    from .mdns import Discovered, Expired, MdnsEvents, MdnsLookup
    from .memory import MemoryLookup
    from .merge import Lookup
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
    "SignedPacket": ".signed_packet",
    "SignedPacketError": "..errors",
    "UserDataTooLong": "..errors",
    "ip_only": ".filters",
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
    "SignedPacket",
    "SignedPacketError",
    "UserDataTooLong",
    "ip_only",
    "relay_only",
    "unfiltered",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
