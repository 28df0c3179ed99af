"""Rival: bare UDP, no QUIC, no encryption.  The floor under every ping-pong in Python."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from _child import MESSAGE, main, ping_pong


def bind() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


class Server:
    async def start(self, address: None) -> dict[str, Any]:
        sock = bind()

        def readable() -> None:
            data, sender = sock.recvfrom(2048)
            sock.sendto(data, sender)

        asyncio.get_running_loop().add_reader(sock.fileno(), readable)
        self.sock = sock
        return {"address": sock.getsockname()[1], "versions": {}}


class Client:
    async def start(self, address: int) -> dict[str, Any]:
        self.peer = ("127.0.0.1", address)
        return {"address": None, "versions": {}}

    async def ping_pong(self, seconds: float) -> dict[str, float]:
        loop = asyncio.get_running_loop()
        sock = bind()
        waiter: asyncio.Future[bytes]

        def readable() -> None:
            waiter.set_result(sock.recv(2048))

        async def once() -> None:
            nonlocal waiter
            waiter = loop.create_future()
            sock.sendto(MESSAGE, self.peer)
            await waiter

        loop.add_reader(sock.fileno(), readable)
        result = await ping_pong(once, seconds)
        loop.remove_reader(sock.fileno())
        sock.close()
        return result


if __name__ == "__main__":
    main(Server, Client)
