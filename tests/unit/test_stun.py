"""STUN messages and the first byte of datagrams, against the vectors of RFC 5769 and RFC 9443."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast._probe import KINDS, classify, encode_binding_request, parse
from iroh_fast.addr import SocketAddr
from iroh_fast.errors import StunDecodeError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "stun.json").read_text("utf-8"))
COOKIE = bytes.fromhex(VECTORS["meta"]["constants"]["magic_cookie"])
ID = bytes(range(1, 13))


def names(group: str) -> Any:
    return pytest.mark.parametrize("vector", VECTORS[group], ids=lambda v: v["name"])


def text(addr: tuple[bytes, int] | None) -> str | None:
    return None if addr is None else str(SocketAddr(ip_address(addr[0]), addr[1]))


def attribute(type: int, value: bytes) -> bytes:
    head = type.to_bytes(2, "big") + len(value).to_bytes(2, "big")
    return head + value + bytes(-len(value) % 4)


def message(type: int, *attributes: bytes) -> bytes:
    body = b"".join(attributes)
    return type.to_bytes(2, "big") + len(body).to_bytes(2, "big") + COOKIE + ID + body


@names("rfc5769")
def test_stun_samples_of_the_rfc_are_read_and_verified(vector: dict[str, Any]) -> None:
    found = parse(bytes.fromhex(vector["message_hex"]))
    assert (found.method, found.kind) == (vector["method"], vector["class"])
    assert found.transaction.hex() == vector["transaction_id_hex"]
    assert [
        {"offset": at, "type": f"0x{type:04x}", "length": len(value), "value_hex": value.hex()}
        for type, at, value in found.attributes
    ] == vector["attributes"]
    assert found.fingerprint == bool(vector["fingerprint_ok"])
    key = bytes.fromhex(vector.get("hmac_key_hex", "")) or vector["password"].encode()
    assert found.check_integrity(key) is True
    assert found.check_integrity(key + b"x") is False
    assert found.unknown == []
    if mapped := vector.get("mapped") or vector.get("xor_mapped_address"):
        assert text(found.mapped) == mapped


@names("constructed")
def test_stun_messages_say_what_they_should(vector: dict[str, Any]) -> None:
    found = parse(bytes.fromhex(vector["message_hex"]))
    assert found.kind == vector["cls"]
    assert text(found.mapped) == vector.get("mapped") or "error" in vector
    assert text(found.alternate) == vector.get("alternate")
    assert bool(found.unknown) == (vector.get("error") == "unknown-required")
    if vector.get("error") == "no-address":
        assert found.mapped is None
    if "code" in vector:
        assert found.error == (vector["code"], vector["reason"])
    assert found.check_integrity(b"key") is None


@names("constructed_bad")
def test_stun_datagrams_that_are_wrong_are_rejected(vector: dict[str, Any]) -> None:
    with pytest.raises(StunDecodeError):
        parse(bytes.fromhex(vector["datagram_hex"]))


@pytest.mark.parametrize("vector", VECTORS["message_types"], ids=lambda v: v["type"])
def test_stun_types_are_taken_apart(vector: dict[str, Any]) -> None:
    found = parse(message(int(vector["type"], 16)))
    assert (found.method, found.kind) == (vector["method"], vector["class"])


def test_stun_requests_are_those_of_the_vectors() -> None:
    plain, signed = (bytes.fromhex(v["message_hex"]) for v in VECTORS["constructed"][:2])
    assert encode_binding_request(ID, fingerprint=False) == plain
    assert encode_binding_request(ID, software=b"iroh_fast") == signed


def test_first_byte_says_the_protocol() -> None:
    words = {"TURN channel if from a TURN server in use, else QUIC": "quic", "RTP/RTCP": "rtp"}
    seen = 0
    for row in VECTORS["demux_first_byte_rfc9443"]:
        wanted = words.get(row["protocol"], row["protocol"].lower())
        for first in range(row["from"], row["to"] + 1):
            assert classify(first) == wanted
            seen += 1
    assert seen == 256


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param(
            [attribute(0x8028, bytes(4)), attribute(0x8022, b"x")], id="fingerprint-inside"
        ),
        pytest.param([attribute(0x8028, bytes(8))], id="fingerprint-of-8"),
        pytest.param([attribute(0x0008, bytes(19))], id="integrity-of-19"),
        pytest.param([attribute(0x001C, bytes(12))], id="integrity-of-12"),
        pytest.param([attribute(0x0009, bytes(4))], id="error-of-no-class"),
        pytest.param([attribute(0x0009, b"\0\0\4\x64")], id="error-above-99"),
        pytest.param([attribute(0x0009, b"\0")], id="error-of-1"),
        pytest.param([attribute(0x8023, b"\0\1")], id="alternate-of-2"),
        pytest.param([b"\x80\x22\xff\xff"], id="attribute-of-65535"),
    ],
)
def test_stun_values_of_another_form_are_rejected(attributes: list[bytes]) -> None:
    with pytest.raises(StunDecodeError):
        parse(message(0x0111, *attributes))


def test_stun_message_beyond_the_limit_is_rejected() -> None:
    full = attribute(0x8022, bytes(2024))
    assert len(parse(message(0x0101, full)).attributes) == 1
    with pytest.raises(StunDecodeError):
        parse(message(0x0101, full, attribute(0x8022, b"")))


def test_stun_request_takes_no_impossible_parts() -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        encode_binding_request(b"short")
    with pytest.raises(ValueError, match="at most 763"):
        encode_binding_request(ID, software=bytes(764))


@given(st.binary(min_size=12, max_size=12), st.none() | st.binary(max_size=763), st.booleans())
def test_stun_request_is_read_as_it_was_written(
    id: bytes, software: bytes | None, fingerprint: bool
) -> None:
    found = parse(encode_binding_request(id, software=software, fingerprint=fingerprint))
    assert (found.kind, found.method, found.transaction) == (KINDS[0], 1, id)
    assert (found.get(0x8022), found.fingerprint) == (software, fingerprint)


@given(
    st.integers(0, 0x3FFF),
    st.lists(
        st.tuples(st.integers(0, 0xFFFF).filter(lambda t: t != 0x8028), st.binary(max_size=40))
    ),
)
def test_stun_messages_raise_only_their_error(type: int, parts: list[tuple[int, bytes]]) -> None:
    data = message(type, *(attribute(*part) for part in parts))
    if len(data) > 2048:
        return
    try:
        found = parse(data)
    except StunDecodeError:
        return
    assert [(type, value) for type, _, value in found.attributes] == parts
    assert len(found.unknown) <= len(parts)
    _ = found.mapped, found.alternate, found.error, found.check_integrity(b"k")
