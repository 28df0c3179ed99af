"""Connections between us and the real peer over our relay server, and away from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from iroh_fast import Endpoint, EndpointAddr, EndpointId, QuicTransportConfig, presets
from iroh_fast.addr import IpAddr, RelayAddr, RelayUrl, SocketAddr, TransportAddr
from iroh_fast.relay.server.config import RelayServerConfig
from iroh_fast.relay.server.server import RelayServer

from . import pattern
from .links import ALPN, V4, Link, Links, RealEndpoint, known_ways_only, loopback
from .proxy import Proxy, forward
from .test_bulk import pull, push
from .test_handshake import assert_alive

# Dead paths are noticed soon by us; the real peer learns of it from our PATH_ABANDON.
QUICK = QuicTransportConfig(
    default_path_max_idle_timeout=2.0, default_path_keep_alive_interval=0.5, keep_alive_interval=0.5
)


@pytest.fixture
async def relay() -> AsyncIterator[RelayServer]:
    async with RelayServer() as server:
        yield server


async def real_endpoint(links: Links, *urls: str) -> RealEndpoint:
    """A real endpoint that is connected to its home relay."""
    made = await links.peer.call("bind", addr=V4, alpns=[ALPN.hex()], relays=list(urls))
    async with asyncio.timeout(60):
        assert await links.peer.call("relay_url", ep=made["ep"]) in map(str, map(RelayUrl, urls))
    return RealEndpoint(
        links.peer, made["ep"], EndpointId(made["id"]), tuple(loopback(made["sockets"]))
    )


async def our_endpoint(links: Links, *urls: str, direct: bool, **options: Any) -> Endpoint:
    if direct:
        ours = await links.our_endpoint(relays=list(urls), **options)
    else:
        ours = await Endpoint.bind(
            preset=presets.minimal, relays=list(urls), ip_transports=False, alpns=[ALPN], **options
        )
        links._ours.append(ours)
    async with asyncio.timeout(60):
        await ours.online()
    return ours


async def connect(
    links: Links, dials: bool, ours: Endpoint, real: RealEndpoint, url: str, *direct: str
) -> Link:
    """Dial by relay and by the given direct addresses; `dials` tells whether we are the client."""
    if dials:
        accepting = real.start("accept")
        conn = await ours.connect(EndpointAddr(real.id, relay_url=url, ip_addrs=direct), ALPN)
        return links.link(conn, await accepting)
    dialling = real.start(
        "connect", id=str(ours.id), addrs=list(direct), alpn=ALPN.hex(), relay=url
    )
    incoming = await ours.accept()
    assert incoming is not None
    conn = await incoming
    return links.link(conn, await dialling)


async def relayed(links: Links, dials: bool, url: str, **options: Any) -> Link:
    """Connect without any direct way: our endpoint has no IP socket."""
    real = await real_endpoint(links, url)
    ours = await our_endpoint(links, url, direct=False, **options)
    return await connect(links, dials, ours, real, url)


async def eventually(condition: Callable[[], Any], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


def ours_selected(link: Link) -> TransportAddr:
    [path] = [path for path in link.ours.paths if path.is_selected]
    return path.remote_addr


def statuses(link: Link) -> list[tuple[bool, str]]:
    """Of the working paths: whether each is relayed, and its status."""
    return sorted(
        (isinstance(path.remote_addr, RelayAddr), path.status)
        for path in link.ours.paths
        if path.validated
    )


async def real_paths(link: Link) -> list[tuple[bool, bool]]:
    """Of the real peer's paths: whether each is relayed, and whether it is selected."""
    found = (await link.call("conn_stats"))["paths"]
    return sorted((path["is_relay"] == "True", path["is_selected"] == "True") for path in found)


async def real_uses(link: Link, *expected: tuple[bool, bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while (found := await real_paths(link)) != sorted(expected):
            assert link.ours.close_reason is None, (found, link.ours.close_reason)
            await asyncio.sleep(0.05)


# --- only the relay


async def test_relay_only(links: Links, relay: RelayServer, dials: bool) -> None:
    link = await relayed(links, dials, relay.url)
    await assert_alive(link)
    assert ours_selected(link) == RelayAddr(RelayUrl(relay.url))
    assert await real_paths(link) == [(True, True)]
    await asyncio.gather(push(link, 1, 20_000_000), pull(link, 2, 20_000_000))
    await asyncio.sleep(1.0)  # whatever the real peer tries for a direct path has been tried
    assert await real_paths(link) == [(True, True)]
    await assert_alive(link)
    metrics = relay.metrics()
    assert metrics["bytes_sent"] > 40_000_000
    [path] = link.ours.paths
    assert path.mtu == 1452


async def test_relayed_connection_becomes_direct(
    links: Links, relay: RelayServer, dials: bool
) -> None:
    """Whoever dialed punches: both know nothing of each other but a relay."""
    real = await real_endpoint(links, relay.url)
    ours = await our_endpoint(links, relay.url, direct=True)
    link = await connect(links, dials, ours, real, relay.url)
    path = await link.ours.direct(timeout=30)
    assert path.is_ip and link.ours.why_relayed() is None
    await real_uses(link, (True, False), (False, True))
    await asyncio.gather(push(link, 1, 5_000_000), pull(link, 2, 5_000_000))
    assert statuses(link) == [(False, "available"), (True, "backup")]


async def test_relay_only_keeps_the_real_peer_relayed(links: Links, relay: RelayServer) -> None:
    real = await real_endpoint(links, relay.url)
    ours = await our_endpoint(links, relay.url, direct=True)
    accepting = real.start("accept")
    target = EndpointAddr(real.id, relay_url=relay.url, ip_addrs=real.sockets)
    conn = await ours.connect(target, ALPN, relay_only=True)
    link = links.link(conn, await accepting)
    await asyncio.gather(push(link, 1, 1_000_000), pull(link, 2, 1_000_000))
    await asyncio.sleep(1.0)  # whatever the real peer tries for a direct path has been tried
    assert await real_paths(link) == [(True, True)]
    [path] = conn.paths
    assert path.is_relay and conn.why_relayed() == "it was dialed with relay_only"


async def test_require_direct_with_the_real_peer(links: Links, relay: RelayServer) -> None:
    real = await real_endpoint(links, relay.url)
    ours = await our_endpoint(links, relay.url, direct=True)
    accepting = real.start("accept")
    target = EndpointAddr(real.id, relay_url=relay.url)
    conn = await ours.connect(target, ALPN, require_direct=True)
    link = links.link(conn, await accepting)
    assert isinstance(ours_selected(link), IpAddr)
    await assert_alive(link)


async def test_datagrams_over_the_relay(links: Links, relay: RelayServer, dials: bool) -> None:
    link = await relayed(links, dials, relay.url)
    size = min(link.ours.max_datagram_size or 0, await link.call("max_datagram_size"))
    assert size > 1100
    sizes = [1, 100, 1000, size]
    reading = link.start("read_datagrams", count=len(sizes))
    for number in sizes:
        await link.ours.send_datagram_wait(pattern.data(number, number))
    async with asyncio.timeout(60):
        expected = sorted(
            [number, pattern.digest([pattern.data(number, number)])] for number in sizes
        )
        assert sorted(await reading) == expected
        await link.call("send_datagrams", seed=5, sizes=sizes)
        got = [await link.ours.read_datagram() for _ in sizes]
    assert sorted(got, key=len) == [pattern.data(5 + number, number) for number in sizes]


@pytest.mark.parametrize("closer", ["ours", "real"])
async def test_close_over_the_relay(
    links: Links, relay: RelayServer, dials: bool, closer: str
) -> None:
    link = await relayed(links, dials, relay.url)
    await assert_alive(link)
    async with asyncio.timeout(60):
        if closer == "ours":
            link.ours.close(7, b"enough")
            assert "7" in await link.call("closed")
        else:
            await link.call("close", code=9, reason=b"bye".hex())
            reason = await link.ours.wait_closed()
            assert (reason.kind, reason.code, reason.reason) == ("application", 9, b"bye")


async def test_connection_survives_a_restart_of_the_relay(links: Links, dials: bool) -> None:
    async with RelayServer() as relay:
        port = relay.addresses["http"][1]
        link = await relayed(links, dials, relay.url)
        await assert_alive(link)
        work = asyncio.gather(push(link, 1, 20_000_000), pull(link, 2, 20_000_000))
        await eventually(lambda: relay.metrics()["bytes_sent"] > 2_000_000)
        assert not work.done()
        await relay.stop()
    await asyncio.sleep(0.5)
    async with RelayServer(RelayServerConfig.dev(port=port)) as relay:
        async with asyncio.timeout(60):
            await work
        await assert_alive(link)
        assert relay.metrics()["bytes_sent"] > 1_000_000
        await links.close()


@pytest.mark.slow
@pytest.mark.limit(70)
async def test_quiet_connection_stays(links: Links, relay: RelayServer, dials: bool) -> None:
    """For longer than every idle timeout of connection and path."""
    link = await relayed(links, dials, relay.url)
    await assert_alive(link)
    await asyncio.sleep(35)
    assert await real_paths(link) == [(True, True)]
    await assert_alive(link)


async def test_homes_differ(links: Links, relay: RelayServer, dials: bool) -> None:
    """Each side is at a relay of its own; whoever dials comes to the other's."""
    async with RelayServer() as other:
        real = await real_endpoint(links, relay.url)
        ours = await our_endpoint(links, other.url, direct=False)
        link = await connect(links, dials, ours, real, relay.url if dials else other.url)
        await asyncio.gather(push(link, 1, 3_000_000), pull(link, 2, 3_000_000))
        used = relay if dials else other
        assert used.metrics()["bytes_sent"] > 6_000_000
        assert ours_selected(link) == RelayAddr(RelayUrl(used.url))
        await links.close()


# --- relay and direct


async def test_direct_path_with_the_relay_behind_it(
    links: Links, relay: RelayServer, dials: bool
) -> None:
    real = await real_endpoint(links, relay.url)
    ours = await our_endpoint(links, relay.url, direct=True)
    direct = real.sockets if dials else loopback(map(str, ours.bound_sockets))
    link = await connect(links, dials, ours, real, relay.url, *direct)
    await eventually(lambda: statuses(link) == [(False, "available"), (True, "backup")])
    await real_uses(link, (False, True), (True, False))
    before = relay.metrics()["bytes_sent"]
    await asyncio.gather(push(link, 1, 10_000_000), pull(link, 2, 10_000_000))
    assert relay.metrics()["bytes_sent"] - before < 1_000_000
    await assert_alive(link)


async def test_direct_path_that_comes_later(links: Links, relay: RelayServer) -> None:
    """We dialled over the relay and know a direct address that does not work at first."""
    real = await real_endpoint(links, relay.url)
    ours = await our_endpoint(links, relay.url, direct=True, transport=known_ways_only())
    proxy = await Proxy.to(real.sockets[0])
    proxy.policy = lambda data, to_server: []
    try:
        link = await connect(links, True, ours, real, relay.url, proxy.address)
        assert ours_selected(link) == RelayAddr(RelayUrl(relay.url))
        await assert_alive(link)
        proxy.policy = forward
        await eventually(lambda: isinstance(ours_selected(link), IpAddr))
        await asyncio.gather(push(link, 1, 3_000_000), pull(link, 2, 3_000_000))
        await eventually(
            lambda: (False, "available") in statuses(link) and (True, "backup") in statuses(link)
        )
        assert sum(not relayed for relayed, _ in statuses(link)) == 1
        await real_uses(link, (False, True), (True, False))
    finally:
        proxy.close()


@pytest.mark.limit(80)
async def test_relay_takes_over_when_the_direct_path_dies(
    links: Links, relay: RelayServer, dials: bool
) -> None:
    real = await real_endpoint(links, relay.url)
    ours = await our_endpoint(links, relay.url, direct=True, transport=known_ways_only(QUICK))
    server = real.sockets[0] if dials else str(ours.bound_sockets[0])
    proxy = await Proxy.to(server)
    try:
        link = await connect(links, dials, ours, real, relay.url, proxy.address)
        if dials:
            direct = IpAddr(SocketAddr.parse(proxy.address))
            await eventually(lambda: ours_selected(link) == direct)
        await eventually(lambda: (True, "backup") in statuses(link))
        work = asyncio.gather(push(link, 1, 8_000_000), pull(link, 2, 8_000_000))
        await eventually(lambda: proxy.passed[1] > 300)
        proxy.policy = lambda data, to_server: []
        assert not work.done()
        before = relay.metrics()["bytes_sent"]
        async with asyncio.timeout(40):
            await work
        assert relay.metrics()["bytes_sent"] - before > 1_000_000
        await assert_alive(link)
        assert link.ours.close_reason is None
        assert any(relayed for relayed, _ in statuses(link))
    finally:
        proxy.close()


async def test_direct_path_goes_on_without_the_relay(links: Links, dials: bool) -> None:
    async with RelayServer() as relay:
        real = await real_endpoint(links, relay.url)
        ours = await our_endpoint(links, relay.url, direct=True)
        direct = real.sockets if dials else loopback(map(str, ours.bound_sockets))
        link = await connect(links, dials, ours, real, relay.url, *direct)
        await eventually(lambda: statuses(link) == [(False, "available"), (True, "backup")])
    await asyncio.gather(push(link, 1, 5_000_000), pull(link, 2, 5_000_000))
    assert isinstance(ours_selected(link), IpAddr)
    await assert_alive(link)
