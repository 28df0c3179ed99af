"""Several paths of a simulated connection: opening, ids, status, abandoning, dying."""

from __future__ import annotations

import pytest
from sim import MS, SECOND, Firewall, Pair, Transfer, calm, frames, read_all, transfer

from iroh_fast.config import MtuDiscoveryConfig
from iroh_fast.errors import ConfigError, IrohError

covers = pytest.mark.covers

C = [("10.0.0.1", 1001), ("10.0.1.1", 1002), ("10.0.2.1", 1003)]
S = [("10.0.0.2", 2001), ("10.0.1.2", 2002), ("10.0.2.2", 2003)]

UNSTABLE = 0x3E76
APPLICATION = 0x3E
NO_VIABLE_PATH = 0x10


@pytest.fixture
def multi(make_pair):
    def make(**options):
        options.setdefault("client_addresses", C)
        options.setdefault("server_addresses", S)
        p = make_pair(**options)
        c, s = p.connect()
        assert c.has_multipath and s.has_multipath
        c.path_events(), s.path_events()
        return p, c, s

    return make


def names(connection):
    return [(e[0], e[1]) for e in connection.path_events()]


# ---------------------------------------------------------------- opening
@covers("noq:open_path")
def test_second_path_is_validated_by_both_sides(multi):
    p, c, s = multi()
    ids = frames(s)["path_new_connection_id"]
    path = c.open_path(S[1], C[1])
    assert path == 1
    before = len(p.client.sent)
    p.drive()
    first = p.client.sent[before]
    assert (first.src, first.dst, len(first.data)) == (C[1], S[1], 1200)
    for side, remote in ((c, S[1]), (s, C[1])):
        assert side.path_info(1)["validated"]
        assert side.path_info(1)["remote"] == remote
        assert side.path_ids() == [0, 1]
        assert side.path_info(1)["in_flight"] == 0
    assert ("opened", 1) in names(c)
    assert ("opened", 1) in names(s)
    # It had two ids; now that it is open it gets the rest of the five.
    assert frames(s)["path_new_connection_id"] == ids + 3
    assert frames(c)["path_challenge"] == frames(s)["path_challenge"] == 1
    assert frames(c)["path_response"] == frames(s)["path_response"] == 1


def test_only_the_client_opens_paths(multi):
    p, c, s = multi()
    with pytest.raises(ConfigError):
        s.open_path(C[1])


@covers("noq:open_path_challenge_lost")
def test_lost_challenge_is_repeated(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drop(True, 0)
    p.drive()
    assert c.path_info(1)["validated"] and s.path_info(1)["validated"]
    assert frames(c)["path_challenge"] == 2


def test_lost_response_is_repeated(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drop(False, 0)
    p.drive()
    assert c.path_info(1)["validated"] and s.path_info(1)["validated"]


@covers("noq:open_path_key_update")
def test_path_opened_right_after_a_key_update(multi):
    p, c, s = multi()
    c.force_key_update()
    c.open_path(S[1], C[1])
    p.drive()
    assert c.path_info(1)["validated"] and s.path_info(1)["validated"]
    transfer(p, c, s, bytes(50_000))
    assert s.close_reason is None


@covers("noq:open_path_validation_fails_server_side")
def test_path_that_leads_nowhere_is_given_up_after_its_idle_time(multi):
    p, c, s = multi(transport=calm(keep_alive_interval=5.0))
    p.filters.append(lambda d: d.dst == S[1])
    c.open_path(S[1], C[1])
    start = p.now
    p.run_until(lambda: 1 not in c.path_ids())
    assert 15 * SECOND <= p.now - start <= 16 * SECOND
    (event,) = [e for e in c.path_events() if e[0] == "closed"]
    assert event[1] == 1 and event[4] == "timed out"
    assert s.path_info(1) is None
    transfer(p, c, s, b"on path 0")


@covers("noq:open_path_validation_fails_client_side")
def test_path_whose_answers_are_lost_is_given_up_by_both(multi):
    p, c, s = multi(transport=calm(keep_alive_interval=5.0, default_path_keep_alive_interval=5.0))
    p.filters.append(lambda d: d.dst == C[1])
    c.open_path(S[1], C[1])
    p.run_for(5 * SECOND)
    assert s.path_info(1) is not None and not s.path_info(1)["validated"]
    p.run_until(lambda: 1 not in c.path_ids() and 1 not in s.path_ids())
    p.run_for(5 * SECOND)
    assert c.path_info(1) is None and s.path_info(1) is None
    transfer(p, c, s, b"on path 0")


def test_challenges_of_a_dead_path_back_off_to_two_seconds(multi):
    p, c, s = multi()
    p.filters.append(lambda d: d.dst == S[1])
    c.open_path(S[1], C[1])
    before = len(p.client.sent)
    p.run_for(14 * SECOND)
    times = [d.sent for d in p.client.sent[before:] if d.dst == S[1] and len(d.data) == 1200]
    gaps = [(b - a) / MS for a, b in zip(times, times[1:], strict=False)]
    assert gaps[:2] == [999, 1998]
    assert all(g == 2000 for g in gaps[2:])
    assert 7 <= len(times) <= 9


def test_path_on_a_validated_four_tuple_is_usable_at_once(multi):
    p, c, s = multi()
    c.open_path(S[0], C[0])
    assert c.path_info(1)["validated"]
    p.drive()
    assert s.path_info(1)["validated"]
    assert c.path_info(1)["rtt"] == pytest.approx(0.01, rel=0.5)


@covers("noq:path_open_deadline_is_set_on_send")
def test_nothing_is_sent_on_a_path_nobody_opened(multi):
    p, c, s = multi()
    transfer(p, c, s, bytes(100_000))
    assert {d.dst for d in p.client.sent} == {S[0]}


def test_eight_paths_and_not_one_more(multi):
    p, c, s = multi()
    ids = []
    for i in range(7):
        ids.append(c.open_path(S[i % 3], C[(i // 3) % 3]))
        p.drive()
    assert ids == list(range(1, 8))
    with pytest.raises(IrohError):
        c.open_path(S[0])
    p.drive()
    assert frames(c)["paths_blocked"] == 1
    assert frames(s, "frame_rx")["paths_blocked"] == 1
    transfer(p, c, s, bytes(300_000))
    transfer(p, s, c, bytes(300_000))


def test_no_multipath_without_the_peer(make_pair):
    p = make_pair(server_transport=calm(max_concurrent_multipath_paths=0))
    c, s = p.connect()
    assert not c.has_multipath and not s.has_multipath
    with pytest.raises(IrohError):
        c.open_path(S[1])


# ---------------------------------------------------------------- ids
@covers("noq:cid_issued_multipath")
def test_each_path_has_its_own_ids(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    before = len(p.client.sent)
    c.ping()
    p.drive()
    ids = {d.dst: d.data[1:9] for d in p.client.sent[before:]}
    assert len(ids) == 2 and ids[S[0]] != ids[S[1]]


@covers("noq:multipath_cid_rotation")
def test_ids_rotate_on_every_path(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    seen: dict = {}
    for _ in range(6):
        at = len(p.client.sent)
        c.network_changed()
        p.drive()
        for d in p.client.sent[at : at + 2]:
            seen.setdefault(d.dst, set()).add(d.data[1:9])
    assert {len(v) for v in seen.values()} == {6}


@covers("noq:issue_max_path_id")
def test_abandoning_raises_the_limit_by_one_and_brings_ids(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    before = frames(s)["path_new_connection_id"]
    c.close_path(1)
    p.drive()
    assert frames(c)["max_path_id"] == frames(s)["max_path_id"] == 1
    assert frames(s)["path_new_connection_id"] == before + 2
    for _ in range(6):
        c.open_path(S[1], C[1])
        p.drive()
    assert c.open_path(S[1], C[1]) == 8
    p.drive()
    assert c.path_info(8)["validated"]


# ---------------------------------------------------------------- acknowledgements, status, scheduling
@covers("noq:path_acks")
def test_packets_of_a_path_are_acknowledged_by_path(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    plain = frames(s)["acks"]
    c.set_path_status(0, False)
    transfer(p, c, s, bytes(100_000))
    assert frames(s)["acks"] == plain
    assert c.path_info(1)["stats"]["udp_tx"]["bytes"] > 100_000
    assert c.path_info(1)["in_flight"] == 0


@covers("noq:path_status")
def test_status_is_told_once_and_seen_by_the_peer(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    s.path_events()
    c.set_path_status(1, False)
    p.drive()
    assert frames(c)["path_status_backup"] == 1
    assert s.path_events() == [("status", 1, "backup")]
    assert c.path_info(1)["status"] == "backup"
    assert s.path_info(1)["status"] == "available"  # the peer's opinion is not ours
    c.set_path_status(1, True)
    p.drive()
    assert s.path_events() == [("status", 1, "available")]


@covers("noq:path_scheduling_path_status")
def test_data_avoid_backup_paths(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1], backup=True)
    p.drive()
    before = len(p.client.sent)
    transfer(p, c, s, bytes(300_000))
    assert {d.dst for d in p.client.sent[before:]} == {S[0]}
    c.set_path_status(1, True)
    c.set_path_status(0, False)
    p.drive()
    before = len(p.client.sent)
    transfer(p, c, s, bytes(300_000))
    assert {d.dst for d in p.client.sent[before:] if len(d.data) > 1000} == {S[1]}


def test_backup_path_carries_data_when_it_is_the_only_one_left(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1], backup=True)
    p.drive()
    c.close_path(0)
    p.drive()
    transfer(p, c, s, bytes(50_000))
    transfer(p, s, c, bytes(50_000))
    assert c.path_ids() == s.path_ids() == [1]


def test_data_overflow_to_the_next_available_path(multi):
    p, c, s = multi(latency=20 * MS)
    for link in (p.to_server, p.to_client):
        link.rate = None
    c.open_path(S[1], C[1])
    p.drive()
    transfer(p, c, s, bytes(1_000_000))
    for path in (0, 1):
        assert c.path_info(path)["stats"]["udp_tx"]["bytes"] > 100_000


@covers("noq:per_path_observed_address")
def test_addresses_are_reported_per_path(make_pair):
    p = make_pair(
        client_addresses=C,
        server_addresses=S,
        transport=calm(receive_observed_address_reports=True),
        server_transport=calm(send_observed_address_reports=True),
    )
    c, s = p.connect()
    p.rebind(p.client, C[1], ("192.0.2.1", 99))
    c.open_path(S[1], C[1])
    p.drive()
    assert [e[1:3] for e in c.path_events() if e[0] == "observed"] == [
        (0, C[0]),
        (1, ("192.0.2.1", 99)),
    ]


@covers("noq:mtud_on_two_paths")
def test_each_path_finds_its_own_mtu(multi):
    p, c, s = multi(transport=calm(mtu_discovery=MtuDiscoveryConfig(), keep_alive_interval=5.0))
    p.filters.append(lambda d: len(d.data) > 1330 and (d.dst in (S[1], C[1])))
    c.open_path(S[1], C[1])
    p.run_for(20 * SECOND)
    assert c.path_info(0)["mtu"] == 1452
    assert 1300 < c.path_info(1)["mtu"] <= 1330
    # a datagram must fit whichever path it takes
    assert c.max_datagram_size <= 1330 - 38


# ---------------------------------------------------------------- closing
@covers("noq:close_path")
def test_closed_path_disappears_on_both_sides(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    c.path_events(), s.path_events()
    known = p.server.endpoint.known_ids(), p.client.endpoint.known_ids()
    extra = 3  # an open path has five ids, the id that is new in its place two
    c.close_path(1, 77)
    p.drive()
    assert c.path_ids() == s.path_ids() == [0]
    assert c.path_info(1) is None and s.path_info(1) is None
    assert frames(c)["path_abandon"] == frames(s)["path_abandon"] == 1
    (mine,) = [e for e in c.path_events() if e[0] == "closed"]
    (theirs,) = [e for e in s.path_events() if e[0] == "closed"]
    assert mine[:2] == theirs[:2] == ("closed", 1)
    assert theirs[4] == "closed by peer: 0x4d"
    left = p.server.endpoint.known_ids(), p.client.endpoint.known_ids()
    assert left == tuple(count - extra for count in known)


@covers("noq:remote_path_abandon_with_remaining_path")
def test_server_may_close_a_path_too(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    s.close_path(0, APPLICATION)
    p.drive()
    assert c.path_ids() == s.path_ids() == [1]
    transfer(p, c, s, bytes(100_000))


@covers("noq:close_last_path")
def test_last_path_cannot_be_closed(multi):
    p, c, s = multi()
    with pytest.raises(IrohError):
        c.close_path(0)
    c.open_path(S[1], C[1])
    p.drive()
    c.close_path(0)
    with pytest.raises(IrohError):
        c.close_path(1)


def test_closing_a_path_twice_is_harmless(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    c.close_path(1)
    c.close_path(1)
    p.drive()
    c.close_path(1)
    c.close_path(55)
    assert frames(c)["path_abandon"] == 1


@covers("noq:remote_can_close_last_validated_path")
@covers("noq:server_abandon_last_verified_path")
@covers("noq:remote_path_abandon_last_path_closes_connection")
def test_losing_the_last_working_path_ends_the_connection_after_a_grace(multi):
    """The client leaves path 0 for one that leads nowhere."""
    p, c, s = multi()
    p.filters.append(lambda d: d.dst == S[1])
    c.open_path(S[1], C[1])
    p.drive(quiet=900 * MS)
    start = p.now
    c.close_path(0)
    p.run_until(lambda: s.close_reason)
    assert (s.close_reason.kind, s.close_reason.code) == ("transport_local", NO_VIABLE_PATH)
    assert 2900 * MS <= p.now - start <= 3300 * MS
    # The client forgot path 0, so the news does not reach it.
    p.run_until(lambda: c.close_reason)
    assert c.close_reason.kind == "timed_out"


@covers("noq:remote_path_abandon_last_path_client_opens_new")
def test_opening_a_path_within_the_grace_saves_the_connection(multi):
    p, c, s = multi()
    p.filters.append(lambda d: d.dst == S[1])
    c.open_path(S[1], C[1])
    p.run_for(100 * MS)
    c.close_path(0)
    p.run_for(1500 * MS)
    assert s.path_ids() == []
    c.open_path(S[2], C[2])
    p.run_for(5 * SECOND)
    assert s.close_reason is None and c.close_reason is None
    assert s.path_ids() == [2]
    transfer(p, c, s, bytes(50_000))


def test_lost_abandon_on_the_dying_path_is_repeated(multi):
    p, c, s = multi()
    p.filters.append(lambda d: d.dst == S[1])
    c.open_path(S[1], C[1])
    p.run_for(100 * MS)
    c.close_path(0)
    p.drop(True, 0, 1)
    p.run_until(lambda: s.path_ids() == [], limit=5 * SECOND)


@covers("noq:no_establish_after_abandon")
def test_path_closed_before_it_was_established_stays_closed(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.flush()
    c.close_path(1)
    p.drive()
    assert c.path_ids() == [0]
    assert s.path_ids() == [0]
    assert ("opened", 1) not in names(c)


def test_path_that_never_reached_the_peer_frees_its_id(multi):
    p, c, s = multi()
    p.filters.append(lambda d: d.dst == S[1])
    for _ in range(12):
        path = c.open_path(S[1], C[1])
        p.run_for(100 * MS)
        c.close_path(path)
        p.run_for(5 * SECOND)
    assert c.path_ids() == s.path_ids() == [0]
    assert path == 12
    assert all(c.path_info(i) is None for i in range(1, 13))


@covers("noq:abandon_path_data_continues")
def test_data_in_flight_on_a_closed_path_arrive_elsewhere(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    c.set_path_status(0, False)
    p.drive()
    t = Transfer(p, c, s, bytes(2_000_000))
    t.poll()
    p.run_for(12 * MS)
    p.filters.append(lambda d: d.dst in (S[1], C[1]))
    c.close_path(1)
    p.run_until(t.poll)
    assert bytes(t.received) == t.data
    p.drive()
    assert c.path_info(1) is None


@covers("noq:abandon_cycle")
def test_opening_and_closing_again_and_again(multi):
    p, c, s = multi()
    known = p.server.endpoint.known_ids()
    for i in range(30):
        path = c.open_path(S[1 + i % 2], C[1 + i % 2])
        assert path == i + 1
        p.drive()
        assert s.path_info(path)["validated"]
        transfer(p, c, s, bytes(5000))
        (c if i % 3 else s).close_path(path)
        p.drive()
        assert c.path_ids() == s.path_ids() == [0]
    assert p.server.endpoint.known_ids() == known
    assert p.client.endpoint.known_ids() <= known


@covers("noq:new_identifiers_after_abandon_does_not_panic")
def test_packets_that_arrive_after_the_path_is_gone_are_ignored(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    c.ping()
    p.flush()
    held = p.hold(True)
    c.close_path(1)
    p.run_for(10 * SECOND)
    p.release(held)
    p.drive()
    assert s.close_reason is None and s.path_ids() == [0]
    transfer(p, c, s, bytes(1000))


@covers("noq:regression_discarded_path_stats_are_up_to_date")
def test_counters_survive_the_path(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    transfer(p, c, s, bytes(100_000))
    before = c.stats()["udp_tx"]
    assert before["datagrams"] == len(p.client.sent)
    c.close_path(1)
    p.drive()
    assert c.path_info(1) is None
    assert c.stats()["udp_tx"]["datagrams"] == len(p.client.sent)
    assert c.stats()["udp_tx"]["bytes"] == sum(len(d.data) for d in p.client.sent)
    assert s.stats()["udp_rx"]["datagrams"] == len(p.client.sent)


@covers("noq:open_path_ensure_after_abandon")
def test_same_address_again_after_abandon_is_a_new_path(multi):
    p, c, s = multi()
    first = c.open_path(S[1], C[1])
    p.drive()
    c.close_path(first)
    second = c.open_path(S[1], C[1])
    assert second == first + 1
    p.drive()
    assert c.path_ids() == s.path_ids() == [0, second]


def test_idle_path_is_closed_by_its_own_timer(multi):
    p, c, s = multi(transport=calm(keep_alive_interval=None, max_idle_timeout=None))
    c.open_path(S[1], C[1])
    p.drive()
    start = p.now
    # path 0 stays busy
    while 1 in c.path_ids() and p.now - start < 60 * SECOND:
        transfer(p, c, s, b"x")
        p.run_for(500 * MS)
    assert 14 * SECOND <= p.now - start <= 17 * SECOND


def test_path_heartbeats_keep_idle_paths(multi):
    p, c, s = multi(transport=calm(keep_alive_interval=5.0, default_path_keep_alive_interval=5.0))
    c.open_path(S[1], C[1])
    p.run_for(120 * SECOND)
    assert c.path_ids() == s.path_ids() == [0, 1]
    assert len(p.client.sent) < 200


def pings(connection):
    return connection.stats()["frame_tx"]["ping"]


def test_one_side_beats_where_both_hear_it(multi):
    p, c, s = multi(transport=calm(keep_alive_interval=None, default_path_keep_alive_interval=5.0))
    p.drive(quiet=SECOND)
    before = pings(c), pings(s)
    p.run_for(60 * SECOND)
    assert pings(c) - before[0] >= 10
    assert pings(s) == before[1]


def test_other_side_beats_when_nothing_is_heard(multi):
    p, c, s = multi(transport=calm(keep_alive_interval=None, default_path_keep_alive_interval=5.0))
    p.drive(quiet=SECOND)
    before = pings(s)
    p.filters.append(lambda d: d.src == C[0])
    p.run_for(12 * SECOND)
    assert pings(s) - before >= 1


def test_dead_path_is_left_and_the_data_move(multi):
    p, c, s = multi(transport=calm(keep_alive_interval=5.0, default_path_keep_alive_interval=5.0))
    c.open_path(S[1], C[1], backup=True)
    p.drive(quiet=SECOND)
    t = Transfer(p, c, s, bytes(3_000_000))
    t.poll()
    p.run_for(15 * MS)
    p.filters.append(lambda d: d.dst in (S[0], C[0]))
    taken = p.run_until(t.poll)
    assert taken < 2 * SECOND
    assert bytes(t.received) == t.data
    p.run_until(lambda: c.path_ids() == s.path_ids() == [1], limit=25 * SECOND)


# ---------------------------------------------------------------- network change and firewalls
def test_network_change_probes_every_path(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    before = len(p.client.sent)
    c.network_changed()
    p.flush()
    assert {d.dst for d in p.client.sent[before:]} == {S[0], S[1]}
    p.drive()
    assert c.path_ids() == s.path_ids() == [0, 1]


def test_path_migrates_by_itself_while_the_other_stays(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    p.rebind(p.client, C[1], ("198.51.100.1", 5))
    c.set_path_status(0, False)
    transfer(p, c, s, bytes(50_000))
    assert s.path_info(1)["remote"] == ("198.51.100.1", 5)
    assert s.path_info(0)["remote"] == C[0]
    assert s.path_info(1)["validated"]


def test_alternating_addresses_do_not_make_paths_probe_forever(multi):
    """noq: migration probing loop, challenge resend loop."""
    p, c, s = multi()
    for i in range(6):
        p.rebind(p.client, C[0], ("198.51.100.1", 100 + i % 2))
        c.ping()
        p.run_for(3 * MS)
    p.drive(500)
    assert s.path_info(0)["remote"] == ("198.51.100.1", 101)
    assert s.path_info(0)["validated"]


def test_client_behind_a_firewall_opens_a_path_outwards(multi):
    p, c, s = multi()
    p.filters.append(Firewall(*C))
    c.open_path(S[1], C[1])
    p.drive()
    assert c.path_info(1)["validated"] and s.path_info(1)["validated"]


def test_hostile_path_ids_are_refused(make_pair):
    """A path id above the limit gets no state."""
    p: Pair = make_pair(client_addresses=C, server_addresses=S)
    c, s = p.connect()
    assert s.path_info(1) is None
    with pytest.raises(IrohError):
        for _ in range(8):
            c.open_path(S[1], C[1])
    p.drive()
    assert len(s.path_ids()) == 8


@pytest.mark.parametrize("seed", range(12))
def test_streams_over_three_lossy_paths(multi, seed):
    p, c, s = multi(seed=seed, transport=calm(keep_alive_interval=5.0))
    c.open_path(S[1], C[1])
    c.open_path(S[2], C[2])
    p.drive(quiet=SECOND)
    for link in (p.to_server, p.to_client):
        link.loss, link.reorder, link.jitter = 0.05, 0.2, 4 * MS
    transfer(p, c, s, bytes(400_000))
    c.close_path(1)
    transfer(p, s, c, bytes(400_000))
    s.close_path(0)
    transfer(p, c, s, bytes(400_000))
    p.to_server.loss = p.to_client.loss = 0
    p.run_for(20 * SECOND)
    assert c.path_ids() == s.path_ids() == [2]
    stream = c.open_stream(False)
    stream.write(b"end")
    p.drive(quiet=SECOND)
    while (r := s.accept_stream(False)) is not None and r.id != stream.id:
        pass
    assert read_all(r) == b"end"


# ---------------------------------------------------------------- regressions
@covers("noq:paths_blocked_retransmission")
def test_lost_paths_blocked_is_repeated(multi):
    p, c, s = multi()
    for i in range(7):
        c.open_path(S[i % 3], C[i % 3])
        p.drive()
    p.drop(True, 0)
    with pytest.raises(IrohError):
        c.open_path(S[0])
    p.drive()
    assert frames(c)["paths_blocked"] >= 2
    assert frames(s, "frame_rx")["paths_blocked"] >= 1


@covers("noq:issue_max_path_id_reordered")
def test_new_ids_that_overtake_the_raised_limit(multi):
    p, c, s = multi(seed=11)
    for link in (p.to_server, p.to_client):
        link.reorder, link.loss = 0.5, 0.1
    for _ in range(20):
        path = c.open_path(S[1], C[1])
        p.run_until(lambda path=path: c.path_info(path)["validated"])
        c.close_path(path)
        p.run_for(5 * SECOND)
    assert c.close_reason is None and s.close_reason is None
    assert c.open_path(S[1], C[1]) == 21
    p.to_server.loss = p.to_client.loss = 0


@covers("noq:coalesced_datagram_for_never_opened_path_is_ignored")
@covers("noq:stale_coalesced_datagram_after_path_discard_is_ignored")
def test_long_headers_for_other_paths_are_ignored(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.flush()
    (held,) = p.hold(True)
    cid = held[2].data[1:9]
    packet = b"\xe0\0\0\0\1\x08" + cid + b"\x00\x40\x40" + bytes(64)
    p.inject(True, packet + held[2].data, src=C[1], dst=S[1])
    assert s.path_info(1) is None
    p.release([held])
    p.drive()
    p.inject(True, packet, src=C[1], dst=S[1])
    c.close_path(1)
    p.drive()
    p.inject(True, packet + held[2].data, src=C[1], dst=S[1])
    assert s.close_reason is None and s.path_ids() == [0]
    transfer(p, c, s, bytes(1000))


def test_challenge_to_an_address_we_left_does_not_bring_us_back(multi):
    """Migration probing loop: the server's probe of the old address moved the client's path back, and so on."""
    p, c, s = multi()
    p.client.addresses[:2] = [C[1], C[0]]
    c.network_changed()
    transfer(p, c, s, bytes(20_000))
    p.drive(300)
    assert s.path_info(0)["remote"] == C[1]
    assert c.path_info(0)["local"][0] == C[1][0]
    assert frames(s)["path_challenge"] <= 4


def test_reset_for_a_discarded_path_does_not_end_the_connection(multi):
    p, c, s = multi()
    c.open_path(S[1], C[1])
    p.drive()
    c.ping()
    p.flush()
    held = [x for x in p.hold(True) if x[2].dst == S[1]]
    s.close_path(1)
    p.run_for(10 * SECOND)
    before = len(p.server.sent)
    for x in held:
        p.inject(True, x[2].data, src=C[1], dst=S[1])
    p.run_for(SECOND)
    assert len(p.server.sent) - before <= len(held)
    assert c.close_reason is None
    transfer(p, c, s, bytes(1000))


def test_path_without_a_working_sibling_is_not_given_up(multi):
    """Path 0 is idle while the only other path never validates: it must stay."""
    p, c, s = multi(transport=calm(keep_alive_interval=5.0))
    p.filters.append(lambda d: d.dst == C[1])
    c.open_path(S[1], C[1])
    p.run_for(40 * SECOND)
    assert c.path_ids() == s.path_ids() == [0]
    transfer(p, c, s, bytes(1000))
