"""A released endpoint in Rust as the peer: no binding and no Python between."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from iroh_fast import Endpoint, EndpointTicket, Router, presets
from iroh_fast.errors import ApplicationClosed

from .links import echo_bi
from .rust import RustPeer

ALPN = b"peer/echo"
V4 = "127.0.0.1:0"
SIZE = 8 << 20


async def test_rust_peer_echoes_what_we_send() -> None:
    data = hashlib.shake_256(b"echo").digest(SIZE)
    async with RustPeer("echo", "--bind", V4) as peer:
        bound = await peer.event("bound")
        async with (
            Endpoint.bind(preset=presets.minimal, bind_addrs=[V4]) as ep,
            ep.connect(EndpointTicket.parse(bound["ticket"]), ALPN) as conn,
        ):
            assert str(conn.remote_id) == bound["id"]
            send, recv = await conn.open_bi()
            _, got = await asyncio.gather(_send(send, data), recv.read_to_end(SIZE))
            assert got == data
            await peer.event("stream", bytes=SIZE)


async def _send(send, data: bytes) -> None:  # type: ignore[no-untyped-def]
    await send.write_all(data)
    send.finish()


@pytest.mark.parametrize("streams", [1, 40])
async def test_rust_peer_gets_its_data_back_from_us(streams: int) -> None:
    async with Router(
        await Endpoint.bind(preset=presets.minimal, bind_addrs=[V4]), {ALPN: echo_bi}
    ) as router:
        arguments = ("--streams", str(streams), "--bytes", str(SIZE // streams))
        ticket = str(router.endpoint.ticket)
        async with RustPeer("dial", "--bind", V4, "--to", ticket, *arguments) as peer:
            echoed = await peer.event("echoed")
            assert (echoed["streams"], echoed["failed"]) == (streams, 0)
            assert await peer.ended() == 0


async def test_rust_peer_tells_our_close_code_and_we_tell_its() -> None:
    async with RustPeer("echo", "--bind", V4, "--close-code", "77") as peer:
        bound = await peer.event("bound")
        async with Endpoint.bind(preset=presets.minimal, bind_addrs=[V4]) as ep:
            conn = await ep.connect(bound["ticket"], ALPN)
            send, recv = await conn.open_bi()
            await send.write_all(b"last")
            send.finish()
            assert await recv.read_to_end(10) == b"last"
            reason = await conn.wait_closed()
            assert (reason.kind, reason.code) == ("application", 77)
            with pytest.raises(ApplicationClosed):
                await conn.open_bi()


async def test_rust_peer_resumes_with_0rtt_data() -> None:
    async with Router(
        await Endpoint.bind(preset=presets.minimal, bind_addrs=[V4]), {ALPN: echo_bi}
    ) as router:
        ticket = str(router.endpoint.ticket)
        async with RustPeer("dial", "--bind", V4, "--to", ticket, "--zero-rtt") as peer:
            assert (await peer.event("0rtt"))["accepted"]
            assert await peer.ended() == 0
