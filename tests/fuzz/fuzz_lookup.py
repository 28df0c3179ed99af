"""What endpoints publish: DNS messages, signed packets, values of TXT records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iroh_fast import SecretKey, _dns
from iroh_fast.errors import DnsMessageError, EndpointInfoError, SignedPacketError
from iroh_fast.lookup import EndpointInfo, SignedPacket
from iroh_fast.lookup.attributes import MAX_ADDRS
from iroh_fast.lookup.signed_packet import fitting

SECRET = SecretKey(b"\x2a" * 32)
OWNER = _dns.name_from_text(f"_iroh.{SECRET.public:z32}")


def _vectors() -> dict[str, Any]:
    path = Path(__file__).parent.parent / "vectors" / "pkarr.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def message_seeds() -> list[bytes]:
    vectors = _vectors()
    packets = [
        *vectors["signed_packets"],
        *vectors["signed_packets_odd_but_valid"],
        *vectors["signed_packets_invalid"],
    ]
    messages = [bytes.fromhex(case["packet"])[104:] for case in packets]
    mdns = [bytes.fromhex(vectors["mdns"][name]) for name in ("query", "response_uncompressed")]
    asked = [bytes.fromhex(v["hex"]) for v in vectors["dns_wire"].values() if "hex" in v]
    return [message for message in (*messages, *mdns, *asked) if message]


def run_message(data: bytes) -> None:
    """Read it in every way, and write what was read."""
    try:
        message = _dns.read_message(data)
    except DnsMessageError:
        assert len(data) < 12
        return
    try:
        _dns.check_message(data)
    except DnsMessageError:
        pass
    else:
        assert message.complete
    _dns.txt_values(data, OWNER)
    writer = _dns.Writer(message.id, message.flags)
    for question in message.questions:
        assert _dns.name_from_text(_dns.name_to_text(question.name)) == question.name
        writer.question(question.name, question.type, question.klass)
    for record in message.records:
        rdata = message.rdata(record)
        assert len(rdata) == record.size and len(record.name) <= 255
        message.strings(record)
        for skip in (0, 2, 6):
            name = message.name_in(record, skip)
            assert name is None or _dns.name_from_labels(_dns.labels_of(name)) == name
        writer.record(
            record.section, record.name, record.type, record.ttl, rdata, klass=record.klass
        )
    again = _dns.read_message(writer.finish())
    assert again.complete
    assert [(r.section, r.name, again.rdata(r)) for r in again.records] == [
        (r.section, r.name, message.rdata(r)) for r in message.records
    ]


def signed_packet_seeds() -> list[bytes]:
    """The DNS messages, which are signed before they are looked at; and whole packets, as they are."""
    return [
        *(b"S" + message for message in message_seeds()),
        *(b"P" + bytes.fromhex(case["packet"]) for case in _vectors()["signed_packets"]),
    ]


def run_signed_packet(data: bytes) -> None:
    kind, rest = data[:1], data[1:]
    try:
        if kind == b"P":
            packet = SignedPacket.from_bytes(rest)
        else:
            packet = SignedPacket.from_dns(SECRET, rest, timestamp=5)
            assert SignedPacket.from_bytes(packet.to_bytes()) == packet
    except SignedPacketError:
        return
    assert not packet.more_recent_than(packet)
    try:
        info = packet.endpoint_info()
    except EndpointInfoError:
        return
    if kind == b"P":
        assert info.id.to_bytes() == packet.public_key
    else:
        signed = SignedPacket.from_endpoint_info(fitting(info), SECRET)
        assert signed.endpoint_info() == fitting(info)


def txt_seeds() -> list[bytes]:
    """Name and values, one a line."""
    return [
        "\n".join((case["name"], *case["txt"])).encode("utf-8") for case in _vectors()["txt_parse"]
    ]


def run_txt(data: bytes) -> None:
    first, *values = data.split(b"\n")
    name = first.decode("utf-8", "replace")
    try:
        info = EndpointInfo.from_txt(name, values)
    except EndpointInfoError as error:
        assert str(error).isprintable()
        return
    assert len(info.data.addrs) <= MAX_ADDRS
    assert EndpointInfo.from_txt(name, info.to_txt()) == info
    assert repr(info).isprintable()
