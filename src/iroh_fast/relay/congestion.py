"""The congestion control of TCP connections that carry QUIC packets."""

from __future__ import annotations

import contextlib
import socket

from ..web import race

__all__ = ["connect", "prefer_bbr"]


def prefer_bbr(sock: socket.socket) -> None:
    """Take BBR where the system has it and lets us; what it accepts inherits that.

    A relay connection carries all that an endpoint sends and receives without a direct path. With
    Cubic, chance losses alone would hold it to a fraction of the link, whatever QUIC inside does.
    """
    name = getattr(socket, "TCP_CONGESTION", None)
    if name is not None:
        with contextlib.suppress(OSError):  # not built, or not among those that programs may choose
            sock.setsockopt(socket.IPPROTO_TCP, name, b"bbr")


async def connect(ip: str, port: int, family: socket.AddressFamily) -> socket.socket:
    """Connect a TCP socket that prefers BBR."""
    sock = await race.connect(ip, port, family)
    prefer_bbr(sock)
    return sock
