"""Addresses of an attempt that become known while it runs."""

from __future__ import annotations

from sim import MS, SECOND, SERVER, Pair, transfer

DEAD = ("10.9.0.1", 1)
MAX_DIAL, AT_ONCE = 64, 16


def targets(pair: Pair, since: int = 0) -> list[tuple[str, int]]:
    return [d.dst for d in pair.client.sent[since:]]


def test_dial_more_the_flight_goes_there_at_once_and_alone(make_pair):
    p = make_pair()
    c = p.dial([DEAD])
    p.run_for(200 * MS)
    before = len(p.client.sent)
    assert set(targets(p)) == {DEAD}
    assert c.dial_more([SERVER]) == 1
    p.flush()
    assert targets(p, before) == [SERVER]
    took = p.run_until(lambda: c.handshake_confirmed)
    assert took < 100 * MS, "no probe timeout had to pass"
    assert c.path_remote(0) == SERVER
    transfer(p, c, p.server.accepted[0], bytes(10_000))


def test_dial_more_the_next_timeout_goes_to_all(make_pair):
    p = make_pair()
    c = p.dial([DEAD])
    p.run_for(100 * MS)
    others = [("10.9.0.2", 2), ("10.9.0.3", 3)]
    assert c.dial_more(others) == 2
    p.flush()
    before = len(p.client.sent)
    p.run_until(lambda: len(p.client.sent) > before)
    p.flush()
    assert set(targets(p, before)) == {DEAD, *others}


def test_dial_more_before_anything_was_sent(make_pair):
    p = make_pair()
    c = p.dial([DEAD])
    assert c.dial_more([SERVER]) == 1
    p.flush()
    assert targets(p)[:2] == [DEAD, SERVER]
    p.run_until(lambda: c.handshake_confirmed)


def test_dial_more_takes_known_ones_once_and_has_a_bound(make_pair):
    p = make_pair()
    c = p.dial([DEAD, SERVER])
    assert c.dial_more([SERVER, DEAD, ("10.9.1.1", 5), ("10.9.1.1", 5)]) == 1
    assert c.dial_more([]) == 0
    many = [("10.9.2.1", 1000 + n) for n in range(100)]
    assert c.dial_more(many) == MAX_DIAL - 3
    assert c.dial_more([("10.9.3.1", 1)]) == 0
    p.flush()
    assert len(targets(p)) == AT_ONCE, "of many a few get each flight"


def test_dial_more_is_over_with_the_handshake(make_pair):
    p = make_pair()
    c = p.dial()
    p.run_until(lambda: c.handshake_confirmed)
    assert c.dial_more([DEAD]) == 0
    c.expect_addresses(False)
    assert c.close_reason is None
    p.drive()
    assert DEAD not in targets(p)
    assert p.server.accepted[0].dial_more([DEAD]) == 0


def test_dial_more_after_a_retry_takes_none(make_pair):
    """The token is for the address that it came from."""
    p = make_pair()
    p.server.auto = lambda incoming: incoming.retry() if not incoming.validated else p.accept(incoming)
    c = p.dial()
    p.run_until(lambda: len(p.client.sent) >= 2)
    assert c.dial_more([DEAD]) == 0
    p.run_until(lambda: c.handshake_confirmed)
    assert DEAD not in targets(p)


def test_dial_more_with_early_data(make_pair):
    p = make_pair(resumption=True)
    c, s = p.connect()
    p.drive()
    c.close()
    p.drive()
    c = p.dial([DEAD])
    assert c.has_0rtt
    stream = c.open_stream(True)
    stream.write(b"early" * 200)
    stream.finish()
    p.run_for(50 * MS)
    c.dial_more([SERVER])
    took = p.run_until(lambda: c.handshake_confirmed)
    assert took < 100 * MS and c.early_data_accepted
    s = p.server.accepted[-1]
    p.drive()
    assert s.accept_stream(True).read(2000) == b"early" * 200


def test_dial_more_of_closed_attempt_takes_none(make_pair):
    p = make_pair()
    c = p.dial([DEAD])
    p.flush()
    c.close()
    assert c.dial_more([SERVER]) == 0
    p.drive()
    assert SERVER not in targets(p)


def test_dial_more_attempt_still_ends_in_time(make_pair):
    """Further addresses do not make it longer."""
    p = make_pair()
    c = p.dial([DEAD])
    for n in range(25):
        p.run_for(SECOND)
        c.dial_more([("10.9.2.1", 1000 + n)])
    p.run_until(lambda: c.close_reason, limit=10 * SECOND)
    assert c.close_reason.kind == "timed_out"
    assert len(p.client.sent) < 2000
