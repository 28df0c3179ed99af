"""Reads what the network of this machine is like, by the means of its system."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from ..local_addrs import Interface, IpAddress, NetworkState

__all__ = ["interface_to", "is_cut_off", "read_network", "route_sources"]

log = logging.getLogger("iroh_fast.net")

_FAR = IPv4Address("198.41.0.4"), IPv6Address("2001:503:ba3e::2:30")  # see netlink


def read_network() -> NetworkState:
    """The network as it is now; takes less than a millisecond on Linux, a few elsewhere."""
    if sys.platform == "linux":
        try:
            return _by_netlink()
        except OSError as error:
            log.debug("no answer from netlink: %s", error)
    try:
        return _by_psutil()
    except (OSError, RuntimeError) as error:  # some systems let no program look
        log.info("the network interfaces cannot be read: %s", error)
        return NetworkState()


def is_cut_off() -> bool:
    """Whether this machine has no network at all, only itself."""
    return read_network().is_cut_off


def _by_netlink() -> NetworkState:
    from .netlink import Netlink

    with Netlink() as kernel:
        links, addresses, ways = kernel.links(), kernel.addresses(), kernel.ways()
    gateway = None if ways[0] is None else ways[0].gateway
    ips: dict[int, list[IpAddress]] = {}
    deprecated: dict[int, set[IpAddress]] = {}
    for address in addresses:
        ips.setdefault(address.index, []).append(address.ip)
        if address.deprecated:
            deprecated.setdefault(address.index, set()).add(address.ip)
    names = {link.index: link.name for link in links if not link.loopback}
    v4, v6 = (None if way is None else names.get(way.index) for way in ways)
    return NetworkState(
        tuple(
            Interface(
                name=link.name,
                index=link.index,
                up=link.up,
                mac=link.mac,
                ips=tuple(sorted(ips.get(link.index, ()), key=_order)),
                deprecated=frozenset(deprecated.get(link.index, ())),
            )
            for link in sorted(links, key=lambda link: link.index)
        ),
        default_routes=(v4, v6),
        gateway=gateway if isinstance(gateway, IPv4Address) else None,
    )


def _order(ip: IpAddress) -> tuple[int, int]:
    return ip.version, int(ip)


def _by_psutil() -> NetworkState:
    import psutil  # late: only needed here, and slow to load

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    interfaces = []
    for name, entries in psutil.net_if_addrs().items():
        ips, mac = [], ""
        for entry in entries:
            try:
                ips.append(ip_address(entry.address.partition("%")[0]))
            except ValueError:  # a hardware address
                mac = entry.address
        found = tuple(sorted(ips, key=_order))
        interfaces.append(Interface(name, _index_of(name), name in up, mac, found))
    v4, v6 = _named(interfaces, route_sources())
    return NetworkState(tuple(interfaces), default_routes=(v4, v6))


def _index_of(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:  # gone, or not known by this name
        return 0


def route_sources() -> tuple[IpAddress | None, IpAddress | None]:
    """Which own addresses packets to the internet would have, with IPv4 and with IPv6."""
    return _source_to(_FAR[0]), _source_to(_FAR[1])


def interface_to(destination: IpAddress, source: IpAddress) -> str | None:
    """The interface over which packets from an own address leave; None when that is not known.

    What does not ask the kernel of Linux looks from which address they would leave by themselves.
    """
    if sys.platform == "linux":
        from .netlink import Netlink

        try:
            with Netlink() as kernel:
                way = kernel.way(destination, source)
            return None if way is None else socket.if_indextoname(way.index)
        except OSError:
            return None
    own = _source_to(destination)
    if own is None:
        return None
    return next(filter(None, _named(_by_psutil().interfaces, (own,))), None)


def _source_to(destination: IpAddress) -> IpAddress | None:
    """The own address of packets to another one; nothing is sent."""
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(destination), 9))
            ip = ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError:
        return None
    return None if ip.is_loopback or ip.is_unspecified else ip


def _named(
    interfaces: Iterable[Interface], sources: Iterable[IpAddress | None]
) -> Iterator[str | None]:
    owners = {ip: interface.name for interface in interfaces for ip in interface.ips}
    return (None if ip is None else owners.get(ip) for ip in sources)
