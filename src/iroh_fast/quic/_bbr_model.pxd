"""What BBR knows of a path (draft-ietf-ccwg-bbr §2, §5.5): how fast it delivers, how far it is, how much it holds.

Rates are bytes per ns, times ns, sizes bytes.
"""

from libc.stdint cimport uint64_t, int64_t

from iroh_fast.quic._controller cimport Acked, Congestion, UINT64_MAX
from iroh_fast.quic._delivery cimport RateSample


cdef extern from *:
    """
    #define IF_BBR_NO_RATE 1e30
    #define IF_BBR_BETA 0.7
    #define IF_BBR_HEADROOM 0.15
    #define IF_BBR_LOSS 0.02
    #define IF_BBR_MOST_LOSS 0.15
    """
    const double NO_RATE "IF_BBR_NO_RATE"           # no bound
    const double BETA "IF_BBR_BETA"                 # what one round with losses may cut a bound to
    const double HEADROOM "IF_BBR_HEADROOM"         # of the long-term bound, left to others
    const double LOSS_THRESHOLD "IF_BBR_LOSS"       # share of lost packets above what the path loses by itself
    const double MOST_LOSS "IF_BBR_MOST_LOSS"       # ... beyond which no path is believed to lose by itself

cdef enum:
    STARTUP = 0
    DRAIN = 1
    PROBE_DOWN = 2
    PROBE_CRUISE = 3
    PROBE_REFILL = 4
    PROBE_UP = 5
    PROBE_RTT = 6
    NO_MODE = 7                   # nothing to go back to

    # what acknowledgements mean, with respect to the last probe for bandwidth
    ACKS_INIT = 0
    ACKS_REFILLING = 1
    ACKS_STARTING = 2
    ACKS_FEEDBACK = 3
    ACKS_STOPPING = 4

    MIN_PIPE = 4                  # packets that are always allowed in flight
    STALE_ROUNDS = 2
    AGGREGATION_ROUNDS = 5        # that each of two slots stands for


# Losses among the packets of a stretch of time in which the rate was the same.
cdef struct Tally:
    double packets, lost
    uint64_t rounds               # that began; the first STALE_ROUNDS still show the rate before


cdef struct Bbr:
    int mode, ack_phase
    double pacing_gain, cwnd_gain, pacing_rate
    # rounds (§5.5.1)
    uint64_t rounds, round_end
    bint round_start
    # how fast (§5.5.2)
    double max_bw, bw_slots[2]    # of the cycle before, and of this one
    double bw, bw_shortterm, bw_latest
    # how much (§5.5.9, §5.5.10)
    uint64_t inflight_longterm, inflight_shortterm, inflight_latest, max_inflight
    uint64_t loss_round_end
    bint loss_round_start, loss_in_round, cwnd_limited
    double marked                 # packets with ECN marks in this round
    int marked_rounds             # of startup, in a row, with many marks
    uint64_t lost_before, arrived_before          # of `Delivery`, when losses were last counted
    # how far (§5.3.4.3)
    int64_t min_rtt, min_rtt_at   # 0: not known
    int64_t recent_rtt, recent_rtt_at, probe_rtt_done_at
    int64_t round_rtt, last_round_rtt             # least of the round, and of the one before; 0: none
    bint probe_rtt_due, probe_rtt_round_done, idle_restart
    # acknowledgements that come in lumps (§5.5.9)
    int64_t lump_at
    uint64_t lump, lumps[2], lumps_round
    # startup (§5.3.1)
    bint full_bw_reached, full_bw_now
    double full_bw
    int full_bw_count
    uint64_t drain_round
    # probing for bandwidth (§5.3.3)
    bint probe_sample, too_high, precautionary
    int up_rounds
    uint64_t up_acked, up_step, rounds_since_up, crowded_rounds
    int64_t cycle_at, cycle_wait
    # losses that are no sign of congestion: see `_bbr_loss`
    double own_loss, proven_loss, doubt_loss, doubt_bw, doubt_restore
    uint64_t cycles_since_proof
    Tally tally, round, startup
    # to take back (§5.5.11)
    int undo_mode
    uint64_t prior_cwnd, undo_inflight_shortterm, undo_inflight_longterm
    double undo_bw_shortterm


cdef inline Bbr* bbr_of(Congestion* cc) noexcept nogil:
    return <Bbr*>cc.state

cdef inline bint is_cycling(const Bbr* own) noexcept nogil:
    return PROBE_DOWN <= own.mode <= PROBE_UP

cdef inline bint is_accelerating(const Bbr* own) noexcept nogil:
    return own.mode == STARTUP or own.mode == PROBE_REFILL or own.mode == PROBE_UP

cdef inline void start_round(Congestion* cc, Bbr* own) noexcept nogil:
    own.round_end = cc.delivery.delivered

cdef inline void reset_full_bw(Bbr* own) noexcept nogil:
    own.full_bw = 0
    own.full_bw_count = 0
    own.full_bw_now = False

cdef inline void reset_shortterm(Bbr* own) noexcept nogil:
    own.bw_shortterm = NO_RATE
    own.inflight_shortterm = UINT64_MAX

cdef inline void reset_signals(Bbr* own) noexcept nogil:
    own.loss_in_round = False
    own.bw_latest = 0
    own.inflight_latest = 0

cdef inline void bound_bw(Bbr* own) noexcept nogil:
    own.bw = own.max_bw if own.max_bw < own.bw_shortterm else own.bw_shortterm

cdef inline uint64_t extra_acked(const Bbr* own) noexcept nogil:
    return own.lumps[0] if own.lumps[0] > own.lumps[1] else own.lumps[1]

cdef inline bint has_queue(const Bbr* own) noexcept nogil:
    """Whether packets of this round and the one before waited on the way, all of them."""
    cdef int64_t least = own.round_rtt
    if own.last_round_rtt and (least == 0 or own.last_round_rtt < least):
        least = own.last_round_rtt
    return least > own.min_rtt + own.min_rtt // 4 + 1000000

cdef uint64_t inflight_for(const Congestion* cc, const Bbr* own, double gain) noexcept nogil
cdef uint64_t quantized(const Congestion* cc, const Bbr* own, double inflight) noexcept nogil
cdef uint64_t inflight_with_headroom(const Congestion* cc, const Bbr* own) noexcept nogil
cdef void model_init(Congestion* cc, Bbr* own, int64_t now) noexcept nogil
# What is known of the path, first of all by an acknowledgement.
cdef void model_round(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil
cdef void model_latest(Congestion* cc, Bbr* own, const RateSample* sample) noexcept nogil
cdef void model_bandwidth(Bbr* own, const RateSample* sample) noexcept nogil
cdef void model_lumps(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil
cdef void model_rtt(Bbr* own, int64_t rtt, int64_t now) noexcept nogil
cdef inline void model_cycle(Bbr* own) noexcept nogil:
    """Bandwidth of the cycle before the last is forgotten; a cycle without a sample does not count."""
    if own.bw_slots[1] > 0:
        own.bw_slots[0] = own.bw_slots[1]
        own.bw_slots[1] = 0
