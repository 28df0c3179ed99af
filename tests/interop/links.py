"""Connections with this package at one end and the real peer at the other."""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iroh_fast import (
    Connection,
    Endpoint,
    EndpointAddr,
    EndpointId,
    QuicTransportConfig,
    RecvStream,
    SecretKey,
    SendStream,
    presets,
)
from iroh_fast.errors import ConnectionLost

from . import pattern
from .peer_client import PeerProcess

ALPN = b"iroh-fast-interop/1"
V4 = "127.0.0.1:0"
V6 = "[::1]:0"


def known_ways_only(transport: QuicTransportConfig | None = None) -> QuicTransportConfig:
    """A transport that does not take part in NAT traversal: it would find the way past a proxy."""
    config = copy.copy(transport or QuicTransportConfig())
    object.__setattr__(config, "max_remote_nat_traversal_addresses", 0)
    return config


@dataclass(frozen=True)
class RealEndpoint:
    """An endpoint of the real peer."""

    peer: PeerProcess
    handle: str
    id: EndpointId
    sockets: tuple[str, ...]

    @property
    def addr(self) -> EndpointAddr:
        return EndpointAddr(self.id, ip_addrs=self.sockets)

    async def call(self, op: str, **arguments: Any) -> Any:
        return await self.peer.call(op, ep=self.handle, **arguments)

    def start(self, op: str, **arguments: Any) -> asyncio.Task[Any]:
        return self.peer.start(op, ep=self.handle, **arguments)

    def dial(
        self,
        endpoint: Endpoint,
        *,
        id: EndpointId | None = None,
        alpn: bytes = ALPN,
        sockets: Sequence[str] | None = None,
    ) -> asyncio.Task[Any]:
        """Let the real peer connect to our endpoint."""
        return self.start(
            "connect",
            id=str(id or endpoint.id),
            addrs=list(sockets or loopback(map(str, endpoint.bound_sockets))),
            alpn=alpn.hex(),
        )


@dataclass(frozen=True)
class Link:
    """A connection seen from both ends."""

    peer: PeerProcess
    ours: Connection
    real: str
    facts: dict[str, Any]  # what the real peer told about it

    async def call(self, op: str, **arguments: Any) -> Any:
        """Run an operation of the real peer on this connection."""
        return await self.peer.call(op, conn=self.real, **arguments)

    def start(self, op: str, **arguments: Any) -> asyncio.Task[Any]:
        return self.peer.start(op, conn=self.real, **arguments)


def loopback(sockets: Any) -> list[str]:
    """Keep the addresses that were bound to loopback on purpose."""
    return [text for text in sockets if text.startswith(("127.0.0.1:", "[::1]:"))]


class Links:
    """Factory of endpoints and connections; closes ours at the end."""

    def __init__(self, peer: PeerProcess) -> None:
        self.peer = peer
        self._ours: list[Endpoint] = []
        self._links: list[Link] = []

    async def our_endpoint(self, *bind: str, **options: Any) -> Endpoint:
        options.setdefault("alpns", [ALPN])
        endpoint = await Endpoint.bind(
            preset=presets.minimal, bind_addrs=list(bind or (V4,)), **options
        )
        self._ours.append(endpoint)
        return endpoint

    async def real_endpoint(
        self,
        bind: str = V4,
        alpns: Sequence[bytes] = (ALPN,),
        secret: SecretKey | None = None,
    ) -> RealEndpoint:
        made = await self.peer.call(
            "bind",
            addr=bind,
            alpns=[alpn.hex() for alpn in alpns],
            secret=secret and secret.to_hex(),
        )
        sockets = tuple(loopback(made["sockets"]))
        return RealEndpoint(self.peer, made["ep"], EndpointId(made["id"]), sockets)

    async def connect(
        self,
        dials: bool,
        *,
        bind: str = V4,
        transport: QuicTransportConfig | None = None,
        ours: Endpoint | None = None,
        real: RealEndpoint | None = None,
        keep: bool = True,
        alpn: bytes = ALPN,
    ) -> Link:
        """Make a connection; `dials` tells whether we are the client."""
        if ours is None:
            transport = transport or QuicTransportConfig()
            ours = await self.our_endpoint(bind, transport=transport, alpns=[alpn])
        if real is None:
            real = await self.real_endpoint(bind, [alpn])
        if dials:
            accepting = real.start("accept")
            conn = await ours.connect(real.addr, alpn)
            facts = await accepting
        else:
            dialling = real.dial(ours, alpn=alpn)
            incoming = await ours.accept()
            assert incoming is not None
            conn = await incoming
            facts = await dialling
        return self.link(conn, facts, keep=keep)

    def link(self, conn: Connection, facts: dict[str, Any], *, keep: bool = True) -> Link:
        """Put both ends together; unless `keep` is false, until the end of the test."""
        link = Link(self.peer, conn, facts["conn"], facts)
        if keep:
            self._links.append(link)
        return link

    async def close(self) -> None:
        for link in self._links:
            link.ours.close()
        await asyncio.gather(*(endpoint.close() for endpoint in self._ours))


async def send_pattern(send: SendStream, seed: int, size: int, *, finish: bool = True) -> str:
    """Send the first bytes of a sequence; gives their hash."""
    hasher = hashlib.blake2b(digest_size=32)
    for piece in pattern.chunks(seed, size):
        hasher.update(piece)
        await send.write_all(piece)
    if finish:
        send.finish()
    return hasher.hexdigest()


async def receive(recv: RecvStream) -> tuple[int, str]:
    """Read to the end; gives size and hash."""
    hasher = hashlib.blake2b(digest_size=32)
    size = 0
    async for piece in recv:
        hasher.update(piece)
        size += len(piece)
    return size, hasher.hexdigest()


async def exchanged(conn: Connection, size: int) -> bool:
    """Whether the peer sends back what it gets on a stream, while it is sent."""
    data = hashlib.shake_256(b"exchanged").digest(size)
    send, recv = await conn.open_bi()
    writing = asyncio.ensure_future(send.write_all(data))
    got = b""
    while len(got) < size:
        got += await recv.read(1 << 20)
    await writing
    send.finish()
    return got == data


async def echo_bi(conn: Connection) -> None:
    """Send back what comes in on every stream, until the connection ends."""

    async def copy(send: SendStream, recv: RecvStream) -> None:
        try:
            async for piece in recv:
                await send.write_all(piece)
            send.finish()
        except ConnectionLost:  # the other side notices by itself what is missing
            pass

    async with asyncio.TaskGroup() as group:
        async for send, recv in conn.bi_streams():
            group.create_task(copy(send, recv))
