"""Two endpoints and a relay, for tests of the paths between them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from iroh_fast import Connection, Endpoint, EndpointAddr, presets

ALPN = b"relay-paths/1"
LOOPBACK = "127.0.0.1:0"


class Pair(NamedTuple):
    client_ep: Endpoint
    server_ep: Endpoint
    client: Connection
    server: Connection


class Net:
    """Makes endpoints and connections; all are closed after the test."""

    def __init__(self) -> None:
        self._endpoints: list[Endpoint] = []
        self._conns: list[Connection] = []

    async def bind(self, **options: Any) -> Endpoint:
        """Make an endpoint; with IP sockets, on loopback, unless `ip_transports` is false."""
        if options.setdefault("ip_transports", True):
            options.setdefault("bind_addrs", [LOOPBACK])
        options.setdefault("alpns", [ALPN])
        options.setdefault("preset", presets.minimal)
        endpoint = await Endpoint.bind(**options)
        self._endpoints.append(endpoint)
        return endpoint

    async def dial(
        self, client: Endpoint, server: Endpoint, addr: EndpointAddr | str, **options: Any
    ) -> Pair:
        async def accept() -> Connection:
            incoming = await server.accept()
            assert incoming is not None
            return self.keep(await incoming)

        async def connect() -> Connection:
            return self.keep(await client.connect(addr, ALPN, **options))

        async with asyncio.timeout(60):
            ours, theirs = await asyncio.gather(connect(), accept())
        return Pair(client, server, ours, theirs)

    def keep(self, conn: Connection) -> Connection:
        self._conns.append(conn)
        return conn

    async def relayed_pair(self, url: str, **options: Any) -> Pair:
        """Connect two endpoints without any IP socket."""
        server = await self.bind(relays=[url], ip_transports=False, **options)
        client = await self.bind(relays=[url], ip_transports=False, **options)
        await online(server, client)
        return await self.dial(client, server, EndpointAddr(server.id, relay_url=url))

    async def close(self) -> None:
        for conn in self._conns:
            conn.close()
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))


async def online(*endpoints: Endpoint) -> None:
    async with asyncio.timeout(60):
        for endpoint in endpoints:
            await endpoint.online()


async def eventually(condition: Callable[[], Any], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def transfer(sender: Connection, receiver: Connection, size: int, seed: int = 1) -> None:
    """Send random bytes on a new stream; what arrives must be the same."""
    source = random.Random(seed)
    sent, got = hashlib.blake2b(), hashlib.blake2b()
    count = 0

    async def send() -> None:
        stream = await sender.open_uni()
        left = size
        while left:
            block = source.randbytes(min(left, 65536))
            left -= len(block)
            sent.update(block)
            await stream.write_all(block)
        stream.finish()

    async def receive() -> None:
        nonlocal count
        async for block in await receiver.accept_uni():
            count += len(block)
            got.update(block)

    await asyncio.gather(send(), receive())
    assert count == size
    assert got.digest() == sent.digest()


async def both_ways(pair: Pair, size: int) -> None:
    await asyncio.gather(
        transfer(pair.client, pair.server, size, 1), transfer(pair.server, pair.client, size, 2)
    )


def hide(*endpoints: Endpoint) -> None:
    """Have endpoints tell nobody where they are: what is left are the addresses that are dialed."""
    for endpoint in endpoints:
        endpoint._context.remotes.set_candidates([])


def selected(conn: Connection) -> Any:
    [path] = [path for path in conn.paths if path.is_selected]
    return path.remote_addr


def addrs(conn: Connection) -> dict[Any, str]:
    return {path.remote_addr: path.status for path in conn.paths if path.validated}
