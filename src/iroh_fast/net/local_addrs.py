"""The network of this machine, and the addresses at which others may reach it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from ..addr import SocketAddr

__all__ = ["Interface", "IpAddress", "NetworkState", "choose", "direct_addrs", "is_usable"]

IpAddress: TypeAlias = IPv4Address | IPv6Address


def _is_unique_local(ip: IpAddress) -> bool:
    return isinstance(ip, IPv6Address) and ip.packed[0] & 0xFE == 0xFC


def is_usable(ip: IpAddress) -> bool:
    """Whether packets from this address of an interface may get beyond its link."""
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface.

    Parameters
    ----------
    name : as the system calls it.
    index : its number, 0 where that is unknown.
    up : whether it is switched on and has a link.
    mac : hardware address as text, may be empty.
    ips : its addresses, without scopes.
    deprecated : those of them that should not be used for anything new.
    """

    name: str
    index: int = 0
    up: bool = True
    mac: str = ""
    ips: tuple[IpAddress, ...] = ()
    deprecated: frozenset[IpAddress] = frozenset()

    @property
    def fresh(self) -> tuple[IpAddress, ...]:
        """The addresses that can be told to others; none when it is down."""
        return tuple(ip for ip in self.ips if ip not in self.deprecated) if self.up else ()


@dataclass(frozen=True, slots=True)
class NetworkState:
    """What the network of this machine is like.

    Parameters
    ----------
    interfaces : all of them, also those that are down.
    default_routes : names of the interfaces that lead to the internet, with IPv4 and with IPv6;
        None where there is no way.
    gateway : the next router for IPv4; None without one, and where the system does not tell.
    major : whether the change to this state may have broken what was in use before.
    """

    interfaces: tuple[Interface, ...] = ()
    default_routes: tuple[str | None, str | None] = (None, None)
    gateway: IPv4Address | None = None
    major: bool = True

    @classmethod
    def of(cls, ips: Iterable[IpAddress]) -> NetworkState:
        """A network with a single interface, which has these addresses."""
        return cls((Interface("net0", 1, ips=tuple(ips)),), ("net0", "net0"))

    @property
    def ips(self) -> frozenset[IpAddress]:
        """Every address of the interfaces that are up, without scopes."""
        return frozenset(ip for i in self.interfaces if i.up for ip in i.ips)

    @property
    def have_v4(self) -> bool:
        """Whether there is an IPv4 address that leads beyond a link."""
        return any(ip.version == 4 and is_usable(ip) for ip in self.ips)

    @property
    def have_v6(self) -> bool:
        """Whether there is an IPv6 address that leads beyond a link."""
        return any(ip.version == 6 and is_usable(ip) for ip in self.ips)

    @property
    def default_route(self) -> str | None:
        """The interface that leads to the internet, of IPv4 if there is one."""
        return self.default_routes[0] or self.default_routes[1]

    @property
    def is_cut_off(self) -> bool:
        """Whether this machine has no network at all, only itself."""
        return all(ip.is_loopback or ip.is_link_local for ip in self.ips)

    def owner(self, ip: IpAddress) -> Interface | None:
        """The interface that has an address and is up."""
        return next((i for i in self.interfaces if i.up and ip in i.ips), None)

    def by_use(self) -> list[IpAddress]:
        """The addresses to tell, those of the interfaces to the internet first."""
        first = dict(zip(reversed(self.default_routes), (1, 0), strict=True))
        ranked = sorted(self.interfaces, key=lambda i: (first.get(i.name, 2), i.index, i.name))
        return list(dict.fromkeys(ip for interface in ranked for ip in interface.fresh))


def choose(found: Iterable[IpAddress]) -> list[IpAddress]:
    """Pick from the addresses of the interfaces those worth telling, in the order given.

    Link-local IPv6 is of no use to others. Link-local IPv4 and unique-local IPv6 count only
    when there is no regular address of either family, loopback only when there is nothing
    else at all.
    """
    good: list[IpAddress] = []
    poor: list[IpAddress] = []
    loopback: list[IpAddress] = []
    for ip in found:
        if ip.is_loopback:
            loopback.append(ip)
        elif ip.version == 6 and ip.is_link_local or ip.is_multicast or ip.is_unspecified:
            continue
        elif ip.is_link_local or _is_unique_local(ip):
            poor.append(ip)
        else:
            good.append(ip)
    return good or poor or loopback


def direct_addrs(sockets: Iterable[SocketAddr], network: NetworkState) -> list[SocketAddr]:
    """Where sockets bound to these addresses can be reached from this network, the best first."""
    found: dict[SocketAddr, None] = {}
    chosen = choose(network.by_use())
    bound = list(sockets)
    for own in bound:
        if not own.ip.is_unspecified:
            found[own] = None
    for ip in chosen:
        for own in bound:
            if own.ip.is_unspecified and own.ip.version == ip.version:
                found[SocketAddr(ip, own.port)] = None
    return list(found)
