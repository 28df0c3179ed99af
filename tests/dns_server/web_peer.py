"""A client of HTTP servers that can also break every rule, and a server for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from iroh_fast.web.host import HttpHost
from iroh_fast.web.http import Handler
from iroh_fast.web.limits import AdmissionLimits
from iroh_fast.web.listen import ListenerSettings

PATIENCE_S = 60.0


class Answer:
    """What a server said."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = dict(headers)
        self.body = body


async def until(condition, patience: float = PATIENCE_S) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.005)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, has_body: bool = True) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = text.split("\r\n")
            pairs = (line.partition(": ") for line in lines if line)
            headers = [(name.lower(), value) for name, _, value in pairs]
            size = int(dict(headers).get("content-length", 0)) if has_body else 0
            return Answer(int(first.split(" ")[1]), headers, await self.reader.readexactly(size))

    async def ask(self, data: bytes) -> Answer:
        self.send(data)
        return await self.answer(has_body=not data.startswith(b"HEAD"))

    async def is_closed(self) -> bool:
        """Nothing more comes."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:
                return True


@asynccontextmanager
async def connected(address: tuple[str, int], **options) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(*address, **options)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        try:
            await writer.wait_closed()
        except OSError:
            pass


@asynccontextmanager
async def hosting(handler: Handler, **settings) -> AsyncIterator[HttpHost]:
    """A server with one listener, called "http"."""
    failures: list[int] = []
    host = HttpHost(
        AdmissionLimits(), logging.getLogger("test_host"), on_failure=lambda: failures.append(1)
    )
    options = {"life": float("inf"), "idle_timeout": 30.0, "max_body": 4096, "main": True}
    host.listen("http", ("127.0.0.1", 0), ListenerSettings(handler=handler, **options | settings))
    try:
        yield host
    finally:
        host.stop_accepting()
        host.abort()
        await host.wait_closed()
        await until(lambda: not host.protocols)
        assert host.admission.total == host.admission.unproven == 0 and not failures


def request(
    target: str = "/", method: str = "GET", body: bytes | None = None, **headers: str
) -> bytes:
    """A request; headers are given with underscores."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")
