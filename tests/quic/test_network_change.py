"""This machine's network changes: which paths go on, which are replaced, and what data notice of it."""

from __future__ import annotations

import pytest
from sim import MS, SECOND, Pair, Transfer, calm, frames, transfer

covers = pytest.mark.covers

RELAY_C, RELAY_S = ("10.9.0.1", 12345), ("10.9.0.2", 12345)
OLD, NEW = ("192.168.1.2", 1111), ("172.16.0.2", 1111)
FAR = ("203.0.113.1", 2222)
UNSTABLE = 0x3E76


class Mobile:
    """A client with a relayed path 0 as backup and a direct path 1, whose uplink can change."""

    def __init__(self, make_pair, direct: bool = True) -> None:
        self.pair: Pair = make_pair(
            client_addresses=[RELAY_C, OLD], server_addresses=[RELAY_S, FAR]
        )
        self.home = OLD
        self.pair.client.route = lambda dst: RELAY_C if dst == RELAY_S else self.home
        self.pair.server.route = lambda dst: RELAY_S if dst == RELAY_C else FAR
        self.client, self.server = self.pair.connect()
        if direct:
            self.client.open_path(FAR)
            self.client.set_path_status(0, False)
            self.server.set_path_status(0, False)
            self.pair.drive()
            assert self.server.path_remote(1) == OLD
        self.client.path_events(), self.server.path_events()

    def switch(self) -> None:
        """Another uplink, and the old address is gone."""
        self.home = NEW
        self.pair.client.addresses = [RELAY_C, NEW]


@pytest.fixture
def mobile(make_pair):
    return lambda **options: Mobile(make_pair, **options)


def is_relay(local, remote) -> bool:
    return remote in (RELAY_C, RELAY_S)


@covers("noq:network_change_selective_hint_keeps_recoverable_paths")
def test_lost_path_is_replaced_and_the_relayed_one_goes_on(mobile):
    m = mobile()
    seen = []

    def keep(local, remote):
        seen.append((local, remote))
        return is_relay(local, remote)

    m.switch()
    m.client.network_changed(keep)
    assert [(local[0], remote) for local, remote in seen] == [
        (RELAY_C[0], RELAY_S),
        (OLD[0], FAR),
    ]
    assert m.client.path_ids() == [0, 2]
    m.pair.drive()
    assert m.client.path_info(2)["validated"] and m.client.path_info(2)["status"] == "available"
    assert m.server.path_remote(2) == NEW
    assert m.server.path_ids() == [0, 2]
    closed = [e for e in m.client.path_events() if e[0] == "closed"]
    assert [(e[1], e[4]) for e in closed] == [(1, "timed out")]
    assert [e[4] for e in m.server.path_events() if e[0] == "closed"] == [
        f"closed by peer: {UNSTABLE:#x}"
    ]
    transfer(m.pair, m.client, m.server, b"x" * 100_000)


def test_path_that_is_kept_gets_a_fresh_id_and_an_answer(mobile):
    m = mobile()
    before = frames(m.client)["path_retire_connection_id"]
    m.client.network_changed(lambda local, remote: True)
    assert m.client.path_ids() == [0, 1]
    sent = len(m.pair.client.sent)
    m.pair.flush()
    assert {d.dst for d in m.pair.client.sent[sent:]} == {RELAY_S, FAR}
    m.pair.drive()
    assert frames(m.client)["path_retire_connection_id"] == before + 2
    assert m.client.path_ids() == m.server.path_ids() == [0, 1]


@covers("noq:network_change_no_hint_on_client_replaces_path")
def test_only_path_of_a_client_is_replaced(mobile):
    m = mobile(direct=False)
    m.client.network_changed(lambda local, remote: False)
    assert m.client.path_ids() == [1]
    m.pair.drive()
    assert m.server.path_ids() == [1]
    transfer(m.pair, m.client, m.server, b"x" * 100_000)
    transfer(m.pair, m.server, m.client, b"x" * 100_000)


def test_all_paths_of_a_client_are_replaced(mobile):
    m = mobile()
    m.switch()
    m.client.network_changed(lambda local, remote: False)
    m.pair.drive()
    assert m.client.path_ids() == m.server.path_ids() == [2, 3]
    assert m.client.path_info(2)["status"] == "backup"
    transfer(m.pair, m.client, m.server, b"x" * 100_000)


@covers("noq:network_change_server_two_paths_drops_non_recoverable")
def test_server_lets_go_of_what_is_lost_when_something_remains(mobile):
    m = mobile()
    m.server.network_changed(is_relay)
    assert m.server.path_ids() == [0]
    m.pair.drive()
    assert m.client.path_ids() == [0]
    transfer(m.pair, m.server, m.client, b"x" * 100_000)


@covers("noq:network_change_server_one_path_keeps_it")
@pytest.mark.parametrize("direct", [True, False])
def test_server_keeps_what_it_has_when_all_is_lost(mobile, direct):
    m = mobile(direct=direct)
    ids = m.server.path_ids()
    m.server.network_changed(lambda local, remote: False)
    m.pair.drive()
    assert m.server.path_ids() == m.client.path_ids() == ids
    transfer(m.pair, m.server, m.client, b"x" * 100_000)


@covers("noq:network_change_server_no_hint_keeps_all")
def test_without_a_word_all_paths_are_kept(mobile):
    m = mobile()
    for side in (m.client, m.server):
        side.network_changed()
        m.pair.drive()
        assert side.path_ids() == [0, 1]


def test_without_ids_for_another_path_the_old_one_goes_on(make_pair):
    p = make_pair(transport=calm(max_concurrent_multipath_paths=0))
    c, s = p.connect()
    c.network_changed(lambda local, remote: False)
    p.drive()
    assert c.path_ids() == [0]
    transfer(p, c, s, b"x" * 10_000)


def test_nothing_is_lost_in_the_middle_of_a_transfer(mobile):
    """The uplink changes; what was in flight on the old path goes again over the relay, within a round trip or two."""
    m = mobile()
    t = Transfer(m.pair, m.client, m.server, bytes(range(256)) * 8000)
    m.pair.run_until(lambda: t.poll() or len(t.received) > 200_000)
    m.switch()
    got = len(t.received)
    m.client.network_changed(is_relay)
    gap = m.pair.run_until(lambda: t.poll() or len(t.received) > got)
    assert gap < 100 * MS
    m.pair.run_until(t.poll)
    assert bytes(t.received) == t.data


def test_storm_of_changes_is_survived(mobile):
    m = mobile()
    t = Transfer(m.pair, m.client, m.server, bytes(100_000))
    for k in range(200):
        m.client.network_changed((lambda local, remote: False) if k % 2 else None)
        m.server.network_changed(is_relay if k % 3 else None)
        t.poll()
        m.pair.run_for(30 * MS)
    m.pair.run_until(t.poll, limit=20 * SECOND)
    assert m.client.close_reason is None and m.server.close_reason is None
    assert len(m.client.path_ids()) <= 8


@pytest.mark.parametrize("which", ["keep", "close"])
def test_keep_may_do_anything(mobile, which):
    m = mobile()

    def keep(local, remote):
        if which == "close":
            m.client.close(1, b"")
            return False
        raise ZeroDivisionError

    if which == "keep":
        with pytest.raises(ZeroDivisionError):
            m.client.network_changed(keep)
        assert m.client.path_ids() == [0, 1]
    else:
        m.client.network_changed(keep)
    m.pair.drive()


# ---------------------------------------------------------------- what else moves
def test_migration_keeps_status_and_idle_timeout(mobile):
    """Q-21: the address of a path changes in place; what was decided about the path stays."""
    m = mobile()
    m.server.set_path_max_idle(0, 30)
    m.pair.drive()
    m.pair.client.outside[RELAY_C] = ("10.9.0.7", 12345)
    m.server.poll_events()
    m.client.network_changed(lambda local, remote: True)
    m.pair.drive()
    assert m.server.path_remote(0) == ("10.9.0.7", 12345)
    assert m.server.path_info(0)["status"] == "backup"
    assert m.server.poll_events()[0] & (1 << 12)  # whoever follows the paths hears of it
    # Silent for 20 s: beyond the 15 s of other paths.
    m.client.set_path_max_idle(0, 60)
    for _ in range(20):
        m.pair.run_for(SECOND)
        transfer(m.pair, m.client, m.server, b"x")
    assert 0 in m.server.path_ids()


def test_close_is_said_on_every_path(mobile):
    m = mobile()
    m.pair.filters.append(lambda d: d.dst == RELAY_S)  # the relay has gone
    before = len(m.pair.client.sent)
    m.client.close(7, b"bye")
    m.pair.flush()
    assert {d.dst for d in m.pair.client.sent[before:]} == {RELAY_S, FAR}
    m.pair.run_until(lambda: m.server.close_reason)
    assert m.server.close_reason.code == 7


def test_close_is_not_said_where_nothing_is_proven(mobile):
    m = mobile()
    m.client.open_path(("10.9.9.9", 9), None, True)
    m.pair.flush()
    before = len(m.pair.client.sent)
    m.client.close(7, b"bye")
    m.pair.flush()
    assert {d.dst for d in m.pair.client.sent[before:]} == {RELAY_S, FAR}


@pytest.mark.parametrize("gone", [True, False])
def test_end_of_the_only_path_is_told_on_the_one_that_replaces_it(mobile, gone):
    """It went out on the old path, for want of another, and was lost with it."""
    m = mobile(direct=False)
    if gone:
        m.pair.drop(True, count=1)
    m.client.network_changed(lambda local, remote: False)
    m.pair.run_until(lambda: m.server.path_ids() == [1], limit=SECOND)
    assert m.client.path_ids() == [1]
    m.pair.drive()
    transfer(m.pair, m.server, m.client, b"x" * 10_000)
