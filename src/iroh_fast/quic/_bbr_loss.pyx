# cython: cdivision=True
"""Which losses tell BBR of congestion (draft-ietf-ccwg-bbr §5.5.10), and which the path has by itself.

DIFFERS: the draft takes more than 2 % lost for congestion, whatever else is known, and slows down for any loss while it
cruises. Radio links lose more than that while nothing waits in their queue. Here a share of lost packets that does not
depend on our rate is the path's own, and is allowed for. That has to be proven: where losses appear without queueing
delay, we send 15 % less for a while. A policer, or a buffer that is full with what we send, then loses next to nothing,
and the answer is the draft's; a path that loses the same share as before loses by itself. What comes on top of that share,
or together with queueing delay, is congestion as before. Beyond 15 % every loss is.
"""

from libc.math cimport sqrt
from libc.stdint cimport int64_t, uint64_t

from iroh_fast.quic._bbr_model cimport (
    BETA, LOSS_THRESHOLD, MOST_LOSS, NO_RATE, STALE_ROUNDS, STARTUP, Tally, has_queue, is_accelerating)
from iroh_fast.quic._controller cimport UINT64_MAX

cdef extern from *:
    """
    #define IF_BBR_DOUBT 0.85
    #define IF_BBR_MARKED 0.06
    #define IF_BBR_MANY_MARKS 0.5
    """
    const double DOUBT "IF_BBR_DOUBT"               # of the rate, while we look whether losses follow it
    const double MARKED "IF_BBR_MARKED"             # of the bounds, given up for a round in which every packet was marked
    const double MANY_MARKS "IF_BBR_MANY_MARKS"     # share of marked packets in a round of startup: the path is full

cdef enum:
    PROOF_LOSSES = 8              # expected losses after which one can tell
    TALLY_PACKETS = 1024          # that are counted together at most
    PROOF_CYCLES = 10             # after which the path's own share is proven again


cdef inline bint beyond_chance(double lost, double expected) noexcept nogil:
    return lost > expected + 3 * sqrt(expected)


cdef bint too_much_loss(const Congestion* cc, const Bbr* own, double lost, double in_flight) noexcept nogil:
    cdef double packets = 1.0 / <double><int64_t>cc.mtu
    return beyond_chance(lost * packets, (LOSS_THRESHOLD + own.own_loss) * in_flight * packets)


cdef void note_loss(Congestion* cc, Bbr* own) noexcept nogil:
    if own.loss_in_round:
        return
    own.loss_round_end = cc.delivery.delivered
    own.loss_in_round = True
    own.undo_bw_shortterm = own.bw_shortterm
    own.undo_inflight_shortterm = own.inflight_shortterm
    own.undo_inflight_longterm = own.inflight_longterm


cdef void loss_recount(Bbr* own) noexcept nogil:
    own.tally.packets = own.tally.lost = 0
    own.tally.rounds = 0


cdef void loss_cycle(Bbr* own) noexcept nogil:
    own.doubt_loss = 0
    own.cycles_since_proof += 1
    loss_recount(own)


cdef void loss_startup_round(Bbr* own, bint grew) noexcept nogil:
    """What was lost while the rate still doubled is no sign of a limit. The last such round does not count: it may be the
    one that reached it.
    """
    if not grew or has_queue(own):
        return
    if own.startup.packets > 0 and own.startup.lost >= 3 and own.startup.lost < MOST_LOSS * own.startup.packets:
        own.own_loss = own.startup.lost / own.startup.packets
    own.startup.packets += own.tally.packets
    own.startup.lost += own.tally.lost
    own.proven_loss = own.own_loss
    own.cycles_since_proof = PROOF_CYCLES


cdef void cut(Congestion* cc, Bbr* own) noexcept nogil:
    """Once per round with losses: towards what was delivered (§5.5.10.3)."""
    cdef uint64_t least
    if own.bw_shortterm >= NO_RATE:
        own.bw_shortterm = own.max_bw
    if own.inflight_shortterm == UINT64_MAX:
        own.inflight_shortterm = cc.cwnd
    own.bw_shortterm = own.bw_latest if own.bw_latest > BETA * own.bw_shortterm else BETA * own.bw_shortterm
    least = <uint64_t>(BETA * <double>own.inflight_shortterm)
    own.inflight_shortterm = own.inflight_latest if own.inflight_latest > least else least


cdef void answer_marks(Congestion* cc, Bbr* own, double share) noexcept nogil:
    """What is marked is delivered: the latest delivery says nothing, only sending less helps.

    By the share of marks, as in DCTCP (RFC 8257 §3.3), and little in one round: a few come from every burst.
    """
    cdef double kept = 1 - MARKED * share
    if own.bw_shortterm >= NO_RATE:
        own.bw_shortterm = own.max_bw
    if own.inflight_shortterm == UINT64_MAX:
        own.inflight_shortterm = cc.cwnd
    own.bw_shortterm *= kept
    own.inflight_shortterm = <uint64_t>(kept * <double>own.inflight_shortterm)


cdef void begin_doubt(Bbr* own, double share) noexcept nogil:
    own.doubt_loss = share
    own.doubt_restore = own.bw_shortterm
    own.doubt_bw = own.bw_latest
    own.bw_shortterm = DOUBT * (own.bw if own.bw < own.max_bw else own.max_bw)
    loss_recount(own)


cdef void end_doubt(Bbr* own) noexcept nogil:
    """Enough was sent at the lower rate to tell."""
    cdef double share = own.tally.lost / own.tally.packets
    if 2 * share >= own.doubt_loss:
        own.own_loss = own.proven_loss = share if share < MOST_LOSS else MOST_LOSS
        own.cycles_since_proof = 0
        own.bw_shortterm = own.doubt_restore
    else:
        # It followed the rate: what was delivered then is what there is.
        if share < own.own_loss:
            own.own_loss = own.proven_loss = share
        if own.doubt_bw > own.bw_shortterm:
            own.bw_shortterm = own.doubt_bw
    own.doubt_loss = 0
    loss_recount(own)


cdef void look_at_losses(Congestion* cc, Bbr* own) noexcept nogil:
    """No queue: losses count together over rounds of the same rate."""
    cdef double expected = (LOSS_THRESHOLD + own.own_loss) * own.tally.packets
    cdef double share = own.tally.lost / own.tally.packets if own.tally.packets > 0 else 0
    if own.doubt_loss > 0:
        if own.doubt_loss * own.tally.packets >= PROOF_LOSSES:
            end_doubt(own)
        return
    if beyond_chance(own.tally.lost, expected):
        if share > MOST_LOSS:
            cut(cc, own)
            loss_recount(own)
        else:
            begin_doubt(own, share)
    elif own.proven_loss > 0 and own.cycles_since_proof >= PROOF_CYCLES and own.tally.lost >= PROOF_LOSSES:
        begin_doubt(own, share)
    elif own.tally.packets >= TALLY_PACKETS:
        # Down with what is seen, up to what was proven at most.
        own.own_loss += (share - own.own_loss) / 4
        if own.own_loss > own.proven_loss:
            own.own_loss = own.proven_loss
        own.tally.packets = own.tally.lost = 0


cdef inline void count(Tally* tally, double acked, double lost, double arrived) noexcept nogil:
    """`arrived`: of those that counted as lost."""
    tally.packets += acked + lost
    tally.lost += lost - arrived
    if tally.lost < 0:
        tally.lost = 0


cdef void loss_round(Congestion* cc, Bbr* own, uint64_t acked) noexcept nogil:
    cdef double packet = 1.0 / <double><int64_t>cc.mtu
    cdef double lost = <double><int64_t>(cc.delivery.lost - own.lost_before) * packet
    cdef double arrived = <double><int64_t>(cc.delivery.arrived - own.arrived_before) * packet
    cdef double share                 # of marked packets
    own.lost_before = cc.delivery.lost
    own.arrived_before = cc.delivery.arrived
    if own.round_start:
        own.tally.rounds += 1
        if own.tally.rounds <= STALE_ROUNDS and own.mode != STARTUP:
            own.tally.packets = own.tally.lost = 0
    count(&own.tally, <double><int64_t>acked * packet, lost, arrived)
    count(&own.round, <double><int64_t>acked * packet, lost, arrived)
    if not own.loss_round_start:
        return
    share = own.marked / own.round.packets if own.round.packets > own.marked else own.marked > 0
    if own.mode == STARTUP:
        own.marked_rounds = own.marked_rounds + 1 if share >= MANY_MARKS else 0
    if not is_accelerating(own):
        if own.marked > 0:
            if own.tally.rounds > STALE_ROUNDS:
                # Not those of the probe that has just been answered.
                answer_marks(cc, own, share)
        elif own.loss_in_round and has_queue(own) and beyond_chance(own.round.lost, own.own_loss * own.round.packets):
            cut(cc, own)
            own.doubt_loss = 0
            loss_recount(own)
        elif own.tally.rounds >= STALE_ROUNDS and not has_queue(own):
            look_at_losses(cc, own)
    own.loss_in_round = False
    own.round.packets = own.round.lost = own.marked = 0
