"""A server for tests, packets for it, and the vectors of the released one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from web_peer import Answer, connected, request

from iroh_fast import SecretKey
from iroh_fast.dns_server import DnsServer, DnsServerConfig
from iroh_fast.lookup import z32
from iroh_fast.lookup.signed_packet import SignedPacket

VECTORS = Path(__file__).parents[1] / "vectors"
RELEASED: dict[str, Any] = json.loads((VECTORS / "dns_server_released.json").read_text())
# The released server was asked with these settings.
ZONES = {
    "origins": ["irohdns.example.", "."],
    "default_soa": "dns1.irohdns.example hostmaster.irohdns.example 0 10800 3600 604800 3600",
    "rr_a": "127.0.0.1",
    "rr_ns": "ns1.irohdns.example.",
}


def secret(number: int) -> SecretKey:
    return SecretKey(bytes([number]) * 32)


def packet(
    number: int = 7, values: tuple[str, ...] = ("relay=https://r/",), **options
) -> SignedPacket:
    return SignedPacket.from_txt(secret(number), "_iroh", list(values), **options)


def path_of(signed: SignedPacket) -> str:
    return f"/pkarr/{z32.encode(signed.public_key)}"


def put(signed: SignedPacket, **headers: str) -> bytes:
    return request(path_of(signed), "PUT", signed.relay_payload, **headers)


@asynccontextmanager
async def serving(**changes) -> AsyncIterator[DnsServer]:
    async with DnsServer(DnsServerConfig.dev(**changes)) as server:
        yield server
    # Whatever happened, nobody is left.
    assert not server._host.protocols and server._host.admission.total == 0
    assert server._host.turns.counters.handler_errors == 0


async def ask(server: DnsServer, data: bytes) -> Answer:
    async with connected(server.addresses["http"]) as client:
        return await client.ask(data)
