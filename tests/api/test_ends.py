"""The end of connections: nothing that was finished is lost in silence."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import pytest

from iroh_fast import Connection, Endpoint, Router, presets
from iroh_fast.errors import ApplicationClosed, ConfigError, LocallyClosed, NotDelivered
from iroh_fast.net.socket import Driver

from .conftest import ALPN, ENV, LOOPBACK, Bind, Pair, connect

SIZE = 300_000


async def receive(conn: Connection) -> int:
    return len(await (await conn.accept_uni()).read_to_end(SIZE))


async def send(conn: Connection, size: int = SIZE) -> None:
    async with conn.open_uni() as stream:
        await stream.write_all(bytes(size))


async def test_leaving_the_blocks_delivers_what_was_finished(bind: Bind) -> None:
    server = await bind(alpns=[ALPN])

    async def serve() -> tuple[int, int]:
        incoming = await server.accept()
        assert incoming is not None
        conn = await incoming
        size = await receive(conn)
        return size, (await conn.wait_closed()).code

    task = asyncio.create_task(serve())
    async with (
        Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK) as ep,
        ep.connect(server.addr, ALPN) as conn,
    ):
        await send(conn)
    assert await task == (SIZE, 0)


async def test_leaving_the_endpoint_delivers_too(bind: Bind) -> None:
    server = await bind(alpns=[ALPN])
    async with Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK) as ep:
        client, conn = await connect(ep, server)
        task = asyncio.create_task(receive(conn))
        await send(client)
    assert await task == SIZE
    conn.close()


async def test_letting_go_delivers_too(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()

    async def throw_away() -> Connection:
        ours, theirs = await connect(client, server)
        ours._warn = False
        await send(ours)
        return theirs

    conn = await throw_away()
    gc.collect()
    assert await receive(conn) == SIZE
    assert (await conn.wait_closed()).code == 0


async def test_handler_that_returns_after_finishing_delivers(bind: Bind) -> None:
    server, client = await bind(), await bind()
    async with Router(server, {ALPN: send}):
        async with client.connect(server.addr, ALPN) as conn:
            assert await receive(conn) == SIZE
            assert (await conn.wait_closed()).code == 0


async def test_finish_waits_for_the_acknowledgement(pair: Pair) -> None:
    await pair.client.finish()  # nothing to wait for
    async with pair.client.open_uni() as stream:
        await stream.write_all(bytes(SIZE))
    task = asyncio.create_task(receive(pair.server))
    await pair.client.finish()
    assert await stream.stopped() is None
    assert await task == SIZE
    unfinished = await pair.client.open_uni()
    await unfinished.write_all(b"x")
    await pair.client.finish()  # only finished streams count
    pair.client.close()
    await pair.client.finish()


@pytest.mark.parametrize("chosen", [None, 9])
async def test_leaving_by_an_exception_closes_with_an_error_code(
    pair: Pair, chosen: int | None
) -> None:
    if chosen is not None:
        pair.client.close_on_exit(chosen, b"mine")
    with pytest.raises(ZeroDivisionError):
        async with pair.client:
            raise ZeroDivisionError
    reason = await pair.server.wait_closed()
    assert (reason.code, reason.reason) == ((1, b"") if chosen is None else (9, b"mine"))


async def test_leaving_by_cancellation_closes_with_an_error_code(pair: Pair) -> None:
    async def stay() -> None:
        async with pair.client:
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await pair.server.wait_closed()).code == 1


@pytest.fixture
def short_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoints do not wait three seconds for peers that are gone."""
    monkeypatch.setattr("iroh_fast._ending.CLOSE_TIMEOUT_S", 0.05)


@pytest.mark.usefixtures("short_close")
async def test_leaving_when_the_peer_is_gone_says_what_was_not_delivered(pair: Pair) -> None:
    pair.server_ep._driver.stop()  # no answer any more
    pair.client.linger = 0.1
    with pytest.raises(NotDelivered) as info:
        async with pair.client:
            await send(pair.client, 10)
    assert (info.value.streams, info.value.seconds) == (1, 0.1)
    assert pair.client.close_reason is not None


@pytest.mark.usefixtures("short_close")
async def test_leaving_without_lingering_does_not_wait(pair: Pair) -> None:
    pair.server_ep._driver.stop()
    pair.client.linger = 0
    async with pair.client:
        await send(pair.client, 10)
    assert pair.client.close_reason is not None


async def test_leaving_after_the_connection_was_lost_raises_only_for_lost_data(pair: Pair) -> None:
    async with pair.client:
        pair.server.close(5, b"lost nothing")
        await pair.client.wait_closed()


async def test_lost_data_raise_what_ended_the_connection(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    ours, theirs = await connect(client, server)
    with pytest.raises(ApplicationClosed) as info:
        async with ours:
            async with ours.open_uni() as stream:
                await stream.write_all(bytes(SIZE))
            # Finished, not acknowledged, since nothing of it was sent yet.
            theirs.close(5, b"no")
    assert info.value.code == 5
    ours, theirs = await connect(client, server)
    async with ours:
        async with ours.open_uni() as stream:
            await stream.write_all(bytes(SIZE))
        ours.close()
    with pytest.raises(LocallyClosed):
        await ours.finish()
    theirs.close()


async def test_linger_is_checked(pair: Pair) -> None:
    assert pair.client.linger == 5
    pair.client.linger = None
    with pytest.raises(ConfigError, match="linger"):
        pair.client.linger = -1
    with pytest.raises(ConfigError, match="linger"):
        pair.client.linger = "long"  # type: ignore[assignment]


async def test_close_waits_for_the_peers_answer_and_no_longer(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, stop = pair.client._q, Driver.stop
    seen: list[tuple[bool, bool]] = []

    def stopped(driver: Driver) -> None:
        seen.append((q.draining, q.drained))
        stop(driver)

    monkeypatch.setattr(Driver, "stop", stopped)
    await pair.client_ep.close()
    assert seen == [(True, False)]  # what may still be on its way is nobody's loss
    reason = await pair.server.wait_closed()
    assert reason.kind == "application" and reason.code == 0


async def test_close_after_a_dial_that_nobody_answered_is_immediate(
    bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iroh_fast._ending.CLOSE_TIMEOUT_S", 1000)  # for an answer
    ep = await bind()
    silent = await bind()  # takes no connections: does not answer
    dial = asyncio.create_task(ep.connect(silent.addr, ALPN))
    await asyncio.sleep(0.05)
    dial.cancel()
    await asyncio.gather(dial, return_exceptions=True)
    await ep.close()


@pytest.mark.parametrize("way", ["exception", "cancelled", "router"])
async def test_endpoint_block_left_by_an_exception_is_no_success(bind: Bind, way: str) -> None:
    server = await bind(alpns=[ALPN])

    async def leave() -> None:
        async with Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK) as ep:
            conn = await ep.connect(server.addr, ALPN)
            if way == "router":
                async with Router(ep, {}):
                    raise ValueError("a mistake")
            if way == "cancelled":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            assert conn.close_reason is None
            raise ValueError("a mistake")

    leaving = asyncio.create_task(leave())
    incoming = await server.accept()
    assert incoming is not None
    reason = await (await incoming).wait_closed()
    assert (reason.kind, reason.code) == ("application", 1)
    await asyncio.wait({leaving})
    assert leaving.cancelled() if way == "cancelled" else leaving.exception()


def test_program_that_ends_by_an_error_is_warned_and_nothing_else() -> None:
    program = """
import asyncio
from iroh_fast import Endpoint, presets

async def main():
    server = await Endpoint.bind(preset=presets.minimal, alpns=[b"x"])
    client = await Endpoint.bind(preset=presets.minimal)

    async def accept():
        return await (await server.accept())

    pair = await asyncio.gather(client.connect(server.addr, b"x"), accept())
    raise RuntimeError("a mistake of the program")

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENV,
    )
    assert done.returncode == 1 and "RuntimeError: a mistake of the program" in done.stderr
    assert done.stderr.count("ResourceWarning: unclosed <Connection 1") == 2
    assert "Exception ignored" not in done.stderr
