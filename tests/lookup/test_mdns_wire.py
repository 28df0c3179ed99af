"""mDNS messages: byte for byte those of the real peer, both forms read, nothing believed that cannot be."""

from __future__ import annotations

import json
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast import EndpointId, IpAddr, RelayAddr, RelayUrl, SecretKey, SocketAddr
from iroh_fast.addr import CustomAddr, TransportAddr
from iroh_fast.keys import base32_encode
from iroh_fast.lookup.info import EndpointData
from iroh_fast.lookup.mdns._message import read
from iroh_fast.lookup.mdns.wire import (
    MAX_SENT,
    Names,
    encode_answer,
    encode_query,
    label_of,
    parse_label,
    parse_told,
)

VECTORS = Path(__file__).parents[1] / "vectors"
RELEASED = json.loads((VECTORS / "mdns_released.json").read_text())
OLD = json.loads((VECTORS / "pkarr.json").read_text())["mdns"]
ID = EndpointId(RELEASED["public_key"])
NAMES = Names("irohv1", ID)
SERVICE = b"\x07_irohv1\x04_udp\x05local\0"


def data_of(case: dict[str, Any]) -> EndpointData:
    addrs: list[TransportAddr] = [
        IpAddr(SocketAddr(ip_address(ip), int(port)))
        for port, ips in case["ports"].items()
        for ip in ips
    ]
    if "relay" in case["txt"]:
        addrs.append(RelayAddr(RelayUrl(case["txt"]["relay"])))
    return EndpointData(addrs, case["txt"].get("user-data"))


def response(
    records: list[tuple[int, bytes, int, bytes]], *, flags: int = 0x8400, klass: int = 1
) -> bytes:
    """A message of (section, name, type, data); section 1 answers, 3 additionals."""
    counts = [sum(section == number for section, *_ in records) for number in (1, 2, 3)]
    records = sorted(records, key=lambda record: record[0])
    body = b"".join(
        name + struct.pack("!HHIH", kind, klass, 0, len(data)) + data
        for _, name, kind, data in records
    )
    return struct.pack("!6H", 0, flags, 0, *counts) + body


def host(label: bytes, port: int) -> bytes:
    name = label + b"-%d" % port
    return bytes((len(name),)) + name + b"\x05local\0"


def records_of(
    label: bytes, port: int, ips: list[str], strings: list[bytes]
) -> list[tuple[int, bytes, int, bytes]]:
    owner = bytes((len(label),)) + label + SERVICE
    text = b"".join(bytes((len(string),)) + string for string in strings)
    found = [(1, owner, 33, struct.pack("!HHH", 0, 0, port) + host(label, port))]
    if strings:
        found.append((1, owner, 16, text))
    for ip in map(ip_address, ips):
        found.append((3, host(label, port), 1 if ip.version == 4 else 28, ip.packed))
    return found


def told(message: bytes) -> tuple[list[str], str | None, str | None]:
    """What a message about one peer tells: addresses, relay, user data."""
    ((_, addrs, strings),) = read(message, SERVICE)[2]
    found = parse_told(addrs, strings, scope_id=0, local=True)
    return list(map(str, found.addrs)), found.relay, found.user_data


# --- what is sent ------------------------------------------------------------------------------


def test_query_is_the_one_of_the_real_peer() -> None:
    assert encode_query(NAMES).hex() == RELEASED["query"] == OLD["query"]
    assert label_of(ID).decode() == RELEASED["peer_id"]
    assert label_of(SecretKey(b"\x2a" * 32).public).decode() == OLD["peer_id"]


@pytest.mark.parametrize("name", ["response_two_ports_txt", "response_one_port"])
def test_answer_is_the_one_of_the_real_peer_byte_for_byte(name: str) -> None:
    case = RELEASED[name]
    assert encode_answer(NAMES, data_of(case)) == (bytes.fromhex(case["hex"]), 0)
    # In whatever order the addresses come.
    data = data_of(case)
    turned = EndpointData(tuple(reversed(data.addrs)), data.user_data)
    assert encode_answer(NAMES, turned) == (bytes.fromhex(case["hex"]), 0)


def test_query_for_peers_by_name_is_a_query_for_all_as_well() -> None:
    other = label_of(SecretKey.generate().public)
    message = encode_query(NAMES, [NAMES.peer, other])
    assert read(message, SERVICE) == (True, [NAMES.peer, other], [])


def test_answer_has_sizes_as_documented() -> None:
    one = EndpointData([SocketAddr.parse("10.0.0.1:1000")])
    assert len(encode_answer(NAMES, one)[0] or b"") == 196
    four = EndpointData([*one.addrs, SocketAddr.parse("10.0.0.2:1000")])
    assert len(encode_answer(NAMES, four)[0] or b"") == 196 + 16
    six = EndpointData([*one.addrs, SocketAddr.parse("[2001:db8::1]:1000")])
    assert len(encode_answer(NAMES, six)[0] or b"") == 196 + 28


@pytest.mark.parametrize(
    "data",
    [
        EndpointData(),
        EndpointData((), "only user data"),
        EndpointData([RelayUrl("https://relay.example/")]),
        EndpointData([CustomAddr(7, b"x")]),
        EndpointData([SocketAddr.parse("10.0.0.1:0")]),
    ],
    ids=["nothing", "user-data", "relay", "custom", "port-0"],
)
def test_answer_without_an_address_is_none(data: EndpointData) -> None:
    assert encode_answer(NAMES, data)[0] is None


def test_answer_with_too_many_addresses_leaves_out_the_last_ones() -> None:
    addrs = [SocketAddr(ip_address(f"2001:db8::{i + 1:x}"), 1000) for i in range(200)]
    answer, left_out = encode_answer(NAMES, EndpointData(addrs, "u" * 245))
    assert answer is not None and MAX_SENT - 28 < len(answer) <= MAX_SENT
    kept, _, user_data = told(answer)
    assert kept == [str(addr) for addr in addrs[: len(addrs) - left_out]]
    assert user_data == "u" * 245


def test_answer_tells_the_first_relay_and_none_that_is_too_long() -> None:
    addr = SocketAddr.parse("10.0.0.1:1000")
    first, second = RelayUrl("https://b.example/"), RelayUrl("https://a.example/")
    answer, _ = encode_answer(NAMES, EndpointData([first, second, addr]))
    assert told(answer or b"")[1] == first
    fits = RelayUrl("https://" + "r" * 40 + "." + "e" * (249 - 50) + "/")
    assert len(fits) == 249
    assert told(encode_answer(NAMES, EndpointData([fits, addr]))[0] or b"")[1] == fits
    longer = RelayUrl(fits + "x")
    assert told(encode_answer(NAMES, EndpointData([longer, addr]))[0] or b"")[1] is None


ADDRS = st.builds(
    SocketAddr,
    st.ip_addresses().filter(
        lambda ip: (
            not (ip.is_multicast or ip.is_unspecified or ip.is_link_local)
            and getattr(ip, "ipv4_mapped", None) is None
            and str(ip) != "255.255.255.255"
        )
    ),
    st.integers(1, 65535),
)


@given(
    st.lists(ADDRS, min_size=1, max_size=8, unique=True),
    st.none() | st.text(max_size=60),
    st.sampled_from(["irohv1", "x", "My_Service-2", "a" * 62]),
)
def test_answer_is_read_as_it_was_meant(
    addrs: list[SocketAddr], user_data: str | None, service: str
) -> None:
    names = Names(service, ID)
    answer, left_out = encode_answer(names, EndpointData(addrs, user_data))
    assert answer is not None and not left_out and names.concerns(answer)
    ((label, found, strings),) = names.read(answer).peers
    result = parse_told(found, strings, scope_id=0, local=True)
    assert label == NAMES.peer and set(result.addrs) == set(addrs) and result.user_data == user_data


# --- what is read ------------------------------------------------------------------------------


def test_old_form_without_ptr_and_time_to_live_is_read() -> None:
    message = bytes.fromhex(OLD["response_uncompressed"])
    ((label, _, _),) = read(message, SERVICE)[2]
    assert label.decode() == OLD["peer_id"]
    meaning = OLD["meaning"]
    assert told(message) == (meaning["addrs"], meaning["relay"], meaning["user_data"])


@pytest.mark.parametrize("name", ["response_two_ports_txt", "response_one_port"])
def test_released_form_is_read(name: str) -> None:
    case = RELEASED[name]
    addrs, relay, user_data = told(bytes.fromhex(case["hex"]))
    assert addrs == [
        str(SocketAddr(ip_address(ip), int(port)))
        for port, ips in case["ports"].items()
        for ip in ips
    ]
    assert (relay, user_data) == (case["txt"].get("relay"), case["txt"].get("user-data"))


def test_names_are_compared_without_case() -> None:
    message = bytes.fromhex(RELEASED["response_one_port"]["hex"])
    upper = message.replace(b"_irohv1", b"_IROHV1").replace(NAMES.peer, NAMES.peer.upper(), 1)
    assert NAMES.concerns(upper) and [peer[0] for peer in NAMES.read(upper).peers] == [NAMES.peer]
    query = bytes.fromhex(RELEASED["query"]).replace(b"_irohv1", b"_IrohV1")
    assert NAMES.read(query).everybody


def test_other_services_questions_and_classes_are_not_meant() -> None:
    query = bytes.fromhex(RELEASED["query"])
    for other in (
        query.replace(b"_irohv1", b"_irohv2"),
        query[:-4] + struct.pack("!HH", 33, 1),  # SRV of everybody
        query[:-4] + struct.pack("!HH", 12, 3),  # class CH
        query[:2] + b"\x28\0" + query[4:],  # another operation
        query[:2] + b"\x80\0" + query[4:],  # an answer
        query[:-1],
    ):
        assert NAMES.read(other).everybody is False
    assert NAMES.read(query[:-2] + b"\x80\x01").everybody  # asks for an answer to itself alone
    answer = records_of(NAMES.peer, 80, ["10.0.0.1"], [])
    assert read(response(answer, klass=3), SERVICE)[2] == []
    assert read(response(answer, flags=0x0400), SERVICE)[2] == []  # no answer
    assert read(response(answer, flags=0x8403), SERVICE)[2] == []  # an error
    assert len(read(response(answer, klass=0x8001), SERVICE)[2]) == 1  # "flush the cache"


def test_addresses_belong_to_the_host_that_the_port_names() -> None:
    mine, other = label_of(ID), label_of(SecretKey.generate().public)
    message = response(
        [
            *records_of(mine, 80, ["10.0.0.1"], []),
            *records_of(other, 80, ["10.0.0.2"], [b"relay=https://r.example"]),
        ]
    )
    peers = {label: addrs for label, addrs, _ in read(message, SERVICE)[2]}
    assert peers == {mine: [(b"\x0a\0\0\x01", 80)], other: [(b"\x0a\0\0\x02", 80)]}
    lonely = [record for record in records_of(mine, 80, ["10.0.0.1"], []) if record[0] == 1]
    assert read(response(lonely), SERVICE)[2] == []  # a peer without an address
    deeper = [
        (3, b"\x01x" + name, kind, data)
        for _, name, kind, data in records_of(mine, 80, ["10.0.0.1"], [])[1:]
    ]
    assert read(response(lonely + deeper), SERVICE)[2] == []


def test_first_string_of_a_key_counts_and_bad_ones_do_not() -> None:
    strings = [
        b"user-data=one",
        b"user-data=two",
        b"relay",
        b"=x",
        b"other=1",
        b"relay=https://late.example/",
    ]
    message = response(records_of(NAMES.peer, 80, ["10.0.0.1"], strings))
    assert told(message) == (["10.0.0.1:80"], None, "one")
    for string in (b"user-data=\xff\xfe", b"user-data", b"User-Data=x"):
        assert told(response(records_of(NAMES.peer, 80, ["10.0.0.1"], [string])))[2] is None
    for string in (b"relay=no url", b"relay=\xff"):
        assert told(response(records_of(NAMES.peer, 80, ["10.0.0.1"], [string])))[1] is None
    assert told(response(records_of(NAMES.peer, 80, ["10.0.0.1"], [b"user-data=a=b"])))[2] == "a=b"


@pytest.mark.parametrize(
    ("ip", "scope", "local", "kept"),
    [
        ("0.0.0.0", 0, True, None),
        ("255.255.255.255", 0, True, None),
        ("224.0.0.251", 0, True, None),
        ("ff02::fb", 0, True, None),
        ("::", 0, True, None),
        ("::ffff:224.0.0.1", 0, True, None),
        ("127.0.0.1", 0, False, None),
        ("127.0.0.1", 0, True, "127.0.0.1:80"),
        ("::1", 0, False, None),
        ("::ffff:127.0.0.1", 0, False, None),
        ("fe80::1", 0, False, None),
        ("fe80::1", 3, False, "[fe80::1%3]:80"),
        ("10.0.0.1", 3, False, "10.0.0.1:80"),
        ("2001:db8::1", 3, False, "[2001:db8::1]:80"),
    ],
)
def test_addresses_that_cannot_be_dialed_are_left_out(
    ip: str, scope: int, local: bool, kept: str | None
) -> None:
    found = parse_told([(ip_address(ip).packed, 80)], [], scope_id=scope, local=local)
    assert list(map(str, found.addrs)) == ([kept] if kept else [])


def test_port_0_is_left_out() -> None:
    assert parse_told([(b"\x0a\0\0\1", 0)], [], scope_id=0, local=True).addrs == ()


NO_POINT = (2).to_bytes(32, "little")


@pytest.mark.parametrize(
    "label",
    [b"y" * 52, b"a" * 51 + b"1", b"\xff" * 52, b"", b"a" * 56, base32_encode(NO_POINT).encode()],
)
def test_label_that_is_no_id_is_none(label: bytes) -> None:
    assert parse_label(label) is None
    assert parse_label(NAMES.peer) == ID


def test_one_message_makes_no_more_than_its_bounds() -> None:
    labels = [label_of(SecretKey.generate().public) for _ in range(8)]
    records = [record for label in labels for record in records_of(label, 80, ["10.0.0.1"], [])]
    assert len(read(response(records), SERVICE)[2]) == 4
    many = records_of(NAMES.peer, 80, [f"10.0.0.{i}" for i in range(1, 255)], [])
    ((_, addrs, _),) = read(response(many), SERVICE)[2]
    assert len(addrs) == 64
    strings = records_of(NAMES.peer, 80, ["10.0.0.1"], [b"k%d=v" % i for i in range(200)])
    ((_, _, found),) = read(response(strings), SERVICE)[2]
    assert len(found) == 16


WHOLE = bytes.fromhex(RELEASED["response_two_ports_txt"]["hex"])


def test_every_truncation_is_read_as_nothing() -> None:
    for size in range(len(WHOLE)):
        assert read(WHOLE[:size], SERVICE)[2] == []
    assert read(WHOLE + b"trailing", SERVICE) == read(WHOLE, SERVICE)


def test_pointers_in_a_circle_and_forwards_are_refused() -> None:
    for target in (0xC000 | 12, 0xC000 | 40, 0xC000 | 0x3FFF):
        message = struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0) + struct.pack(
            "!HHHIH", target, 33, 1, 0, 0
        )
        assert read(message, SERVICE) == (False, [], [])


@given(st.binary(max_size=1472))
def test_any_bytes_are_read_without_an_error(message: bytes) -> None:
    everybody, wanted, peers = read(message, SERVICE)
    assert isinstance(everybody, bool) and len(wanted) <= 16 and len(peers) <= 4


@given(st.data())
def test_damaged_messages_are_read_without_an_error(data: st.DataObject) -> None:
    sample = data.draw(
        st.sampled_from(
            [WHOLE, bytes.fromhex(OLD["response_uncompressed"]), encode_query(NAMES, [NAMES.peer])]
        )
    )
    message = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 6))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    for label, addrs, strings in read(bytes(message), SERVICE)[2]:
        assert len(label) == 52 and len(addrs) <= 64 and len(strings) <= 16
        parse_told(addrs, strings, scope_id=0, local=False)
        parse_label(label)
