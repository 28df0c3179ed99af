"""How connections with the real peer end, and what each side is told."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable
from typing import Any

import pytest

from iroh_fast import CloseReason, Connection, QuicTransportConfig
from iroh_fast.errors import (
    ApplicationClosed,
    ConnectionLost,
    ConnectTimeout,
    EndpointClosed,
    LocallyClosed,
    TimedOut,
)

from .links import ALPN, Links
from .peer_client import PeerError

MAX_CODE = 2**62 - 1


def text(code: int, reason: bytes) -> str:
    """What iroh prints for a close by the peer."""
    if not reason:
        return f"closed by peer: {code}"
    return f"closed by peer: {reason.decode()} (code {code})"


CLOSES = [(0, b""), (7, b"bye!"), (MAX_CODE, b"x" * 500)]


@pytest.mark.parametrize(("code", "reason"), CLOSES)
async def test_real_peer_sees_our_close(
    links: Links, dials: bool, code: int, reason: bytes
) -> None:
    link = await links.connect(dials)
    closed = link.start("closed")
    link.ours.close(code, reason)
    link.ours.close(99, b"a second close changes nothing")
    assert await closed == text(code, reason)
    assert await link.call("close_reason") == text(code, reason)
    assert await link.ours.wait_closed() == CloseReason("locally_closed")
    with pytest.raises(LocallyClosed):
        await link.ours.open_bi()


@pytest.mark.parametrize(("code", "reason"), CLOSES)
async def test_we_see_the_close_of_the_real_peer(
    links: Links, dials: bool, code: int, reason: bytes
) -> None:
    link = await links.connect(dials)
    waiting = asyncio.create_task(link.ours.wait_closed())
    await link.call("close", code=code, reason=reason.hex())
    got = await waiting
    assert got == link.ours.close_reason
    assert (got.kind, got.code, got.reason, got.by_peer) == ("application", code, reason, True)
    assert str(got) == text(code, reason)
    with pytest.raises(ApplicationClosed) as caught:
        await link.ours.accept_bi()
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert await link.call("closed") == "closed"


async def test_long_reasons_are_cut_to_a_packet(links: Links, dials: bool) -> None:
    link = await links.connect(dials)
    link.ours.close(1, b"y" * 5000)
    seen = await link.call("closed")
    assert seen.startswith("closed by peer: y") and seen.endswith(" (code 1)")
    assert 1000 < seen.count("y") < 1453

    link = await links.connect(dials)
    await link.call("close", code=1, reason=(b"y" * 5000).hex())
    got = await link.ours.wait_closed()
    assert got.code == 1 and set(got.reason) == set(b"y") and 1000 < len(got.reason) < 1453


async def waits(conn: Connection) -> dict[str, Awaitable[Any]]:
    """Everything that can wait for the peer."""
    reading = await conn.open_bi()
    await reading.send.write_all(b"x")
    writing = await conn.open_uni()
    finishing = await conn.open_uni()

    async def write() -> None:
        while True:
            await writing.write_all(bytes(65536))

    return {
        "accept_bi": conn.accept_bi(),
        "accept_uni": conn.accept_uni(),
        "read_datagram": conn.read_datagram(),
        "read": reading.recv.read(),
        "write": write(),
        "stopped": finishing.stopped(),
        "received_reset": reading.recv.received_reset(),
    }


async def outcomes(conn: Connection) -> dict[str, asyncio.Task[Any]]:
    tasks = {name: asyncio.ensure_future(work) for name, work in (await waits(conn)).items()}
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in tasks.values())
    return tasks


async def test_everything_that_waits_learns_of_the_close(links: Links, dials: bool) -> None:
    link = await links.connect(dials)
    tasks = await outcomes(link.ours)
    await link.call("close", code=42, reason=b"enough".hex())
    for name, task in tasks.items():
        with pytest.raises(ApplicationClosed) as caught:
            await task
        assert (name, caught.value.code, caught.value.reason) == (name, 42, b"enough")
        assert caught.value.close_reason is link.ours.close_reason


async def test_leaving_the_block_closes(links: Links, dials: bool) -> None:
    link = await links.connect(dials)
    closed = link.start("closed")
    async with link.ours as conn:
        conn.close_on_exit(5, b"left")
    assert await closed == "closed by peer: left (code 5)"


@pytest.mark.filterwarnings("ignore:unclosed <Connection")
async def test_dropping_the_last_handle_closes(links: Links, dials: bool) -> None:
    link = await links.connect(dials, keep=False)
    peer, real = link.peer, link.real
    send, _ = await link.ours.open_bi()
    await send.write_all(b"x")
    closed = link.start("closed")
    del link
    gc.collect()
    done, _ = await asyncio.wait({closed}, timeout=0.3)
    assert not done  # the stream keeps the connection
    del send, _
    gc.collect()
    assert await closed == "closed by peer: 0"
    assert await peer.call("close_reason", conn=real) == "closed by peer: 0"


async def test_we_see_that_the_real_peer_dropped_its_handle(links: Links, dials: bool) -> None:
    link = await links.connect(dials)
    await link.peer.call("drop", handle=link.real)
    assert str(await link.ours.wait_closed()) == "closed by peer: 0"


async def test_closing_our_endpoint_closes_connections(
    links: Links, dials: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iroh_fast._ending.CLOSE_TIMEOUT_S", 1000)  # a peer that answers ends it
    ours = await links.our_endpoint()
    link = await links.connect(dials, ours=ours)
    closed = link.start("closed")
    await ours.close()
    assert await closed == "closed by peer: 0"
    assert link.ours.close_reason == CloseReason("locally_closed")
    with pytest.raises(EndpointClosed):
        await ours.connect(link.ours.remote_id, ALPN)
    assert await ours.accept() is None


async def test_the_real_peer_closes_its_endpoint(links: Links, dials: bool) -> None:
    real = await links.real_endpoint()
    link = await links.connect(dials, real=real)
    await real.call("close_endpoint")
    assert str(await link.ours.wait_closed()) == "closed by peer: 0"


async def test_data_before_the_close_is_delivered(links: Links, dials: bool) -> None:
    """The receiver closes once it has everything, as iroh asks for."""
    link = await links.connect(dials)
    theirs = await link.call("open_uni")
    sending = link.peer.start("send_pattern", send=theirs["send"], seed=1, size=1_000_000)
    recv = await link.ours.accept_uni()
    data = await recv.read_to_end(1_000_000)
    assert len(data) == 1_000_000
    await sending
    link.ours.close(0, b"got it")
    assert await link.call("closed") == "closed by peer: got it (code 0)"


async def test_close_during_a_transfer(links: Links, dials: bool) -> None:
    link = await links.connect(dials)
    theirs = await link.call("open_uni")
    sending = link.peer.start("send_pattern", send=theirs["send"], seed=1, size=100_000_000)
    recv = await link.ours.accept_uni()
    await recv.readexactly(1_000_000)
    link.ours.close(3, b"too much")
    with pytest.raises(PeerError, match="too much"):
        await sending
    with pytest.raises(LocallyClosed):
        await recv.readexactly(10_000_000)


# --- peers that vanish

SHORT = QuicTransportConfig(max_idle_timeout=1.5)


@pytest.mark.limit(30)
async def test_killed_peer_times_out(links: Links, dials: bool) -> None:
    link = await links.connect(dials, transport=SHORT)
    tasks = await outcomes(link.ours)
    await link.peer.kill()
    loop = asyncio.get_running_loop()
    killed = loop.time()
    for task in tasks.values():
        with pytest.raises(TimedOut) as caught:
            await task
        assert isinstance(caught.value, ConnectionLost)
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, ConnectionError)
        assert str(caught.value) == "timed out"
    # The last thing heard from the peer may be older than the kill, but not by much.
    assert loop.time() - killed > 0.5
    reason = await link.ours.wait_closed()
    assert reason.kind == "timed_out" and not reason.by_peer
    with pytest.raises(TimedOut):
        await link.ours.open_bi()


async def test_dialling_a_dead_peer_times_out(links: Links) -> None:
    ours = await links.our_endpoint(transport=SHORT)
    real = await links.real_endpoint()
    await links.peer.kill()
    with pytest.raises(ConnectTimeout) as caught:
        await ours.connect(real.addr, ALPN)
    assert isinstance(caught.value, TimeoutError)
    assert f"{real.id:short}" in str(caught.value)


async def test_closing_with_a_dead_peer_does_not_hang(links: Links, dials: bool) -> None:
    ours = await links.our_endpoint()
    link = await links.connect(dials, ours=ours)
    await link.peer.kill()
    async with asyncio.timeout(60):
        await ours.close()
    assert ours.closed


async def test_real_peer_times_out_when_we_vanish(links: Links, dials: bool) -> None:
    ours = await links.our_endpoint(transport=SHORT)
    link = await links.connect(dials, ours=ours)
    closed = link.start("closed")
    ours._driver.stop()  # as if the process had died
    assert await closed == "timed out"
