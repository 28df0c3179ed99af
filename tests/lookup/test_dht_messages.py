"""KRPC messages, ids and items, against the BEPs, the vectors, and whatever else a node may send."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import bencode2
import pytest
from dht_sim import VALUE, make_item
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from iroh_fast import SecretKey
from iroh_fast.addr import RelayAddr, RelayUrl
from iroh_fast.lookup.dht.ids import is_secure, may_name, place, secure_id, target_of
from iroh_fast.lookup.dht.items import item_of, verified
from iroh_fast.lookup.dht.krpc import (
    MAX_DATAGRAM,
    Item,
    KrpcError,
    Node,
    Refusal,
    Reply,
    find_node_query,
    get_query,
    parse_answer,
    ping_query,
    put_query,
)
from iroh_fast.lookup.info import EndpointData, EndpointInfo
from iroh_fast.lookup.signed_packet import SignedPacket

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "pkarr.json").read_text("utf-8"))
OWN, TARGET, TRANSACTION = b"abcdefghij0123456789", b"mnopqrstuvwxyz123456", b"aa\0\1"
KEY = SigningKey(bytes([7]) * 32)


def answer(**values: Any) -> bytes:
    return bencode2.bencode({"r": {"id": OWN} | values, "t": TRANSACTION, "y": "r"})


# --- what is sent --------------------------------------------------------------------------


def test_queries_are_those_of_the_beps_read_only() -> None:
    assert ping_query(b"aa\0\1", OWN) == (
        b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping2:roi1e1:t4:aa\0\x011:y1:qe"
    )
    assert find_node_query(TRANSACTION, OWN, TARGET) == (
        b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e"
        b"1:q9:find_node2:roi1e1:t4:aa\0\x011:y1:qe"
    )
    assert get_query(TRANSACTION, OWN, TARGET) == (
        b"d1:ad2:id20:abcdefghij01234567896:target20:mnopqrstuvwxyz123456e"
        b"1:q3:get2:roi1e1:t4:aa\0\x011:y1:qe"
    )


def test_put_carries_the_item_without_cas_and_salt() -> None:
    item = make_item(KEY, 4, b"Hello world!")
    read = bencode2.bdecode(put_query(TRANSACTION, OWN, b"token", TARGET, item))
    assert read == {
        b"a": {
            b"id": OWN,
            b"k": bytes(KEY.verify_key),
            b"seq": 4,
            b"sig": item.signature,
            b"target": TARGET,
            b"token": b"token",
            b"v": b"Hello world!",
        },
        b"q": b"put",
        b"ro": 1,
        b"t": TRANSACTION,
        b"y": b"q",
    }


def test_put_of_the_largest_item_fits_into_a_datagram() -> None:
    item = make_item(KEY, 2**63 - 1, bytes(1000))
    assert len(put_query(TRANSACTION, OWN, bytes(128), TARGET, item)) <= 1400


# --- ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in VECTORS["bep44"] if "target_sha1" in c])
def test_target_of_a_key_is_the_one_of_bep_44(case: dict[str, Any]) -> None:
    assert case["salt"] is None
    assert target_of(bytes.fromhex(case["public_key"])).hex() == case["target_sha1"]


@pytest.mark.parametrize(
    ("host", "id"),
    [  # of BEP 42
        ("124.31.75.21", "5fbfbff10c5d6a4ec8a88e4c6ab4c28b95eee401"),
        ("21.75.31.124", "5a3ce9c14e7a08645677bbd1cfe7d8f956d53256"),
        ("65.23.51.170", "a5d43220bc8f112a3d426c84764f8c2a1150e616"),
        ("84.124.73.14", "1b0321dd1bb1fe518101ceef99462b947a01ff41"),
        ("43.213.53.83", "e56f6cbf5b7c4be0237986d5243b87aa6d51305a"),
    ],
)
def test_secure_ids_are_those_of_bep_42(host: str, id: str) -> None:
    raw = bytes.fromhex(id)
    assert is_secure(raw, host) and secure_id(host, raw) == raw
    assert not is_secure(raw, "8.8.8.8")
    assert not is_secure(bytes((raw[0] ^ 1,)) + raw[1:], host)
    assert is_secure(raw, "192.168.0.1") and is_secure(raw, "127.0.0.1")


def test_one_address_has_one_place_or_eight_with_secure_ids() -> None:
    random = Random(1)
    chosen = {place(random.randbytes(20), "8.8.8.8") for _ in range(200)}
    assert len(chosen) == 1
    secure = {place(secure_id("8.8.8.8", random.randbytes(20)), "8.8.8.8") for _ in range(200)}
    assert len(secure) == 8


@pytest.mark.parametrize(
    ("named", "by", "may"),
    [
        ("8.8.8.8", "9.9.9.9", True),
        ("8.8.8.8", "10.0.0.1", True),
        ("8.8.8.8", "127.0.0.1", True),
        ("10.0.0.2", "9.9.9.9", False),
        ("10.0.0.2", "192.168.1.1", True),
        ("169.254.1.1", "9.9.9.9", False),
        ("100.64.0.1", "9.9.9.9", False),
        ("127.0.0.1", "9.9.9.9", False),
        ("127.0.0.1", "10.0.0.1", False),
        ("127.0.0.1", "127.0.0.2", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("224.0.0.1", "10.0.0.1", False),
        ("255.255.255.255", "10.0.0.1", False),
    ],
)
def test_nobody_outside_names_what_is_in_our_network(named: str, by: str, may: bool) -> None:
    assert may_name((named, 1), (by, 1)) is may


# --- items ---------------------------------------------------------------------------------


def test_item_and_signed_packet_are_the_same_bytes() -> None:
    secret = SecretKey(bytes([9]) * 32)
    data = EndpointData([RelayAddr(RelayUrl("https://relay.example"))], "hello")
    packet = SignedPacket.from_endpoint_info(EndpointInfo(secret.public, data), secret)
    item = item_of(packet)
    assert item == Item(bytes(secret.public), packet.timestamp, packet.signature, packet.dns)
    assert verified(item) == packet
    assert item == make_item(SigningKey(bytes([9]) * 32), packet.timestamp, packet.dns)


@pytest.mark.parametrize(
    "case", [c for c in VECTORS["strict_verify"] if "S=0" in c["why"]], ids=lambda c: c["why"][:24]
)
def test_items_under_keys_of_small_order_are_none(case: dict[str, Any]) -> None:
    """To lenient verifiers such a signature fits every message, so that nobody would need the key."""
    key, signature = bytes.fromhex(case["public_key"]), bytes.fromhex(case["signature"])
    assert verified(Item(key, 1, signature, VALUE)) is None


def test_items_that_hold_no_dns_message_are_none() -> None:
    assert verified(make_item(KEY, 5, VALUE)) is not None
    assert verified(make_item(KEY, 5, b"Hello world!")) is None
    assert verified(make_item(KEY, 5, VALUE)._replace(seq=6)) is None


# --- what is received ----------------------------------------------------------------------


def test_answer_with_everything_is_read() -> None:
    item = make_item(KEY, 4)
    nodes = TARGET + bytes((1, 2, 3, 4, 0x1A, 0xE1)) + OWN + bytes((5, 6, 7, 8, 0, 0))
    data = answer(nodes=nodes, token=b"tk", k=item.key, seq=4, sig=item.signature, v=item.value)
    # The second node has port 0: nobody is there.
    assert parse_answer(data) == Reply(
        TRANSACTION, OWN, (Node(TARGET, ("1.2.3.4", 6881)),), b"tk", item, False
    )


@pytest.mark.parametrize(
    "values",
    [
        {"k": bytes(31)},
        {"k": 1},
        {"sig": bytes(63)},
        {"seq": -1},
        {"seq": 2**63},
        {"seq": b"4"},
        {"v": bytes(1001)},
        {"v": [1]},
        {"v": {"a": 1}},
        {"k": None},
        {"sig": None},
        {"seq": None},
        {"v": None},
    ],
    ids=str,
)
def test_item_that_is_none_does_not_spoil_the_answer(values: dict[str, Any]) -> None:
    item = make_item(KEY, 4)
    good = {"k": item.key, "seq": 4, "sig": item.signature, "v": item.value}
    mixed = {k: v for k, v in (good | values).items() if v is not None}
    reply = parse_answer(answer(token=b"t", **mixed))
    assert isinstance(reply, Reply) and reply.item is None and reply.token == b"t"


@pytest.mark.parametrize("token", [b"", bytes(129), 5, [b"t"]], ids=str)
def test_token_that_is_none_is_left_out(token: Any) -> None:
    reply = parse_answer(answer(token=token))
    assert isinstance(reply, Reply) and reply.token is None


def test_nodes_beyond_twenty_are_not_read() -> None:
    nodes = b"".join(bytes(19) + bytes((n,)) + b"\1\2\3" + bytes((n,)) + b"\1\1" for n in range(60))
    reply = parse_answer(answer(nodes=nodes))
    assert isinstance(reply, Reply) and len(reply.nodes) == 20


def test_errors_are_read_whatever_stands_in_them() -> None:
    def refusal(what: Any) -> Any:
        return parse_answer(bencode2.bencode({"e": what, "t": TRANSACTION, "y": "e"}))

    assert refusal([203, "Bad token"]) == Refusal(TRANSACTION, 203, "Bad token")
    assert refusal([b"\xff", b"\xff" * 900]) == Refusal(TRANSACTION, 0, "\ufffd" * 200)
    for odd in ([], [-1], [10**9, 7], "text", 5, {}):
        assert refusal(odd) == Refusal(TRANSACTION, 0, "")


def test_queries_are_left_alone() -> None:
    assert parse_answer(get_query(TRANSACTION, OWN, TARGET)) is None
    assert parse_answer(b"d1:y1:qe") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"d",
        b"de",
        b"i1e",
        b"le",
        b"l" * 2000,
        b"d1:a" * 500,
        b"i" + b"9" * 1500 + b"e",
        answer() + b"x",
        answer()[:-1],
        b"d1:t4:aa\0\x011:rd2:id20:" + OWN + b"e1:y1:re",  # keys not in order
        b"d1:rd2:id20:" + OWN + b"e1:t4:aa\0\x011:t4:aa\0\x011:y1:re",  # one twice
        answer(nodes=bytes(25)),
        answer(nodes=[bytes(26)]),
        answer(id=bytes(19)),
        answer(id=5),
        bencode2.bencode({"r": [], "t": TRANSACTION, "y": "r"}),
        bencode2.bencode({"t": TRANSACTION, "y": "r"}),
        bencode2.bencode({"r": {"id": OWN}, "t": b"aa", "y": "r"}),
        bencode2.bencode({"r": {"id": OWN}, "t": 5, "y": "r"}),
        bencode2.bencode({"r": {"id": OWN}, "y": "r"}),
        bencode2.bencode({"r": {"id": OWN}, "t": TRANSACTION, "y": "x"}),
        answer(v=bytes(MAX_DATAGRAM)),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_message_raises(data: bytes) -> None:
    with pytest.raises(KrpcError):
        parse_answer(data)


values = st.recursive(
    st.binary(max_size=40) | st.integers(-(2**70), 2**70),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
KEYS = [b"id", b"nodes", b"token", b"k", b"seq", b"sig", b"v"]


@given(
    st.dictionaries(st.sampled_from(KEYS), values),
    st.dictionaries(st.sampled_from([b"t", b"y", b"ro", b"e", b"ip"]), values),
    st.booleans(),
)
def test_any_message_is_read_or_refused(
    arguments: dict[bytes, Any], outer: dict[bytes, Any], real: bool
) -> None:
    message = {b"r": arguments, b"t": TRANSACTION, b"y": b"r"} | ({} if real else outer)
    if real:
        arguments.setdefault(b"id", OWN)
    check(bencode2.bencode(message))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    check(data)


def check(data: bytes) -> None:
    try:
        found = parse_answer(data)
    except KrpcError:
        return
    if isinstance(found, Reply):
        assert len(found.id) == 20 and len(found.transaction) == 4 and len(found.nodes) <= 20
        assert all(len(node.id) == 20 and 0 < node.address[1] < 65536 for node in found.nodes)
        if found.item is not None:
            assert len(found.item.key) == 32 and len(found.item.signature) == 64
            verified(found.item)
