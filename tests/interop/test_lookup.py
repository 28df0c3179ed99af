"""Endpoints that know nothing but a key: ours and iroh's, through our DNS server and iroh's."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from iroh_fast import Endpoint, PublicKey, Router, SecretKey, presets
from iroh_fast.errors import AddressLookupError, NoAddress
from iroh_fast.lookup import (
    DnsLookup,
    DnsResolver,
    NameserverConfig,
    PkarrPublisher,
    PkarrResolver,
    SignedPacket,
)
from iroh_fast.relay import CaConfig, RelayServer, RelayServerConfig, RelayTlsConfig

from .dns_server import HOST, DnsServerProcess, Kind
from .links import echo_bi, exchanged
from .rust import RustPeer

ALPN = b"peer/echo"
V4 = "127.0.0.1:0"
SIZE = 200_000

pytestmark = pytest.mark.interop


@pytest.fixture(params=["ours", "iroh"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DnsServerProcess]:
    async with DnsServerProcess(request.param, tmp_path) as running:
        yield running


def lookups(server: DnsServerProcess, way: str, *, publish: bool = False) -> dict[str, Any]:
    """Options of one of our endpoints: how it finds others, and whether it can be found."""
    services: list[Any] = [
        DnsLookup(server.origin) if way == "dns" else PkarrResolver(server.pkarr)
    ]
    if publish:
        services = [PkarrPublisher(server.pkarr, addr_filter="unfiltered")]
    return {
        "preset": presets.minimal,
        "address_lookup": services,
        "dns_resolver": DnsResolver([server.nameserver]),
    }


async def published(server: DnsServerProcess, id: str | PublicKey) -> SignedPacket:
    """What the server has of an endpoint, once it has it; verified."""
    key = PublicKey(id)
    async with asyncio.timeout(30):
        while True:
            status, body = await asyncio.to_thread(server.get, key.to_z32())
            if status == 200:
                return SignedPacket.from_relay_payload(key, body)
            assert status == 404
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def listening(kind: str, server: DnsServerProcess) -> AsyncIterator[str]:
    """An endpoint that publishes itself and echoes; its id."""
    if kind == "iroh":
        async with RustPeer("echo", "--bind", V4, "--pkarr", server.pkarr) as peer:
            bound = await peer.event("bound")
            await published(server, bound["id"])
            yield bound["id"]
        return
    endpoint = await Endpoint.bind(
        bind_addrs=[V4], alpns=[ALPN], **lookups(server, "dns", publish=True)
    )
    async with Router(endpoint, {ALPN: echo_bi}):
        await published(server, endpoint.id)
        yield str(endpoint.id)


async def dialed(kind: str, way: str, server: DnsServerProcess, id: str) -> None:
    """Connect with nothing but the id, and talk."""
    if kind == "iroh":
        found = ("--pkarr", server.pkarr)
        if way == "dns":
            found = ("--dns", server.origin, "--nameserver", server.nameserver)  # type: ignore[assignment]
        async with RustPeer("dial", "--bind", V4, *found, "--id", id, "--bytes", str(SIZE)) as peer:
            echoed = await peer.event("echoed")
            assert (echoed["streams"], echoed["failed"]) == (1, 0)
        return
    async with (
        Endpoint.bind(bind_addrs=[V4], **lookups(server, way)) as ep,
        ep.connect(id, ALPN) as conn,
    ):
        assert str(conn.remote_id) == id
        assert await exchanged(conn, SIZE)


@pytest.mark.covers("iroh: pkarr_publish_dns_address_lookup")
@pytest.mark.parametrize("way", ["dns", "pkarr"])
@pytest.mark.parametrize("dials", ["ours", "iroh"])
@pytest.mark.parametrize("listens", ["ours", "iroh"])
async def test_lookup_by_key_alone(
    server: DnsServerProcess, listens: str, dials: str, way: str
) -> None:
    async with listening(listens, server) as id:
        await dialed(dials, way, server, id)


async def test_lookup_of_what_we_publish_is_what_iroh_publishes(server: DnsServerProcess) -> None:
    """The same endpoint, once ours and once iroh's, writes the same records."""
    secret = SecretKey.generate()
    packets: list[SignedPacket] = []
    with contextlib.closing(_port()) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    for kind in ("ours", "iroh"):
        if kind == "iroh":
            arguments = ("--secret", secret.to_hex(), "--bind", address, "--pkarr", server.pkarr)
            async with RustPeer("echo", *arguments) as peer:
                await peer.event("bound")
                packets.append(await _newer(server, secret.public, packets))
            continue
        options = lookups(server, "dns", publish=True)
        async with Endpoint.bind(bind_addrs=[address], secret_key=secret, **options):
            packets.append(await _newer(server, secret.public, packets))
    ours, real = packets
    assert ours.dns == real.dns
    assert real.more_recent_than(ours)


def _port() -> Any:
    import socket

    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


async def _newer(server: DnsServerProcess, id: PublicKey, than: list[SignedPacket]) -> SignedPacket:
    """The next packet of an endpoint that has an address."""
    async with asyncio.timeout(30):
        while True:
            packet = await published(server, id)
            if packet.txt_values() and all(packet.more_recent_than(old) for old in than):
                return packet
            await asyncio.sleep(0.05)


# --- over HTTPS --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ours", "iroh"])
async def test_lookup_over_https_with_a_certificate_of_files(kind: Kind, tmp_path: Path) -> None:
    """Both servers find the files in the same place, and both kinds of endpoints take them."""
    async with (
        DnsServerProcess(kind, tmp_path, tls=True) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        ca = CaConfig(roots="none", extra=[server.roots.read_text()])
        options = lookups(server, "pkarr", publish=True)
        endpoint = await Endpoint.bind(bind_addrs=[V4], ca=ca, **options)
        await stack.enter_async_context(Router(endpoint, {ALPN: echo_bi}))
        theirs = ("--bind", V4, "--pkarr", server.pkarr, "--ca-pem", str(server.roots))
        peer = await stack.enter_async_context(RustPeer("echo", *theirs))
        bound = await peer.event("bound")
        await published(server, endpoint.id)
        await published(server, bound["id"])
        arguments = ("--id", str(endpoint.id), "--bytes", str(SIZE))
        async with RustPeer("dial", *theirs, *arguments) as dialing:
            assert (await dialing.event("echoed"))["failed"] == 0
        async with (
            Endpoint.bind(bind_addrs=[V4], ca=ca, **lookups(server, "pkarr")) as ep,
            ep.connect(bound["id"], ALPN) as conn,
        ):
            assert await exchanged(conn, SIZE)
        # And the same server as a name server over HTTPS, and over TCP.
        over_https = NameserverConfig.https(HOST).with_port(server.https_port)
        over_tcp = NameserverConfig.tcp(HOST).with_port(server.dns_port)
        for nameserver in (over_https.with_tls_server_name("localhost"), over_tcp):
            options = {**lookups(server, "dns"), "dns_resolver": DnsResolver([nameserver])}
            async with (
                Endpoint.bind(bind_addrs=[V4], ca=ca, **options) as ep,
                ep.connect(bound["id"], ALPN) as conn,
            ):
                assert await exchanged(conn, SIZE)


# --- through our relay, with no other way ----------------------------------------------------


@pytest.fixture
async def relay() -> AsyncIterator[RelayServer]:
    tls = RelayTlsConfig(
        cert_mode="SelfSigned",
        https_bind_addr=("127.0.0.1", 0),
        quic_bind_addr=("127.0.0.1", 0),
        hostname=("localhost", "127.0.0.1"),
    )
    config = RelayServerConfig.dev(tls=tls, enable_quic_addr_discovery=True)
    async with RelayServer(config) as running:
        yield running


@pytest.mark.parametrize("dials", ["ours", "iroh"])
@pytest.mark.parametrize("listens", ["ours", "iroh"])
async def test_lookup_by_key_alone_through_our_server_and_our_relay(
    relay: RelayServer, tmp_path: Path, listens: str, dials: str
) -> None:
    assert relay.certificate is not None
    roots = tmp_path / "roots.pem"
    roots.write_bytes(relay.certificate)
    ca = CaConfig(roots="none", extra=[relay.certificate.decode()])
    quic = str(relay.addresses["quic"][1])
    theirs = ("--relay", relay.url, "--qad-port", quic, "--ca-pem", str(roots), "--relay-only")
    ours: dict[str, Any] = {"relays": [relay.url], "ca": ca, "ip_transports": False}
    async with DnsServerProcess("ours", tmp_path) as server, contextlib.AsyncExitStack() as stack:
        found = ("--dns", server.origin, "--nameserver", server.nameserver)
        if listens == "iroh":
            peer = await stack.enter_async_context(
                RustPeer("echo", *theirs, "--pkarr", server.pkarr)
            )
            id = (await peer.event("bound"))["id"]
        else:
            endpoint = await Endpoint.bind(**ours, **lookups(server, "dns", publish=True))
            await stack.enter_async_context(Router(endpoint, {ALPN: echo_bi}))
            id = str(endpoint.id)
        async with asyncio.timeout(30):
            while (await published(server, id)).txt_values() != [f"relay={relay.url}"]:
                await asyncio.sleep(0.05)
        if dials == "iroh":
            arguments = ("--id", id, "--bytes", str(SIZE))
            async with RustPeer("dial", *theirs, *found, *arguments) as peer:
                echoed = await peer.event("echoed")
                assert (echoed["streams"], echoed["failed"]) == (1, 0)
        else:
            async with (
                Endpoint.bind(**ours, **lookups(server, "dns")) as ep,
                ep.connect(id, ALPN) as conn,
            ):
                assert all(path.is_relay for path in conn.paths)
                assert await exchanged(conn, SIZE)
    assert relay.metrics()["bytes_sent"] > SIZE


# --- a server that goes away -------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_lookup_after_our_server_was_started_again(
    tmp_path: Path, how: signal.Signals
) -> None:
    """What was published before is found after, though nobody publishes again."""
    async with DnsServerProcess("ours", tmp_path) as server, contextlib.AsyncExitStack() as stack:
        ids = [
            await stack.enter_async_context(listening(kind, server)) for kind in ("ours", "iroh")
        ]
        before = [await published(server, id) for id in ids]
        await server.stop(how)
        for id in ids:
            async with Endpoint.bind(bind_addrs=[V4], **lookups(server, "pkarr")) as ep:
                with pytest.raises(NoAddress) as caught:
                    await ep.connect(id, ALPN)
                (error,) = caught.value.lookup_errors
                assert isinstance(error, AddressLookupError) and error.provenance == "pkarr"
        await server.start()
        assert [await published(server, id) for id in ids] == before
        for id in ids:
            await dialed("ours", "dns", server, id)
            await dialed("iroh", "dns", server, id)


async def test_lookup_of_an_endpoint_that_publishes_while_our_server_is_away(
    tmp_path: Path,
) -> None:
    """The publisher tries again until there is somebody."""
    async with DnsServerProcess("ours", tmp_path) as server, contextlib.AsyncExitStack() as stack:
        await server.stop()
        options = lookups(server, "dns", publish=True)
        endpoint = await Endpoint.bind(bind_addrs=[V4], **options)
        await stack.enter_async_context(Router(endpoint, {ALPN: echo_bi}))
        peer = await stack.enter_async_context(
            RustPeer("echo", "--bind", V4, "--pkarr", server.pkarr)
        )
        bound = await peer.event("bound")
        await asyncio.sleep(1.5)
        await server.start()
        for id in (str(endpoint.id), bound["id"]):
            await published(server, id)
            await dialed("ours", "dns", server, id)
