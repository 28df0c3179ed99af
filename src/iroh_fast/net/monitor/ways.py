"""Which ways of connections may still be there in another network."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from ..local_addrs import NetworkState
from ..transport import SockAddr, TransportTable, is_private

__all__ = ["keeper"]


def keeper(
    state: NetworkState, transports: TransportTable
) -> Callable[[SockAddr | None, SockAddr], bool]:
    """Make what tells whether the path from a local address, None if unknown, to a remote one may go on.

    A path over a relay does: the relay is reached again, whatever the way.  One from an address
    that this machine has no more does not, nor one over a transport that says nothing of itself.
    """
    ips = state.ips

    def keeps(local: SockAddr | None, remote: SockAddr) -> bool:
        if is_private(remote):
            return transports.kind(remote) == "relay"
        if local is None:
            return True
        ip = ip_address(local[0].partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return ip.is_loopback or ip in ips

    return keeps
