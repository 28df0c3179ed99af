"""What is remembered of a remote: addresses, their status, counters; and where it is looked for when its relay is dead."""

from __future__ import annotations

from typing import Any

import pytest
from pretended import KEY, RELAY, RELAY_2, V4, V4_2, V6, Clock, Conn

from iroh_fast.net.remote import RemoteMap, RemoteState
from iroh_fast.net.remote.counters import PathCounters
from iroh_fast.net.remote.inventory import (
    MAX_INACTIVE,
    MAX_SOURCES,
    MAX_UNUSABLE,
    PRUNE_FROM,
    Inventory,
    Known,
)
from iroh_fast.net.remote.lifetimes import LEAD_S, Lifetimes
from iroh_fast.net.remote.selection import PathTuple, by_user
from iroh_fast.net.remote.stranded import LONGEST_S, Stranded

pytestmark = pytest.mark.usefixtures("listeners")


def host(number: int) -> tuple[str, int]:
    return (f"192.0.2.{number}", 4433)


@pytest.fixture
def counters() -> PathCounters:
    return PathCounters()


@pytest.fixture
def known(counters: PathCounters) -> Inventory:
    return Inventory(counters)


def status(known: Inventory) -> dict[Any, str]:
    return {addr: state for addr, state, _ in known.listed()}


# --- statuses and counters


def test_statuses_of_an_address(known: Inventory) -> None:
    known.learn([V4, V6], "app", 0)
    assert status(known) == {V4: "unknown", V6: "unknown"}
    known.failed(V4, 1)
    assert known.opened(V6, 1)
    assert status(known) == {V4: "unusable", V6: "active"}
    assert known.opened(V4, 2)  # it may come about later
    known.left(V4, 3)
    known.failed(V4, 4)  # it has worked: it stays inactive
    assert status(known) == {V6: "active", V4: "inactive"}
    assert not known.opened(V4, 5)


def test_counters_move_with_real_changes_only(known: Inventory, counters: PathCounters) -> None:
    for _ in range(2):
        known.opened(V4, 0)
    for _ in range(2):
        known.left(V4, 1)
    known.opened(RELAY, 1)
    known.failed(V6, 1)
    values = counters.snapshot()
    assert values["transport_ip_paths_added"] == values["transport_ip_paths_removed"] == 1
    assert (values["transport_relay_paths_added"], values["transport_relay_paths_removed"]) == (
        1,
        0,
    )


def test_sources_keep_the_newest_time_and_are_bounded(known: Inventory) -> None:
    known.learn([V4], "app", 1)
    known.learn([V4], "dns", 2)
    known.learn([V4], "app", 3)
    ((_, _, sources),) = known.listed()
    assert sources == {"app": 3, "dns": 2}
    for number in range(100):
        known.learn([V4], f"service {number}", 4)
    ((_, _, sources),) = known.listed()
    assert len(sources) == MAX_SOURCES and sources["app"] == 3


# --- what is forgotten


def test_below_the_limit_nothing_is_forgotten(known: Inventory) -> None:
    for number in range(PRUNE_FROM - 1):
        known.learn([host(number)], "app", number)
        known.failed(host(number), number)
    assert len(status(known)) == PRUNE_FROM - 1


def test_what_never_worked_goes_first(known: Inventory) -> None:
    for number in range(PRUNE_FROM - 2):
        known.learn([host(number)], "app", 0)
        known.failed(host(number), 0)
    known.opened(host(100), 1)
    known.learn([host(101)], "app", 1)
    assert status(known) == {host(100): "active", host(101): "unknown"}


def test_if_everything_failed_some_are_kept(known: Inventory) -> None:
    known.addrs.update((host(number), Known("unusable")) for number in range(59))
    known.addrs[host(59)] = Known("unknown")
    known.failed(host(59), 0)
    assert len(status(known)) == MAX_UNUSABLE
    assert host(59) in known


def test_of_those_that_worked_the_newest_are_kept(known: Inventory) -> None:
    for number in range(PRUNE_FROM + 5):
        known.opened(host(number), number)
        known.left(host(number), number)
    gone = [addr for addr, state in status(known).items() if state == "inactive"]
    assert gone[-MAX_INACTIVE:] == [
        host(n) for n in range(PRUNE_FROM + 5 - MAX_INACTIVE, PRUNE_FROM + 5)
    ]
    assert host(0) not in known


def test_relays_are_not_counted_and_stay(known: Inventory) -> None:
    known.learn([RELAY, RELAY_2], "app", 0)
    known.learn(map(host, range(1, PRUNE_FROM - 1)), "app", 0)
    known.failed(RELAY, 0)
    known.failed(host(1), 0)
    assert RELAY in known and host(1) in known
    known.learn([host(200), host(201)], "app", 1)
    assert RELAY in known and host(1) not in known


def test_address_that_never_answered_is_unusable(state: RemoteState) -> None:
    conn = Conn()
    conn.path(RELAY)
    state.learn([V4])
    state.add(conn)  # type: ignore[arg-type]
    assert conn.opened == [V4]
    state.refresh(conn)  # type: ignore[arg-type]
    conn.paths = {id: path for id, path in conn.paths.items() if path["validated"]}
    state.refresh(conn)  # type: ignore[arg-type]
    assert {addr: kind for addr, kind, _ in state.inventory()} == {V4: "unusable", RELAY: "active"}


def test_address_is_inactive_once_no_connection_uses_it(state: RemoteState) -> None:
    one, two = Conn(client=False), Conn(client=False)
    for conn in (one, two):
        conn.path(V4)
        state.add(conn)  # type: ignore[arg-type]
    one.end()
    state.remove(one)  # type: ignore[arg-type]
    assert state.inventory()[0][1] == "active"
    two.path(RELAY)
    del two.paths[0]
    state.refresh(two)  # type: ignore[arg-type]
    assert {a: s for a, s, _ in state.inventory()} == {V4: "inactive", RELAY: "active"}


def test_what_was_known_serves_connections_within_a_minute(clock: Clock) -> None:
    remotes = RemoteMap(clock)  # type: ignore[arg-type]
    first = Conn()
    first.path(RELAY)
    first.path(V4)
    remotes.attach(first, [RELAY, V4])  # type: ignore[arg-type]
    first.end()
    assert {addr for addr, *_ in remotes.inventory(KEY)} == {RELAY, V4}
    clock.advance(50)
    second = Conn()
    second.path(RELAY)
    remotes.attach(second, [RELAY])  # type: ignore[arg-type]
    assert second.opened == [V4]
    second.end()
    clock.advance(61)
    assert remotes.inventory(KEY) == []


def test_simple_connections_are_counted_and_remembered(clock: Clock) -> None:
    remotes = RemoteMap(clock)  # type: ignore[arg-type]
    conn = Conn()
    conn.path(V4)
    remotes.attach(conn, [V4])  # type: ignore[arg-type]
    assert remotes.counters["paths_direct"] == remotes.counters["num_conns_direct"] == 1
    conn.path(RELAY)
    remotes(conn)  # type: ignore[arg-type]
    assert remotes.get(KEY) is not None
    assert remotes.counters["paths_direct"] == remotes.counters["num_conns_direct"] == 1
    assert remotes.counters["transport_ip_paths_added"] == 1
    conn.end()
    assert remotes.counters["transport_ip_paths_removed"] == 1
    assert {addr for addr, *_ in remotes.inventory(KEY)} == {V4, RELAY}


# --- a selector of the user


def test_selector_of_the_user_decides() -> None:
    def slowest(current: PathTuple | None, ways: Any) -> PathTuple:
        return max(ways, key=lambda way: way[1])[0]

    choose = by_user(slowest, lambda addr: addr)  # type: ignore[arg-type,return-value]
    assert choose(None, {V4: 0.01, RELAY: 0.2}) == RELAY
    assert choose(V4, {}) is None


@pytest.mark.parametrize("chosen", ["raises", "foreign", "none"])
def test_selector_that_makes_no_sense_changes_nothing(chosen: str) -> None:
    def selector(current: PathTuple | None, ways: Any) -> PathTuple | None:
        if chosen == "raises":
            raise RuntimeError("no idea")
        return PathTuple("ipv4", V4_2) if chosen == "foreign" else None  # type: ignore[arg-type]

    choose = by_user(selector, lambda addr: addr)  # type: ignore[arg-type,return-value]
    assert choose(V4, {V4: 0.1, V6: 0.01}) is None
    assert choose(None, {V4: 0.1, RELAY: 0.01}) == V4  # something has to carry data


# --- mappings that end after a fixed time


def test_three_deaths_after_like_times_tell_of_a_rule() -> None:
    lifetimes = Lifetimes()
    now = 0.0
    for lasted in (60, 55, 58):
        assert lifetimes.expected() is None
        lifetimes.works(V4, now)
        now += lasted
        lifetimes.died(V4, now)
    assert lifetimes.expected() == 55
    lifetimes.works(V4, now)
    lifetimes.plan(V4, now)
    assert lifetimes.due == now + 55 - LEAD_S
    assert not lifetimes.ends_soon(V4, now)
    lifetimes.plan(V4, now + 51)
    assert lifetimes.due == now + 55 and lifetimes.ends_soon(V4, now + 51)
    lifetimes.plan(V4, now + 56)
    assert lifetimes.due is None
    lifetimes.moved(now)
    assert lifetimes.expected() is None


@pytest.mark.parametrize("times", [(60, 20, 58), (2, 2, 2), (4000, 4000, 4000)])
def test_other_deaths_tell_nothing(times: tuple[int, ...]) -> None:
    lifetimes = Lifetimes()
    for lasted in times:
        lifetimes.works(V4, 0)
        lifetimes.died(V4, lasted)
    assert lifetimes.expected() is None


def test_another_way_is_looked_for_before_the_mapping_ends(
    state: RemoteState, clock: Clock
) -> None:
    conn = Conn()
    conn.has_nat_traversal = True
    conn.candidates = [V4, V6]
    state.local = [("198.51.100.7", 4433)]
    conn.path(RELAY, 50)
    id = conn.path(V4, 9)
    state.add(conn)  # type: ignore[arg-type]
    for _ in range(3):
        clock.advance(40)
        conn.silent = {id}
        state.refresh(conn)  # type: ignore[arg-type]
        conn.silent = set()
        state.refresh(conn)  # type: ignore[arg-type]
    before = len(conn.rounds)
    clock.advance(40 - LEAD_S - 0.1)
    assert len(conn.rounds) == before
    clock.advance(0.2)
    assert len(conn.rounds) == before + 1
    conn.path(V6, 40)
    state.refresh(conn)  # type: ignore[arg-type]
    assert not conn.closed  # a spare one, for the moment when the other ends
    conn.silent = {id}
    state.refresh(conn)  # type: ignore[arg-type]
    assert state.selected == V6


# --- the last relay is dead


def test_lookups_are_repeated_with_growing_pauses_while_they_are_needed() -> None:
    asked: list[float] = []
    now = 0.0
    stranded = Stranded(lambda: asked.append(now))
    stranded.update(now, False)
    assert stranded.due is None and not asked
    stranded.update(now, True)
    while now < 120:
        stranded.update(now, True)
        if stranded.due is not None and stranded.due <= now:
            stranded.expire(now)
        now += 0.25
    gaps = [b - a for a, b in zip(asked, asked[1:], strict=False)]
    assert gaps[:4] == [1, 2, 4, 8] and set(gaps[4:]) == {LONGEST_S}
    stranded.update(now, False)
    assert stranded.due is None


def test_remote_whose_relay_is_dead_is_looked_up_and_followed(clock: Clock) -> None:
    asked: list[bytes] = []
    remotes = RemoteMap(clock, search=asked.append)  # type: ignore[arg-type]
    conn = Conn()
    old = conn.path(RELAY)
    remotes.attach(conn, [RELAY])  # type: ignore[arg-type]
    clock.advance(10)
    assert not asked
    conn.silent = {old}
    remotes(conn)  # type: ignore[arg-type]
    clock.advance(8)
    assert asked == [KEY] * 4
    remotes.found(KEY, [RELAY_2], "dns")
    remotes.moved_to(KEY, [RELAY_2])
    assert conn.opened == [RELAY_2] and not conn.closed
    conn.ready(RELAY_2)
    remotes(conn)  # type: ignore[arg-type]
    assert conn.status() == {RELAY_2: "available"} and conn.closed == [old]
    clock.advance(200)
    assert asked == [KEY] * 4 and conn.opened == [RELAY_2]
    assert [addr for addr, *_ in remotes.inventory(KEY)] == [RELAY_2]


def test_relay_that_works_is_kept_whatever_a_lookup_says(clock: Clock) -> None:
    remotes = RemoteMap(clock, search=lambda key: None)  # type: ignore[arg-type]
    conn = Conn()
    conn.path(RELAY)
    remotes.attach(conn, [RELAY])  # type: ignore[arg-type]
    remotes.found(KEY, [RELAY_2], "dns")
    remotes.moved_to(KEY, [RELAY_2])
    conn.ready(RELAY_2)
    remotes(conn)  # type: ignore[arg-type]
    clock.advance(100)
    assert not conn.closed and set(conn.status()) == {RELAY, RELAY_2}


def test_server_looks_nobody_up(clock: Clock) -> None:
    asked: list[bytes] = []
    remotes = RemoteMap(clock, search=asked.append)  # type: ignore[arg-type]
    conn = Conn(client=False)
    id = conn.path(RELAY)
    remotes.attach(conn)  # type: ignore[arg-type]
    conn.silent = {id}
    remotes(conn)  # type: ignore[arg-type]
    clock.advance(30)
    assert not asked
