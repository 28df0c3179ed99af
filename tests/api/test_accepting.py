"""Accepting with Endpoint.connections(): no client disturbs another."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from iroh_fast import Connection, EndpointAddr, EndpointHooks, HookOutcome
from iroh_fast.errors import AlpnMismatch, ConfigError

from .conftest import ALPN, Bind


async def silent_client(bind: Bind, server_port: int, id: EndpointAddr) -> asyncio.Task[Connection]:
    """Let the server see the first packet of a client that never answers."""
    client = await bind()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caught:
        caught.bind(("127.0.0.1", 0))
        where = EndpointAddr(id.id, [f"127.0.0.1:{caught.getsockname()[1]}"])
        dial = asyncio.create_task(client.connect(where, ALPN))
        caught.setblocking(False)
        loop = asyncio.get_running_loop()
        data = await loop.sock_recv(caught, 2000)
        caught.sendto(data, ("127.0.0.1", server_port))
    return dial


async def test_connections_go_on_after_failures_and_beside_silent_clients(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    connections = server.connections()
    taken = asyncio.create_task(anext(connections))
    with pytest.raises(AlpnMismatch), caplog.at_level(logging.INFO, "iroh_fast"):
        await client.connect(server.addr, b"other")
    port = server.bound_sockets[0].port
    dial = await silent_client(bind, port, server.addr)
    conn = await client.connect(server.addr, ALPN)
    accepted = await taken
    assert accepted.remote_id == client.id
    assert server.metrics.snapshot()["socket:num_accepts_failed"] == 1
    assert "ALPN" in caplog.text
    dial.cancel()
    await asyncio.gather(dial, return_exceptions=True)
    conn.close()
    accepted.close()


async def test_connections_end_with_the_endpoint(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    seen = []

    async def serve() -> None:
        async for conn in server.connections():
            seen.append(conn)

    task = asyncio.create_task(serve())
    dialed = [await client.connect(server.addr, ALPN) for _ in range(3)]
    await asyncio.sleep(0)
    await server.close()
    await task
    assert len(seen) == 3
    for conn in dialed:
        assert (await conn.wait_closed()).by_peer


async def test_waiting_without_protocols_is_told_and_ends_when_there_are_some(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    server, client = await bind(), await bind()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await server.accept()
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.name == "iroh_fast.endpoint"
    assert "give bind() alpns=[...]" in record.getMessage()
    task = asyncio.ensure_future(anext(server.connections()))
    await asyncio.sleep(0)
    server.set_alpns([ALPN])
    async with client.connect(server.addr, ALPN), await task:
        pass
    server.set_alpns([])  # a pause on purpose is not told
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await server.accept()
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1


async def test_connections_are_bounded(bind: Bind) -> None:
    running = most = 0

    class Slow(EndpointHooks):
        async def after_handshake(self, conn: Connection) -> HookOutcome:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            return None

    server, client = await bind(alpns=[ALPN], hooks=[Slow()]), await bind()
    connections = server.connections(max_pending=2)
    dials = [asyncio.create_task(client.connect(server.addr, ALPN)) for _ in range(6)]
    accepted = [await anext(connections) for _ in dials]
    assert most == 2
    for conn in (*accepted, *await asyncio.gather(*dials)):
        conn.close()
    for wrong in (0, "x"):
        with pytest.raises(ConfigError, match="max_pending"):
            server.connections(max_pending=wrong)  # type: ignore[arg-type]


async def test_connections_rejected_by_a_hook_are_counted(bind: Bind) -> None:
    class Every(EndpointHooks):
        calls = 0

        async def after_handshake(self, conn: Connection) -> HookOutcome:
            self.calls += 1
            if self.calls == 1:
                raise ZeroDivisionError
            return self.calls == 3

    server, client = await bind(alpns=[ALPN], hooks=[Every()]), await bind()
    taken = asyncio.create_task(anext(server.connections()))
    codes: list[int] = []
    for _ in range(3):
        conn = await client.connect(server.addr, ALPN)
        if len(codes) < 2:
            codes.append((await conn.wait_closed()).code)
    accepted = await taken
    assert accepted.remote_id == client.id
    assert codes == [1, 0]
    assert server.metrics.snapshot()["socket:num_accepts_failed"] == 2
    conn.close()
    accepted.close()


async def test_letting_go_of_connections_closes_those_nobody_took(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    connections = server.connections()
    waiting = asyncio.create_task(anext(connections))
    first = await client.connect(server.addr, ALPN)
    (await waiting).close()
    untaken = await client.connect(server.addr, ALPN)
    await first.wait_closed()
    del connections, waiting
    assert (await untaken.wait_closed()).by_peer
    # Whoever accepts next gets the next attempt.
    dial = asyncio.create_task(client.connect(server.addr, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    (await incoming).close()
    (await dial).close()


async def test_cancelled_wait_loses_no_connection(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    connections = server.connections()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(connections)
    conn = await client.connect(server.addr, ALPN)
    accepted = await anext(connections)
    assert accepted.remote_id == client.id
    conn.close()
    accepted.close()


class Absent(EndpointHooks):
    """Awaits a task that was cancelled."""

    async def after_handshake(self, conn: Connection) -> None:
        if conn.side == "server":
            task = asyncio.create_task(asyncio.sleep(100))
            task.cancel()
            await task


async def test_hook_that_awaits_a_cancelled_task_takes_no_place(bind: Bind) -> None:
    """Each attempt holds one of `max_pending` places until its end, whatever that is."""
    hook = Absent()
    server, client = await bind(alpns=[ALPN], hooks=[hook]), await bind()
    accepted: list[Connection] = []

    async def accept() -> None:
        async for conn in server.connections(max_pending=2):
            accepted.append(conn)

    task = asyncio.create_task(accept())
    for _ in range(3):
        conn = await client.connect(server.addr, ALPN)
        assert (await conn.wait_closed()).code == 1
    server._context.hooks = ()
    conn = await client.connect(server.addr, ALPN)
    while not accepted:
        await asyncio.sleep(0)
    conn.close()
    await server.close()
    await task


async def test_accept_with_wrong_settings_keeps_the_attempt(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    dial = asyncio.create_task(client.connect(server.addr, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    for wrong in (5, {}, b"", [ALPN]):
        with pytest.raises(TypeError, match="config is a ServerConfig"):
            incoming.accept(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="transport"):
            server.server_config(transport=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="alpns"):
        server.server_config(5)  # type: ignore[arg-type]
    conn = await incoming.accept(server.server_config([ALPN]))
    async with await dial as ours:
        assert ours.remote_id == server.id
    await conn.wait_closed()
