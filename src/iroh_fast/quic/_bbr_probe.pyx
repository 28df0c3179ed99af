# cython: cdivision=True
"""The phases of BBR (draft-ietf-ccwg-bbr §5.3)."""

from libc.stdint cimport int64_t, uint64_t

from iroh_fast.quic._bbr_loss cimport loss_cycle, loss_recount, loss_startup_round, too_much_loss
from iroh_fast.quic._bbr_model cimport (
    ACKS_FEEDBACK, ACKS_INIT, ACKS_REFILLING, ACKS_STARTING, ACKS_STOPPING, BETA, DRAIN, LOSS_THRESHOLD, MIN_PIPE, NO_MODE,
    PROBE_CRUISE, PROBE_DOWN, PROBE_REFILL, PROBE_RTT, PROBE_UP, STARTUP, has_queue, inflight_for, inflight_with_headroom,
    is_cycling, model_cycle, reset_full_bw, reset_shortterm, reset_signals, start_round)
from iroh_fast.quic._controller cimport UINT64_MAX
from iroh_fast.quic._delivery cimport delivery_limited

cdef extern from *:
    """
    #define IF_BBR_STARTUP_GAIN 2.77
    #define IF_BBR_GROWTH 1.25
    #define IF_BBR_SURE_LOSS 0.1
    """
    const double STARTUP_GAIN "IF_BBR_STARTUP_GAIN"     # 4 ln 2: the rate doubles each round (§5.3.1)
    const double GROWTH "IF_BBR_GROWTH"                 # less than that is no growth
    const double SURE_LOSS "IF_BBR_SURE_LOSS"           # share beyond which startup ends at once, where packets wait

cdef enum:
    MS = 1000000
    SECOND = 1000000000
    FULL_ROUNDS = 3               # without growth: the path is full
    STARTUP_LOSSES = 6            # packets
    MARKED_ROUNDS = 2             # with more than half of the packets marked
    DRAIN_ROUNDS = 3
    CROWDED_ROUNDS = 8            # ... where others keep a queue
    RENO_ROUNDS = 63              # between probes, where Reno would fill the path by then (§5.3.3.5)
    PROBE_ROUNDS = 12             # ... and where nobody does: at least
    DOUBT_S = 5                   # the longest time for finding out what losses mean
    PROBE_RTT_MS = 200


# ---------------------------------------------------------------- startup and drain
cdef void enter_startup(Bbr* own) noexcept nogil:
    own.mode = STARTUP
    own.pacing_gain = STARTUP_GAIN
    own.cwnd_gain = 2


cdef void enter_drain(Bbr* own) noexcept nogil:
    own.mode = DRAIN
    own.pacing_gain = 0.5
    own.cwnd_gain = 2
    own.drain_round = own.rounds
    loss_recount(own)


cdef void look_for_plateau(Bbr* own, const RateSample* sample) noexcept nogil:
    """§5.3.1.2: the rate does not grow any more, although we send faster."""
    if own.full_bw_now or not own.round_start:
        return
    if sample.app_limited:
        if own.mode == STARTUP:
            own.tally.packets = own.tally.lost = 0
        return
    if sample.rate >= own.full_bw * GROWTH:
        if own.mode == STARTUP:
            loss_startup_round(own, own.full_bw > 0)
            own.tally.packets = own.tally.lost = 0
        reset_full_bw(own)
        own.full_bw = sample.rate
        return
    own.full_bw_count += 1
    own.full_bw_now = own.full_bw_count >= FULL_ROUNDS
    if own.full_bw_now:
        own.full_bw_reached = True


cdef bint loses_at_start(Congestion* cc, Bbr* own, int64_t smoothed) noexcept nogil:
    """§5.3.1.3: a full round of losses above what the path can have by itself.

    DIFFERS: the rate must have stopped to grow, or packets wait; losses on the way up are the path's own.
    """
    cdef double packet = <double><int64_t>cc.mtu
    if own.tally.lost < STARTUP_LOSSES or not too_much_loss(cc, own, own.tally.lost * packet, own.tally.packets * packet):
        return False
    if own.loss_round_start:
        return own.full_bw_count > 0 or has_queue(own)
    # Beyond doubt: no need to wait for the end of the round.
    return own.tally.lost > (own.own_loss + SURE_LOSS) * own.tally.packets and smoothed > own.min_rtt + own.min_rtt // 4 + MS


cdef void probe_startup(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil:
    cdef uint64_t bdp
    look_for_plateau(own, &acked.sample)
    if own.mode == STARTUP:
        if not own.full_bw_reached and (
                loses_at_start(cc, own, acked.rtt.smoothed) or own.marked_rounds >= MARKED_ROUNDS):
            own.undo_mode = STARTUP
            own.full_bw_reached = True
            bdp = inflight_for(cc, own, 1)
            own.inflight_longterm = own.inflight_latest if own.inflight_latest > bdp else bdp
        if own.full_bw_reached:
            enter_drain(own)
    if own.mode == DRAIN and (acked.in_flight <= inflight_for(cc, own, 1) or own.rounds > own.drain_round + DRAIN_ROUNDS):
        own.cwnd_gain = 2
        enter_down(cc, own, acked.now)


# ---------------------------------------------------------------- probing for bandwidth
cdef uint64_t chance(const Congestion* cc, int64_t now) noexcept nogil:
    """Numbers that keep connections out of step with each other (splitmix64 of what each of them sees alone)."""
    cdef uint64_t word = <uint64_t>now ^ (cc.delivery.delivered << 20)
    word += <uint64_t>0x9e3779b97f4a7c15
    word = (word ^ (word >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    word = (word ^ (word >> 27)) * <uint64_t>0x94d049bb133111eb
    return word ^ (word >> 31)


cdef int64_t wait_to_probe(const Bbr* own, uint64_t word) noexcept nogil:
    """§5.3.3.5.3: 2 to 3 s. DIFFERS: not more than 12 to 19 rounds, within half a second at least: on a path of tens of
    milliseconds a rate that has come back, or another's end, is noticed as soon as others notice it.
    """
    cdef int64_t most = 2 * <int64_t>SECOND + <int64_t>((word >> 1) % SECOND)
    cdef int64_t wait = own.min_rtt * <int64_t>(PROBE_ROUNDS + ((word >> 40) & 7))
    if wait < SECOND // 2:
        wait = SECOND // 2
    return wait if wait < most else most


cdef void enter_down(Congestion* cc, Bbr* own, int64_t now) noexcept nogil:
    cdef uint64_t word = chance(cc, now)
    reset_signals(own)
    loss_cycle(own)
    own.up_step = UINT64_MAX
    own.rounds_since_up = word & 1
    own.cycle_wait = wait_to_probe(own, word)
    own.cycle_at = now
    own.ack_phase = ACKS_STOPPING
    start_round(cc, own)
    own.mode = PROBE_DOWN
    own.crowded_rounds = 0
    own.pacing_gain = 0.9
    own.cwnd_gain = 2


cdef void enter_cruise(Bbr* own) noexcept nogil:
    own.mode = PROBE_CRUISE
    own.pacing_gain = 1


cdef void enter_refill(Congestion* cc, Bbr* own) noexcept nogil:
    reset_shortterm(own)
    own.doubt_loss = 0
    own.up_rounds = 0
    own.up_acked = 0
    own.precautionary = False
    own.ack_phase = ACKS_REFILLING
    start_round(cc, own)
    own.mode = PROBE_REFILL
    own.pacing_gain = 1
    own.cwnd_gain = 2


cdef void enter_up(Congestion* cc, Bbr* own, const RateSample* sample) noexcept nogil:
    own.ack_phase = ACKS_STARTING
    start_round(cc, own)
    reset_full_bw(own)
    own.full_bw = sample.rate
    own.mode = PROBE_UP
    own.pacing_gain = 1.25
    own.cwnd_gain = 2.25
    steeper(cc, own)


cdef void steeper(Congestion* cc, Bbr* own) noexcept nogil:
    """The long-term bound rises by 1, 2, 4, ... packets per round (§5.3.3.4)."""
    own.up_step = cc.cwnd >> own.up_rounds
    if own.up_step < cc.mtu:
        own.up_step = cc.mtu
    if own.up_rounds < 30:
        own.up_rounds += 1


cdef inline bint at_longterm(const Congestion* cc, const Bbr* own) noexcept nogil:
    return (own.cwnd_limited or cc.window_full) and cc.cwnd >= own.inflight_longterm


cdef void raise_longterm(Congestion* cc, Bbr* own, uint64_t acked) noexcept nogil:
    cdef uint64_t steps
    if not at_longterm(cc, own):
        return
    own.up_acked += acked
    if own.up_acked >= own.up_step:
        steps = own.up_acked // own.up_step
        own.up_acked -= steps * own.up_step
        own.inflight_longterm += steps * cc.mtu
    if own.round_start:
        steeper(cc, own)


cdef bint adapt_longterm(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil:
    """What the last probe showed. True: it decided where to go on."""
    if own.ack_phase == ACKS_STARTING and own.round_start:
        own.ack_phase = ACKS_FEEDBACK
    if own.ack_phase == ACKS_STOPPING and own.round_start:
        own.probe_sample = False
        own.ack_phase = ACKS_INIT
        if is_cycling(own):
            if not acked.sample.app_limited:
                model_cycle(own)
            if own.precautionary and not own.too_high:
                enter_refill(cc, own)
                return True
    if own.inflight_longterm == UINT64_MAX or too_much_loss(
            cc, own, <double><int64_t>acked.sample.lost, <double><int64_t>acked.sample.in_flight):
        return False
    if acked.sample.in_flight > own.inflight_longterm:
        own.inflight_longterm = acked.sample.in_flight
    if own.mode == PROBE_UP:
        raise_longterm(cc, own, acked.size)
    return False


cdef bint time_to_probe(Congestion* cc, Bbr* own, int64_t now) noexcept nogil:
    """§5.3.3.5.3."""
    cdef uint64_t target, rounds
    cdef int64_t waited = now - own.cycle_at
    if own.doubt_loss > 0:
        # It is being found out what the losses mean: that comes first, within bounds.
        return waited > DOUBT_S * <int64_t>SECOND
    if waited > own.cycle_wait:
        return True
    target = inflight_for(cc, own, 1)
    if target > cc.cwnd:
        target = cc.cwnd
    if own.crowded_rounds >= CROWDED_ROUNDS:
        return True
    rounds = target // cc.mtu
    return own.rounds_since_up >= (rounds if rounds < RENO_ROUNDS else RENO_ROUNDS)


cdef bint time_to_cruise(const Congestion* cc, const Bbr* own, uint64_t in_flight) noexcept nogil:
    return in_flight <= inflight_with_headroom(cc, own) and in_flight <= inflight_for(cc, own, 1)


cdef bint time_to_go_down(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil:
    """§5.3.3.4.3."""
    if own.too_high and acked.in_flight >= own.inflight_longterm:
        own.precautionary = True
        return True
    if at_longterm(cc, own):
        reset_full_bw(own)
        own.full_bw = acked.sample.rate
        return False
    return own.full_bw_now


cdef void probe_cycle(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil:
    if not own.full_bw_reached or adapt_longterm(cc, own, acked) or not is_cycling(own):
        return
    if own.round_start and own.mode == PROBE_CRUISE and has_queue(own):
        own.crowded_rounds += 1
    if own.mode == PROBE_UP:
        if time_to_go_down(cc, own, acked):
            own.too_high = False
            enter_down(cc, own, acked.now)
    elif own.mode == PROBE_REFILL:
        if own.round_start:
            own.probe_sample = True
            enter_up(cc, own, &acked.sample)
    elif time_to_probe(cc, own, acked.now):
        enter_refill(cc, own)
    elif own.mode == PROBE_DOWN and time_to_cruise(cc, own, acked.in_flight):
        enter_cruise(own)


cdef void too_high(Congestion* cc, Bbr* own, int64_t now, uint64_t in_flight, bint app_limited) noexcept nogil:
    """§5.5.10.2: so much in flight is more than the path holds."""
    cdef uint64_t target = inflight_for(cc, own, 1)
    if target > cc.cwnd:
        target = cc.cwnd
    target = <uint64_t>(BETA * <double>target)
    own.too_high = True
    own.probe_sample = False          # one answer for one probe
    if not app_limited:
        own.inflight_longterm = in_flight if in_flight > target else target
    if own.mode == PROBE_UP:
        own.undo_mode = PROBE_UP
        enter_down(cc, own, now)


cdef void probe_lost(Congestion* cc, Bbr* own, const LostPacket* lost) noexcept nogil:
    cdef double in_flight, total, share, fits
    if not own.probe_sample:
        return
    in_flight = <double><int64_t>lost.snapshot.in_flight
    total = <double><int64_t>(cc.delivery.lost - lost.snapshot.lost)
    if not too_much_loss(cc, own, total, in_flight):
        return
    # How much was in flight when the losses crossed the threshold: it may have been within this packet.
    share = LOSS_THRESHOLD + own.own_loss
    in_flight -= <double><int64_t>lost.size
    fits = (share * in_flight - (total - <double><int64_t>lost.size)) / (1 - share)
    in_flight += fits
    too_high(cc, own, lost.now, <uint64_t>in_flight if in_flight > 0 else 0, lost.snapshot.app_limited)


cdef void probe_marked(Congestion* cc, Bbr* own, int64_t now) noexcept nogil:
    if own.probe_sample:
        too_high(cc, own, now, own.inflight_latest, False)


# ---------------------------------------------------------------- the least round trip
cdef double probe_rtt_inflight(const Congestion* cc, const Bbr* own) noexcept nogil:
    cdef double size = <double>inflight_for(cc, own, 0.5)
    cdef double least = <double><int64_t>(MIN_PIPE * cc.mtu)
    return size if size > least else least


cdef void keep_window(const Congestion* cc, Bbr* own) noexcept nogil:
    """The window, as it was before losses and looking for the least round trip made it small (§5.6.4.4)."""
    if (not own.loss_in_round and own.mode != PROBE_RTT) or cc.cwnd > own.prior_cwnd:
        own.prior_cwnd = cc.cwnd


cdef void restore_window(Congestion* cc, Bbr* own) noexcept nogil:
    if cc.cwnd < own.prior_cwnd:
        cc.cwnd = own.prior_cwnd


cdef void probe_rtt_finish(Congestion* cc, Bbr* own, int64_t now) noexcept nogil:
    if own.probe_rtt_done_at == 0 or now <= own.probe_rtt_done_at:
        return
    own.recent_rtt_at = now
    restore_window(cc, own)
    reset_shortterm(own)
    if own.full_bw_reached:
        # What is in flight is below what the path holds: no need to go down first.
        enter_down(cc, own, now)
        enter_cruise(own)
    else:
        enter_startup(own)


cdef void probe_rtt(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil:
    """§5.3.4."""
    if own.mode != PROBE_RTT and own.probe_rtt_due and not own.idle_restart:
        keep_window(cc, own)
        own.mode = PROBE_RTT
        own.pacing_gain = 1
        own.cwnd_gain = 0.5
        own.probe_rtt_done_at = 0
        own.ack_phase = ACKS_STOPPING
        start_round(cc, own)
    if own.mode == PROBE_RTT:
        # Its samples are low, and that is no news.
        delivery_limited(&cc.delivery, acked.in_flight)
        if own.probe_rtt_done_at == 0:
            if <double><int64_t>acked.in_flight <= probe_rtt_inflight(cc, own):
                own.probe_rtt_done_at = acked.now + PROBE_RTT_MS * <int64_t>MS
                own.probe_rtt_round_done = False
                start_round(cc, own)
        else:
            if own.round_start:
                own.probe_rtt_round_done = True
            if own.probe_rtt_round_done:
                probe_rtt_finish(cc, own, acked.now)
    if acked.sample.delivered > 0:
        own.idle_restart = False
