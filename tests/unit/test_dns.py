"""The DNS codec: reading and writing of messages, names, and which messages iroh's parser takes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import dns.message
import dns.name
import dns.rdatatype
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from iroh_fast import _dns
from iroh_fast.errors import DnsMessageError

VECTORS = Path(__file__).parents[1] / "vectors"
PKARR: dict[str, Any] = json.loads((VECTORS / "pkarr.json").read_text("utf-8"))
KEY = "df9sse9bp1nuftim3yhxiuk6w6r5hddsskjygpydux7esxjstioo"

name = _dns.name_from_text
labels = st.binary(min_size=1, max_size=63)
names = st.lists(labels, max_size=4).filter(lambda found: sum(map(len, found)) + len(found) < 255)


def header(*counts: int, flags: int = 0x8000, id: int = 0) -> bytes:
    return struct.pack(">HH4H", id, flags, *(*counts, 0, 0, 0, 0)[:4])


def record(
    type: int, rdata: bytes, owner: bytes = b"\1a\0", klass: int = 1, ttl: int = 30
) -> bytes:
    return owner + struct.pack(">HHIH", type, klass, ttl, len(rdata)) + rdata


def accepted(message: bytes) -> bool:
    try:
        _dns.check_message(message)
    except DnsMessageError:
        return False
    return True


def takes(type: int, rdata: bytes) -> bool:
    return accepted(header(0, 1) + record(type, rdata))


# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        (".", b"\0"),
        ("", b"\0"),
        ("a", b"\1a\0"),
        ("_iroh.Example.", b"\5_iroh\7Example\0"),
        (r"\1", b"\0011\0"),  # one escaped character
        (r"a\.b.c", b"\3a.b\1c\0"),
        (r"\000\255\\.x", b"\3\0\xff\\\1x\0"),
    ],
)
def test_names_are_read_and_shown(text: str, wire: bytes) -> None:
    assert name(text) == wire
    assert name(_dns.name_to_text(wire)) == wire


@pytest.mark.parametrize(
    "text", ["a..b", ".a", "..", "é.example", "a" * 64, ".".join(["a" * 63] * 4), "a\\", r"\256"]
)
def test_names_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(DnsMessageError):
        name(text)


@given(names)
def test_names_of_any_labels_are_read_back(parts: list[bytes]) -> None:
    wire = _dns.name_from_labels(parts)
    assert _dns.labels_of(wire) == parts
    text = _dns.name_to_text(wire)
    assert text.isascii() and text.isprintable()
    assert name(text) == wire
    assert dns.name.from_text(text).to_wire() == wire


@given(st.text(max_size=80))
def test_names_of_any_text_are_read_or_refused(text: str) -> None:
    try:
        wire = name(text)
    except DnsMessageError as err:
        assert str(err).isprintable()
        return
    assert len(wire) <= 255
    assert name(_dns.name_to_text(wire)) == wire


LONGEST = b"".join(
    (b"\x3f" + b"a" * 63, b"\x3f" + b"b" * 63, b"\x3f" + b"c" * 63, b"\x3d" + b"d" * 61, b"\0")
)


def test_names_have_at_most_255_bytes_also_through_pointers() -> None:
    assert len(LONGEST) == 255
    assert accepted(header(0, 1) + record(16, b"", LONGEST))
    assert not accepted(
        header(0, 1)
        + record(
            16,
            b"",
            b"\x3f"
            + b"a" * 63
            + b"\x3f"
            + b"b" * 63
            + b"\x3f"
            + b"c" * 63
            + b"\x3e"
            + b"d" * 62
            + b"\0",
        )
    )
    first = record(16, b"", LONGEST)
    assert accepted(header(0, 2) + first + record(16, b"", b"\xc0\x0c"))
    assert not accepted(header(0, 2) + first + record(16, b"", b"\1x\xc0\x0c"))


@pytest.mark.parametrize(
    "owner",
    [
        b"\xc0\x0c",  # itself
        b"\xc0\x20",  # forwards
        b"\1a\xc0\x0c",  # round and round
        b"\1a\xc0\x0e",  # itself, behind a label
        b"\xff\xff",
        b"\xc0",
        b"\x40" + b"a" * 64 + b"\0",
        b"\x80" + b"a" * 128 + b"\0",
        b"\5abc",
        b"",
    ],
)
def test_names_that_loop_or_are_cut_end_the_walk(owner: bytes) -> None:
    message = header(0, 1) + owner
    assert not accepted(message)
    assert not accepted(message + bytes(20))
    read = _dns.read_message(message)
    assert read.records == [] and not read.complete


def test_names_may_point_into_the_header() -> None:
    """Odd, but iroh takes it."""
    assert accepted(header(0, 1) + record(16, b"\3a=b", b"\xc0\x00"))


# --- reading -------------------------------------------------------------------------------


def test_reading_a_query_of_the_binding() -> None:
    vector = PKARR["dns_wire"]["query_sent_by_binding"]
    message = _dns.read_message(bytes.fromhex(vector["hex"]))
    (question,) = message.questions
    (opt,) = message.records
    assert _dns.name_to_text(question.name) == vector["name"]
    assert (question.type, question.klass) == (16, 1)
    assert (opt.section, opt.type, opt.klass, opt.name, opt.ttl) == (
        _dns.ADDITIONAL,
        41,
        1232,
        b"\0",
        0,
    )
    assert message.flags == 0x0100 and message.complete
    # And it is written the same.
    writer = _dns.Writer(message.id, 0x0100)
    writer.question(question.name, 16)
    writer.record(_dns.ADDITIONAL, b"\0", 41, 0, klass=1232)
    assert writer.finish() == message.data


def test_reading_an_answer_that_the_binding_accepted() -> None:
    data = bytes.fromhex(PKARR["dns_wire"]["our_answer"]["hex"])
    message = _dns.read_message(data)
    assert [record.name for record in message.records[:2]] == [message.questions[0].name] * 2
    assert [message.strings(record) for record in message.records[:2]] == [
        [b"relay=https://example.com/"],
        [b"addr=127.0.0.1:1234"],
    ]
    writer = _dns.Writer(message.id, message.flags)
    writer.question(message.questions[0].name, 16)
    for record in message.records:
        writer.record(
            record.section,
            record.name,
            record.type,
            record.ttl,
            message.rdata(record),
            klass=record.klass,
        )
    assert writer.finish() == data


def test_reading_goes_as_far_as_the_message_is_sound() -> None:
    whole = (
        header(1, 2, 1)
        + b"\1q\0\0\1\0\1"
        + record(1, bytes(4))
        + record(65280, b"xyz")
        + record(16, b"\1a")
    )
    full = _dns.read_message(whole)
    assert full.complete
    assert [(r.section, r.type, full.rdata(r)) for r in full.records] == [
        (_dns.ANSWER, 1, bytes(4)),
        (_dns.ANSWER, 65280, b"xyz"),
        (_dns.AUTHORITY, 16, b"\1a"),
    ]
    for size in range(12, len(whole)):
        part = _dns.read_message(whole[:size])
        assert not part.complete
        assert len(part.records) == sum(size >= r.offset + r.size for r in full.records)
    for size in range(12):
        with pytest.raises(DnsMessageError):
            _dns.read_message(whole[:size])


def test_reading_names_and_strings_inside_of_data() -> None:
    srv = struct.pack(">HHH", 0, 0, 5) + b"\1b\xc0\x0c"
    message = _dns.read_message(
        header(0, 3) + record(33, srv) + record(16, b"\1a\5b") + record(12, b"\xc0\x0c")
    )
    first, broken, pointer = message.records
    assert message.name_in(first, 6) == b"\1b\1a\0"
    assert message.name_in(pointer) == b"\1a\0"
    assert message.name_in(first, 11) is None and message.name_in(first, -1) is None
    assert message.strings(broken) is None
    # A record of a longer message does not lead outside of this one.
    other = _dns.read_message(header(0, 0))
    assert (
        other.name_in(first) is None and other.strings(first) is None and other.rdata(first) == b""
    )


@given(st.binary(max_size=200))
@example(header(1) + b"\xc0\x00\0\0\0\0")
def test_reading_any_bytes_raises_nothing_else(data: bytes) -> None:
    accepted(data)
    _dns.txt_values(data, b"\1a\0")
    try:
        message = _dns.read_message(data)
    except DnsMessageError:
        assert len(data) < 12
        return
    for found in message.records:
        assert len(message.rdata(found)) == found.size
        message.strings(found)
        message.name_in(found)


SECTIONS = st.lists(
    st.tuples(
        names,
        st.sampled_from([1, 2, 5, 6, 12, 16, 28, 33, 41, 47, 64, 99, 257]),
        st.sampled_from([1, 3, 254, 255, 0x8001]),
        st.binary(max_size=40),
    ),
    max_size=4,
)


@given(SECTIONS, st.binary(max_size=3), st.integers(0, 60))
def test_what_is_accepted_is_read_whole(records: list[Any], more: bytes, cut: int) -> None:
    body = b"".join(
        record(type, rdata, _dns.name_from_labels(owner), klass)
        for owner, type, klass, rdata in records
    )
    message = header(0, len(records)) + body + more
    assert _dns.read_message(message).complete
    message = message[: len(message) - cut]
    if accepted(message):
        assert _dns.read_message(message).complete


# --- what iroh's parser takes ----------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, 0x8000, 0x7800, 0xFFBF, 5])
def test_check_takes_any_flag_but_the_reserved_one(flags: int) -> None:
    assert accepted(header(flags=flags))
    assert not accepted(header(flags=flags | 0x40))


def test_check_takes_known_classes_with_and_without_the_top_bit() -> None:
    for klass in range(300):
        for top in (0, 0x8000):
            message = header(0, 1) + record(16, b"\1a", klass=klass | top)
            assert accepted(message) is (klass in (1, 2, 3, 4, 254)), klass
            assert accepted(header(1) + b"\0\0\1" + struct.pack(">H", klass | top)) is (
                klass in (1, 2, 3, 4, 254, 255)
            )
    assert accepted(header(0, 0, 0, 1) + record(41, b"", b"\0", klass=1232))  # of OPT it is a size


KNOWN = {
    *range(1, 19),
    *range(20, 24),
    28,
    29,
    33,
    35,
    36,
    37,
    41,
    43,
    45,
    46,
    47,
    48,
    49,
    63,
    64,
    65,
    108,
    109,
    257,
    *range(251, 256),
}


def test_check_takes_questions_of_known_types_alone() -> None:
    taken = {
        type for type in range(1000) if accepted(header(1) + b"\0" + struct.pack(">HH", type, 1))
    }
    assert taken == KNOWN
    assert all(takes(type, b"") for type in range(65536))  # without data, every record


SOA = b"\1m\0\1r\0" + bytes(20)


@pytest.mark.parametrize(
    ("type", "shortest"),
    [
        (1, bytes(4)), (28, bytes(16)), (2, b"\0"), (5, b"\1x\0"), (6, SOA), (11, bytes(5)), (12, b"\0"),
        (13, b"\1a\1b"), (14, b"\0\1a\0"), (15, bytes(2) + b"\1a\0"), (17, b"\1a\0\0"), (18, bytes(2) + b"\0"),
        (20, b"\0\0"), (21, bytes(3)), (22, bytes(20)), (23, b"\0"), (29, bytes(16)), (33, bytes(7)),
        (35, bytes(4) + b"\1a\0\0\0"), (36, bytes(3)), (37, bytes(5)), (41, b"\0\1\0\2ab"), (43, bytes(4)),
        (45, bytes(3)), (45, b"\0\1\0" + bytes(4)), (45, b"\0\2\0" + bytes(16)), (45, b"\0\3\0\1a\0"),
        (46, bytes(18) + b"\0"), (47, b"\0\0\1x"), (48, bytes(4)), (49, bytes(3)), (63, bytes(6)), (108, bytes(6)),
        (64, bytes(3)), (65, b"\0\1\0" + b"\0\3\0\2\1\xbb"), (65, b"\0\1\0" + b"\0\4\0\4abcd"),
        (65, b"\0\1\0" + b"\0\1\0\3\2h2"), (65, b"\0\1\0" + b"\0\5\0\3\0\1x"), (65, b"\0\1\0" + b"\0\6\0\x10" + bytes(16)),
        (109, bytes(8)), (257, b"\0\1a"), (16, b"\2ab"),
    ],
)  # fmt: skip
def test_check_wants_all_of_what_a_type_needs(type: int, shortest: bytes) -> None:
    assert takes(type, shortest)
    assert (
        not takes(type, shortest[:-1])
        or len(shortest) == 1
        or (type, shortest) in {(64, bytes(3)), (65, bytes(3))}
    )


def test_check_lets_data_be_longer_for_types_of_fixed_size() -> None:
    assert takes(1, bytes(5)) and takes(6, SOA + b"x") and takes(12, b"\0x") and takes(33, bytes(9))
    assert not takes(16, b"\1ab") and not takes(41, b"\0\1\0\0x")


def test_check_of_single_rules() -> None:
    assert not takes(29, b"\1" + bytes(15))  # version of LOC
    assert not takes(45, b"\0\4\0" + bytes(20))  # kind of gateway
    assert (
        takes(47, b"\0\1\1x\2\1x")
        and not takes(47, b"\0\2\1x\2\1x")
        and not takes(47, b"\0\0\x21" + bytes(33))
    )
    assert takes(47, b"\0\0\x20" + bytes(32))
    assert not takes(64, bytes(3) + b"\0\7\0\0\0\7\0\0") and takes(
        64, bytes(3) + b"\0\7\0\0\0\x08\0\0"
    )
    assert not takes(64, bytes(3) + b"\0\0\0\1x") and not takes(64, bytes(3) + b"\0\4\0\3abc")
    assert not takes(64, bytes(3) + b"\0\5\0\3\0\2x") and not takes(64, bytes(3) + b"\0\6\0\1x")
    assert takes(64, bytes(3) + b"\xff\xff\0\1x") and takes(64, bytes(3) + b"\0\2\0\1x")
    assert takes(10, b"anything") and takes(19, b"\2") and takes(39, b"\xff") and takes(65280, b"\xff")


# --- values of TXT records -------------------------------------------------------------------


def test_txt_values_are_those_of_one_owner_in_the_answers() -> None:
    message = (
        header(1, 5, 0, 1)
        + b"\1q\0\0\x10\0\1"
        + b"".join(
            (
                record(16, b"\1x\2yz"),
                record(16, b"\1A", b"\1A\0"),
                record(1, bytes(4)),
                record(16, b"", b"\xc0\x13"),
                record(16, b"\4more", b"\1a\1b\0"),
                record(16, b"\1n"),
            )
        )
    )
    assert _dns.read_message(message).complete
    assert _dns.txt_values(message, b"\1a\0") == [b"xyz", b""]
    assert _dns.txt_values(message, b"\1A\0") == [b"A"]
    assert _dns.txt_values(message, b"\0") == []


@given(names, st.lists(st.binary(max_size=255), max_size=5), st.integers(0, 2**32 - 1))
def test_txt_message_is_read_back(owner: list[bytes], values: list[bytes], ttl: int) -> None:
    wire = _dns.name_from_labels(owner)
    message = _dns.txt_message(wire, values, ttl)
    _dns.check_message(message)
    assert _dns.txt_values(message, wire) == values
    assert {r.ttl for r in _dns.read_message(message).records} <= {ttl}
    seen = dns.message.from_wire(message)
    assert sum(len(rrset) for rrset in seen.answer) == len(set(values))


def test_txt_message_refuses_what_no_record_holds() -> None:
    with pytest.raises(DnsMessageError, match="256 bytes"):
        _dns.txt_message(b"\0", [b"x" * 256], 0)
    with pytest.raises(DnsMessageError, match="too many"):
        _dns.txt_message(b"\0", [b""] * 65536, 0)


# --- writing -----------------------------------------------------------------------------------


def test_writer_compresses_names_but_not_inside_of_plain_data() -> None:
    writer = _dns.Writer(0, 0x8400)
    service, host = name("_irohv1._udp.local"), name("abc-1.local")
    instance = name("abc._irohv1._udp.local")
    writer.record(_dns.ANSWER, service, 12, 120, target=instance)
    writer.record(_dns.ANSWER, instance, 33, 120, struct.pack(">HHH", 0, 0, 1) + host)
    writer.record(_dns.ADDITIONAL, host, 1, 120, bytes((127, 0, 0, 1)))
    data = writer.finish()
    assert len(data) == writer.size
    seen = dns.message.from_wire(data)
    assert str(seen.answer[0]) == "_irohv1._udp.local. 120 IN PTR abc._irohv1._udp.local."
    assert str(seen.answer[1]) == "abc._irohv1._udp.local. 120 IN SRV 0 0 1 abc-1.local."
    assert str(seen.additional[0]) == "abc-1.local. 120 IN A 127.0.0.1"
    assert data.count(b"local") == 2  # the other one stands in the data of SRV


@given(st.lists(st.tuples(st.integers(1, 3), names, st.binary(max_size=20)), max_size=6))
def test_writer_is_read_back(records: list[tuple[int, list[bytes], bytes]]) -> None:
    writer = _dns.Writer(7, 0x8180)
    records.sort(key=lambda entry: entry[0])
    written = [(section, _dns.name_from_labels(owner), rdata) for section, owner, rdata in records]
    writer.question(b"\1q\0", 255)
    for section, owner, rdata in written:
        writer.record(section, owner, 65280, 5, rdata)
    message = _dns.read_message(writer.finish())
    assert message.complete and (message.id, message.flags) == (7, 0x8180)
    assert [(r.section, r.name, message.rdata(r)) for r in message.records] == written
    assert dns.message.from_wire(message.data).id == 7


def test_writer_does_not_point_beyond_14_bits() -> None:
    writer = _dns.Writer()
    late = name("late.example")
    for _ in range(300):
        writer.record(_dns.ANSWER, b"\0", 65280, 0, bytes(60))
    for _ in range(2):
        writer.record(_dns.ANSWER, late, 65280, 0)
    assert [r.name for r in _dns.read_message(writer.finish()).records[-2:]] == [late, late]


def test_writer_refuses_what_does_not_fit() -> None:
    writer = _dns.Writer()
    with pytest.raises(DnsMessageError, match="65535"):
        writer.record(_dns.ANSWER, b"\0", 16, 0, bytes(65536))
    with pytest.raises(ValueError, match="section"):
        writer.record(0, b"\0", 16, 0)
    with pytest.raises(OverflowError):
        writer.record(_dns.ANSWER, b"\0", 65536, 0)
