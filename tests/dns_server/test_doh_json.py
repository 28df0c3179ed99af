"""DNS over HTTPS in JSON: the recorded answers, and what parameters mean."""

from __future__ import annotations

import json
import struct
import urllib.parse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import (
    DEVELOPMENT,
    VECTORS,
    answers_with,
    message,
    packet_of,
    recorded_packets,
    rr,
    text_record,
    zone,
)

from iroh_fast import SecretKey
from iroh_fast._dns import name_from_text
from iroh_fast.dns_server.answers import Answers
from iroh_fast.dns_server.doh_json import json_answer, json_query, min_ttl
from iroh_fast.errors import BadQuery

SECRET = SecretKey(b"\x07" * 32)
Z = zone(SECRET)
JSON_CASES = {c["label"]: c for c in VECTORS["http"] if c["label"].startswith("json")}


def params_of(path: str) -> dict[str, str]:
    path = path.replace("<z>", VECTORS["packets"][0]["z32"])
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))


def resolve(answers: Answers, params: dict[str, str]) -> bytes:
    wire = answers.answer(json_query(params), transport="https", source="192.0.2.1")
    assert isinstance(wire, bytes)
    return wire


@pytest.fixture(scope="module")
def answers() -> Answers:
    return answers_with(*recorded_packets())


# Ours takes 0 and 1; and a name that exists with another type is no NXDOMAIN.
DIFFERENT = {"json cd=1", "json no type"}


@pytest.mark.parametrize("label", [label for label in JSON_CASES if label not in DIFFERENT])
def test_json_released_answer_is_ours(answers: Answers, label: str) -> None:
    case = JSON_CASES[label]
    if case["status"] == 400:
        with pytest.raises(BadQuery) as caught:
            json_query(params_of(case["path"]))
        assert str(caught.value) == json.loads(case["response_body"])["detail"]
        return
    wire = resolve(answers, params_of(case["path"]))
    recorded = case["response_body"].replace("<z>", VECTORS["packets"][0]["z32"])
    assert json_answer(wire).decode() == recorded
    cached = case["response_headers"].get("cache-control")
    assert cached == (None if min_ttl(wire) is None else f"s-maxage={min_ttl(wire)}")


def test_json_differences_are_those(answers: Answers) -> None:
    assert set(JSON_CASES) >= DIFFERENT
    nodata = json.loads(
        json_answer(resolve(answers, params_of(JSON_CASES["json no type"]["path"])))
    )
    recorded = json.loads(JSON_CASES["json no type"]["response_body"].replace("<z>", Z))
    assert nodata == {**recorded, "Status": 0}
    cd = json.loads(json_answer(resolve(answers, params_of(JSON_CASES["json cd=1"]["path"]))))
    assert cd["CD"] is True and len(cd["Answer"]) == 2


@pytest.mark.parametrize(
    ("params", "flags"),
    [
        ({}, 0x0100),
        ({"rd": "false"}, 0),
        ({"rd": "0", "cd": "1"}, 0x0010),
        ({"do": "true"}, 0x0120),
        ({"ct": "x", "edns_client_subnet": "192.0.2.0/24", "random_padding": "xxx"}, 0x0100),
    ],
)
def test_json_query_flags(params: dict[str, str], flags: int) -> None:
    assert (
        json_query({"name": "a", **params})
        == struct.pack("!6H", 0, flags, 1, 0, 0, 0) + b"\1a\0\0\1\0\1"
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("A", 1),
        ("txt", 16),
        ("TXT", 16),
        ("28", 28),
        ("65535", 65535),
        ("HTTPS", 65),
        ("TYPE1234", 1234),
        ("svcb", 64),
    ],
)
def test_json_query_type(text: str, kind: int) -> None:
    assert json_query({"name": "a", "type": text})[-4:] == struct.pack("!HH", kind, 1)


@pytest.mark.parametrize(
    "text", ["", "FOO", "65536", "-1", "1.0", "\N{ARABIC-INDIC DIGIT ONE}", "x" * 10_000, "A\n"]
)
def test_json_query_type_that_is_none_is_told(text: str) -> None:
    with pytest.raises(BadQuery, match="record type string unknown") as caught:
        json_query({"name": "a", "type": text})
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        (".", b"\0"),
        ("Example.org.", b"\7Example\3org\0"),
        (r"a\.b.c", b"\3a.b\1c\0"),
        (r"a\000", b"\2a\0\0"),
        ("bücher.example", b"\x0dxn--bcher-kva\7example\0"),
    ],
)
def test_json_query_name(text: str, wire: bytes) -> None:
    assert json_query({"name": text})[12:-4] == wire


@pytest.mark.parametrize(
    "text", ["a..b", "x" * 64, ".".join(["x" * 60] * 5), "\\", "ü" * 80, "x" * 100_000, "ü..a"]
)
def test_json_query_name_that_is_none_is_told(text: str) -> None:
    with pytest.raises(BadQuery, match="name: ") as caught:
        json_query({"name": text})
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["cd", "do", "rd"])
@pytest.mark.parametrize("text", ["", "maybe", "True", "2"])
def test_json_query_switch_that_is_none_is_told(name: str, text: str) -> None:
    with pytest.raises(BadQuery, match=f"{name}: provided string was not"):
        json_query({"name": "a", name: text})


RECORDS: list[tuple[str, int, bytes, str]] = [
    ("a", 1, b"\1\2\3\4", "1.2.3.4"),
    ("a", 28, bytes.fromhex("20010db8" + "0" * 24), "2001:db8::"),
    ("m", 15, b"\0\5" + name_from_text("mail.example"), "5 mail.example."),
    ("c", 5, name_from_text("example.org"), "example.org."),
    (
        "s",
        33,
        struct.pack("!3H", 1, 2, 443) + name_from_text("host.example"),
        "1 2 443 host.example.",
    ),
    ("h", 65, b"\0\1\0" + b"\0\1\0\3\2h2", '1 . alpn="h2"'),
    ("caa", 257, b"\0\5issueca.example", '0 issue "ca.example"'),
    ("u", 65280, b"\1\2\xff", "\\# 3 0102ff"),
]


@pytest.mark.parametrize(("label", "kind", "data", "shown"), RECORDS)
def test_json_answer_shows_data_of_a_type(label: str, kind: int, data: bytes, shown: str) -> None:
    answers = answers_with(
        packet_of(SECRET, rr(name_from_text(f"{label}.{Z}"), kind, data, ttl=77))
    )
    wire = resolve(answers, {"name": f"{label}.{Z}", "type": str(kind)})
    (found,) = json.loads(json_answer(wire))["Answer"]
    assert found == {"name": f"{label}.{Z}.", "type": kind, "TTL": 77, "data": shown}
    assert min_ttl(wire) == 77


def test_json_answer_shows_soa_and_ns(answers: Answers) -> None:
    soa = json.loads(json_answer(resolve(answers, {"name": "irohdns.example", "type": "SOA"})))[
        "Answer"
    ][0]["data"]
    assert soa == DEVELOPMENT.default_soa.replace("example ", "example. ")
    ns = json.loads(json_answer(resolve(answers, {"name": "irohdns.example", "type": "ns"})))[
        "Answer"
    ][0]["data"]
    assert ns == "ns1.irohdns.example."


def test_json_answer_joins_texts_and_replaces_what_is_not_utf8() -> None:
    answers = answers_with(
        packet_of(SECRET, text_record(SECRET, "_iroh", b'a="b', b"\xff\xc3\xbc\n", ttl=9))
    )
    wire = resolve(answers, {"name": f"_iroh.{Z}", "type": "TXT"})
    (found,) = json.loads(json_answer(wire))["Answer"]
    assert found["data"] == 'a="b\N{REPLACEMENT CHARACTER}ü\n'


def test_min_ttl_is_the_least_of_the_answers_alone() -> None:
    records = [text_record(SECRET, "_iroh", str(n).encode(), ttl=n) for n in (70, 5, 60)]
    answers = answers_with(packet_of(SECRET, *records))
    assert min_ttl(resolve(answers, {"name": f"_iroh.{Z}", "type": "16"})) == 5
    assert min_ttl(resolve(answers, {"name": f"x.{Z}", "type": "16"})) is None


@given(st.integers(0, 65535), st.binary(max_size=60))
def test_json_answer_of_any_data_is_json(kind: int, data: bytes) -> None:
    """What a signed packet may hold, whatever dnspython thinks of it."""
    found: dict[str, Any] = json.loads(json_answer(message(rr(b"\1x\0", kind, data))))
    assert isinstance(found["Answer"][0]["data"], str)


@given(
    st.dictionaries(
        st.sampled_from(["name", "type", "cd", "do", "rd", "ct"]), st.text(max_size=300), max_size=6
    )
)
def test_json_query_takes_or_tells_any_parameters(params: dict[str, str]) -> None:
    try:
        wire = json_query(params)
    except BadQuery:
        return
    assert len(wire) <= 12 + 255 + 4
    assert answers_with().core.reading(wire) == 0
