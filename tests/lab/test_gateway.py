"""A real gateway: miniupnpd maps ports by each protocol, and endpoints are reached through them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from iroh_fast import BindAddr, Endpoint, EndpointAddr, IpAddr, SocketAddr, presets
from iroh_fast.portmapper import service
from iroh_fast.portmapper.service import gateway_of  # before the tests begin, which leave it out
from tests.lab.gateway import WAN, Home, missing_for_gateway
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
