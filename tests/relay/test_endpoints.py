"""Endpoints that know each other by a relay, by addresses, or by both: which paths come about."""

from __future__ import annotations

import asyncio
import socket

import pytest
from pairs import ALPN, Net, both_ways, eventually, online, transfer

from iroh_fast import BindAddr, Connection, Endpoint, EndpointAddr, presets
from iroh_fast.errors import BindError
from iroh_fast.relay.server.server import RelayServer

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_stray_errors")]


async def two(net: Net, relay: RelayServer) -> tuple[Endpoint, Endpoint]:
    server, client = await net.bind(relays=[relay.url]), await net.bind(relays=[relay.url])
    await online(server, client)
    return server, client


def kinds(conn: Connection) -> list[tuple[bool, bool]]:
    """Of the proven paths: whether they are direct, and selected."""
    return sorted((path.is_ip, path.is_selected) for path in conn.paths if path.validated)


async def test_relay_only_address_becomes_direct(net: Net, relay: RelayServer) -> None:
    server, client = await two(net, relay)
    pair = await net.dial(client, server, EndpointAddr(server.id, relay_url=relay.url))
    assert (await pair.client.direct(timeout=30)).is_ip
    assert (await pair.server.direct(timeout=30)).is_ip
    for conn in (pair.client, pair.server):
        await eventually(lambda conn=conn: kinds(conn) == [(False, False), (True, True)])  # type: ignore[misc]
    for endpoint in (client, server):
        counts = endpoint.metrics.snapshot()
        assert counts["socket:num_conns_opened"] == counts["socket:num_conns_direct"] == 1
    assert client.metrics.snapshot()["socket:holepunch_attempts"] >= 1
    assert server.metrics.snapshot()["socket:holepunch_attempts"] == 0
    await both_ways(pair, 10_000)


async def test_relay_only_address_stays_relayed_without_sockets(
    net: Net, relay: RelayServer
) -> None:
    """And nothing is tried again and again for it."""
    pair = await net.relayed_pair(relay.url)
    await both_ways(pair, 100_000)
    await asyncio.sleep(1)
    for conn in (pair.client, pair.server):
        assert kinds(conn) == [(False, True)]
    counts = pair.client_ep.metrics.snapshot()
    assert counts["socket:num_conns_direct"] == 0
    assert counts["socket:holepunch_attempts"] <= 2


async def test_direct_connection_gets_a_relay_as_backup(net: Net, relay: RelayServer) -> None:
    server, client = await two(net, relay)
    pair = await net.dial(client, server, server.addr)
    for conn in (pair.client, pair.server):
        await eventually(lambda conn=conn: kinds(conn) == [(False, False), (True, True)])  # type: ignore[misc]
    for endpoint in (client, server):
        assert endpoint.metrics.snapshot()["socket:num_conns_direct"] == 1


async def test_bulk_begun_over_a_relay_goes_directly(net: Net, relay: RelayServer) -> None:
    server, client = await two(net, relay)
    pair = await net.dial(client, server, EndpointAddr(server.id, relay_url=relay.url))
    await transfer(pair.client, pair.server, 20_000_000)
    await transfer(pair.server, pair.client, 20_000_000)
    for conn in (pair.client, pair.server):
        stats = {True: [0, 0], False: [0, 0]}
        for path in conn.paths:
            stats[path.is_relay][0] += path.stats.udp_tx.bytes
            stats[path.is_relay][1] += path.stats.udp_rx.bytes
        for relayed, direct in zip(stats[True], stats[False], strict=True):
            assert relayed < direct


async def test_fresh_clients_one_after_the_other(net: Net, relay: RelayServer) -> None:
    server = await net.bind(relays=[relay.url])
    await online(server)
    for _ in range(5):
        client = await net.bind(relays=[relay.url])
        pair = await net.dial(client, server, EndpointAddr(server.id, relay_url=relay.url))
        for _ in range(2):
            await both_ways(pair, 100)
        pair.client.close(0)
        await pair.server.wait_closed()
        await client.close()


async def test_endpoints_dial_each_other_at_once(net: Net, relay: RelayServer) -> None:
    one, two_ = await two(net, relay)
    first, second = await asyncio.gather(
        net.dial(one, two_, EndpointAddr(two_.id, relay_url=relay.url)),
        net.dial(two_, one, EndpointAddr(one.id, relay_url=relay.url)),
    )
    for pair in (first, second):
        assert (pair.client.remote_id, pair.client.alpn) == (pair.server_ep.id, ALPN)
        assert pair.server.remote_id == pair.client_ep.id
        await pair.client.direct(timeout=30)
        await pair.server.direct(timeout=30)
    for pair in (first, second):
        for conn in (pair.client, pair.server):
            await eventually(lambda conn=conn: sum(path.is_ip for path in conn.paths) == 1)  # type: ignore[misc]
        await both_ways(pair, 100_000)
    first.client.close(1)
    assert (await first.server.wait_closed()).code == 1
    await both_ways(second, 1000)


async def test_online_waits_for_a_relay_that_is_added(net: Net, relay: RelayServer) -> None:
    endpoint = await net.bind(relays=[])
    waiting = asyncio.create_task(endpoint.online())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await endpoint.insert_relay(relay.url)
    async with asyncio.timeout(30):
        await waiting
    await endpoint.online()


# --- sockets

FREE = ("127.0.0.1", 0)


async def sockets(*addrs: BindAddr | str, ip_transports: bool = True) -> int:
    async with Endpoint.bind(
        preset=presets.minimal, bind_addrs=addrs, relays=[], ip_transports=ip_transports
    ) as endpoint:
        return len(endpoint.bound_sockets)


async def default_sockets() -> int:
    return await sockets()


async def test_addresses_replace_the_default_of_their_family_or_come_beside_it() -> None:
    default = await default_sockets()  # 1 without IPv6
    assert await sockets("127.0.0.1:0") == default
    assert await sockets(BindAddr("127.0.0.1", default_route=True, prefix_len=8)) == default
    assert await sockets(BindAddr("127.0.0.1", prefix_len=8)) == default + 1
    assert await sockets(BindAddr("127.0.0.1", prefix_len=0, default_route=False)) == default + 1
    assert await sockets(ip_transports=False) == 0


async def test_busy_addresses_matter_when_they_are_required() -> None:
    default = await default_sockets()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(FREE)
        port = taken.getsockname()[1]
        with pytest.raises(BindError) as caught:
            await sockets(f"127.0.0.1:{port}")
        assert caught.value.errno
        assert await sockets(BindAddr("127.0.0.1", port, required=False)) == default - 1
        beside = BindAddr("127.0.0.1", port, prefix_len=8, required=False)
        assert await sockets(beside) == default
