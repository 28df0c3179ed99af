"""A real gateway: miniupnpd maps ports by each protocol, and endpoints are reached through them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from iroh_fast import BindAddr, Endpoint, EndpointAddr, IpAddr, SocketAddr, presets
from iroh_fast.portmapper import service
from iroh_fast.portmapper.service import gateway_of  # before the tests begin, which leave it out
from tests.lab.gateway import OUTSIDE, WAN, Home, missing_for_gateway
from tests.lab.lan import entered

pytestmark = pytest.mark.lab

ALPN = b"gateway/1"
V4 = [BindAddr("0.0.0.0")]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    if (reason := missing_for_gateway()) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(service, "gateway_of", gateway_of)
    with Home() as made:
        yield made


async def mapped(ep: Endpoint) -> IpAddr:
    """The address that the gateway gave."""

    def found() -> list[IpAddr]:
        addrs = ep.addr.ip_addrs
        return [IpAddr(addr) for addr in addrs if addr.ip == IPv4Address(WAN)]

    async with asyncio.timeout(30):
        await ep.watch_addr().wait_for(lambda addr: bool(found()))
    (addr,) = found()
    return addr


async def until_mappings(home: Home, count: int) -> None:
    async with asyncio.timeout(30):
        while len(home.mappings()) != count:
            await asyncio.sleep(0.05)


async def echo(ep: Endpoint) -> None:
    attempt = await ep.accept()
    assert attempt is not None
    conn = await attempt.accept()
    send, recv = await conn.accept_bi()
    await send.write_all(await recv.read_to_end(100))
    send.finish()
    await conn.wait_closed()


@pytest.mark.parametrize("protocol", ["pcp", "nat_pmp", "upnp"])
def test_endpoint_at_home_is_dialed_from_outside_over_a_mapped_port(
    home: Home, protocol: str
) -> None:
    async def main() -> None:
        with entered(home.outside):
            outside = await Endpoint.bind(preset=presets.minimal, bind_addrs=V4)
        inside = await Endpoint.bind(
            preset=presets.minimal, alpns=[ALPN], bind_addrs=V4, portmapper=[protocol]
        )
        serving = asyncio.ensure_future(echo(inside))
        async with outside, inside:
            addr = await mapped(inside)
            assert len(home.mappings()) == 1
            async with asyncio.timeout(30):
                async with outside.connect(EndpointAddr(inside.id, [addr]), ALPN) as conn:
                    send, recv = await conn.open_bi()
                    await send.write_all(b"hello")
                    send.finish()
                    assert await recv.read_to_end(100) == b"hello"
                await serving
        await until_mappings(home, 0)

    with entered(home.host):
        asyncio.run(main())


def test_mapping_is_had_again_after_the_gateway_restarted(home: Home) -> None:
    async def main() -> None:
        options = {"bind_addrs": V4, "portmapper": True}
        async with Endpoint.bind(preset=presets.minimal, **options) as ep:
            before = await mapped(ep)
            assert ep.metrics.snapshot()["portmap:pcp_available"] == 1
            home.lose_power()
            assert home.mappings() == []
            home.start()
            await ep.network_change()  # as when the link of the router comes back
            await until_mappings(home, 1)
            assert await mapped(ep) == before
            port = ep.bound_sockets[0].port
            assert before == IpAddr(SocketAddr(IPv4Address(WAN), port))

    with entered(home.host):
        asyncio.run(main())


RELAY = f"http://{OUTSIDE}:3340"
DOCTOR = (sys.executable, "-m", "iroh_fast", "doctor")
HOW = ("--relay-url", RELAY, "--json")


def event(lines: Iterable[str], name: str) -> dict[str, Any]:
    """What a doctor tells with this event."""
    for line in lines:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == name:
            return found
    raise AssertionError(f"nothing was told of {name}")


def paths_from_far(home: Home, id: str, seconds: int) -> dict[str, Any]:
    """What the doctor behind the other NAT tells of the paths to an endpoint."""
    argv = [*DOCTOR, "path", id, "--remote-relay", RELAY, "--no-port-map", *HOW]
    done = home.far.run(
        [*argv, "--seconds", str(seconds)], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    return event(done.stdout.splitlines(), "paths")


def test_two_strict_nats_are_crossed_by_a_mapped_port_alone(home: Home, tmp_path: Path) -> None:
    log = tmp_path / "relay.log"
    with log.open("wb") as file:
        argv = [sys.executable, "-m", "iroh_fast", "relay", "--dev"]
        relay = home.outside.popen(argv, stdout=file, stderr=file)
    for options in (("--no-port-map",), ()):
        argv = [*DOCTOR, "accept", *HOW, *options]
        doctor = home.host.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert doctor.stdout is not None
        id = event(doctor.stdout, "listening")["id"]
        try:
            found = paths_from_far(home, id, 2 if options else 30)
        finally:
            print("relay:", relay.poll(), log.read_text())
        if options:
            assert not found["direct"] and home.mappings() == []
            assert found["paths"][0]["remote"].startswith("relay:")
        else:
            assert found["direct"] and len(home.mappings()) == 1
            (used,) = (path for path in found["paths"] if path["selected"])
            assert used["remote"].startswith(f"ip:{WAN}:")
        doctor.kill()
