"""The pacer: the rate it keeps, the size of its bursts, late looks, idle time and arithmetic limits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iroh_fast.quic._congestion import PacerModel

US = 1_000
MS = 1_000_000
S = 1_000_000_000
MTU = 1500
OPENING = 18_000
U62 = 2**62
I63 = 2**63 - 1
MBIT = 125_000  # bytes per second

RATES = {
    "1 Mbit/s": 1 * MBIT,
    "10 Mbit/s": 10 * MBIT,
    "17 Mbit/s": 17 * MBIT,
    "100 Mbit/s": 100 * MBIT,
    "1 Gbit/s": 1000 * MBIT,
    "10 Gbit/s": 10_000 * MBIT,
}
each_rate = pytest.mark.parametrize("rate", RATES.values(), ids=RATES)


class Sender:
    """Always has packets, and looks when the pacer says, or `lateness` ns later."""

    def __init__(self, rate, lateness=lambda: 0, mtu=MTU, quantum=0):
        self.pacer = PacerModel(0)
        self.rate, self.lateness, self.mtu, self.quantum = rate, lateness, mtu, quantum
        self.now = 0
        self.bursts: list[tuple[int, int]] = []
        self.looks = 0

    def look(self) -> int:
        """Send what may leave; how long to wait then."""
        sent = 0
        self.looks += 1
        while (wait := self.pacer.ask(self.now, self.mtu, self.rate, self.mtu, self.quantum)) == 0:
            self.pacer.on_sent(self.mtu)
            sent += self.mtu
            assert sent < 10**9, "the pacer lets everything through"
        if sent:
            self.bursts.append((self.now, sent))
        return wait

    def run_until(self, end):
        while True:
            wait = self.look()
            self.now += wait + self.lateness()
            if self.now > end:
                break

    def open(self) -> Sender:
        """Leave the opening behind, and what it owes."""
        self.run_until(OPENING * S // self.rate + 20 * MS)
        self.bursts.clear()
        self.looks = 0
        return self

    def sent(self, since=0):
        return sum(size for at, size in self.bursts if at >= since)


def drained(rate=100 * MBIT, now=0) -> PacerModel:
    """Past the opening, with an empty bucket."""
    p = PacerModel(now)
    p.on_sent(OPENING)
    assert p.ask(now, MTU, rate, MTU) > 0
    after = now + 2 * OPENING * S // rate + 2 * S
    p.on_idle(after)
    assert p.ask(after, MTU, rate, MTU) == 0
    p.on_sent(p.tokens)
    assert p.tokens == 0
    return p


# ---------------------------------------------------------------- the opening


@each_rate
@pytest.mark.parametrize("now", [0, 5 * S, U62])
def test_the_first_flight_leaves_at_once(now, rate):
    p = PacerModel(now)
    sent = 0
    while p.ask(now, MTU, rate, MTU) == 0 and sent < OPENING:
        p.on_sent(MTU)
        sent += MTU
    assert sent == OPENING


def test_what_is_left_of_the_opening_survives_idle_time():
    p = PacerModel()
    for at in range(0, 10 * S, S):
        assert p.ask(at, MTU, 1 * MBIT, MTU) == 0
        p.on_sent(MTU)
        p.on_idle(at)
    at = 10 * S
    for _ in range(2):
        assert p.ask(at, MTU, 1 * MBIT, MTU) == 0
        p.on_sent(MTU)
    # The last second had earned a quantum, one packet at this rate. The other of the two is owed.
    assert p.ask(at, MTU, 1 * MBIT, MTU) == pytest.approx(24 * MS, abs=2)


@each_rate
def test_what_the_opening_took_is_owed(rate):
    sender = Sender(rate)
    sender.run_until(2 * OPENING * S // rate + 100 * MS)
    start = 0
    for at, _ in sender.bursts[1:]:
        taken = sum(size for when, size in sender.bursts if start <= when < at)
        # All that was sent until then is at most what the rate earns, and what was there at first.
        assert taken <= at * rate / S + max(OPENING, sender.pacer.quantum) + MTU


def test_what_leaves_unasked_is_owed_as_well():
    p = drained()
    now = p_now(p)
    p.on_sent(12_000)
    wait = p.ask(now, MTU, 100 * MBIT, MTU)
    assert wait == pytest.approx((12_000 + p.quantum) * S / (100 * MBIT), rel=1e-6)


def test_a_debt_has_a_limit():
    p = drained(1 * MBIT)
    now = p_now(p, 1 * MBIT)
    p.on_sent(10**9)
    assert p.ask(now, MTU, 1 * MBIT, MTU) <= (16 * MTU + p.quantum) * S // (1 * MBIT) + 1


def p_now(p, rate=100 * MBIT) -> int:
    """When `drained` ended."""
    return 2 * OPENING * S // rate + 2 * S


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("rate", "mtu", "packets"),
    [
        (1 * MBIT, 1500, 1),
        (10 * MBIT, 1500, 1),  # 0.83 packets a millisecond
        (17 * MBIT, 1500, 1),
        (19 * MBIT, 1500, 2),
        (100 * MBIT, 1500, 8),
        (100 * MBIT, 1200, 10),
        (100 * MBIT, 9000, 1),
        (1000 * MBIT, 1500, 83),
        (1000 * MBIT, 65_000, 2),
        (10_000 * MBIT, 1500, 350),  # 512 KiB: 0.4 ms
        (10**30, 1500, 350),
        (0, 1500, 350),  # unpaced
    ],
)
def test_a_burst_is_a_millisecond_in_whole_packets(rate, mtu, packets):
    p = PacerModel()
    p.ask(0, mtu, rate, mtu)
    assert p.quantum == packets * mtu


@pytest.mark.parametrize(
    ("rate", "quantum", "packets"),
    [
        (100 * MBIT, 3000, 2),  # 0.25 ms are 3125
        (100 * MBIT, 100, 2),  # the loop wakes up four times a millisecond at most
        (1 * MBIT, 3000, 2),
        (1 * MBIT, 1, 1),
        (1000 * MBIT, 65_536, 44),
        (10_000 * MBIT, 65_536, 208),
        (10_000 * MBIT, 10**9, 350),
    ],
)
def test_the_controller_says_how_large_a_burst_is_unless_timers_cannot_follow(
    rate, quantum, packets
):
    p = PacerModel()
    p.ask(0, MTU, rate, MTU, quantum)
    assert p.quantum == packets * MTU


@each_rate
def test_bursts_are_a_millisecond_and_no_more(rate):
    sender = Sender(rate).open()
    sender.run_until(sender.now + 2 * S)
    assert max(size for _, size in sender.bursts) <= max(MTU, rate * 1.0 / 1000 + MTU / 2)
    assert sender.looks <= 2 * 2500, "no storm of timers"


# ---------------------------------------------------------------- the rate

LATENESS = {
    "never": lambda r: 0,
    "80 us": lambda r: 80 * US,
    "50 to 200 us": lambda r: r.randrange(50 * US, 200 * US),
    "a coarse clock": lambda r: r.randrange(0, 2 * MS),
    "sometimes 5 ms": lambda r: 5 * MS if r.random() < 0.05 else 60 * US,
}


@each_rate
@pytest.mark.parametrize("lateness", LATENESS.values(), ids=LATENESS)
def test_the_rate_is_kept_however_late_timers_are(rate, lateness):
    r = random.Random(1)
    sender = Sender(rate, lambda: lateness(r)).open()
    start, span = sender.now, 20 * S if rate <= 10 * MBIT else 4 * S
    sender.run_until(start + span)
    first, last = sender.bursts[0][0], sender.bursts[-1][0]
    achieved = (sender.sent() - sender.bursts[-1][1]) * S / (last - first)
    # What was owed when we began to look at it counts as well.
    assert achieved <= rate * (1 + 32 * MS / (last - first))
    assert achieved >= 0.99 * rate


@each_rate
def test_no_interval_gets_more_than_the_rate_and_what_was_owed(rate):
    r = random.Random(2)
    sender = Sender(rate, lambda: 5 * MS if r.random() < 0.02 else 60 * US).open()
    sender.run_until(sender.now + (10 * S if rate <= 10 * MBIT else 1 * S))
    quantum, allowed = sender.pacer.quantum, 32 * MS
    earliest = None  # of (earned - sent)
    total = 0
    for at, size in sender.bursts:
        before = at * rate / S - total
        earliest = before if earliest is None else min(earliest, before)
        total += size
        # What was sent in any interval that ends here is at most its share, a quantum, and lateness.
        assert at * rate / S - total >= earliest - quantum - allowed * rate / S - MTU


def test_after_one_late_turn_bursts_come_twice_as_often_and_are_hardly_larger():
    sender = Sender(100 * MBIT).open()
    sender.run_until(sender.now + 100 * MS)
    sender.now += 10 * MS
    at, count = sender.now, len(sender.bursts)
    sender.run_until(at + 40 * MS)
    after = sender.bursts[count:]
    assert max(size for _, size in after) <= 100 * MBIT * (1 + 10 / 8) / 1000 + MTU
    assert sorted(size for _, size in after)[len(after) // 2] == sender.pacer.quantum
    spacing = [b[0] - a[0] for a, b in zip(after, after[1:], strict=False)]
    full = sender.pacer.quantum * S // (100 * MBIT)
    assert min(spacing) >= full // 2
    assert min(spacing[:8]) <= full // 2 + 2, "half the distance at first"
    assert spacing[-1] == pytest.approx(full, abs=2), "and the usual one in the end"
    # Nothing of the late time was lost.
    assert sender.sent(at) == pytest.approx(100 * MBIT * 0.050, rel=0.03)


def test_time_beyond_what_may_be_late_is_lost():
    sender = Sender(100 * MBIT).open()
    sender.run_until(sender.now + 100 * MS)
    sender.now += 1 * S
    at = sender.now
    sender.run_until(at + 500 * MS)
    assert sender.sent(at) <= 100 * MBIT * (0.500 + 0.032 + 0.002)


def test_looks_that_are_always_late_take_more_with_them():
    sender = Sender(100 * MBIT, lambda: 8 * MS).open()
    sender.run_until(sender.now + 2 * S)
    start = sender.now
    sender.run_until(start + 2 * S)
    assert sender.sent(start) >= 0.99 * 2 * 100 * MBIT
    assert max(size for at, size in sender.bursts if at > start) <= 9.5 * MS * 100 * MBIT / S
    sender.lateness = lambda: 0
    sender.run_until(sender.now + 500 * MS)
    at = sender.now
    sender.run_until(at + 100 * MS)
    assert max(size for when, size in sender.bursts if when > at) == sender.pacer.quantum


def test_who_looks_early_does_not_get_a_part_of_a_burst():
    """Acknowledgements come between two bursts: they do not make them smaller and more."""
    sender = Sender(100 * MBIT).open()
    wait = sender.look()
    sender.now += wait
    wait = sender.look()
    while wait > 200 * US:
        sender.now += 100 * US
        count = len(sender.bursts)
        again = sender.look()
        assert len(sender.bursts) == count
        assert again == pytest.approx(wait - 100 * US, abs=2)
        wait = again
    sender.now += wait
    sender.look()
    assert sender.bursts[-1][1] == sender.pacer.quantum


@pytest.mark.parametrize("step", [1 * US, 5 * US, 13 * US, 37 * US])
def test_the_rate_does_not_depend_on_how_often_it_is_asked_for(step):
    sender = Sender(1 * MBIT).open()
    start = sender.now
    while sender.now < start + 500 * MS:
        sender.look()
        sender.now += step
    assert sender.sent(start) == pytest.approx(0.5 * MBIT, abs=MTU)


def test_a_burst_goes_on_in_the_next_turn():
    """The driver takes a part of a large burst in each turn."""
    p = drained(10_000 * MBIT)
    now = p_now(p, 10_000 * MBIT)
    now += p.ask(now, MTU, 10_000 * MBIT, MTU)
    left = p.quantum
    while left:
        for _ in range(90):
            if not left:
                break
            assert p.ask(now, MTU, 10_000 * MBIT, MTU) == 0
            p.on_sent(MTU)
            left -= MTU
        now += 10 * US


# ---------------------------------------------------------------- idle


def test_idle_time_is_worth_a_quantum():
    p = drained()
    now = p_now(p)
    p.on_idle(now)
    now += 10 * S
    assert p.ask(now, MTU, 100 * MBIT, MTU) == 0
    assert p.burst == p.tokens == p.quantum


def test_time_of_a_full_window_is_no_lateness():
    p = drained()
    now = p_now(p)
    assert p.ask(now, MTU, 100 * MBIT, MTU) > 0  # the pacer holds it back
    p.on_idle(now)  # then the window does
    now += 20 * MS
    assert p.ask(now, MTU, 100 * MBIT, MTU) == 0
    assert p.burst == p.quantum


def test_what_was_late_when_data_ran_out_is_gone():
    sender = Sender(100 * MBIT).open()
    sender.now += sender.look() + 10 * MS
    sender.look()
    assert sender.pacer.tokens > sender.pacer.quantum
    sender.pacer.on_idle(sender.now)
    assert sender.pacer.tokens == sender.pacer.quantum
    assert sender.pacer.burst == 0


def test_after_a_short_pause_what_there_is_leaves_at_once():
    p = drained()
    now = p_now(p)
    p.on_idle(now)
    now += 500 * US
    assert p.ask(now, MTU, 100 * MBIT, MTU) == 0
    assert p.burst == p.tokens == 6250


def test_when_a_packet_could_leave_is_told_without_asking_for_it():
    p = drained()
    now = p_now(p)
    p.on_idle(now)
    before = (p.tokens, p.burst)
    # A packet, not before half of a quantum's time.
    assert p.next(now) == now + 480 * US
    assert p.next(now + 10 * MS) == now + 10 * MS
    assert (p.tokens, p.burst) == before
    assert PacerModel(5).next(5) == 5


# ---------------------------------------------------------------- changes


def test_a_higher_rate_shortens_the_wait():
    p = drained(1 * MBIT)
    now = p_now(p, 1 * MBIT)
    assert p.ask(now, MTU, 1 * MBIT, MTU) == pytest.approx(12 * MS, abs=2)
    assert p.ask(now, MTU, 100 * MBIT, MTU) < 1 * MS


def test_a_rate_that_grows_with_each_acknowledgement_is_followed():
    """Slow start: twice the rate after each 20 ms."""
    sender = Sender(10 * MBIT).open()
    start, sent, earned = sender.now, 0, 0.0
    while sender.now < start + 80 * MS:
        sender.rate = 10 * MBIT * 2 ** ((sender.now - start) / (20 * MS))
        sender.look()
        earned += sender.rate * 0.0001
        sender.now += 100 * US
    sent = sender.sent(start)
    assert sent == pytest.approx(earned, rel=0.05)


def test_a_lower_rate_takes_away_what_it_would_not_have_given():
    p = PacerModel()
    p.on_sent(OPENING)
    p.ask(0, MTU, 1000 * MBIT, MTU)
    p.on_idle(10 * S)
    assert p.ask(10 * S, MTU, 1 * MBIT, MTU) == 0
    assert p.tokens == p.quantum == MTU


def test_mtu_change_keeps_whole_packets():
    p = PacerModel()
    p.ask(0, 1200, 100 * MBIT, 1200)
    assert p.quantum == 12_000
    p.ask(0, 1452, 100 * MBIT, 1452)
    assert p.quantum == 9 * 1452


def test_windows_are_spread_over_a_part_of_the_round_trip():
    p = PacerModel()
    p.on_sent(OPENING)
    p.delay(0, MTU, 1_000_000, 50 * MS, MTU)
    assert p.quantum == 17 * MTU  # 1.25 MB per 50 ms
    p.delay(0, MTU, 1_000_000, 100 * MS, MTU)
    assert p.quantum == 8 * MTU


def test_huge_window_and_unknown_rtt_are_not_paced():
    for cwnd, srtt in ((2**32 + 1, 50 * MS), (2**64 - 1, 50 * MS), (1_000_000, 0), (1_000_000, -1)):
        p = PacerModel()
        p.on_sent(OPENING)
        for _ in range(2000):
            assert p.delay(0, MTU, cwnd, srtt, MTU) == 0
            p.on_sent(MTU)
    p = PacerModel()
    p.on_sent(OPENING)
    waits = set()
    for _ in range(2000):
        waits.add(p.delay(0, MTU, 2**32, 50 * MS, MTU))
        p.on_sent(MTU)
    assert max(waits) > 0  # the largest paced window


def test_clock_going_back_adds_nothing_and_loses_nothing():
    p = drained()
    now = p_now(p)
    wait = p.ask(now, MTU, 100 * MBIT, MTU)
    assert p.ask(now - 1 * S, MTU, 100 * MBIT, MTU) >= wait
    assert p.tokens == 0
    assert p.ask(now + 400 * US, MTU, 100 * MBIT, MTU) == pytest.approx(wait - 400 * US, abs=2)


@pytest.mark.parametrize("cwnd", [0, 1, 2**32, 2**64 - 1])
@pytest.mark.parametrize("srtt", [1, 1 * S, I63])
@pytest.mark.parametrize("mtu", [1, 1200, 65_535])
def test_extreme_arguments_do_not_overflow(cwnd, srtt, mtu):
    p = PacerModel()
    for now in (0, 1, I63):
        for need in (0, 1, 65_535):
            assert 0 <= p.delay(now, need, cwnd, srtt, mtu) <= 2**56
            assert 1 <= p.quantum <= 2**20
            p.on_sent(need)
            p.on_idle(now)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 100 * MS),
            st.integers(1, 10**10),
            st.sampled_from([0, 3000, 65_536]),
            st.sampled_from([1200, 1452, 9000]),
            st.sampled_from(["fill", "packet", "idle", "unasked"]),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_any_use_makes_progress_within_bounds(steps):
    p, now = PacerModel(), 0
    for elapsed, rate, quantum, mtu, use in steps:
        now += elapsed
        wait = p.ask(now, mtu, rate, mtu, quantum)
        assert p.burst <= max(p.quantum + rate * 32 * MS / S + mtu, OPENING)
        if wait:
            now += wait
            assert p.ask(now, mtu, rate, mtu, quantum) == 0, "what was announced holds"
        if use == "fill":
            for _ in range(10_000):
                if p.ask(now, mtu, rate, mtu, quantum):
                    break
                p.on_sent(mtu)
            else:
                raise AssertionError("no end")
        elif use == "packet":
            p.on_sent(mtu)
        elif use == "idle":
            p.on_idle(now)
        else:
            p.on_sent(20 * mtu)
