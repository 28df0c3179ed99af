"""Streams to and from the real peer."""

from __future__ import annotations

import asyncio
import random
import statistics
import time

import pytest

from iroh_fast import Connection
from iroh_fast.errors import StreamClosed, StreamReset, StreamStopped

from . import pattern
from .links import Link, Links, echo_bi, receive, send_pattern
from .peer_client import PeerError

STREAM_WINDOW = 1_250_000  # of both implementations, per stream
MAX_CODE = 2**62 - 1


@pytest.fixture
async def link(links: Links, dials: bool) -> Link:
    return await links.connect(dials)


SIZES = [0, 1, 1199, 65_536, STREAM_WINDOW + 1, 5_000_000]


@pytest.mark.parametrize("size", SIZES)
async def test_real_echoes_our_bi_stream(link: Link, size: int) -> None:
    await link.call("echo")
    send, recv = await link.ours.open_bi()
    sending = asyncio.create_task(send_pattern(send, size, size))
    got = await receive(recv)
    assert got == (size, await sending)
    assert recv.bytes_read == size


@pytest.mark.parametrize("size", SIZES)
async def test_we_echo_a_bi_stream_of_the_real_peer(link: Link, size: int) -> None:
    echoing = asyncio.create_task(echo_bi(link.ours))
    assert await link.call("echo_client", streams=1, size=size, seed=size) == 1
    link.ours.close()
    await echoing


@pytest.mark.parametrize("size", SIZES)
async def test_uni_streams_both_ways(link: Link, size: int) -> None:
    await link.call("echo")  # answers a stream with another one
    send = await link.ours.open_uni()
    sending = asyncio.create_task(send_pattern(send, 7, size))
    recv = await link.ours.accept_uni()
    assert await receive(recv) == (size, await sending)


async def test_many_small_writes_keep_their_order(link: Link) -> None:
    rng = random.Random(1)
    send = await link.ours.open_uni()
    data = pattern.data(3, 300_000)

    async def write() -> None:
        offset = 0
        while offset < len(data):
            n = rng.choice((1, 2, 3, 17, 100, 1200, 1453))
            await send.write_all(data[offset : offset + n])
            offset += n
            if rng.random() < 0.02:
                await asyncio.sleep(0)
        send.finish()

    writing = asyncio.create_task(write())
    theirs = await link.call("accept_uni")
    got = await link.peer.call("receive", recv=theirs["recv"])
    await writing
    assert (got["size"], got["hash"]) == (len(data), pattern.digest([data]))


async def test_bytearray_may_change_after_the_write(link: Link) -> None:
    send = await link.ours.open_uni()
    buffer = bytearray(pattern.data(4, 200_000))
    expected = pattern.digest([bytes(buffer)])
    await send.write_all(buffer)
    buffer[:] = bytes(len(buffer))
    send.finish()
    theirs = await link.call("accept_uni")
    got = await link.peer.call("receive", recv=theirs["recv"])
    assert (got["size"], got["hash"]) == (200_000, expected)


async def test_two_hundred_streams_of_ours_at_once(link: Link) -> None:
    await link.call("echo")

    async def one(index: int) -> bool:
        data = pattern.data(index, 20_000 + index)
        send, recv = await link.ours.open_bi()
        await send.write_all(data)
        send.finish()
        return await recv.read_to_end(30_000) == data

    assert all(await asyncio.gather(*map(one, range(200))))


async def test_two_hundred_streams_of_the_real_peer_at_once(link: Link) -> None:
    echoing = asyncio.create_task(echo_bi(link.ours))
    assert await link.call("echo_client", streams=200, size=20_000, seed=50) == 200
    link.ours.close()
    await echoing


async def test_both_sides_open_many_streams(link: Link) -> None:
    echoing = asyncio.create_task(echo_bi(link.ours))
    theirs = link.start("echo_client", streams=150, size=30_000, seed=9)
    await link.call("echo")

    async def one(index: int) -> bool:
        data = pattern.data(index, 30_000)
        send = await link.ours.open_uni()
        await send.write_all(data)
        send.finish()
        recv = await link.ours.accept_uni()
        return len(await recv.read_to_end(30_000)) == 30_000

    assert all(await asyncio.gather(*map(one, range(150))))
    assert await theirs == 150
    link.ours.close()
    await echoing


async def test_later_stream_makes_the_earlier_one_acceptable(link: Link) -> None:
    first, _ = await link.ours.open_bi()
    second, _ = await link.ours.open_bi()
    await second.write_all(b"second")
    ids = [
        await link.peer.call("stream_id", stream=(await link.call("accept_bi"))["recv"])
        for _ in range(2)
    ]
    assert len(set(ids)) == 2
    assert second.id == first.id + 4

    theirs = [await link.call("open_bi") for _ in range(2)]
    await link.peer.call("write", send=theirs[1]["send"], data=b"second".hex())
    one = await link.ours.accept_bi()
    two = await link.ours.accept_bi()
    assert two.id == one.id + 4
    assert one.id.initiator != first.id.initiator
    assert await two.recv.readexactly(6) == b"second"


# --- limits and flow control


async def opened(conn: Connection, seconds: float = 0.3) -> bool:
    """Tell whether a stream can be opened soon."""
    try:
        async with asyncio.timeout(seconds):
            await conn.open_bi()
    except TimeoutError:
        return False
    return True


async def test_real_peer_limits_our_streams(link: Link) -> None:
    streams = []
    for _ in range(100):
        stream = await link.ours.open_bi()
        await stream.send.write_all(b"x")
        streams.append(stream)
    assert not await opened(link.ours)
    theirs = [await link.call("accept_bi") for _ in range(100)]
    for stream, their in zip(streams[:50], theirs[:50], strict=True):
        stream.send.finish()
        await link.peer.call("finish", send=their["send"])
        assert await link.peer.call("read_to_end", recv=their["recv"]) == b"x".hex()
        assert await stream.recv.read_to_end(0) == b""
    # INTEROP: the real peer returns credit when an eighth of the limit has been used.
    for _ in range(50 - 100 // 8):
        assert await opened(link.ours, 5.0)


async def test_we_limit_streams_of_the_real_peer(link: Link) -> None:
    theirs = []
    for _ in range(100):
        their = await link.call("open_bi")
        await link.peer.call("write", send=their["send"], data="78")
        theirs.append(their)
    blocked = link.start("open_bi")
    done, _ = await asyncio.wait({blocked}, timeout=0.3)
    assert not done
    ours = [await link.ours.accept_bi() for _ in range(100)]
    for stream, their in zip(ours, theirs, strict=True):
        await link.peer.call("finish", send=their["send"])
        assert await stream.recv.read_to_end(1) == b"x"
        stream.send.finish()
        assert await link.peer.call("read_to_end", recv=their["recv"]) == ""
    await blocked
    for _ in range(60):
        await link.call("open_bi")


async def test_raising_limits_of_a_live_connection(link: Link) -> None:
    link.ours.set_limits(uni=150)
    for index in range(150):
        their = await link.call("open_uni")
        await link.peer.call("write", send=their["send"], data=f"{index:02x}")
    for index in range(150):
        recv = await link.ours.accept_uni()
        assert await recv.read(10) == bytes([index])
    await link.call("limits", bi=120)
    for _ in range(120):
        await link.ours.open_bi()


async def test_real_peer_that_never_reads_blocks_us(link: Link) -> None:
    send = await link.ours.open_uni()
    sending = asyncio.create_task(send_pattern(send, 5, 3_000_000))
    theirs = await link.call("accept_uni")
    done, _ = await asyncio.wait({sending}, timeout=0.5)
    assert not done or sending.result()  # all of it may fit into our send buffer
    before = link.ours.stats().udp_tx.bytes
    assert before < STREAM_WINDOW * 1.2
    got = await link.peer.call("receive", recv=theirs["recv"])
    assert (got["size"], got["hash"]) == (3_000_000, await sending)


async def test_we_who_never_read_block_the_real_peer(link: Link) -> None:
    theirs = await link.call("open_uni")
    sending = link.peer.start("send_pattern", send=theirs["send"], seed=5, size=30_000_000)
    recv = await link.ours.accept_uni()
    done, _ = await asyncio.wait({sending}, timeout=0.5)
    assert not done
    assert link.ours.stats().udp_rx.bytes < STREAM_WINDOW * 1.2
    # Another stream gets through meanwhile.
    await link.call("echo")
    other, back = await link.ours.open_bi()
    await other.write_all(b"still there?")
    other.finish()
    assert await back.read_to_end(100) == b"still there?"
    got = await receive(recv)
    assert got == (30_000_000, (await sending)["hash"])


# --- ending streams


async def test_stopped_tells_that_everything_arrived(link: Link) -> None:
    send = await link.ours.open_uni()
    await send.write_all(b"to the end")
    send.finish()
    assert await send.stopped() is None
    with pytest.raises(StreamClosed):
        send.finish()

    theirs = await link.call("open_uni")
    await link.peer.call("write", send=theirs["send"], data=b"abc".hex())
    await link.peer.call("finish", send=theirs["send"])
    assert await link.peer.call("stopped", send=theirs["send"]) is None
    recv = await link.ours.accept_uni()
    assert await recv.read_to_end(3) == b"abc"
    assert await recv.read() == b""


@pytest.mark.parametrize("code", [0, 77, MAX_CODE])
async def test_real_peer_stops_our_stream(link: Link, code: int) -> None:
    send, recv = await link.ours.open_bi()
    await send.write_all(b"anybody?")
    theirs = await link.call("accept_bi")
    waiting = asyncio.create_task(send.stopped())
    await link.peer.call("stop", recv=theirs["recv"], code=code)
    assert await waiting == code
    with pytest.raises(StreamStopped) as caught:
        await send.write_all(b"more")
    assert caught.value.code == code
    # The other half still works.
    await link.peer.call("write", send=theirs["send"], data=b"yes".hex())
    await link.peer.call("finish", send=theirs["send"])
    assert await recv.read_to_end(10) == b"yes"


async def test_stop_wakes_a_blocked_writer(link: Link) -> None:
    send = await link.ours.open_uni()
    writing = asyncio.create_task(send_pattern(send, 1, 50_000_000))
    theirs = await link.call("accept_uni")
    await asyncio.sleep(0.2)
    await link.peer.call("stop", recv=theirs["recv"], code=5)
    with pytest.raises(StreamStopped) as caught:
        await writing
    assert caught.value.code == 5


@pytest.mark.parametrize("code", [0, 78, MAX_CODE])
async def test_we_stop_a_stream_of_the_real_peer(link: Link, code: int) -> None:
    theirs = await link.call("open_bi")
    await link.peer.call("write", send=theirs["send"], data="00")
    send, recv = await link.ours.accept_bi()
    waiting = link.peer.start("stopped", send=theirs["send"])
    recv.stop(code)
    assert await waiting == code
    with pytest.raises(PeerError, match=rf"Stopped\({code}\)"):
        await link.peer.call("write", send=theirs["send"], data="00")
    assert await recv.read() == b""
    await send.write_all(b"bye")
    send.finish()
    assert await link.peer.call("read_to_end", recv=theirs["recv"]) == b"bye".hex()


@pytest.mark.parametrize("code", [0, 79, MAX_CODE])
async def test_real_peer_resets_its_stream(link: Link, code: int) -> None:
    theirs = await link.call("open_bi")
    await link.peer.call("write", send=theirs["send"], data=b"begin".hex())
    send, recv = await link.ours.accept_bi()
    assert await recv.readexactly(5) == b"begin"
    reading = asyncio.create_task(recv.read())
    await link.peer.call("reset", send=theirs["send"], code=code)
    with pytest.raises(StreamReset) as caught:
        await reading
    assert caught.value.code == code
    assert await recv.received_reset() == code
    with pytest.raises(StreamClosed):
        await recv.read()
    await send.write_all(b"ok")
    send.finish()
    assert await link.peer.call("read_to_end", recv=theirs["recv"]) == b"ok".hex()


@pytest.mark.parametrize("code", [0, 80, MAX_CODE])
async def test_we_reset_our_stream(link: Link, code: int) -> None:
    send, recv = await link.ours.open_bi()
    await send.write_all(b"begin")
    theirs = await link.call("accept_bi")
    assert await link.peer.call("read_exact", recv=theirs["recv"], size=5) == b"begin".hex()
    reading = link.peer.start("read", recv=theirs["recv"], size=5)
    await asyncio.sleep(0.05)
    send.reset(code)
    with pytest.raises(PeerError, match=rf"Reset\({code}\)"):
        await reading
    with pytest.raises(StreamClosed):
        await send.write_all(b"more")
    await link.peer.call("write", send=theirs["send"], data=b"ok".hex())
    await link.peer.call("finish", send=theirs["send"])
    assert await recv.read_to_end(10) == b"ok"


async def test_reset_in_the_middle_of_a_transfer(link: Link) -> None:
    send = await link.ours.open_uni()
    writing = asyncio.create_task(send_pattern(send, 1, 50_000_000))
    theirs = await link.call("accept_uni")
    await asyncio.sleep(0.1)
    writing.cancel()
    await asyncio.wait({writing})
    send.reset(9)
    with pytest.raises(PeerError, match=r"Reset\(9\)"):
        await link.peer.call("receive", recv=theirs["recv"])
    # What was in flight does not count against the connection.
    send = await link.ours.open_uni()
    sending = asyncio.create_task(send_pattern(send, 2, 3_000_000))
    theirs = await link.call("accept_uni")
    got = await link.peer.call("receive", recv=theirs["recv"])
    assert got["hash"] == await sending


async def test_dropped_handles_end_streams(link: Link) -> None:
    send, recv = await link.ours.open_bi()
    await send.write_all(b"last words")
    theirs = await link.call("accept_bi")
    del send  # not finished: it must not look complete
    with pytest.raises(PeerError, match=r"Reset\(0\)"):
        await link.peer.call("read_to_end", recv=theirs["recv"])
    del recv
    assert await link.peer.call("stopped", send=theirs["send"]) == 0

    theirs = await link.call("open_bi")
    await link.peer.call("write", send=theirs["send"], data=b"last words".hex())
    ours = await link.ours.accept_bi()
    await link.peer.call("drop", handle=theirs["send"])  # the real peer finishes
    assert await ours.recv.read_to_end(100) == b"last words"
    await link.peer.call("drop", handle=theirs["recv"])
    assert await ours.send.stopped() == 0


async def test_round_trip_time_at_light_load(link: Link) -> None:
    """The real peer acknowledges our acknowledgements too, late: that must not count as time on the path."""
    await link.call("echo")
    send, recv = await link.ours.open_bi()
    took: list[float] = []

    async def measure(count: int) -> float:
        for _ in range(count):
            start = time.perf_counter()
            await send.write_all(b"ping" * 16)
            await recv.readexactly(64)
            took.append(time.perf_counter() - start)
            await asyncio.sleep(0.03)  # longer than acknowledgements are held back
        return statistics.median(took)

    # A busy machine disturbs the estimate for a while, the fault would do it for ever.
    quick = await measure(60)
    async with asyncio.timeout(60):
        while link.ours.rtt >= 8 * quick:
            quick = await measure(10)
