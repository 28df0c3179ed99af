"""RTT, congestion control, pacing and MTU discovery of one path. Times are ns."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t


cdef enum:
    CC_CUBIC = 0
    CC_NEW_RENO = 1


cdef struct Rtt:
    int64_t latest, smoothed, var, min
    bint has_sample
    int64_t first_sample_at       # -1 until the first sample

cdef inline int64_t rtt_get(const Rtt* r) noexcept nogil:
    return r.smoothed if r.has_sample else r.latest

cdef inline int64_t rtt_conservative(const Rtt* r) noexcept nogil:
    cdef int64_t g = rtt_get(r)
    return g if g > r.latest else r.latest

cdef inline int64_t rtt_pto_base(const Rtt* r) noexcept nogil:
    cdef int64_t v = 4 * r.var
    return rtt_get(r) + (v if v > 1000000 else 1000000)

cdef void rtt_init(Rtt* r, int64_t initial) noexcept nogil
cdef void rtt_sample(Rtt* r, int64_t now, int64_t ack_delay, int64_t rtt) noexcept nogil


cdef struct Congestion:
    int kind
    uint64_t cwnd, ssthresh, mtu
    int64_t recovery_start        # -1: none
    uint64_t events, spurious_events
    # Cubic
    double w_max, k, credit
    uint64_t bytes_acked          # NewReno
    # saved for spurious undo
    bint saved
    uint64_t saved_cwnd, saved_ssthresh
    double saved_w_max, saved_k, saved_credit
    int64_t saved_recovery_start

cdef void cc_init(Congestion* c, int kind, uint64_t mtu, int64_t now) noexcept nogil
# Once per acked ack-eliciting in-flight packet (or once for several packets with the summed size when all
# were sent after recovery_start; growth is capped per MTU of acked bytes, not per call).
cdef void cc_on_ack(Congestion* c, int64_t now, int64_t sent_at, uint64_t size, bint app_limited, const Rtt* rtt) noexcept nogil
cdef void cc_on_congestion(Congestion* c, int64_t now, int64_t sent_at, bint persistent, bint ecn) noexcept nogil
cdef void cc_on_spurious(Congestion* c) noexcept nogil
cdef void cc_on_mtu(Congestion* c, uint64_t mtu) noexcept nogil


cdef struct Pacer:
    uint64_t capacity, tokens
    uint64_t last_cwnd, last_mtu
    int64_t prev
    bint started
    double carry                  # part of a byte the last refill was off by, within 0.5 either way

cdef void pacer_init(Pacer* p, int64_t now) noexcept nogil
cdef void pacer_on_sent(Pacer* p, uint64_t size) noexcept nogil
# Refill; 0 when at least `need` bytes may go now, else ns to wait. Afterwards p.tokens bounds the burst.
cdef int64_t pacer_delay(Pacer* p, int64_t now, uint64_t need, uint64_t cwnd, int64_t srtt, uint64_t mtu) noexcept nogil


cdef enum:
    MTUD_OFF = 0
    MTUD_SEARCHING = 1
    MTUD_COMPLETE = 2

cdef enum:
    BH_MAX_BURSTS = 8             # more than 3 suspicious bursts decide

cdef struct Mtud:
    int state
    uint16_t current, min_mtu, lower, upper, bound, peer_limit, last_probe, min_change
    uint16_t in_flight            # size of the probe in flight, 0 none
    uint64_t in_flight_pn
    int lost_probes               # of the present size
    int64_t next_search           # when COMPLETE
    int64_t interval, cooldown
    uint64_t probes_sent, probes_lost, black_holes
    # black-hole detector
    uint64_t burst_last_pn
    uint16_t burst_smallest
    bint burst_open
    uint16_t bursts[8]
    int n_bursts
    uint16_t acked_mtu            # largest size acked since the present bursts
    uint64_t largest_acked_pn
    uint64_t burst_end[8]         # last pn of each stored burst
    uint64_t seen_pn[4]           # acked packets that no other acked one beats in both pn and size, pn rising
    uint16_t seen_size[4]
    int n_seen

cdef void mtud_init(Mtud* m, uint16_t initial, uint16_t min_mtu, uint16_t upper_bound, int64_t interval,
                    int64_t cooldown, uint16_t min_change, bint enabled) noexcept nogil
cdef void mtud_peer_limit(Mtud* m, uint16_t max_udp_payload) noexcept nogil
cdef uint16_t mtud_poll(Mtud* m, int64_t now) noexcept nogil           # size to probe now, or 0
cdef void mtud_on_probe_sent(Mtud* m, uint64_t pn, uint16_t size) noexcept nogil
cdef bint mtud_on_acked(Mtud* m, int64_t now, uint64_t pn, uint16_t size) noexcept nogil    # True: m.current changed
cdef void mtud_on_probe_lost(Mtud* m, int64_t now) noexcept nogil
cdef void mtud_on_lost(Mtud* m, uint64_t pn, uint16_t size) noexcept nogil    # a lost packet that was no probe
cdef bint mtud_black_hole(Mtud* m, int64_t now) noexcept nogil         # after a batch of losses; True: m.current fell
cdef void mtud_restart(Mtud* m, int64_t now) noexcept nogil            # path migrated: search again from min
