"""Datagrams to and from the real peer."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from iroh_fast import QuicTransportConfig
from iroh_fast.errors import ApplicationClosed, DatagramDisabled, DatagramTooLarge

from . import pattern
from .links import Link, Links
from .peer_client import PeerError

BATCH = 16  # in flight at a time: datagrams are unreliable, and sockets have small buffers


@pytest.fixture
async def link(links: Links, dials: bool) -> Link:
    link = await links.connect(dials)
    # Wait for the path's size to be found, which changes how large a datagram may be.
    async with asyncio.timeout(60):
        while link.ours.max_datagram_size != 1414 or await link.call("max_datagram_size") != 1414:
            await asyncio.sleep(0.02)
    return link


def sizes_up_to(limit: int) -> list[int]:
    small = [*range(70), 127, 128, 255, 256, 1199, 1200, 1201]
    return [*small, *range(300, limit - 20, 97), *range(limit - 20, limit + 1)]


async def test_real_echoes_every_size(link: Link) -> None:
    await link.call("echo")
    limit = link.ours.max_datagram_size
    assert limit is not None
    sizes = sizes_up_to(limit)
    for start in range(0, len(sizes), BATCH):
        sent = [pattern.data(size, size) for size in sizes[start : start + BATCH]]
        for data in sent:
            link.ours.send_datagram(data)
        got = [await link.ours.read_datagram() for _ in sent]
        assert Counter(got) == Counter(sent)


async def test_we_receive_every_size(link: Link) -> None:
    limit = await link.call("max_datagram_size")
    sizes = sizes_up_to(limit)
    for start in range(0, len(sizes), BATCH):
        batch = sizes[start : start + BATCH]
        await link.call("send_datagrams", seed=1000, sizes=batch)
        got = [await link.ours.read_datagram() for _ in batch]
        assert Counter(got) == Counter(pattern.data(1000 + size, size) for size in batch)


async def test_real_peer_receives_every_size(link: Link) -> None:
    limit = link.ours.max_datagram_size
    assert limit is not None
    sizes = sizes_up_to(limit)
    for start in range(0, len(sizes), BATCH):
        sent = [pattern.data(size, size) for size in sizes[start : start + BATCH]]
        reading = link.start("read_datagrams", count=len(sent))
        for data in sent:
            await link.ours.send_datagram_wait(data)
        assert Counter(map(tuple, await reading)) == Counter(
            (len(data), pattern.digest([data])) for data in sent
        )


async def test_one_byte_too_many(link: Link) -> None:
    limit = link.ours.max_datagram_size
    assert limit is not None
    with pytest.raises(DatagramTooLarge) as caught:
        link.ours.send_datagram(bytes(limit + 1))
    assert (caught.value.size, caught.value.max_size) == (limit + 1, limit)
    with pytest.raises(DatagramTooLarge):
        await link.ours.send_datagram_wait(bytes(limit + 1))
    with pytest.raises(PeerError, match="TooLarge"):
        await link.call("send_datagram", data=bytes(limit + 1).hex())


async def test_most_of_a_burst_arrives(link: Link) -> None:
    count = 2000
    for index in range(count):
        link.ours.send_datagram(index.to_bytes(4, "big") * 50)
    link.ours.send_datagram(b"end")
    received = 0
    async with asyncio.timeout(60):
        while (data := bytes.fromhex(await link.call("read_datagram"))) != b"end":
            assert data == data[:4] * 50
            received += 1
    assert count // 2 < received <= count


async def test_datagrams_beside_a_busy_stream(link: Link) -> None:
    theirs = await link.call("open_uni")
    sending = link.peer.start("send_pattern", send=theirs["send"], seed=1, size=20_000_000)
    recv = await link.ours.accept_uni()
    await link.call("echo")

    async def read() -> int:
        size = 0
        async for piece in recv:
            size += len(piece)
        return size

    reading = asyncio.create_task(read())
    answers = 0
    while not reading.done():
        link.ours.send_datagram(b"are you there?")
        try:
            async with asyncio.timeout(1.0):
                assert await link.ours.read_datagram() == b"are you there?"
            answers += 1
        except TimeoutError:  # lost under load, as datagrams may be
            pass
    assert answers > 0
    assert await reading == 20_000_000
    await sending


async def test_waiting_reader_learns_of_the_end(link: Link) -> None:
    reading = asyncio.create_task(link.ours.read_datagram())
    await asyncio.sleep(0.05)
    await link.call("close", code=3)
    with pytest.raises(ApplicationClosed):
        await reading
    with pytest.raises(ApplicationClosed):
        async for _ in link.ours.datagrams():
            pass


async def test_we_switch_datagrams_off(links: Links, dials: bool) -> None:
    link = await links.connect(
        dials, transport=QuicTransportConfig(datagram_receive_buffer_size=None)
    )
    assert await link.call("max_datagram_size") is None
    with pytest.raises(PeerError, match="(?i)unsupported|disabled"):
        await link.call("send_datagram", data="00")
    assert link.ours.max_datagram_size is None
    with pytest.raises(DatagramDisabled):
        link.ours.send_datagram(b"x")
