"""Which addresses of a peer are worth dialing, and why the others are not."""

from __future__ import annotations

import errno
import os
import random
import socket
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from ..addr import SocketAddr

__all__ = ["MAX_DIALED", "is_nonsense", "is_passing", "obstacle", "usable"]

NO_ROUTE = "no route"
_NONSENSE = ("port 0", "not the address of a host", "a multicast address")
MAX_DIALED = 24  # IP addresses dialed at once: a ticket must not make us flood others

MAX_ASKED = 128  # addresses of one dial that the system is asked about

MAX_ROUTES = 256
ROUTE_S = 1.0

_random = random.SystemRandom()
_routes: dict[tuple[Any, ...], float] = {}


def obstacle(addr: SocketAddr, local: Sequence[SocketAddr]) -> str | None:
    """Why nothing can be sent to `addr` from sockets bound to `local`; None when it can.

    Nothing is sent: the system is asked for a route by connecting a UDP socket.
    """
    return _nonsense(addr, local) or _no_way(addr, local)


def _plain(addr: SocketAddr) -> IPv4Address | IPv6Address:
    """The address itself, of one that is mapped into IPv6 the IPv4 one."""
    return getattr(addr.ip, "ipv4_mapped", None) or addr.ip


def _nonsense(addr: SocketAddr, local: Sequence[SocketAddr]) -> str | None:
    """What can be seen without asking the system."""
    ip = _plain(addr)
    if addr.port == 0:
        return _NONSENSE[0]
    if ip.is_unspecified:
        return _NONSENSE[1]
    if ip.is_multicast:
        return _NONSENSE[2]
    if not any(bound.ip.version == ip.version for bound in local):
        return f"this endpoint has no IPv{ip.version} socket"
    return None


def _no_way(addr: SocketAddr, local: Sequence[SocketAddr]) -> str | None:
    """What the system says of the way there."""
    ip = _plain(addr)
    target = addr.as_tuple() if ip is addr.ip else (str(ip), addr.port)
    reason = 0
    for bound in local:
        if bound.ip.version != ip.version:
            continue
        if bound.port == addr.port and _is_own(bound, target):
            return "the address of this endpoint itself"
        reason = _route_error(bound, target)
        if not reason:
            return None
        last = bound
    if reason == errno.EACCES:
        return "a broadcast address"
    return f"{NO_ROUTE} from {last.ip}: {os.strerror(reason).lower()}"


def _is_own(bound: SocketAddr, target: tuple[Any, ...]) -> bool:
    """Whether the socket at `bound` is itself who gets what is sent to `target`."""
    if not bound.ip.is_unspecified:
        return str(bound.ip) == str(target[0])
    family = socket.AF_INET if bound.ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            # To an address of this machine the system sends from that address.
            source: str = probe.getsockname()[0]
            return source.partition("%")[0] == str(target[0])
    except OSError:
        return False


def is_nonsense(reason: str) -> bool:
    """Whether no endpoint can have such an address, wherever it is."""
    return reason in _NONSENSE


def is_passing(reason: str) -> bool:
    """Whether an obstacle may go away by itself: the network of this machine changes."""
    return reason.startswith(NO_ROUTE)


def _route_error(bound: SocketAddr, target: tuple[Any, ...]) -> int:
    """The errno of connecting a UDP socket at the address of `bound`; 0 when there is a route.

    That there is one is believed for a second: it costs four system calls to ask.
    """
    way = (bound.ip, target[0], *target[3:])
    now = time.monotonic()
    if _routes.get(way, 0.0) > now:
        return 0
    reason = _ask_route(bound, target)
    if not reason:
        if len(_routes) >= MAX_ROUTES:
            _routes.clear()
        _routes[way] = now + ROUTE_S
    return reason


def _ask_route(bound: SocketAddr, target: tuple[Any, ...]) -> int:
    family = socket.AF_INET if bound.ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(bound.ip), 0, *bound.as_tuple()[2:]))
            probe.connect(target)
    except OSError as error:
        # Out of descriptors, say: that tells nothing about the route.
        return error.errno if error.errno in _NO_ROUTE else 0
    return 0


_NO_ROUTE = frozenset(
    (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EADDRNOTAVAIL)
)


def usable(
    addrs: Iterable[SocketAddr], local: Sequence[SocketAddr]
) -> tuple[list[SocketAddr], dict[SocketAddr, str]]:
    """Choose the addresses to dial: those with a route, at most MAX_DIALED at random.

    Returns
    -------
    tuple
        The addresses to dial, and of those that were looked at the ones that cannot be
        reached with the reason.
    """
    candidates: list[SocketAddr] = []
    refused: dict[SocketAddr, str] = {}
    for addr in addrs:
        if (reason := _nonsense(addr, local)) is None:
            candidates.append(addr)
        elif len(refused) < MAX_ASKED:
            refused[addr] = reason
    if len(candidates) > MAX_DIALED:
        candidates = _random.sample(candidates, min(len(candidates), MAX_ASKED))
    chosen: list[SocketAddr] = []
    for addr in candidates:
        if (reason := _no_way(addr, local)) is not None:
            refused[addr] = reason
        else:
            chosen.append(addr)
            if len(chosen) == MAX_DIALED:
                break
    return sorted(chosen), refused
