"""What queries get: headers, limits, origins, lookups in stores that take their time."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable
from dataclasses import replace

import pytest
from packets import (
    AAAA,
    ANY,
    CNAME,
    DEVELOPMENT,
    NS,
    SOA,
    TXT,
    A,
    MemoryStore,
    answers_with,
    counts,
    packet_of,
    query,
    rcode,
    rr,
    text_record,
    zone,
)

from iroh_fast import SecretKey
from iroh_fast._dns import name_from_text, name_to_text, read_message
from iroh_fast.dns_server import answers as module
from iroh_fast.dns_server.answers import Answers
from iroh_fast.dns_server.static import StaticRecords, origin_records
from iroh_fast.errors import BadQuery, ConfigError
from iroh_fast.lookup.signed_packet import SignedPacket

SECRET = SecretKey(b"\x07" * 32)
OTHER = SecretKey(b"\x08" * 32)
KEY = bytes(SECRET.public)
Z = zone(SECRET)
PACKET = packet_of(
    SECRET,
    text_record(SECRET, "_iroh", b"relay=https://a.example/"),
    text_record(SECRET, "a.b", b"x"),
)


def ask(answers: Answers, wire: bytes, transport: module.Transport = "udp") -> bytes:
    found = answers.answer(wire, transport=transport)
    assert isinstance(found, bytes)
    return found


async def ask_later(answers: Answers, wire: bytes, transport: module.Transport = "udp") -> bytes:
    found = answers.answer(wire, transport=transport)
    assert isinstance(found, Awaitable)
    return await found


def authority(wire: bytes) -> list[str]:
    return [name_to_text(r.name) for r in read_message(wire).records if r.section == 2]


# --- messages


@pytest.mark.parametrize(
    "wire",
    [
        query(Z)[:-1],
        query(Z)[:20],
        b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\xc0\x0c\0\x10\0\1",  # a pointer to itself
        b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\xc0\x04\0\x10\0\1",  # into the header
        b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x40" + bytes(70),
        b"\x12\x34\x01\x00\x00\x01"
        + bytes(6)
        + b"\x3f"
        + b"x" * 63
        + b"\x3f"
        + b"x" * 63
        + b"\x3f"
        + b"x" * 63
        + b"\x3f"
        + b"x" * 63
        + b"\0\0\x10\0\1",
        query(Z)[:10]
        + b"\0\1"
        + query(Z)[12:]
        + b"\0\0\x29\4\xd0\0\0\0\0\0\4\0\3\0\1",  # an option that is cut
        query(Z)[:10] + b"\0\2" + query(Z)[12:] + 2 * b"\0\0\x29\4\xd0\0\0\0\0\0\0",
        query(Z)[:10] + b"\0\1" + query(Z)[12:] + b"\1x\0\0\x29\4\xd0\0\0\0\0\0\0",
        query(Z)[:6] + b"\0\1\0\0\0\0" + query(Z)[12:] + b"\0\0\x29\4\xd0\0\0\0\0\0\0",
        query(Z)[:10] + b"\0\1" + query(Z)[12:],
        query(Z)[:10] + b"\0\x21" + query(Z)[12:] + 33 * rr(b"\0", A, b"abcd"),
        query(Z)[:4] + b"\0\x09" + query(Z)[6:] + 8 * b"\0\0\1\0\1",
    ],
)
def test_answer_to_what_is_no_message_is_a_header_with_formerr(wire: bytes) -> None:
    answers = answers_with(PACKET)
    assert ask(answers, wire) == b"\x12\x34\x81\x01" + bytes(8)
    assert answers.counters()["dns_lookup_error"] == 1
    with pytest.raises(BadQuery, match="Invalid DNS message"):
        answers.answer(wire, transport="https")


@pytest.mark.parametrize("wire", [b"", b"x" * 11, query(Z, flags=0x8100)])
def test_answer_is_none_at_all_to_what_is_too_short_or_a_response(wire: bytes) -> None:
    answers = answers_with(PACKET)
    assert ask(answers, wire) == ask(answers, wire, "tcp") == b""
    assert answers.counters()["dns_ignored"] == 2
    assert answers.counters()["dns_requests"] == 0
    with pytest.raises(BadQuery):
        answers.answer(wire, transport="https")


def test_answer_repeats_question_and_id_byte_for_byte() -> None:
    mixed = query(f"_IrOh.{Z.upper()}", id=0xBEEF)
    wire = ask(answers_with(PACKET), mixed)
    assert wire[:2] == b"\xbe\xef"
    assert wire[12 : len(mixed)] == mixed[12:]
    assert counts(wire) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("flags", "expected"), [(0x0100, 0x8500), (0, 0x8400), (0x0110, 0x8510), (0x07F0, 0x8510)]
)
def test_answer_copies_rd_and_cd_alone(flags: int, expected: int) -> None:
    wire = ask(answers_with(PACKET), query(f"_iroh.{Z}", flags=flags))
    assert wire[2:4] == struct.pack("!H", expected)


@pytest.mark.parametrize(("payload", "said"), [(0, 512), (512, 512), (1232, 1232), (65535, 65535)])
def test_answer_has_opt_when_the_query_had(payload: int, said: int) -> None:
    wire = ask(answers_with(PACKET), query(f"_iroh.{Z}", edns=payload))
    assert wire[-11:] == b"\0\0\x29" + struct.pack("!H", said) + bytes(6)
    refused = ask(
        answers_with(PACKET, records=replace(DEVELOPMENT, origins=["x."])), query(Z, edns=payload)
    )
    assert rcode(refused) == 5 and counts(refused) == (1, 0, 0, 1)


@pytest.mark.parametrize(
    ("opcode", "kind", "expected"),
    [(1, TXT, 4), (4, SOA, 4), (5, TXT, 1), (5, SOA, 4), (15, TXT, 4)],
)
def test_answer_to_other_opcodes(opcode: int, kind: int, expected: int) -> None:
    wire = ask(answers_with(PACKET), query(Z, kind, flags=opcode << 11))
    assert (
        wire[2] & 0x7C == opcode << 3 and rcode(wire) == expected and counts(wire) == (1, 0, 0, 0)
    )


@pytest.mark.parametrize(("kind", "klass"), [(TXT, 3), (TXT, 4), (TXT, 254), (252, 1), (251, 1)])
def test_answer_refuses_other_classes_and_transfers(kind: int, klass: int) -> None:
    wire = ask(answers_with(PACKET), query(f"_iroh.{Z}", kind, klass=klass), "tcp")
    assert rcode(wire) == 5 and not wire[2] & 4 and counts(wire) == (1, 0, 0, 0)


# --- sizes


def many(n: int) -> SignedPacket:
    return packet_of(
        SECRET,
        rr(name_from_text(Z), A, bytes(4)),
        *[rr(b"\xc0\x0c", A, bytes((9, 9, 9, i))) for i in range(n)],
    )


@pytest.mark.parametrize("edns", [None, 0, 512, 600, 1232, 1400, 4096, 65535])
def test_answer_over_udp_stays_below_the_limit_and_says_that_it_is_cut(edns: int | None) -> None:
    """51 records of 16 bytes, each owner a pointer: more than 512 bytes, less than 1232."""
    limit = 1232 if edns is None else min(max(edns, 512), 1400)
    answers = answers_with(many(50))
    whole = ask(answers, query(f"{Z}.irohdns.example", A), "tcp")
    assert 512 < len(whole) < 1232 and counts(whole)[1] == 51
    wire = ask(answers, query(f"{Z}.irohdns.example", A, edns=edns))
    assert len(wire) <= limit
    if limit < len(whole):
        assert wire[2] & 2
        number = counts(wire)[1]
        assert 10 < number < 51
        # Whole records, as many as there is said to be.
        assert wire[12:-11] == whole[12 : len(wire) - 11]
        assert read_message(wire).complete
    else:
        assert not wire[2] & 2 and counts(wire)[1] == 51


def test_answer_over_udp_that_grew_is_cut_at_1400_bytes() -> None:
    grown = packet_of(
        SECRET,
        rr(name_from_text(Z), A, bytes(4)),
        *[rr(b"\xc0\x0c", 15, b"\0" + bytes((i,)) + b"\xc0\x0c") for i in range(50)],
    )
    answers = answers_with(grown)
    cut = ask(answers, query(Z, 15, edns=65535))
    assert 1232 < len(cut) <= 1400 and cut[2] & 2 and read_message(cut).complete
    assert len(ask(answers, query(Z, 15), "tcp")) > 3000
    assert answers.counters()["dns_truncated"] == 1


def test_answer_with_an_soa_that_does_not_fit_is_cut() -> None:
    long = ".".join(["x" * 60] * 4)
    records = replace(DEVELOPMENT, default_soa=f"{long} y{long} 1 2 3 4 5")
    wire = ask(
        answers_with(records=records), query(f"{'q' * 60}.{'q' * 60}.irohdns.example", edns=512)
    )
    assert len(wire) <= 512 and wire[2] & 2 and counts(wire) == (1, 0, 0, 1)


# --- names


@pytest.mark.parametrize("name", [f"b.{Z}", f"a.b.{Z}", f"_iroh.{Z}", Z])
def test_answer_for_a_name_that_exists_with_something_else_is_nodata(name: str) -> None:
    for origin in ("", ".irohdns.example"):
        wire = ask(answers_with(PACKET), query(name + origin, AAAA))
        assert rcode(wire) == 0 and counts(wire) == (1, 0, 1, 0)


@pytest.mark.parametrize(
    "name", [f"c.{Z}", f"x.a.b.{Z}", f"iroh.{Z}", f"_iroh.{zone(OTHER)}", f"xb.{Z}"]
)
def test_answer_for_a_name_without_anything_is_nxdomain(name: str) -> None:
    for origin in ("", ".irohdns.example"):
        wire = ask(answers_with(PACKET), query(name + origin))
        assert rcode(wire) == 3 and counts(wire) == (1, 0, 1, 0)


def test_answer_below_an_origin_never_says_that_a_fresh_endpoint_is_not_there() -> None:
    """Resolvers that ask for one label after the other, for NS or A, and anybody who asks for ANY."""
    cname = rr(name_from_text(f"www.{Z}"), CNAME, name_from_text("example.org"))
    answers = answers_with(packet_of(SECRET, text_record(SECRET, "_iroh", b"a=b"), cname))
    for name, kind in ((Z, NS), (Z, A), (f"_iroh.{Z}", ANY), (f"_iroh.{Z}", NS), (f"www.{Z}", A)):
        assert rcode(ask(answers, query(f"{name}.irohdns.example", kind))) == 0
        # As the released server says it, in the zone that nobody delegates.
        if kind in (NS, ANY) or name.startswith("www"):
            assert rcode(ask(answers, query(name, kind))) == 3


def test_answer_of_an_empty_packet_is_nxdomain() -> None:
    assert rcode(ask(answers_with(packet_of(SECRET)), query(f"_iroh.{Z}"))) == 3
    assert rcode(ask(answers_with(packet_of(SECRET)), query(Z))) == 3


@pytest.mark.parametrize(
    "label", ["0" * 52, Z[:-1] + "b", Z[:-1], Z + "y", "y" * 51 + "o", "é".encode().hex() * 13]
)
def test_answer_for_a_label_that_is_no_key_is_nxdomain(label: str) -> None:
    answers = answers_with(PACKET)
    wire = ask(answers, query(f"_iroh.{label}.irohdns.example"))
    assert rcode(wire) == 3
    assert answers.core.zones.zones == 0


# --- origins


def test_answer_takes_the_longest_origin_whatever_the_order() -> None:
    for origins in (["example.", ".", "dns.example."], ["dns.example", "example", "."]):
        records = replace(DEVELOPMENT, origins=origins)
        answers = answers_with(PACKET, records=records)
        for name, owner in ((f"x.{Z}.dns.example", "dns.example."), (f"x.{Z}.example", "example.")):
            assert authority(ask(answers, query(name))) == [owner]
        # Under the root, the first one's.
        assert authority(ask(answers, query(f"x.{Z}"))) == [origins[0].removesuffix(".") + "."]
        assert counts(ask(answers, query(f"_iroh.{Z}.dns.example")))[1] == 1


def test_answer_without_the_root_among_the_origins_refuses_other_names() -> None:
    answers = answers_with(PACKET, records=replace(DEVELOPMENT, origins=["DNS.example"]))
    assert counts(ask(answers, query(f"_iroh.{Z}.dns.EXAMPLE")))[1] == 1
    for name in (f"_iroh.{Z}", f"_iroh.{Z}.xdns.example", "example", "."):
        wire = ask(answers, query(name))
        assert rcode(wire) == 5 and not wire[2] & 4
    assert counts(ask(answers, query("dns.example", A)))[1] == 1


def test_answer_for_a_name_above_an_origin_is_nodata() -> None:
    answers = answers_with(records=replace(DEVELOPMENT, origins=["a.b.example.", "."]))
    for name, expected in (
        ("b.example", 0),
        ("example", 0),
        ("xb.example", 3),
        ("c.a.b.example", 3),
        ("a.b.example", 0),
    ):
        assert rcode(ask(answers, query(name, TXT))) == expected


def test_answer_with_the_only_origin_root_has_soa_of_the_root() -> None:
    answers = answers_with(PACKET, records=replace(DEVELOPMENT, origins=["."]))
    assert authority(ask(answers, query("nope"))) == ["."]
    soa = ask(answers, query(".", SOA))
    assert counts(soa) == (1, 1, 1, 0)


def test_answer_with_all_static_records() -> None:
    records = StaticRecords(
        origins=["d.example"], rr_a="192.0.2.1", rr_aaaa="2001:db8::1", rr_ns="NS.d.example"
    )
    answers = answers_with(records=records)
    for kind, ttl, rdata in (
        (A, 3600, bytes((192, 0, 2, 1))),
        (AAAA, 3600, bytes.fromhex("20010db8" + "0" * 23 + "1")),
    ):
        found = read_message(ask(answers, query("d.example", kind)))
        assert [(r.type, r.ttl, found.rdata(r)) for r in found.records] == [(kind, ttl, rdata)]
    found = read_message(ask(answers, query("d.example", NS)))
    assert found.name_in(found.records[0]) == name_from_text("NS.d.example")
    assert counts(
        ask(answers_with(records=replace(records, rr_ns=None)), query("x.d.example", SOA))
    ) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"origins": []}, "origins"),
        ({"origins": "dns.example"}, "origins"),
        ({"origins": ["a", "A."]}, "origins"),
        ({"origins": ["x" * 64]}, "origins"),
        ({"origins": ["a..b"]}, "origins"),
        ({"default_soa": "a b 1 2 3 4"}, "default_soa"),
        ({"default_soa": "a b 1 2 3 4 -5"}, "default_soa"),
        ({"default_soa": "a b 1 2 3 4 4294967296"}, "default_soa"),
        ({"default_soa": "a.. b 1 2 3 4 5"}, "default_soa"),
        ({"rr_a": "::1"}, "rr_a"),
        ({"rr_a": "host"}, "rr_a"),
        ({"rr_aaaa": "127.0.0.1"}, "rr_aaaa"),
        ({"rr_aaaa": "fe80::1%1"}, "rr_aaaa"),
        ({"rr_ns": "a..b"}, "rr_ns"),
    ],
)
def test_static_records_that_cannot_be_name_the_key(change: dict[str, str], key: str) -> None:
    with pytest.raises(ConfigError, match=f"dns.{key}"):
        origin_records(replace(DEVELOPMENT, **change))  # type: ignore[arg-type]


# --- the store


def test_answers_read_each_key_once_until_it_changes() -> None:
    store = MemoryStore(PACKET)
    answers = Answers(DEVELOPMENT, store)
    for _ in range(5):
        assert counts(ask(answers, query(f"_iroh.{Z}")))[1] == 1
        assert rcode(ask(answers, query(f"_iroh.{zone(OTHER)}"))) == 3
    assert store.reads == 2
    newer = packet_of(SECRET, text_record(SECRET, "_iroh", b"new"))
    store.packets[KEY] = newer.to_bytes()
    answers.invalidate(KEY)
    assert b"new" in ask(answers, query(f"_iroh.{Z}"))
    del store.packets[KEY]
    answers.invalidate(KEY)
    assert rcode(ask(answers, query(f"_iroh.{Z}"))) == 3


async def test_answers_of_a_failing_store_are_refused_and_it_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(MemoryStore):
        fails = True

        def read(self, key: bytes, /) -> bytes | None:
            found = super().read(key)
            if self.fails:
                raise OSError("disk")
            return found

    store = Failing(PACKET)
    answers = Answers(DEVELOPMENT, store)
    monkeypatch.setattr(module, "FAILURE_KEPT_S", 100.0)
    for _ in range(3):
        assert rcode(ask(answers, query(Z))) == 5
    assert store.reads == 1
    answers.invalidate(KEY)
    # Kept for no time at all it would be asked for ever.
    monkeypatch.setattr(module, "FAILURE_KEPT_S", -1.0)
    assert rcode(await ask_later(answers, query(Z))) == 2
    store.fails = False
    assert rcode(ask(answers, query(Z))) == 0
    assert answers.counters()["dns_store_errors"] == store.reads - 1
    assert "could not be read" in caplog.text


class SlowStore:
    """Answers when it is told to."""

    def __init__(self, *packets: SignedPacket) -> None:
        self.packets = {packet.public_key: packet.to_bytes() for packet in packets}
        self.fetches: list[bytes] = []
        self.go = asyncio.Event()
        self.coherent = True

    async def fetch(self, key: bytes, /) -> bytes | None:
        self.fetches.append(key)
        await self.go.wait()
        found = self.packets.get(key)
        if found == b"fail":
            raise OSError("gone")
        return found


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_answers_of_a_slow_store_wait_for_one_fetch_of_a_key() -> None:
    store = SlowStore(PACKET)
    answers = Answers(DEVELOPMENT, store)
    asked = [
        asyncio.ensure_future(ask_later(answers, query(f"_iroh.{Z}", id=n))) for n in range(10)
    ]
    asked.append(asyncio.ensure_future(ask_later(answers, query(f"_iroh.{zone(OTHER)}"))))
    await turns()
    assert sorted(store.fetches) == sorted([KEY, bytes(OTHER.public)])
    assert answers.counters()["dns_waiting"] == 11
    store.go.set()
    wires = await asyncio.gather(*asked)
    assert [int.from_bytes(wire[:2], "big") for wire in wires[:10]] == list(range(10))
    assert all(counts(wire)[1] == 1 for wire in wires[:10]) and rcode(wires[10]) == 3
    assert counts(ask(answers, query(f"_iroh.{Z}")))[1] == 1
    assert answers.counters()["dns_waiting"] == 0


async def test_answers_of_an_incoherent_store_are_not_kept() -> None:
    store = SlowStore(PACKET)
    store.coherent = False
    store.go.set()
    answers = Answers(DEVELOPMENT, store)
    for n in range(3):
        assert counts(await ask_later(answers, query(f"_iroh.{Z}")))[1] == 1
        assert len(store.fetches) == n + 1
    assert answers.core.zones.zones == 0


async def test_answers_that_wait_end_with_servfail_when_the_server_stops() -> None:
    store = SlowStore(PACKET)
    answers = Answers(DEVELOPMENT, store)
    asked = [
        asyncio.ensure_future(ask_later(answers, query(f"_iroh.{z}"))) for z in (Z, zone(OTHER))
    ]
    await turns()
    later = ask_later(answers, query(f"x.{Z}"))
    await answers.close()
    assert [rcode(wire) for wire in await asyncio.gather(*asked)] == [2, 2]
    assert rcode(await later) == 2
    await answers.close()
    assert answers.counters()["dns_waiting"] == 0


async def test_answers_of_a_fetch_that_fails_are_refused() -> None:
    store = SlowStore()
    store.packets[KEY] = b"fail"
    store.go.set()
    answers = Answers(DEVELOPMENT, store)
    assert rcode(await ask_later(answers, query(Z))) == 5


async def test_answers_wait_for_a_bounded_number_of_keys() -> None:
    """A flood of unknown keys: what is over gets SERVFAIL at once, and the rest is as it was."""
    store = SlowStore(PACKET)
    answers = Answers(DEVELOPMENT, store)
    asked = []
    for n in range(2 * module.MAX_LOOKUPS):
        label = zone(SecretKey(n.to_bytes(32, "big")))
        asked.append(asyncio.ensure_future(ask_later(answers, query(label))))
    await turns()
    assert len(store.fetches) == module.MAX_LOOKUPS
    done = [task.result() for task in asked if task.done()]
    assert len(done) == module.MAX_LOOKUPS and {rcode(wire) for wire in done} == {2}
    store.go.set()
    wires = await asyncio.gather(*asked)
    assert sorted({rcode(wire) for wire in wires}) == [2, 3]
    assert counts(await ask_later(answers, query(f"_iroh.{Z}")))[1] == 1


async def test_answers_of_one_source_take_a_quarter_of_the_places() -> None:
    answers = Answers(DEVELOPMENT, SlowStore(PACKET))
    sent: list[bytes] = []
    refused = 0
    for n in range(module.MAX_WAITING // 2):
        now = answers.ask(query(f"_iroh.{Z}", id=n), "tcp", "192.0.2.1", sent.append)
        refused += now is not None and rcode(now) == 2
    assert refused == module.MAX_WAITING // 4
    assert answers.ask(query(f"_iroh.{Z}"), "tcp", "192.0.2.2", sent.append) is None
    long = query(Z, more=bytes(5000))
    assert rcode(answers.ask(long, "tcp", "192.0.2.3", sent.append) or b"") == 2
    await answers.close()
    assert len(sent) == module.MAX_WAITING // 4 + 1 and {rcode(wire) for wire in sent} == {2}


async def test_answers_to_one_that_fails_to_deliver_do_not_touch_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = SlowStore(PACKET)
    answers = Answers(DEVELOPMENT, store)

    def broken(_: bytes) -> None:
        raise RuntimeError("gone")

    sent: list[bytes] = []
    assert answers.ask(query(Z), "tcp", "a", broken) is None
    assert answers.ask(query(Z), "tcp", "a", sent.append) is None
    store.go.set()
    await turns(20)
    assert len(sent) == 1 and "could not be delivered" in caplog.text


# --- fallback


class Elsewhere:
    """The DHT, as the server sees it."""

    def __init__(self, *packets: SignedPacket) -> None:
        self.packets = {packet.public_key: packet.to_bytes() for packet in packets}
        self.lookups: list[bytes] = []
        self.hangs = False

    async def lookup(self, key: bytes, /) -> bytes | None:
        self.lookups.append(key)
        await asyncio.sleep(1000 if self.hangs else 0)
        return self.packets.get(key)


async def test_fallback_is_asked_once_for_keys_that_the_store_does_not_have() -> None:
    elsewhere = Elsewhere(PACKET)
    for store in (MemoryStore(), SlowStore()):
        if isinstance(store, SlowStore):
            store.go.set()
        elsewhere.lookups.clear()
        answers = Answers(DEVELOPMENT, store, fallback=elsewhere)
        for n in range(3):
            for name, found in ((f"_iroh.{Z}", 1), (f"_iroh.{zone(OTHER)}", 0)):
                wire = answers.answer(query(name, id=n), transport="udp")
                assert n == 0 or isinstance(wire, bytes)
                wire = wire if isinstance(wire, bytes) else await wire
                assert counts(wire)[1] == found and rcode(wire) == (0 if found else 3)
        assert sorted(elsewhere.lookups) == sorted([KEY, bytes(OTHER.public)])
        assert answers.counters()["cache_zones_dht"] == 1


async def test_fallback_gives_way_to_what_is_published_here() -> None:
    store = MemoryStore()
    answers = Answers(DEVELOPMENT, store, fallback=Elsewhere(PACKET))
    assert b"relay=" in await ask_later(answers, query(f"_iroh.{Z}"))
    store.packets[KEY] = packet_of(SECRET, text_record(SECRET, "_iroh", b"here")).to_bytes()
    answers.invalidate(KEY)
    assert b"here" in ask(answers, query(f"_iroh.{Z}"))


async def test_fallback_that_gives_another_key_or_fails_is_as_good_as_none() -> None:
    elsewhere = Elsewhere()
    elsewhere.packets[KEY] = packet_of(OTHER, text_record(OTHER, "_iroh", b"x")).to_bytes()
    answers = Answers(DEVELOPMENT, MemoryStore(), fallback=elsewhere)
    assert rcode(await ask_later(answers, query(f"_iroh.{Z}"))) == 3

    async def fails(_: bytes, /) -> bytes | None:
        raise OSError("no network")

    elsewhere.lookup = fails  # type: ignore[method-assign]
    assert rcode(await ask_later(answers, query(f"_iroh.{zone(OTHER)}"))) == 3


async def test_fallback_has_a_budget_of_time_and_of_lookups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FALLBACK_BUDGET_S", 0.5)
    elsewhere = Elsewhere()
    elsewhere.hangs = True
    answers = Answers(DEVELOPMENT, MemoryStore(), fallback=elsewhere)
    zones = [zone(SecretKey(bytes((n,)) * 32)) for n in range(1, module.MAX_FALLBACK + 11)]
    wires = await asyncio.gather(*[ask_later(answers, query(f"_iroh.{z}")) for z in zones])
    assert len(elsewhere.lookups) == module.MAX_FALLBACK
    assert [rcode(wire) for wire in wires].count(2) == 10
    assert [rcode(wire) for wire in wires].count(3) == module.MAX_FALLBACK
    assert answers.counters()["dns_waiting"] == 0
