"""Connections with the real peer over a network that loses, repeats and delays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from iroh_fast import QuicTransportConfig
from iroh_fast.errors import StatelessReset

from .links import ALPN, Link, Links, known_ways_only
from .proxy import Policy, Proxy, forward
from .test_bulk import pull, push
from .test_handshake import assert_alive

Through = Callable[..., Awaitable[tuple[Link, Proxy]]]


@pytest.fixture
async def through(links: Links, dials: bool) -> AsyncIterator[Through]:
    """Make connections that go through a proxy."""
    proxies = []

    async def make(
        policy: Policy = forward, transport: QuicTransportConfig | None = None
    ) -> tuple[Link, Proxy]:
        ours = await links.our_endpoint(transport=known_ways_only(transport))
        real = await links.real_endpoint()
        if dials:
            proxy = await Proxy.to(real.sockets[0])
        else:
            proxy = await Proxy.to(str(ours.bound_sockets[0]))
        proxies.append(proxy)
        proxy.policy = policy
        if dials:
            accepting = real.start("accept")
            conn = await ours.connect(type(real.addr)(real.id, ip_addrs=[proxy.address]), ALPN)
            facts = await accepting
        else:
            dialling = real.dial(ours, sockets=[proxy.address])
            incoming = await ours.accept()
            assert incoming is not None
            conn = await incoming
            facts = await dialling
        return links.link(conn, facts), proxy

    yield make
    await links.close()
    for proxy in proxies:
        proxy.close()


def bad_network(seed: int, loss: float = 0.02, other: float = 0.02) -> Policy:
    """Lose, repeat, delay and garble some datagrams."""
    rng = random.Random(seed)

    def policy(data: bytes, to_server: bool) -> list[tuple[float, bytes]]:
        chance = rng.random()
        if chance < loss:
            return []
        chance -= loss
        if chance < other:
            return [(0.0, data), (0.002, data)]
        chance -= other
        if chance < other:
            return [(rng.uniform(0.001, 0.01), data)]
        chance -= other
        if chance < other / 2:
            garbled = bytearray(data)
            garbled[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return [(0.0, bytes(garbled))]
        return [(0.0, data)]

    return policy


@pytest.mark.limit(60)
@pytest.mark.parametrize("seed", [1, 2])
async def test_transfers_over_a_bad_network(through: Through, seed: int) -> None:
    link, _ = await through(bad_network(seed))
    await asyncio.gather(push(link, 1, 2_000_000), pull(link, 2, 2_000_000))
    for _ in range(20):
        await assert_alive(link)
    assert link.ours.stats().lost_packets > 0


@pytest.mark.limit(60)
async def test_handshakes_that_lose_any_datagram(through: Through) -> None:
    def losing(direction: bool, index: int) -> Policy:
        counts = {True: 0, False: 0}

        def policy(data: bytes, to_server: bool) -> list[tuple[float, bytes]]:
            counts[to_server] += 1
            if to_server == direction and counts[to_server] == index + 1:
                return []
            return [(0.0, data)]

        return policy

    async def one(direction: bool, index: int) -> None:
        link, _ = await through(losing(direction, index))
        await assert_alive(link)

    async with asyncio.TaskGroup() as group:
        for direction in (True, False):
            for index in range(6):
                group.create_task(one(direction, index))


@pytest.mark.limit(60)
async def test_blackout(through: Through) -> None:
    link, proxy = await through()
    both = asyncio.gather(push(link, 1, 5_000_000), pull(link, 2, 5_000_000))
    await asyncio.sleep(0.1)
    proxy.policy = lambda data, to_server: []
    await asyncio.sleep(3.0)
    proxy.policy = forward
    await both
    await assert_alive(link)


@pytest.mark.limit(60)
async def test_client_gets_another_port(through: Through) -> None:
    link, proxy = await through()
    await assert_alive(link)
    for _ in range(3):
        both = asyncio.gather(push(link, 1, 2_000_000), pull(link, 2, 2_000_000))
        await asyncio.sleep(0.02)
        await proxy.rebind()
        await both
        await assert_alive(link)
    await proxy.rebind()  # while idle: the client does not know
    await assert_alive(link)
    before = list(proxy.passed)
    await assert_alive(link)
    assert proxy.passed[0] > before[0] and proxy.passed[1] > before[1]


def small_pipe(data: bytes, to_server: bool) -> list[tuple[float, bytes]]:
    return [(0.0, data)] if len(data) <= 1300 else []


@pytest.mark.limit(60)
async def test_path_with_a_small_mtu(through: Through) -> None:
    link, _ = await through(small_pipe)
    await asyncio.gather(push(link, 1, 1_000_000), pull(link, 2, 1_000_000))
    [path] = link.ours.paths
    assert 1200 <= path.mtu <= 1300
    size = link.ours.max_datagram_size
    assert size is not None and size < 1300
    link.ours.send_datagram(bytes(size))
    assert await link.call("read_datagram") == bytes(size).hex()


@pytest.mark.limit(90)
async def test_mtu_becomes_smaller(through: Through) -> None:
    link, proxy = await through()
    await asyncio.gather(push(link, 1, 1_000_000), pull(link, 2, 1_000_000))
    assert link.ours.paths[0].mtu > 1300
    proxy.policy = small_pipe
    await push(link, 3, 1_000_000)
    await pull(link, 4, 1_000_000)
    await assert_alive(link)
    assert link.ours.paths[0].mtu <= 1300


async def test_real_peer_has_forgotten_the_connection(through: Through, dials: bool) -> None:
    link, proxy = await through()
    await assert_alive(link)
    # The close of the real peer gets lost, and so does every repetition of it.
    proxy.policy = lambda data, to_server: [] if to_server != dials else [(0.0, data)]
    await link.call("close", code=1)
    await link.peer.call("drop", handle=link.real)
    await asyncio.sleep(2.0)
    proxy.policy = forward
    send = await link.ours.open_uni()
    await send.write_all(bytes(5000))
    with pytest.raises(StatelessReset) as caught:
        await link.ours.accept_uni()
    assert str(caught.value) == "reset by peer"


async def test_we_have_forgotten_the_connection(through: Through, dials: bool) -> None:
    link, proxy = await through()
    await assert_alive(link)
    proxy.policy = lambda data, to_server: [] if to_server == dials else [(0.0, data)]
    closed = link.start("closed")
    link.ours.close(1)
    await asyncio.sleep(2.0)
    proxy.policy = forward
    theirs = await link.call("open_uni")
    await link.peer.call("write", send=theirs["send"], data=bytes(5000).hex())
    assert await closed == "reset by peer"


async def test_garbage_does_not_disturb(through: Through, links: Links) -> None:
    """Random datagrams, and pieces of real ones, in both directions."""
    rng = random.Random(5)

    def policy(data: bytes, to_server: bool) -> list[tuple[float, bytes]]:
        cut = data[: rng.randrange(len(data))]
        noise = rng.randbytes(rng.choice((1, 20, 21, 40, 200, 1200, 1452)))
        return [(0.0, cut), (0.0, data), (0.0, noise), (0.001, data[:1] + noise)]

    link, _ = await through(policy)
    await asyncio.gather(push(link, 1, 300_000), pull(link, 2, 300_000))
    await assert_alive(link)
