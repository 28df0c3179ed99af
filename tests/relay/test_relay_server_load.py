"""Many clients at once."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import pytest
from relay_peer import RawClient, config, connected, until

from iroh_fast import SecretKey
from iroh_fast._relay import build_message
from iroh_fast.relay.server.config import RelayTlsConfig
from iroh_fast.relay.server.server import RelayServer

SELF_SIGNED = RelayTlsConfig("SelfSigned", ("127.0.0.1", 0))


@pytest.mark.parametrize("tls, count", [(None, 1000), (SELF_SIGNED, 200)], ids=["plain", "tls"])
async def test_a_thousand_clients_at_once_all_hear_from_each_other(tls, count):
    async with (
        RelayServer(config(tls=tls, ping_interval=1000)) as server,
        AsyncExitStack() as stack,
    ):
        gate = asyncio.Semaphore(200)

        async def come() -> RawClient:
            async with gate:
                return await stack.enter_async_context(connected(server))

        clients = await asyncio.gather(*(come() for _ in range(count)))
        assert server.metrics()["connections"] == server.metrics()["keys"] == count
        order = random.Random(7).sample(range(count), count)
        for i, client in enumerate(clients):
            client.send_to(clients[order[i]], i.to_bytes(4, "big") * 300)
        for i in range(count):
            frame = await clients[order[i]].receive()
            assert frame["src"] == clients[i].key
            assert frame["contents"] == i.to_bytes(4, "big") * 300
        for client in clients:
            client.writer.transport.abort()
        await until(lambda: len(server.forwarder) == 0)
        assert server.metrics()["out_buffer_bytes"] == 0


@pytest.mark.parametrize("seed", range(3))
async def test_churn_with_every_kind_of_behaviour_leaves_nothing_behind(seed):
    """Clients come, talk, misbehave, stop reading and vanish; two good ones never notice."""
    rng = random.Random(seed)
    secrets = [SecretKey.generate() for _ in range(8)]
    async with RelayServer(config(write_timeout=3, ping_interval=0.5, ping_jitter=0)) as server:
        async with connected(server) as a, connected(server) as b:
            keys = [a.key, b.key, *(bytes(s.public) for s in secrets)]

            async def one(number: int) -> None:
                await asyncio.sleep(rng.random() * 1.5)
                try:
                    async with connected(server, rng.choice(secrets)) as client:
                        for _ in range(rng.randrange(40)):
                            client.send_to(rng.choice(keys), bytes(rng.choice((1, 1200, 60_000))))
                            if rng.random() < 0.3:
                                await client.writer.drain()
                        fate = rng.randrange(5)
                        if fate == 0:
                            client.writer.transport.abort()
                        elif fate == 1:
                            client.send_raw(rng.randbytes(100))
                        elif fate == 2:
                            client.writer.transport.pause_reading()
                            await asyncio.sleep(0.5)
                        elif fate == 3:
                            client.send_raw(build_message(8, b"\x03\xe8", bytes(4)))
                            await client.ended()
                        else:
                            server.disconnect(client.secret.public)
                except (AssertionError, OSError, asyncio.IncompleteReadError):
                    pass  # pushed out by others of its key

            async def talk() -> int:
                count = 0
                while not done.is_set():
                    a.send_to(b, b"good%d" % count)
                    count += 1
                    while True:
                        frame = await b.receive()
                        if frame["type"] == 9:
                            b.send(type=10, data=frame["data"])
                        elif frame["type"] == 6 and frame["src"] == a.key:
                            assert frame["contents"] == b"good%d" % (count - 1)
                            break
                    await asyncio.sleep(0.01)
                return count

            async def answer() -> None:
                while (frame := await a.receive()) is not None:
                    if frame["type"] == 9:
                        a.send(type=10, data=frame["data"])

            done = asyncio.Event()
            talking = asyncio.ensure_future(talk())
            answering = asyncio.ensure_future(answer())
            await asyncio.gather(*map(one, range(60)))
            done.set()
            assert await talking > 20
            answering.cancel()
        await until(lambda: len(server.forwarder) == 0)
        counted = server.metrics()
        assert counted["keys"] == counted["out_buffer_bytes"] == counted["unauthenticated"] == 0
        assert counted["accepts"] == counted["disconnects"]
