"""Two real iroh endpoints that know nothing of each other but our relay."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from relay_peer import config, connected, until

from iroh_fast import PublicKey, SecretKey
from iroh_fast.relay.server.access import AllowList, SharedToken
from iroh_fast.relay.server.server import RelayServer

pytest.importorskip("iroh")

import peer_client

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(90),
    pytest.mark.skipif(
        sys.platform != "linux", reason="direct paths are cut by a Linux packet filter"
    ),
]
ALPN = b"relay/1".hex()
LOOPBACK = "127.0.0.1:0"


@asynccontextmanager
async def process() -> AsyncIterator[peer_client.PeerProcess]:
    script = peer_client.SCRIPT
    paths = [str(script.parent), str(Path(__file__).parent), *filter(None, sys.path)]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    peer_client.SCRIPT = Path(__file__).with_name("relay_iroh.py")
    try:
        found = await peer_client.PeerProcess.launch()
    finally:
        peer_client.SCRIPT = script
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    async with found:
        yield found


async def bind(
    stack: AsyncExitStack, server: RelayServer, addr: str, **options: Any
) -> tuple[Any, dict[str, Any]]:
    found = await stack.enter_async_context(process())
    bound = await found.call("bind_relay", url=server.url, addr=addr, alpns=[ALPN], **options)
    # Nothing but the relay joins the endpoints.
    assert await found.call("deafen") >= 1
    return found, bound


async def test_two_iroh_endpoints_exchange_a_stream_through_the_relay():
    async with RelayServer(config()) as server, AsyncExitStack() as stack:
        (a, at), (b, bt) = await asyncio.gather(
            bind(stack, server, LOOPBACK), bind(stack, server, LOOPBACK)
        )
        for one, bound in ((a, at), (b, bt)):
            assert await one.call("online", ep=bound["ep"]) == server.url
        assert len(server.forwarder) == 2
        await b.call("serve", ep=bt["ep"])
        conn = await a.call("connect_relay", ep=at["ep"], id=bt["id"], url=server.url, alpn=ALPN)
        assert conn["remote_id"] == bt["id"]
        size = 4 * 2**20
        assert (
            await a.call("echo_client", conn=conn["conn"], streams=4, size=size // 4, seed=5) == 4
        )
        counted = server.metrics()
        # the stream went both ways through us, and nothing went anywhere else
        assert counted["bytes_sent"] > 2 * size
        stats = await a.call("conn_stats", conn=conn["conn"])
        assert all("relay" in str(path).lower() for path in stats["paths"]), stats["paths"]
        await a.call("close", conn=conn["conn"])
        await a.call("close_endpoint", ep=at["ep"])
        await until(lambda: len(server.forwarder) == 1)
        assert server.metrics()["peers_gone"] == 1


async def test_iroh_endpoint_survives_a_restart_of_the_relay():
    async with AsyncExitStack() as stack:
        server = RelayServer(config())
        await server.start()
        (a, at), (b, bt) = await asyncio.gather(
            bind(stack, server, LOOPBACK), bind(stack, server, LOOPBACK)
        )
        await asyncio.gather(a.call("online", ep=at["ep"]), b.call("online", ep=bt["ep"]))
        await b.call("serve", ep=bt["ep"])
        conn = await a.call("connect_relay", ep=at["ep"], id=bt["id"], url=server.url, alpn=ALPN)
        assert await a.call("echo_client", conn=conn["conn"], streams=1, size=1000, seed=1) == 1
        await server.stop()
        port = server.addresses["http"][1]
        async with RelayServer(config(http_bind_addr=("127.0.0.1", port))) as again:
            await until(lambda: len(again.forwarder) == 2)
            assert await a.call("echo_client", conn=conn["conn"], streams=1, size=1000, seed=2) == 1


async def test_iroh_endpoints_by_token_and_by_list():
    secret = SecretKey.generate()
    for access, good, bad in (
        (SharedToken(["let me in"]), {"token": "let me in"}, {"token": "please"}),
        (AllowList([secret.public]), {"secret": secret.to_hex()}, {}),
    ):
        async with RelayServer(config(access=access)) as server, AsyncExitStack() as stack:
            a, at = await bind(stack, server, LOOPBACK, **good)
            assert await a.call("online", ep=at["ep"]) == server.url
            await bind(stack, server, LOOPBACK, **bad)
            # it comes back again and again
            await until(lambda: server.metrics()["access_denied"] >= 2)
            assert len(server.forwarder) == 1


async def test_iroh_endpoint_answers_our_pings_and_tolerates_notices():
    async with (
        RelayServer(config(ping_interval=0.3, ping_jitter=0)) as server,
        AsyncExitStack() as stack,
    ):
        a, at = await bind(stack, server, LOOPBACK)
        await a.call("online", ep=at["ep"])
        (connection,) = server.forwarder.find(bytes(PublicKey.parse(at["id"])))
        for status in (b"\x0d\x02", b"\x0c\x00\x00\x00\x0a\x00\x00\x00\x14", b"\x0d\x63"):
            connection.send_handshake(status)
        async with connected(server) as other:
            await asyncio.sleep(1.5)
            other.send_to(bytes(PublicKey.parse(at["id"])), b"\x40garbage")
            assert server.metrics()["ping_timeouts"] == 0
        assert connection.is_open
