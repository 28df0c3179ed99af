"""What the protocols of port mapping have in common: gateways, leases, which addresses are public."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Literal, Protocol, TypeAlias

from ..addr import SocketAddr
from ..errors import PortmapError

__all__ = [
    "PROTOCOLS",
    "Gateway",
    "Lease",
    "MappingProtocol",
    "ProtocolName",
    "check_external",
    "is_public",
]

ProtocolName: TypeAlias = Literal["pcp", "nat_pmp", "upnp"]
PROTOCOLS: tuple[ProtocolName, ...] = ("pcp", "nat_pmp", "upnp")  # the best first

_BEHIND_NAT = tuple(
    IPv4Network(net)
    for net in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "224.0.0.0/3"),
    )
)


def is_public(ip: IPv4Address) -> bool:
    """Whether others can reach this address, as far as the address tells."""
    return not any(ip in net for net in _BEHIND_NAT)


def check_external(ip: IPv4Address, port: int) -> SocketAddr:
    """Read an external address as a gateway told it.

    Raises
    ------
    PortmapError : nobody out there can reach it.
    """
    if port == 0:
        raise PortmapError("bad_answer", "the gateway gave port 0")
    if not is_public(ip):
        raise PortmapError("not_public", f"the gateway's own address {ip} is not a public one")
    return SocketAddr(ip, port)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The next router of this network.

    Parameters
    ----------
    ip : its address in this network.
    local : ours.
    port : UDP port of PCP and NAT-PMP.
    search : where UPnP gateways are looked for.
    """

    ip: IPv4Address
    local: IPv4Address
    port: int = 5351
    search: tuple[str, int] = ("239.255.255.250", 1900)


@dataclass(frozen=True, slots=True)
class Lease:
    """A mapping that a gateway keeps for some time.

    Parameters
    ----------
    protocol : it was made by.
    port : of ours, that it leads to.
    external : address and port out there.
    lifetime : seconds for which it was granted; 0 of one without end.
    token : what the protocol needs to renew and release it.
    """

    protocol: ProtocolName
    port: int
    external: SocketAddr
    lifetime: float
    token: object = field(default=None, repr=False)


class MappingProtocol(Protocol):
    """One way to ask a gateway for mappings of UDP ports."""

    @property
    def name(self) -> ProtocolName:
        """Which one it is."""
        ...

    async def probe(self, gateway: Gateway) -> None:
        """Find out whether the gateway speaks this protocol, within a second or two.

        Raises
        ------
        PortmapError : it does not.
        """
        ...

    async def map(self, gateway: Gateway, port: int, old: Lease | None) -> Lease:
        """Get a mapping for a port of ours, or renew one.

        Parameters
        ----------
        old : a lease of this protocol for the same port, to renew or to have again.

        Raises
        ------
        PortmapError : there is none.
        """
        ...

    async def release(self, gateway: Gateway, lease: Lease) -> None:
        """Give a mapping back; what goes wrong is of no interest.

        Raises
        ------
        PortmapError : the gateway did not hear of it, perhaps.
        """
        ...

    async def close(self) -> None:
        """Let go of connections to gateways."""
        ...
