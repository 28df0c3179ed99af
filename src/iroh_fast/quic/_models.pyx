"""The core's structures as Python objects, so that tests and benchmarks drive the very code that runs per packet.

Nothing in the package uses them. They do no locking of their own.
"""

cimport cython
from libc.string cimport memset
from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t

from iroh_fast.quic._congestion cimport (
    CC_CUBIC, CC_NEW_RENO, cc_init, cc_on_acked, cc_on_ecn, cc_on_lost, cc_on_mtu, cc_on_spurious, cc_pacing_rate)
from iroh_fast.quic._controller cimport Acked, Congestion, Lost, UINT64_MAX, in_recovery
from iroh_fast.quic._cubic cimport Cubic
from iroh_fast.quic._mtud cimport *
from iroh_fast.quic._newreno cimport NewReno
from iroh_fast.quic._pacer cimport Pacer, pacer_delay, pacer_init, pacer_on_sent
from iroh_fast.quic._recovery cimport (
    PnSpace, space_ack_due, space_ack_sent, space_free, space_init, space_is_duplicate, space_mark_received,
    space_on_processed, space_trim)
from iroh_fast.quic._received cimport received_forget, received_from
from iroh_fast.quic._sent cimport (
    LostTable, REC_ACKED, REC_ELICITING, REC_USED, SentRec, SentTable, lost_add, lost_arrived, lost_event, lost_free,
    sent_at, sent_free, sent_from, sent_insert, sent_remove)
from iroh_fast.quic._rtt cimport Rtt, rtt_conservative, rtt_get, rtt_init, rtt_pto_base, rtt_sample


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

    def on_ack(self, int64_t now, int64_t sent_at, uint64_t size, bint app_limited, RttEstimator rtt not None):
        cdef Acked acked
        acked.now = now
        acked.sent_at = sent_at
        acked.size = size
        acked.fresh = 0 if in_recovery(&self.c, sent_at) else size
        acked.in_flight = 0
        acked.app_limited = app_limited
        acked.rtt = &rtt.r
        cc_on_acked(&self.c, &acked)

    def on_congestion(self, int64_t now, int64_t sent_at, bint persistent=False, bint ecn=False):
        """Whether it was a new event."""
        cdef Lost lost
        if ecn:
            return cc_on_ecn(&self.c, now, sent_at)
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
        rtt_init(&self.rtt, 0)

    def delay(self, int64_t now, uint64_t need, uint64_t cwnd, int64_t srtt, uint64_t mtu):
        """Paced as a controller with this window does it."""
        self.cc.cwnd = cwnd if cwnd else 1
        self.rtt.latest = srtt
        return pacer_delay(&self.p, now, need, cc_pacing_rate(&self.cc, &self.rtt), mtu)

    def on_sent(self, uint64_t size):
        pacer_on_sent(&self.p, size)

    @property
    def capacity(self):
        return self.p.capacity

    @property
    def tokens(self):
        return self.p.tokens


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

    def poll(self, int64_t now):
        return mtud_poll(&self.m, now)

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


@cython.final
cdef class ReceivedNumbers:
    """Received packet numbers of one space: duplicates and ACK ranges."""

    cdef PnSpace space

    def __cinit__(self):
        space_init(&self.space, 0)

    def __dealloc__(self):
        space_free(&self.space)

    def receive(self, uint64_t pn, bint eliciting=True, int64_t now=1, int64_t max_ack_delay=25, uint64_t threshold=1,
                uint64_t reorder=1):
        """Process one packet number; False when it is a duplicate, or came too late to tell."""
        cdef int64_t before = self.space.received.largest
        if space_is_duplicate(&self.space, pn):
            return False
        space_mark_received(&self.space, pn, now)
        space_on_processed(&self.space, pn, eliciting, False, now, max_ack_delay, threshold, reorder, before)
        return True

    def ack_due(self, int64_t now):
        return bool(space_ack_due(&self.space, now))

    def ack_sent(self):
        space_ack_sent(&self.space)

    def forget(self, uint64_t upto):
        received_forget(&self.space.received, upto)

    def trim(self):
        space_trim(&self.space)

    @property
    def ranges(self):
        """Half-open ranges, ascending."""
        return [(self.space.received.starts[i], self.space.received.ends[i]) for i in range(self.space.received.n_ranges)]

    @property
    def first(self):
        """Index of the first range that an acknowledgement names."""
        return received_from(&self.space.received)

    @property
    def memory(self):
        """Bytes held apart from the structure itself."""
        cdef size_t n = 0
        if self.space.received.words != self.space.received.few:
            n += 8 * self.space.received.n_words
        if self.space.received.starts != self.space.received.few_starts:
            n += 16 * <size_t>self.space.received.room
        return n


@cython.final
cdef class SentPackets:
    """Packets of one space in flight, and those that were declared lost."""

    cdef SentTable sent
    cdef LostTable lost

    def __dealloc__(self):
        sent_free(&self.sent)
        lost_free(&self.lost)

    def send(self, uint64_t pn, int64_t now):
        cdef SentRec record
        memset(&record, 0, sizeof(SentRec))
        record.pn = pn
        record.sent_at = now
        record.flags = REC_ELICITING
        if sent_insert(&self.sent, &record) < 0:
            raise MemoryError

    def acknowledge(self, uint64_t lo, uint64_t hi):
        """Take lo..hi out of flight; what of it was."""
        cdef uint64_t position = sent_from(&self.sent, lo)
        cdef list taken = []
        while position < self.sent.tail and sent_at(&self.sent, position).pn <= hi:
            if sent_at(&self.sent, position).flags & REC_USED:
                taken.append(sent_at(&self.sent, position).pn)
                sent_remove(&self.sent, position, REC_ACKED)
            position += 1
        return taken

    def lose(self, uint64_t below, int64_t keep_from=0, begins=None):
        """Declare everything below a number lost; what was. `begins`: a congestion event begins, or goes on."""
        cdef uint64_t position = self.sent.head
        cdef list taken = []
        while position < self.sent.tail and sent_at(&self.sent, position).pn < below:
            if sent_at(&self.sent, position).flags & REC_USED:
                taken.append(sent_at(&self.sent, position).pn)
                lost_add(&self.lost, sent_at(&self.sent, position).pn, sent_at(&self.sent, position).sent_at, keep_from)
                sent_remove(&self.sent, position, 0)
            position += 1
        if taken and begins is not None:
            lost_event(&self.lost, begins, taken[0], <uint32_t>len(taken), 1)
        return taken

    def arrived(self, uint64_t lo, uint64_t hi):
        """How many lost packets lo..hi are, and whether with them the last event turned out to be none."""
        cdef uint64_t newest = 0
        cdef bint undone = False
        cdef uint32_t count = lost_arrived(&self.lost, lo, hi, &newest, &undone)
        return count, bool(undone)

    @property
    def outstanding(self):
        return self.sent.outstanding

    @property
    def room(self):
        """Packets that the table holds without growing."""
        return self.sent.mask + 1 if self.sent.ring != NULL else 0

    @property
    def remembered(self):
        """Lost packets that may still arrive."""
        return self.lost.live
