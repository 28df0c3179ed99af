"""Net reports of endpoints against relays: ours, the one of iroh, and none at all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
from tests.net.reports import PATIENCE_S, http_port, our_relay, rust_relay, trusting
from tests.relay.test_relay_qad import Nat

from iroh_fast import Endpoint, presets
from iroh_fast.addr import IpAddr, RelayUrl, SocketAddr
from iroh_fast.errors import ConfigError
from iroh_fast.events import NetReportMade
from iroh_fast.net_report import NetReport, NetReportConfig
from iroh_fast.net_report.http import captive_portal, https_latency
from iroh_fast.relay.map import RelayConfig
from iroh_fast.web.dial import StreamDialer
from iroh_fast.web.tcp import connect

Relay = Callable[[Path], contextlib.AbstractAsyncContextManager[RelayConfig]]


@contextlib.asynccontextmanager
async def endpoint(*relays: RelayConfig, **options: object) -> AsyncIterator[Endpoint]:
    settings = {"bind_addrs": ["127.0.0.1:0"], "ca": trusting(), **options}
    async with Endpoint.bind(presets.minimal, relays=relays, **settings) as ep:  # type: ignore[arg-type]
        yield ep


async def first_report(ep: Endpoint) -> NetReport:
    async with asyncio.timeout(PATIENCE_S):
        report = await ep.watch_net_report().wait_for(lambda report: report is not None)
    assert report is not None
    return report


async def until_addr(ep: Endpoint, addr: SocketAddr) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await ep.watch_addr().wait_for(lambda now: IpAddr(addr) in now.addrs)


@pytest.mark.parametrize("running", [our_relay, rust_relay], ids=["ours", "iroh-relay"])
async def test_relay_tells_the_address_of_the_endpoints_own_socket(
    running: Relay, tmp_path: Path
) -> None:
    async with running(tmp_path) as relay, endpoint(relay) as ep:
        report = await first_report(ep)
        assert report.udp_v4 and report.has_udp
        assert report.global_v4 == ep.bound_sockets[0]
        assert IpAddr(ep.bound_sockets[0]) in ep.addr.addrs
        assert report.mapping_varies_by_dest is None  # nobody else was asked
        assert set(report.relay_latency["qad_v4"]) == {relay.url}
        assert 0 < (report.latency(relay.url) or 0) < PATIENCE_S
        metrics = ep.metrics.snapshot()
        assert metrics["net_report:qad_success"] == metrics["net_report:qad_probes"] == 1
        # The connection to the relay is none of the user's.
        assert metrics["socket:num_conns_opened"] == metrics["socket:num_conns_closed"] == 0


async def test_address_beyond_a_nat_is_told_and_a_change_of_it_at_once(tmp_path: Path) -> None:
    async with our_relay(tmp_path) as relay:
        nat = Nat(("127.0.0.1", relay.quic_port or 0))
        inside = await nat.open()
        outer = SocketAddr.from_tuple(nat.outer.get_extra_info("sockname"))
        behind = RelayConfig(relay.url, quic_port=inside.port)
        try:
            async with endpoint(behind) as ep:
                report = await first_report(ep)
                assert report.global_v4 == outer != ep.bound_sockets[0]
                await until_addr(ep, outer)
                new = await nat.rebind()
                # What the keep-alive would do within 25 s.
                for connection in ep._driver.endpoint.connections.values():
                    connection.ping()
                await until_addr(ep, new)
                assert IpAddr(outer) not in ep.addr.addrs
                assert ep.net_report is not None and ep.net_report.global_v4 == new
                assert ep.metrics.snapshot()["net_report:reports"] == 1
        finally:
            nat.close()


async def test_endpoint_without_relays_or_reports_asks_nobody(tmp_path: Path) -> None:
    async with our_relay(tmp_path) as relay:
        async with endpoint(relay, net_report=False) as ep:
            await ep.online()
            assert ep.net_report is None
            assert ep.metrics.snapshot()["socket:outgoing_handshakes"] == 0
            watcher = ep.watch_net_report()
        assert [report async for report in watcher] == [None]
    async with Endpoint.bind(presets.minimal, bind_addrs=["127.0.0.1:0"]) as ep:
        assert ep.net_report is None
        assert not any(name.startswith("net_report:") for name in ep.metrics.snapshot())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("https_probes", 1),
        ("stun_servers", "stun.example"),
        ("stun_servers", ["stun.example:0"]),
        ("stun_servers", ["two words"]),
        ("stun_servers", [f"s{i}.example" for i in range(17)]),
        ("interval", 20),
        ("interval", (26.0, 20.0)),
        ("interval", (1.0, 2.0)),
        ("interval", (20.0, float("nan"))),
    ],
)
def test_wrong_options_are_named(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        NetReportConfig(**{option: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="net_report"):
        Endpoint.bind(net_report=value)  # type: ignore[arg-type]


class Slow(Nat):
    """A way to a relay that takes a while."""

    delay = 0.06

    def datagram_received(self, data: bytes, addr: object) -> None:
        asyncio.get_running_loop().call_later(self.delay, super().datagram_received, data, addr)


@contextlib.asynccontextmanager
async def far(relay: RelayConfig) -> AsyncIterator[RelayConfig]:
    """The same relay, further away."""
    way = Slow(("127.0.0.1", relay.quic_port or 0))
    entry = await way.open()
    try:
        yield RelayConfig(relay.url, quic_port=entry.port)
    finally:
        way.close()


async def home_becomes(ep: Endpoint, relay: RelayConfig) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await ep.watch_home_relay().wait_for(
            lambda states: any(state.connected and state.url == relay.url for state in states)
        )


async def test_nearest_relay_is_home_and_when_it_is_lost_another_one(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with our_relay(tmp_path / "one") as one, far(one) as first:
        async with contextlib.AsyncExitStack() as stack:
            second = await stack.enter_async_context(our_relay(tmp_path / "two"))
            async with endpoint(first, second) as ep:
                await home_becomes(ep, second)
                assert ep.metrics.snapshot()["socket:relay_home_change"] == 1
                report = await first_report(ep)
                assert report.preferred_relay == second.url == ep.addr.relay_urls[0]
                assert report.latency(first.url) is None or (
                    (report.latency(first.url) or 0) > (report.latency(second.url) or 0)
                )
                await stack.aclose()
                await home_becomes(ep, first)
                assert ep.addr.relay_urls == (first.url,)


async def test_without_reports_the_first_relay_of_the_list_is_home(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with our_relay(tmp_path / "one") as one, our_relay(tmp_path / "two") as two:
        async with far(one) as first, endpoint(first, two, net_report=False) as ep:
            await ep.online()
            assert ep.addr.relay_urls == (first.url,)


async def test_relays_without_udp_are_measured_over_tcp(tmp_path: Path) -> None:
    async with our_relay(tmp_path) as relay:
        silent = RelayConfig(relay.url, quic_port=None)
        async with endpoint(silent) as ep:
            report = await first_report(ep)
            assert not report.has_udp and report.global_v4 is None
            assert set(report.relay_latency) == {"https"} and report.preferred_relay == relay.url
        async with endpoint(relay, ip_transports=False, bind_addrs=[]) as ep:
            report = await first_report(ep)
            assert not report.has_udp and report.latency(relay.url) is not None


@pytest.mark.parametrize("running", [our_relay, rust_relay], ids=["ours", "iroh-relay"])
async def test_captive_portal(
    running: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"

    async def portal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers)
        writer.close()

    asked: list[int] = []

    def dialer(port: int) -> StreamDialer:
        async def here(ip: str, wanted: int, family: socket.AddressFamily) -> socket.socket:
            asked.append(wanted)
            return await connect(ip, port, family)

        return StreamDialer(ca=trusting(), connect=here)

    server = await asyncio.start_server(portal, "127.0.0.1", 0)
    async with running(tmp_path) as relay, server:
        url = relay.url
        false = dialer(server.sockets[0].getsockname()[1])
        assert await captive_portal(false, url) is True
        answers = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"
        assert await captive_portal(false, url) is True
        answers = b"HTTP/1.1 204 No Content\r\n\r\n"  # but no answer to the challenge
        assert await captive_portal(false, url) is True
        answers = b"\0\xff" * 40000
        assert await captive_portal(false, url) is None
        answers = b""
        assert await captive_portal(false, url) is None
        assert asked == [80] * 5
        assert await captive_portal(dialer(http_port(tmp_path)), url) is False
        assert await https_latency(StreamDialer(ca=trusting()), url) is not None
        assert await https_latency(StreamDialer(), url) is None  # nobody to trust
        answers = b"HTTP/1.1 404 Not Found\r\n\r\n"
        assert await https_latency(false, RelayUrl("http://127.0.0.1:80/")) is None


class StunServer(asyncio.DatagramProtocol):
    """Answers binding requests (RFC 8489) with where they come from, and a port of its own choice."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        ip, port = socket.inet_aton(addr[0]), self.port or addr[1]
        body = struct.pack(">HHBBH4s", 1, 8, 0, 1, port, ip)
        self.transport.sendto(struct.pack(">HH", 0x101, len(body)) + data[4:20] + body, addr)


async def test_stun_servers_stand_in_where_no_relay_tells_the_address() -> None:
    loop = asyncio.get_running_loop()
    names = []
    transports = []
    for port in (None, 9):
        transport, _ = await loop.create_datagram_endpoint(
            lambda port=port: StunServer(port),  # type: ignore[misc]
            local_addr=("127.0.0.1", 0),
        )
        transports.append(transport)
        names.append(f"127.0.0.1:{transport.get_extra_info('sockname')[1]}")
    config = NetReportConfig(stun_servers=["127.0.0.1:1", *names])
    async with Endpoint.bind(presets.minimal, bind_addrs=["127.0.0.1:0"], net_report=config) as ep:
        report = await first_report(ep)
        assert report.udp_v4 and report.global_v4 is not None
        assert report.stun[names[0]] == ep.bound_sockets[0]
        assert report.mapping_varies_by_dest_v4 is True  # as the second server has it
        assert IpAddr(report.global_v4) in ep.addr.addrs
        assert report.preferred_relay is None
        assert ep.metrics.snapshot()["net_report:stun_success"] == 2
    for transport in transports:
        transport.close()


async def test_reports_are_events_and_end_with_the_endpoint(tmp_path: Path) -> None:
    async with our_relay(tmp_path) as relay:
        async with endpoint(relay) as ep:
            events = ep.events()
            async with asyncio.timeout(PATIENCE_S):
                async for event in events:
                    if isinstance(event, NetReportMade):
                        break
            assert event.report == ep.net_report and "udp yes (IPv4)" in str(event)
            watcher = ep.watch_net_report()
            before = len(asyncio.all_tasks())
        assert [report async for report in watcher] == [event.report]
        assert ep.net_report == event.report
        assert len(asyncio.all_tasks()) < before
