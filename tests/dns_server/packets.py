"""Signed packets, queries, and a store in memory for the tests of the server."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from iroh_fast import SecretKey
from iroh_fast._dns import name_from_text
from iroh_fast.dns_server.answers import Answers
from iroh_fast.dns_server.static import StaticRecords
from iroh_fast.lookup.signed_packet import SignedPacket
from iroh_fast.lookup.z32 import encode

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "dns_server_released.json").read_text()
)
# The development settings that the answers of the released server were recorded with.
DEVELOPMENT = StaticRecords(
    origins=["irohdns.example.", "."],
    default_soa="dns1.irohdns.example hostmaster.irohdns.example 0 10800 3600 604800 3600",
    rr_a="127.0.0.1",
    rr_ns="ns1.irohdns.example.",
)
IN = 1
A, NS, CNAME, SOA, MX, TXT, AAAA, ANY = 1, 2, 5, 6, 15, 16, 28, 255


class MemoryStore:
    """Packets by key, as a store on this machine has them."""

    def __init__(self, *packets: SignedPacket) -> None:
        self.packets = {packet.public_key: packet.to_bytes() for packet in packets}
        self.reads = 0

    def read(self, key: bytes, /) -> bytes | None:
        self.reads += 1
        return self.packets.get(key)

    async def fetch(self, key: bytes, /) -> bytes | None:
        return self.read(key)


def recorded_packets() -> list[SignedPacket]:
    """The packets that the released server was given."""
    return [
        SignedPacket.from_dns(
            SecretKey(bytes.fromhex(entry["seed"][:2]) * 32), bytes.fromhex(entry["dns"])
        )
        for entry in VECTORS["packets"]
    ]


def rr(name: bytes, kind: int, rdata: bytes, *, ttl: int = 30, klass: int = IN) -> bytes:
    """A record; the name is on the wire already."""
    return name + struct.pack("!HHIH", kind, klass, ttl, len(rdata)) + rdata


def message(*answers: bytes) -> bytes:
    """A response with these answers."""
    return struct.pack("!6H", 0, 0x8000, 0, len(answers), 0, 0) + b"".join(answers)


def packet_of(secret: SecretKey, *answers: bytes) -> SignedPacket:
    return SignedPacket.from_dns(secret, message(*answers))


def zone(secret: SecretKey) -> str:
    """The name of a key."""
    return encode(bytes(secret.public))


def text_record(secret: SecretKey, name: str, *strings: bytes, ttl: int = 30) -> bytes:
    owner = f"{name}.{zone(secret)}" if name else zone(secret)
    return rr(name_from_text(owner), TXT, b"".join(bytes((len(s),)) + s for s in strings), ttl=ttl)


def query(
    name: str,
    kind: int = TXT,
    *,
    id: int = 0x1234,
    flags: int = 0x0100,
    klass: int = IN,
    edns: int | None = None,
    more: bytes = b"",
) -> bytes:
    """A query; `edns` is the size that its OPT record says."""
    opt = b"" if edns is None else b"\0" + struct.pack("!HHIH", 41, edns, 0, 0)
    head = struct.pack("!6H", id, flags, 1, 0, 0, 0 if edns is None else 1)
    return head + name_from_text(name) + struct.pack("!2H", kind, klass) + opt + more


def answers_with(
    *packets: SignedPacket, records: StaticRecords = DEVELOPMENT, **options: Any
) -> Answers:
    return Answers(records, MemoryStore(*packets), **options)


def rcode(wire: bytes) -> int:
    return wire[3] & 15


def counts(wire: bytes) -> tuple[int, ...]:
    """Questions, answers, authorities, additionals."""
    return struct.unpack("!4H", wire[4:12])
