"""Connections of two endpoints that live on a relay, leave it, and come back to it."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pairs import (
    ALPN,
    LOOPBACK,
    Net,
    addrs,
    both_ways,
    eventually,
    hide,
    online,
    selected,
    transfer,
)
from proxy import Proxy

from iroh_fast import Connection, Endpoint, EndpointAddr, QuicTransportConfig, presets
from iroh_fast.addr import IpAddr, RelayAddr, RelayUrl, SocketAddr
from iroh_fast.errors import (
    ConfigError,
    ConnectionLost,
    ConnectTimeout,
    NoAddress,
    RelayUrlError,
)
from iroh_fast.net.transport import is_private
from iroh_fast.relay.map import RelayConfig
from iroh_fast.relay.server.access import AllowList, SharedToken
from iroh_fast.relay.server.config import RelayServerConfig, RelayTlsConfig
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.stats import PathClosed, PathOpened, PathsLagged
from iroh_fast.web.ca import CaConfig

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_stray_errors")]

DEAD_RELAY = "http://127.0.0.1:9/"  # the discard port: nobody listens
# Dead paths are noticed soon, connections live as usual.
QUICK = QuicTransportConfig(
    default_path_max_idle_timeout=2.0, default_path_keep_alive_interval=0.5, keep_alive_interval=0.5
)


# --- relay only


@pytest.mark.parametrize("size", [1, 500_000, 20_000_000])
async def test_relay_url_alone_is_enough(net: Net, relay: RelayServer, size: int) -> None:
    pair = await net.relayed_pair(relay.url)
    await both_ways(pair, size)
    url = RelayUrl(relay.url)
    for conn in (pair.client, pair.server):
        [path] = conn.paths
        assert path.remote_addr == RelayAddr(url)
        assert path.is_selected and path.validated and path.local_addr == path.remote_addr
        assert path.rtt == conn.rtt > 0
        assert path.stats.udp_tx.bytes > size and path.stats.udp_rx.bytes > size
        assert conn.stats().udp_tx.bytes >= path.stats.udp_tx.bytes
    for endpoint in (pair.client_ep, pair.server_ep):
        metrics = endpoint.metrics.snapshot()
        assert metrics["socket:send_relay"] > size and metrics["socket:recv_data_relay"] > size
        assert metrics["socket:send_ipv4"] == metrics["socket:recv_data_ipv4"] == 0
        assert metrics["socket:num_conns_opened"] == 1
        assert metrics["socket:num_conns_direct"] == 0
    assert relay.metrics()["bytes_sent"] > 2 * size


async def test_one_side_without_sockets(net: Net, relay: RelayServer) -> None:
    """The client knows direct addresses of the server, but has nothing to send from."""
    server = await net.bind(relays=[relay.url], transport=QUICK)
    client = await net.bind(relays=[relay.url], ip_transports=False, transport=QUICK)
    await online(server)
    assert server.addr.ip_addrs and not client.addr.ip_addrs
    pair = await net.dial(client, server, server.addr)
    await both_ways(pair, 1_000_000)
    await asyncio.sleep(3)  # paths to the direct addresses were tried and given up
    for conn in (pair.client, pair.server):
        assert addrs(conn) == {RelayAddr(RelayUrl(relay.url)): "available"}
    await both_ways(pair, 1_000_000)


async def test_many_connections_over_one_relay(net: Net, relay: RelayServer) -> None:
    server = await net.bind(relays=[relay.url], ip_transports=False)
    await online(server)
    clients = [await net.bind(relays=[relay.url], ip_transports=False) for _ in range(10)]
    addr = EndpointAddr(server.id, relay_url=relay.url)
    accepted: list[Connection] = []

    async def accept() -> None:
        async for incoming in server.incoming():
            accepted.append(net.keep(await incoming))
            if len(accepted) == 2 * len(clients):
                return

    async def connect(client: Endpoint) -> Connection:
        return net.keep(await client.connect(addr, ALPN))

    accepting = asyncio.ensure_future(accept())
    dialling = [asyncio.ensure_future(connect(client)) for client in clients * 2]
    dialled = await asyncio.gather(*dialling)
    await accepting
    assert {conn.remote_id for conn in accepted} == {client.id for client in clients}
    by_key: dict[Any, list[Connection]] = {}
    for conn in accepted:
        by_key.setdefault(conn.remote_id, []).append(conn)

    async def ping(client: Endpoint, conn: Connection) -> None:
        await conn.send_datagram_wait(bytes(client.id))

    await asyncio.gather(*(ping(client, conn) for client, conn in zip(clients * 2, dialled)))
    for key, conns in by_key.items():
        for conn in conns:
            async with asyncio.timeout(60):
                assert await conn.read_datagram() == bytes(key)


async def test_datagrams_over_a_relay(net: Net, relay: RelayServer) -> None:
    pair = await net.relayed_pair(relay.url)
    largest = pair.client.max_datagram_size
    assert largest is not None and largest > 1100
    sizes = [0, 1, 500, largest]
    for size in sizes:
        await pair.client.send_datagram_wait(bytes([size % 251]) * size)
    async with asyncio.timeout(60):
        got = [await pair.server.read_datagram() for _ in sizes]
    assert sorted(map(len, got)) == sizes
    assert all(data == bytes([len(data) % 251]) * len(data) for data in got)


async def test_relay_with_tls(net: Net) -> None:
    tls = RelayTlsConfig(cert_mode="SelfSigned", https_bind_addr=("127.0.0.1", 0))
    async with RelayServer(RelayServerConfig.dev(tls=tls)) as server:
        assert server.certificate is not None
        url = f"https://localhost.:{server.addresses['https'][1]}"
        pair = await net.relayed_pair(url, ca=CaConfig(roots="none", extra=[server.certificate.decode()]))
        await both_ways(pair, 1_000_000)
        assert selected(pair.client) == RelayAddr(RelayUrl(url))
        await pair.client_ep.close()
        await pair.server_ep.close()


async def test_clean_close(net: Net, relay: RelayServer) -> None:
    pair = await net.relayed_pair(relay.url)
    pair.client.close(7, b"enough")
    async with asyncio.timeout(60):
        reason = await pair.server.wait_closed()
    assert (reason.kind, reason.code, reason.reason) == ("application", 7, b"enough")
    second = await net.dial(pair.client_ep, pair.server_ep, EndpointAddr(pair.server_ep.id, relay_url=relay.url))
    async with asyncio.timeout(60):
        await second.server_ep.close()
        reason = await second.client.wait_closed()
    assert (reason.kind, reason.code) == ("application", 0)
    await pair.client_ep.close()
    await eventually(lambda: relay.metrics()["connections"] == 0)
    assert relay.metrics()["disconnects"] == 2


# --- tickets and addresses


async def test_ticket_carries_the_relay(net: Net, relay: RelayServer) -> None:
    server = await net.bind(relays=[relay.url], ip_transports=False)
    client = await net.bind(relays=[relay.url])
    await online(server)
    assert list(server.addr.relay_urls) == [RelayUrl(relay.url)]
    pair = await net.dial(client, server, str(server.ticket))
    assert selected(pair.client) == selected(pair.server) == RelayAddr(RelayUrl(relay.url))
    await transfer(pair.client, pair.server, 10_000)
    info = await client.remote_info(server.id)
    assert info is not None
    assert [(item.addr, item.usage) for item in info.addrs] == [(RelayAddr(RelayUrl(relay.url)), "active")]


async def test_endpoint_without_relays_cannot_use_one(net: Net, relay: RelayServer) -> None:
    server = await net.bind(relays=[relay.url])
    client = await net.bind()
    with pytest.raises(NoAddress, match="no relays"):
        await client.connect(EndpointAddr(server.id, relay_url=relay.url), ALPN)


async def test_relay_that_is_not_ours_is_used_to_dial(net: Net, relay: RelayServer) -> None:
    """A client with another home reaches the server at the server's relay."""
    async with RelayServer() as other:
        server = await net.bind(relays=[relay.url], ip_transports=False)
        client = await net.bind(relays=[other.url], ip_transports=False)
        await online(server, client)
        pair = await net.dial(client, server, server.addr)
        await both_ways(pair, 1_000_000)
        assert selected(pair.client) == selected(pair.server) == RelayAddr(RelayUrl(relay.url))
        assert other.metrics()["send_packets_recv"] == 0
        # The other way round it is the other relay.
        back = await net.dial(server, client, client.addr)
        await both_ways(back, 100_000)
        await client.close()
        await server.close()


async def test_relay_can_be_added_and_removed(net: Net, relay: RelayServer) -> None:
    server = await net.bind(relays=[], ip_transports=False)
    client = await net.bind(relays=[], ip_transports=False)
    assert server.watch_home_relay().value == ()
    assert not list(server.addr.relay_urls)
    for endpoint in (server, client):
        assert await endpoint.insert_relay(relay.url) is None
    await online(server, client)
    pair = await net.dial(client, server, server.addr)
    await transfer(pair.client, pair.server, 100_000)
    removed = await server.remove_relay(relay.url)
    assert removed is not None and removed.url == RelayUrl(relay.url)
    assert server.watch_home_relay().value == () and not list(server.addr.relay_urls)
    await both_ways(pair, 100_000)  # who has it as our relay still reaches us there


async def test_dead_relay_leaves_direct_dialling_alone(net: Net) -> None:
    server = await net.bind(relays=[DEAD_RELAY])
    client = await net.bind(relays=[DEAD_RELAY])
    addr = EndpointAddr(server.id, relay_url=DEAD_RELAY, ip_addrs=[server.bound_sockets[0]])
    pair = await net.dial(client, server, addr)
    assert isinstance(selected(pair.client), IpAddr)
    await both_ways(pair, 1_000_000)
    [status] = client.watch_home_relay().value
    assert not status.connected
    await eventually(lambda: client.watch_home_relay().value[0].last_error is not None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.online()


async def test_dialling_over_a_dead_relay_ends(net: Net) -> None:
    server = await net.bind(relays=[DEAD_RELAY])
    client = await net.bind(
        relays=[DEAD_RELAY], transport=QuicTransportConfig(max_idle_timeout=1.5, initial_rtt=0.1)
    )
    with pytest.raises(ConnectTimeout):
        await client.connect(EndpointAddr(server.id, relay_url=DEAD_RELAY), ALPN)


# --- access


async def test_refusal_of_the_relay_is_told(net: Net) -> None:
    async with RelayServer(RelayServerConfig.dev(access=SharedToken(["good"]))) as server:
        endpoint = await net.bind(relays=[RelayConfig(server.url, auth_token="bad")])
        watcher = endpoint.watch_home_relay()
        async with asyncio.timeout(60):
            [status] = await watcher.wait_for(lambda all: any(one.auth_denied_reason for one in all))
        assert status.auth_denied_reason == "not authorized"
        assert not status.connected and status.last_error is not None
        # A correct token helps without a restart.
        await endpoint.insert_relay(RelayConfig(server.url, auth_token="good"))
        await online(endpoint)
        [status] = watcher.value
        assert status.connected and status.auth_denied_reason is None
        await endpoint.close()


async def test_endpoint_that_is_not_on_the_list(net: Net) -> None:
    server = await net.bind(relays=[])
    async with RelayServer(RelayServerConfig.dev(access=AllowList([server.id]))) as relay:
        client = await net.bind(relays=[relay.url])
        await server.insert_relay(relay.url)
        await online(server)
        async with asyncio.timeout(60):
            await client.watch_home_relay().wait_for(lambda all: any(one.last_error for one in all))
        # Direct connections do not care.
        pair = await net.dial(client, server, EndpointAddr(server.id, relay_url=relay.url, ip_addrs=[server.bound_sockets[0]]))
        await both_ways(pair, 100_000)
        assert isinstance(selected(pair.client), IpAddr)
        await client.close()
        await server.close()


# --- relay and direct


async def test_relay_backs_up_a_direct_path(net: Net, relay: RelayServer) -> None:
    server = await net.bind(relays=[relay.url])
    client = await net.bind(relays=[relay.url])
    await online(server, client)
    url, direct = RelayAddr(RelayUrl(relay.url)), IpAddr(server.bound_sockets[0])
    pair = await net.dial(client, server, EndpointAddr(server.id, [url, direct]))
    await eventually(lambda: addrs(pair.client) == {direct: "available", url: "backup"})
    await eventually(lambda: sorted(addrs(pair.server).values()) == ["available", "backup"])
    assert selected(pair.client) == direct and isinstance(selected(pair.server), IpAddr)
    before = client.metrics.snapshot()["socket:send_relay"]
    await both_ways(pair, 5_000_000)
    [backup] = [path for path in pair.client.paths if path.remote_addr == url]
    assert backup.stats.udp_tx.bytes < 100_000
    assert client.metrics.snapshot()["socket:send_relay"] - before < 100_000
    assert client.metrics.snapshot()["socket:num_conns_direct"] == 1


async def test_connection_moves_to_a_direct_path(net: Net, relay: RelayServer) -> None:
    """Dialled over the relay, as datagrams to the direct address get lost at first."""
    server = await net.bind(relays=[relay.url])
    client = await net.bind(relays=[relay.url])
    await online(server, client)
    hide(server, client)
    proxy = await Proxy.to(str(server.bound_sockets[0]))
    try:
        proxy.policy = lambda data, to_server: []
        url, direct = RelayAddr(RelayUrl(relay.url)), IpAddr(SocketAddr.parse(proxy.address))
        pair = await net.dial(client, server, EndpointAddr(server.id, [url, direct]))
        events = pair.client.path_events()
        assert selected(pair.client) == selected(pair.server) == url
        work = asyncio.gather(both_ways(pair, 10_000_000))
        await asyncio.sleep(0.1)
        proxy.policy = lambda data, to_server: [(0.0, data)]
        await work
        await eventually(lambda: addrs(pair.client) == {direct: "available", url: "backup"})
        await eventually(lambda: sorted(addrs(pair.server).values()) == ["available", "backup"])
        assert selected(pair.client) == direct
        await both_ways(pair, 2_000_000)
        pair.client.close()
        seen = [event async for event in events]
        assert any(isinstance(event, PathOpened) and event.remote_addr == direct for event in seen)
        assert not any(isinstance(event, PathsLagged) for event in seen)
    finally:
        proxy.close()


async def test_second_connection_finds_the_direct_path_of_the_first(net: Net, relay: RelayServer) -> None:
    server = await net.bind(relays=[relay.url])
    client = await net.bind(relays=[relay.url])
    await online(server, client)
    url, direct = RelayAddr(RelayUrl(relay.url)), IpAddr(server.bound_sockets[0])
    first = await net.dial(client, server, EndpointAddr(server.id, [url]))
    assert selected(first.client) == url
    second = await net.dial(client, server, EndpointAddr(server.id, [direct]))
    await eventually(lambda: selected(first.client) == selected(second.client) == direct)
    await both_ways(first, 500_000)


async def test_relay_takes_over_when_the_direct_path_dies(net: Net, relay: RelayServer) -> None:
    """And gives back what works again; nothing of the transfer is lost."""
    server = await net.bind(relays=[relay.url], transport=QUICK)
    client = await net.bind(relays=[relay.url], transport=QUICK)
    await online(server, client)
    hide(server, client)
    proxy = await Proxy.to(str(server.bound_sockets[0]))
    try:
        url, direct = RelayAddr(RelayUrl(relay.url)), IpAddr(SocketAddr.parse(proxy.address))
        pair = await net.dial(client, server, EndpointAddr(server.id, [url, direct]))
        await eventually(lambda: addrs(pair.client) == {direct: "available", url: "backup"})
        events = pair.client.path_events()
        left = 60  # datagrams, of at most 64 KiB: the path dies in the middle of it

        def dying(data: bytes, to_server: bool) -> list[tuple[float, bytes]]:
            nonlocal left
            left -= 1
            return [(0.0, data)] if left >= 0 else []

        proxy.policy = dying
        work = asyncio.gather(both_ways(pair, 8_000_000))
        await eventually(lambda: left < 0)
        assert not work.done()
        async with asyncio.timeout(60):
            await work
        await eventually(lambda: selected(pair.client) == url and selected(pair.server) == url)
        async with asyncio.timeout(60):
            closed = await anext(event async for event in events if isinstance(event, PathClosed))
        assert closed.remote_addr == direct
        assert closed.reason in ("timed out", "closed by peer: 0x3e76")  # whoever was first
        assert closed.last_stats.udp_tx.bytes > 0
        await both_ways(pair, 1_000_000)
        proxy.policy = lambda data, to_server: [(0.0, data)]
        await eventually(lambda: selected(pair.client) == direct, 20)
        await both_ways(pair, 1_000_000)
    finally:
        proxy.close()


async def test_direct_path_goes_on_without_the_relay(net: Net) -> None:
    async with RelayServer() as relay:
        port = relay.addresses["http"][1]
        server = await net.bind(relays=[relay.url])
        client = await net.bind(relays=[relay.url])
        await online(server, client)
        url, direct = RelayAddr(RelayUrl(relay.url)), IpAddr(server.bound_sockets[0])
        pair = await net.dial(client, server, EndpointAddr(server.id, [url, direct]))
        await eventually(lambda: addrs(pair.client) == {direct: "available", url: "backup"})
        await relay.stop()
        await both_ways(pair, 5_000_000)
        assert selected(pair.client) == direct
        await eventually(lambda: not client.watch_home_relay().value[0].connected)
    async with RelayServer(RelayServerConfig.dev(port=port)):
        await online(server, client)
        # The path is still there: its end would have taken 30 s of silence.
        assert url in addrs(pair.client)
        await client.close()
        await server.close()


# --- relays that come and go


async def test_connection_survives_a_restart_of_its_relay(net: Net) -> None:
    async with RelayServer() as relay:
        port = relay.addresses["http"][1]
        pair = await net.relayed_pair(relay.url)
        await both_ways(pair, 100_000)
        work = asyncio.gather(both_ways(pair, 20_000_000))
        await eventually(lambda: relay.metrics()["bytes_sent"] > 2_000_000)
        assert not work.done()
        await relay.stop()
    await asyncio.sleep(0.5)
    async with RelayServer(RelayServerConfig.dev(port=port)) as relay:
        async with asyncio.timeout(60):
            await work
        assert pair.client.close_reason is None and pair.server.close_reason is None
        assert [path.id for path in pair.client.paths] == [0]
        assert relay.metrics()["bytes_sent"] > 1_000_000
        pool = pair.client_ep._context.relay.pool
        assert pool.stats.relay_conns_success == 2
        await pair.client_ep.close()
        await pair.server_ep.close()


async def test_peer_that_is_back_later_than_we_gets_at_once_what_waits(net: Net) -> None:
    """What was sent before the peer was back is lost: its first packet calls for it again."""
    async with RelayServer() as relay:
        port = relay.addresses["http"][1]
        pair = await net.relayed_pair(relay.url)
        await both_ways(pair, 10_000)
        transport = pair.client_ep._context.relay
        driver = pair.client_ep._context.driver
        probed: list[list[bytes]] = []
        probe, driver.probe = driver.probe, lambda ips: probed.append(list(ips)) or probe(ips)
        await relay.stop()
    async with RelayServer(RelayServerConfig.dev(port=port)):
        await both_ways(pair, 10_000)
        await eventually(lambda: len(probed) >= 2)
        # One call when the relay was back, one for the peer; nothing later.
        assert len(probed) == 2 and probed[1] and set(probed[1]) <= set(probed[0])
        assert not transport._unheard & set(probed[1])
        await both_ways(pair, 10_000)
        assert len(probed) == 2
        await pair.client_ep.close()
        await pair.server_ep.close()


async def test_connection_is_lost_only_when_the_relay_stays_away(net: Net) -> None:
    transport = QuicTransportConfig(max_idle_timeout=3.0)
    async with RelayServer() as relay:
        pair = await net.relayed_pair(relay.url, transport=transport)
        await both_ways(pair, 10_000)
        await relay.stop()
    async with asyncio.timeout(60):
        reason = await pair.client.wait_closed()
        assert reason.kind == "timed_out"
        assert (await pair.server.wait_closed()).kind == "timed_out"
    with pytest.raises(ConnectionLost):
        await pair.client.open_bi()


async def test_new_dial_uses_the_relay_that_works(net: Net, relay: RelayServer) -> None:
    server = await net.bind(relays=[relay.url], ip_transports=False)
    client = await net.bind(relays=[DEAD_RELAY], ip_transports=False)
    await online(server)
    pair = await net.dial(client, server, EndpointAddr(server.id, [RelayAddr(RelayUrl(DEAD_RELAY)), *server.addr.addrs]))
    await both_ways(pair, 500_000)
    assert selected(pair.client) == RelayAddr(RelayUrl(relay.url))


async def test_packets_of_one_path_may_come_through_another_relay(net: Net, relay: RelayServer) -> None:
    """The server's packets take a relay on which it has heard of the client."""
    async with RelayServer() as other:
        server = await net.bind(relays=[relay.url], ip_transports=False)
        client = await net.bind(relays=[other.url], ip_transports=False)
        await online(server, client)
        there = await net.dial(client, server, server.addr)  # over the server's relay
        back = await net.dial(server, client, client.addr)  # over the client's
        await asyncio.gather(both_ways(there, 2_000_000), both_ways(back, 2_000_000))
        # The client leaves one of the relays: its connection there goes on over the other.
        pool = client._context.relay.pool
        pool.remove(pool._active[RelayUrl(relay.url)])
        await asyncio.gather(both_ways(there, 200_000), both_ways(back, 200_000))
        assert there.client.close_reason is None and back.client.close_reason is None
        await client.close()
        await server.close()


# --- what stays inside


async def test_private_addresses_are_not_shown(net: Net, relay: RelayServer) -> None:
    pair = await net.relayed_pair(relay.url)
    shown = [str(path.remote_addr) for conn in (pair.client, pair.server) for path in conn.paths]
    shown += [str(addr) for addr in pair.server_ep.addr.addrs]
    assert shown and not any("fd15" in text for text in shown)
    assert is_private(pair.client._q.path_info(0)["remote"])


async def test_state_of_remotes_goes_with_their_connections(net: Net, relay: RelayServer) -> None:
    pair = await net.relayed_pair(relay.url)
    for endpoint in (pair.client_ep, pair.server_ep):
        assert len(endpoint._context.remotes._remotes) == 1
    pair.client.close()
    await pair.server.wait_closed()
    for endpoint in (pair.client_ep, pair.server_ep):
        await eventually(lambda endpoint=endpoint: not endpoint._context.remotes._remotes)


@pytest.mark.parametrize("relays", ["nonsense", ["::"], ["ftp://example.org"], 5])
async def test_wrong_relays_leave_nothing_open(relays: Any) -> None:
    """Not even a warning, which would fail the test: nobody got an endpoint to close."""
    with pytest.raises((ConfigError, RelayUrlError, TypeError)):
        await Endpoint.bind(preset=presets.minimal, relays=relays, bind_addrs=[LOOPBACK])
    gc.collect()


async def test_endpoint_that_is_let_go_leaves_the_relay(relay: RelayServer) -> None:
    endpoint = await Endpoint.bind(
        preset=presets.minimal, relays=[relay.url], ip_transports=False
    )
    await online(endpoint)
    assert relay.metrics()["connections"] == 1
    with pytest.warns(ResourceWarning, match="unclosed <Endpoint"):
        del endpoint
        gc.collect()
    await eventually(lambda: relay.metrics()["connections"] == 0)


# --- as in the README


@pytest.mark.source_tree
def test_relay_and_two_endpoints_as_users_start_them(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONWARNINGS": "error::ResourceWarning",
    }
    settings = tmp_path / "relay.toml"  # only because the port may be taken
    settings.write_text('http_bind_addr = "127.0.0.1:0"\nenable_metrics = false\n')
    example = str(Path(__file__).resolve().parents[2] / "examples" / "relay.py")

    def start(*args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    with start("-m", "iroh_fast", "relay", "--dev", "-c", str(settings)) as relay:
        try:
            assert relay.stderr is not None
            url = next(
                found[1] for line in relay.stderr if (found := re.search(r"relay ready at (\S+)", line))
            )
            with start(example, "serve", url) as server:
                try:
                    assert server.stdout is not None
                    id = server.stdout.readline().strip()
                    assert len(id) == 64
                    done = subprocess.run(
                        [sys.executable, example, "dial", url, id, "hello"],
                        env=env,
                        capture_output=True,
                        text=True,
                        timeout=30,
                    )
                    assert done.returncode == 0, done.stderr
                    assert done.stderr == ""
                    # On one machine a direct path may be there before the answer.
                    told = rf"HELLO\nover (relay:{re.escape(url)}|ip:\S+), \d+\.\d ms\n"
                    assert re.fullmatch(told, done.stdout), done.stdout
                    assert server.stdout.readline().endswith("says: 'hello'\n")
                finally:
                    server.kill()
        finally:
            relay.terminate()
    assert relay.returncode == 0
