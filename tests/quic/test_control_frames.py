"""Control frames that must arrive: they do, with present values, and no more wait than there is reason for."""

from __future__ import annotations

import os
import sys

import pytest
from impostor import fill, vi
from sim import MS, SECOND, calm, frames

from iroh_fast.errors import IrohError

PATH_NEW_CONNECTION_ID = 0x3E78
PATH_RETIRE_CONNECTION_ID = 0x3E79
PATH_STATUS_BACKUP = 0x3E76
MAX_PATH_ID = 0x3E7A
CONNECTION_ID_LIMIT_ERROR = 0x09
PROTOCOL_VIOLATION = 0x0A

C = [("10.0.0.1", 1001), ("10.0.1.1", 1002)]
S = [("10.0.0.2", 2001), ("10.0.1.2", 2002)]


def new_cid(path, seq, retire_prior_to):
    token = seq.to_bytes(16, "big")
    return (
        vi(PATH_NEW_CONNECTION_ID)
        + vi(path)
        + vi(seq)
        + vi(retire_prior_to)
        + b"\x08"
        + token[8:]
        + token
    )


def memory():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


# ---------------------------------------------------------------- what we send
def test_asking_for_paths_again_and_again_sends_a_frame_or_two(make_pair):
    p = make_pair(transport=calm(max_concurrent_multipath_paths=1))
    c, s = p.connect()
    p.filters.append(lambda d: not d.to_server)  # nothing is acknowledged
    for _ in range(500):
        with pytest.raises(IrohError):
            c.open_path(S[1])
        p.flush()
    assert 1 <= frames(c)["paths_blocked"] <= 2
    p.filters.clear()
    p.drive()
    assert c.close_reason is None


def test_of_many_status_changes_the_last_arrives(make_pair):
    p = make_pair(client_addresses=C, server_addresses=S)
    c, s = p.connect()
    c.open_path(S[1], C[1])
    p.drive()
    s.path_events()
    p.filters.append(lambda d: True)
    before = sum(n for name, n in frames(c).items() if name.startswith("path_status"))
    for k in range(501):
        c.set_path_status(1, available=k % 2 == 1)
        p.flush()
    sent = sum(n for name, n in frames(c).items() if name.startswith("path_status")) - before
    assert sent <= 80
    p.filters.clear()
    p.drive()
    events = [e for e in s.path_events() if e[0] == "status"]
    assert events[-1] == ("status", 1, "backup")
    assert c.path_info(1)["status"] == "backup" and c.close_reason is None


@pytest.mark.parametrize("lost", range(8))
def test_lost_frames_come_again_with_present_values(make_pair, lost):
    p = make_pair(seed=lost, client_addresses=C, server_addresses=S)
    c, s = p.connect()
    c.open_path(S[1], C[1])
    p.drive()
    s.path_events()
    p.drop(True, lost % 4, lost % 3 + 1)
    p.drop(False, lost % 2, lost % 5 + 2)
    c.set_path_status(1, available=False)
    p.flush()
    c.set_path_status(1, available=True)
    c.network_changed()
    c.close_path(0)
    p.drive()
    assert c.path_ids() == s.path_ids() == [1]
    assert [e[2] for e in s.path_events() if e[0] == "status"][-1:] in (["available"], [])
    # The id that was given up came back to both as another one.
    opened = [c.open_path(S[0], C[0]) for _ in range(7)]
    p.drive()
    assert opened == list(range(2, 9)) == s.path_ids()[1:]
    with pytest.raises(IrohError):
        c.open_path(S[0], C[0])


# ---------------------------------------------------------------- what a peer can make us send
def test_ids_that_retire_all_before_them(hostile):
    """RFC 9000 §5.1.2: each draws a RETIRE_CONNECTION_ID that is not acknowledged."""
    p, s, peer = hostile()
    for seq in range(50, 2000):
        peer.send(new_cid(0, seq, seq))
        if s.close_reason:
            break
    assert s.close_reason.code == CONNECTION_ID_LIMIT_ERROR
    assert seq < 250
    assert frames(s)["path_retire_connection_id"] <= 100


def test_ids_that_are_retired_before_they_are_used(hostile):
    p, s, peer = hostile()
    peer.send(new_cid(0, 10, 10))
    frame = new_cid(0, 3, 0)
    for _ in range(200):
        peer.send(fill([frame] * 30))
        if s.close_reason:
            break
    assert s.close_reason.code == CONNECTION_ID_LIMIT_ERROR


def test_a_peer_that_keeps_changing_ids_and_acknowledges_is_served(make_pair):
    p = make_pair()
    c, s = p.connect()
    for _ in range(200):
        c.network_changed()
        s.network_changed()
        p.drive()
    assert frames(c)["path_retire_connection_id"] >= 200
    assert c.close_reason is None and s.close_reason is None


def test_retiring_every_id_that_arrives_without_acknowledging(hostile):
    p, s, peer = hostile()
    known = {0: set(), 1: set()}
    routed = p.server.endpoint.known_ids()
    seen = sent = 0
    datagrams = list(p.server.sent)
    for _ in range(600):
        for f in peer.frames(datagrams):
            if f["type"] == PATH_NEW_CONNECTION_ID and f["path_id"] == 0:
                known[0].add(f["seq"])
        wanted = sorted(known[0] - known[1])
        known[1] |= set(wanted)
        if wanted:
            sent += len(wanted)
            peer.send(
                b"".join(vi(PATH_RETIRE_CONNECTION_ID) + vi(0) + vi(q) for q in wanted), path=1
            )
        p.run_for(50 * MS)
        datagrams = peer.received[seen:]
        seen = len(peer.received)
        if s.close_reason:
            break
    assert sent > 8, "new ids never came: the test says nothing"
    assert s.close_reason is not None or sent < 1500
    assert p.server.endpoint.known_ids() <= routed + 80


def test_floods_of_status_and_limits_keep_nothing(hostile):
    p, s, peer = hostile()
    for k in range(60):
        peer.send(fill(vi(PATH_STATUS_BACKUP) + vi(0) + vi(k * 200 + i + 10) for i in range(200)))
        peer.send(fill(vi(MAX_PATH_ID) + vi(k * 200 + i + 10) for i in range(200)))
    assert s.close_reason is None
    # One event for what is new, none for the repetitions.
    assert [e for e in s.path_events() if e[0] in ("status", "lagged")] == [("status", 0, "backup")]
    p.run_for(SECOND)
    assert p.server.endpoint.known_ids() < 100


@pytest.mark.parametrize("as_client", [True, False])
def test_challenges_without_end_are_answered_as_far_as_the_window_goes(hostile, as_client):
    p, v, peer = hostile(as_client=as_client)
    window = v.path_info(0)["cwnd"]
    for k in range(2000):
        peer.send(b"\x1a" + k.to_bytes(8, "big"))
        p.now += MS // 10
    assert v.path_info(0)["in_flight"] <= window + 4 * 1200  # and probes
    answers = sum(f["type"] == 0x1B for f in peer.frames(peer.received))
    assert 5 <= answers <= 20 and v.close_reason is None
    # The newest one is answered by a probe.
    p.run_for(5 * SECOND)
    last = [f["data"] for f in peer.frames(peer.received) if f["type"] == 0x1B][-1]
    assert last == (1999).to_bytes(8, "big")


def test_a_challenge_is_answered_at_once_beside_bulk_data(hostile):
    p, s, peer = hostile()
    s.open_stream(False).write(bytes(200_000))
    p.flush()
    info = s.path_info(0)
    assert info["in_flight"] + info["mtu"] >= info["cwnd"]
    mark = len(peer.received)
    peer.send(b"\x1a" + b"8 bytes!")
    assert [f["data"] for f in peer.frames(peer.received[mark:]) if f["type"] == 0x1B] == [
        b"8 bytes!"
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("addresses", [2, 1000])
def test_little_is_kept_of_a_peer_that_moves_without_end(hostile, addresses):
    p, s, peer = hostile(transport=calm(max_idle_timeout=None))
    before = memory()
    for k in range(20_000):
        address = k % addresses
        peer.send(b"\x01" + bytes(99), src=(f"10.0.{address >> 8}.{address & 255}", 7))
        if k % 100 == 99:
            peer.received.clear()
            p.server.sent.clear()
    assert memory() - before < 1_000_000 and s.close_reason is None
