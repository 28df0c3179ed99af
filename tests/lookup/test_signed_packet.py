"""Signed packets: byte-exact against the recorded vectors, and as strict as iroh."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast import PublicKey, SecretKey, _dns, errors
from iroh_fast.lookup import EndpointData, EndpointInfo, SignedPacket, z32
from iroh_fast.lookup.signed_packet import fitting, next_timestamp

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "pkarr.json").read_text("utf-8")
)
SECRET = SecretKey(b"\x2a" * 32)


def label(case: dict[str, Any]) -> str:
    return str(case["label"])


# --- building ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["signed_packets"], ids=label)
def test_packet_vectors_are_built_to_the_byte(case: dict[str, Any]) -> None:
    secret = SecretKey.parse(case["secret"])
    assert secret.public.to_bytes().hex() == case["public_key"]
    packet = SignedPacket.from_txt(
        secret, "_iroh", case["txt"], ttl=case["ttl"], timestamp=case["timestamp_us"]
    )
    assert packet.dns.hex() == case["dns"]
    assert packet.signature.hex() == case["signature"]
    assert packet.to_bytes().hex() == case["packet"]
    assert packet.relay_payload.hex() == case["relay_payload"]
    assert len(packet.dns) == case["dns_len"]


@pytest.mark.parametrize("case", VECTORS["signed_packets"], ids=label)
def test_packet_vectors_verify_and_are_read(case: dict[str, Any]) -> None:
    packet = SignedPacket.from_bytes(bytes.fromhex(case["packet"]))
    assert packet == SignedPacket.from_relay_payload(
        PublicKey(case["public_key"]), bytes.fromhex(case["relay_payload"])
    )
    assert packet.public_key.hex() == case["public_key"]
    assert packet.timestamp == case["timestamp_us"]
    assert packet.txt_values() == case["txt"]
    assert case["z32"] in repr(packet)
    assert pickle.loads(pickle.dumps(packet)) == packet


@pytest.mark.covers("iroh-dns: signed_packet_roundtrip")
@pytest.mark.parametrize(
    "case", VECTORS["endpoint_info_encode"], ids=lambda case: str(case["txt"])[:40]
)
def test_packet_of_info_gives_the_info_back(case: dict[str, Any]) -> None:
    name = f"_iroh.{SECRET.public:z32}."
    info = EndpointInfo.from_txt(name, case["txt"])
    packet = SignedPacket.from_endpoint_info(info, SECRET)
    assert SignedPacket.from_bytes(packet.to_bytes()).endpoint_info() == info
    assert packet.public_key == bytes(info.id)
    assert {record.ttl for record in _dns.read_message(packet.dns).records} <= {30}


@pytest.mark.parametrize("case", VECTORS["build_errors"], ids=lambda case: case["error"])
def test_packet_vectors_that_cannot_be_built(case: dict[str, Any]) -> None:
    with pytest.raises(errors.SignedPacketError) as caught:
        SignedPacket.from_txt(SECRET, "_iroh", case["txt"])
    assert caught.value.kind == case["error"]


def test_packet_names_are_completed_with_the_key() -> None:
    key = SECRET.public.to_z32()
    for name, whole in {
        "_iroh": f"_iroh.{key}",
        "_iroh.": f"_iroh.{key}",
        f"_iroh.{key}": f"_iroh.{key}",
        "a.b": f"a.b.{key}",
        "@": key,
        "": key,
        ".": key,
    }.items():
        packet = SignedPacket.from_txt(SECRET, name, ["x=y"])
        (record,) = _dns.read_message(packet.dns).records
        assert _dns.name_to_text(record.name) == f"{whole}.", name
        assert packet.txt_values(name) == ["x=y"]
    with pytest.raises(errors.SignedPacketError) as caught:
        SignedPacket.from_txt(SECRET, "a" * 64, ["x=y"])
    assert caught.value.kind == "DnsError"


def test_packet_of_another_endpoint_is_not_signed() -> None:
    info = EndpointInfo(SecretKey(bytes(32)).public)
    with pytest.raises(ValueError, match="another endpoint"):
        SignedPacket.from_endpoint_info(info, SECRET)


def test_packet_of_any_records_is_signed_once_it_is_a_dns_message() -> None:
    writer = _dns.Writer(flags=0x8000)
    owner = _dns.name_from_text(SECRET.public.to_z32())
    writer.record(_dns.ANSWER, owner, 1, 30, bytes((127, 0, 0, 1)))
    packet = SignedPacket.from_dns(SECRET, writer.finish(), timestamp=7)
    assert SignedPacket.from_bytes(packet.to_bytes()).timestamp == 7
    with pytest.raises(errors.SignedPacketError) as caught:
        SignedPacket.from_dns(SECRET, b"no message")
    assert caught.value.kind == "DnsError"
    with pytest.raises(errors.SignedPacketError) as caught:
        SignedPacket.from_dns(SECRET, bytes(1001))
    assert caught.value.kind == "PacketTooLarge"


def test_packet_timestamps_rise_whatever_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = next_timestamp()
    monkeypatch.setattr(time, "time_ns", lambda: 5_000)
    assert [next_timestamp() - before for _ in range(3)] == [1, 2, 3]
    monkeypatch.setattr(time, "time_ns", lambda: (before + 1_000) * 1000)
    packets = [
        SignedPacket.from_endpoint_info(EndpointInfo(SECRET.public), SECRET) for _ in range(3)
    ]
    assert [packet.timestamp - before for packet in packets] == [1000, 1001, 1002]
    assert packets[2].more_recent_than(packets[1])


# --- verifying -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["signed_packets_invalid"], ids=label)
def test_packet_vectors_that_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(errors.SignedPacketError) as caught:
        SignedPacket.from_bytes(bytes.fromhex(case["packet"]))
    assert caught.value.kind == case["error"]


@pytest.mark.parametrize("case", VECTORS["signed_packets_odd_but_valid"], ids=label)
def test_packet_vectors_that_are_odd_but_valid(case: dict[str, Any]) -> None:
    packet = SignedPacket.from_bytes(bytes.fromhex(case["packet"]))
    assert packet.txt_values() == case["iroh_txt"]


@pytest.mark.parametrize("case", VECTORS["strict_verify"], ids=lambda case: case["why"][:30])
def test_packet_signatures_are_as_strict_as_the_vectors(case: dict[str, Any]) -> None:
    key, signature = bytes.fromhex(case["public_key"]), bytes.fromhex(case["signature"])
    if case["key_accepted"]:
        verify = PublicKey(key).verify
        if case["signature_ok"]:
            verify(bytes.fromhex(case["message"]), signature)
        else:
            with pytest.raises(errors.SignatureError):
                verify(bytes.fromhex(case["message"]), signature)
    # In a packet the message is another one: what does not depend on it is told apart.
    with pytest.raises(errors.SignedPacketError) as caught:
        SignedPacket.from_bytes(key + signature + bytes(8) + bytes(12))
    assert caught.value.kind == ("SignatureError" if case["key_accepted"] else "InvalidKey")


def test_packet_under_a_key_of_small_order_is_refused() -> None:
    """With R the neutral point and S zero, what a lenient check accepts for every message."""
    neutral = bytes((1, *bytes(31)))
    for key in ("01" + "00" * 31, "ecffff" + "ff" * 28 + "7f", "00" * 32):
        packet = bytes.fromhex(key) + neutral + bytes(32) + bytes(8) + bytes(12)
        with pytest.raises(errors.SignedPacketError) as caught:
            SignedPacket.from_bytes(packet)
        assert caught.value.kind == "SignatureError"


@pytest.mark.parametrize(
    "case", VECTORS["more_recent_than"], ids=lambda case: case.get("why", "not newer")[:24]
)
def test_packet_vectors_of_age(case: dict[str, Any]) -> None:
    new, old = (SignedPacket.from_bytes(bytes.fromhex(case[name])) for name in ("new", "old"))
    assert new.more_recent_than(old) is case["result"]


@pytest.mark.parametrize(
    "case",
    [case for case in VECTORS["bep44"] if "public_key" in case],
    ids=lambda c: c["target_sha1"][:8],
)
def test_packet_vectors_of_the_dht(case: dict[str, Any]) -> None:
    import hashlib

    assert hashlib.sha1(bytes.fromhex(case["public_key"])).hexdigest() == case["target_sha1"]


@pytest.mark.parametrize("case", VECTORS["signed_packets"], ids=label)
def test_packet_signs_what_the_dht_signs(case: dict[str, Any]) -> None:
    packet = SignedPacket.from_bytes(bytes.fromhex(case["packet"]))
    SecretKey.parse(case["secret"]).public.verify(
        bytes.fromhex(case["signing_input"]), packet.signature
    )


GOOD = bytes.fromhex(VECTORS["signed_packets"][0]["packet"])


@given(st.data())
def test_packet_with_any_change_is_refused(data: st.DataObject) -> None:
    changed = bytearray(GOOD)
    index = data.draw(st.integers(0, len(GOOD) - 1))
    changed[index] ^= data.draw(st.integers(1, 255))
    with pytest.raises(errors.SignedPacketError):
        SignedPacket.from_bytes(changed)


@given(st.binary(max_size=1200))
def test_packet_of_any_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(errors.SignedPacketError):
        SignedPacket.from_bytes(data)


@given(st.binary(min_size=12, max_size=300))
def test_packet_of_any_signed_dns_is_read_or_refused(dns: bytes) -> None:
    """The owner of a key signs what it likes: reading that raises nothing but documented errors."""
    try:
        packet = SignedPacket.from_dns(SECRET, dns)
    except errors.SignedPacketError as err:
        assert err.kind == "DnsError"
        return
    assert SignedPacket.from_bytes(packet.to_bytes()) == packet
    try:
        packet.endpoint_info()
    except errors.EndpointInfoError:
        pass


# --- more than fits ------------------------------------------------------------------------


def test_fitting_keeps_what_fits() -> None:
    info = EndpointInfo(SECRET.public, EndpointData(["https://a.example", "1.2.3.4:5"], "x"))
    assert fitting(info) is info


def test_fitting_drops_addresses_from_the_end_and_keeps_relays_and_user_data() -> None:
    direct = [f"1.2.3.{i}:1000" for i in range(200)]
    info = EndpointInfo(SECRET.public, EndpointData([*direct, "https://a.example"], "x" * 100))
    with pytest.raises(errors.SignedPacketError):
        SignedPacket.from_endpoint_info(info, SECRET)
    kept = fitting(info)
    packet = SignedPacket.from_endpoint_info(kept, SECRET)
    assert kept.data.user_data == "x" * 100
    assert kept.data.relay_urls == ("https://a.example/",)
    assert list(map(str, kept.data.ip_addrs)) == direct[: len(kept.data.ip_addrs)]
    more = EndpointInfo(
        info.id, EndpointData([*kept.data.addrs, direct[len(kept.data.ip_addrs)]], "x" * 100)
    )
    with pytest.raises(errors.SignedPacketError):
        SignedPacket.from_endpoint_info(more, SECRET)
    assert len(packet.dns) <= 1000


def test_fitting_drops_what_no_record_holds() -> None:
    long = f"https://{'a' * 60}.example/{'b' * 200}"
    info = EndpointInfo(SECRET.public, EndpointData([long, "1.2.3.4:5"]))
    assert fitting(info).data.addrs == EndpointData(["1.2.3.4:5"]).addrs


def test_fitting_drops_the_last_relays_when_there_is_nothing_else() -> None:
    relays = [f"https://{i:03}.example/{'p' * 200}" for i in range(9)]
    kept = fitting(EndpointInfo(SECRET.public, EndpointData(relays)))
    assert 0 < len(kept.data.addrs) < 9
    assert list(kept.data.relay_urls) == relays[: len(kept.data.addrs)]
    SignedPacket.from_endpoint_info(kept, SECRET)


@given(st.lists(st.integers(0, 2**32), max_size=120), st.text(max_size=60) | st.none())
def test_fitting_always_fits(numbers: list[int], user_data: str | None) -> None:
    try:
        data = EndpointData([f"[2001:db8::{n & 0xFFFF:x}]:{n >> 16}" for n in numbers], user_data)
    except (errors.AddrError, errors.ConfigError):
        return
    SignedPacket.from_endpoint_info(fitting(EndpointInfo(SECRET.public, data)), SECRET)


def test_a_packet_is_made_by_its_constructors_alone() -> None:
    with pytest.raises(TypeError):
        SignedPacket()
    assert z32.encode(SECRET.public.to_bytes()) == SECRET.public.to_z32()
