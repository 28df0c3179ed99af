"""What tests of net reports need: relays with certificates, ours and in Rust."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from tests.interop.rust import program
from tests.relay.test_relay_qad import authority, leaf, pem

from iroh_fast.relay.map import RelayConfig
from iroh_fast.relay.server.config import RelayServerConfig, RelayTlsConfig
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.web.ca import CaConfig

PATIENCE_S = 60.0


def trusting() -> CaConfig:
    """Trust the authority of the tests, and nobody else."""
    return CaConfig(roots="none", extra=[pem(authority()[0]).decode()])


def certificate(folder: Path) -> tuple[Path, Path]:
    """Files of a certificate for loopback, and of its key."""
    made = leaf("localhost", "127.0.0.1", "::1")
    chain, key = folder / "relay.crt", folder / "relay.key"
    chain.write_bytes(made.chain)
    key.write_bytes(made.key)
    return chain, key


@contextlib.asynccontextmanager
async def our_relay(folder: Path, host: str = "127.0.0.1") -> AsyncIterator[RelayConfig]:
    """Our relay with TLS and address discovery."""
    chain, key = certificate(folder)
    config = RelayServerConfig(
        http_bind_addr=(host, 0),
        enable_metrics=False,
        enable_quic_addr_discovery=True,
        tls=RelayTlsConfig(
            cert_path=chain,
            key_path=key,
            https_bind_addr=(host, 0),
            quic_bind_addr=(host, 0),
        ),
    )
    async with RelayServer(config) as relay:
        (folder / "http").write_text(str(relay.addresses["http"][1]))
        yield RelayConfig(relay.url, quic_port=relay.addresses["quic"][1])


def http_port(folder: Path) -> int:
    """Where the relay of a folder speaks plain HTTP."""
    return int((folder / "http").read_text())


def _free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def rust_relay(folder: Path) -> AsyncIterator[RelayConfig]:
    """The `iroh-relay` of iroh with TLS and address discovery."""
    command = program("iroh-relay")
    chain, key = certificate(folder)
    http, https = (_free_port(socket.SOCK_STREAM) for _ in range(2))
    quic = _free_port(socket.SOCK_DGRAM)
    settings = folder / "relay.toml"
    settings.write_text(
        f'http_bind_addr = "127.0.0.1:{http}"\n'
        "enable_metrics = false\n"
        "enable_quic_addr_discovery = true\n"
        "[tls]\n"
        f'https_bind_addr = "127.0.0.1:{https}"\n'
        f'quic_bind_addr = "127.0.0.1:{quic}"\n'
        'cert_mode = "Manual"\n'
        f'manual_cert_path = "{chain}"\n'
        f'manual_key_path = "{key}"\n'
    )
    process = await asyncio.create_subprocess_exec(
        command,
        "--config-path",
        str(settings),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", https)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        assert process.returncode is None, "iroh-relay ended"
        (folder / "http").write_text(str(http))
        yield RelayConfig(f"https://127.0.0.1:{https}/", quic_port=quic)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
