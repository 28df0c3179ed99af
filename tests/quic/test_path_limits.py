"""What a peer can make us keep through path and connection ids is bounded, and stays so over a long life."""

from __future__ import annotations

import random
from itertools import count

import pytest
from impostor import fill, vi
from sim import CLIENT, MS, SECOND, SERVER, Pair

from iroh_fast.quic._paths import PathIds

PATH_ACK = 0x3E
PATH_ABANDON = 0x3E75
PATH_NEW_CONNECTION_ID = 0x3E78
PATH_RETIRE_CONNECTION_ID = 0x3E79
MAX_PATH_ID = 0x3E7A
PROTOCOL_VIOLATION = 0x0A
OTHER = ("10.0.0.3", 3333)


def test_path_ids_are_a_set():
    rng = random.Random(1)
    for spread in (20, 300, 2**32):
        ids, model = PathIds(), set()
        for _ in range(500):
            value = rng.randrange(spread)
            assert ids.add(value) == (value not in model)
            model.add(value)
            probe = rng.randrange(spread)
            assert (probe in ids) == (probe in model)
        assert all(value in ids for value in model)
        ranges = ids.ranges
        assert {v for a, b in ranges for v in range(a, b)} == model
        assert all(a[1] < b[0] for a, b in zip(ranges, ranges[1:], strict=False))


def test_path_ids_reach_to_the_end_of_the_number_space():
    ids = PathIds()
    assert ids.add(2**32 - 1) and ids.add(0) and not ids.add(2**32 - 1)
    assert ids.ranges == [(0, 1), (2**32 - 1, 2**32)]


def test_thousands_of_abandoned_paths_are_one_interval():
    ids = PathIds()
    for i in range(100_000):
        ids.add(i)
    assert ids.ranges == [(0, 100_000)]


def change_paths(p: Pair, c, times: int, current: int = 0) -> int:
    """Open a path and close the one before, again and again; the id of the last."""
    for k in range(times):
        new = c.open_path(SERVER, p.client.addresses[k % 2])
        p.run_until(lambda new=new: c.path_info(new)["validated"], limit=3 * SECOND)
        c.close_path(current)
        current = new
        p.run_for(1500 * MS)
        if k < times - 2:
            p.client.sent.clear()
            p.server.sent.clear()
    return current


def test_a_connection_lives_through_any_number_of_path_changes(make_pair):
    p = make_pair(client_addresses=[CLIENT, OTHER])
    c, s = p.connect()
    p.verbose = False
    current = change_paths(p, c, 40)
    ids = [side.endpoint.known_ids() for side in p.sides]
    current = change_paths(p, c, 1100, current)
    assert c.close_reason is None and s.close_reason is None
    assert c.path_ids() == s.path_ids() == [current] == [1140]
    for side, before in zip(p.sides, ids, strict=True):
        assert side.endpoint.known_ids() <= before + 16


def test_acknowledgements_for_a_path_abandoned_long_ago_are_ignored(hostile):
    """draft-ietf-quic-multipath §4: frames about an abandoned path may arrive at any time."""
    last = []
    p, s, peer = hostile(
        client_addresses=[CLIENT, OTHER],
        prepare=lambda pair, c, _: last.append(change_paths(pair, c, 1100)),
    )
    peer.ids[1100] = next(d.data[1:9] for d in reversed(p.client.sent) if not d.data[0] & 0x80)
    for n, old in enumerate((0, 1, 900, 1090)):
        peer.send(vi(PATH_ACK) + vi(old) + bytes(4) + b"\x0e\0" + vi(n) + b"\x01x", path=1100)
    assert s.close_reason is None
    assert s.accept_stream(True).read() == b"xxxx"


def test_abandoning_paths_that_cannot_exist_yet_closes(hostile):
    p, s, peer = hostile()
    peer.send(vi(MAX_PATH_ID) + vi(2**32 - 1))
    ids = p.server.endpoint.known_ids()
    for start in range(1, 1000, 100):
        peer.send(fill(vi(PATH_ABANDON) + vi(i) + b"\0" for i in range(start, start + 100)))
    assert s.close_reason.code == PROTOCOL_VIOLATION
    assert p.server.endpoint.known_ids() <= ids + 200


def test_abandoning_no_further_than_our_limit_went_out_is_bounded_too(hostile):
    """The peer hears each new limit and acknowledges nothing."""
    p, s, peer = hostile()
    peer.send(vi(MAX_PATH_ID) + vi(2**32 - 1))
    ids, limit, done, seen = p.server.endpoint.known_ids(), 7, 0, 0
    for _ in range(400):
        if s.close_reason:
            break
        wave = list(range(done + 1, limit + 1))
        if wave:
            peer.send(b"".join(vi(PATH_ABANDON) + vi(i) + b"\0" for i in wave))
            done = limit
        p.now += 50 * MS
        p.run_for(MS)
        for f in peer.frames(peer.received[seen:]):
            if f["type"] == MAX_PATH_ID:
                limit = max(limit, f["max"])
        seen = len(peer.received)
    assert done > 7, "the limit never rose: the test says nothing"
    assert s.close_reason or done < 2000
    assert p.server.endpoint.known_ids() <= ids + 400


@pytest.mark.parametrize("path", [0, 1])
def test_retiring_an_id_that_was_never_sent_closes(hostile, path):
    """RFC 9000 §19.16: issued is not sent."""
    p, s, peer = hostile()
    frame = vi(PATH_RETIRE_CONNECTION_ID) + vi(path)
    for seq in count(1):
        peer.send(frame + vi(seq), path=2, flush=False)
        if s.close_reason or seq > 100:
            break
    assert s.close_reason.code == PROTOCOL_VIOLATION
    assert seq <= 6


def test_retired_ids_are_replaced_as_often_as_the_peer_hears_of_them(make_pair):
    p = make_pair()
    c, s = p.connect()
    ids = [side.endpoint.known_ids() for side in p.sides]
    for _ in range(300):
        c.network_changed()
        s.network_changed()
        p.drive()
    assert c.close_reason is None and s.close_reason is None
    for side, before in zip(p.sides, ids, strict=True):
        assert side.endpoint.known_ids() <= before + 80
