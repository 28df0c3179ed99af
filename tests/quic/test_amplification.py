"""No address that did not prove itself gets more than three times what came from it (RFC 9000 §8)."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from sim import CLIENT, MS, SECOND, SERVER, calm, frames, transfer

VICTIM = ("192.0.2.9", 53)
PING = b"\x01"
CHALLENGE = b"\x1a" + b"8 bytes!"


class Meter:
    """Bytes that came from each address, and what went there; checked at every step."""

    def __init__(self, pair, peer):
        self.pair, self.peer = pair, peer
        self.came: Counter = Counter()

    def send(self, payload, src, **options):
        self.came[src] += self.peer.send(payload, src=src, **options)
        self.check()

    def went(self):
        return Counter({address: self.peer.bytes_to(address) for address in self.came})

    def check(self):
        for address, sent in self.went().items():
            assert sent <= 3 * self.came[address], (
                f"{sent} bytes for {self.came[address]} of {address}"
            )


@pytest.fixture
def metered(hostile):
    def make(**options):
        pair, victim, peer = hostile(**options)
        return pair, victim, peer, Meter(pair, peer)

    return make


def test_probes_from_elsewhere_draw_answers_within_the_limit(metered):
    p, s, peer, meter = metered()
    for _ in range(60):
        p.now += MS
        meter.send(CHALLENGE, VICTIM)
    # They are answered all the same: an answer of 38 bytes to a probe of as many.
    assert meter.went()[VICTIM] >= 60 * 30
    assert s.path_info(0)["remote"] == CLIENT


def test_a_full_probe_gets_a_full_answer(metered):
    p, s, peer, meter = metered()
    meter.send(CHALLENGE + bytes(1200 - 38), VICTIM)
    assert [len(d.data) for d in peer.received if d.dst == VICTIM] == [1200]


def test_a_path_that_moved_sends_little_until_it_is_proven(metered):
    p, s, peer, meter = metered()
    stream = s.open_stream(False)
    stream.write(bytes(200_000))
    meter.send(PING, VICTIM)
    p.run_for(SECOND)
    meter.check()
    for size in (0, 1, 30, 366, 1000):
        meter.send(PING + bytes(size), VICTIM)
        p.run_for(3 * SECOND)
        meter.check()
    assert meter.went()[VICTIM] > 0


def test_addresses_in_turn_share_nothing(metered):
    p, s, peer, meter = metered()
    s.open_stream(False).write(bytes(200_000))
    for k in range(400):
        p.now += 20 * MS
        meter.send(PING, (f"192.0.2.{1 + k % 2}", 53))


def test_more_addresses_than_are_remembered(metered):
    p, s, peer, meter = metered()
    s.open_stream(False).write(bytes(200_000))
    for k in range(1000):
        p.now += 20 * MS
        meter.send(PING if k % 3 else CHALLENGE, (f"192.0.2.{1 + k % 97}", 53))


def test_new_paths_from_an_address_share_nothing(metered):
    p, s, peer, meter = metered()
    s.open_stream(False).write(bytes(200_000))
    for path in range(1, 8):
        meter.send(PING, VICTIM, path=path)
        p.run_for(3 * SECOND)
        meter.check()


@pytest.mark.parametrize("seed", range(8))
def test_any_mixture_keeps_the_limit(metered, seed):
    rng = random.Random(seed)
    p, s, peer, meter = metered(seed=seed)
    s.open_stream(False).write(bytes(1_000_000))
    addresses = [(f"192.0.2.{1 + i}", 53) for i in range(rng.choice((2, 5, 60)))]
    for _ in range(250):
        payload = rng.choice((PING, CHALLENGE, CHALLENGE + PING, PING + CHALLENGE * 3, b"\x0a\0\0"))
        payload += bytes(rng.choice((0, 0, 10, 100, 1100)))
        path = rng.choice((0, 0, 0, rng.randrange(8)))
        meter.send(payload, rng.choice(addresses), path=path)
        if rng.random() < 0.3:
            p.run_for(rng.randrange(300) * MS)
            meter.check()
        if rng.random() < 0.02:
            s.network_changed()
    if rng.random() < 0.5:
        s.close(1, b"a reason " * 100)
    p.run_for(SECOND)
    meter.check()


def test_close_toward_an_unproven_address(metered):
    p, s, peer, meter = metered()
    meter.send(PING, VICTIM)
    s.close(1, b"a long reason " * 80)
    p.run_for(5 * SECOND)
    meter.check()


def test_an_address_that_never_went_away_is_back_at_once(make_pair):
    """Somebody repeats a packet from elsewhere; the peer's next packet ends that, without another proof."""
    p = make_pair(transport=calm(max_concurrent_multipath_paths=0))
    c, s = p.connect()
    c.ping()
    p.flush()
    ((_, _, d),) = p.hold(True)
    p.server.endpoint.receive_datagram(d.data, VICTIM, p.now, local=SERVER)
    assert s.path_info(0)["remote"] == VICTIM
    c.ping()
    p.run_for(20 * MS)
    info = s.path_info(0)
    assert info["remote"] == CLIENT and info["validated"]
    transfer(p, s, c, bytes(50_000))


def test_a_small_challenge_is_followed_by_a_full_one(make_pair):
    """RFC 9000 §8.2.1: the limit kept the first one small, so the path's size is not proven yet."""
    p = make_pair()
    c, s = p.connect()
    p.rebind(p.client, CLIENT, ("10.0.0.1", 9999))
    c.ping()
    before = frames(s)["path_challenge"]
    p.drive()
    assert s.path_info(0)["remote"] == ("10.0.0.1", 9999) and s.path_info(0)["validated"]
    assert frames(s)["path_challenge"] == before + 3  # one to the old address, one small, one full
    sizes = [len(d.data) for d in p.server.sent if d.dst == ("10.0.0.1", 9999)]
    assert sizes[0] <= 90 and 1200 in sizes


def test_no_datagram_is_larger_than_the_path_carries(hostile):
    """Acknowledgements of eight paths fill packets; what else is due on a path waits for the next."""
    p, s, peer = hostile()
    largest = answers = 0
    for turn in range(8):
        for path in range(8):
            for k in range(70):
                pn = 22_000 + (turn * 70 + k) * 20_000
                peer.send(PING, path=path, pn=pn, flush=False)
        peer.send(CHALLENGE, pn=22_000 + (turn + 1) * 1_400_000 - 100, flush=False)
        mark = len(peer.received)
        p.flush()
        largest = max(len(d.data) for d in peer.received[mark:])
        answers += sum(f["type"] == 0x1B for f in peer.frames(peer.received[mark:]))
        p.now += 30 * MS
    assert largest <= s.path_info(0)["mtu"]
    assert answers == 8
