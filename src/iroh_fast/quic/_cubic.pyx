"""CUBIC (RFC 9438), beginning with HyStart++ (RFC 9406)."""

cimport cython
from libc.math cimport cbrt
from libc.stdint cimport uint64_t, int64_t

from iroh_fast.quic._controller cimport (
    Acked, Congestion, Controller, Lost, STATE_WORDS, UINT64_MAX, grow_window, in_recovery, min_window,
    reduced_window, window_rate)
from iroh_fast.quic._hystart cimport hystart_init, hystart_on_acked
from iroh_fast.quic._rtt cimport rtt_get


cdef extern from *:
    """
    #define IF_CUBIC_C 0.4
    #define IF_CUBIC_BETA 0.7
    #define IF_CUBIC_ALPHA (3.0 * 0.3 / 1.7)        /* 3 * (1 - beta) / (1 + beta) */
    """
    const double C "IF_CUBIC_C"
    const double BETA "IF_CUBIC_BETA"
    const double ALPHA "IF_CUBIC_ALPHA"

cdef enum:
    MAX_STEPS = 65536             # packets that one acknowledgement may grow by

cdef Controller CONTROLLER


cdef const Controller* cubic() noexcept nogil:
    return &CONTROLLER


cdef void init(Congestion* cc, int64_t now) noexcept nogil:
    cdef Cubic* own = <Cubic*>cc.state
    own.curve.epoch = -1
    own.active_at = now
    hystart_init(&own.hystart, now)


@cython.cdivision(True)
cdef void begin_flat(Congestion* cc, Curve* curve, int64_t now) noexcept nogil:
    """Slow start reached ssthresh without a loss: the curve starts flat here (§4.8, §4.10)."""
    curve.epoch = now
    curve.w_max = curve.w_est = curve.prior = <double>cc.cwnd
    curve.k = 0


@cython.cdivision(True)
cdef inline void avoid(Congestion* cc, Curve* curve, int64_t now, uint64_t size, int64_t rtt) noexcept nogil:
    """Congestion avoidance (§4.2 to §4.5) for `size` acknowledged bytes, in steps of a packet."""
    cdef uint64_t mtu = cc.mtu, part
    # Sizes stay far below 2**63, and signed ones become doubles with one instruction.
    cdef double mss = <double><int64_t>mtu
    cdef double d = <double>(now - curve.epoch) * 1e-9 - curve.k
    cdef double scale = C * mss
    cdef double present = scale * d * d * d + curve.w_max
    cdef double reno = curve.w_est, credit = curve.credit
    cdef double target, cwnd, gain, acked, share
    cdef int left = MAX_STEPS
    d += <double>rtt * 1e-9
    target = scale * d * d * d + curve.w_max
    while True:
        part = size if size < mtu else mtu
        size -= part
        acked = <double><int64_t>part
        cwnd = <double><int64_t>cc.cwnd
        share = acked / cwnd
        reno += (ALPHA if reno < curve.prior else 1) * share * mss
        if present < reno:
            # Reno-friendly: the window is the estimate, in steps of what was acknowledged.
            gain = reno - cwnd - credit
            if gain > acked:
                gain = acked
        else:
            # The target is no further up than half a window.
            gain = (target - cwnd) * share
            if gain > 0.5 * acked:
                gain = 0.5 * acked
        if gain > 0:
            credit += gain
            if credit >= mss:
                credit -= mss
                grow_window(cc, mtu)
        if size == 0:
            break
        left -= 1
        if left == 0:
            break
    curve.w_est = reno
    curve.credit = credit


cdef inline void use(Cubic* own, int64_t again, int64_t now) noexcept nogil:
    """§5.8: time until `again` in which the application did not use the window is no time of the curve."""
    if again > own.active_at:
        own.curve.epoch += again - own.active_at
    own.active_at = now


cdef void outside(Congestion* cc, Cubic* own, const Acked* acked) noexcept nogil:
    """Not, or not only, congestion avoidance."""
    cdef uint64_t size = hystart_on_acked(&own.hystart, cc, acked)
    if own.curve.epoch < 0:
        own.active_at = acked.now
        if size:
            begin_flat(cc, &own.curve, acked.now)
    else:
        use(own, acked.now if acked.app_limited else acked.sent_at, acked.now)
    if size:
        avoid(cc, &own.curve, acked.now, size, rtt_get(acked.rtt))


cdef void on_acked(Congestion* cc, const Acked* acked) noexcept nogil:
    cdef Cubic* own = <Cubic*>cc.state
    if acked.app_limited or cc.cwnd < cc.ssthresh or own.curve.epoch < 0:
        outside(cc, own, acked)
        return
    use(own, acked.sent_at, acked.now)
    avoid(cc, &own.curve, acked.now, acked.fresh, rtt_get(acked.rtt))


@cython.cdivision(True)
cdef void reduce(Congestion* cc, int64_t now) noexcept nogil:
    """§4.6, §4.7."""
    cdef Cubic* own = <Cubic*>cc.state
    cdef Curve* curve = &own.curve
    cdef double cwnd = <double>cc.cwnd
    cdef double rise
    cc.events += 1
    cc.recovery_start = now
    own.active_at = now
    curve.epoch = now
    curve.prior = cwnd
    # Fast convergence: release room when the peak is falling.
    curve.w_max = (1 + BETA) / 2 * cwnd if cwnd < curve.w_max else cwnd
    cc.cwnd = cc.ssthresh = reduced_window(cc, 7)
    curve.w_est = <double>cc.cwnd
    rise = (curve.w_max - <double>cc.cwnd) / <double>cc.mtu
    curve.k = cbrt(rise / C) if rise > 0 else 0
    curve.credit *= BETA


cdef bint on_lost(Congestion* cc, const Lost* lost) noexcept nogil:
    cdef Cubic* own = <Cubic*>cc.state
    if in_recovery(cc, lost.sent_at):
        return False
    own.saved_curve = own.curve
    own.saved_cwnd = cc.cwnd
    own.saved_ssthresh = cc.ssthresh
    own.saved_recovery_start = cc.recovery_start
    reduce(cc, lost.now)
    if lost.persistent:
        cc.recovery_start = -1
        own.curve.epoch = -1
        own.curve.w_max = <double>cc.cwnd
        own.curve.credit = 0
        cc.ssthresh = reduced_window(cc, 7)
        cc.cwnd = min_window(cc)
    return True


cdef bint on_ecn(Congestion* cc, int64_t now, int64_t sent_at, uint64_t marked, uint64_t total) noexcept nogil:
    if in_recovery(cc, sent_at):
        return False
    # A mark is never spurious: going back to before it would cancel a true signal.
    (<Cubic*>cc.state).saved_cwnd = 0
    reduce(cc, now)
    return True


cdef void on_spurious(Congestion* cc) noexcept nogil:
    """§4.9."""
    cdef Cubic* own = <Cubic*>cc.state
    cdef uint64_t saved = own.saved_cwnd
    own.saved_cwnd = 0
    if cc.cwnd >= saved:
        return
    cc.cwnd = saved if saved > min_window(cc) else min_window(cc)
    cc.ssthresh = own.saved_ssthresh
    cc.recovery_start = own.saved_recovery_start
    own.curve = own.saved_curve


@cython.cdivision(True)
cdef void on_mtu(Congestion* cc, uint64_t before) noexcept nogil:
    """Credit is a fraction of a packet and stays that fraction."""
    cdef Cubic* own = <Cubic*>cc.state
    cdef double share = <double>cc.mtu / <double>before
    own.curve.credit *= share
    own.saved_curve.credit *= share


if sizeof(Cubic) > STATE_WORDS * sizeof(uint64_t):
    raise SystemError("the state of CUBIC does not fit")
CONTROLLER.name = b"cubic"
CONTROLLER.init = init
CONTROLLER.on_acked = on_acked
CONTROLLER.on_lost = on_lost
CONTROLLER.on_ecn = on_ecn
CONTROLLER.on_spurious = on_spurious
CONTROLLER.on_mtu = on_mtu
CONTROLLER.pacing_rate = window_rate
