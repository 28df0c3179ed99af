"""RTT estimator, Cubic and NewReno: exact numbers from RFC 9002 §5, §7 and RFC 9438."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iroh_fast.quic._congestion import CUBIC, NEW_RENO, CongestionController, RttEstimator

MS = 1_000_000
S = 1_000_000_000
MTU = 1200


def rtt_of(ns: int) -> RttEstimator:
    rtt = RttEstimator(ns)
    rtt.sample(0, 0, ns)
    return rtt


# ---------------------------------------------------------------- RTT


def test_rtt_before_any_sample_reports_the_initial_value():
    rtt = RttEstimator(333 * MS)
    assert (rtt.latest, rtt.min, rtt.var) == (333 * MS, 333 * MS, 166_500_000)
    assert rtt.smoothed is None and rtt.first_sample_at is None
    assert rtt.get() == rtt.conservative() == 333 * MS
    assert rtt.pto_base() == 333 * MS + 4 * 166_500_000


def test_rtt_first_sample_replaces_everything_and_ignores_ack_delay():
    rtt = RttEstimator(333 * MS)
    rtt.sample(7 * S, 25 * MS, 40 * MS)
    assert (rtt.latest, rtt.smoothed, rtt.var, rtt.min) == (40 * MS, 40 * MS, 20 * MS, 40 * MS)
    assert rtt.first_sample_at == 7 * S
    rtt.sample(8 * S, 0, 50 * MS)
    assert rtt.first_sample_at == 7 * S


def test_rtt_first_sample_above_the_initial_value_becomes_the_minimum():
    rtt = RttEstimator(10 * MS)
    rtt.sample(0, 0, 80 * MS)
    assert rtt.min == 80 * MS


def test_rtt_later_sample_subtracts_ack_delay_and_uses_old_smoothed_for_variance():
    rtt = rtt_of(100 * MS)
    rtt.sample(0, 20 * MS, 140 * MS)  # adjusted 120
    assert rtt.var == (3 * 50 * MS + 20 * MS) // 4 == 42_500_000
    assert rtt.smoothed == (7 * 100 * MS + 120 * MS) // 8 == 102_500_000
    assert (rtt.latest, rtt.min) == (140 * MS, 100 * MS)
    assert rtt.pto_base() == 102_500_000 + 170 * MS


def test_rtt_ack_delay_is_ignored_when_it_would_undercut_the_minimum():
    rtt = rtt_of(100 * MS)
    rtt.sample(0, 25 * MS, 124 * MS)  # 124 - 25 < 100
    assert rtt.smoothed == (700 * MS + 124 * MS) // 8
    rtt = rtt_of(100 * MS)
    rtt.sample(0, 24 * MS, 124 * MS)  # exactly the minimum
    assert rtt.smoothed == 100 * MS


def test_rtt_lower_sample_moves_the_minimum_without_ack_delay():
    rtt = rtt_of(100 * MS)
    rtt.sample(0, 10 * MS, 60 * MS)
    assert rtt.min == 60 * MS
    assert rtt.smoothed == (700 * MS + 60 * MS) // 8 == 95 * MS
    assert rtt.var == (150 * MS + 40 * MS) // 4


def test_rtt_conservative_is_the_larger_of_smoothed_and_latest():
    rtt = rtt_of(100 * MS)
    rtt.sample(0, 0, 60 * MS)
    assert rtt.conservative() == 95 * MS
    rtt.sample(0, 0, 200 * MS)
    assert rtt.conservative() == 200 * MS


def test_rtt_pto_base_has_a_floor_of_one_millisecond_of_variance():
    rtt = rtt_of(100_000)
    for _ in range(64):
        rtt.sample(0, 0, 100_000)
    assert rtt.get() == 100_000
    assert rtt.pto_base() == 1_100_000


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1)), max_size=30),
)
def test_rtt_any_samples_stay_within_range(initial, samples):
    rtt = RttEstimator(initial)
    seen = []
    for delay, value in samples:
        rtt.sample(0, delay, value)
        seen.append(max(0, min(value, 2**56)))
        assert rtt.min == min(seen)
        assert rtt.min <= rtt.smoothed <= max(seen)
        assert 0 <= rtt.var <= 2**56
    assert 0 <= rtt.get() <= rtt.conservative() and rtt.get() < rtt.pto_base() < 2**60


# ---------------------------------------------------------------- both controllers


@pytest.mark.parametrize("kind", [CUBIC, NEW_RENO])
@pytest.mark.parametrize(
    ("mtu", "window"),
    [(1200, 12_000), (1452, 14_520), (1472, 14_720), (1500, 14_720), (9000, 18_000)],
)
def test_initial_window_is_clamped_by_mtu(kind, mtu, window):
    c = CongestionController(kind, mtu)
    assert c.cwnd == window and c.ssthresh is None


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="7"):
        CongestionController(7)


@pytest.mark.parametrize("kind", [CUBIC, NEW_RENO])
def test_slow_start_grows_by_acked_bytes(kind):
    c, rtt = CongestionController(kind), rtt_of(50 * MS)
    c.on_ack(60 * MS, 10 * MS, 1200, False, rtt)
    c.on_ack(60 * MS, 11 * MS, 37, False, rtt)
    c.on_ack(60 * MS, 12 * MS, 9600, False, rtt)
    assert c.cwnd == 12_000 + 1200 + 37 + 9600


@pytest.mark.parametrize("kind", [CUBIC, NEW_RENO])
def test_app_limited_acks_do_not_grow_the_window(kind):
    c, rtt = CongestionController(kind), rtt_of(50 * MS)
    c.on_ack(60 * MS, 10 * MS, 1200, True, rtt)
    assert c.cwnd == 12_000
    c.on_congestion(70 * MS, 65 * MS)
    before = c.cwnd
    c.on_ack(200 * MS, 80 * MS, 1_000_000, True, rtt)
    assert c.cwnd == before and c.credit == 0 and c.bytes_acked == 0


@pytest.mark.parametrize(("kind", "window"), [(CUBIC, 8400), (NEW_RENO, 6000)])
def test_one_epoch_reduces_once_and_ignores_acks_of_older_packets(kind, window):
    c, rtt = CongestionController(kind), rtt_of(50 * MS)
    c.on_congestion(100 * MS, 50 * MS)
    assert c.cwnd == c.ssthresh == window
    assert c.recovery_start == 100 * MS
    c.on_congestion(120 * MS, 100 * MS)  # sent at the very start of the epoch: same epoch
    c.on_congestion(120 * MS, 90 * MS, persistent=True)
    assert (c.cwnd, c.events) == (window, 1)
    c.on_ack(130 * MS, 100 * MS, 50_000, False, rtt)
    assert c.cwnd == window and c.bytes_acked == 0 and c.credit == 0
    c.on_congestion(140 * MS, 101 * MS)
    assert (c.cwnd, c.events) == (window * 7 // 10 if kind == CUBIC else window // 2, 2)


@pytest.mark.parametrize("kind", [CUBIC, NEW_RENO])
def test_window_never_falls_below_two_packets(kind):
    c = CongestionController(kind)
    for i in range(1, 30):
        c.on_congestion(2 * i * MS, (2 * i - 1) * MS)
    assert c.cwnd == c.ssthresh == 2400
    c.on_congestion(100 * MS, 99 * MS, persistent=True)
    assert c.cwnd == c.ssthresh == 2400


@pytest.mark.parametrize("kind", [CUBIC, NEW_RENO])
def test_mtu_update_lifts_the_window_to_two_packets_and_no_more(kind):
    c = CongestionController(kind)
    c.on_mtu(1452)
    assert (c.cwnd, c.mtu) == (12_000, 1452)
    c.on_congestion(2 * MS, 1 * MS, persistent=True)
    assert c.cwnd == 2904
    c.on_mtu(9000)
    assert c.cwnd == 18_000
    c.on_mtu(1200)
    assert c.cwnd == 18_000


@pytest.mark.parametrize("kind", [CUBIC, NEW_RENO])
def test_slow_start_stops_at_the_packet_that_crosses_ssthresh(kind):
    c, rtt = CongestionController(kind), rtt_of(50 * MS)
    c.on_congestion(10 * MS, 5 * MS, persistent=True)
    threshold = 5880 if kind == CUBIC else 6000  # 0.7 * 8400; half of 12 000
    assert (c.cwnd, c.ssthresh) == (2400, threshold)
    c.on_ack(100 * MS, 90 * MS, 6 * MTU, False, rtt)
    assert c.cwnd == 2400 + 3 * MTU
    if kind == NEW_RENO:
        assert c.bytes_acked == 3 * MTU


# ---------------------------------------------------------------- NewReno


def test_new_reno_ignores_packets_sent_at_or_before_creation():
    c, rtt = CongestionController(NEW_RENO, now=50), rtt_of(50 * MS)
    c.on_ack(100, 50, 1200, False, rtt)
    c.on_congestion(100, 50)
    assert (c.cwnd, c.events) == (12_000, 0)
    c.on_ack(100, 51, 1200, False, rtt)
    assert c.cwnd == 13_200


def test_new_reno_avoidance_adds_one_packet_per_window():
    c, rtt = CongestionController(NEW_RENO), rtt_of(50 * MS)
    c.on_congestion(10, 5)
    assert c.cwnd == 6000
    for _ in range(4):
        c.on_ack(100, 50, 1200, False, rtt)
    assert (c.cwnd, c.bytes_acked) == (6000, 4800)
    c.on_ack(100, 50, 1200, False, rtt)
    assert (c.cwnd, c.bytes_acked) == (7200, 0)
    c.on_ack(100, 50, 7200 + 8400 + 100, False, rtt)  # two windows in one ACK
    assert (c.cwnd, c.bytes_acked) == (9600, 100)


def test_new_reno_persistent_congestion_leaves_two_packets_and_ssthresh_half():
    c = CongestionController(NEW_RENO)
    c.on_congestion(10, 5, persistent=True)
    assert (c.cwnd, c.ssthresh, c.recovery_start) == (2400, 6000, None)


def test_new_reno_spurious_loss_takes_the_reduction_back():
    c, rtt = CongestionController(NEW_RENO), rtt_of(50 * MS)
    c.on_congestion(10, 5)
    c.on_ack(100, 50, 2400, False, rtt)
    before = (c.cwnd, c.ssthresh, c.bytes_acked, c.recovery_start)
    c.on_congestion(200, 150)
    assert c.cwnd == 3000
    c.on_spurious()
    assert (c.cwnd, c.ssthresh, c.bytes_acked, c.recovery_start) == before
    c.on_congestion(300, 250, ecn=True)
    c.on_spurious()
    assert (c.cwnd, c.events, c.spurious_events) == (3000, 3, 2)


def test_new_reno_reduces_for_ecn_like_for_loss():
    c = CongestionController(NEW_RENO)
    c.on_congestion(10, 5, ecn=True)
    assert c.cwnd == c.ssthresh == 6000


# ---------------------------------------------------------------- Cubic


ALPHA = 3 * 0.3 / 1.7  # RFC 9438 §4.3


def curve(w_max: float, k: float, t: float, mss: int = MTU) -> float:
    """W_cubic(t), bytes (RFC 9438 §4.2)."""
    return (0.4 * (t - k) ** 3 + w_max / mss) * mss


def in_avoidance(cwnd: int, at: int = 1 * S) -> CongestionController:
    """A controller that lost a packet at `at` with a window of `cwnd`."""
    c = CongestionController(CUBIC)
    c.on_ack(at, 1, cwnd - c.cwnd, False, rtt_of(100 * MS))
    assert c.cwnd == cwnd
    c.on_congestion(at, at - 1)
    return c


def test_cubic_loss_sets_the_curve():
    c = in_avoidance(120_000)
    assert c.cwnd == c.ssthresh == 84_000
    assert c.w_max == 120_000
    assert c.k == pytest.approx((100 * 0.75) ** (1 / 3), rel=1e-12)
    assert c.credit == 0


def test_cubic_fast_convergence_lowers_the_peak_below_the_last_one():
    c = in_avoidance(120_000)
    c.on_congestion(2 * S, 2 * S - 1)
    assert c.w_max == pytest.approx(0.85 * 84_000)
    assert c.cwnd == 58_800
    assert c.k == pytest.approx(((0.85 * 70 - 49) / 0.4) ** (1 / 3), rel=1e-12)
    # The curve begins where the window is.
    assert curve(c.w_max, c.k, 0) == pytest.approx(58_800)


def test_cubic_concave_growth_follows_the_formula():
    c, rtt = in_avoidance(1_200_000), rtt_of(100 * MS)
    c.on_ack(3 * S, 1 * S + 1, MTU, False, rtt)
    target = curve(1_200_000, 750 ** (1 / 3), 2.1)
    assert c.cwnd == 840_000
    assert c.credit == pytest.approx((target - 840_000) / 840_000 * MTU, rel=1e-6)


def test_cubic_reno_friendly_region_follows_the_estimate():
    """§4.3: the estimate grows by alpha per window, and by one packet once it is above the last peak."""
    c, rtt = in_avoidance(24_000), rtt_of(1 * MS)
    now, estimate = 1 * S, 16_800.0
    for _ in range(60):
        now += 1 * MS
        for _ in range(c.cwnd // MTU):
            estimate += (ALPHA if estimate < 24_000 else 1) * MTU / c.cwnd * MTU
            c.on_ack(now, now - 1 * MS + 1, MTU, False, rtt)
            assert c.w_est == pytest.approx(estimate)
            assert c.cwnd + c.credit == pytest.approx(estimate)
    assert c.cwnd > 48_000


def test_cubic_credit_buys_whole_packets_only():
    c, rtt = in_avoidance(24_000), rtt_of(1 * MS)
    acks = 0
    while c.cwnd == 16_800:
        assert c.credit == pytest.approx(acks * ALPHA * MTU / 14)
        c.on_ack(1 * S + 1 * MS, 1 * S + 1, MTU, False, rtt)
        acks += 1
    assert acks == 27  # 14 packets per window, alpha of a packet per window
    assert c.cwnd == 18_000 and c.credit == pytest.approx(27 * ALPHA * MTU / 14 - MTU)


def test_cubic_waits_while_the_window_is_above_the_estimate():
    """After a spurious loss that was reported late the window may be anywhere."""
    c, rtt = in_avoidance(24_000), rtt_of(10 * MS)
    c.on_mtu(20_000)  # two of the new packets: far above the estimate
    assert c.cwnd == 40_000
    c.on_ack(1 * S + 20 * MS, 1 * S + 10 * MS, 2 * 20_000, False, rtt)
    assert c.cwnd == 40_000 and c.credit == 0


def test_cubic_growth_is_at_most_half_a_packet_per_acked_packet():
    """§4.2: the target is at most one and a half windows, however far the curve has risen."""
    c, rtt = in_avoidance(24_000), rtt_of(3600 * S)
    late = 3600 * S
    for n in range(1, 11):
        c.on_ack(late, 1 * S + 1, MTU, False, rtt)
        assert c.cwnd == 16_800 + n // 2 * MTU
    assert c.credit < MTU
    c.on_congestion(late + 1, late)
    before = c.cwnd
    c.on_ack(late + 2, late + 2, 4 * MTU, False, rtt)
    assert c.cwnd <= before + MTU


@pytest.mark.parametrize("pause", [1 * S, 60 * S, 86_400 * S])
@pytest.mark.parametrize("limited", [False, True])
def test_cubic_does_not_grow_by_time_that_the_application_left_unused(pause, limited):
    """RFC 9438 §5.8: neither silence nor acks of an application that sends less than the window."""
    plain, paused, rtt = in_avoidance(1_200_000), in_avoidance(1_200_000), rtt_of(100 * MS)
    behind = 0
    for step in range(1, 60):
        now = 1 * S + step * 100 * MS
        if step == 20:
            behind = pause
            if limited:
                for part in range(1, 11):
                    at = now + pause * part // 10 - 100 * MS
                    paused.on_ack(at, at - 100 * MS, MTU, True, rtt)
        plain.on_ack(now, now - 99 * MS, plain.cwnd, False, rtt)
        paused.on_ack(now + behind, now + behind - 99 * MS, paused.cwnd, False, rtt)
    assert paused.cwnd == pytest.approx(plain.cwnd, rel=0.02)


def test_cubic_small_packets_count_in_proportion():
    whole, parts, rtt = in_avoidance(1_200_000), in_avoidance(1_200_000), rtt_of(100 * MS)
    whole.on_ack(3 * S, 2 * S, MTU, False, rtt)
    for _ in range(12):
        parts.on_ack(3 * S, 2 * S, 100, False, rtt)
    assert parts.credit == pytest.approx(whole.credit)


@pytest.mark.parametrize("at", [1 * S + 50 * MS, 2 * S, 12 * S, 40 * S])
@pytest.mark.parametrize("count", [1, 2, 17, 256])
def test_cubic_summed_ack_equals_single_acks(at, count):
    single, summed, rtt = in_avoidance(600_000), in_avoidance(600_000), rtt_of(30 * MS)
    for _ in range(count):
        single.on_ack(at, at - 1, MTU, False, rtt)
    summed.on_ack(at, at - 1, count * MTU, False, rtt)
    assert (single.cwnd, single.credit) == (summed.cwnd, summed.credit)


@pytest.mark.parametrize("kind", [CUBIC, NEW_RENO])
@pytest.mark.parametrize("count", [1, 3, 4, 20])
def test_summed_ack_across_ssthresh_equals_single_acks(kind, count):
    rtt = rtt_of(30 * MS)
    single, summed = CongestionController(kind), CongestionController(kind)
    for c in (single, summed):
        c.on_congestion(10, 5, persistent=True)
    for _ in range(count):
        single.on_ack(1 * S, 1 * S - 1, MTU, False, rtt)
    summed.on_ack(1 * S, 1 * S - 1, count * MTU, False, rtt)
    assert (single.cwnd, single.credit, single.bytes_acked) == (
        summed.cwnd,
        summed.credit,
        summed.bytes_acked,
    )


def round_trips(c: CongestionController, now: int, count: int, rtt_ns: int = 100 * MS) -> int:
    """Fill the window for so many round trips; the time after them."""
    rtt = rtt_of(rtt_ns)
    for _ in range(count):
        now += rtt_ns
        c.on_ack(now, now - rtt_ns + 1, c.cwnd, False, rtt)
    return now


def test_cubic_reaches_the_old_peak_at_k():
    c = in_avoidance(1_200_000)
    round_trips(c, 1 * S, int(c.k * 10) + 1)
    assert c.cwnd == pytest.approx(1_200_000, rel=0.01)


def test_cubic_convex_growth_continues_beyond_the_peak():
    c = in_avoidance(1_200_000)
    now = round_trips(c, 1 * S, int(c.k * 10) + 100)
    assert 1_400_000 < c.cwnd <= curve(1_200_000, c.k, (now - 1 * S) / S + 0.1)


def test_cubic_leaving_slow_start_without_loss_starts_a_flat_curve():
    c, rtt = CongestionController(CUBIC), rtt_of(100 * MS)
    c.on_congestion(10 * MS, 5 * MS, persistent=True)
    assert c.recovery_start is None and c.epoch is None
    c.on_ack(1 * S, 20 * MS, 3 * MTU, False, rtt)
    assert c.cwnd == 6000 >= c.ssthresh
    assert c.epoch is None
    c.on_ack(2 * S, 1 * S, MTU, False, rtt)
    assert c.epoch == 2 * S and c.w_max == 6000 and c.k == 0
    assert c.credit == pytest.approx(MTU / 5)  # Reno-friendly: a packet per window of five


def test_cubic_loss_keeps_seven_tenths_of_the_credit():
    c, rtt = in_avoidance(1_200_000), rtt_of(100 * MS)
    c.on_ack(3 * S, 2 * S, MTU, False, rtt)
    credit = c.credit
    assert credit > 0
    c.on_congestion(3 * S, 2 * S)
    assert c.credit == pytest.approx(0.7 * credit)


def test_cubic_persistent_congestion_resets_to_two_packets():
    c = in_avoidance(120_000)
    c.on_congestion(2 * S, 1 * S + 1, persistent=True)
    assert c.cwnd == 2400
    assert c.w_max == 58_800
    assert c.ssthresh == 41_160
    assert c.recovery_start is None and c.credit == 0


def test_cubic_spurious_loss_restores_everything():
    c, rtt = in_avoidance(600_000), rtt_of(30 * MS)
    c.on_ack(2 * S, 2 * S - 1, 7 * MTU, False, rtt)
    before = (c.cwnd, c.ssthresh, c.w_max, c.k, c.credit, c.recovery_start)
    assert c.credit > 0
    c.on_congestion(3 * S, 3 * S - 1)
    assert c.cwnd == before[0] * 7 // 10
    c.on_spurious()
    assert (c.cwnd, c.ssthresh, c.w_max, c.k, c.credit, c.recovery_start) == before
    assert c.spurious_events == 1


def test_cubic_spurious_persistent_congestion_restores_the_window():
    c = in_avoidance(120_000)
    c.on_congestion(2 * S, 2 * S - 1, persistent=True)
    c.on_spurious()
    assert (c.cwnd, c.ssthresh, c.recovery_start) == (84_000, 84_000, 1 * S)


def test_cubic_spurious_report_is_ignored_once_the_window_has_regrown():
    c = in_avoidance(24_000)
    round_trips(c, 1 * S, 40, 10 * MS)
    grown = c.cwnd
    assert grown >= 24_000
    c.on_spurious()
    assert c.cwnd == grown and c.recovery_start == 1 * S


def test_cubic_state_is_restored_at_most_once():
    c = in_avoidance(120_000)
    c.on_spurious()
    assert c.cwnd == 120_000 and c.ssthresh is None
    c.on_congestion(2 * S, 2 * S - 1, ecn=True)
    c.on_spurious()
    assert c.cwnd == 84_000


def test_cubic_ecn_reduction_is_never_undone():
    c = in_avoidance(120_000)  # a loss, saved
    c.on_congestion(2 * S, 2 * S - 1, ecn=True)
    assert c.cwnd == 58_800
    c.on_spurious()
    assert c.cwnd == 58_800


def test_cubic_restored_window_respects_a_larger_mtu():
    c = CongestionController(CUBIC)
    c.on_congestion(10, 5)
    c.on_spurious()
    c.on_congestion(20, 15, persistent=True)
    c.on_mtu(5500)
    assert c.cwnd == 11_000
    c.on_spurious()
    assert c.cwnd == 12_000


def test_cubic_credit_keeps_its_share_of_a_packet_when_the_mtu_changes():
    c, rtt = in_avoidance(1_200_000), rtt_of(100 * MS)
    c.on_ack(3 * S, 2 * S, MTU, False, rtt)
    share = c.credit / MTU
    c.on_mtu(1452)
    assert c.credit / 1452 == pytest.approx(share)


def test_cubic_zero_rtt_and_clock_going_back_are_harmless():
    c = in_avoidance(24_000)
    c.on_ack(5, 2 * S, MTU, False, rtt_of(0))
    c.on_ack(9 * S, 8 * S, MTU, False, rtt_of(0))
    assert c.cwnd <= 16_800 + 2 * MTU and math.isfinite(c.credit)


# ---------------------------------------------------------------- invariants

BIG = st.integers(0, 2**62)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("ack"), BIG, BIG, st.one_of(st.integers(0, 100_000), st.integers(0, 2**64 - 1))
        ),
        st.tuples(st.just("loss"), BIG, BIG, st.booleans(), st.booleans()),
        st.tuples(st.just("spurious")),
        st.tuples(st.just("mtu"), st.one_of(st.integers(1200, 1500), st.integers(0, 2**64 - 1))),
    ),
    max_size=40,
)


@pytest.mark.parametrize("kind", [CUBIC, NEW_RENO])
@settings(deadline=None)
@given(mtu=st.integers(1200, 9000), rtt=st.integers(0, 2**62), steps=STEPS)
def test_any_history_keeps_the_window_sane(kind, mtu, rtt, steps):
    c, r = CongestionController(kind, mtu), rtt_of(rtt)
    for name, *args in steps:
        before = c.cwnd
        if name == "ack":
            c.on_ack(args[0], args[1], args[2], False, r)
            assert before <= c.cwnd <= before + args[2] + c.mtu
        elif name == "loss":
            c.on_congestion(*args)
            assert c.cwnd <= before
        elif name == "spurious":
            c.on_spurious()
            assert c.cwnd >= before
        else:
            c.on_mtu(*args)
        assert 2 * c.mtu <= c.cwnd <= 2**60
        assert math.isfinite(c.credit) and 0 <= c.credit < c.mtu
        assert math.isfinite(c.k) and c.w_max >= 0
        assert c.bytes_acked <= c.cwnd
