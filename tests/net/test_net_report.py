"""Net reports of endpoints against relays: ours, the one of iroh, and none at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.net.reports import PATIENCE_S, our_relay, rust_relay, trusting
from tests.relay.test_relay_qad import Nat

from iroh_fast import Endpoint, presets
from iroh_fast.addr import IpAddr, SocketAddr
from iroh_fast.errors import ConfigError
from iroh_fast.net_report import NetReport, NetReportConfig
from iroh_fast.relay.map import RelayConfig

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
