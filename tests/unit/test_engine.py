"""The engine between sockets and QUIC: turns, timers, full sockets, and what is dialed."""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from iroh_fast.config import BindAddr, QuicTransportConfig
from iroh_fast.net.socket import Driver
from iroh_fast.quic._connection import QuicConnection
from iroh_fast.quic.tls import Identity

HERE = [BindAddr("127.0.0.1")]
ALPN = b"engine/1"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the error is Linux's")


async def until(test: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not test():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def drivers() -> AsyncIterator[tuple[Driver, Driver]]:
    server = Driver.bind(HERE, identity=Identity(bytes([1]) * 32))
    client = Driver.bind(HERE, identity=Identity(bytes([2]) * 32))
    try:
        yield client, server
    finally:
        client.stop()
        server.stop()


async def connected(
    client: Driver, server: Driver, config: QuicTransportConfig | None = None
) -> tuple[QuicConnection, QuicConnection]:
    config = config or QuicTransportConfig()
    q = client.connect(
        [server.bound_sockets[0]],
        expected_peer=server.endpoint.identity.public_key,
        alpns=[ALPN],
        transport=config,
    )
    async with asyncio.timeout(20):
        attempt = await server.wait_incoming()
    assert attempt is not None
    accepted = attempt.accept([ALPN], config)
    await until(lambda: q.handshake_confirmed and accepted.handshake_confirmed)
    return q, accepted


# ---------------------------------------------------------------- turns
async def test_empty_datagrams_use_up_the_turn() -> None:
    async with drivers() as (client, _):
        core = client._core
        (sock,) = core.sockets
        sock.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        asyncio.get_running_loop().remove_reader(sock.fileno())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(1000):
                sender.sendto(b"", client.bound_sockets[0])
            assert select.select([sock], [], [], 1)[0]
            core.on_readable(0)
        taken = sock.stats()["rx_datagrams"]
        assert 0 < taken < 300


async def test_what_many_connections_send_in_one_turn_leaves_in_few_calls() -> None:
    async with drivers() as (client, server):
        pairs = [await connected(client, server) for _ in range(30)]
        await asyncio.sleep(0.1)  # acknowledgements of the handshakes
        (sock,) = client._core.sockets
        before = sock.stats()
        for q, _ in pairs:
            q.open_stream(False).write(b"hello", True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        after = sock.stats()
        assert after["tx_datagrams"] - before["tx_datagrams"] >= 30
        if sys.platform == "linux":
            assert after["tx_calls"] - before["tx_calls"] <= 6


# ---------------------------------------------------------------- timers
async def test_timer_entries_follow_the_number_of_connections() -> None:
    async with drivers() as (client, server):
        q, accepted = await connected(client, server)
        most = 0
        stream = q.open_stream(False)
        for _ in range(200):
            stream.write(b"hello")
            await asyncio.sleep(0.002)
            most = max(most, client._core.timer_entries, server._core.timer_entries)
        assert 0 < most <= 2 * 1 + 9
        assert accepted.close_reason is None


async def test_heartbeats_of_many_connections_are_served_together() -> None:
    config = QuicTransportConfig(keep_alive_interval=0.4)
    async with drivers() as (client, server):
        pairs = [await connected(client, server, config) for _ in range(40)]
        await asyncio.sleep(0.5)
        wakes = client.stats()["timer_wakes"]
        pings = sum(q.stats()["frame_tx"]["ping"] for q, _ in pairs)
        await asyncio.sleep(1.5)
        wakes = client.stats()["timer_wakes"] - wakes
        pings = sum(q.stats()["frame_tx"]["ping"] for q, _ in pairs) - pings
        pings += sum(s.stats()["frame_tx"]["ping"] for _, s in pairs)
        assert pings >= 40
        assert wakes <= pings


# ---------------------------------------------------------------- dialing
@linux_only
async def test_attempt_ends_when_nothing_can_leave_to_any_address() -> None:
    """A network's broadcast address: the system refuses each datagram."""
    client = Driver.bind([BindAddr("0.0.0.0")], identity=Identity(bytes([2]) * 32))
    try:
        q = client.connect(
            [("127.255.255.255", 7), ("127.255.255.255", 8)],
            expected_peer=bytes(32),
            alpns=[ALPN],
            transport=QuicTransportConfig(),
        )
        await until(lambda: q.close_reason)
        assert q.close_reason is not None and q.close_reason.kind == "unreachable"
        text = str(q.close_reason)
        assert "127.255.255.255:7 (Permission denied)" in text and "127.255.255.255:8" in text
        assert client.connections == 0
    finally:
        client.stop()


@linux_only
async def test_one_address_that_works_is_enough() -> None:
    client = Driver.bind([BindAddr("0.0.0.0")], identity=Identity(bytes([2]) * 32))
    server = Driver.bind(HERE, identity=Identity(bytes([1]) * 32))
    try:
        q = client.connect(
            [("127.255.255.255", 7), server.bound_sockets[0]],
            expected_peer=server.endpoint.identity.public_key,
            alpns=[ALPN],
            transport=QuicTransportConfig(),
        )
        async with asyncio.timeout(20):
            attempt = await server.wait_incoming()
        assert attempt is not None
        attempt.accept([ALPN], QuicTransportConfig())
        await until(lambda: q.handshake_confirmed)
    finally:
        client.stop()
        server.stop()
