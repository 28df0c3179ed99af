"""A UDP relay on loopback that treats datagrams as badly as it is told to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

Policy = Callable[[bytes, bool], "list[tuple[float, bytes]]"]
"""Takes a datagram and whether it goes to the server; gives delays and datagrams to send."""


def forward(data: bytes, to_server: bool) -> list[tuple[float, bytes]]:
    """The policy of a good network."""
    return [(0.0, data)]


class _Side(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[bytes, Any], None]) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._received(data, addr)

    def error_received(self, exc: Exception) -> None:
        pass  # the other end is not there (any more): datagrams get lost


class Proxy:
    """Relays between one client and one server.

    Attributes
    ----------
    address : what the client dials instead of the server's address.
    policy : decides on every datagram; can be replaced at any time.
    """

    def __init__(self) -> None:
        self.policy: Policy = forward
        self.passed = [0, 0]  # datagrams sent on to the client, to the server
        self._client: Any = None
        self._server: tuple[str, int]
        self._front: asyncio.DatagramTransport
        self._back: asyncio.DatagramTransport

    @classmethod
    async def to(cls, server: str) -> Proxy:
        """Start a relay to an address of the form ``127.0.0.1:port``."""
        self = cls()
        host, _, port = server.rpartition(":")
        self._server = (host, int(port))
        self._front = await self._open(self._from_client)
        self._back = await self._open(self._from_server)
        return self

    async def _open(self, received: Callable[[bytes, Any], None]) -> asyncio.DatagramTransport:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
        sock.bind(("127.0.0.1", 0))
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Side(received), sock=sock
        )
        return transport

    @property
    def address(self) -> str:
        host, port = self._front.get_extra_info("sockname")
        return f"{host}:{port}"

    async def rebind(self) -> None:
        """Send to the server from another port, as a NAT does that forgot the old one."""
        old = self._back
        self._back = await self._open(self._from_server)
        old.close()

    def _from_client(self, data: bytes, addr: Any) -> None:
        self._client = addr
        for delay, datagram in self.policy(data, True):
            self._send(delay, self._to_server, datagram)

    def _from_server(self, data: bytes, addr: Any) -> None:
        for delay, datagram in self.policy(data, False):
            self._send(delay, self._to_client, datagram)

    def _send(self, delay: float, send: Callable[[bytes], None], data: bytes) -> None:
        if delay:
            asyncio.get_running_loop().call_later(delay, send, data)
        else:
            send(data)

    def _to_server(self, data: bytes) -> None:
        self.passed[1] += 1
        if not self._back.is_closing():
            self._back.sendto(data, self._server)

    def _to_client(self, data: bytes) -> None:
        self.passed[0] += 1
        if not self._front.is_closing():
            self._front.sendto(data, self._client)

    def close(self) -> None:
        self._front.close()
        self._back.close()
