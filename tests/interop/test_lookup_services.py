"""Our resolver, publisher and resolver of packets with both servers, without endpoints: each protocol, and a busy server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iroh_fast import SecretKey
from iroh_fast.aio.owner import Owner
from iroh_fast.errors import DnsNxDomain, DnsResolveFailed, PkarrError
from iroh_fast.lookup import (
    DnsLookup,
    DnsResolver,
    EndpointData,
    LookupFailure,
    LookupItem,
    NameserverConfig,
    PkarrPublisher,
    PkarrResolver,
)
from iroh_fast.web.ca import CaConfig
from iroh_fast.web.client import HttpClient

from .dns_server import HOST, DnsServerProcess, free_port

pytestmark = pytest.mark.interop

DATA = EndpointData(["https://relay.example/", "192.0.2.1:5", "[2001:db8::1]:7"], "hello")
INSECURE = CaConfig(roots="none", insecure=True)  # both servers make their own certificate


class Host:
    """What services see of an endpoint."""

    def __init__(self, resolver: DnsResolver) -> None:
        self.secret_key = SecretKey.generate()
        self.id = self.secret_key.public
        self.owner = Owner(asyncio.get_running_loop())
        self.dns_resolver = resolver
        self.http = HttpClient(resolver, ca=INSECURE)

    async def close(self) -> None:
        await self.http.close()
        await self.dns_resolver.close()


class Server(DnsServerProcess):
    """One with HTTPS."""

    def __init__(self, kind: Any, folder: Path, **options: Any) -> None:
        super().__init__(kind, folder, **options)
        self.https_port = free_port()
        with self.config.open("a") as config:
            config.write(
                f'\n[https]\nport = {self.https_port}\nbind_addr = "{HOST}"\n'
                'domains = ["localhost"]\ncert_mode = "self_signed"\n'
            )


@pytest.fixture(params=["ours", "iroh"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(request.param, tmp_path) as running:
        yield running


async def published(service: Any) -> None:
    service.publish(DATA)
    async with asyncio.timeout(30):
        while not service.published:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("protocol", ["udp", "tcp", "https"])
async def test_published_endpoint_is_found_by_each_protocol(server: Server, protocol: Any) -> None:
    port = server.https_port if protocol == "https" else server.dns_port
    name = "localhost" if protocol == "https" else None
    config = NameserverConfig(HOST, protocol, port, name)
    host: Any = Host(DnsResolver([config], ca=INSECURE))
    secure = f"https://localhost:{server.https_port}/pkarr"
    url = secure if protocol == "https" else f"http://localhost:{server.http_port}/pkarr/"
    publisher = PkarrPublisher(url, addr_filter="unfiltered").into_address_lookup(host)
    await published(publisher)
    for lookup in (PkarrResolver(url), DnsLookup(server.origin), DnsLookup(".")):
        found = [item async for item in lookup.into_address_lookup(host).resolve(host.id)]
        assert [type(item) for item in found] == [LookupItem]
        assert found[0].info.data == DATA
    other = SecretKey.generate().public
    (failure,) = [
        item async for item in PkarrResolver(url).into_address_lookup(host).resolve(other)
    ]
    assert isinstance(failure, LookupFailure) and isinstance(failure.error, PkarrError)
    assert (failure.error.kind, failure.error.status) == ("HttpRequest", 404)
    with pytest.raises(DnsNxDomain):
        await host.dns_resolver.lookup_txt(f"_iroh.{other.to_z32()}.{server.origin}")
    await publisher.close()
    await host.close()


@pytest.mark.parametrize("kind", ["ours", "iroh"])
async def test_server_that_has_enough_is_left_alone_and_gets_the_last_word(
    kind: Any, tmp_path: Path
) -> None:
    """Three publishes at once are one more than it takes: the third waits as it was told."""
    async with Server(kind, tmp_path, rate_limit="simple") as server:
        host: Any = Host(DnsResolver())
        url = f"http://localhost:{server.http_port}/pkarr"
        publisher = PkarrPublisher(url).into_address_lookup(host)
        for n in range(3):
            publisher.publish(EndpointData([f"https://relay{n}.example/"]))
            async with asyncio.timeout(30):
                while publisher.published + publisher.failed < n + 1:
                    await asyncio.sleep(0.01)
        assert (publisher.published, publisher.failed) == (2, 1)
        async with asyncio.timeout(60):
            while publisher.published < 3:
                await asyncio.sleep(0.05)
        (item,) = [
            item async for item in PkarrResolver(url).into_address_lookup(host).resolve(host.id)
        ]
        assert str(item.info.data.relay_urls[0]) == "https://relay2.example/"
        await publisher.close()
        await host.close()


async def test_server_refuses_what_it_knows_nothing_of(server: Server) -> None:
    async with DnsResolver([server.nameserver]) as resolver:
        with pytest.raises((DnsNxDomain, DnsResolveFailed)):
            await resolver.lookup_ipv4("www.example.com.")
