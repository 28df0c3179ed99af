"""From packets to zones, and the table that keeps them."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from packets import (
    AAAA,
    CNAME,
    MX,
    NS,
    SOA,
    TXT,
    A,
    answers_with,
    counts,
    message,
    packet_of,
    query,
    rcode,
    rr,
    text_record,
    zone,
)

from iroh_fast import SecretKey
from iroh_fast._dns import name_from_text, read_message
from iroh_fast.dns_server._build import store_absence, store_failure, store_packet
from iroh_fast.dns_server._zones import ZoneTable

SECRET = SecretKey(b"\x07" * 32)
OTHER = SecretKey(b"\x08" * 32)
KEY = bytes(SECRET.public)
APEX = name_from_text(zone(SECRET))
LEAST = 1 << 16


def answer(packet_records: list[bytes], name: str, kind: int) -> bytes:
    answers = answers_with(packet_of(SECRET, *packet_records))
    found = answers.answer(query(name, kind), transport="tcp")
    assert isinstance(found, bytes)
    return found


def data(wire: bytes) -> list[tuple[int, bytes]]:
    """TTL and data of the answers."""
    found = read_message(wire)
    return [(r.ttl, found.rdata(r)) for r in found.records if r.section == 1]


def test_zone_groups_records_by_lower_cased_name_in_their_order() -> None:
    mixed = rr(name_from_text(f"_IROH.{zone(SECRET).upper()}"), TXT, b"\x01b", ttl=5)
    records = [text_record(SECRET, "_iroh", b"a"), text_record(SECRET, "x", b"z"), mixed]
    wire = answer(records, f"_iroh.{zone(SECRET)}", TXT)
    assert data(wire) == [(30, b"\x01a"), (5, b"\x01b")]


def test_zone_keeps_one_of_equal_records_with_the_ttl_of_the_last() -> None:
    records = [text_record(SECRET, "_iroh", b"a", ttl=n) for n in (30, 30, 7)]
    records.insert(1, text_record(SECRET, "_iroh", b"b"))
    assert data(answer(records, f"_iroh.{zone(SECRET)}", TXT)) == [(7, b"\x01a"), (30, b"\x01b")]


def test_zone_has_one_cname_of_a_name_the_last() -> None:
    records = [rr(APEX, CNAME, name_from_text(n)) for n in ("one.example", "two.example")]
    assert data(answer(records, zone(SECRET), CNAME)) == [(30, name_from_text("two.example"))]


@pytest.mark.parametrize(
    "record",
    [
        rr(APEX, SOA, b"\0\0" + bytes(20)),
        rr(APEX, NS, b"\0"),
        rr(APEX, A, b"\1\2\3\4", klass=3),
        rr(name_from_text(f"a.{zone(OTHER)}"), A, b"\1\2\3\4"),
        rr(name_from_text(f"{zone(SECRET)}.example"), A, b"\1\2\3\4"),
        rr(b"\0", A, b"\1\2\3\4"),
        rr(APEX, 41, b""),
        rr(APEX, 255, b"x"),
    ],
    ids=["SOA", "NS", "class CH", "another key", "below something", "root", "OPT", "ANY"],
)
def test_zone_leaves_out_what_is_not_to_be_served(record: bytes) -> None:
    table = ZoneTable(LEAST)
    assert store_packet(table, KEY, message(record))
    empty = table.nbytes
    assert store_packet(table, KEY, message())
    assert table.nbytes == empty


def test_zone_writes_names_in_data_in_full() -> None:
    """A pointer into the packet would lead anywhere in an answer."""
    pointer = b"\xc0\x0c"
    records = [
        rr(APEX, MX, b"\0\x0a" + b"\4mail" + pointer),
        rr(b"\2ns" + pointer, 33, struct.pack("!3H", 1, 2, 3) + pointer),
        rr(b"\2na" + pointer, 35, b"\0\1\0\2\1u\3e2u\0" + pointer),
    ]
    z = zone(SECRET)
    assert data(answer(records, z, MX)) == [(30, b"\0\x0a" + name_from_text(f"mail.{z}"))]
    assert data(answer(records, f"ns.{z}", 33)) == [(30, struct.pack("!3H", 1, 2, 3) + APEX)]
    assert data(answer(records, f"na.{z}", 35)) == [(30, b"\0\1\0\2\1u\3e2u\0" + APEX)]


@pytest.mark.parametrize(
    "bad",
    [
        rr(APEX, A, b"\1\2\3"),
        rr(APEX, A, b"\1\2\3\4\5"),
        rr(APEX, AAAA, b""),
        rr(APEX, CNAME, b""),
        rr(APEX, MX, b"\0\1"),
        rr(APEX, TXT, b"\5abc"),
    ],
)
def test_zone_with_data_that_resolvers_reject_is_refused_whole(bad: bytes) -> None:
    table = ZoneTable(LEAST)
    assert not store_packet(table, KEY, message(text_record(SECRET, "_iroh", b"a"), bad))


@pytest.mark.parametrize(
    "dns", [b"", b"\0" * 11, message() + b"x", struct.pack("!6H", 0, 0, 0, 9, 0, 0), b"\0" * 12]
)
def test_zone_of_cut_or_empty_messages_is_broken_or_empty(dns: bytes) -> None:
    assert store_packet(ZoneTable(LEAST), KEY, dns) == (len(dns) >= 12 and dns[7] == 0)


def test_zone_of_names_that_grow_has_a_bound() -> None:
    """Pointers of two bytes stand for names of 60: what is written out is counted, and too many are refused."""
    first = rr(APEX, TXT, b"\0")
    many = [rr(b"\xc0\x0c", MX, b"\0" + bytes((i,)) + b"\xc0\x0c") for i in range(60)]
    table = ZoneTable(1 << 20)
    empty = table.nbytes
    assert store_packet(table, KEY, message(first, *many))
    assert 60 * len(APEX) < table.nbytes - empty < 1 << 14
    assert not store_packet(table, KEY, message(first, *[rr(b"\xc0\x0c", A, b"abcd")] * 200))


def test_table_stays_below_its_bound_and_counts_who_had_to_go() -> None:
    table = ZoneTable(LEAST)
    for n in range(5000):
        store_packet(table, n.to_bytes(32, "big"), message())
        assert table.nbytes <= LEAST
    assert table.zones + table.evictions == 5000
    assert table.evictions > 4000
    # The oldest went first.
    assert table.drop((4999).to_bytes(32, "big"))
    assert not table.drop((0).to_bytes(32, "big"))


def test_table_hot_zone_stays_while_thousands_pass() -> None:
    answers = answers_with(packet_of(SECRET, text_record(SECRET, "", b"x")), cache_bytes=LEAST)
    zones = answers.core.zones
    asked = query(zone(SECRET))
    assert counts(answers.answer(asked, transport="udp"))[1] == 1  # type: ignore[arg-type]
    for n in range(3000):
        store_packet(zones, n.to_bytes(32, "big"), message())
        if n % 50 == 0:
            answers.answer(asked, transport="udp")
    assert zones.evictions > 2000
    assert answers._store.reads == 1  # type: ignore[attr-defined]


def test_table_unknown_keys_have_a_bound_of_their_own() -> None:
    table = ZoneTable(LEAST, 4096)
    for n in range(100):
        store_packet(table, n.to_bytes(32, "big"), message())
    for n in range(10_000, 20_000):
        store_absence(table, n.to_bytes(32, "big"))
    assert table.zones == 100
    assert 10 < table.unknown_keys < 64
    assert table.nbytes <= LEAST


def test_table_counts_all_bytes_and_gives_them_back() -> None:
    table = ZoneTable(1 << 20)
    empty = table.nbytes
    assert empty > 0
    big = message(*[text_record(SECRET, f"n{i}", b"x" * 50) for i in range(6)])
    for n in range(100):
        store_packet(table, n.to_bytes(32, "big"), message())
    small = table.nbytes - empty
    assert store_packet(table, KEY, big)
    assert table.nbytes - empty - small > 300
    assert table.drop(KEY) and not table.drop(KEY)
    for n in range(100):
        assert table.drop(n.to_bytes(32, "big"))
    assert table.nbytes == empty
    assert table.zones == 0


def test_table_forgets_all_at_once() -> None:
    answers = answers_with(packet_of(SECRET, text_record(SECRET, "", b"x")))
    store = answers._store
    for _ in range(3):
        answers.answer(query(zone(SECRET)), transport="udp")
    assert store.reads == 1  # type: ignore[attr-defined]
    answers.invalidate(None)
    answers.answer(query(zone(SECRET)), transport="udp")
    assert store.reads == 2  # type: ignore[attr-defined]
    assert answers.core.zones.zones == 1


@pytest.mark.parametrize("put", [store_absence, store_failure])
def test_table_entries_expire(put: Callable[[ZoneTable, bytes, float], None]) -> None:
    answers = answers_with(packet_of(SECRET, text_record(SECRET, "", b"x")))
    put(answers.core.zones, KEY, -1.0)
    wire = answers.answer(query(zone(SECRET)), transport="udp")
    assert isinstance(wire, bytes) and counts(wire)[1] == 1


def test_table_failure_is_refused_while_it_lasts() -> None:
    answers = answers_with(packet_of(SECRET, text_record(SECRET, "", b"x")))
    store_failure(answers.core.zones, KEY, 100.0)
    wire = answers.answer(query(zone(SECRET)), transport="udp")
    assert isinstance(wire, bytes) and rcode(wire) == 5 and counts(wire) == (1, 0, 0, 0)


@pytest.mark.parametrize("key", [b"", b"x" * 31, b"x" * 33])
def test_table_takes_keys_of_32_bytes_alone(key: bytes) -> None:
    table = ZoneTable(LEAST)
    for call in (
        table.drop,
        lambda k: store_absence(table, k),
        lambda k: store_packet(table, k, message()),
    ):
        with pytest.raises(ValueError, match="32 bytes"):
            call(key)


def test_table_needs_some_room() -> None:
    with pytest.raises(ValueError, match="65536"):
        ZoneTable(1000)
    with pytest.raises(ValueError, match="no room"):
        ZoneTable(LEAST, LEAST)
