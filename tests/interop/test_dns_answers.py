"""Our DNS answers next to those of the real iroh-dns-server, for the same random packets and questions."""

from __future__ import annotations

import asyncio
import http.client
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype
import dns.rrset
import pytest
from packets import DEVELOPMENT, MemoryStore, answers_with, query, zone

from iroh_fast import SecretKey
from iroh_fast.dns_server.answers import Answers
from iroh_fast.lookup.signed_packet import SignedPacket

from .dns_server import HOST, DnsServerProcess

pytestmark = pytest.mark.interop

KINDS = ["TXT", "A", "AAAA", "MX", "CNAME", "PTR", "SRV", "CAA", "NAPTR", "HTTPS", "NS"]
# Whose names iroh's server compresses in data, and ours writes in full.
COMPRESSED = {"MX", "CNAME", "PTR"}
NAMES = ["", "_iroh", "a", "a.b", "b", "_iroh.a"]
QUESTIONS = 1500


def data(chance: random.Random, kind: str, z: str) -> str:
    target = chance.choice([f"{z}.", f"a.{z}.", "example.org.", "x.irohdns.example."])
    return {
        "TXT": '"' + "x" * chance.randint(0, 40) + '"',
        "A": f"192.0.2.{chance.randint(0, 3)}",
        "AAAA": f"2001:db8::{chance.randint(0, 3)}",
        "MX": f"10 {target}",
        "SRV": f"1 2 443 {target}",
        "CAA": '0 issue "ca.example"',
        "NAPTR": f'1 2 "s" "SIP+D2U" "" {target}',
        "HTTPS": f"1 {target} alpn=h2",
    }.get(kind, target)


def random_packet(chance: random.Random, secret: SecretKey) -> SignedPacket:
    z = zone(secret)
    message = dns.message.Message(0)
    message.flags = dns.flags.QR
    for _ in range(chance.randint(0, 9)):
        kind, name = chance.choice(KINDS), chance.choice(NAMES)
        owner = dns.name.from_text(f"{name}.{z}." if name else f"{z}.")
        rdata = dns.rdata.from_text("IN", kind, data(chance, kind, z))
        message.answer.append(dns.rrset.from_rdata(owner, chance.choice([30, 30, 300]), rdata))
    return SignedPacket.from_dns(secret, message.to_wire())


def publish(server: DnsServerProcess, packets: list[SignedPacket]) -> None:
    connection = http.client.HTTPConnection(HOST, server.http_port, timeout=20)
    try:
        for packet in packets:
            path = f"/pkarr/{zone_of(packet)}"
            connection.request("PUT", path, packet.relay_payload)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 204
    finally:
        connection.close()


def zone_of(packet: SignedPacket) -> str:
    from iroh_fast.lookup.z32 import encode

    return encode(packet.public_key)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[DnsServerProcess]:
    process = DnsServerProcess("iroh", tmp_path)
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


def shown(wire: bytes) -> list[str]:
    message = dns.message.from_wire(wire, one_rr_per_rrset=True)
    return [rrset.to_text() for rrset in [*message.answer, *message.authority]]


def difference(kind: str, name: str, real: bytes, ours: bytes) -> str:
    """What kind of difference there is between two answers; empty: one that should not be."""
    if real == ours:
        return "none"
    if real[3] & 15 == 3 and ours == real[:3] + bytes((real[3] & 0xF0,)) + real[4:]:
        return "not denied"
    if kind in COMPRESSED and real[:12] == ours[:12] and shown(real) == shown(ours):
        return "written out"
    return ""


def compare(
    server: DnsServerProcess, answers: Answers, secrets: list[SecretKey], chance: random.Random
) -> Counter[str]:
    found: Counter[str] = Counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        client.connect((HOST, server.dns_port))
        for number in range(QUESTIONS):
            kind, name = chance.choice(KINDS), chance.choice([*NAMES, "zz"])
            z = zone(chance.choice(secrets)) + chance.choice(["", ".irohdns.example"])
            wire = query(
                f"{name}.{z}" if name else z,
                dns.rdatatype.from_text(kind),
                id=number,
                edns=chance.choice([None, 512, 1232]),
                flags=chance.choice([0x100, 0, 0x110, 0x20, 0x40, 0x180]),
            )
            client.send(wire)
            real = client.recv(4096)
            ours = answers.answer(wire, transport="udp")
            assert isinstance(ours, bytes)
            kind_of = difference(kind, name, real, ours)
            assert kind_of, (kind, name, z, shown(real), shown(ours), real.hex(), ours.hex())
            found[kind_of] += 1
    return found


@pytest.mark.parametrize("seed", [1, 2])
async def test_dns_answers_are_those_of_the_real_server(
    server: DnsServerProcess, seed: int
) -> None:
    chance = random.Random(seed)
    secrets = [SecretKey(bytes((n,)) * 32) for n in range(1, 40)]
    packets = [random_packet(chance, secret) for secret in secrets]
    await asyncio.to_thread(publish, server, packets)
    answers = answers_with(*packets)
    assert isinstance(answers._store, MemoryStore) and DEVELOPMENT.origins[0] == server.origin
    found = await asyncio.to_thread(compare, server, answers, secrets, chance)
    assert found["none"] > QUESTIONS // 3 and found["not denied"] > 20 and found["written out"]
