"""Addresses that stand for something other than an IP path.

QUIC knows only IPv6 addresses. A relay path is presented to it as an address of a private
prefix (``fd15:70a:510b::/48``, RFC 4193) with random host bits, so that nobody can guess the
address of somebody else's route. These addresses never leave the process.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from ipaddress import IPv6Address
from typing import NamedTuple

from iroh_fast.addr import RelayUrl

__all__ = ["MAPPED_PORT", "MAPPED_PREFIX", "MappedAddrs", "RelayRoute", "is_mapped"]

MAPPED_PREFIX = bytes.fromhex("fd15070a510b")
MAPPED_PORT = 12345
RELAY_SUBNET = b"\x00\x01"
MAX_ROUTES = 16384  # whoever gets a relay to forward to us makes a route: the oldest give way


class RelayRoute(NamedTuple):
    """An endpoint as reached over one relay."""

    url: RelayUrl
    key: bytes


def is_mapped(ip: str) -> bool:
    """Whether the text of an IP address belongs to the private prefix."""
    return ip.startswith("fd15:70a:510b:")


class MappedAddrs:
    """Two-way table between relay routes and their private addresses."""

    def __init__(self) -> None:
        self._by_route: OrderedDict[RelayRoute, bytes] = OrderedDict()
        self._by_ip: dict[bytes, RelayRoute] = {}

    def __len__(self) -> int:
        return len(self._by_ip)

    def ip_of(self, route: RelayRoute) -> bytes:
        """The 16 address bytes of a route, made on first use."""
        ip = self._by_route.get(route)
        if ip is None:
            ip = MAPPED_PREFIX + RELAY_SUBNET + os.urandom(8)
            self._by_route[route] = ip
            self._by_ip[ip] = route
            if len(self._by_route) > MAX_ROUTES:
                del self._by_ip[self._by_route.popitem(last=False)[1]]
        else:
            self._by_route.move_to_end(route)
        return ip

    def sockaddr_of(self, route: RelayRoute) -> tuple[str, int, int, int]:
        """The same as an address tuple for the QUIC engine."""
        return (str(IPv6Address(self.ip_of(route))), MAPPED_PORT, 0, 0)

    def route_of(self, ip: bytes | str) -> RelayRoute | None:
        """What an address stands for, or None."""
        return self._by_ip.get(IPv6Address(ip).packed if isinstance(ip, str) else ip)

    def forget(self, key: bytes) -> None:
        """Drop every route to an endpoint; nothing may use them any more."""
        for route in [route for route in self._by_route if route.key == key]:
            del self._by_ip[self._by_route.pop(route)]
