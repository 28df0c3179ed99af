"""The doctor: what it tells of networks and endpoints, with everything on this machine."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from iroh_fast import (
    Endpoint,
    EndpointAddr,
    EndpointId,
    EndpointTicket,
    IpAddr,
    RelayUrl,
    Router,
    SocketAddr,
    presets,
)
from iroh_fast.cli.doctor import arguments, binding, gateways, network, peers, run, throughput
from iroh_fast.cli.doctor.drawing import picture
from iroh_fast.cli.doctor.network import Findings, facts, words
from iroh_fast.cli.doctor.show import Failed, Out
from iroh_fast.cli.doctor.wire import ALPN, PING_ALPN, Request
from iroh_fast.errors import PortmapError
from iroh_fast.net.local_addrs import NetworkState
from iroh_fast.net_report import NetReport
from iroh_fast.portmapper.model import Gateway
from tests.net.reports import our_relay, trusting
from tests.relay.test_relay_qad import authority, pem

ID = "ae58ff8833241ac82d6ff7611046ed67b5072d142c588d0063e942d9a75502b6"
HERE = ("--no-relay", "--disable-address-lookup", "--socket-addr", "127.0.0.1:0")


class Told(Out):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__(as_json=False)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.lines: list[str] = []

    def tell(self, event: str, text: str | list[str], **facts: Any) -> None:
        json.dumps(facts, default=str)
        self.events.append((event, facts))
        self.lines += [text] if isinstance(text, str) else text

    def of(self, event: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self.events if name == event]

    async def first(self, event: str) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while not self.of(event):
                await asyncio.sleep(0.01)
        return self.of(event)[0]


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    return parser.parse_args(argv)


def reach(listening: dict[str, Any]) -> tuple[str, ...]:
    return (listening["id"], *(f"--remote-endpoint={addr}" for addr in listening["addrs"]), *HERE)


# ---------------------------------------------------------------- the protocol
@pytest.mark.parametrize(
    "request_, text",
    [
        (Request("echo", 16 << 20), "00 80808008" + "00" * 11),
        (Request("drain", 16 << 20), "01 80808008" + "00" * 11),
        (Request("send", 16 << 20, 1 << 20), "02 80808008 808040" + "00" * 8),
    ],
)
def test_requests_are_those_of_iroh_doctor(request_: Request, text: str) -> None:
    assert request_.encode() == bytes.fromhex(text) and len(request_.encode()) == 16
    assert Request.decode(request_.encode()) == request_


@pytest.mark.parametrize(
    "text",
    [
        *("", "00", "03" + "00" * 15, "ff" * 16, "02 05 00" + "00" * 13),
        *("02 05 81808008" + "00" * 10, "02 05 ffffffff0f" + "00" * 9, "00" + "ff" * 15),
    ],
)
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a request|blocks of"):
        Request.decode(bytes.fromhex(text))


async def test_throughput_is_measured_between_two_doctors() -> None:
    told, other = Told(), Told()
    options = ("--size", "300000", "--iterations", "2", "--once", *HERE)
    accepting = asyncio.ensure_future(throughput.accept(parsed("accept", *options), told))
    how = await told.first("listening")
    assert f"iroh-fast doctor connect {how['id']} --remote-endpoint" in told.lines[1]
    async with asyncio.timeout(60):
        assert await throughput.connect(parsed("connect", *reach(how)), other) == 0
        assert await accepting == 0
    tests = ["upload", "download", "echo"] * 2
    assert [facts["test"] for facts in told.of("speed")] == tests
    assert all(facts["bytes"] == 300000 for facts in told.of("speed"))
    # What one side uploads the other one downloads.
    assert [facts["test"] for facts in other.of("speed")] == ["download", "upload", "echo"] * 2
    assert told.of("finished") and other.of("finished") and not told.of("failed")
    assert other.of("path_selected")[0]["remote"] == f"ip:{how['addrs'][0]}"


@pytest.mark.parametrize("request_", [bytes(15), b"\x03" + bytes(15), b"\x02\x05\x00" + bytes(13)])
async def test_passive_side_refuses_what_it_does_not_know(request_: bytes) -> None:
    async with Endpoint.bind(
        preset=presets.minimal, bind_addrs=["127.0.0.1:0"], alpns=[ALPN]
    ) as ep:
        (addr,) = (a for a in ep.bound_sockets if a.ip.version == 4)
        to = (str(ep.id), f"--remote-endpoint={addr}", *HERE)
        connecting = asyncio.ensure_future(throughput.connect(parsed("connect", *to), Told()))
        attempt = await ep.accept()
        assert attempt is not None
        conn = await attempt.accept()
        send, _ = await conn.open_bi()
        await send.write_all(request_)
        send.finish()
        async with asyncio.timeout(30):
            with pytest.raises(Failed, match="something unknown"):
                await connecting


async def test_active_side_notices_missing_bytes() -> None:
    told = Told()
    accepting = asyncio.ensure_future(
        throughput.accept(parsed("accept", "--size", "1000", "--once", *HERE), told)
    )
    how = await told.first("listening")
    async with Endpoint.bind(preset=presets.minimal) as ep:
        from iroh_fast.cli.doctor.binding import target_of

        conn = await ep.connect(target_of(parsed("connect", *reach(how))), ALPN)
        send, recv = await conn.accept_bi()
        assert Request.decode(await recv.readexactly(16)) == Request("drain", 1000)
        await send.write_all(b"too much")
        send.finish()
        async with asyncio.timeout(30):
            assert await accepting == 1
    assert "8 bytes came back instead of 0" in told.of("failed")[0]["error"]


# ---------------------------------------------------------------- one peer
@pytest.fixture
async def listening() -> Any:
    told = Told()
    accepting = asyncio.ensure_future(throughput.accept(parsed("accept", *HERE), told))
    yield await told.first("listening")
    accepting.cancel()
    await asyncio.gather(accepting, return_exceptions=True)


async def test_ping_counts_answers(listening: dict[str, Any]) -> None:
    told = Told()
    args = parsed("ping", "--count", "3", "--interval", "0", *reach(listening))
    assert await peers.ping(args, told) == 0
    assert [facts["number"] for facts in told.of("answer")] == [1, 2, 3]
    assert told.of("answer")[0]["path"]["remote"] == f"ip:{listening['addrs'][0]}"
    assert told.of("summary") == [{"answers": 3, "count": 3}]


async def test_peer_that_speaks_no_ping_is_told_apart_from_nobody() -> None:
    async with Endpoint.bind(
        preset=presets.minimal, bind_addrs=["127.0.0.1:0"], alpns=[b"x"]
    ) as ep:
        (addr,) = (a for a in ep.bound_sockets if a.ip.version == 4)
        accepting = asyncio.ensure_future(anext(aiter(ep.connections())))
        to = (str(ep.id), f"--remote-endpoint={addr}", *HERE)
        with pytest.raises(Failed, match="is there .* does not speak iroh-ping"):
            await peers.ping(parsed("ping", *to), Told())
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)


async def test_ping_is_that_of_iroh(listening: dict[str, Any]) -> None:
    from iroh_fast.cli.doctor.binding import target_of

    async with Endpoint.bind(preset=presets.minimal) as ep:
        target = target_of(parsed("ping", *reach(listening)))
        async with ep.connect(target, PING_ALPN) as conn:
            assert await peers.ask(conn) > 0
        async with ep.connect(target, PING_ALPN) as conn:
            send, recv = await conn.open_bi()
            await send.write_all(b"PONG")
            send.finish()
            assert await recv.received_reset() == 1


async def test_relay_that_is_away_is_told_and_gone_without(
    listening: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "SETTLE_S", 0.2)
    told = Told()
    away = ("--relay-url=http://127.0.0.1:9", "--count=1", "--socket-addr=127.0.0.1:0")
    addrs = [IpAddr(SocketAddr.parse(addr)) for addr in listening["addrs"]]
    ticket = str(EndpointTicket(EndpointAddr(EndpointId(listening["id"]), addrs)))
    assert await peers.ping(parsed("ping", ticket, *away), told) == 0
    assert "connect" in told.of("no_relay")[0]["error"] and len(told.of("answer")) == 1


async def test_path_tells_what_is_used(listening: dict[str, Any]) -> None:
    told = Told()
    assert await peers.path(parsed("path", "--require-direct", *reach(listening)), told) == 0
    (found,) = told.of("paths")
    assert found["direct"] is True and found["why_relayed"] is None
    (one,) = found["paths"]
    assert one["selected"] and one["mtu"] >= 1200
    assert told.lines[-1] == "direct" and "MTU" in told.lines[-2]


async def test_lookup_of_nobody_fails() -> None:
    told = Told()
    args = parsed("lookup", ID, "--no-relay", "--pkarr", "http://127.0.0.1:9/pkarr")
    assert await peers.lookup(args, told) == 1
    assert told.of("failure")[0]["service"] == "pkarr" and told.of("summary") == [{"found": 0}]


# ---------------------------------------------------------------- the network
RELAYS = {RelayUrl("https://a.example/"): 0.0213, RelayUrl("https://b.example/"): "refused"}
URL = next(iter(RELAYS))
NETWORK = NetworkState.of([IPv4Address("192.168.1.20")])
REPORT = NetReport(
    udp_v4=True,
    global_v4=SocketAddr.parse("203.0.113.7:41641"),
    mapping_varies_by_dest_v4=False,
    preferred_relay=URL,
    relay_latency={"qad_v4": {URL: 0.02}},
)


def findings(report: NetReport | None, **more: Any) -> Findings:
    made = Findings(NETWORK, report, URL, dict(RELAYS), local=["192.168.1.20:41641"])
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_words_say_what_the_report_says() -> None:
    portmap = {"upnp": None, "pcp": PortmapError("timeout")}
    text = "\n".join(words(findings(REPORT, portmap=portmap)))
    assert "seen from outside as 203.0.113.7:41641, the same for everybody" in text
    assert "UDP over IPv6 does not work" in text
    assert "a.example/: ping 21.3 ms (QUIC over IPv4 20.0 ms), home relay" in text
    assert "b.example/: refused" in text and "port mapping: UPnP\n" in text
    for varies, said in ((True, "symmetric NAT"), (None, "only one server saw it")):
        changed = NetReport(
            udp_v4=True, global_v4=REPORT.global_v4, mapping_varies_by_dest_v4=varies
        )
        assert said in "\n".join(words(findings(changed)))
    assert "UDP is blocked" in "\n".join(words(findings(NetReport(captive_portal=True))))
    assert "log in" in "\n".join(words(findings(NetReport(captive_portal=True))))
    assert "no report" in "\n".join(words(findings(None)))


def test_facts_are_json() -> None:
    made = json.loads(json.dumps(facts(findings(REPORT)), default=str))
    assert made["report"]["global_v4"] == "203.0.113.7:41641" and made["report"]["udp_v6"] is False
    assert made["relays"] == {"https://a.example/": 0.0213, "https://b.example/": "refused"}
    assert json.loads(json.dumps(facts(findings(None)), default=str))["report"] is None


def test_picture_shows_nat_and_relays() -> None:
    local = ["192.168.1.20:41641"]
    assert picture(REPORT, local, ["https://a.example/ 21.3 ms (home)"]) == [
        "┌────────────────────┐     ┌────────────────────────┐",
        "│ this machine       │─────│ NAT                    │─────▶ https://a.example/ 21.3 ms (home)",
        "│ 192.168.1.20:41641 │     │ 203.0.113.7:41641      │",
        "└────────────────────┘     │ easy: one port for all │",
        "                           └────────────────────────┘",
    ]
    assert any("──X──" in line for line in picture(NetReport(), local, []))
    # No NAT: what others see is the socket itself.
    assert "NAT" not in "".join(picture(REPORT, ["203.0.113.7:41641"], []))
    assert len(picture(None, [], [])) == 4
    many = picture(
        REPORT, [f"10.0.0.{i}:5" for i in range(40)], [f"https://{i}/" for i in range(40)]
    )
    assert len(many) < 12 and "..." in "".join(many)


def test_output_without_unicode_is_drawn_in_ascii(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from iroh_fast.cli.doctor import show

    assert show._shown("┌─\x1b[2J▶") == "┌─\\x1b[2J▶"
    monkeypatch.setattr(show.sys, "stdout", type("Ascii", (), {"encoding": "ascii"}))
    assert show._shown("┌─│▶").isascii()


async def test_report_of_a_relay_tells_how_others_see_us(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(pem(authority()[0]))
    async with our_relay(tmp_path) as relay:
        options = (f"--relay-url={relay.url}", f"--quic-port={relay.quic_port}", f"--ca={ca}")
        here = ("--no-port-map-probe", "--socket-addr", "127.0.0.1:0")
        told = Told()
        assert await network.report(parsed("report", "--quic-ipv4", *options, *here), told) == 0
        (found,) = told.of("report")
        assert found["report"]["udp_v4"] and found["report"]["global_v4"].startswith("127.0.0.1:")
        assert found["home_relay"] == relay.url and found["relays"][relay.url] < 5
        assert "qad_v4" in found["report"]["relay_latency"]
        assert any("UDP over IPv4 works; seen from outside as 127" in line for line in told.lines)
        told = Told()
        assert await network.report(parsed("report", "--quic-ipv6", *options, *here), told) == 1
        assert told.of("failed") == [{"failed": ["quic_ipv6"]}]


async def test_path_over_a_relay_tells_why(tmp_path: Path) -> None:
    async with our_relay(tmp_path) as relay:
        ca = tmp_path / "ca.pem"
        ca.write_bytes(pem(authority()[0]))
        alone = Endpoint.bind(
            preset=presets.minimal,
            ip_transports=False,
            relays=[relay],
            alpns=[PING_ALPN],
            ca=trusting(),
        )
        async with alone as ep, Router(ep, {PING_ALPN: throughput._answer_ping}):
            await ep.online()
            to = (str(ep.id), f"--remote-relay={relay.url}")
            relays = (f"--relay-url={relay.url}", f"--quic-port={relay.quic_port}", f"--ca={ca}")
            told = Told()
            args = parsed("path", "--seconds=0.3", "--require-direct", *to, *relays)
            assert await peers.path(args, told) == 1
            (found,) = told.of("paths")
            assert not found["direct"] and found["why_relayed"]
            assert found["paths"][0]["remote"] == f"relay:{relay.url}"
            assert told.lines[-1] == f"relayed: {found['why_relayed']}"


async def test_report_without_anything_fails() -> None:
    told = Told()
    args = parsed(
        "report",
        "--relay-url",
        "http://127.0.0.1:9",
        "--no-port-map-probe",
        "--socket-addr",
        "127.0.0.1:0",
    )
    network_limit = network.REPORT_S
    network.REPORT_S = 0.5
    try:
        assert await network.report(args, told) == 1
    finally:
        network.REPORT_S = network_limit
    assert told.of("failed") == [{"failed": ["everything"]}]
    (found,) = told.of("report")
    assert list(found["relays"]) == ["http://127.0.0.1:9/"]


# ---------------------------------------------------------------- the gateway
@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def has(**found: PortmapError | None) -> None:
        async def probed(_: Gateway, names: list[str]) -> dict[str, PortmapError | None]:
            return {name: found.get(name, PortmapError("timeout")) for name in names}

        here = Gateway(IPv4Address("127.0.0.1"), IPv4Address("127.0.0.1"))
        monkeypatch.setattr(gateways, "here", lambda port=9: here)
        monkeypatch.setattr(gateways, "probed", probed)

    return has


async def test_port_map_probe_prints_the_line_of_iroh_doctor(gateway: Callable[..., None]) -> None:
    gateway(nat_pmp=None)
    told = Told()
    assert await gateways.port_map_probe(parsed("port-map-probe"), told) == 0
    assert told.lines == ["portmap={ UPnP: false, PMP: true, PCP: false }"]
    one = parsed("port-map-probe", "--enable-nat-pmp")
    assert await gateways.port_map_probe(one, told) == 0
    both = parsed("port-map-probe", "--enable-nat-pmp", "--enable-upnp")
    assert await gateways.port_map_probe(both, told) == 1
    gateway()
    assert await gateways.port_map_probe(parsed("port-map-probe"), told) == 1


async def test_port_is_mapped_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from iroh_fast.portmapper import service
    from tests.portmapper.fakes import nat_pmp_answer, udp_gateway

    async with udp_gateway(lambda data: [nat_pmp_answer(data, external=50000)]) as (there, server):
        monkeypatch.setattr(service, "gateway_of", lambda *_: there)
        told = Told()
        assert await gateways.port_map(parsed("port-map", "nat_pmp", "4000"), told) == 0
        assert told.lines == ["Port mapping ready: 203.0.113.7:50000"]
        await asyncio.sleep(0.05)
        assert server.heard[-1][4:] == (4000).to_bytes(2, "big") + bytes(6)


# ---------------------------------------------------------------- exit status
def test_failure_is_told_and_is_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, text in (
        (("ping", "nobody"), "error: "),
        (("path", ID, "--remote-relay", "foo"), "error: "),
        (("connect", ID, "--remote-endpoint", "foo"), "error: not a socket address: 'foo'\n"),
        (("port-map", "pcp", "70000"), "error: a port is 1 to 65535\n"),
        (("port-map", "pcp", "4000"), "error: not in tests\n"),
        (("accept", "--no-relay", "--relay-url", "http://127.0.0.1:9"), "do not go together"),
        (("accept", "--size", "0", *HERE), "at least 1"),
        (("accept", "--ca", "/nowhere", *HERE), "cannot read /nowhere"),
    ):
        assert run(parsed(*argv)) == 1
        assert text in capsys.readouterr().err
    assert run(parsed("port-map", "pcp", "70000", "--json")) == 1
    assert json.loads(capsys.readouterr().out)["event"] == "error"
