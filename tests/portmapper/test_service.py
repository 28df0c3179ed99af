"""The port mapper of an endpoint: when there is one, what it adds, and what it leaves behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from ipaddress import IPv4Address
from typing import Any

import pytest

from iroh_fast import BindAddr, Endpoint, IpAddr, SocketAddr, presets
from iroh_fast.errors import ConfigError, PortmapError
from iroh_fast.net.local_addrs import NetworkState
from iroh_fast.portmapper import service
from iroh_fast.portmapper.model import PROTOCOLS, Gateway
from iroh_fast.portmapper.nat_pmp import NatPmp
from iroh_fast.portmapper.pcp import Pcp
from iroh_fast.portmapper.service import PortMapper, gateway_of, socket_to_map

from .fakes import HERE, nat_pmp_answer, pcp_answer, udp_gateway

EVERYWHERE = [BindAddr("0.0.0.0")]
look = gateway_of  # before the tests begin, which leave it out


def state(gateway: str | None, *ips: str) -> NetworkState:
    made = NetworkState.of(map(IPv4Address, ips))
    object.__setattr__(made, "gateway", gateway and IPv4Address(gateway))
    return made


def portmapped(ep: Endpoint, port: int) -> bool:
    return IpAddr(SocketAddr(IPv4Address("203.0.113.7"), port)) in ep.addr.addrs


async def until(ep: Endpoint, test: Any) -> None:
    async with asyncio.timeout(30):
        await ep.watch_addr().wait_for(lambda addr: test())


async def test_endpoint_has_the_mapped_address_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def give(data: bytes) -> list[bytes]:
        return [(pcp_answer if data[0] == 2 else nat_pmp_answer)(data, external=50000)]

    async with udp_gateway(give) as (gateway, server):
        monkeypatch.setattr(service, "gateway_of", lambda state, bound: gateway)
        options = {"bind_addrs": EVERYWHERE, "portmapper": ["nat_pmp", "pcp"]}
        async with Endpoint.bind(preset=presets.minimal, **options) as ep:
            port = ep.bound_sockets[0].port
            await until(ep, lambda: portmapped(ep, 50000))
            counters = ep.metrics.snapshot()
            assert counters["portmap:mapping_attempts"] == 1
            assert counters["portmap:pcp_available"] == counters["portmap:nat_pmp_available"] == 1
            assert counters["portmap:upnp_probes"] == 0
            (asked,) = [data for data in server.heard if data[:2] == b"\2\1"]
            assert asked[40:42] == port.to_bytes(2, "big")
        await asyncio.sleep(0.05)
        told = server.heard[-1]
        assert told[:2] == b"\2\1" and told[4:8] == bytes(4)  # given back
        assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []


async def test_change_of_the_network_changes_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    gateways: list[Gateway] = []

    def find(state: NetworkState, bound: SocketAddr) -> Gateway:
        if not gateways:
            raise PortmapError("no_gateway", "none")
        return gateways[-1]

    monkeypatch.setattr(service, "gateway_of", find)
    async with (
        udp_gateway(lambda data: [pcp_answer(data, external=50001)]) as (one, _),
        udp_gateway(lambda data: [pcp_answer(data, external=50002)]) as (other, _),
        Endpoint.bind(preset=presets.minimal, bind_addrs=EVERYWHERE, portmapper=["pcp"]) as ep,
    ):
        assert ep.metrics.snapshot()["portmap:probes_started"] == 0
        for gateway, port in ((one, 50001), (other, 50002)):
            gateways.append(gateway)
            await ep.network_change()
            await until(ep, lambda port=port: portmapped(ep, port))
        assert not portmapped(ep, 50001)
        gateways.clear()
        await ep.network_change()
        await until(ep, lambda: not portmapped(ep, 50002))


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, ()),
        ({"portmapper": None}, ()),
        ({"portmapper": True}, PROTOCOLS),
        ({"portmapper": ["upnp", "pcp"]}, ("pcp", "upnp")),
        ({"portmapper": ()}, ()),
        ({"relays": ["http://127.0.0.1:9"]}, PROTOCOLS),
        ({"relays": ["http://127.0.0.1:9"], "portmapper": False}, ()),
    ],
)
async def test_port_mapper_is_there_when_it_is_wanted(
    options: dict[str, Any], wanted: tuple[str, ...]
) -> None:
    async with Endpoint.bind(preset=presets.minimal, **options) as ep:
        known = ep._inside.services._known
        found = [tuple(one._names) for one in known if isinstance(one, PortMapper)]
        assert found == ([wanted] if wanted else [])
        assert ("portmap:mapping_attempts" in ep.metrics.snapshot()) == bool(wanted)


@pytest.mark.parametrize(
    "value, text",
    [
        ("upnp", r"write \['upnp'\]"),
        (["natpmp"], "no protocol 'natpmp', only 'pcp', 'nat_pmp', 'upnp'"),
        ([1], "no protocol 1"),
        (5, "portmapper"),
    ],
)
async def test_wrong_option_says_what_is_right(value: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        await Endpoint.bind(preset=presets.minimal, portmapper=value)


def test_socket_that_others_cannot_reach_gets_no_mapping() -> None:
    def chosen(*addrs: str) -> str:
        return str(socket_to_map([SocketAddr.parse(addr) for addr in addrs]))

    assert chosen("127.0.0.1:5", "[::]:6") == "None" == chosen()
    assert chosen("[::]:6", "127.0.0.1:5", "0.0.0.0:7", "10.0.0.2:8") == "0.0.0.0:7"


async def test_endpoint_on_loopback_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "gateway_of", lambda *_: pytest.fail("asked"))
    here = [BindAddr("127.0.0.1")]
    async with Endpoint.bind(preset=presets.minimal, bind_addrs=here, portmapper=True) as ep:
        await ep.network_change()
        await asyncio.sleep(0.05)


def test_gateway_is_asked_where_that_is_of_use() -> None:
    bound = SocketAddr.parse("10.1.2.3:5")
    assert look(state("10.1.2.1", "10.1.2.3"), bound) == Gateway(
        IPv4Address("10.1.2.1"), IPv4Address("10.1.2.3")
    )
    for gateway, own, text in (
        (None, "10.1.2.3:5", "no IPv4 gateway"),
        ("203.0.113.1", "203.0.113.9:5", "no mapping is needed"),
    ):
        with pytest.raises(PortmapError, match=text) as caught:
            look(state(gateway, "10.1.2.3"), SocketAddr.parse(own))
        assert caught.value.kind == "no_gateway"


def test_own_address_towards_the_gateway_is_the_one_of_the_way_there() -> None:
    # Loopback leads to itself, whatever else this machine has.
    assert look(state("127.0.0.1"), SocketAddr.parse("0.0.0.0:5")) == Gateway(HERE, HERE)


def test_protocols_are_made_in_order_of_preference() -> None:
    assert [type(one) for one in service.protocols_of(["nat_pmp", "pcp"])] == [Pcp, NatPmp]


def test_endpoint_that_asks_nobody_loads_no_port_mapper() -> None:
    run = (
        "import asyncio, sys; from iroh_fast import Endpoint, presets\n"
        "async def main():\n"
        " async with Endpoint.bind(preset=presets.minimal): pass\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith('iroh_fast.portmapper')])"
    )
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")
