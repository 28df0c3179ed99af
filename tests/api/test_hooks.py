"""Hooks decide once about each connection, whatever the application does meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from iroh_fast import (
    Connection,
    EndpointAddr,
    EndpointHooks,
    HookOutcome,
    Incoming,
    Reject,
)
from iroh_fast.errors import ApplicationClosed, EndpointClosed, LocallyClosed, LocallyRejected

from .conftest import ALPN, Bind, connect


class Gate(EndpointHooks):
    """Thinks until it is told what to say, and counts."""

    def __init__(self, outcome: HookOutcome = None) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.outcome = outcome
        self.calls = 0
        self.armed = True

    async def after_handshake(self, conn: Connection) -> HookOutcome:
        if not self.armed:
            return None
        self.calls += 1
        self.asked.set()
        await self.answer.wait()
        return self.outcome


async def test_connection_that_dies_while_a_hook_thinks_is_an_error(bind: Bind) -> None:
    gate = Gate()
    server, client = await bind(alpns=[ALPN]), await bind(hooks=[gate])
    dial = asyncio.create_task(client.connect(server.addr, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    conn = await incoming
    await gate.asked.wait()
    conn.close(9, b"go away")
    await asyncio.sleep(0.05)
    gate.answer.set()
    with pytest.raises(ApplicationClosed) as info:
        await dial
    assert (info.value.code, info.value.reason) == (9, b"go away")
    assert client.metrics.snapshot()["socket:num_conns_opened"] == 0


@pytest.mark.parametrize("times", [0, 1, 2])
async def test_0rtt_hook_decides_once_however_often_it_is_asked(bind: Bind, times: int) -> None:
    """`times` calls of handshake_completed() are cancelled while the hook thinks."""
    gate = Gate(Reject(7, b"no"))
    gate.armed = False
    server, client = await bind(alpns=[ALPN], hooks=[gate]), await bind()
    first, _ = await connect(client, server)
    first.close()
    gate.armed = True
    dial = asyncio.create_task(client.connect(server.addr, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    early = incoming.accept().into_0rtt()
    conn = await dial
    await gate.asked.wait()
    for _ in range(times):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await early.handshake_completed()
    both = [asyncio.create_task(early.handshake_completed()) for _ in range(2)]
    await asyncio.sleep(0)
    gate.answer.set()
    for outcome in await asyncio.gather(*both, return_exceptions=True):
        assert isinstance(outcome, LocallyRejected)
    with pytest.raises(LocallyRejected):
        await early.handshake_completed()
    assert gate.calls == 1
    reason = await conn.wait_closed()
    assert (reason.code, reason.reason) == (7, b"no")


async def test_0rtt_hook_rejects_a_connection_whose_handshake_nobody_awaits(bind: Bind) -> None:
    gate = Gate(False)
    gate.answer.set()
    server, client = await bind(alpns=[ALPN], hooks=[gate]), await bind()
    dial = asyncio.create_task(client.connect(server.addr, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    early = incoming.accept().into_0rtt()
    conn = await dial
    assert (await conn.wait_closed()).by_peer
    assert (await early.wait_closed()).kind == "locally_closed"
    assert gate.calls == 1


async def test_hook_that_raises_closes_with_an_error_code(bind: Bind) -> None:
    class Bad(EndpointHooks):
        async def after_handshake(self, conn: Connection) -> HookOutcome:
            raise ZeroDivisionError

    server, client = await bind(alpns=[ALPN], hooks=[Bad()]), await bind()
    dial = asyncio.create_task(client.connect(server.addr, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    with pytest.raises(ZeroDivisionError):
        await incoming
    conn = await dial
    assert (await conn.wait_closed()).code == 1


async def test_hooks_may_be_plain_methods(bind: Bind) -> None:
    class Plain(EndpointHooks):
        def before_connect(self, addr: EndpointAddr, alpn: bytes) -> HookOutcome:  # type: ignore[override]
            return alpn == ALPN

        def after_handshake(self, conn: Connection) -> HookOutcome:  # type: ignore[override]
            return Reject(7, b"no") if conn.side == "server" else None

    server = await bind(alpns=[ALPN], hooks=[Plain()])
    client = await bind(hooks=[Plain()])
    with pytest.raises(LocallyRejected):
        await client.connect(server.addr, b"another")
    dial = asyncio.create_task(client.connect(server.addr, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    with pytest.raises(LocallyRejected):
        await incoming
    assert (await (await dial).wait_closed()).code == 7


@pytest.mark.parametrize("ended_by", ["peer", "endpoint"])
async def test_hook_that_thinks_for_ever_ends_with_its_connection(
    bind: Bind, ended_by: str
) -> None:
    gate = Gate()
    server = await bind(alpns=[ALPN], hooks=[gate])
    client = await bind()
    dial = asyncio.create_task(client.connect(server.addr, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    accepting = asyncio.create_task(_wait(incoming))
    await gate.asked.wait()
    conn = await dial
    if ended_by == "peer":
        conn.close(9)
        with pytest.raises(ApplicationClosed):
            await accepting
    else:
        await server.close()
        with pytest.raises(LocallyClosed):
            await accepting
    assert not gate.answer.is_set()


async def test_connect_ends_with_the_endpoint_while_a_hook_thinks(bind: Bind) -> None:
    class Slow(EndpointHooks):
        async def before_connect(self, addr: EndpointAddr, alpn: bytes) -> HookOutcome:
            asked.set()
            await asyncio.Event().wait()

    asked = asyncio.Event()
    ep = await bind(hooks=[Slow()])
    dial = asyncio.create_task(ep.connect((await bind(alpns=[ALPN])).addr, ALPN))
    await asked.wait()
    await ep.close()
    with pytest.raises(EndpointClosed):
        await dial


async def test_hook_that_closes_by_itself_runs_to_its_end(bind: Bind) -> None:
    ends: list[int] = []

    class Strict(EndpointHooks):
        async def after_handshake(self, conn: Connection) -> HookOutcome:
            conn.close(8, b"not you")
            for _ in range(10):
                await asyncio.sleep(0)
            ends.append(1)
            return Reject(7)

    server, client = await bind(alpns=[ALPN], hooks=[Strict()]), await bind()
    dial = asyncio.create_task(client.connect(server.addr, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    with pytest.raises(LocallyRejected):
        await incoming
    assert ends == [1] and (await (await dial).wait_closed()).code == 8


async def _wait(incoming: Incoming) -> Connection:
    return await incoming
