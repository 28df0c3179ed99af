"""The links that this machine is on, and which of them nodes are looked for on."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, ip_address
from typing import Any, Final

__all__ = ["MAX_INTERFACES", "Interface", "choose", "read_interfaces"]

MAX_INTERFACES: Final = 16


@dataclass(frozen=True, slots=True)
class Interface:
    """One link.

    Attributes
    ----------
    networks4 : those of its IPv4 addresses.
    addrs : its addresses without scopes.
    """

    index: int
    name: str
    loopback: bool = False
    networks4: tuple[IPv4Network, ...] = ()
    addrs: frozenset[IPv4Address | IPv6Address] = field(default_factory=frozenset)

    def has(self, family: int) -> bool:
        """Whether it has an address of this IP version, 4 or 6."""
        return any(ip.version == family for ip in self.addrs)

    @property
    def is_used(self) -> bool:
        """Whether it has more than what each IPv6 interface gives itself."""
        return any(ip.version == 4 or not ip.is_link_local for ip in self.addrs)


def choose(found: Iterable[Interface], names: frozenset[str] | None) -> tuple[Interface, ...]:
    """Those to speak on: the named ones, or all that are in use; loopback where there is nothing else.

    DIFFERS: iroh's uses the one of the default route alone, which is none where there is no
    route, and the wrong one where a VPN has it.
    """
    links = sorted((link for link in found if link.addrs), key=lambda link: link.index)
    if names is not None:
        return tuple(link for link in links if link.name in names)[:MAX_INTERFACES]
    outward = [link for link in links if not link.loopback]
    used = [link for link in outward if link.is_used]
    return tuple(used or outward or links)[:MAX_INTERFACES]


def read_interfaces() -> list[Interface]:
    """Those that are up and can multicast; loopback always can."""
    import psutil  # late: only needed here, and slow to load

    stats, entries = psutil.net_if_stats(), psutil.net_if_addrs()
    found = []
    for index, name in socket.if_nameindex():
        state = stats.get(name)
        if state is not None and state.isup:
            link = _interface(index, name, state, entries)
            if link is not None:
                found.append(link)
    return found


def _interface(
    index: int, name: str, state: Any, entries: Mapping[str, Iterable[Any]]
) -> Interface | None:
    addrs, networks = set(), []
    for entry in entries.get(name, ()):
        try:
            ip = ip_address(entry.address.partition("%")[0])
        except ValueError:  # a hardware address
            continue
        addrs.add(ip)
        if ip.version == 4 and entry.netmask:
            networks.append(IPv4Interface(f"{ip}/{entry.netmask}").network)
    flags = set(getattr(state, "flags", "").split(","))
    loopback = "loopback" in flags or bool(addrs) and all(ip.is_loopback for ip in addrs)
    # A tunnel to one other machine says that it cannot; where no flags are told, all may.
    if not loopback and flags != {""} and "multicast" not in flags:
        return None
    return Interface(index, name, loopback, tuple(networks), frozenset(addrs))
