"""Which path carries what: acknowledgements stay on theirs, data leave one that went silent."""

from __future__ import annotations

import pytest
from impostor import vi
from sim import MS, SECOND, SERVER, Link, Transfer, calm, read_all, transfer

C = [("10.0.0.1", 1001), ("10.0.1.1", 1002)]
S = [("10.0.0.2", 2001), ("10.0.1.2", 2002)]
PATH_ACK = 0x3E
BEATING = calm(keep_alive_interval=5.0, default_path_keep_alive_interval=5.0)


@pytest.fixture
def two(make_pair):
    """A pair with two validated paths on links of their own."""

    def make(latency=5 * MS, transport=BEATING, backup=False, **options):
        p = make_pair(transport=transport, client_addresses=C, server_addresses=S, **options)
        for a, b in zip(C, S, strict=True):
            p.links[a, b], p.links[b, a] = Link(latency), Link(latency)
        c, s = p.connect()
        assert c.open_path(S[1], C[1], backup) == 1
        p.run_until(
            lambda: c.path_info(1)["validated"] and s.path_info(1) and s.path_info(1)["validated"]
        )
        if backup:
            s.set_path_status(1, False)
        p.run_for(SECOND)
        return p, c, s

    return make


def counts(connection, frame):
    return [connection.path_info(i)["stats"]["frame_tx"][frame] for i in connection.path_ids()]


def dead(number):
    """A rule that loses everything on the link of a path."""
    return lambda d: d.dst in (C[number], S[number])


# ---------------------------------------------------------------- acknowledgements
def test_acknowledgements_leave_on_their_own_path(two):
    p, c, s = two()
    p.links[C[0], S[0]].latency = p.links[S[0], C[0]].latency = 400 * MS
    c.set_path_status(0, False)
    p.run_for(3 * SECOND)
    before = counts(s, "path_acks")
    taken = transfer(p, c, s, bytes(2_000_000))
    on_slow, on_fast = (b - a for a, b in zip(before, counts(s, "path_acks"), strict=True))
    assert on_fast > 10 * max(on_slow, 1)
    assert c.path_info(1)["rtt"] < 0.05
    assert taken < SECOND


def test_a_backup_path_acknowledges_what_came_on_it(two):
    p, c, s = two(backup=True)
    before = counts(s, "path_acks")
    c.set_path_status(0, False)  # for the server path 1 is still the backup
    c.set_path_status(1, True)
    transfer(p, c, s, bytes(300_000))
    after = counts(s, "path_acks")
    assert after[1] > before[1]
    assert counts(s, "stream")[1] == 0


def test_acknowledgements_of_a_path_that_cannot_carry_them_take_another(two):
    """Nothing that the server sends on path 1 arrives, so it learns nothing there; its data use path 0."""
    p, c, s = two()
    p.filters.append(lambda d: d.dst == C[1])
    t = Transfer(p, c, s, bytes(400_000))
    taken = p.run_until(t.poll)
    assert bytes(t.received) == t.data
    assert taken < 3 * SECOND


# ---------------------------------------------------------------- a path goes silent
@pytest.mark.parametrize("backup", [True, False], ids=["backup", "available"])
@pytest.mark.parametrize("up", [True, False], ids=["client sends", "server sends"])
@pytest.mark.parametrize("latency", [1, 20, 150])
def test_data_leave_a_dead_path_within_two_seconds(two, backup, up, latency):
    p, c, s = two(latency=latency * MS, backup=backup)
    sender, receiver = (c, s) if up else (s, c)
    t = Transfer(p, sender, receiver, bytes(600_000))
    p.run_until(lambda: t.poll() or len(t.received) > 20_000)
    p.filters.append(dead(0))
    taken = p.run_until(t.poll)
    assert bytes(t.received) == t.data
    # Two probe timeouts or one second, and then the transfer itself from a small window.
    assert taken < 2 * SECOND + 16 * latency * MS
    assert sender.close_reason is None and receiver.close_reason is None


def test_datagrams_and_control_frames_move_too(two):
    p, c, s = two()
    p.filters.append(dead(0))
    stream = c.open_stream(False)
    stream.write(b"first")
    p.run_for(2 * SECOND)
    c.send_datagram(b"a datagram")
    s.accept_stream(False).stop(7)
    p.run_for(SECOND)
    assert s.read_datagram() == b"a datagram"
    assert stream.send_state == "stopped"


def test_probes_go_on_and_the_first_answer_brings_the_data_back(two):
    p, c, s = two(backup=True)
    p.filters.append(dead(0))
    transfer(p, c, s, bytes(100_000))
    mark = len(p.client.sent)
    p.run_for(5 * SECOND)
    assert any(d.dst == S[0] for d in p.client.sent[mark:])
    p.filters.clear()
    p.run_for(7 * SECOND)
    assert c.path_ids() == [0, 1]
    before = counts(c, "stream")
    transfer(p, c, s, bytes(100_000))
    on_first, on_backup = (b - a for a, b in zip(before, counts(c, "stream"), strict=True))
    assert on_first > 0 and on_backup == 0


def test_without_another_path_nothing_moves_until_one_works(make_pair):
    p = make_pair(transport=BEATING, client_addresses=C, server_addresses=S)
    c, s = p.connect()
    t = Transfer(p, c, s, bytes(300_000))
    t.poll()
    p.filters.append(lambda d: d.dst in (S[0], C[0]))
    p.run_for(6 * SECOND)
    assert not t.poll()
    c.open_path(S[1], C[1])
    taken = p.run_until(t.poll)
    assert taken < 2 * SECOND
    assert bytes(t.received) == t.data


def test_a_late_acknowledgement_by_another_way_is_no_sign_of_life(hostile):
    """What arrived on a path before it died says nothing about it now, nor how long its round trip is."""

    def prepare(p, c, s):
        c.open_path(S[1], C[1])
        p.run_for(SECOND)

    p, s, peer = hostile(prepare=prepare, transport=BEATING, client_addresses=C, server_addresses=S)

    def answer(path, first, largest):
        ack = vi(PATH_ACK) + vi(path) + vi(largest) + vi(0) + vi(0) + vi(largest - first)
        peer.send(ack, path=1, src=C[1])

    def newest(path):
        mine = [d for d in peer.received if d.dst == C[path] and not d.data[0] & 0x80]
        return peer.number(mine[-1]) if mine else None

    s.open_stream(False).write(b"on the first path")
    p.flush()
    lost, rtt = newest(0), s.path_info(0)["rtt"]
    for _ in range(40):  # meanwhile the other path is answered
        p.run_for(100 * MS)
        if newest(1) is not None:
            answer(1, newest(1), newest(1))
    answer(0, lost, lost)
    assert s.path_info(0)["rtt"] == rtt
    before = counts(s, "stream")
    s.open_stream(False).write(b"more")
    p.run_for(20 * MS)
    assert [b - a for a, b in zip(before, counts(s, "stream"), strict=True)] == [0, 1]
    # An answer to a probe is one.
    answer(0, newest(0), newest(0))
    before = counts(s, "stream")
    s.open_stream(False).write(b"and more")
    p.run_for(20 * MS)
    assert [b - a for a, b in zip(before, counts(s, "stream"), strict=True)] == [1, 0]


def test_a_slow_path_is_not_taken_for_a_dead_one(two):
    """A round trip that grows is no reason to give the path up for good."""
    p, c, s = two(backup=True)
    p.links[C[0], S[0]].latency = p.links[S[0], C[0]].latency = 300 * MS
    transfer(p, c, s, bytes(100_000))
    p.run_for(3 * SECOND)
    before = counts(c, "stream")
    transfer(p, c, s, bytes(100_000))
    assert counts(c, "stream")[0] > before[0]
    assert c.path_ids() == [0, 1]


# ---------------------------------------------------------------- round trips
def test_answers_to_the_old_address_measure_nothing_of_the_new_one(make_pair):
    """What was sent before a migration and is acknowledged after it took the old way."""
    p = make_pair(transport=calm(max_concurrent_multipath_paths=0), latency=5 * MS)
    c, s = p.connect()
    moved = ("10.0.7.7", 1111)
    for a, b in ((moved, SERVER), (SERVER, moved)):
        p.links[a, b] = Link(5 * MS)
    p.run_for(SECOND)
    s.open_stream(False).write(bytes(4000))  # acknowledged at once
    p.flush()
    held = p.hold(False)
    p.filters.append(lambda d: not d.to_server)  # its probes are lost
    p.run_for(400 * MS)
    p.filters.clear()
    p.client.addresses[0] = moved
    c.ping()
    p.run_for(6 * MS)
    assert s.path_info(0)["remote"] == moved
    for _, _, d in held:
        d.dst = moved
    p.release(held)
    p.run_for(6 * MS)  # the acknowledgement of what was sent long ago is back
    assert s.path_info(0)["rtt"] in (0.333, pytest.approx(0.01, rel=0.5))
    p.run_for(100 * MS)
    assert s.path_info(0)["validated"]
    assert s.path_info(0)["rtt"] < 0.02


@pytest.mark.parametrize("interval", [5 * MS, 20 * MS, 50 * MS, 90 * MS])
def test_trickle_does_not_hide_that_a_path_is_dead(make_pair, interval):
    """Packets that keep leaving put off the probe timeout (RFC 9002 §6.2.1), here for as long as the window has room."""
    p = make_pair(client_addresses=C, server_addresses=S, latency=20 * MS)
    c, s = p.connect()
    c.open_path(S[1], C[1], True)
    p.drive()
    s.set_path_status(1, False)
    stream = c.open_stream(True)
    stream.write(b"first")
    p.drive()
    other = s.accept_stream(True)
    assert read_all(other) == b"first"
    p.filters.append(lambda d: d.dst in (S[0], C[0]))
    start, longest, last, got = p.now, 0, p.now, b""
    for _ in range(5 * SECOND // interval):
        stream.write(b"tick")
        p.run_for(interval)
        other.write(read_all(other))
        p.flush()
        if echo := read_all(stream):
            longest, last, got = max(longest, p.now - last), p.now, got + echo
    assert longest < SECOND
    assert p.now - last < 200 * MS
    assert len(got) > 4 * (p.now - start - 300 * MS) // interval
