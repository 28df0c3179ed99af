"""Rival on a link: one TCP connection of the kernel, ``--congestion bbr`` or ``cubic``."""

from __future__ import annotations

import asyncio
import contextlib
import platform
import socket
import struct
import sys
from typing import Any

from _child import main, spawn
from _transfer import WRITE, Receiver, Upload

READ = 1 << 18
BYTES_SENT, BYTES_AGAIN = 200, 208  # offsets of tcpi_bytes_sent and tcpi_bytes_retrans


def congestion() -> str:
    return sys.argv[sys.argv.index("--congestion") + 1]


class Server(Receiver):
    async def start(self, address: None, host: str, relay: str | None = None) -> dict[str, Any]:
        self.listener = socket.create_server((host, 0))
        self.listener.setblocking(False)
        spawn(self.accept())
        self.ready()
        return {"address": self.listener.getsockname(), "versions": {"TCP": f"Linux {platform.release()}"}}

    async def accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            spawn(self.receive((await loop.sock_accept(self.listener))[0]), (ConnectionError,))

    async def receive(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        room = bytearray(READ)
        with contextlib.closing(sock):
            while size := await loop.sock_recv_into(sock, room):
                self.add(size)


class Client:
    async def start(self, address: Any, host: str, relay: str | None = None) -> dict[str, Any]:
        self.to, self.here = tuple(address), (host, 0)
        return {"address": None, "versions": {}}

    async def upload(self, seconds: float) -> dict[str, Any]:
        upload = Upload(seconds)
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion().encode())
        sock.setblocking(False)
        sock.bind(self.here)

        async def work() -> None:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, self.to)
            while True:
                await loop.sock_sendall(sock, WRITE)

        with contextlib.closing(sock):
            await upload.run(work)
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            sent, again = (
                struct.unpack_from("=Q", info, at)[0] for at in (BYTES_SENT, BYTES_AGAIN)
            )
            return upload.report(sent, again)


def options(parser: Any) -> None:
    parser.add_argument("--congestion", required=True)


if __name__ == "__main__":
    main(Server, Client, options)
