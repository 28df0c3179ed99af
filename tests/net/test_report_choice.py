"""What a report says of the answers that came in, when these are enough, and which relay is nearest."""

from __future__ import annotations

import dataclasses
import pickle
from ipaddress import ip_address

import pytest

from iroh_fast.addr import RelayUrl, SocketAddr
from iroh_fast.net_report import NetReport
from iroh_fast.net_report.choice import KEEP_S, History
from iroh_fast.net_report.hosts import families, is_sane
from iroh_fast.net_report.report import Draft, Probe
from iroh_fast.net_report.service import own_addrs

A, B, C = (RelayUrl(f"https://{name}.example/") for name in "abc")
HERE = SocketAddr.parse("198.51.100.7:4000")
THERE = SocketAddr.parse("198.51.100.7:4001")
HERE_V6 = SocketAddr.parse("[2001:db8::7]:4000")


def measured(**milliseconds: float) -> NetReport:
    by_relay = {
        RelayUrl(f"https://{name}.example/"): ms / 1000 for name, ms in milliseconds.items()
    }
    return NetReport(relay_latency={"qad_v4": by_relay})


# --- nearest ------------------------------------------------------------------------------

# Steps of one endpoint: seconds, what answered in milliseconds, what is chosen then.
STORIES: dict[str, list[tuple[float, dict[str, float], RelayUrl | None]]] = {
    "first reading": [(0, {"a": 50, "b": 20}, B)],
    "list order where they are as near": [(0, {"a": 24, "b": 20}, A), (20, {"b": 20, "a": 29}, A)],
    "nothing answers": [
        (0, {}, None),
        (20, {"b": 30}, B),
        (40, {}, None),
        (60, {"a": 29, "b": 30}, B),
    ],
    "a little nearer stays behind": [(0, {"a": 100}, A), (20, {"a": 100, "b": 70}, A)],
    "clearly nearer takes over": [(0, {"a": 100}, A), (20, {"a": 100, "b": 60}, B)],
    "a third of next to nothing is no reason": [(0, {"a": 3}, A), (20, {"a": 3, "b": 0.2}, A)],
    "best of the last minutes": [
        (0, {"a": 20, "b": 50}, A),
        (20, {"a": 60, "b": 50}, A),  # A was good lately; B is not a third better than A now
        (40, {"a": 90, "b": 50}, A),  # still the best of A counts
    ],
    "what was good long ago does not count": [
        (0, {"a": 20, "b": 50}, A),
        (KEEP_S + 1, {"a": 90, "b": 50}, B),
    ],
    "gone and back again": [
        (0, {"a": 20, "b": 50}, A),
        (20, {"b": 50}, B),
        (40, {"a": 20, "b": 50}, A),
    ],
    "back, but hardly better": [
        (0, {"a": 40, "b": 50}, A),
        (20, {"b": 50}, B),
        (40, {"a": 40, "b": 50}, B),
    ],
    "no longer in the list": [(0, {"z": 1, "b": 50}, B)],
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_nearest_relay(story: list[tuple[float, dict[str, float], RelayUrl | None]]) -> None:
    history = History()
    assert [history.add(measured(**latencies), (A, B, C), now) for now, latencies, _ in story] == [
        chosen for *_, chosen in story
    ]


def test_requests_over_https_are_compared_with_round_trips_by_what_they_take() -> None:
    report = NetReport(relay_latency={"https": {A: 0.15, B: 0.3, C: 0.3}, "qad_v4": {B: 0.02}})
    # A is 50 ms away, B is 20, C is 100.
    assert History().choose(report, (C, A, B)) == B
    noise = NetReport(relay_latency={"https": {A: 0.045, B: 0.02}})
    assert History().choose(noise, (A, B)) == A


def test_choice_of_an_unfinished_report_leaves_no_trace() -> None:
    history = History()
    assert history.choose(measured(b=5), (A, B)) == B
    assert history.preferred is None
    assert history.add(measured(a=20, b=30), (A, B), 0) == A  # B's 5 ms are forgotten


def test_other_networks_do_not_count() -> None:
    history = History()
    history.add(measured(a=20, b=50), (A, B), 0)
    history.forget()
    assert history.add(measured(a=90, b=50), (A, B), 1) == B


def test_history_is_bounded() -> None:
    history = History()
    for step in range(1000):
        history.add(measured(a=20), (A,), step / 1000)
    assert len(history._kept) <= 64


# --- enough -------------------------------------------------------------------------------

# relays that can tell an address, full, families, settled; answers; enough
#   4 and 6: relay by relay over UDP; "h": HTTPS; "x4", "x6": that family is over; "s": a STUN server
ENOUGH = [
    (2, True, {4}, False, "", False),
    (2, True, {4}, False, "4", False),
    (2, True, {4}, False, "44", True),
    (1, True, {4}, False, "4", True),  # DIFFERS: iroh waits for HTTPS
    (2, False, {4}, False, "4", True),
    (3, True, {4, 6}, False, "44", False),
    (3, True, {4, 6}, False, "44 6", True),
    (3, True, {4, 6}, False, "4 66", False),
    (3, True, {4, 6}, False, "44 x6", True),
    (3, True, {4, 6}, False, "x4 66", True),
    (3, True, {4, 6}, False, "x4 6", False),
    (3, False, {4, 6}, False, "4", False),
    (3, False, {4, 6}, False, "4 6", True),
    (3, True, {6}, False, "66", True),
    (3, True, {4, 6}, True, "4", True),  # what is there counts
    (3, True, {4, 6}, True, "", False),
    (3, True, {4}, True, "hhh", False),  # that UDP is blocked is not known yet
    (3, True, {4}, True, "hhh x4", True),
    (3, True, {4}, False, "hh x4", False),
    (3, True, set(), False, "hhh", True),
    (3, True, set(), False, "hh", False),
    (0, True, {4}, True, "s", False),  # an address, but no latency
    (0, True, {4}, True, "s hhh", True),
]


@pytest.mark.parametrize(("askable", "full", "asked", "late", "answers", "enough"), ENOUGH)
def test_when_a_report_has_enough(
    askable: int, full: bool, asked: set[int], late: bool, answers: str, enough: bool
) -> None:
    draft = Draft((A, B, C), askable, frozenset(asked), full)
    draft.settled = late
    heard: dict[str, int] = {}
    for answer in answers.replace("x4", "x").replace("x6", "y").replace(" ", ""):
        heard[answer] = count = heard.get(answer, -1) + 1
        if answer in "xy":
            draft.over(4 if answer == "x" else 6)
        elif answer == "h":
            draft.https((A, B, C)[count], 0.1)
        elif answer == "s":
            draft.told_by_stun("stun.example", HERE)
        else:
            draft.qad((A, B, C)[count], HERE if answer == "4" else HERE_V6, 0.05)
    assert draft.enough() is enough


def test_first_idea_is_there_when_every_relay_has_an_outcome() -> None:
    draft = Draft((A, B), 2, frozenset({4}), True)
    assert not draft.first_idea()
    draft.https(A, 0.1)
    assert not draft.first_idea()
    draft.https_over.add(B)
    assert draft.first_idea()
    late = Draft((A, B), 2, frozenset({4}), True)
    late.late = True
    assert late.first_idea()


# --- what a report says -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "last", "varies"),
    [
        ([], None, None),
        ([HERE], None, None),
        ([HERE, HERE], None, False),
        ([HERE, THERE], None, True),
        ([HERE, THERE, HERE], None, True),
        ([HERE], True, True),
        ([HERE, HERE], True, False),
    ],
)
def test_mapping_varies(seen: list[SocketAddr], last: bool | None, varies: bool | None) -> None:
    draft = Draft((A, B, C), 3, frozenset({4}), False)
    for relay, addr in zip((A, B, C), seen, strict=False):
        draft.qad(relay, addr, 0.05)
    report = draft.report(NetReport(mapping_varies_by_dest_v4=last))
    assert report.mapping_varies_by_dest_v4 is varies is report.mapping_varies_by_dest
    assert report.mapping_varies_by_dest_v6 is None
    assert report.global_v4 == (seen[0] if seen else None)


def test_report_tells_latencies_of_each_kind_and_the_lowest() -> None:
    draft = Draft((A, B), 2, frozenset({4, 6}), True)
    draft.https(A, 0.3)
    draft.qad(A, HERE, 0.05)
    draft.qad(A, HERE_V6, 0.04)
    draft.https(B, 0.2)
    draft.https(B, 0.25)
    report = draft.report()
    kinds: list[tuple[Probe, RelayUrl, float]] = [
        ("https", A, 0.3),
        ("https", B, 0.2),
        ("qad_v4", A, 0.05),
        ("qad_v6", A, 0.04),
    ]
    assert list(report) == kinds
    assert report.latencies() == {A: 0.04, B: 0.2}
    assert (report.latency(A), report.latency("https://c.example/")) == (0.04, None)
    assert report.udp_v4 and report.udp_v6 and report.has_udp
    assert (report.global_v4, report.global_v6) == (HERE, HERE_V6)
    draft.qad(B, HERE, 0.01)  # a report does not change any more
    assert report.latencies() == {A: 0.04, B: 0.2}
    assert NetReport() == NetReport()
    assert pickle.loads(pickle.dumps(report)) == report
    told = dataclasses.asdict(report)
    assert told["relay_latency"] == {
        "https": {A: 0.3, B: 0.2},
        "qad_v4": {A: 0.05},
        "qad_v6": {A: 0.04},
    }


def test_ports_of_the_user_are_told_where_each_destination_sees_another() -> None:
    report = NetReport(global_v4=HERE, global_v6=HERE_V6)
    assert own_addrs(report, [5000]) == [HERE, HERE_V6]
    hard = NetReport(global_v4=HERE, mapping_varies_by_dest_v4=True)
    assert own_addrs(hard, [5000]) == [HERE, SocketAddr.parse("198.51.100.7:5000")]
    assert own_addrs(hard) == [HERE]
    assert own_addrs(NetReport()) == []


# --- whom to ask, whom to believe ---------------------------------------------------------


@pytest.mark.parametrize(
    ("sockets", "ips", "found"),
    [
        (["0.0.0.0:1", "[::]:1"], ["127.0.0.1", "::1", "192.0.2.1", "fe80::1"], {4}),
        (["0.0.0.0:1", "[::]:1"], ["127.0.0.1", "192.0.2.1", "fd00::1"], {4, 6}),
        (["0.0.0.0:1", "[::]:1"], ["127.0.0.1", "::1"], {4, 6}),
        (["0.0.0.0:1"], ["192.0.2.1", "2001:db8::1"], {4}),
        (["[::]:1"], ["192.0.2.1"], set()),
        (["127.0.0.1:1", "[::]:1"], ["192.0.2.1"], {4}),
        (["0.0.0.0:1"], [], set()),
        ([], ["192.0.2.1"], set()),
    ],
)
def test_families_that_are_asked_over(sockets: list[str], ips: list[str], found: set[int]) -> None:
    bound = [SocketAddr.parse(addr) for addr in sockets]
    assert families(bound, map(ip_address, ips)) == found


@pytest.mark.parametrize(
    ("seen", "server", "sane"),
    [
        ("198.51.100.7:4000", "192.0.2.1:7842", True),
        ("10.0.0.7:4000", "192.0.2.1:7842", True),  # a relay in a network of one's own
        ("127.0.0.1:4000", "127.0.0.1:7842", True),
        ("127.0.0.1:4000", "192.0.2.1:7842", False),
        ("224.0.0.1:4000", "192.0.2.1:7842", False),
        ("255.255.255.255:4000", "192.0.2.1:7842", False),
        ("0.0.0.0:4000", "192.0.2.1:7842", False),
        ("198.51.100.7:0", "192.0.2.1:7842", False),
        ("[2001:db8::7]:4000", "192.0.2.1:7842", False),
        ("[2001:db8::7]:4000", "[2001:db8::1]:7842", True),
        ("[fe80::7]:4000", "[2001:db8::1]:7842", False),
        ("[ff02::1]:4000", "[2001:db8::1]:7842", False),
        ("[fd15:70a:510b::7]:12345", "[2001:db8::1]:7842", False),
        ("[fd15:70a:510b:1::7]:12345", "[::1]:7842", False),
        ("[fd15:70a:510c::7]:12345", "[2001:db8::1]:7842", True),
    ],
)
def test_what_servers_are_believed(seen: str, server: str, sane: bool) -> None:
    assert is_sane(SocketAddr.parse(seen), SocketAddr.parse(server)) is sane
