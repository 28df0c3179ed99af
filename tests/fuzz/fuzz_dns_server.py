"""What anybody sends to the DNS server: queries, and packets whose records it serves."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from iroh_fast import SecretKey
from iroh_fast._dns import Message, check_message, name_from_text, read_message
from iroh_fast.dns_server._build import store_packet
from iroh_fast.dns_server.answers import Answers, Transport
from iroh_fast.dns_server.doh_json import json_answer, min_ttl
from iroh_fast.dns_server.static import StaticRecords
from iroh_fast.errors import BadQuery, DnsMessageError
from iroh_fast.lookup.z32 import encode

VECTORS = Path(__file__).parent.parent / "vectors"
RELEASED: dict[str, Any] = json.loads((VECTORS / "dns_server_released.json").read_text("utf-8"))
KEYS = [bytes(SecretKey(bytes((n,)) * 32).public) for n in (7, 8)]
PACKETS = [bytes.fromhex(entry["dns"]) for entry in RELEASED["packets"]]
LIMITS: dict[Transport, int] = {"udp": 1400, "tcp": 65_535, "https": 65_535}


class Nothing:
    """A store without packets."""

    def read(self, key: bytes, /) -> bytes | None:
        assert len(key) == 32
        return None

    async def fetch(self, key: bytes, /) -> bytes | None:
        return self.read(key)


def _answers() -> Answers:
    records = StaticRecords(
        origins=["irohdns.example.", "deep.irohdns.example", "."],
        rr_a="192.0.2.1",
        rr_ns="ns.example",
    )
    answers = Answers(records, Nothing())
    for key, dns in zip(KEYS, PACKETS, strict=True):
        assert store_packet(answers.core.zones, key, dns)
    return answers


ANSWERS = _answers()


def query_seeds() -> list[bytes]:
    return [bytes.fromhex(case["query"]) for case in RELEASED["dns"]]


def run_query(data: bytes) -> None:
    for transport, limit in LIMITS.items():
        try:
            wire = ANSWERS.answer(data, transport=transport)
        except BadQuery:
            assert transport == "https"
            continue
        assert isinstance(wire, bytes)
        if not wire:
            assert len(data) < 12 or data[2] & 0x80
            continue
        _check_reply(data, wire, limit)


def _check_reply(query: bytes, wire: bytes, limit: int) -> None:
    assert wire[:2] == query[:2] and wire[2] & 0x80 and len(wire) <= limit
    reply = read_message(wire)
    assert reply.complete
    if reply.questions:  # echoed byte for byte
        end = 12 + sum(len(question.name) + 4 for question in reply.questions)
        assert len(reply.questions) > 1 or wire[12:end] == query[12:end]
    # Cut is only what is too long for a datagram.
    assert not wire[2] & 2 or limit == LIMITS["udp"]
    json.loads(json_answer(wire))
    min_ttl(wire)


def zone_seeds() -> list[bytes]:
    shared = json.loads((VECTORS / "pkarr.json").read_text("utf-8"))
    return PACKETS + [bytes.fromhex(packet["packet"])[104:] for packet in shared["signed_packets"]]


def run_zone(data: bytes) -> None:
    """The DNS part of a packet of the first key, whatever a store holds; each name in it is asked for."""
    answers = Answers(StaticRecords(), Nothing(), cache_bytes=1 << 20)
    if not store_packet(answers.core.zones, KEYS[0], data):
        return
    message = read_message(data)
    try:
        check_message(data)
        sound = message.complete
    except DnsMessageError:
        sound = False
    for name, kind in {(record.name.lower(), record.type) for record in message.records}:
        for origin in (b"\0", name_from_text("irohdns.example")):
            _ask(answers, message, name[:-1] + origin, name, kind, sound)


def _ask(
    answers: Answers, message: Message, asked: bytes, name: bytes, kind: int, sound: bool
) -> None:
    if len(asked) > 255:
        return
    query = struct.pack("!6H", 1, 0, 1, 0, 0, 0) + asked + struct.pack("!2H", kind, 1)
    wire = answers.answer(query, transport="tcp")
    assert isinstance(wire, bytes)
    _check_reply(query, wire, 65_535)
    reply = read_message(wire)
    served = [record for record in reply.records if record.section == 1]
    ours = name.endswith(bytes((52,)) + encode(KEYS[0]).encode() + b"\0")
    if not ours or kind in (2, 6):
        return
    # Not more of them than there are in the packet.
    most = sum(
        r.name.lower() == name and r.type == kind and r.section == 1 for r in message.records
    )
    assert len(served) <= most
    assert not sound or all(record.name == asked for record in served)
