"""Released programs in Rust on both sides of a relay connection: an endpoint on ours, ours on theirs."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from iroh_fast import Connection, Endpoint, EndpointAddr, Router, presets
from iroh_fast.relay import CaConfig, RelayServer, RelayServerConfig, RelayTlsConfig

from .links import echo_bi, exchanged
from .rust import RustPeer, program

ALPN = b"peer/echo"
SIZE = 1 << 20


@pytest.fixture
async def relay() -> AsyncIterator[RelayServer]:
    tls = RelayTlsConfig(
        cert_mode="SelfSigned",
        https_bind_addr=("127.0.0.1", 0),
        quic_bind_addr=("127.0.0.1", 0),
        hostname=("localhost", "127.0.0.1"),
    )
    config = RelayServerConfig.dev(tls=tls, enable_quic_addr_discovery=True)
    async with RelayServer(config) as server:
        yield server


@pytest.fixture
def options(relay: RelayServer, tmp_path: Path) -> tuple[str, ...]:
    """What a peer has to be told to use our relay over TLS."""
    assert relay.certificate is not None
    roots = tmp_path / "roots.pem"
    roots.write_bytes(relay.certificate)
    quic = str(relay.addresses["quic"][1])
    return ("--relay", relay.url, "--qad-port", quic, "--ca-pem", str(roots))


def trusting(relay: RelayServer) -> CaConfig:
    assert relay.certificate is not None
    return CaConfig(roots="none", extra=[relay.certificate.decode()])


async def test_rust_endpoint_echoes_over_our_tls_relay(
    relay: RelayServer, options: tuple[str, ...]
) -> None:
    async with RustPeer("echo", *options, "--relay-only") as peer:
        bound = await peer.event("bound")
        async with (
            Endpoint.bind(
                preset=presets.minimal, relays=[relay.url], ca=trusting(relay), ip_transports=False
            ) as ep,
            ep.connect(EndpointAddr(bound["id"], relay_url=relay.url), ALPN) as conn,
        ):
            assert all(path.is_relay for path in conn.paths)
            assert await exchanged(conn, SIZE)
    metrics = relay.metrics()
    assert metrics["accepts"] == 2 and metrics["bytes_sent"] > 2 * SIZE
    assert metrics["send_packets_recv"] >= metrics["send_packets_sent"] > 0


async def test_rust_endpoint_dials_us_over_our_tls_relay(
    relay: RelayServer, options: tuple[str, ...]
) -> None:
    async with Router(
        await Endpoint.bind(
            preset=presets.minimal, relays=[relay.url], ca=trusting(relay), ip_transports=False
        ),
        {ALPN: echo_bi},
    ) as router:
        await router.endpoint.online()
        arguments = ("--id", str(router.endpoint.id), "--via-relay", relay.url)
        data = ("--streams", "4", "--bytes", str(SIZE))
        async with RustPeer("dial", *options, "--relay-only", *arguments, *data) as peer:
            echoed = await peer.event("echoed")
            assert (echoed["streams"], echoed["failed"]) == (4, 0)


async def test_rust_endpoint_learns_its_address_from_our_relay(
    relay: RelayServer, options: tuple[str, ...]
) -> None:
    async with RustPeer("echo", *options, "--net-report") as peer:
        await peer.event("bound")
        async with asyncio.timeout(60):
            while not relay.metrics()["qad_connections"]:
                await asyncio.sleep(0.05)
    assert relay.metrics()["qad_incoming_error"] == 0


@pytest.fixture
def rust_relay(tmp_path: Path) -> Iterator[str]:
    """A running `iroh-relay` without TLS; its URL."""
    command = program("iroh-relay")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    settings = tmp_path / "relay.toml"
    settings.write_text(f'http_bind_addr = "127.0.0.1:{port}"\nenable_metrics = false\n')
    process = subprocess.Popen(
        [command, "--config-path", str(settings)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


async def test_our_endpoints_talk_over_the_relay_in_rust(rust_relay: str) -> None:
    async with (
        Router(
            await Endpoint.bind(preset=presets.minimal, relays=[rust_relay], ip_transports=False),
            {ALPN: echo_bi},
        ) as router,
        Endpoint.bind(preset=presets.minimal, relays=[rust_relay], ip_transports=False) as ep,
    ):
        async with asyncio.timeout(60):
            await router.endpoint.online()
            await ep.online()
        async with ep.connect(EndpointAddr(router.endpoint.id, relay_url=rust_relay), ALPN) as conn:
            assert await exchanged(conn, SIZE)


# ---------------------------------------------------------------- from the relay to a direct path
async def bound_to(relay: RelayServer) -> Endpoint:
    ep = await Endpoint.bind(
        preset=presets.minimal, relays=[relay.url], ca=trusting(relay), net_report=False
    )
    await ep.online()
    return ep


def ways(conn: Connection) -> dict[bool, str]:
    """The status of the paths in use, by whether they are relayed."""
    return {path.is_relay: path.status for path in conn.paths}


async def test_we_dial_a_rust_endpoint_over_a_relay_and_become_direct(
    relay: RelayServer, options: tuple[str, ...]
) -> None:
    async with RustPeer("echo", *options) as peer:
        bound = await peer.event("bound")
        async with (
            await bound_to(relay) as ep,
            ep.connect(EndpointAddr(bound["id"], relay_url=relay.url), ALPN) as conn,
        ):
            await conn.direct(timeout=30)
            assert await exchanged(conn, SIZE)
            # The relay stays as a backup; data went past it.
            assert ways(conn) == {True: "backup", False: "available"}
            assert ep.metrics.snapshot()["socket:holepunch_attempts"] >= 1
    assert relay.metrics()["bytes_sent"] < SIZE


async def test_rust_endpoint_dials_us_over_a_relay_and_becomes_direct(
    relay: RelayServer, options: tuple[str, ...]
) -> None:
    seen: list[dict[bool, str]] = []

    async def echo_directly(conn: Connection) -> None:
        await conn.direct(timeout=30)
        seen.append(ways(conn))
        await echo_bi(conn)

    async with Router(await bound_to(relay), {ALPN: echo_directly}) as router:
        arguments = ("--id", str(router.endpoint.id), "--via-relay", relay.url)
        data = ("--streams", "4", "--bytes", str(SIZE))
        async with RustPeer("dial", *options, *arguments, *data) as peer:
            echoed = await peer.event("echoed")
            assert (echoed["streams"], echoed["failed"]) == (4, 0)
    assert seen == [{True: "backup", False: "available"}]
