"""Token-bucket pacer: capacity, refill, waits and arithmetic limits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iroh_fast.quic._congestion import PacerModel

US = 1_000
MS = 1_000_000
S = 1_000_000_000
MTU = 1500
U64 = 2**64 - 1
I63 = 2**63 - 1


def drained(cwnd: int, srtt: int, mtu: int = MTU, now: int = 0) -> PacerModel:
    p = PacerModel(now)
    assert p.delay(now, mtu, cwnd, srtt, mtu) == 0
    p.on_sent(p.capacity)
    assert p.tokens == 0
    return p


def test_bucket_starts_full_at_any_time():
    for now in (0, 5 * S, I63):
        p = PacerModel(now)
        assert p.delay(now, MTU, 1_000_000, 50 * MS, MTU) == 0
        assert p.tokens == p.capacity == 40_000


@pytest.mark.parametrize(
    ("cwnd", "srtt", "capacity"),
    [
        (12_000, 100 * MS, MTU),  # 10 ms worth is 1200 B: one packet
        (30_000, 100 * MS, 3_000),  # limited by 10 ms worth
        (150_000, 100 * MS, 15_000),  # both limits meet at ten packets
        (500_000, 100 * MS, 15_000),  # 2 ms worth is 10 000 B: ten packets
        (1_000_000, 100 * MS, 20_000),  # 2 ms worth
        (3_333_333, 70 * MS, 95_238),  # rounded down
        (19_200_000, 100 * MS, 384_000),  # 256 packets
        (100_000_000, 100 * MS, 384_000),
        (2**33, 1 * MS, 384_000),
        (12_000, 0, 384_000),  # unknown RTT
    ],
)
def test_capacity_follows_the_rate_between_its_bounds(cwnd, srtt, capacity):
    p = PacerModel()
    p.delay(0, 1, cwnd, srtt, MTU)
    assert p.capacity == capacity


def test_sending_takes_tokens_and_saturates_at_zero():
    p = PacerModel()
    p.delay(0, MTU, 1_000_000, 50 * MS, MTU)
    p.on_sent(15_000)
    assert p.tokens == 25_000
    p.on_sent(25_001)
    assert p.tokens == 0
    p.on_sent(U64)
    assert p.tokens == 0


def test_delay_is_zero_while_tokens_cover_the_need():
    p = PacerModel()
    p.delay(0, MTU, 1_000_000, 50 * MS, MTU)
    p.on_sent(38_500)
    assert p.delay(0, 1500, 1_000_000, 50 * MS, MTU) == 0
    assert p.delay(0, 1501, 1_000_000, 50 * MS, MTU) > 0


def test_delay_waits_for_a_full_bucket():
    p = drained(1_000_000, 50 * MS)
    # 40 000 B at 1.25 * 1 MB per 50 ms
    assert p.delay(0, MTU, 1_000_000, 50 * MS, MTU) == 1_600 * US
    p = PacerModel()
    p.delay(0, MTU, 1_000_000, 50 * MS, MTU)
    p.on_sent(39_000)
    assert p.delay(0, MTU, 1_000_000, 50 * MS, MTU) == 1_560 * US


def test_waiting_the_announced_time_fills_the_bucket_exactly():
    p = drained(1_000_000, 50 * MS)
    wait = p.delay(0, MTU, 1_000_000, 50 * MS, MTU)
    assert p.delay(wait, MTU, 1_000_000, 50 * MS, MTU) == 0
    assert p.tokens == p.capacity


def test_refill_runs_at_five_quarters_of_the_window_per_rtt():
    p = drained(1_000_000, 50 * MS)
    p.delay(400 * US, 1, 1_000_000, 50 * MS, MTU)
    assert p.tokens == 10_000
    p.delay(401 * US, 1, 1_000_000, 50 * MS, MTU)
    assert p.tokens == 10_025


def test_refill_stops_at_capacity_and_idle_time_is_not_saved_up():
    p = drained(1_000_000, 50 * MS)
    assert p.delay(10 * S, MTU, 1_000_000, 50 * MS, MTU) == 0
    assert p.tokens == 40_000
    assert p.delay(20 * S, MTU, 1_000_000, 50 * MS, MTU) == 0  # idle with a full bucket
    p.on_sent(40_000)
    assert p.delay(20 * S, MTU, 1_000_000, 50 * MS, MTU) == 1_600 * US


@pytest.mark.parametrize("step", [1 * US, 5 * US, 13 * US, 37 * US, 500 * US])
def test_rate_does_not_depend_on_how_often_it_is_polled(step):
    p = drained(12_000, 333 * MS)  # one byte takes 22.2 us
    end = 18_500 * US
    for now in range(step, end + 1, step):
        p.delay(now, MTU, 12_000, 333 * MS, MTU)
    assert p.tokens == pytest.approx(12_000 * 1.25 * (end // step * step) / (333 * MS), abs=1)


def test_window_change_recomputes_capacity_without_granting_tokens():
    p = drained(1_000_000, 50 * MS)
    p.delay(0, MTU, 2_000_000, 50 * MS, MTU)
    assert (p.capacity, p.tokens) == (80_000, 0)


def test_smaller_window_cuts_tokens_to_the_new_capacity():
    p = PacerModel()
    p.delay(0, MTU, 2_000_000, 50 * MS, MTU)
    assert p.tokens == 80_000
    p.delay(0, MTU, 1_000_000, 50 * MS, MTU)
    assert (p.capacity, p.tokens) == (40_000, 40_000)


def test_mtu_change_recomputes_capacity():
    p = PacerModel()
    p.delay(0, 1200, 300_000, 100 * MS, 1200)
    assert p.capacity == 12_000
    p.delay(0, 1200, 300_000, 100 * MS, 1452)
    assert (p.capacity, p.tokens) == (14_520, 12_000)


def test_rate_change_moves_the_capacity_and_the_wait():
    p = drained(1_000_000, 50 * MS)
    assert p.delay(0, MTU, 1_000_000, 100 * MS, MTU) == 1_600 * US
    assert p.capacity == 20_000


def test_huge_window_and_unknown_rtt_are_not_paced():
    for cwnd, srtt in ((2**32 + 1, 50 * MS), (U64, 50 * MS), (1_000_000, 0), (1_000_000, -1)):
        p = PacerModel()
        for _ in range(3):
            assert p.delay(0, MTU, cwnd, srtt, MTU) == 0
            assert p.tokens == p.capacity == 256 * MTU
            p.on_sent(p.tokens)
    p = drained(2**32, 50 * MS)
    assert p.delay(0, MTU, 2**32, 50 * MS, MTU) > 0  # the largest paced window


def test_need_above_capacity_is_met_by_a_full_bucket():
    p = drained(12_000, 100 * MS)
    assert p.capacity == MTU
    wait = p.delay(0, 9_000, 12_000, 100 * MS, MTU)
    assert wait == 10 * MS
    assert p.delay(wait // 2, 9_000, 12_000, 100 * MS, MTU) == 5 * MS
    assert p.delay(wait, 9_000, 12_000, 100 * MS, MTU) == 0


def test_zero_need_never_waits():
    assert drained(12_000, 100 * MS).delay(0, 0, 12_000, 100 * MS, MTU) == 0


def test_clock_going_back_adds_nothing_and_loses_nothing():
    p = drained(1_000_000, 50 * MS, now=1 * S)
    assert p.delay(0, MTU, 1_000_000, 50 * MS, MTU) == 1_600 * US
    assert p.tokens == 0
    p.delay(1 * S + 400 * US, MTU, 1_000_000, 50 * MS, MTU)
    assert p.tokens == 10_000


@pytest.mark.parametrize("cwnd", [0, 1, 2**32, U64])
@pytest.mark.parametrize("srtt", [1, 1 * S, I63])
@pytest.mark.parametrize("mtu", [0, 1, 65_535, U64])
def test_extreme_arguments_do_not_overflow(cwnd, srtt, mtu):
    p = PacerModel()
    for now in (0, 1, I63):
        for need in (0, 1, U64):
            assert 0 <= p.delay(now, need, cwnd, srtt, mtu) <= 2**56
            assert 1 <= p.capacity <= 256 * 65_535
            p.on_sent(need)


def test_long_run_sends_at_five_quarters_of_the_rate():
    p, now, sent = PacerModel(), 0, 0
    while now < 1 * S:
        wait = p.delay(now, MTU, 100_000, 20 * MS, MTU)
        if wait == 0:
            p.on_sent(MTU)
            sent += MTU
        now += wait
    assert sent == pytest.approx(1.25 * 100_000 / 0.020, rel=0.01)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 100 * MS),
            st.integers(0, 70_000),
            st.integers(2400, 2**34),
            st.integers(0, 2 * S),
            st.integers(1200, 9000),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_any_use_keeps_tokens_within_capacity_and_makes_progress(steps):
    p, now = PacerModel(), 0
    for elapsed, need, cwnd, srtt, mtu, send in steps:
        now += elapsed
        wait = p.delay(now, need, cwnd, srtt, mtu)
        assert p.tokens <= p.capacity and p.capacity >= mtu
        if wait:
            assert p.tokens < min(need, p.capacity)
            # Rounding may leave a byte or so open; the second wait always ends it.
            now += wait
            again = p.delay(now, need, cwnd, srtt, mtu)
            assert again <= max(1, wait // 2)
            now += again
            assert p.delay(now, need, cwnd, srtt, mtu) <= 1 + srtt // cwnd
        if send:
            p.on_sent(need)
