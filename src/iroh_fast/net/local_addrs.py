"""Addresses at which others may reach this machine."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from ..addr import SocketAddr

__all__ = ["IpAddress", "NetworkState", "choose", "direct_addrs", "is_cut_off"]

IpAddress: TypeAlias = IPv4Address | IPv6Address


def _is_unique_local(ip: IpAddress) -> bool:
    return isinstance(ip, IPv6Address) and ip.packed[0] & 0xFE == 0xFC


def choose(found: Iterable[IpAddress]) -> list[IpAddress]:
    """Pick from the addresses of the interfaces those worth telling, in order.

    Link-local IPv6 is of no use to others. Link-local IPv4 and unique-local IPv6 count only
    when there is no regular address of either family, loopback only when there is nothing
    else at all.
    """
    good: set[IpAddress] = set()
    poor: set[IpAddress] = set()
    loopback: set[IpAddress] = set()
    for ip in found:
        if ip.is_loopback:
            loopback.add(ip)
        elif ip.version == 6 and ip.is_link_local or ip.is_multicast or ip.is_unspecified:
            continue
        elif ip.is_link_local or _is_unique_local(ip):
            poor.add(ip)
        else:
            good.add(ip)
    return sorted(good or poor or loopback, key=lambda ip: (ip.version, int(ip)))


def _read_interfaces() -> frozenset[IpAddress]:
    import psutil  # late: only needed here, and slow to load

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found: set[IpAddress] = set()
    for name, entries in psutil.net_if_addrs().items():
        if name not in up:
            continue
        for entry in entries:
            try:
                found.add(ip_address(entry.address.partition("%")[0]))
            except ValueError:  # a hardware address
                continue
    return frozenset(found)


class NetworkState:
    """What the network of this machine is like; read when first asked for.

    Parameters
    ----------
    ips : addresses of the interfaces instead of those that the system tells.
    """

    __slots__ = ("_ips",)

    def __init__(self, ips: Iterable[IpAddress] | None = None) -> None:
        self._ips = None if ips is None else frozenset(ips)

    @property
    def ips(self) -> frozenset[IpAddress]:
        """Every address of the interfaces that are up, without scopes."""
        if self._ips is None:
            self._ips = _read_interfaces()
        return self._ips


def is_cut_off() -> bool:
    """Whether this machine has no network at all, only itself."""
    return all(ip.is_loopback or ip.is_link_local for ip in NetworkState().ips)


def direct_addrs(sockets: Iterable[SocketAddr], network: NetworkState) -> set[SocketAddr]:
    """Where sockets bound to these addresses can be reached from this network."""
    found: set[SocketAddr] = set()
    chosen: list[IpAddress] | None = None
    for bound in sockets:
        if not bound.ip.is_unspecified:
            found.add(bound)
            continue
        if chosen is None:
            chosen = choose(network.ips)
        found.update(SocketAddr(ip, bound.port) for ip in chosen if ip.version == bound.ip.version)
    return found
