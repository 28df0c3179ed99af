"""Path policy: what is selected, opened and closed, with connections that are only pretended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pretended import KEY, RELAY, RELAY_2, V4, V4_2, V6, Clock, Conn

from iroh_fast.errors import ConnectionLost
from iroh_fast.net.remote import RemoteMap, RemoteState, better, inventory, opening, rank
from iroh_fast.net.remote import state as remote

pytestmark = pytest.mark.usefixtures("listeners")


def select(*paths: tuple[Any, float], current: Any = None) -> Any:
    """Give a server's connection some paths and tell which is selected."""
    state = RemoteState(Clock().time)
    state.selected = current
    conn = Conn(client=False)
    for addr, rtt_ms in paths:
        conn.path(addr, rtt_ms)
    state.add(conn)
    return state.selected


# --- selecting


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([(V4, 10), (V6, 10)], V6),
        ([(V4, 10), (V6, 12)], V6),
        ([(V4, 10), (V6, 20)], V4),
        ([(V4, 1000), (RELAY, 1)], V4),
        ([(V6, 1000), (RELAY, 1)], V6),
        ([(RELAY, 40), (RELAY_2, 30)], RELAY_2),
        ([(RELAY, 40)], RELAY),
    ],
)
def test_first_choice(paths: list[tuple[Any, float]], expected: Any) -> None:
    assert select(*paths) == expected
    assert select(*reversed(paths)) == expected


@pytest.mark.parametrize(
    ("other", "rtt_ms", "switches"),
    [(V4_2, 16, False), (V4_2, 15, True), (V6, 19, False), (V6, 18, True), (RELAY, 1, False)],
)
def test_selected_path_stays_unless_another_is_clearly_better(
    other: Any, rtt_ms: float, switches: bool
) -> None:
    assert select((V4, 20), (other, rtt_ms), current=V4) == (other if switches else V4)


def test_direct_path_replaces_relay_at_once_and_relay_a_dead_direct_one() -> None:
    assert select((V4, 1000), (RELAY, 1), current=RELAY) == V4
    assert select((RELAY, 1), current=V4) == RELAY


def test_selected_path_that_is_gone_is_replaced_by_any_other() -> None:
    assert select((V4_2, 900), current=V4) == V4_2


def test_second_path_has_to_beat_the_one_in_use(remotes: RemoteMap) -> None:
    conn = Conn(client=False)
    conn.path(V4, 10)
    remotes.attach(conn)
    assert remotes.get(KEY) is None
    conn.path(V6, 10)
    remotes(conn)
    state = remotes.get(KEY)
    assert state is not None and state.selected == V4


def test_nothing_to_choose_changes_nothing(state: RemoteState) -> None:
    state.selected = V4
    state.add(Conn())  # type: ignore[arg-type]
    assert state.selected == V4


def test_relay_bonus_is_not_that_of_ipv6() -> None:
    assert rank(RELAY, 0.020) == (1, 0.020)
    assert rank(V6, 0.020) == (0, pytest.approx(0.017))
    assert not better(rank(RELAY, 0.020), rank(RELAY_2, 0.016))


def test_unvalidated_path_is_not_a_candidate(state: RemoteState) -> None:
    conn = Conn(client=False)
    conn.path(RELAY, 50)
    conn.path(V4, 1, validated=False)
    state.add(conn)  # type: ignore[arg-type]
    assert state.selected == RELAY
    conn.ready(V4)
    state.refresh(conn)  # type: ignore[arg-type]
    assert state.selected == V4


def test_connections_share_the_choice(state: RemoteState) -> None:
    one, two = Conn(client=False), Conn(client=False)
    for conn in (one, two):
        conn.path(RELAY, 5)
        state.add(conn)  # type: ignore[arg-type]
    one.path(V4, 100)
    state.refresh(one)  # type: ignore[arg-type]
    two.path(V4, 120)
    state.refresh(two)  # type: ignore[arg-type]
    assert state.selected == V4
    assert one.status() == two.status() == {RELAY: "backup", V4: "available"}


# --- applying


def test_statuses_are_announced_even_where_they_stay_as_opened(state: RemoteState) -> None:
    conn = Conn(client=False)
    conn.path(RELAY)
    conn.path(V4)
    state.add(conn)  # type: ignore[arg-type]
    assert conn.status() == {RELAY: "backup", V4: "available"}
    assert all(path["announced"] for path in conn.paths.values())


def test_relay_paths_may_be_silent_for_longer(state: RemoteState) -> None:
    conn = Conn(client=False)
    relay, direct = conn.path(RELAY), conn.path(V4)
    state.add(conn)  # type: ignore[arg-type]
    assert conn.idle == {relay: 30.0}
    assert direct not in conn.idle


def test_client_closes_redundant_direct_paths_only(state: RemoteState) -> None:
    conn = Conn()
    relay, slow, fast = conn.path(RELAY, 30), conn.path(V4, 50), conn.path(V6, 5)
    state.add(conn)  # type: ignore[arg-type]
    assert conn.closed == [slow]
    assert set(conn.paths) == {relay, fast}
    assert conn.status() == {RELAY: "backup", V6: "available"}


def test_server_closes_nothing(state: RemoteState) -> None:
    conn = Conn(client=False)
    for addr in (RELAY, V4, V4_2, V6):
        conn.path(addr)
    state.add(conn)  # type: ignore[arg-type]
    assert not conn.closed
    assert conn.status() == {RELAY: "backup", V4: "backup", V4_2: "backup", V6: "available"}


def test_relay_paths_are_never_redundant(state: RemoteState) -> None:
    conn = Conn()
    for addr in (RELAY, RELAY_2, V4):
        conn.path(addr)
    state.add(conn)  # type: ignore[arg-type]
    assert not conn.closed


def test_direct_paths_stay_while_the_selected_one_is_not_open_here(state: RemoteState) -> None:
    other = Conn(client=False)
    other.path(V6, 1)
    state.add(other)  # type: ignore[arg-type]
    conn = Conn()
    conn.path(V4, 50)
    conn.path(V4_2, 50)
    state.add(conn)  # type: ignore[arg-type]
    assert state.selected == V6
    assert not conn.closed


def test_last_direct_path_is_kept_however_slow(state: RemoteState) -> None:
    conn = Conn()
    conn.path(V4, 5000)
    conn.path(RELAY, 1)
    state.add(conn)  # type: ignore[arg-type]
    assert not conn.closed
    assert conn.status() == {V4: "available", RELAY: "backup"}


def test_closed_connection_is_left_alone(state: RemoteState) -> None:
    conn, other = Conn(), Conn(client=False)
    conn.path(V4)
    state.add(conn)  # type: ignore[arg-type]
    conn.close_reason = "over"
    other.path(RELAY)
    other.path(V4_2, 1)
    state.add(other)  # type: ignore[arg-type]
    assert state.selected == V4_2
    assert conn.status() == {V4: "available"}


# --- opening


def test_client_on_a_relay_tries_the_direct_addresses(state: RemoteState) -> None:
    conn = Conn()
    conn.path(RELAY)
    state.learn([RELAY, V4, V6])
    state.add(conn)  # type: ignore[arg-type]
    assert conn.opened == [V4, V6]
    conn.ready(V6)
    state.refresh(conn)  # type: ignore[arg-type]
    conn.ready(V4)
    state.refresh(conn)  # type: ignore[arg-type]
    assert conn.status() == {RELAY: "backup", V6: "available"}
    assert conn.opened == [V4, V6]


def test_client_on_a_direct_path_adds_relays_as_a_backup_and_nothing_else(state: RemoteState) -> None:
    conn = Conn()
    conn.path(V4)
    state.learn([V4, V6, RELAY, RELAY_2])
    state.add(conn)  # type: ignore[arg-type]
    assert conn.opened == [RELAY, RELAY_2]
    conn.ready(RELAY)
    state.refresh(conn)  # type: ignore[arg-type]
    assert conn.status()[RELAY] == "backup"


def test_server_opens_nothing(state: RemoteState, clock: Clock) -> None:
    conn = Conn(client=False)
    conn.path(RELAY)
    state.learn([V4])
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(200)
    assert not conn.opened


def test_without_multipath_nothing_is_opened(state: RemoteState, clock: Clock) -> None:
    conn = Conn()
    conn.has_multipath = False
    conn.path(RELAY)
    state.learn([V4])
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(200)
    assert not conn.opened


def test_exhausted_ids_are_asked_for_again(state: RemoteState, clock: Clock) -> None:
    conn = Conn(ids=1)
    conn.path(RELAY)
    state.learn([V4, V6])
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(0.3)
    assert not conn.opened
    conn.room = 2
    clock.advance(0.1)
    assert conn.opened == [V4]
    clock.advance(5)
    conn.room = 3
    clock.advance(0.4)
    assert conn.opened == [V4, V6]


def test_exhausted_ids_outlast_paths_that_never_work(state: RemoteState, clock: Clock) -> None:
    """Dead addresses hold all ids for the 15 s of an idle path; the others have their turn then."""
    conn = Conn(ids=2)
    conn.path(RELAY)
    state.learn([V4, V4_2])
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(15)
    assert conn.opened == [V4]
    del conn.paths[1]
    state.refresh(conn)  # type: ignore[arg-type]
    assert set(conn.opened[1:]) & {V4, V4_2}
    for _ in range(10):
        clock.advance(15)
        conn.paths = {id: path for id, path in conn.paths.items() if path["validated"]}
        state.refresh(conn)  # type: ignore[arg-type]
    assert V4_2 in conn.opened


def test_peer_without_ids_is_not_asked_without_end(state: RemoteState, clock: Clock) -> None:
    conn = Conn(ids=1)
    attempts = []
    conn.open_path = lambda *args: attempts.append(clock.now) or Conn.open_path(conn, *args)  # type: ignore[method-assign,func-returns-value]
    conn.path(RELAY)
    state.learn([V4])
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(20)
    fast = len(attempts)
    assert fast <= opening.MAX_OPEN_RETRIES + 1
    clock.advance(20)
    assert len(attempts) - fast <= 1
    conn.room = 2
    clock.advance(60)
    assert conn.opened == [V4]


def test_dead_address_is_tried_a_few_times(state: RemoteState, clock: Clock) -> None:
    conn = Conn()
    conn.path(RELAY)
    state.learn([V4])
    state.add(conn)  # type: ignore[arg-type]
    for _ in range(40):
        clock.advance(60)
        conn.paths = {id: path for id, path in conn.paths.items() if path["validated"]}
    assert conn.opened == [V4] * opening.MAX_OPEN_TRIES


def test_relay_is_tried_for_ever(state: RemoteState, clock: Clock) -> None:
    conn = Conn()
    conn.path(V4)
    state.learn([V4, RELAY])
    state.add(conn)  # type: ignore[arg-type]
    for _ in range(40):
        clock.advance(60)
        conn.paths = {id: path for id, path in conn.paths.items() if path["validated"]}
    assert len(conn.opened) > 30


def test_dead_direct_path_is_tried_again_soon(state: RemoteState, clock: Clock) -> None:
    conn = Conn()
    direct = conn.path(V4)
    conn.path(RELAY)
    state.learn([V4, RELAY])
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(30)
    del conn.paths[direct]
    state.refresh(conn)  # type: ignore[arg-type]
    assert state.selected == RELAY
    assert conn.status() == {RELAY: "available"}
    clock.advance(remote.REOPEN_S)
    assert V4 in conn.opened
    conn.ready(V4)
    state.refresh(conn)  # type: ignore[arg-type]
    assert conn.status() == {RELAY: "backup", V4: "available"}


def test_path_found_by_one_connection_is_opened_on_the_others(state: RemoteState) -> None:
    one, two = Conn(), Conn()
    for conn in (one, two):
        conn.path(RELAY)
        state.add(conn)  # type: ignore[arg-type]
    one.path(V4)
    state.refresh(one)  # type: ignore[arg-type]
    assert two.opened == [V4]


def test_lost_connection_while_opening_is_not_an_error(state: RemoteState, clock: Clock) -> None:
    conn = Conn()
    conn.path(RELAY)
    state.learn([V4])

    def lost(*_: Any) -> int:
        raise ConnectionLost("over")

    conn.open_path = lost  # type: ignore[method-assign]
    state.add(conn)  # type: ignore[arg-type]
    clock.advance(100)
    assert not conn.opened


# --- addresses


def test_number_of_addresses_is_bounded(state: RemoteState) -> None:
    state.learn([RELAY, RELAY_2])
    state.learn(("192.0.2.1", port) for port in range(1, 1000))
    assert len(list(state.addrs)) == inventory.MAX_UNKNOWN + 2
    assert ("192.0.2.1", 999) in state.addrs and ("192.0.2.1", 1) not in state.addrs
    assert RELAY in state.addrs


def test_peer_that_wanders_about_fills_no_memory(state: RemoteState) -> None:
    conn = Conn(client=False)
    id = conn.path(("192.0.2.1", 1))
    conn.path(RELAY)
    state.learn([V4])
    state.add(conn)  # type: ignore[arg-type]
    for port in range(2, 1000):
        conn.paths[id]["remote"] = ("192.0.2.1", port)
        state.refresh(conn)  # type: ignore[arg-type]
    assert len(list(state.addrs)) <= inventory.PRUNE_FROM + 1
    assert ("192.0.2.1", 999) in state.addrs and ("192.0.2.1", 998) in state.addrs
    assert V4 in state.addrs and RELAY in state.addrs
    assert state.selected == ("192.0.2.1", 999)


def test_open_paths_are_never_forgotten(state: RemoteState) -> None:
    conn = Conn(client=False)
    conn.path(V4)
    conn.path(RELAY)
    state.add(conn)  # type: ignore[arg-type]
    state.learn(("192.0.2.9", port) for port in range(1, 1000))
    assert V4 in state.addrs


# --- the map of remotes


def test_one_direct_address_needs_no_state(remotes: RemoteMap) -> None:
    conn = Conn()
    conn.path(V4)
    remotes.attach(conn, [V4])  # type: ignore[arg-type]
    assert remotes.get(KEY) is None
    conn.path(RELAY)
    assert conn.path_listener is not None
    conn.path_listener(conn)
    state = remotes.get(KEY)
    assert state is not None and state.selected == V4


def test_state_goes_with_the_last_connection(remotes: RemoteMap, clock: Clock) -> None:
    one, two = Conn(), Conn()
    for conn in (one, two):
        conn.path(RELAY)
        remotes.attach(conn, [RELAY, V4])  # type: ignore[arg-type]
    state = remotes.get(KEY)
    assert state is not None and len(state.conns) == 2
    one.end()
    assert state.selected == RELAY and remotes.get(KEY) is state
    two.end()
    assert state.selected is None and remotes.get(KEY) is None
    assert remotes.inventory(KEY)
    clock.advance(61)
    assert not remotes.inventory(KEY) and clock.armed == 0


def test_remotes_do_not_mix(remotes: RemoteMap) -> None:
    one, two = Conn(), Conn(key=bytes([1]) * 32)
    for conn, addr in ((one, V4), (two, V4_2)):
        conn.path(RELAY)
        remotes.attach(conn, [addr])  # type: ignore[arg-type]
    assert one.opened == [V4] and two.opened == [V4_2]


def test_connection_that_is_over_leaves_nothing(remotes: RemoteMap, clock: Clock) -> None:
    conn = Conn()
    conn.path(RELAY)
    conn.close_reason = "over"
    remotes.attach(conn, [RELAY, V4])  # type: ignore[arg-type]
    assert remotes.get(KEY) is None and clock.armed == 0


def test_stop_ends_all_timers(remotes: RemoteMap, clock: Clock) -> None:
    conn = Conn()
    conn.path(RELAY)
    remotes.attach(conn, [V4])  # type: ignore[arg-type]
    assert clock.armed == 1
    remotes.stop()
    assert clock.armed == 0


def test_loop_type_is_that_of_asyncio() -> None:
    """The pretended clock must not drift from what is used in earnest."""

    async def main() -> None:
        state = RemoteState(asyncio.get_running_loop().time)
        conn = Conn()
        conn.path(RELAY)
        state.add(conn)  # type: ignore[arg-type]

    asyncio.run(main())


@pytest.mark.parametrize("client", [True, False])
def test_another_connection_costs_the_same_however_many_there_are(
    state: RemoteState, client: bool
) -> None:
    conns: list[Conn] = []

    def add(number: int) -> int:
        before = sum(conn.asked for conn in conns)
        for _ in range(number):
            conn = Conn(client)
            conn.path(V4, 10)
            conns.append(conn)
            state.add(conn)  # type: ignore[arg-type]
            conn.path(RELAY, 50, status="backup")
            state.refresh(conn)  # type: ignore[arg-type]
        return sum(conn.asked for conn in conns) - before

    state.learn([V4, RELAY])
    add(50)
    early = add(100)
    add(1000)
    late = add(100)
    assert late <= 1.2 * early


def test_blocked_connections_alone_are_asked_again(state: RemoteState, clock: Clock) -> None:
    state.learn([RELAY, V4])
    free = [Conn() for _ in range(20)]
    for conn in (*free, Conn(ids=1)):
        conn.path(RELAY, 10)
        state.add(conn)  # type: ignore[arg-type]
    before = [conn.asked for conn in free]
    clock.advance(3)
    assert [conn.asked for conn in free] == before
