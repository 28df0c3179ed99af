"""Connections with the real peer on which nothing happens."""

from __future__ import annotations

import asyncio

import pytest

from iroh_fast import QuicTransportConfig
from iroh_fast.errors import TimedOut

from .links import Link, Links
from .test_handshake import assert_alive
from .test_paths import real_paths, two_ways, validated

IDLE_S = 40.0  # longer than the idle timeouts: 30 s of a connection, 15 s of a path


@pytest.mark.limit(IDLE_S + 30)
async def test_idle_connections_are_kept_alive(links: Links) -> None:
    quiet = QuicTransportConfig(keep_alive_interval=None)
    alive = [
        await links.connect(dials, transport=transport, bind=bind)
        for bind in ("127.0.0.1:0", "[::1]:0")
        for dials in (True, False)
        for transport in (QuicTransportConfig(), quiet)
    ]
    for link in alive:
        await assert_alive(link)
    several = []
    for backup in (True, False):
        link, _, six = await two_ways(links)
        id = link.ours._q.open_path(six, None, backup)
        await validated(link, id)
        several.append((link, {0, id}))
    before = [link.ours.stats() for link in alive]
    await asyncio.sleep(IDLE_S)
    for link, ids in several:
        assert {path.id for path in link.ours.paths} == ids
        assert await real_paths(link) == ids
        await assert_alive(link)
    for link, stats in zip(alive, before, strict=True):
        assert link.ours.close_reason is None
        assert await link.call("close_reason") is None
        assert [path.id for path in link.ours.paths if path.validated]
        now = link.ours.stats()
        # A PING every five seconds per path and side, its acknowledgements, nothing wild.
        for sent in (
            now.udp_tx.datagrams - stats.udp_tx.datagrams,
            now.udp_rx.datagrams - stats.udp_rx.datagrams,
        ):
            assert 5 <= sent <= 200
        await assert_alive(link)


@pytest.mark.parametrize("dials", [True, False])
async def test_idle_timeout_without_keep_alive(links: Links, dials: bool) -> None:
    transport = QuicTransportConfig(max_idle_timeout=2.0, keep_alive_interval=None)
    link = await links.connect(dials, transport=transport)
    await assert_alive(link)
    closed = link.start("closed")
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(TimedOut):
        await link.ours.accept_uni()
    assert 1.5 < loop.time() - start < 10
    assert await closed == "timed out"


@pytest.mark.limit(30)
async def test_our_keep_alive_beats_a_short_idle_timeout(links: Links, dials: bool) -> None:
    transport = QuicTransportConfig(max_idle_timeout=2.0, keep_alive_interval=0.5)
    link: Link = await links.connect(dials, transport=transport)
    await asyncio.sleep(5.0)
    assert link.ours.close_reason is None
    await assert_alive(link)
