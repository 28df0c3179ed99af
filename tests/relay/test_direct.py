"""Waiting for a direct path, insisting on one, or on a relay, and asking why there is none."""

from __future__ import annotations

import asyncio

import pytest
from pairs import ALPN, LOOPBACK, Net, both_ways, eventually, online, selected

from iroh_fast import EndpointAddr, PathEvent, PathInfo, PathOpened, PathSelected
from iroh_fast._why import RelayedFacts, explain
from iroh_fast.addr import RelayAddr
from iroh_fast.errors import (
    ConfigError,
    ConnectError,
    ConnectionLost,
    NoAddress,
    NotDirect,
)
from iroh_fast.events import DialFailed
from iroh_fast.relay.server.server import RelayServer

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_stray_errors")]


async def test_direct_waits_until_data_leaves_the_relay(net: Net, relay: RelayServer) -> None:
    server = await net.bind(relays=[relay.url])
    client = await net.bind(relays=[relay.url])
    await online(server, client)
    pair = await net.dial(client, server, EndpointAddr(server.id, relay_url=relay.url))
    events = pair.client.path_events()
    path = await pair.client.direct(timeout=30)
    assert path.is_ip and path.is_selected and selected(pair.client) == path.remote_addr
    assert pair.client.why_relayed() is None
    assert (await pair.client.direct(timeout=0)).id == path.id
    assert (await pair.server.direct(timeout=30)).is_ip
    seen: list[PathEvent] = []
    async with asyncio.timeout(30):
        async for event in events:
            seen.append(event)
            if isinstance(event, PathSelected) and event.id == path.id:
                break
    opened = next(
        event for event in seen if isinstance(event, PathOpened) and event.remote_addr.is_ip
    )
    assert opened.id == path.id
    await both_ways(pair, 100_000)


async def test_require_direct_gives_a_connection_that_is_direct(
    net: Net, relay: RelayServer
) -> None:
    server = await net.bind(relays=[relay.url])
    client = await net.bind(relays=[relay.url])
    await online(server, client)
    addr = EndpointAddr(server.id, relay_url=relay.url)
    pair = await net.dial(client, server, addr, require_direct=True)
    path: PathInfo = next(path for path in pair.client.paths if path.is_selected)
    assert path.is_ip


async def test_endpoints_without_sockets_say_so_at_once(net: Net, relay: RelayServer) -> None:
    pair = await net.relayed_pair(relay.url)
    for conn in (pair.client, pair.server):
        assert conn.why_relayed() == "this endpoint has no UDP sockets"
        with pytest.raises(NotDirect, match="this endpoint has no UDP sockets") as caught:
            await conn.direct()
        assert caught.value.reason == conn.why_relayed()
    with pytest.raises(NotDirect):
        await pair.client.direct(timeout=0)


async def test_direct_ends_with_the_connection_and_can_be_cancelled(
    net: Net, relay: RelayServer
) -> None:
    server = await net.bind(relays=[relay.url], ip_transports=False)
    client = await net.bind(relays=[relay.url])
    await online(server, client)
    pair = await net.dial(client, server, EndpointAddr(server.id, relay_url=relay.url))
    with pytest.raises(NotDirect, match="no direct path came about: .") as caught:
        await pair.client.direct(timeout=0.05)
    assert isinstance(caught.value, TimeoutError) and caught.value.reason
    waiting = asyncio.create_task(pair.client.direct())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    waiting = asyncio.create_task(pair.client.direct())
    await asyncio.sleep(0)
    pair.server.close(7, b"enough")
    with pytest.raises(ConnectionLost):
        await waiting
    with pytest.raises(ConnectionLost):
        await pair.client.direct(timeout=0)
    assert pair.client.why_relayed() is None


async def test_relay_only_never_leaves_the_relay_and_dials_no_address(
    net: Net, relay: RelayServer
) -> None:
    server = await net.bind(relays=[relay.url])
    client = await net.bind(relays=[relay.url], net_report=False)
    await online(server, client)
    assert server.addr.ip_addrs and server.addr.relay_urls
    pair = await net.dial(client, server, server.addr, relay_only=True)
    await both_ways(pair, 1_000_000)
    await asyncio.sleep(0.5)  # as long as an upgrade takes elsewhere
    for conn in (pair.client, pair.server):
        [path] = conn.paths
        assert path.remote_addr == RelayAddr(relay.url)
    assert pair.client.why_relayed() == "it was dialed with relay_only"
    with pytest.raises(NotDirect, match="relay_only"):
        await pair.client.direct()
    sent = client.metrics.snapshot()
    assert sent["socket:send_ipv4"] == sent["socket:send_ipv6"] == 0


async def test_relay_only_without_a_relay_to_the_peer_is_told(net: Net, relay: RelayServer) -> None:
    server = await net.bind()
    client = await net.bind(relays=[relay.url])
    with pytest.raises(NoAddress, match=r"127\.0\.0\.1:\d+ \(relay_only\)"):
        await client.connect(server.addr, ALPN, relay_only=True)
    with pytest.raises(ConfigError, match="relay_only needs relays"):
        server.connect(client.addr, ALPN, relay_only=True)
    with pytest.raises(ConfigError, match="relay_only needs relays"):
        await server.connect_with(client.addr, ALPN, relay_only=True)
    with pytest.raises(ConfigError, match="contradict"):
        client.connect(server.addr, ALPN, relay_only=True, require_direct=True)
    with pytest.raises(ConfigError, match="require_direct is True or False"):
        client.connect(server.addr, ALPN, require_direct=5)  # type: ignore[arg-type]


async def test_require_direct_closes_what_stays_relayed(net: Net, relay: RelayServer) -> None:
    server = await net.bind(relays=[relay.url])
    client = await net.bind(relays=[relay.url], ip_transports=False)
    await online(server, client)
    events = client.events()
    addr = EndpointAddr(server.id, relay_url=relay.url)

    async def accept() -> None:
        incoming = await server.accept()
        assert incoming is not None
        reason = await net.keep(await incoming).wait_closed()
        assert (reason.code, reason.reason) == (1, b"no direct path")

    accepting = asyncio.create_task(accept())
    with pytest.raises(NotDirect, match=r"connect to .* failed: .* has no UDP sockets") as caught:
        await client.connect(addr, ALPN, require_direct=True)
    assert isinstance(caught.value, ConnectError) and caught.value.alpn == ALPN
    assert caught.value.remote == f"{server.id:short}"
    await accepting
    failed = await anext(event async for event in events if isinstance(event, DialFailed))
    assert failed.error is caught.value
    await eventually(lambda: not client._context.live())


async def test_require_direct_that_is_cancelled_leaves_no_connection(
    net: Net, relay: RelayServer
) -> None:
    server = await net.bind(relays=[relay.url], ip_transports=False)
    client = await net.bind(relays=[relay.url], bind_addrs=[LOOPBACK])
    await online(server, client)
    addr = EndpointAddr(server.id, relay_url=relay.url)
    dialing = asyncio.ensure_future(client.connect(addr, ALPN, require_direct=True))
    incoming = await server.accept()
    assert incoming is not None
    conn = net.keep(await incoming)
    await eventually(client._context.live)
    dialing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dialing
    await conn.wait_closed()
    assert not client._context.live()


# --- the words


class Report:
    def __init__(self, has_udp: bool = True, varies: bool | None = None) -> None:
        self.has_udp = has_udp
        self.mapping_varies_by_dest_v4 = varies


def probed(
    *counts: int, answered: int = 0, barred: int = 0, probing: bool = False
) -> dict[str, object]:
    candidates = [
        {"probes": n, "answered": number < answered, "barred": False}
        for number, n in enumerate(counts)
    ]
    candidates += [{"probes": 0, "answered": False, "barred": True}] * barred
    return {"candidates": candidates, "probing": probing}


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (RelayedFacts(relay_only=True, has_sockets=False), "it was dialed with relay_only"),
        (RelayedFacts(multipath=False), "the peer does not take part in multipath"),
        (RelayedFacts(has_sockets=False), "this endpoint has no UDP sockets"),
        (RelayedFacts(direct=[("ip:a", False)]), "a direct path to ip:a is open"),
        (RelayedFacts(direct=[("ip:b", False), ("ip:a", True)]), "to ip:a was proven a moment ago"),
        (RelayedFacts(direct=[("ip:a", True)], chosen=True), "the path_selector chose the relay"),
        (RelayedFacts(report=Report(has_udp=False), nat=probed(9)), "no UDP gets out"),
        (RelayedFacts(nat_traversal=False), "the peer takes no part in NAT traversal"),
        (RelayedFacts(), "neither side knows an address"),
        (RelayedFacts(own=1), "the peer has not told any address"),
        (RelayedFacts(own=1, is_client=False), "the peer, who dialed, has not begun"),
        (RelayedFacts(nat=probed(0)), "no address is known at which this endpoint"),
        (RelayedFacts(own=1, nat=probed(barred=2)), "none of the 2 addresses that the peer told"),
        (RelayedFacts(own=1, nat=probed(0)), "1 address of the peer will be probed in a moment"),
        (
            RelayedFacts(own=1, nat=probed(9, 9), next_round=3.6),
            "18 probes went to 2 addresses of the peer, none was answered; the next round is in 4 s",
        ),
        (
            RelayedFacts(own=1, nat=probed(1, 1, answered=1, probing=True), rounds=2),
            "2 probes went to 2 addresses of the peer, 1 answered; round 2 of hole punching is under way",
        ),
        (
            RelayedFacts(own=1, nat=probed(1), report=Report(varies=True)),
            "1 probe went to 1 address of the peer, none was answered; this network's NAT picks "
            "another port for each destination (symmetric): without a direct path if the peer's does so, too",
        ),
        (
            RelayedFacts(own=1, nat=probed(4), is_client=False),
            "4 probes went to 1 address of the peer, none was answered; the peer, who dialed, begins",
        ),
    ],
)
def test_words_name_what_decides(facts: RelayedFacts, words: str) -> None:
    assert words in explain(facts)
