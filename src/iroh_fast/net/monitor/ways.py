"""Which ways of connections may still be there in another network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from ipaddress import ip_address

from ..local_addrs import IpAddress, NetworkState
from ..transport import SockAddr, TransportTable, is_private
from .read import interface_to

__all__ = ["keeper", "mover"]


def mover(
    old: NetworkState,
    new: NetworkState,
    interface_to: Callable[[IpAddress, IpAddress], str | None] = interface_to,
) -> Callable[[IpAddress, IpAddress], bool]:
    """Make what tells whether packets from an own to a foreign address take the new way to the internet.

    Those that left by the old one, by which their answers come, when another interface leads
    there now: with the way the NAT changes that they pass.

    Parameters
    ----------
    interface_to : the interface over which packets to the first leave from the second address.
    """
    leaves_by = cache(interface_to)

    def moved(ip: IpAddress, remote: IpAddress) -> bool:
        was, now = (state.default_routes[ip.version == 6] for state in (old, new))
        owner = new.owner(ip)
        if owner is None or was == now or owner.name != was:
            return False
        found = leaves_by(remote, ip)
        return found is not None and found != owner.name

    return moved


def keeper(
    old: NetworkState,
    new: NetworkState,
    transports: TransportTable,
    interface_to: Callable[[IpAddress, IpAddress], str | None] = interface_to,
) -> Callable[[SockAddr | None, SockAddr], bool]:
    """Make what tells whether the path from a local address, None if unknown, to a remote one may go on.

    A path over a relay does: the relay is reached again, whatever the way.  One from an address
    that this machine has no more does not, nor one over a transport that says nothing of itself.
    While there is no network all do: there is nothing to replace them by.

    Parameters
    ----------
    old, new : the network when connections were told last, and now.
    interface_to : see `mover`.
    """
    ips = new.ips
    # DIFFERS: iroh keeps these paths, though they are dead unless the NAT lets everything in.
    moved = mover(old, new, interface_to)

    def keeps(local: SockAddr | None, remote: SockAddr) -> bool:
        if is_private(remote):
            return transports.kind(remote) == "relay"
        if local is None or new.is_cut_off:
            return True
        ip = _plain(local)
        return ip.is_loopback or (ip in ips and not moved(ip, _plain(remote)))

    return keeps


def _plain(addr: SockAddr) -> IpAddress:
    ip = ip_address(addr[0].partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip
