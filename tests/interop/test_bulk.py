"""Large transfers between us and the real peer, and key updates during them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from iroh_fast import Connection
from iroh_fast.errors import IrohError

from .links import V6, Link, Links, receive, send_pattern
from .peer_client import PeerProcess


async def push(link: Link, seed: int, size: int) -> None:
    """Send from us to the real peer and compare what arrived."""
    send = await link.ours.open_uni()
    sending = asyncio.create_task(send_pattern(send, seed, size))
    theirs = await link.call("accept_uni")
    got = await link.peer.call("receive", recv=theirs["recv"])
    assert (got["size"], got["hash"]) == (size, await sending)


async def pull(link: Link, seed: int, size: int) -> None:
    """Send from the real peer to us and compare what arrived."""
    theirs = await link.call("open_uni")
    sending = link.peer.start("send_pattern", send=theirs["send"], seed=seed, size=size)
    recv = await link.ours.accept_uni()
    assert await receive(recv) == (size, (await sending)["hash"])


@pytest.mark.limit(120)
async def test_bulk_to_the_real_peer(links: Links, dials: bool, bulk_size: int) -> None:
    await push(await links.connect(dials), 1, bulk_size)


@pytest.mark.limit(120)
async def test_bulk_from_the_real_peer(links: Links, dials: bool, bulk_size: int) -> None:
    await pull(await links.connect(dials), 2, bulk_size)


async def test_bulk_over_ipv6(links: Links, dials: bool, bulk_size: int) -> None:
    link = await links.connect(dials, bind=V6)
    await push(link, 5, bulk_size // 8)
    await pull(link, 6, bulk_size // 8)


@pytest.mark.limit(120)
async def test_bulk_both_ways_on_one_stream(links: Links, dials: bool, bulk_size: int) -> None:
    link = await links.connect(dials)
    size = bulk_size // 4
    send, recv = await link.ours.open_bi()
    sending = asyncio.create_task(send_pattern(send, 3, size))
    theirs = await link.call("accept_bi")
    answering = link.peer.start("send_pattern", send=theirs["send"], seed=4, size=size)
    receiving = link.peer.start("receive", recv=theirs["recv"])
    got = await receive(recv)
    assert got == (size, (await answering)["hash"])
    back = await receiving
    assert (back["size"], back["hash"]) == (size, await sending)


@pytest.mark.limit(120)
async def test_bulk_on_many_streams(links: Links, dials: bool, bulk_size: int) -> None:
    link = await links.connect(dials)
    size = bulk_size // 128
    sends = [await link.ours.open_uni() for _ in range(16)]
    sending = [asyncio.create_task(send_pattern(s, 5, size)) for s in sends]
    theirs = [await link.call("accept_uni") for _ in sends]
    got = await asyncio.gather(*(link.peer.call("receive", recv=their["recv"]) for their in theirs))
    for task, result in zip(sending, got, strict=True):
        assert (result["size"], result["hash"]) == (size, await task)


# --- key updates


@pytest.fixture
async def traced(tmp_path: Path) -> AsyncIterator[tuple[Links, Path]]:
    """A real peer whose log says what it does with its keys."""
    path = tmp_path / "peer.log"
    with path.open("wb") as log:
        async with await PeerProcess.launch(log) as process:
            links = Links(process)
            try:
                yield links, path
            finally:
                await links.close()


def count(path: Path, text: bytes) -> int:
    return len(re.findall(text, path.read_bytes()))


async def update_keys(conn: Connection) -> None:
    """Enter the next key phase as soon as the peer has followed into this one."""
    while True:
        try:
            conn._q.force_key_update()
            return
        except IrohError:
            await asyncio.sleep(0.01)


@pytest.mark.limit(60)
async def test_real_peer_follows_our_key_updates(traced: tuple[Links, Path], dials: bool) -> None:
    links, log = traced
    link = await links.connect(dials)
    rounds = 5
    for seed in range(rounds):
        await push(link, seed, 200_000)
        await update_keys(link.ours)
        await pull(link, seed, 200_000)

    async def update() -> None:  # in the middle of packets, not between transfers
        for _ in range(rounds):
            await update_keys(link.ours)

    updating = asyncio.create_task(update())
    while not updating.done():
        await asyncio.gather(push(link, 9, 2 * 2**20), pull(link, 10, 2 * 2**20))
    await updating
    await link.call("close")
    await link.ours.wait_closed()
    await links.peer.stop()
    assert count(log, b"key update authenticated") >= 2 * rounds


@pytest.mark.limit(60)
async def test_we_follow_key_updates_of_the_real_peer(
    traced: tuple[Links, Path], dials: bool
) -> None:
    links, log = traced
    link = await links.connect(dials)
    # The first update of the real peer comes after a random number of packets, at most a
    # thousand.
    await pull(link, 1, 16 * 2**20)
    await push(link, 2, 16 * 2**20)
    assert link.ours.close_reason is None
    await link.call("close")
    await link.ours.wait_closed()
    await links.peer.stop()
    assert count(log, b"executing key update") >= 1
