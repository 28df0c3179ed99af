"""Random packets and questions: what dnspython makes of the answers is what the rules say, worked out in plain Python."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdatatype
import dns.rrset
from hypothesis import example, given
from hypothesis import strategies as st
from packets import DEVELOPMENT, answers_with, zone

from iroh_fast import SecretKey
from iroh_fast._dns import check_message
from iroh_fast.dns_server._build import store_packet
from iroh_fast.dns_server.answers import Transport

SECRET = SecretKey(b"\x2a" * 32)
KEY = bytes(SECRET.public)
Z = zone(SECRET)

LABELS = st.sampled_from(["_iroh", "a", "b", "B", "mail", "x" * 30])
NAMES = st.lists(LABELS, max_size=3).map(".".join)
ORIGINS = st.sampled_from(["", "irohdns.example."])
TTLS = st.sampled_from([0, 30, 300, 2**31 - 1])
TYPES = ["TXT", "A", "AAAA", "MX", "CNAME", "SRV", "NS", "CAA", "PTR", "NAPTR", "HTTPS", "RP"]
TARGETS = st.sampled_from([f"{Z}.", f"a.{Z}.", f"_iroh.A.{Z}.", "example.org."])
TEXTS: dict[str, Any] = {
    "TXT": st.lists(st.text("abc =\\;", max_size=20), min_size=1, max_size=3).map(
        lambda strings: " ".join('"' + s.replace("\\", "\\\\") + '"' for s in strings)
    ),
    "A": st.integers(0, 3).map(lambda n: f"192.0.2.{n}"),
    "AAAA": st.integers(0, 3).map(lambda n: f"2001:db8::{n}"),
    "MX": TARGETS.map(lambda name: f"10 {name}"),
    "CNAME": TARGETS,
    "PTR": TARGETS,
    "NS": TARGETS,
    "SRV": TARGETS.map(lambda name: f"1 2 443 {name}"),
    "CAA": st.just('0 issue "ca.example"'),
    "NAPTR": TARGETS.map(lambda name: f'1 2 "s" "SIP+D2U" "" {name}'),
    "HTTPS": TARGETS.map(lambda name: f"1 {name} alpn=h2"),
    "RP": st.tuples(TARGETS, TARGETS).map(" ".join),
}


@dataclass(frozen=True)
class Entry:
    """A record of a packet: the name left of the key, TTL and data."""

    name: str
    ttl: int
    kind: str
    rdata: dns.rdata.Rdata


# The target is written as a pointer to the owner before it, in the owner's case.
OTHER_CASE = Entry("a", 0, "TXT", dns.rdata.from_text("IN", "TXT", '""'))
OTHER_CASE_TARGET = Entry("", 0, "MX", dns.rdata.from_text("IN", "MX", f"10 _iroh.A.{Z}."))


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    found = []
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(TYPES))
        rdata = dns.rdata.from_text("IN", kind, draw(TEXTS[kind]))
        found.append(Entry(draw(NAMES), draw(TTLS), kind, rdata))
    return found


def packet(records: list[Entry]) -> bytes:
    message = dns.message.Message(0)
    message.flags = dns.flags.QR
    for entry in records:
        owner = dns.name.from_text(f"{entry.name}.{Z}." if entry.name else f"{Z}.")
        message.answer.append(dns.rrset.from_rdata(owner, entry.ttl, entry.rdata))
    return message.to_wire()


def as_sent(records: list[Entry], wire: bytes) -> list[Entry]:
    """With the data that the packet holds: a pointer to an equal name may change the case of letters."""
    rrsets = dns.message.from_wire(wire, one_rr_per_rrset=True).answer
    return [
        Entry(entry.name, entry.ttl, entry.kind, rrset[0])
        for entry, rrset in zip(records, rrsets, strict=True)
    ]


def expected(records: list[Entry], name: str, kind: str) -> list[tuple[int, dns.rdata.Rdata]]:
    found: list[tuple[int, dns.rdata.Rdata]] = []
    for entry in records:
        if entry.name.lower() != name.lower() or entry.kind != kind or kind == "NS":
            continue
        same = [
            n
            for n, (_, rdata) in enumerate(found)
            if kind == "CNAME" or exactly(rdata, entry.rdata)
        ]
        if same:
            found[same[0]] = (entry.ttl, entry.rdata)
        else:
            found.append((entry.ttl, entry.rdata))
    return found


def exactly(one: dns.rdata.Rdata, other: dns.rdata.Rdata) -> bool:
    return one.to_wire() == other.to_wire()


def exists(records: list[Entry], name: str) -> bool:
    names = [entry.name.lower() for entry in records if entry.kind != "NS"]
    return any(n == name.lower() or n.endswith(f".{name.lower()}") or not name for n in names)


def swap_cases(text: str, seed: int) -> str:
    chance = random.Random(seed)
    return "".join(chance.choice((c.upper(), c.lower())) for c in text)


@given(
    entries(),
    NAMES,
    st.sampled_from(TYPES),
    ORIGINS,
    st.integers(0, 9),
    st.sampled_from([-1, 0, 512, 4096]),
)
@example([OTHER_CASE, OTHER_CASE_TARGET], "", "MX", "", 0, -1)
def test_answers_are_what_dnspython_and_the_rules_say(
    records: list[Entry], name: str, kind: str, origin: str, seed: int, payload: int
) -> None:
    wire = packet(records)
    check_message(wire)
    answers = answers_with()
    assert store_packet(answers.core.zones, KEY, wire)
    question = swap_cases(f"{name}.{Z}.{origin}" if name else f"{Z}.{origin}", seed)
    query = dns.message.make_query(
        question, kind, use_edns=payload >= 0 and 0, payload=max(payload, 0)
    )
    raw = answers.answer(query.to_wire(), transport="tcp")
    assert isinstance(raw, bytes)
    reply = dns.message.from_wire(raw, one_rr_per_rrset=True)
    assert (
        query.is_response(reply) and reply.flags & dns.flags.AA and not reply.flags & dns.flags.TC
    )
    got = [(rrset.ttl, rrset[0]) for rrset in reply.answer]
    want = expected(as_sent(records, wire), name, kind)
    assert [(ttl, rdata.to_wire()) for ttl, rdata in got] == [
        (ttl, rdata.to_wire()) for ttl, rdata in want
    ]
    assert all(rrset.name.to_text() == question.lower() for rrset in reply.answer)
    if want:
        assert reply.rcode() == 0 and not reply.authority
    else:
        (soa,) = reply.authority
        assert soa.rdtype == dns.rdatatype.SOA
        assert soa.name.to_text() == DEVELOPMENT.origins[0]
        cname = any(e.kind == "CNAME" and e.name.lower() == name.lower() for e in records)
        denied = not exists(records, name) or (not origin and (cname or kind == "NS"))
        assert reply.rcode() == (3 if denied else 0)
    assert (reply.edns >= 0) == (payload >= 0)


@given(entries(), NAMES, st.sampled_from(TYPES), st.integers(0, 70_000))
def test_answers_over_udp_are_a_prefix_of_those_over_tcp(
    records: list[Entry], name: str, kind: str, payload: int
) -> None:
    answers = answers_with()
    assert store_packet(answers.core.zones, KEY, packet(records))
    question = f"{name}.{Z}." if name else f"{Z}."
    query = dns.message.make_query(
        question, kind, use_edns=0, payload=min(payload, 65_535)
    ).to_wire()
    short, whole = (answers.answer(query, transport=t) for t in ("udp", "tcp"))
    assert isinstance(short, bytes) and isinstance(whole, bytes)
    assert len(short) <= max(512, min(payload, 1400))
    some, all_ = (dns.message.from_wire(w, one_rr_per_rrset=True) for w in (short, whole))
    assert some.answer == all_.answer[: len(some.answer)]
    assert bool(some.flags & dns.flags.TC) == (len(some.answer) < len(all_.answer))


TRANSPORTS: list[Transport] = ["udp", "tcp"]


@given(st.binary(max_size=80), st.binary(max_size=200), st.booleans())
def test_answers_to_any_bytes_are_messages_or_nothing(
    head: bytes, tail: bytes, sound: bool
) -> None:
    """Of any query: the same id, the response bit, no more questions; dnspython reads it."""
    query = (b"\1\2" + bytes(2) + b"\0\1" + bytes(6) if sound else b"") + head + tail
    answers = answers_with()
    for transport in TRANSPORTS:
        wire = answers.answer(query, transport=transport)
        assert isinstance(wire, bytes)
        check_reply(query, wire)


def check_reply(query: bytes, wire: bytes) -> None:
    if not wire:
        assert len(query) < 12 or query[2] & 0x80
        return
    assert wire[:2] == query[:2] and wire[2] & 0x80 and len(wire) <= 1232
    reply = dns.message.from_wire(wire)
    assert len(reply.question) <= max(1, query[5])
    if reply.rcode() == 1:
        assert len(wire) <= max(len(query), 12) and not reply.answer
