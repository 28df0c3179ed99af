"""Connecting sockets."""

from __future__ import annotations

import asyncio
import socket

__all__ = ["connect"]


async def connect(
    ip: str, port: int, family: socket.AddressFamily, *, scope: int = 0
) -> socket.socket:
    """Connect a TCP socket.  Cancelled, it leaves none open.

    Parameters
    ----------
    scope : index of the interface of an address that is of a link.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = (ip, port, 0, scope) if scope else (ip, port)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
