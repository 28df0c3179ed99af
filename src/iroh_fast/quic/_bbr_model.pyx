"""What BBR knows of a path (draft-ietf-ccwg-bbr §5.5)."""

cimport cython
from libc.string cimport memset

cdef enum:
    MS = 1000000
    PROBE_RTT_INTERVAL_MS = 5000
    MIN_RTT_WINDOW_MS = 10000
    # DIFFERS: what leaves and comes within a turn of the hosts' loops is no property of the path: a window for a shorter
    # round trip would have one side wait for the other.
    LEAST_TURN = 1000000


cdef uint64_t quantized(const Congestion* cc, const Bbr* own, double inflight) noexcept nogil:
    """At least what batches need and a few packets (§5.6.4.2)."""
    cdef uint64_t least = MIN_PIPE * cc.mtu, size
    if cc.quantum > least:
        least = cc.quantum
    size = <uint64_t>inflight if inflight < 1e18 else <uint64_t>1e18
    if size < least:
        size = least
    if own.mode == PROBE_UP:
        size += 2 * cc.mtu
    return size


cdef uint64_t inflight_for(const Congestion* cc, const Bbr* own, double gain) noexcept nogil:
    """So many times what fills the path."""
    cdef double rtt = <double>own.min_rtt
    if own.min_rtt == 0 or own.bw <= 0:
        return cc.cwnd
    if rtt < LEAST_TURN:
        rtt = LEAST_TURN
    return quantized(cc, own, gain * own.bw * rtt)


cdef uint64_t inflight_with_headroom(const Congestion* cc, const Bbr* own) noexcept nogil:
    """Room for others below the long-term bound.

    DIFFERS: not below what the path holds without a queue: where the queue is short, that would leave the path idle.
    """
    cdef uint64_t room, size, full
    if own.inflight_longterm == UINT64_MAX:
        return UINT64_MAX
    room = <uint64_t>(HEADROOM * <double>own.inflight_longterm)
    if room < cc.mtu:
        room = cc.mtu
    size = own.inflight_longterm - room if own.inflight_longterm > room else 0
    full = inflight_for(cc, own, 1) + cc.quantum
    if full > own.inflight_longterm:
        full = own.inflight_longterm
    if size < full:
        size = full
    return size if size > MIN_PIPE * cc.mtu else MIN_PIPE * cc.mtu


cdef void model_init(Congestion* cc, Bbr* own, int64_t now) noexcept nogil:
    memset(own, 0, sizeof(Bbr))
    own.min_rtt_at = own.recent_rtt_at = own.lump_at = now
    own.inflight_longterm = UINT64_MAX
    own.up_step = UINT64_MAX
    own.undo_mode = NO_MODE
    reset_shortterm(own)


cdef void model_round(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil:
    """§5.5.1. Least round trips of this round and the one before go with it."""
    own.round_start = acked.sample.before >= own.round_end
    if own.round_start:
        start_round(cc, own)
        own.rounds += 1
        own.rounds_since_up += 1
        own.cwnd_limited = cc.window_full
        cc.window_full = False
        own.last_round_rtt = own.round_rtt
        own.round_rtt = 0
    if acked.sample.rtt > 0 and (own.round_rtt == 0 or acked.sample.rtt < own.round_rtt):
        own.round_rtt = acked.sample.rtt


cdef void model_latest(Congestion* cc, Bbr* own, const RateSample* sample) noexcept nogil:
    """What was delivered lately (§5.5.10.3)."""
    own.loss_round_start = False
    if sample.rate > own.bw_latest:
        own.bw_latest = sample.rate
    if sample.delivered > own.inflight_latest:
        own.inflight_latest = sample.delivered
    if sample.before >= own.loss_round_end:
        own.loss_round_end = cc.delivery.delivered
        own.loss_round_start = True


cdef void model_bandwidth(Bbr* own, const RateSample* sample) noexcept nogil:
    """§5.5.5. A sample that the application kept low counts if it is above what was known."""
    if sample.rate > 0 and (sample.rate >= own.max_bw or not sample.app_limited):
        if sample.rate > own.bw_slots[1]:
            own.bw_slots[1] = sample.rate
    own.max_bw = own.bw_slots[0] if own.bw_slots[0] > own.bw_slots[1] else own.bw_slots[1]


cdef void model_lumps(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil:
    """How much more than expected is acknowledged at a time (§5.5.9)."""
    cdef double expected = own.bw * <double>(acked.now - own.lump_at)
    cdef double extra
    cdef uint64_t size
    if <double>own.lump <= expected:
        own.lump = 0
        own.lump_at = acked.now
        expected = 0
    own.lump += acked.size
    extra = <double>own.lump - expected
    size = <uint64_t>extra if extra > 0 else 0
    if size > cc.cwnd:
        size = cc.cwnd
    if own.rounds >= own.lumps_round + (AGGREGATION_ROUNDS if own.full_bw_reached else 1):
        own.lumps_round = own.rounds
        own.lumps[0] = own.lumps[1]
        own.lumps[1] = 0
    if size > own.lumps[1]:
        own.lumps[1] = size


cdef void model_rtt(Bbr* own, int64_t rtt, int64_t now) noexcept nogil:
    """§5.3.4.3: the least of 10 s, and of the 5 s after which it is probed for."""
    own.probe_rtt_due = now > own.recent_rtt_at + PROBE_RTT_INTERVAL_MS * <int64_t>MS
    if rtt > 0 and (rtt < own.recent_rtt or own.recent_rtt == 0 or own.probe_rtt_due):
        own.recent_rtt = rtt
        own.recent_rtt_at = now
    elif 0 < rtt <= own.recent_rtt + (own.recent_rtt // 32 if own.recent_rtt > 32 * MS else <int64_t>MS):
        # DIFFERS: nearly the least again: nothing waits on the way, there is no need to make room to see that.
        own.recent_rtt_at = now
        if own.recent_rtt <= own.min_rtt:
            own.min_rtt_at = now
    if own.recent_rtt and (own.recent_rtt < own.min_rtt or own.min_rtt == 0
                           or now > own.min_rtt_at + MIN_RTT_WINDOW_MS * <int64_t>MS):
        own.min_rtt = own.recent_rtt
        own.min_rtt_at = own.recent_rtt_at
