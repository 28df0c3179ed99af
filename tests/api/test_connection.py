"""Connections: datagrams, statistics, paths, exporter, 0-RTT."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from iroh_fast import CloseReason, Endpoint, IncomingZeroRttConnection, QuicTransportConfig
from iroh_fast.errors import (
    ApplicationClosed,
    DatagramDisabled,
    DatagramTooLarge,
    DatagramUnsupported,
    LocallyClosed,
    WatcherEnded,
    ZeroRttRejected,
)
from iroh_fast.paths import PathEvents
from iroh_fast.stats import PathClosed, PathsLagged

from .conftest import ALPN, LOOPBACK, Bind, Pair, connect

MakePair = Callable[..., Awaitable[Pair]]


# --- datagrams


async def test_datagrams_arrive_in_order_and_may_be_empty(pair: Pair) -> None:
    messages: list[bytes | bytearray] = [
        b"",
        b"one",
        b"x" * (pair.client.max_datagram_size or 0),
        bytearray(b"two"),
    ]
    for message in messages:
        pair.client.send_datagram(message)
    assert [await pair.server.read_datagram() for _ in messages] == messages


async def test_datagram_send_wait_waits_for_room(pair: Pair) -> None:
    space = pair.client.datagram_send_buffer_space
    assert space >= 2**20
    for number in range(1500):
        await pair.client.send_datagram_wait(number.to_bytes(4, "big") * 250)
    assert pair.client.datagram_send_buffer_space <= space
    assert await pair.server.read_datagram() == bytes(1000)


async def test_datagram_too_large_tells_the_limit(pair: Pair) -> None:
    limit = pair.client.max_datagram_size
    assert limit is not None
    assert limit > 1100
    with pytest.raises(DatagramTooLarge) as caught:
        pair.client.send_datagram(bytes(100_000))
    assert caught.value.size == 100_000
    assert caught.value.max_size >= limit
    with pytest.raises(DatagramTooLarge):
        await pair.client.send_datagram_wait(bytes(100_000))


async def test_datagrams_switched_off(make_pair: MakePair) -> None:
    off = QuicTransportConfig(datagram_receive_buffer_size=None)
    pair = await make_pair(server_transport=off)
    assert pair.client.max_datagram_size is None
    with pytest.raises(DatagramUnsupported):
        pair.client.send_datagram(b"x")
    with pytest.raises(DatagramDisabled):
        pair.server.send_datagram(b"x")


async def test_read_datagram_is_cancel_safe_and_ends_with_the_connection(pair: Pair) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pair.server.read_datagram()
    received: list[bytes] = []

    async def collect() -> None:
        async for data in pair.server.datagrams():
            received.append(data)

    task = asyncio.create_task(collect())
    pair.client.send_datagram(b"a")
    pair.client.send_datagram(b"b")
    while len(received) < 2:
        await asyncio.sleep(0.001)
    pair.client.close()
    await task
    assert received == [b"a", b"b"]
    with pytest.raises(ApplicationClosed):
        await pair.server.read_datagram()
    with pytest.raises(LocallyClosed):
        pair.client.send_datagram(b"c")


# --- closing


async def test_close_twice_keeps_the_first_reason(pair: Pair) -> None:
    pair.client.close(5, b"first")
    reason = pair.client.close_reason
    pair.client.close(6, b"second")
    assert pair.client.close_reason is reason
    assert await pair.client.wait_closed() is reason
    assert await pair.server.wait_closed() == CloseReason("application", 5, b"first", True)


async def test_weak_connection_waits_for_the_end_and_gives_the_last_counters(pair: Pair) -> None:
    weak = pair.client.weak()
    waiting = [asyncio.create_task(weak.closed()) for _ in range(2)]
    send, _ = await pair.client.open_bi()
    await send.write_all(b"something")
    assert weak.stable_id == pair.client.stable_id and weak.upgrade() is pair.client
    pair.client.close(7, b"enough")
    for closed in await asyncio.gather(*waiting):
        assert closed.reason.kind == "locally_closed"
        assert closed.stats.udp_tx.datagrams > 0
        assert [path.udp_tx.datagrams > 0 for path in closed.path_stats] == [True]
    # When the core has let go of the connection, too.
    await pair.client_ep.close()
    assert (await weak.closed()).reason.kind == "locally_closed"


async def test_close_reason_is_cut_to_one_packet(pair: Pair) -> None:
    pair.client.close(5, b"r" * 5000)
    reason = (await pair.server.wait_closed()).reason
    assert 500 < len(reason) < 1500
    assert set(reason) == {ord("r")}


async def test_wait_closed_survives_the_cancellation_of_another_waiter(pair: Pair) -> None:
    first = asyncio.create_task(pair.server.wait_closed())
    second = asyncio.create_task(pair.server.wait_closed())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    pair.client.close(8)
    assert (await second).code == 8
    assert first.cancelled()


async def test_idle_timeout_ends_both_sides(make_pair: MakePair) -> None:
    config = QuicTransportConfig(max_idle_timeout=0.2, keep_alive_interval=None)
    pair = await make_pair(transport=config)
    ends = [(conn, (await conn.wait_closed()).kind) for conn in (pair.client, pair.server)]
    # One that is late, since it sent something last, may hear that the other knows it no more.
    assert {kind for _, kind in ends} in ({"timed_out"}, {"timed_out", "reset"})
    with pytest.raises(TimeoutError):
        await next(conn for conn, kind in ends if kind == "timed_out").open_bi()


# --- numbers and paths


async def test_stats_count_what_was_sent(pair: Pair) -> None:
    before = pair.client.stats()
    async with pair.client.open_uni() as send:
        await send.write_all(bytes(100_000))
    assert len(await (await pair.server.accept_uni()).read_to_end(100_000)) == 100_000
    after = pair.client.stats()
    assert after.udp_tx.bytes - before.udp_tx.bytes >= 100_000
    assert after.udp_tx.datagrams > before.udp_tx.datagrams
    assert after.frame_tx.stream > before.frame_tx.stream
    assert after.frame_rx.acks + after.frame_rx.path_acks > 0
    assert pair.server.stats().frame_rx.stream >= after.frame_tx.stream - before.frame_tx.stream
    assert after.frame_rx.handshake_done >= 1  # again, when its acknowledgement is late


@pytest.fixture
async def lone(make_pair: MakePair) -> Pair:
    """Connected by the only way there is."""
    return await make_pair(bind_addrs=LOOPBACK[:1])


async def test_paths_tell_address_rtt_and_window(lone: Pair) -> None:
    (path,) = lone.client.paths
    assert path.remote_addr in lone.server_ep.addr.addrs
    assert path.is_selected
    assert path.is_ip
    assert not path.is_relay
    assert path.validated
    assert path.status == "available"
    assert 0 < path.rtt < 1
    assert lone.client.rtt == path.rtt
    assert path.cwnd > 10_000
    assert path.mtu >= 1200
    assert path.stats.udp_tx.datagrams > 0
    assert path.stats.cwnd > 10_000


async def test_watch_paths_gives_the_current_ones_and_ends(lone: Pair) -> None:
    snapshots = []

    async def follow() -> None:
        async for paths in lone.client.watch_paths():
            snapshots.append(paths)

    task = asyncio.create_task(follow())
    watcher = lone.client.watch_paths()
    await asyncio.sleep(0)
    lone.client.close()
    await task
    assert [path.id for path in snapshots[0]] == [0]
    with pytest.raises(WatcherEnded):
        while True:
            await watcher.changed()


async def test_path_events_end_with_closed_and_statistics(lone: Pair) -> None:
    consumers = [lone.client.path_events() for _ in range(2)]
    tasks = [asyncio.create_task(_collect(consumer)) for consumer in consumers]
    await asyncio.sleep(0)
    lone.client.close()
    first, second = await asyncio.gather(*tasks)
    assert first == second
    (closed,) = [event for event in first if isinstance(event, PathClosed)]
    assert closed.id == 0
    assert closed.remote_addr in lone.server_ep.addr.addrs
    assert closed.last_stats.udp_tx.datagrams > 0


async def _collect(events: PathEvents) -> list[object]:
    return [event async for event in events]


async def test_path_events_of_a_slow_consumer_lag(pair: Pair) -> None:
    consumer = pair.client.path_events()
    for number in range(11):
        consumer._put(PathsLagged(number))
    assert await anext(consumer) == PathsLagged(3)
    assert await anext(consumer) == PathsLagged(3)
    assert await anext(consumer) == PathsLagged(4)


async def test_export_keying_material_is_the_same_on_both_sides(pair: Pair) -> None:
    one = pair.client.export_keying_material(b"label", b"context", 32)
    assert one == pair.server.export_keying_material(b"label", b"context", 32)
    assert len(one) == 32
    assert one != pair.client.export_keying_material(b"label", b"other", 32)
    with pytest.raises(ValueError):
        pair.client.export_keying_material(b"label", b"", 0)


# --- weak handles


async def test_weak_handle_reports_the_end(pair: Pair) -> None:
    weak = pair.client.weak()
    assert weak.upgrade() is pair.client
    assert weak.stable_id == pair.client.stable_id
    task = asyncio.create_task(weak.closed())
    await asyncio.sleep(0)
    pair.server.close(3)
    closed = await task
    assert (closed.reason.kind, closed.reason.code) == ("application", 3)
    assert closed.stats.udp_rx.datagrams > 0


# --- 0-RTT


async def _ticket(client: Endpoint, server: Endpoint) -> None:
    """Connect once so that the client gets a session ticket."""
    conn, accepted = await connect(client, server)
    async with conn.open_bi() as (send, recv):
        await send.write_all(b"x")
        send.finish()
        other = await accepted.accept_bi()
        await other.recv.read_to_end(10)
        await other.send.write_all(b"y")
        other.send.finish()
        assert await recv.read_to_end(10) == b"y"
    conn.close()
    await accepted.wait_closed()


async def test_0rtt_without_a_ticket_is_none_and_connects_normally(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    accepting = asyncio.create_task(server.accept())
    connecting = await client.connect_with(server.addr, ALPN)
    assert connecting.into_0rtt() is None
    incoming = await accepting
    assert incoming is not None
    accepted, conn = await asyncio.gather(incoming, connecting)
    assert not conn.was_resumed
    conn.close()
    accepted.close()


async def test_0rtt_data_is_served_before_the_handshake_completes(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    await _ticket(client, server)

    async def serve() -> IncomingZeroRttConnection:
        incoming = await server.accept()
        assert incoming is not None
        early = incoming.accept().into_0rtt()
        send, recv = await early.accept_bi()
        await send.write_all((await recv.read_to_end(100)).upper())
        send.finish()
        assert await early.handshake_completed() is early
        assert early.remote_id == client.id
        return early

    serving = asyncio.create_task(serve())
    connecting = await client.connect_with(server.addr, ALPN)
    early = connecting.into_0rtt()
    assert early is not None
    assert early.remote_id == server.id
    send, recv = await early.open_bi()
    assert send.is_0rtt
    await send.write_all(b"early")
    send.finish()
    assert await recv.read_to_end(100) == b"EARLY"
    status = await early.handshake_completed()
    assert status.accepted
    assert status.connection is early
    assert early.was_resumed
    early.close()
    await (await serving).wait_closed()


async def test_0rtt_rejected_after_the_server_restarted(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    await _ticket(client, server)
    key, address = server.secret_key, server.bound_sockets
    await server.close()
    server = await bind(alpns=[ALPN], secret_key=key, bind_addrs=address)
    accepting = asyncio.create_task(server.accept())
    connecting = await client.connect_with(server.addr, ALPN)
    early = connecting.into_0rtt()
    assert early is not None
    send, recv = await early.open_bi()
    await send.write_all(b"early")
    incoming = await accepting
    assert incoming is not None
    accepted, status = await asyncio.gather(incoming, early.handshake_completed())
    assert not status.accepted
    with pytest.raises(ZeroRttRejected):
        await send.write_all(b"more")
    with pytest.raises(ZeroRttRejected):
        await recv.read()
    send, recv = await status.connection.open_bi()
    await send.write_all(b"again")
    other = await accepted.accept_bi()
    assert await other.recv.readexactly(5) == b"again"
    early.close()
    await accepted.wait_closed()


async def test_reprs_say_peer_state_and_bytes(pair: Pair) -> None:
    text = repr(pair.client)
    stats = pair.client.stats()
    for part in (
        f"{pair.client.remote_id:short}",
        "client",
        "open",
        f"{stats.udp_tx.bytes} bytes sent",
        f"{stats.udp_rx.bytes} received",
    ):
        assert part in text
    assert f"{pair.client_ep.id:short}" in repr(pair.client_ep)
    assert "open, 1 connections" in repr(pair.client_ep)
    pair.client.close()
    assert "closed" in repr(pair.client)
    assert "open, 0 connections" in repr(pair.client_ep)
