"""Answers of name servers, beside what dnspython reads in them, and bytes that are none."""

from __future__ import annotations

import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast.errors import DnsError, DnsInvalidResponse, DnsNxDomain
from iroh_fast.web.resolver.cache import Cache, Records
from iroh_fast.web.resolver.message import AAAA, TXT, A, Alias, Question, read_answer

NAMES = ("a.example.", "b.example.", "c.example.", "d.example.")
KINDS = {"A": A, "AAAA": AAAA, "TXT": TXT}

rdata = st.one_of(
    st.tuples(st.just("A"), st.ip_addresses(v=4).map(str)),
    st.tuples(st.just("AAAA"), st.ip_addresses(v=6).map(str)),
    st.tuples(
        st.just("TXT"),
        st.lists(st.text("abc=./", max_size=30), min_size=1, max_size=4).map(
            lambda strings: " ".join(f'"{s}"' for s in strings)
        ),
    ),
    st.tuples(st.just("CNAME"), st.sampled_from(NAMES)),
)
records = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 2**31 - 1), rdata), max_size=8)


def response(kind: str, found: list[tuple[str, int, tuple[str, str]]]) -> bytes:
    query = dns.message.make_query(NAMES[0], kind)
    reply = dns.message.make_response(query)
    for owner, ttl, (type_, text) in found:
        reply.answer.append(dns.rrset.from_text(owner, ttl, "IN", type_, text))
    return reply.to_wire()


@given(st.sampled_from(sorted(KINDS)), records)
def test_answers_are_what_dnspython_finds_at_the_end_of_the_aliases(
    kind: str, found: list[tuple[str, int, tuple[str, str]]]
) -> None:
    wire = response(kind, found)
    message = dns.message.from_wire(wire, one_rr_per_rrset=True)

    def of(name: dns.name.Name, type_: int) -> list[dns.rrset.RRset]:
        return [r for r in message.answer if r.name == name and r.rdtype == type_]

    name, steps = dns.name.from_text(NAMES[0]), 0
    while not of(name, KINDS[kind]) and (alias := of(name, dns.rdatatype.CNAME)) and steps < 9:
        name, steps = alias[0][0].target, steps + 1
    wanted = of(name, KINDS[kind])
    question = Question.of(NAMES[0], KINDS[kind])
    if steps > 8:
        with pytest.raises(DnsInvalidResponse):
            read_answer(question, wire)
    elif wanted:
        got = read_answer(question, wire)
        expected = [tuple(r[0].strings) if kind == "TXT" else (r[0].to_wire(),) for r in wanted]
        assert list(got.values) == list(dict.fromkeys(expected))
        assert got.ttl <= min(r.ttl for r in wanted) and got.ttl <= 86400
    elif steps:
        with pytest.raises(Alias) as caught:
            read_answer(question, wire)
        assert caught.value.name == name.to_wire() and caught.value.steps == steps
    else:
        assert read_answer(question, wire).values == ()


@given(st.sampled_from(sorted(KINDS)), records, st.data())
def test_changed_answers_raise_documented_errors_alone(
    kind: str, found: list[tuple[str, int, tuple[str, str]]], data: st.DataObject
) -> None:
    wire = bytearray(response(kind, found))
    question = Question.of(NAMES[0], KINDS[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(2, len(wire) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(12, len(wire)))
    try:
        read_answer(question, bytes(wire[:end]))
    except (DnsError, Alias):
        pass


def test_long_time_to_live_is_a_day_and_a_negative_one_nothing() -> None:
    question = Question.of(NAMES[0], A)
    for ttl, kept in ((2**31 - 1, 86400), (86401, 86400), (5, 5), (0, 0)):
        wire = response("A", [(NAMES[0], ttl, ("A", "192.0.2.1"))])
        assert read_answer(question, wire).ttl == kept
    negative = wire.replace(b"\0\0\0\0\0\4\xc0\0\2\1", b"\xff\xff\xff\xff\0\4\xc0\0\2\1")
    assert negative != wire and read_answer(question, negative).ttl == 0


def test_no_such_name_counts_whatever_else_is_in_the_message() -> None:
    wire = bytearray(response("A", [(NAMES[0], 5, ("A", "192.0.2.1"))]))
    wire[3] |= 3
    with pytest.raises(DnsNxDomain):
        read_answer(Question.of(NAMES[0], A), bytes(wire))


# --- the cache


def key(n: int) -> tuple[bytes, int]:
    return (b"\1%d\0" % n, A)


def test_cache_forgets_by_time_number_and_size() -> None:
    cache = Cache(max_entries=3, max_bytes=16000)
    some = Records(((b"1234",),), 10)
    for n in range(4):
        cache.put(key(n), some, 0.0)
    assert [cache.get(key(n), 9.9) is some for n in range(4)] == [False, True, True, True]
    cache.get(key(1), 9.9)
    cache.put(key(5), some, 9.9)
    # The one that was asked for last stays.
    assert cache.get(key(1), 9.9) is some and cache.get(key(2), 9.9) is None
    assert cache.get(key(1), 10.0) is None
    cache.put(key(6), Records(((b"x" * 255,) * 4,), 10), 0.0)
    assert cache.get(key(6), 0.0) is None  # a sixteenth of the room is the most for one
    cache.clear()
    assert len(cache) == 0
    for n in range(100):
        cache.put(key(n), Records(((b"x" * 255,) * 2,), 10), 0.0)
        assert cache._bytes <= 16000
    cache.put(key(99), Records((), 0), 0.0)
    assert cache.get(key(99), 0.0) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(-1, 50), st.integers(0, 40), st.booleans()),
        max_size=60,
    )
)
def test_cache_never_gives_what_is_too_old(steps: list[tuple[int, int, int, bool]]) -> None:
    cache = Cache(max_entries=4, max_bytes=1 << 20)
    model: dict[int, tuple[float, Records]] = {}
    now = 0.0
    for n, ttl, wait, write in steps:
        now += wait
        if write:
            records = Records(((bytes([n]),),), ttl)
            cache.put(key(n), records, now)
            model[n] = (now + ttl, records)
        elif (found := cache.get(key(n), now)) is not None:
            until, records = model[n]
            assert found is records and now < until
        assert len(cache) <= 4
    cache.clear()
    assert cache._bytes == 0
