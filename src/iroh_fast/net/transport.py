"""The ways in which QUIC datagrams travel, and what an address of the engine stands for.

The QUIC engine knows only socket addresses. Everything that is not plain UDP is presented to it
as an address of a private prefix (``fd15:70a:510b::/48``, RFC 4193): two bytes of subnet say which
transport it belongs to, eight random bytes stand for one way of that transport, so that nobody can
guess the address of somebody else's. These addresses never leave the process.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from iroh_fast.addr import IpAddr, SocketAddr, TransportAddr

__all__ = [
    "CUSTOM_SUBNET",
    "PRIVATE_PORT",
    "PRIVATE_PREFIX",
    "RELAY_SUBNET",
    "PrivateAddrs",
    "SockAddr",
    "Transport",
    "TransportTable",
    "is_custom",
    "is_private",
    "is_relay",
]

SockAddr: TypeAlias = tuple[Any, ...]

PRIVATE_PREFIX = bytes.fromhex("fd15070a510b")
PRIVATE_PORT = 12345
RELAY_SUBNET = b"\x00\x01"
CUSTOM_SUBNET = b"\x00\x03"
MAX_ROUTES = 16384  # whoever gets a relay to forward to us makes a route: the oldest give way

_PRIVATE_TEXT = "fd15:70a:510b:"
_RELAY_TEXT, _CUSTOM_TEXT = f"{_PRIVATE_TEXT}1:", f"{_PRIVATE_TEXT}3:"


class Transport(Protocol):
    """One way to move QUIC datagrams that is not a UDP socket.

    Attributes
    ----------
    kind : name in counters and for the choice of paths, "relay".
    subnet : two bytes behind the private prefix that all its addresses have.
    max_segments : datagrams that `send` takes at once, of 65,500 bytes together.
    max_datagram : bytes of the largest one, for MTU discovery; 0 where that is unknown.
    """

    kind: str
    subnet: bytes
    max_segments: int
    max_datagram: int

    def route(self, addr: TransportAddr, peer: bytes) -> SockAddr | None:
        """The private address of `peer` (32 bytes of key) at `addr`; None for a foreign kind."""
        ...

    def addr_of(self, sockaddr: SockAddr) -> TransportAddr | None:
        """What one of its private addresses stands for; None when it is not known any more."""
        ...

    def send(self, ip16: bytes, ecn: int, segment: int, data: bytes, /) -> None:
        """Send `data` to a private address without waiting; may drop it.

        A transport that hands in datagrams with the private address they were sent to also gets
        that, behind the others: what answers them leaves from there.

        Parameters
        ----------
        ip16 : the 16 bytes of the address.
        ecn : the two ECN bits, 0..3.
        segment : bytes per datagram of a batch, 0 for a single one; the last may be shorter.
        """
        ...


def is_private(sockaddr: SockAddr) -> bool:
    """Whether an address of the engine stands for something other than a UDP address."""
    return bool(sockaddr[0].startswith(_PRIVATE_TEXT))


def is_relay(sockaddr: SockAddr) -> bool:
    """Whether it stands for a peer behind a relay."""
    return bool(sockaddr[0].startswith(_RELAY_TEXT))


def is_custom(sockaddr: SockAddr) -> bool:
    """Whether it stands for an address of a user's transport."""
    return bool(sockaddr[0].startswith(_CUSTOM_TEXT))


R = TypeVar("R", bound=Hashable)


class PrivateAddrs(Generic[R]):
    """Two-way table between the routes of one transport and their private addresses.

    A route is whatever the transport needs to reach a peer, as a hashable value.
    """

    def __init__(self, subnet: bytes) -> None:
        self._prefix = PRIVATE_PREFIX + subnet
        self._by_route: OrderedDict[R, bytes] = OrderedDict()
        self._by_ip: dict[bytes, R] = {}

    def __len__(self) -> int:
        return len(self._by_ip)

    def ip_of(self, route: R) -> bytes:
        """The 16 address bytes of a route, made on first use."""
        ip = self._by_route.get(route)
        if ip is None:
            ip = self._prefix + os.urandom(8)
            self._by_route[route] = ip
            self._by_ip[ip] = route
            if len(self._by_route) > MAX_ROUTES:
                del self._by_ip[self._by_route.popitem(last=False)[1]]
        else:
            self._by_route.move_to_end(route)
        return ip

    def sockaddr_of(self, route: R) -> SockAddr:
        """The same as an address of the engine."""
        return (str(IPv6Address(self.ip_of(route))), PRIVATE_PORT, 0, 0)

    def route_of(self, ip: bytes | str) -> R | None:
        """What an address stands for, or None."""
        return self._by_ip.get(IPv6Address(ip).packed if isinstance(ip, str) else ip)

    def ips(self, wanted: Callable[[R], bool]) -> list[bytes]:
        """The addresses of all routes for which `wanted` holds."""
        return [ip for route, ip in self._by_route.items() if wanted(route)]

    def forget(self, unwanted: Callable[[R], bool]) -> None:
        """Drop every route for which `unwanted` holds; nothing may use them any more."""
        for route in [route for route in self._by_route if unwanted(route)]:
            del self._by_ip[self._by_route.pop(route)]


class TransportTable:
    """The one place that translates between addresses that users see and those of the engine."""

    def __init__(self) -> None:
        self._by_subnet: dict[bytes, Transport] = {}

    def add(self, transport: Transport) -> None:
        """Take in a transport; its subnet must be free."""
        if len(transport.subnet) != 2 or transport.subnet in self._by_subnet:
            raise ValueError(f"subnet {transport.subnet!r} is not two bytes or is taken")
        self._by_subnet[transport.subnet] = transport

    def __contains__(self, kind: str) -> bool:
        return any(transport.kind == kind for transport in self._by_subnet.values())

    def _of(self, sockaddr: SockAddr) -> Transport | None:
        packed = IPv6Address(sockaddr[0]).packed
        return self._by_subnet.get(packed[len(PRIVATE_PREFIX) : len(PRIVATE_PREFIX) + 2])

    def kind(self, sockaddr: SockAddr) -> str:
        """``"ip"``, or the kind of the transport behind a private address."""
        if not is_private(sockaddr):
            return "ip"
        transport = self._of(sockaddr)
        return "unknown" if transport is None else transport.kind

    def route(self, addr: TransportAddr, peer: bytes) -> SockAddr | None:
        """How the engine reaches `peer` (32 bytes of key) at `addr`; None when nothing here can."""
        if isinstance(addr, IpAddr):
            sockaddr = addr.addr.as_tuple()
            # The prefix is ours: nobody may aim at the ways of other peers by naming it.
            return None if is_private(sockaddr) else sockaddr
        for transport in self._by_subnet.values():
            if (found := transport.route(addr, peer)) is not None:
                return found
        return None

    def addr_of(self, sockaddr: SockAddr) -> TransportAddr:
        """What users see of an address of the engine."""
        if is_private(sockaddr):
            transport = self._of(sockaddr)
            if transport is not None and (addr := transport.addr_of(sockaddr)) is not None:
                return addr
        return IpAddr(SocketAddr.from_tuple(sockaddr))
