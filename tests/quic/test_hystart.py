"""HyStart++ (RFC 9406) in Cubic and NewReno: each of its rules, and what they are for on a link with a deep buffer."""

from __future__ import annotations

import pytest
from emulated import SECOND, LinkConfig, Wire, settings, start

from iroh_fast.quic._congestion import CUBIC, NEW_RENO, CongestionController, RttEstimator

MS = 1_000_000
MTU = 1200

each_kind = pytest.mark.parametrize("kind", [CUBIC, NEW_RENO], ids=["cubic", "newreno"])


class Path:
    """A sender in its first slow start that is told of so many acknowledgements per round."""

    def __init__(self, kind: int):
        self.controller = CongestionController(kind, MTU, 0)
        self.rtt = RttEstimator(333 * MS)
        self.now = 1000
        self.began = 1000  # when the present round did

    def ack(self, rtt: int, size: int = MTU, *, sent_at: int | None = None, limited=False) -> int:
        """One acknowledgement that measures `rtt`; by how much the window grew."""
        before = self.controller.cwnd
        self.now += 10_000
        self.rtt.sample(self.now, 0, rtt)
        # Of a packet that left before the round began.
        at = self.began - 1 if sent_at is None else sent_at
        self.controller.on_ack(self.now, at, size, limited, self.rtt, True)
        return self.controller.cwnd - before

    def silent_ack(self, size: int = MTU) -> int:
        """One that measures nothing."""
        before = self.controller.cwnd
        self.now += 10_000
        self.controller.on_ack(self.now, self.began - 1, size, False, self.rtt)
        return self.controller.cwnd - before

    def end_round(self) -> None:
        """What left after the round began is acknowledged, with a round trip above all others."""
        self.ack(SECOND, sent_at=self.now)
        self.began = self.now

    def round(self, *rtts: int) -> None:
        """A whole round with these measurements."""
        for rtt in rtts:
            self.ack(rtt)
        self.end_round()

    @property
    def conservative(self) -> bool:
        return self.controller.css_baseline is not None

    @property
    def avoiding(self) -> bool:
        return self.controller.ssthresh is not None


@pytest.fixture(params=[CUBIC, NEW_RENO], ids=["cubic", "newreno"])
def path(request):
    p = Path(request.param)
    p.end_round()
    return p


# ---------------------------------------------------------------- when the delay rose (§4.2)


@pytest.mark.parametrize(
    ("last", "threshold"),
    [
        (1 * MS, 4 * MS),  # an eighth would be less than MIN_RTT_THRESH
        (32 * MS, 4 * MS),
        (40 * MS, 5 * MS),
        (100 * MS, 12_500_000),
        (128 * MS, 16 * MS),
        (600 * MS, 16 * MS),  # more than MAX_RTT_THRESH
    ],
)
def test_the_threshold_is_an_eighth_of_the_last_round_within_bounds(path, last, threshold):
    path.round(*[last] * 8)
    for _ in range(20):
        path.ack(last + threshold - 1)
    assert not path.conservative
    path.end_round()
    path.round(*[last] * 8)
    for _ in range(8):
        path.ack(last + threshold)
    assert path.conservative
    assert path.controller.css_baseline == last + threshold
    assert not path.avoiding


def test_fewer_than_eight_measurements_say_nothing(path):
    path.round(*[50 * MS] * 8)
    for _ in range(7):
        path.ack(90 * MS)
    assert not path.conservative
    path.silent_ack()
    assert not path.conservative
    path.ack(90 * MS)
    assert path.conservative


def test_the_least_of_a_round_counts(path):
    path.round(500 * MS, *[50 * MS] * 8, 400 * MS)
    for _ in range(20):
        path.ack(90 * MS)
        path.ack(51 * MS)
    assert not path.conservative


def test_the_round_before_the_last_is_forgotten(path):
    path.round(*[50 * MS] * 8)
    path.round(*[53 * MS] * 8)
    path.round(*[56 * MS] * 8)
    path.round(*[59 * MS] * 8)
    assert not path.conservative


def test_the_first_round_has_nothing_to_compare_with(path):
    for _ in range(50):
        path.ack(90 * MS)
    assert not path.conservative


def test_a_round_without_measurements_is_no_measure(path):
    path.round(*[50 * MS] * 8)
    # The next one begins with packets of before, and has none of its own.
    for _ in range(12):
        path.silent_ack()
    path.controller.on_ack(path.now + 1, path.now + 1, MTU, False, path.rtt)
    path.began = path.now = path.now + 1
    for _ in range(20):
        path.ack(90 * MS)
    assert not path.conservative


def test_packets_from_before_the_round_do_not_end_it(path):
    path.round(*[50 * MS] * 8)
    began = path.began
    for _ in range(100):
        path.ack(50 * MS)
    assert path.began == began
    for _ in range(8):
        path.ack(90 * MS)
    # 50 ms are still the least of this round.
    assert not path.conservative


# ---------------------------------------------------------------- conservative slow start


def conservative(kind) -> Path:
    """The delay rose from 50 to 60 ms in the middle of a round."""
    p = Path(kind)
    p.end_round()
    p.round(*[50 * MS] * 8)
    for _ in range(8):
        p.ack(60 * MS)
    assert p.conservative
    return p


@each_kind
def test_the_window_grows_by_all_that_is_acknowledged_and_then_by_a_quarter(kind):
    p = Path(kind)
    assert p.ack(50 * MS, 40_000) == 40_000  # however much at a time: what is sent is paced
    p = conservative(kind)
    assert p.ack(60 * MS, 40_000) == 10_000
    assert p.silent_ack(4 * MTU) == MTU


@each_kind
def test_an_application_that_limits_itself_grows_no_window_but_rounds_go_on(kind):
    p = Path(kind)
    p.end_round()
    for _ in range(8):
        assert p.ack(50 * MS, limited=True) == 0
    p.end_round()
    for _ in range(8):
        assert p.ack(60 * MS, limited=True) == 0
    assert p.conservative


@each_kind
def test_a_delay_below_the_baseline_resumes_slow_start(kind):
    p = conservative(kind)
    p.end_round()
    for _ in range(7):
        p.ack(59 * MS)
    assert p.conservative, "eight are asked for here as well"
    p.ack(59 * MS)
    assert not p.conservative
    assert p.ack(59 * MS, 4 * MTU) == 4 * MTU
    # And all goes on as before, with its detection.
    p.end_round()
    for _ in range(8):
        p.ack(70 * MS)
    assert p.conservative


@each_kind
def test_a_delay_that_stays_at_the_baseline_does_not(kind):
    p = conservative(kind)
    p.round(*[60 * MS] * 20)
    p.round(*[60 * MS] * 20)
    assert p.conservative


@each_kind
def test_after_five_rounds_the_window_is_what_avoidance_begins_with(kind):
    p = conservative(kind)
    p.end_round()  # the rest of the round in which the delay rose: the first
    for n in range(4):
        assert not p.avoiding, n
        assert p.controller.css_rounds == n + 1
        p.round(*[60 * MS] * 8)
    assert p.avoiding
    window = p.controller.cwnd
    assert p.controller.ssthresh == window
    # From now on about a packet per round trip.
    p.ack(60 * MS, window)
    assert window <= p.controller.cwnd <= window + MTU
    assert p.controller.events == 0


@each_kind
def test_rounds_begin_anew_when_the_delay_rises_again(kind):
    p = conservative(kind)
    for _ in range(3):
        p.round(*[60 * MS] * 8)
    p.round(*[55 * MS] * 8)
    assert not p.conservative
    for _ in range(8):
        p.ack(66 * MS)
    assert p.conservative and p.controller.css_rounds == 0


@each_kind
@pytest.mark.parametrize("ecn", [False, True])
@pytest.mark.parametrize("css", [False, True])
def test_loss_and_marks_end_either_kind(kind, ecn, css):
    p = conservative(kind) if css else Path(kind)
    p.now += 100 * MS
    before = p.controller.cwnd
    assert p.controller.on_congestion(p.now, p.now - 1, ecn=ecn)
    assert p.controller.ssthresh == p.controller.cwnd < before


@each_kind
def test_later_slow_starts_end_where_the_last_one_was(kind):
    """§4.3: only the first one looks at delays."""
    p = Path(kind)
    p.ack(50 * MS, 1_000_000)
    p.now += 100 * MS
    p.controller.on_congestion(p.now, p.now - 1, persistent=True)
    assert p.controller.cwnd < p.controller.ssthresh
    p.began = p.now
    p.end_round()
    p.round(*[50 * MS] * 8)
    for _ in range(8):
        assert p.ack(90 * MS, sent_at=p.now) == MTU
    assert not p.conservative


@each_kind
def test_a_loss_that_was_none_leads_back_into_slow_start(kind):
    p = conservative(kind)
    p.now += 100 * MS
    before = p.controller.cwnd
    p.controller.on_congestion(p.now, p.now - 1)
    p.controller.on_spurious()
    assert p.controller.cwnd == before and not p.avoiding
    p.began = p.now
    assert p.ack(60 * MS, 4 * MTU, sent_at=p.now + 20_000) == MTU


# ---------------------------------------------------------------- on links


def transfer(controller: str, link: LinkConfig, seed: int, seconds: float):
    wire = Wire(link, link, seed, server_transport=settings("cubic", stream_receive_window=1 << 26))
    try:
        flow = start(wire, controller, stream_receive_window=1 << 26)
        wire.begin()
        wire.run_for(round(seconds * SECOND), steps=10**9)
        return flow, wire.there.stats()
    finally:
        wire.close()


@pytest.mark.parametrize("controller", ["cubic", "newreno"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "link",
    [
        LinkConfig(rate=100, delay=20, queue=4000),
        LinkConfig(rate=50, delay=50, queue=5000),
        LinkConfig(rate=100, delay=20, queue=4000, jitter=2),
    ],
    ids=["20 ms", "50 ms", "jitter"],
)
def test_slow_start_ends_before_a_deep_buffer_overflows(controller, seed, link):
    """Ten times what the link holds fit into its queue. Slow start alone ends when all of that is full and packets are lost;
    five conservative rounds make three times of a window that began to fill it."""
    flow, stats = transfer(controller, link, seed, 3.0)
    assert not any(stats.dropped.values())
    info = flow.connection.path_info(0)
    assert info["stats"]["lost_packets"] == info["stats"]["congestion_events"] == 0
    assert info["cwnd"] < 10 * link.rate * 1e6 / 8 * 2 * link.delay / 1e3
    assert flow.between(1.0, 2.0) > 0.9 * link.rate


@pytest.mark.parametrize("controller", ["cubic", "newreno"])
def test_jitter_that_is_no_queue_does_not_end_slow_start(controller):
    """A window far below the link: the delay varies, and stays what it is."""
    link = LinkConfig(rate=None, delay=20, jitter=6)
    flow, _ = transfer(controller, link, 1, 0.5)
    info = flow.connection.path_info(0)
    assert info["cwnd"] > 2_000_000
