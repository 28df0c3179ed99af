"""Streams: reading, writing, ends, limits, cancellation and garbage collection."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from iroh_fast import BiStream, Connection, QuicTransportConfig, RecvStream, SendStream
from iroh_fast.errors import (
    ApplicationClosed,
    ConnectionLost,
    FinishedEarly,
    LocallyClosed,
    StreamClosed,
    StreamReset,
    StreamStopped,
    StreamTooLong,
)

from .conftest import ALPN, Bind, Pair, connect

MakePair = Callable[..., Awaitable[Pair]]


async def open_uni(pair: Pair, first: bytes = b"x") -> tuple[SendStream, RecvStream]:
    """A stream from client to server; `first` is sent, and read again."""
    send = await pair.client.open_uni()
    await send.write_all(first)
    recv = await pair.server.accept_uni()
    assert await recv.readexactly(len(first)) == first
    return send, recv


async def open_bi(pair: Pair) -> tuple[BiStream, BiStream]:
    stream = await pair.client.open_bi()
    await stream.send.write_all(b"x")
    other = await pair.server.accept_bi()
    assert await other.recv.readexactly(1) == b"x"
    return stream, other


# --- both ways


async def test_echo_over_a_bidirectional_stream(pair: Pair) -> None:
    async def echo() -> None:
        send, recv = await pair.server.accept_bi()
        async for chunk in recv:
            await send.write_all(chunk)
        send.finish()

    task = asyncio.create_task(echo())
    send, recv = await pair.client.open_bi()
    await send.write_all(b"Hello, world!")
    send.finish()
    assert await recv.read_to_end(1000) == b"Hello, world!"
    assert await send.stopped() is None
    await task


async def test_stream_ids_and_attributes(pair: Pair) -> None:
    mine, theirs = await open_bi(pair)
    assert mine.id == theirs.id == 0
    assert (mine.id.index, mine.id.initiator, mine.id.dir) == (0, "client", "bi")
    assert mine.connection is pair.client
    assert theirs.recv.connection is pair.server
    assert not mine.send.is_0rtt
    send = await pair.server.open_uni()
    assert (send.id, send.id.index, send.id.initiator, send.id.dir) == (3, 0, "server", "uni")
    assert "3" in repr(send)
    assert send.priority == 0
    send.priority = -7
    assert send.priority == -7


async def test_streams_are_accepted_in_order_of_their_ids(pair: Pair) -> None:
    opened = [await pair.client.open_uni() for _ in range(4)]
    await opened[2].write_all(b"third")
    ids = [(await pair.server.accept_uni()).id for _ in range(3)]
    assert ids == [send.id for send in opened[:3]]


async def test_large_transfer_arrives_intact_both_ways(pair: Pair) -> None:
    data = random.Random(7).randbytes(12_000_000)

    async def serve() -> None:
        send, recv = await pair.server.accept_bi()
        received = await recv.read_to_end(len(data))
        await send.write_all(memoryview(received))
        send.finish()
        await send.stopped()

    task = asyncio.create_task(serve())
    send, recv = await pair.client.open_bi()
    await send.write_all(data)
    send.finish()
    digest = hashlib.sha256()
    async for chunk in recv:
        assert chunk
        digest.update(chunk)
    assert digest.digest() == hashlib.sha256(data).digest()
    await task


# --- writing


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_write_all_takes_any_buffer_and_copies_mutable_ones(
    pair: Pair, kind: Callable[[bytes], bytes | bytearray | memoryview]
) -> None:
    data = bytes(range(256)) * 20
    buffer = kind(data)
    send, recv = await open_uni(pair)
    await send.write_all(buffer)
    if isinstance(buffer, bytearray):
        buffer[:] = bytes(len(buffer))
    send.finish()
    assert await recv.read_to_end(10_000) == data


async def test_write_all_counts_bytes_of_a_wide_memoryview(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    await send.write_all(memoryview(bytes(range(16))).cast("I"))
    await send.write_all(b"")
    assert await send.write(b"") == 0
    send.finish()
    assert await recv.read_to_end(100) == bytes(range(16))


async def test_writelines_sends_all_in_order(pair: Pair) -> None:
    parts: list[bytes | bytearray | memoryview] = [
        b"a" * 10,
        bytearray(b"b" * 3000),
        memoryview(b"c" * 2_000_000),
        b"",
        b"d",
    ]
    send, recv = await open_uni(pair)
    task = asyncio.create_task(recv.read_to_end(10_000_000))
    await send.writelines(parts)
    send.finish()
    assert await task == b"".join(parts)


async def test_write_blocks_at_the_stream_window_until_the_peer_reads(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(stream_receive_window=50_000))
    send, recv = await open_uni(pair)
    task = asyncio.create_task(send.write_all(bytes(200_000)))
    await asyncio.sleep(0.05)
    assert not task.done()
    assert await recv.readexactly(200_000) == bytes(200_000)
    await task


async def test_write_cancelled_has_sent_nothing(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(stream_receive_window=1000))
    send, recv = await open_uni(pair)
    sent = b""
    number = 0
    while True:
        number += 1
        piece = bytes([number % 256]) * 100
        try:
            async with asyncio.timeout(0.05):
                taken = await send.write(piece)
        except TimeoutError:
            break
        sent += piece[:taken]
    # The reader's window moves on only in larger steps, so one byte of it is used up.
    assert 999 <= len(sent) <= 1000
    send.finish()
    assert await recv.read_to_end(5000) == sent


async def test_write_after_finish_or_reset_raises(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    send.finish()
    with pytest.raises(StreamClosed):
        await send.write(b"x")
    with pytest.raises(StreamClosed):
        send.finish()
    assert await recv.read() == b""
    send, recv = await open_uni(pair)
    send.reset(5)
    with pytest.raises(StreamClosed):
        await send.write_all(b"x")
    with pytest.raises(StreamClosed):
        send.finish()
    with pytest.raises(StreamClosed):
        send.reset()
    assert await send.stopped() is None


@pytest.mark.parametrize("code", [-1, 2**62])
async def test_error_codes_out_of_range_raise_value_error(pair: Pair, code: int) -> None:
    send, recv = await open_uni(pair)
    for call in (send.reset, recv.stop, pair.client.close):
        with pytest.raises(ValueError):
            call(code)
    assert pair.client.close_reason is None


async def test_stop_reaches_the_writer(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    recv.stop(17)
    assert await send.stopped() == 17
    with pytest.raises(StreamStopped) as caught:
        await send.write(b"x")
    assert caught.value.code == 17
    send.finish()
    assert await recv.read() == b""
    assert await recv.read_to_end(10) == b""
    with pytest.raises(StreamClosed):
        recv.stop()


async def test_stop_wakes_a_blocked_writer(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(stream_receive_window=1000))
    send, recv = await open_uni(pair)
    task = asyncio.create_task(send.write_all(bytes(5000)))
    await asyncio.sleep(0.02)
    recv.stop(3)
    with pytest.raises(StreamStopped):
        await task


async def test_stopped_is_none_once_everything_is_acknowledged(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    waiting = asyncio.create_task(send.stopped())
    await send.write_all(b"data")
    await asyncio.sleep(0.02)
    assert not waiting.done()
    send.finish()
    assert await waiting is None
    assert await recv.read_to_end(10) == b"data"


async def test_stopped_survives_the_cancellation_of_another_waiter(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    first = asyncio.create_task(send.stopped())
    second = asyncio.create_task(send.stopped())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    recv.stop(9)
    assert await second == 9
    with pytest.raises(asyncio.CancelledError):
        await first


# --- reading


async def test_read_gives_what_is_there_then_the_end_again_and_again(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    await send.write_all(b"abcdef")
    assert await recv.read(4) == b"abcd"
    assert recv.bytes_read == 5
    assert await recv.read(0) == b""
    assert await recv.read() == b"ef"
    send.finish()
    assert [await recv.read() for _ in range(3)] == [b"", b"", b""]
    assert await recv.read_to_end(0) == b""
    assert await recv.read_chunk() is None
    assert [chunk async for chunk in recv] == []
    assert await recv.received_reset() is None
    with pytest.raises(ValueError):
        await recv.read(-1)


async def test_read_cancelled_loses_nothing(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await recv.read()
    await send.write_all(b"kept")
    assert await recv.read() == b"kept"


async def test_readinto_fills_the_callers_memory(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    data = random.Random(1).randbytes(100_000)
    await send.write_all(data)
    send.finish()
    target = bytearray(len(data) + 10)
    done = 0
    while taken := await recv.readinto(memoryview(target)[done:]):
        done += taken
    assert done == len(data)
    assert target[:done] == data
    assert await recv.readinto(target) == 0


async def test_readexactly_waits_for_all_of_it(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    task = asyncio.create_task(recv.readexactly(6))
    await send.write_all(b"abc")
    await asyncio.sleep(0.02)
    assert not task.done()
    await send.write_all(b"defghi")
    assert await task == b"abcdef"
    assert await recv.readexactly(0) == b""
    assert await recv.readexactly(3) == b"ghi"
    with pytest.raises(ValueError):
        await recv.readexactly(-1)


async def test_readexactly_on_a_short_stream_raises_finished_early(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    await send.write_all(b"abc")
    send.finish()
    with pytest.raises(FinishedEarly) as caught:
        await recv.readexactly(10)
    assert caught.value.partial == b"abc"
    assert caught.value.expected == 10
    assert isinstance(caught.value, asyncio.IncompleteReadError)
    with pytest.raises(FinishedEarly):
        await recv.readexactly(1)


async def test_readexactly_cancelled_keeps_the_bytes_for_any_next_read(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    await send.write_all(b"abc")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await recv.readexactly(10)
    assert recv.bytes_read == 1
    assert await recv.read(1) == b"a"
    assert recv.bytes_read == 2
    buffer = bytearray(1)
    assert await recv.readinto(buffer) == 1
    assert buffer == b"b"
    await send.write_all(b"defghijkl")
    assert await recv.readexactly(4) == b"cdef"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await recv.read_to_end(100)
    send.finish()
    assert await recv.readexactly(2) == b"gh"
    assert await recv.read_to_end(4) == b"ijkl"


async def test_read_to_end_within_and_above_the_limit(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    await send.write_all(b"12345")
    send.finish()
    assert await recv.read_to_end(5) == b"12345"
    send, recv = await open_uni(pair)
    await send.write_all(b"123456")
    with pytest.raises(StreamTooLong) as caught:
        await recv.read_to_end(5)
    assert caught.value.limit == 5
    with pytest.raises(StreamClosed):
        await recv.read()
    with pytest.raises(StreamClosed):
        await recv.read_to_end(5)
    assert await send.stopped() == 0


async def test_reset_reaches_the_reader_once_then_the_stream_is_closed(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    waiting = asyncio.create_task(recv.received_reset())
    await asyncio.sleep(0)
    send.reset(23)
    assert await waiting == 23
    with pytest.raises(StreamReset) as caught:
        await recv.read()
    assert caught.value.code == 23
    with pytest.raises(StreamClosed):
        await recv.read()
    assert await recv.received_reset() == 23


async def test_unordered_gives_every_byte_once(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    data = random.Random(3).randbytes(300_000)
    task = asyncio.create_task(send.write_all(data))
    result = bytearray(len(data) + 1)
    total = 0
    done = asyncio.create_task(_finish_after(task, send))
    async for offset, piece in recv.unordered():
        result[offset : offset + len(piece)] = piece
        total += len(piece)
    await done
    assert total == len(data)
    assert result[1:] == data


async def _finish_after(task: asyncio.Task[None], send: SendStream) -> None:
    await task
    send.finish()


async def test_reads_raise_when_the_connection_ends(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    reading = asyncio.create_task(recv.read())
    stopping = asyncio.create_task(send.stopped())
    resetting = asyncio.create_task(recv.received_reset())
    accepting = asyncio.create_task(pair.server.accept_bi())
    await asyncio.sleep(0)
    pair.client.close(3, b"gone")
    for task in (reading, resetting, accepting):
        with pytest.raises(ApplicationClosed) as caught:
            await task
        assert (caught.value.code, caught.value.reason) == (3, b"gone")
        assert caught.value.close_reason is pair.server.close_reason
    with pytest.raises(LocallyClosed):
        await stopping
    with pytest.raises(LocallyClosed):
        await send.write(b"x")


# --- context managers


async def test_leaving_a_stream_block_finishes_and_stops(pair: Pair) -> None:
    async with pair.client.open_bi() as (send, recv):
        await send.write_all(b"x")
        other = await pair.server.accept_bi()
    assert await other.recv.read_to_end(10) == b"x"
    assert await other.send.stopped() == 0
    with pytest.raises(StreamClosed):
        send.finish()
    assert await recv.read() == b""


async def test_leaving_a_stream_block_by_exception_resets(pair: Pair) -> None:
    with pytest.raises(KeyError):
        async with pair.client.open_uni() as send:
            await send.write_all(b"x")
            recv = await pair.server.accept_uni()
            await recv.readexactly(1)
            raise KeyError
    with pytest.raises(StreamReset) as caught:
        await recv.read()
    assert caught.value.code == 0


async def test_leaving_a_stream_block_after_finish_is_harmless(pair: Pair) -> None:
    async with pair.client.open_uni() as send:
        await send.write_all(b"x")
        send.finish()
    async with await pair.server.accept_uni() as recv:
        assert await recv.read_to_end(10) == b"x"
    assert await send.stopped() is None


async def test_open_can_be_a_task_or_gathered(pair: Pair) -> None:
    stream = await asyncio.create_task(pair.client.open_bi())
    assert isinstance(stream, BiStream)
    one, two = await asyncio.gather(pair.client.open_uni(), pair.client.open_uni())
    assert {one.id.index, two.id.index} == {0, 1}


# --- limits


async def test_open_waits_for_credit_first_come_first_served(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(max_concurrent_uni_streams=2))
    sends = [await pair.client.open_uni() for _ in range(2)]
    order: list[int] = []

    async def open_one(number: int) -> None:
        async with pair.client.open_uni() as send:
            order.append(number)
            await send.write_all(b"x")

    tasks = [asyncio.create_task(open_one(number)) for number in range(6)]
    await asyncio.sleep(0.02)
    assert order == []
    for send in sends:
        send.finish()
    for _ in range(8):
        recv = await pair.server.accept_uni()
        await recv.read_to_end(10)
    await asyncio.gather(*tasks)
    assert order == list(range(6))


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_open_cancelled_while_waiting_leaks_no_credit(
    make_pair: MakePair, turns: int
) -> None:
    pair = await make_pair(transport=QuicTransportConfig(max_concurrent_uni_streams=1))
    first = await pair.client.open_uni()
    waiting = [asyncio.create_task(pair.client.open_uni()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    first.finish()
    await (await pair.server.accept_uni()).read_to_end(0)
    # Whether the credit is under way, handed over or taken: whoever is cancelled leaves it to the next.
    for _ in range(turns):
        await asyncio.sleep(0)
    if not waiting[1].done():
        waiting[1].cancel()
        assert (await asyncio.wait_for(waiting[2], 60)).id.index == 1
    else:
        assert waiting[1].result().id.index == 1
        waiting[2].cancel()


async def test_open_raises_when_the_connection_ends(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(max_concurrent_bidi_streams=0))
    tasks = [asyncio.create_task(pair.client.open_bi()) for _ in range(3)]
    await asyncio.sleep(0.01)
    pair.server.close(4)
    for task in tasks:
        with pytest.raises(ApplicationClosed):
            await task
    with pytest.raises(ApplicationClosed):
        await pair.client.open_bi()


async def test_set_limits_lets_waiting_streams_open(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(max_concurrent_bidi_streams=0))
    task = asyncio.create_task(pair.client.open_bi())
    await asyncio.sleep(0.02)
    assert not task.done()
    pair.server.set_limits(bi=1, receive_window=100_000)
    assert (await task).id == 0
    with pytest.raises(ValueError):
        pair.server.set_limits(uni=-1)


async def test_many_requests_at_once_all_get_their_own_answer(pair: Pair) -> None:
    async def serve() -> None:
        async for send, recv in pair.server.bi_streams():
            await send.write_all((await recv.read_to_end(100)).upper())
            send.finish()

    async def request(number: int) -> None:
        send, recv = await pair.client.open_bi()
        await send.write_all(b"request %d" % number)
        send.finish()
        assert await recv.read_to_end(100) == b"REQUEST %d" % number

    task = asyncio.create_task(serve())
    await asyncio.gather(*(request(number) for number in range(1000)))
    pair.client.close()
    await task


# --- iterators


async def test_stream_iterators_end_on_graceful_close_and_raise_on_others(
    make_pair: MakePair,
) -> None:
    async def count(conn: Connection, **options: bool) -> int:
        return len([item async for item in conn.uni_streams(**options)])

    pair = await make_pair()
    tasks = [
        asyncio.create_task(count(pair.client)),
        asyncio.create_task(count(pair.server)),
    ]
    strict = asyncio.create_task(count(pair.server, raise_on_close=True))
    async with pair.client.open_uni() as send:
        await send.write_all(b"x")
    await asyncio.sleep(0.02)
    pair.client.close(0, b"done")
    assert await tasks[0] == 0
    assert await tasks[1] <= 1
    with pytest.raises(ApplicationClosed):
        await strict
    pair = await make_pair()
    task = asyncio.create_task(count(pair.server))
    await asyncio.sleep(0)
    pair.client.close(1)
    with pytest.raises(ApplicationClosed):
        await task


# --- lifetimes


async def test_dropped_send_stream_does_not_look_complete(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    await send.write_all(b"data")
    del send
    gc.collect()
    with pytest.raises(StreamReset) as caught:
        await recv.read_to_end(10)
    assert caught.value.code == 0


async def test_dropped_recv_stream_stops_the_peer(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    del recv
    gc.collect()
    assert await send.stopped() == 0


async def test_dropped_recv_stream_after_all_data_lets_the_peer_finish(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    await send.write_all(b"data")
    send.finish()
    assert await recv.read_to_end(10) == b"data"
    del recv
    gc.collect()
    assert await send.stopped() is None


async def test_stream_keeps_its_connection_open(bind: Bind) -> None:
    server_ep, client_ep = await bind(alpns=[ALPN]), await bind()
    client, server = await connect(client_ep, server_ep)
    stream = await client.open_bi()
    await stream.send.write_all(b"x")
    other = await server.accept_bi()
    weak = client.weak()
    del client
    await asyncio.sleep(0)  # lets go of what the event loop still holds
    gc.collect()
    await other.send.write_all(b"still here")
    assert await stream.recv.read() == b"still here"
    assert weak.upgrade() is stream.connection
    with pytest.warns(ResourceWarning, match="unclosed <Connection"):
        del stream
        gc.collect()
    assert weak.upgrade() is None
    reason = await server.wait_closed()
    assert (reason.kind, reason.code, reason.reason) == ("application", 0, b"")
    closed = await weak.closed()
    assert closed.reason.kind == "locally_closed"
    assert closed.stats.udp_tx.datagrams > 0


async def test_dropped_connection_closes_and_warns(bind: Bind) -> None:
    server_ep, client_ep = await bind(alpns=[ALPN]), await bind()
    client, server = await connect(client_ep, server_ep)
    await asyncio.sleep(0)  # lets go of what the event loop still holds
    with pytest.warns(ResourceWarning, match="unclosed <Connection"):
        del client
        gc.collect()
    reason = await server.wait_closed()
    assert (reason.kind, reason.code) == ("application", 0)
    with pytest.raises(ConnectionLost):
        await server.open_bi()


async def test_connection_collected_by_another_thread_closes(bind: Bind) -> None:
    server_ep, client_ep = await bind(alpns=[ALPN]), await bind()
    client, server = await connect(client_ep, server_ep)
    client._warn = False
    await asyncio.sleep(0)
    held = [client]
    del client
    await asyncio.to_thread(held.clear)
    assert (await server.wait_closed()).kind == "application"


async def test_tasks_that_nobody_else_refers_to_go_on_waiting(make_pair: MakePair) -> None:
    pair = await make_pair()
    got: list[Any] = []

    async def reader() -> None:
        send, recv = await pair.client.open_bi()
        await send.write_all(b"q")
        got.append(await recv.read_to_end(100))

    async def stopped() -> None:
        send = await pair.client.open_uni()
        await send.write_all(b"q")
        got.append(await send.stopped())

    for task in (reader,) * 5 + (stopped,) * 5:
        asyncio.ensure_future(task())  # noqa: RUF006
    await asyncio.sleep(0.05)
    gc.collect()
    for _ in range(5):
        stream = await pair.server.accept_bi()
        await stream.send.write_all(b"answer")
        stream.send.finish()
        (await pair.server.accept_uni()).stop(7)
    async with asyncio.timeout(60):
        while len(got) < 10:
            await asyncio.sleep(0.01)
    assert sorted(got, key=str) == [7] * 5 + [b"answer"] * 5


async def test_cancelling_one_waiter_leaves_the_other(make_pair: MakePair) -> None:
    pair = await make_pair()
    send = await pair.client.open_uni()
    await send.write_all(b"x")
    recv = await pair.server.accept_uni()
    assert await recv.read(1) == b"x"
    calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        send.stopped,
        recv.read,
        recv.received_reset,
        pair.client.accept_bi,
        pair.client.read_datagram,
        pair.client.wait_closed,
    ]
    for call in calls:
        first, second = (asyncio.create_task(call()) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        assert first.cancelled()
        assert not second.done()
        second.cancel()
    await asyncio.sleep(0)


async def test_stopped_returns_after_an_acknowledged_reset(make_pair: MakePair) -> None:
    pair = await make_pair()
    send = await pair.client.open_uni()
    await send.write_all(b"x")
    recv = await pair.server.accept_uni()
    send.reset(3)
    with pytest.raises(StreamReset):
        while await recv.read():
            pass
    await asyncio.sleep(0.05)
    assert await asyncio.wait_for(send.stopped(), 60) is None


async def test_concurrent_writes_are_not_torn(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(send_window=60_000))
    send, recv = await open_uni(pair)

    async def write(letter: bytes, how: int) -> None:
        for _ in range(10):
            if how == 0:
                await send.write_all(letter * 30_000)
            else:
                await send.writelines([letter * 10_000, letter * 15_000, letter * 5_000])
            for _ in range(how):
                await asyncio.sleep(0)

    writers = [asyncio.create_task(write(bytes([97 + k]), k % 3)) for k in range(4)]
    runs: list[tuple[int, int]] = []
    left = 4 * 10 * 30_000
    while left:
        data = await recv.read(7_000)
        left -= len(data)
        for letter, part in itertools.groupby(data):
            n = sum(1 for _ in part)
            if runs and runs[-1][0] == letter:
                runs[-1] = (letter, runs[-1][1] + n)
            else:
                runs.append((letter, n))
        await asyncio.sleep(0)
    await asyncio.gather(*writers)
    assert all(n % 30_000 == 0 for _, n in runs)


async def test_cancelling_a_writer_lets_the_next_one_go_on(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(stream_receive_window=100_000))
    send, recv = await open_uni(pair)
    first, second, third = (
        asyncio.create_task(send.write_all(bytes([k]) * 200_000)) for k in range(3)
    )
    await asyncio.sleep(0.02)
    second.cancel()
    first.cancel()
    data = bytearray()
    while not third.done() or len(data) < data.count(0) + 200_000:
        data += await asyncio.wait_for(recv.read(), 60)
    await third
    assert data.count(1) == 0
    assert data == bytes(data.count(0)) + b"\2" * 200_000
    assert await send.write(b"free") == 4


async def test_cancelled_writer_passes_the_room_to_another_stream(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(send_window=40_000))
    sends = [(await open_uni(pair)) for _ in range(12)]
    tasks = [asyncio.create_task(send.write_all(bytes(100_000))) for send, _ in sends]
    readers = [asyncio.create_task(recv.read_to_end(200_000)) for _, recv in sends]
    await asyncio.sleep(0)
    for k in (0, 1, 2, 5, 7, 11):
        await asyncio.sleep(0.001)
        tasks[k].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    for (send, _), result in zip(sends, done):
        if result is None:
            send.finish()
        else:
            send.reset(0)
    got = await asyncio.gather(*readers, return_exceptions=True)
    for result, data in zip(done, got):
        assert isinstance(data, StreamReset) if result else data == bytes(100_000)
    assert sum(result is None for result in done) >= 6


async def test_readinto_of_nothing_returns_at_once(pair: Pair) -> None:
    _, recv = await open_uni(pair)
    assert await asyncio.wait_for(recv.readinto(bytearray()), 1) == 0


async def test_readinto_exactly(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    data = random.Random(1).randbytes(300_000)
    buffer = bytearray(200_000)
    task = asyncio.create_task(recv.readinto_exactly(buffer))
    await send.write_all(data[:50_000])
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await send.write_all(data[50_000:])
    send.finish()
    await recv.readinto_exactly(buffer)
    assert buffer == data[:200_000]
    with pytest.raises(FinishedEarly) as caught:
        await recv.readinto_exactly(buffer)
    assert caught.value.partial == data[200_000:]
    await recv.readinto_exactly(bytearray())


async def test_write_without_a_copy_pins_the_buffer(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    data = bytearray(random.Random(2).randbytes(100_000))
    kept = bytes(data)
    await send.write_all(data, copy=False)
    with pytest.raises(BufferError):
        data.append(1)
    send.finish()
    assert await recv.read_to_end(100_000) == kept
    assert await send.stopped() is None
    data.append(1)


async def test_errors_of_streams_are_those_of_sockets(pair: Pair) -> None:
    send, recv = await open_uni(pair)
    recv.stop(4)
    with pytest.raises(BrokenPipeError):
        while True:
            await send.write_all(b"more")
            await asyncio.sleep(0.001)
    send, recv = await open_uni(pair)
    send.reset(5)
    with pytest.raises(ConnectionResetError):
        while True:
            await recv.read()


async def test_reprs_say_peer_state_and_bytes(pair: Pair) -> None:
    ours, theirs = await open_bi(pair)
    await ours.send.write_all(b"abc")
    assert await theirs.recv.readexactly(3) == b"abc"
    peer = f"{pair.client.remote_id:short}"
    assert repr(ours.send) == f"<SendStream 0 to {peer} ready 4 bytes>"
    assert repr(ours.recv) == f"<RecvStream 0 from {peer} open 0 bytes>"
    assert repr(ours) == f"<BiStream 0 with {peer} ready 4 bytes out 0 in>"
    assert "open 4 bytes" in repr(theirs.recv)


async def test_cancelled_datagram_senders_take_nobody_elses_place(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(datagram_send_buffer_size=3_000))
    chance = random.Random(5)
    tasks = [
        asyncio.create_task(pair.client.send_datagram_wait(bytes([k]) * 1_000)) for k in range(120)
    ]
    received: list[int] = []

    async def read() -> None:
        async for data in pair.server.datagrams():
            received.append(data[0])

    reader = asyncio.create_task(read())
    for _ in range(60):
        await asyncio.sleep(0)
        tasks[chance.randrange(len(tasks))].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    sent = [k for k, result in enumerate(done) if result is None]
    assert 50 < len(sent) < 120
    async with asyncio.timeout(60):
        while not set(sent) <= set(received):
            await asyncio.sleep(0.005)
    assert len(received) == len(set(received))
    reader.cancel()


@pytest.mark.parametrize("way", ["readexactly", "read_to_end", "readinto_exactly"])
async def test_cancelled_reader_leaves_what_it_had_to_the_next(pair: Pair, way: str) -> None:
    """What one task had gathered is for the next one, which gets it at once and no more of it."""
    send, recv = await pair.client.open_bi()
    await send.write_all(b"?")
    answer, _ = await pair.server.accept_bi()

    async def gather() -> object:
        if way == "readexactly":
            return await recv.readexactly(100)
        if way == "read_to_end":
            return await recv.read_to_end(100)
        return await recv.readinto_exactly(bytearray(100))

    first = asyncio.create_task(gather())
    second = asyncio.create_task(recv.readexactly(10))
    third = asyncio.create_task(recv.read(5))
    fourth = asyncio.create_task(recv.readexactly(15))
    await answer.write_all(bytes(range(20)))
    while recv._q.bytes_read < 20:  # the first task has all of it
        await asyncio.sleep(0)
    assert not any(task.done() for task in (first, second, third, fourth))
    first.cancel()
    assert await second == bytes(range(10))
    assert await third == bytes(range(10, 15))
    await answer.write_all(bytes(range(20, 30)))
    assert await fourth == bytes(range(15, 30))
    assert recv.bytes_read == 30


async def test_readers_at_the_same_time_tear_nothing(pair: Pair) -> None:
    send, recv = await pair.client.open_bi()
    await send.write_all(b"?")
    answer, _ = await pair.server.accept_bi()
    got: list[int] = []

    async def reader() -> None:
        for _ in range(25):
            got.append(int(await recv.readexactly(10)))

    tasks = [asyncio.create_task(reader()) for _ in range(4)]
    data = b"".join(b"%010d" % number for number in range(100))
    for start in range(0, len(data), 7):
        await answer.write_all(data[start : start + 7])
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert got == list(range(100))
