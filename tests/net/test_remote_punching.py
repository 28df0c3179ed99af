"""When rounds of hole punching begin, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
from pretended import KEY, RELAY, V4, V4_2, V6, Clock, Conn

from iroh_fast.net.remote import RemoteMap, RemoteState, punching

pytestmark = pytest.mark.usefixtures("listeners")

OURS = [("198.51.100.7", 4433), ("10.0.0.7", 4433)]
THEIRS = [("203.0.113.9", 5000), ("10.9.9.9", 5000)]


@pytest.fixture
def state(state: RemoteState) -> RemoteState:
    state.local = OURS
    return state


def relayed(client: bool = True, **rest: Any) -> Conn:
    """A connection over a relay whose peer takes part in NAT traversal."""
    conn = Conn(client, **rest)
    conn.has_nat_traversal = True
    conn.path(RELAY, 50)
    return conn


def punched(state: RemoteState, conn: Conn, addr: Any = V4, rtt_ms: float = 30) -> int:
    """The engine opened a path to what answered."""
    id = conn.path(addr, rtt_ms)
    state.refresh(conn)  # type: ignore[arg-type]
    return id


def test_round_begins_with_the_connection_and_tells_our_candidates(state: RemoteState) -> None:
    conn = relayed()
    state.add(conn)  # type: ignore[arg-type]
    assert conn.rounds == [OURS]
    assert state.why()["rounds"] == 1


def test_new_candidates_of_the_peer_begin_another_at_once(state: RemoteState, clock: Clock) -> None:
    conn = relayed()
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(0.05)
    conn.candidates = THEIRS
    state.refresh(conn)  # type: ignore[arg-type]
    assert len(conn.rounds) == 2
    state.refresh(conn)  # type: ignore[arg-type]
    assert len(conn.rounds) == 2


def test_removed_candidate_waits_for_the_interval(state: RemoteState, clock: Clock) -> None:
    conn = relayed()
    conn.candidates = THEIRS
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(1)
    conn.candidates = THEIRS[:1]
    state.refresh(conn)  # type: ignore[arg-type]
    assert len(conn.rounds) == 1
    clock.advance(3.9)
    assert len(conn.rounds) == 1
    clock.advance(0.2)
    assert len(conn.rounds) == 2


def test_own_candidates_begin_a_round(state: RemoteState, clock: Clock) -> None:
    conn = relayed()
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(0.1)
    more = [*OURS, ("2001:db8::7", 4433, 0, 0)]
    state.set_local(more)
    assert conn.rounds[1:] == [more]


def test_without_candidates_of_ours_nothing_is_tried_until_there_are(clock: Clock) -> None:
    state = RemoteState(clock.time)
    clock.watched.append(state)
    conn = relayed()
    state.add(conn)  # type: ignore[arg-type]
    before = conn.asked
    clock.advance(58)
    assert not conn.rounds and conn.asked <= before + 1  # one look at addresses that might be known
    state.set_local(OURS)
    assert conn.rounds == [OURS]


@pytest.mark.parametrize("client", [True, False])
def test_only_the_side_that_dialed_begins_rounds(state: RemoteState, client: bool) -> None:
    conn = relayed(client)
    state.add(conn)  # type: ignore[arg-type]
    state.network_changed(True)
    assert bool(conn.rounds) == client


def test_peer_without_traversal_is_not_punched(state: RemoteState, clock: Clock) -> None:
    conn = Conn()
    conn.path(RELAY)
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(200)
    assert not conn.rounds and state.why()["nat_traversal"] is False


def test_relay_only_connection_is_left_on_its_relay(state: RemoteState, clock: Clock) -> None:
    conn, other = relayed(), relayed(client=False)
    state.add(conn, relay_only=True)  # type: ignore[arg-type]
    state.learn_more([V4])
    state.add(other)  # type: ignore[arg-type]
    punched(state, other)
    clock.advance(200)
    assert not conn.rounds and not conn.opened
    assert state.selected == V4 and conn.status() == {RELAY: "available"}


def test_rounds_go_on_for_a_while_without_success_then_each_minute(
    state: RemoteState, clock: Clock
) -> None:
    conn = relayed()
    conn.candidates = THEIRS
    state.add(conn)  # type: ignore[arg-type]
    at = []
    for second in range(400):
        clock.advance(1)
        if len(conn.rounds) > len(at) + 1:
            at.append(second + 1)
    assert at[:3] == [5, 15, 35]
    later = [b - a for a, b in zip(at[3:], at[4:], strict=False)]
    assert later and all(gap == 60 for gap in later)


def test_direct_path_ends_the_rounds(state: RemoteState, clock: Clock) -> None:
    conn = relayed()
    conn.candidates = THEIRS
    state.add(conn)  # type: ignore[arg-type]
    punched(state, conn, THEIRS[0], 5)
    clock.advance(1000)
    assert len(conn.rounds) == 1


def test_slow_direct_path_is_looked_at_again_ever_more_rarely(
    state: RemoteState, clock: Clock
) -> None:
    conn = relayed()
    conn.candidates = THEIRS
    state.add(conn)  # type: ignore[arg-type]
    punched(state, conn, THEIRS[0], 80)
    clock.advance(3600)
    assert 5 <= len(conn.rounds) <= 12
    first = len(conn.rounds)
    clock.advance(3600)
    assert len(conn.rounds) - first <= 6


def test_candidates_that_all_worked_lately_are_not_opened_and_closed_for_ever(
    state: RemoteState, clock: Clock
) -> None:
    conn = relayed()
    conn.candidates = [V4, V6]
    state.add(conn)  # type: ignore[arg-type]
    punched(state, conn, V4, 30)
    punched(state, conn, V6, 80)  # opened by the same round, and closed for it is slower
    assert conn.closed
    clock.advance(500)
    assert len(conn.rounds) == 1


def test_death_of_the_direct_path_begins_a_round(state: RemoteState, clock: Clock) -> None:
    conn = relayed()
    conn.candidates = THEIRS
    state.add(conn)  # type: ignore[arg-type]
    id = punched(state, conn)
    clock.advance(30)
    before = len(conn.rounds)
    del conn.paths[id]
    state.refresh(conn)  # type: ignore[arg-type]
    assert state.selected == RELAY
    assert len(conn.rounds) == before + 1


def test_silence_of_the_direct_path_moves_data_and_begins_a_round(
    state: RemoteState, clock: Clock
) -> None:
    conn = relayed()
    conn.candidates = THEIRS
    state.add(conn)  # type: ignore[arg-type]
    id = punched(state, conn)
    clock.advance(30)
    before = len(conn.rounds)
    conn.silent = {id}
    state.refresh(conn)  # type: ignore[arg-type]
    assert state.selected == RELAY and conn.status() == {RELAY: "available", V4: "backup"}
    assert len(conn.rounds) == before + 1
    conn.silent = set()
    state.refresh(conn)  # type: ignore[arg-type]
    assert state.selected == V4 and conn.status() == {RELAY: "backup", V4: "available"}


@pytest.mark.parametrize("client", [True, False])
def test_silent_path_is_ended_by_who_dialed_once_another_is_known_to_work(
    state: RemoteState, clock: Clock, client: bool
) -> None:
    conn = relayed(client)
    state.add(conn)  # type: ignore[arg-type]
    id = punched(state, conn)
    conn.silent = {id}
    state.refresh(conn)  # type: ignore[arg-type]
    clock.advance(10)
    assert not conn.closed  # the relay may be as dead
    conn.hears(RELAY)
    clock.advance(2)
    assert conn.closed == ([id] if client else [])


def test_path_that_comes_back_in_time_is_kept(state: RemoteState, clock: Clock) -> None:
    conn = relayed()
    state.add(conn)  # type: ignore[arg-type]
    id = punched(state, conn)
    conn.silent = {id}
    state.refresh(conn)  # type: ignore[arg-type]
    conn.hears(RELAY)
    clock.advance(0.9)
    conn.silent = set()
    state.refresh(conn)  # type: ignore[arg-type]
    clock.advance(30)
    assert not conn.closed and state.selected == V4


def test_path_that_is_closed_as_redundant_begins_none(state: RemoteState, clock: Clock) -> None:
    conn = relayed()
    state.add(conn)  # type: ignore[arg-type]
    punched(state, conn, V4, 30)
    clock.advance(6)
    before = len(conn.rounds)
    punched(state, conn, V4_2, 3)
    assert len(conn.closed) == 1 and len(conn.rounds) == before


def test_major_network_change_begins_a_round_and_a_minor_one_does_not(
    state: RemoteState, clock: Clock
) -> None:
    conn = relayed()
    state.add(conn)  # type: ignore[arg-type]
    punched(state, conn)
    clock.advance(6)
    state.network_changed(False)
    assert len(conn.rounds) == 1
    state.network_changed(True)
    assert len(conn.rounds) == 2


def test_peer_that_keeps_telling_of_new_addresses_gets_a_bounded_number_of_rounds(
    state: RemoteState, clock: Clock
) -> None:
    conn = relayed()
    state.add(conn)  # type: ignore[arg-type]
    for number in range(1000):
        conn.candidates = [("203.0.113.1", 1000 + number)]
        state.refresh(conn)  # type: ignore[arg-type]
        clock.advance(0.1)
    assert len(conn.rounds) <= punching.BURST + 100 / punching.MIN_INTERVAL_S + 1
    clock.advance(punching.MIN_INTERVAL_S)
    assert len(conn.rounds) > punching.BURST  # the last of them has its turn


def test_connection_that_is_not_ready_is_asked_again_but_not_without_end(
    state: RemoteState, clock: Clock
) -> None:
    conn = relayed()
    conn.ready_to_punch = False
    asked = 0

    def start() -> bool:
        nonlocal asked
        asked += 1
        return Conn.start_nat_round(conn)

    conn.start_nat_round = start  # type: ignore[method-assign]
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(55)
    assert 5 <= asked <= punching.MAX_REFUSED + 1
    conn.ready_to_punch = True
    clock.advance(10)
    assert conn.rounds


def test_one_connection_punches_and_the_others_follow(state: RemoteState) -> None:
    one, two = relayed(), relayed()
    state.add(one)  # type: ignore[arg-type]
    state.add(two)  # type: ignore[arg-type]
    assert (len(one.rounds), len(two.rounds)) == (1, 0)
    punched(state, one)
    assert two.opened == [V4]


def test_another_connection_takes_over_when_the_one_that_punches_ends(
    state: RemoteState, clock: Clock
) -> None:
    one, two = relayed(), relayed()
    for conn in (one, two):
        conn.candidates = THEIRS
        state.add(conn)  # type: ignore[arg-type]
    clock.advance(40)
    one.end()
    state.remove(one)  # type: ignore[arg-type]
    assert two.rounds


def test_second_connection_inherits_the_direct_path_without_a_round(state: RemoteState) -> None:
    one, two = relayed(), relayed()
    state.add(one)  # type: ignore[arg-type]
    punched(state, one)
    state.add(two)  # type: ignore[arg-type]
    assert two.opened == [V4] and not two.rounds and len(one.rounds) == 1


# --- the map


def test_server_tells_its_candidates_and_their_changes(clock: Clock) -> None:
    conns: list[Any] = []
    remotes = RemoteMap(clock, live=lambda: conns)  # type: ignore[arg-type]
    remotes.set_candidates(OURS)
    conn, old = relayed(client=False), Conn(client=False)
    old.path(V4)
    conns += [conn, old]
    remotes.attach(conn, [])  # type: ignore[arg-type]
    remotes.attach(old, [])  # type: ignore[arg-type]
    assert conn.told == OURS and old.told == []
    remotes.set_candidates(OURS[:1])
    assert conn.told == OURS[:1]


def test_good_direct_connection_needs_no_state_and_a_slow_one_is_bettered(clock: Clock) -> None:
    for rtt_ms, rounds in ((5, 0), (50, 1)):
        remotes = RemoteMap(clock)  # type: ignore[arg-type]
        remotes.set_candidates(OURS)
        conn = Conn()
        conn.has_nat_traversal = True
        conn.path(V4, rtt_ms)
        remotes.attach(conn, [V4])  # type: ignore[arg-type]
        conn.candidates = THEIRS
        remotes(conn)  # type: ignore[arg-type]
        assert len(conn.rounds) == rounds
        assert (remotes.get(KEY) is None) == (not rounds)


def test_network_change_has_simple_connections_punched_too(clock: Clock) -> None:
    remotes = RemoteMap(clock)  # type: ignore[arg-type]
    remotes.set_candidates(OURS)
    conn = Conn()
    conn.has_nat_traversal = True
    conn.path(V4, 5)
    remotes.attach(conn, [V4])  # type: ignore[arg-type]
    remotes.network_changed(False)
    assert not conn.rounds
    remotes.network_changed(True)
    assert conn.rounds == [OURS]
