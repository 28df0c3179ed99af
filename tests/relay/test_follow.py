"""Connections that have nothing but a relay follow their peer to another one."""

from __future__ import annotations

import asyncio

import pytest
from pairs import Net, both_ways, eventually, online, selected

from iroh_fast import EndpointAddr
from iroh_fast.addr import RelayAddr, RelayUrl
from iroh_fast.lookup import MemoryLookup
from iroh_fast.relay.server.server import RelayServer

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("no_stray_errors")]


async def test_connection_goes_on_over_the_next_home_of_its_peer(
    net: Net, relay: RelayServer
) -> None:
    """The home relay of the server ends for good; a lookup tells where the server is then."""
    lookup = MemoryLookup()
    async with RelayServer() as dying:
        server = await net.bind(relays=[dying.url], ip_transports=False)
        client = await net.bind(relays=[relay.url], ip_transports=False, address_lookup=[lookup])
        await online(server, client)
        pair = await net.dial(client, server, EndpointAddr(server.id, relay_url=dying.url))
        await both_ways(pair, 10_000)
        await server.insert_relay(relay.url)
        work = asyncio.gather(both_ways(pair, 20_000_000))
        await eventually(lambda: dying.metrics()["bytes_sent"] > 2_000_000)
        assert not work.done()
        old = RelayUrl(dying.url)
        await server.remove_relay(old)
        await dying.stop()
    lookup.set(EndpointAddr(server.id, relay_url=relay.url))
    async with asyncio.timeout(60):
        await work
    url = RelayAddr(RelayUrl(relay.url))
    assert selected(pair.client) == selected(pair.server) == url
    await eventually(lambda: [path.remote_addr for path in pair.client.paths] == [url])
    await both_ways(pair, 100_000)
    info = await client.remote_info(server.id)
    assert info is not None and [one.addr for one in info.addrs] == [url]
