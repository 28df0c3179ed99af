# cython: cdivision=True
"""BBR, version 3 (draft-ietf-ccwg-bbr): a controller that goes by what a path delivers, not by its losses.

Here: what happens when, and the three things that come out of it: pacing rate, send quantum and window (§5.6). What is known
of the path is in `_bbr_model`, what losses mean in `_bbr_loss`, the phases in `_bbr_probe`.
"""

from libc.stdint cimport int64_t, uint64_t

from iroh_fast.quic._bbr_loss cimport loss_round, note_loss, too_much_loss
from iroh_fast.quic._bbr_model cimport (
    MIN_PIPE, NO_MODE, PROBE_CRUISE, PROBE_RTT, PROBE_UP, STARTUP, bbr_of, bound_bw, extra_acked, inflight_for,
    inflight_with_headroom, is_cycling, model_bandwidth, model_init, model_latest, model_lumps, model_round, model_rtt,
    quantized, reset_full_bw)
from iroh_fast.quic._bbr_probe cimport (
    enter_refill, enter_startup, keep_window, probe_cycle, probe_lost, probe_marked, probe_rtt, probe_rtt_finish,
    probe_rtt_inflight, probe_startup, restore_window)
from iroh_fast.quic._controller cimport (
    Acked, Lost, LostPacket, STATE_WORDS, UINT64_MAX, View, in_recovery)
from iroh_fast.quic._rtt cimport Rtt

cdef extern from *:
    """
    #define IF_BBR_MARGIN 0.99
    """
    const double MARGIN "IF_BBR_MARGIN"             # we send a little less than is delivered (§5.6.2)

cdef enum:
    MS = 1000000
    MOST_QUANTUM = 65536
    INITIAL_PACKETS = 32

cdef Controller CONTROLLER
cdef const char* MODES[7]
MODES[:] = [b"startup", b"drain", b"probe_down", b"probe_cruise", b"probe_refill", b"probe_up", b"probe_rtt"]


cdef const Controller* bbr() noexcept nogil:
    return &CONTROLLER


cdef void init(Congestion* cc, int64_t now) noexcept nogil:
    model_init(cc, bbr_of(cc), now)
    enter_startup(bbr_of(cc))


# ---------------------------------------------------------------- what comes out (§5.6)
cdef inline void pace_at(Bbr* own, double gain) noexcept nogil:
    """DIFFERS: what the path loses by itself is sent on top: the rate is meant to arrive."""
    cdef double rate = gain * own.bw * MARGIN / (1 - own.own_loss)
    if own.full_bw_reached or rate > own.pacing_rate:
        own.pacing_rate = rate


cdef void set_quantum(Congestion* cc, Bbr* own) noexcept nogil:
    """About a millisecond of data."""
    cdef double size = own.pacing_rate * MS
    cc.quantum = <uint64_t>size if size < MOST_QUANTUM else MOST_QUANTUM
    if cc.quantum < 2 * cc.mtu:
        cc.quantum = 2 * cc.mtu


cdef void set_window(Congestion* cc, Bbr* own, uint64_t acked) noexcept nogil:
    """§5.6.4."""
    cdef uint64_t cap = UINT64_MAX, least = MIN_PIPE * cc.mtu
    cdef double rtt_cap
    own.max_inflight = inflight_for(cc, own, own.cwnd_gain)
    own.max_inflight = quantized(cc, own, <double><int64_t>(own.max_inflight + extra_acked(own)))
    if own.full_bw_reached:
        cc.cwnd += acked
        if cc.cwnd > own.max_inflight:
            cc.cwnd = own.max_inflight
    elif cc.cwnd < own.max_inflight or cc.delivery.delivered < INITIAL_PACKETS * cc.mtu:
        cc.cwnd += acked
    if own.mode == PROBE_RTT:
        rtt_cap = probe_rtt_inflight(cc, own)
        if <double><int64_t>cc.cwnd > rtt_cap:
            cc.cwnd = <uint64_t>rtt_cap
    if own.mode == PROBE_RTT or own.mode == PROBE_CRUISE:
        cap = inflight_with_headroom(cc, own)
    elif is_cycling(own):
        cap = own.inflight_longterm
    if cap > own.inflight_shortterm:
        cap = own.inflight_shortterm
    if cc.cwnd > cap:
        cc.cwnd = cap
    if cc.cwnd < least:
        cc.cwnd = least


# ---------------------------------------------------------------- what happens
cdef void on_sent(Congestion* cc, int64_t now, uint64_t size, uint64_t in_flight) noexcept nogil:
    """§5.4: the first packet after silence."""
    cdef Bbr* own
    if in_flight or not cc.delivery.app_limited:
        return
    own = bbr_of(cc)
    own.idle_restart = True
    own.lump_at = now
    own.lump = 0
    if is_cycling(own):
        pace_at(own, 1)
    elif own.mode == PROBE_RTT:
        probe_rtt_finish(cc, own, now)


cdef void on_acked(Congestion* cc, const Acked* acked) noexcept nogil:
    """Losses that the same acknowledgement shows come first: see `on_settled`."""


cdef void begin_pacing(Congestion* cc, Bbr* own, const Rtt* rtt) noexcept nogil:
    """The first round trip was measured (§5.6.2).

    DIFFERS: 32 packets spread over a round trip are easier on a queue than 10 that leave together: the first window is that
    large as soon as it is paced.
    """
    if cc.cwnd < INITIAL_PACKETS * cc.mtu:
        cc.cwnd = INITIAL_PACKETS * cc.mtu
    own.pacing_rate = own.pacing_gain * <double><int64_t>cc.cwnd / <double>rtt.smoothed


cdef void on_settled(Congestion* cc, const Acked* acked) noexcept nogil:
    """§5.2.3."""
    cdef Bbr* own = bbr_of(cc)
    if own.pacing_rate <= 0 and acked.rtt.has_sample and acked.rtt.smoothed > 0:
        begin_pacing(cc, own, acked.rtt)
    model_latest(cc, own, &acked.sample)
    model_round(cc, own, acked)
    model_bandwidth(own, &acked.sample)
    loss_round(cc, own, acked.size)
    model_lumps(cc, own, acked)
    probe_startup(cc, own, acked)
    probe_cycle(cc, own, acked)
    model_rtt(own, acked.sample.rtt, acked.now)
    probe_rtt(cc, own, acked)
    if own.loss_round_start:
        own.bw_latest = acked.sample.rate
        own.inflight_latest = acked.sample.delivered
    bound_bw(own)
    pace_at(own, own.pacing_gain)
    set_quantum(cc, own)
    set_window(cc, own, acked.size)


cdef void on_packet_lost(Congestion* cc, const LostPacket* lost) noexcept nogil:
    """§5.5.10.2."""
    cdef Bbr* own = bbr_of(cc)
    if not own.loss_in_round:
        keep_window(cc, own)
    note_loss(cc, own)
    probe_lost(cc, own, lost)


cdef bint on_lost(Congestion* cc, const Lost* lost) noexcept nogil:
    cdef Bbr* own = bbr_of(cc)
    if lost.persistent:
        # §5.6.4.4: nothing came through. The window comes back with the first acknowledgements.
        cc.cwnd = MIN_PIPE * cc.mtu
    if in_recovery(cc, lost.sent_at):
        return False
    cc.events += 1
    cc.recovery_start = lost.now
    return True


cdef bint on_ecn(Congestion* cc, int64_t now, int64_t sent_at, uint64_t marked, uint64_t total) noexcept nogil:
    """The draft leaves the answer to marks open. A round with marks is answered once, by their share; while probing for
    bandwidth what is in flight is too much from the first mark on.
    """
    cdef Bbr* own = bbr_of(cc)
    if sent_at < own.cycle_at:
        return False                  # of the probe that was answered
    own.marked += <double><int64_t>marked
    probe_marked(cc, own, now)
    if in_recovery(cc, sent_at):
        return False
    cc.events += 1
    cc.recovery_start = now
    return True


cdef void on_spurious(Congestion* cc) noexcept nogil:
    """§5.5.11.2."""
    cdef Bbr* own = bbr_of(cc)
    restore_window(cc, own)
    own.loss_in_round = False
    reset_full_bw(own)
    if own.bw_shortterm < own.undo_bw_shortterm:
        own.bw_shortterm = own.undo_bw_shortterm
    if own.inflight_shortterm < own.undo_inflight_shortterm:
        own.inflight_shortterm = own.undo_inflight_shortterm
    if own.inflight_longterm < own.undo_inflight_longterm:
        own.inflight_longterm = own.undo_inflight_longterm
    if own.undo_mode == STARTUP and own.mode != STARTUP:
        own.full_bw_reached = False
        if own.mode != PROBE_RTT:
            enter_startup(own)
    elif own.undo_mode == PROBE_UP and own.mode != PROBE_UP and own.mode != PROBE_RTT:
        enter_refill(cc, own)
    own.undo_mode = NO_MODE


cdef double pacing_rate(const Congestion* cc, const Rtt* rtt) noexcept nogil:
    cdef const Bbr* own = <const Bbr*>cc.state
    cdef int64_t smoothed
    if own.pacing_rate > 0:
        return own.pacing_rate
    # §5.6.2: nothing was measured but the round trip, if that.
    smoothed = rtt.smoothed if rtt.has_sample else 0
    return own.pacing_gain * <double><int64_t>cc.cwnd / <double>smoothed if smoothed > 0 else 0


cdef void see(const Congestion* cc, View* view) noexcept nogil:
    cdef const Bbr* own = <const Bbr*>cc.state
    view.mode = MODES[own.mode]
    view.bandwidth = own.bw
    view.min_rtt = own.min_rtt
    view.inflight_longterm = own.inflight_longterm
    view.inflight_shortterm = own.inflight_shortterm
    view.own_loss = own.own_loss


if sizeof(Bbr) > STATE_WORDS * sizeof(uint64_t):
    raise SystemError("the state of BBR does not fit")
CONTROLLER.name = b"bbr"
CONTROLLER.samples = True
CONTROLLER.init = init
CONTROLLER.on_sent = on_sent
CONTROLLER.on_acked = on_acked
CONTROLLER.on_settled = on_settled
CONTROLLER.on_packet_lost = on_packet_lost
CONTROLLER.on_lost = on_lost
CONTROLLER.on_ecn = on_ecn
CONTROLLER.on_spurious = on_spurious
CONTROLLER.pacing_rate = pacing_rate
CONTROLLER.view = see
