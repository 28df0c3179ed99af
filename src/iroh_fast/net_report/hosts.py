"""Where probes go: families of addresses that work here, addresses of servers."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from ..addr import SocketAddr
from ..errors import DnsError
from ..net.local_addrs import IpAddress
from ..net.transport import is_private

__all__ = ["HostNames", "addr_of", "families", "ip_of", "is_sane"]


class HostNames(Protocol):
    """What finds the addresses of names: a `DnsResolver`."""

    async def lookup_ipv4_staggered(self, host: str) -> list[IPv4Address]: ...

    async def lookup_ipv6_staggered(self, host: str) -> list[IPv6Address]: ...


def families(sockets: Iterable[SocketAddr], ips: Iterable[IpAddress]) -> frozenset[int]:
    """The families, 4 and 6, that there are sockets and addresses for.

    A machine that has nothing but itself uses that.
    """
    there = [ip for ip in ips if not (ip.version == 6 and ip.is_link_local)]
    usable = [ip for ip in there if not ip.is_loopback] or there
    found = {ip.version for ip in usable}
    # Who is bound to one address, whatever that is, means it.
    bound = {own.ip.version: own for own in sockets}
    return frozenset(v for v, own in bound.items() if v in found or not own.ip.is_unspecified)


def ip_of(host: str) -> IpAddress | None:
    """The IP address that a host is given by; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


async def addr_of(names: HostNames, host: str, port: int, family: int) -> SocketAddr:
    """An address of a server in one family.

    Raises
    ------
    DnsError
        It has none.
    """
    if (literal := ip_of(host)) is not None:
        if literal.version != family:
            raise DnsError(f"{host} is no IPv{family} address", host=host)
        return SocketAddr(literal, port)
    if family == 4:
        return SocketAddr((await names.lookup_ipv4_staggered(host))[0], port)
    return SocketAddr((await names.lookup_ipv6_staggered(host))[0], port)


def is_sane(seen: SocketAddr, server: SocketAddr) -> bool:
    """Whether a server may be believed that it sees us there.

    Servers lie. What they tell is given to others, who would send there: nothing but an address
    that a single machine may have, in the family that was asked over, and none that stands for a
    way of ours.
    """
    ip = seen.ip
    if ip.version != server.ip.version or seen.port == 0:
        return False
    if (
        is_private(seen.as_tuple())
        or ip.is_multicast
        or ip.is_unspecified
        or ip == IPv4Address("255.255.255.255")
    ):
        return False
    return server.ip.is_loopback or not (ip.is_loopback or ip.version == 6 and ip.is_link_local)
