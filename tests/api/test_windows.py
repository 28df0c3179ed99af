"""Windows and the budget of an endpoint, as options, statistics and metrics show them.

That and how far they grow is tested with the simulator's clock, in ``tests/quic/test_windows.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from iroh_fast import QuicTransportConfig, RecvStream, SendStream

from .conftest import Pair

MakePair = Callable[..., Awaitable[Pair]]

FIRST, MOST = 5_000, 80_000
growing = QuicTransportConfig(stream_receive_window=FIRST, max_stream_receive_window=MOST)


async def stream(pair: Pair) -> tuple[SendStream, RecvStream]:
    send = await pair.client.open_uni()
    await send.write_all(b"x")
    recv = await pair.server.accept_uni()
    assert await recv.readexactly(1) == b"x"
    return send, recv


async def test_window_that_was_set_stays_however_fast_the_reader_is(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(stream_receive_window=FIRST))
    send, recv = await stream(pair)
    size = 400 * FIRST
    task = asyncio.create_task(send.write_all(bytes(size)))
    assert len(await recv.readexactly(size)) == size
    await task
    assert recv.receive_window == pair.server.stats().stream_receive_window == FIRST
    assert pair.server.stats().window_growth == 0


async def test_endpoint_without_window_budget_goes_on_with_the_first_windows(
    make_pair: MakePair,
) -> None:
    pair = await make_pair(transport=growing, window_budget=0)
    send, recv = await stream(pair)
    size = 400 * FIRST
    task = asyncio.create_task(send.write_all(bytes(size)))
    assert len(await recv.readexactly(size)) == size
    await task
    assert recv.receive_window == FIRST
    for ep in (pair.client_ep, pair.server_ep):
        assert ep.metrics.snapshot()["socket:window_budget"] == 0
        assert ep.metrics.snapshot()["socket:window_budget_used"] == 0


async def test_default_windows_begin_as_those_of_iroh(pair: Pair) -> None:
    send, recv = await stream(pair)
    assert recv.receive_window == 1_250_000
    task = asyncio.create_task(send.write_all(bytes(3_000_000)))
    while recv._q.readable < 1_249_999:  # the byte that was read is not given back yet
        await asyncio.sleep(0.01)
    # Nobody reads: that is all that comes.
    assert pair.client.stats().send_window >= 1 << 20
    assert not task.done()
    assert recv.receive_window == 1_250_000
    assert pair.server.stats().window_growth == 0
    assert pair.server.stats().stream_receive_window == 1_250_000
    snapshot = pair.server_ep.metrics.snapshot()
    assert snapshot["socket:window_budget"] == 256 << 20
    assert snapshot["socket:window_budget_used"] == 0
    assert f"\nsocket_window_budget {256 << 20}\n" in pair.server_ep.metrics.openmetrics()
    assert len(await recv.readexactly(3_000_000)) == 3_000_000
    await task


async def test_stats_tell_what_is_kept_for_sending(make_pair: MakePair) -> None:
    pair = await make_pair(transport=QuicTransportConfig(send_window=30_000))
    send, recv = await stream(pair)
    while pair.client.stats().send_buffered:
        await asyncio.sleep(0.01)
    assert pair.client.stats().send_window == 30_000
    assert await send.write(bytes(100_000)) <= 30_000
    assert 0 < pair.client.stats().send_buffered <= 30_000
