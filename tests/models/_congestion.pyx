"""What is known of one path as Python objects, so that tests and benchmarks drive the very code that runs per packet.

Built as ``iroh_fast.quic._congestion`` in development builds alone. They do no locking of their own.
"""

cimport cython
from libc.stdint cimport int64_t, uint16_t, uint64_t

from iroh_fast.quic._controller cimport Acked, Congestion, Lost, UINT64_MAX, in_recovery
from iroh_fast.quic._controllers cimport (
    CC_CUBIC, CC_NEW_RENO, cc_init, cc_on_acked, cc_on_ecn, cc_on_lost, cc_on_mtu, cc_on_spurious, cc_pacing_rate)
from iroh_fast.quic._cubic cimport Cubic
from iroh_fast.quic._hystart cimport Hystart
from iroh_fast.quic._mtud cimport (
    MTUD_COMPLETE, MTUD_OFF, MTUD_SEARCHING, Mtud, mtud_asks, mtud_black_hole, mtud_init, mtud_on_acked, mtud_on_lost,
    mtud_on_probe_lost, mtud_on_probe_sent, mtud_peer_limit, mtud_poll, mtud_restart, mtud_route_limit, mtud_too_big)
from iroh_fast.quic._newreno cimport NewReno
from iroh_fast.quic._pacer cimport Pacer, pacer_delay, pacer_init, pacer_next, pacer_on_idle, pacer_on_sent
from iroh_fast.quic._rtt cimport Rtt, rtt_conservative, rtt_get, rtt_init, rtt_pto_base, rtt_sample
from iroh_fast.quic._time cimport NEVER


CUBIC = CC_CUBIC
NEW_RENO = CC_NEW_RENO
OFF = MTUD_OFF
SEARCHING = MTUD_SEARCHING
COMPLETE = MTUD_COMPLETE


@cython.final
cdef class RttEstimator:
    """One `Rtt`. Times in ns."""

    cdef Rtt r

    def __init__(self, int64_t initial=333_000_000):
        rtt_init(&self.r, initial)

    def sample(self, int64_t now, int64_t ack_delay, int64_t rtt):
        rtt_sample(&self.r, now, ack_delay, rtt)

    def get(self):
        return rtt_get(&self.r)

    def conservative(self):
        return rtt_conservative(&self.r)

    def pto_base(self):
        return rtt_pto_base(&self.r)

    @property
    def latest(self):
        return self.r.latest

    @property
    def smoothed(self):
        """None before the first sample."""
        return self.r.smoothed if self.r.has_sample else None

    @property
    def var(self):
        return self.r.var

    @property
    def min(self):
        return self.r.min

    @property
    def first_sample_at(self):
        """None before the first sample."""
        return self.r.first_sample_at if self.r.has_sample else None


@cython.final
cdef class CongestionController:
    """One `Congestion`. `kind` is CUBIC or NEW_RENO (ValueError otherwise)."""

    cdef Congestion c
    cdef bint is_cubic

    def __init__(self, int kind=CC_CUBIC, uint64_t mtu=1200, int64_t now=0):
        if kind != CC_CUBIC and kind != CC_NEW_RENO:
            raise ValueError(f"unknown congestion controller {kind}")
        cc_init(&self.c, kind, mtu, now)
        self.is_cubic = kind == CC_CUBIC

    def on_ack(self, int64_t now, int64_t sent_at, uint64_t size, bint app_limited, RttEstimator rtt not None,
               bint measured=False):
        """`measured`: rtt.latest is of this acknowledgement."""
        cdef Acked acked
        acked.now = now
        acked.sent_at = sent_at
        acked.size = size
        acked.fresh = 0 if in_recovery(&self.c, sent_at) else size
        acked.in_flight = 0
        acked.app_limited = app_limited
        acked.measured = measured
        acked.rtt = &rtt.r
        cc_on_acked(&self.c, &acked)

    def on_congestion(self, int64_t now, int64_t sent_at, bint persistent=False, bint ecn=False):
        """Whether it was a new event."""
        cdef Lost lost
        if ecn:
            return cc_on_ecn(&self.c, now, sent_at, 1, 1)
        lost.now = now
        lost.sent_at = sent_at
        lost.size = self.c.mtu
        lost.in_flight = 0
        lost.persistent = persistent
        return cc_on_lost(&self.c, &lost)

    def on_spurious(self):
        cc_on_spurious(&self.c)

    def on_mtu(self, uint64_t mtu):
        cc_on_mtu(&self.c, mtu)

    @property
    def cwnd(self):
        return self.c.cwnd

    @property
    def ssthresh(self):
        """None while there is no limit yet."""
        return None if self.c.ssthresh == UINT64_MAX else self.c.ssthresh

    @property
    def mtu(self):
        return self.c.mtu

    @property
    def recovery_start(self):
        """None outside any epoch."""
        return None if self.c.recovery_start < 0 else self.c.recovery_start

    @property
    def events(self):
        return self.c.events

    @property
    def spurious_events(self):
        return self.c.spurious_events

    @property
    def w_max(self):
        return (<Cubic*>self.c.state).curve.w_max if self.is_cubic else 0.0

    @property
    def k(self):
        return (<Cubic*>self.c.state).curve.k if self.is_cubic else 0.0

    @property
    def credit(self):
        return (<Cubic*>self.c.state).curve.credit if self.is_cubic else 0.0

    @property
    def bytes_acked(self):
        return 0 if self.is_cubic else (<NewReno*>self.c.state).bytes_acked

    cdef const Hystart* hystart(self) noexcept:
        return &(<Cubic*>self.c.state).hystart if self.is_cubic else &(<NewReno*>self.c.state).hystart

    @property
    def css_baseline(self):
        """Least round trip of the round in which the delay rose, None outside conservative slow start."""
        return self.hystart().baseline if self.hystart().baseline != NEVER else None

    @property
    def css_rounds(self):
        return self.hystart().rounds

    @property
    def w_est(self):
        """What Reno would have (Cubic)."""
        return (<Cubic*>self.c.state).curve.w_est if self.is_cubic else 0.0

    @property
    def epoch(self):
        """When Cubic's curve began, None before it did."""
        return (<Cubic*>self.c.state).curve.epoch if self.is_cubic and (<Cubic*>self.c.state).curve.epoch >= 0 else None


@cython.final
cdef class PacerModel:
    """One `Pacer`."""

    cdef Pacer p
    cdef Congestion cc
    cdef Rtt rtt

    def __init__(self, int64_t now=0):
        pacer_init(&self.p, now)
        cc_init(&self.cc, CC_CUBIC, 1200, 0)
        self.cc.ssthresh = 0          # past slow start
        rtt_init(&self.rtt, 0)

    def delay(self, int64_t now, uint64_t need, uint64_t cwnd, int64_t srtt, uint64_t mtu):
        """Paced as a controller with this window does it."""
        self.cc.cwnd = cwnd if cwnd else 1
        self.rtt.latest = srtt
        return pacer_delay(&self.p, now, need, cc_pacing_rate(&self.cc, &self.rtt), mtu, 0)

    def ask(self, int64_t now, uint64_t need, double rate, uint64_t mtu, uint64_t quantum=0):
        """The same at a rate in bytes per second."""
        return pacer_delay(&self.p, now, need, rate * 1e-9, mtu, quantum)

    def next(self, int64_t now):
        return pacer_next(&self.p, now)

    def on_idle(self, int64_t now):
        pacer_on_idle(&self.p, now)

    def on_sent(self, uint64_t size):
        pacer_on_sent(&self.p, size)

    @property
    def quantum(self):
        return self.p.quantum

    @property
    def burst(self):
        return self.p.burst

    @property
    def tokens(self):
        return self.p.tokens

    @property
    def sent(self):
        return self.p.sent


@cython.final
cdef class MtuDiscovery:
    """One `Mtud`. `state` is OFF, SEARCHING or COMPLETE."""

    cdef Mtud m

    def __init__(self, uint16_t initial=1200, uint16_t min_mtu=1200, uint16_t upper_bound=1452,
                 int64_t interval=600_000_000_000, int64_t cooldown=60_000_000_000,
                 uint16_t min_change=20, bint enabled=True):
        mtud_init(&self.m, initial, min_mtu, upper_bound, interval, cooldown, min_change, enabled)

    def set_peer_limit(self, uint16_t max_udp_payload):
        mtud_peer_limit(&self.m, max_udp_payload)

    def asks(self, int64_t now):
        return mtud_asks(&self.m, now)

    def set_route_limit(self, int64_t now, int largest):
        mtud_route_limit(&self.m, now, largest)

    def poll(self, int64_t now, uint64_t room=65535):
        return mtud_poll(&self.m, now, room)

    def too_big(self, int64_t now, uint16_t size, int largest):
        """-1 nothing helps, 0 an answer, 1 the MTU fell."""
        return mtud_too_big(&self.m, now, size, largest)

    def on_probe_sent(self, uint64_t pn, uint16_t size):
        mtud_on_probe_sent(&self.m, pn, size)

    def on_acked(self, int64_t now, uint64_t pn, uint16_t size):
        return mtud_on_acked(&self.m, now, pn, size)

    def on_probe_lost(self, int64_t now):
        mtud_on_probe_lost(&self.m, now)

    def on_lost(self, uint64_t pn, uint16_t size):
        mtud_on_lost(&self.m, pn, size)

    def black_hole(self, int64_t now):
        return mtud_black_hole(&self.m, now)

    def restart(self, int64_t now):
        mtud_restart(&self.m, now)

    @property
    def state(self):
        return self.m.state

    @property
    def current(self):
        return self.m.current

    @property
    def in_flight(self):
        return self.m.in_flight

    @property
    def next_search(self):
        """None unless COMPLETE."""
        return self.m.next_search if self.m.state == MTUD_COMPLETE else None

    @property
    def probes_sent(self):
        return self.m.probes_sent

    @property
    def probes_lost(self):
        return self.m.probes_lost

    @property
    def black_holes(self):
        return self.m.black_holes

    @property
    def suspicious_bursts(self):
        return self.m.n_bursts
