"""HyStart++ (RFC 9406), for the controllers that begin with slow start."""

from libc.stdint cimport uint64_t, int64_t

from iroh_fast.quic._controller cimport Acked, Congestion, UINT64_MAX, grow_window, slow_start
from iroh_fast.quic._time cimport MS, NEVER


cdef enum:
    # RFC 9406 §4.3
    N_RTT_SAMPLE = 8
    MIN_RTT_DIVISOR = 8
    CSS_GROWTH_DIVISOR = 4
    CSS_ROUNDS = 5

cdef int64_t MIN_RTT_THRESH = 4 * MS
cdef int64_t MAX_RTT_THRESH = 16 * MS


cdef void hystart_init(Hystart* own, int64_t now) noexcept nogil:
    own.round_start = now
    own.last_min = own.least = own.baseline = NEVER
    own.samples = own.rounds = 0


cdef inline bint delay_rose(const Hystart* own) noexcept nogil:
    cdef int64_t threshold
    if own.last_min == NEVER or own.least == NEVER:
        return False
    threshold = own.last_min / MIN_RTT_DIVISOR
    if threshold < MIN_RTT_THRESH:
        threshold = MIN_RTT_THRESH
    elif threshold > MAX_RTT_THRESH:
        threshold = MAX_RTT_THRESH
    return own.least >= own.last_min + threshold


cdef inline void measure(Hystart* own, int64_t rtt) noexcept nogil:
    own.samples += 1
    if rtt < own.least:
        own.least = rtt
    if own.samples < N_RTT_SAMPLE:
        return
    if own.baseline == NEVER:
        if delay_rose(own):
            own.baseline = own.least
            own.rounds = 0
    elif own.least < own.baseline:
        own.baseline = NEVER          # jitter, no queue: slow start goes on as it was


cdef inline void end_round(Hystart* own, Congestion* cc, int64_t now) noexcept nogil:
    own.last_min = own.least
    own.least = NEVER
    own.samples = 0
    own.round_start = now
    if own.baseline == NEVER:
        return
    # The round in which the delay rose counts as well, though a part of it had passed (§4.2).
    own.rounds += 1
    if own.rounds >= CSS_ROUNDS:
        cc.ssthresh = cc.cwnd


cdef uint64_t hystart_on_acked(Hystart* own, Congestion* cc, const Acked* acked) noexcept nogil:
    cdef uint64_t size = acked.fresh
    if cc.ssthresh != UINT64_MAX:
        # Later slow starts know where to end (§4.3).
        return 0 if acked.app_limited else slow_start(cc, size)
    # L, the limit of what one acknowledgement grows the window by, is infinite: we are paced (§4.3).
    if not acked.app_limited:
        grow_window(cc, size if own.baseline == NEVER else size // CSS_GROWTH_DIVISOR)
    if acked.measured:
        measure(own, acked.rtt.latest)
    if acked.sent_at >= own.round_start:
        end_round(own, cc, acked.now)
    return 0
