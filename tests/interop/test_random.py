"""Many streams with random fates at once, between us and the real peer."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from iroh_fast import BiStream, Connection
from iroh_fast.errors import ConnectionLost, StreamReset, StreamStopped

from . import pattern
from .links import ALPN, Links, known_ways_only, receive, send_pattern
from .proxy import Proxy
from .test_network import bad_network

SIZES = (0, 1, 100, 5_000, 70_000, 400_000)
FATES = ("whole", "whole", "pieces", "reset", "stop", "cancel")


async def echo(conn: Connection) -> None:
    """Send back what comes in; streams may end in any way."""

    async def copy(stream: BiStream) -> None:
        with suppress(ConnectionLost, StreamReset, StreamStopped):
            async with stream as (send, recv):
                async for piece in recv:
                    await send.write_all(piece)

    async with asyncio.TaskGroup() as group:
        async for stream in conn.bi_streams():
            group.create_task(copy(stream))


async def one_stream(conn: Connection, rng: random.Random) -> str:
    """Use an echo in one of many ways; whatever comes back must be right."""
    fate, size, seed = rng.choice(FATES), rng.choice(SIZES), rng.randrange(100)
    step = rng.choice((1_000, 10_000, 300_000))
    data = pattern.data(seed, size)
    cut = rng.randrange(size + 1)
    send, recv = await conn.open_bi()

    async def write() -> None:
        with suppress(StreamStopped):
            if fate == "pieces":
                for start in range(0, size, step):
                    await send.write_all(data[start : start + step])
                    await asyncio.sleep(0)
            else:
                await send.write_all(data[:cut] if fate == "reset" else data)
            if fate == "reset":
                send.reset(seed)
            else:
                send.finish()

    writing = asyncio.create_task(write())
    got = b""
    if fate == "stop":
        while len(got) < cut and (piece := await recv.read(step)):
            got += piece
        recv.stop(seed)
        assert await recv.read() == b""
    elif fate == "cancel":
        while True:
            reading = asyncio.create_task(recv.read(step))
            await asyncio.sleep(rng.choice((0, 0, 0.001)))
            if reading.cancel():
                with suppress(asyncio.CancelledError):
                    await reading
                    assert False, "the read was cancelled"  # noqa: B011
                piece = await recv.read(step)
            else:
                piece = reading.result()
            if not piece:
                break
            got += piece
    else:
        with suppress(StreamReset):
            async for piece in recv:
                got += piece
    await writing
    assert data.startswith(got)
    if fate in ("whole", "pieces", "cancel"):
        assert len(got) == size
    return fate


async def many_streams(conn: Connection, seed: int, count: int) -> None:
    rngs = [random.Random(seed * 1000 + index) for index in range(count)]
    await asyncio.gather(*(one_stream(conn, rng) for rng in rngs))


@pytest.mark.limit(90)
@pytest.mark.parametrize("network", ["good", "bad"])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_streams_with_random_fates(
    links: Links, dials: bool, network: str, seed: int
) -> None:
    ours = await links.our_endpoint(transport=known_ways_only())
    real = await links.real_endpoint()
    proxy = None
    if network == "bad":
        proxy = await Proxy.to(real.sockets[0] if dials else str(ours.bound_sockets[0]))
        proxy.policy = bad_network(seed, loss=0.01)
    try:
        if dials:
            sockets = [proxy.address] if proxy else real.sockets
            accepting = real.start("accept")
            conn = await ours.connect(type(real.addr)(real.id, ip_addrs=sockets), ALPN)
            facts = await accepting
        else:
            dialling = real.dial(ours, sockets=[proxy.address] if proxy else None)
            incoming = await ours.accept()
            assert incoming is not None
            conn = await incoming
            facts = await dialling
        link = links.link(conn, facts)
        echoing = asyncio.create_task(echo(conn))
        theirs = link.start("random_echo_client", seed=seed, count=150)
        await link.call("echo")
        await many_streams(conn, seed, 150)
        wrong = await theirs
        assert wrong == []
        echoing.cancel()
        await asyncio.wait({echoing})
        assert conn.close_reason is None
        assert await link.call("close_reason") is None
        # Nothing that was abandoned may hold credit back.
        send, recv = await conn.open_bi()
        sending = asyncio.create_task(send_pattern(send, 1, 3_000_000))
        assert await receive(recv) == (3_000_000, await sending)
    finally:
        if proxy is not None:
            proxy.close()
