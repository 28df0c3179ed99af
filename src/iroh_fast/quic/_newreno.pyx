"""NewReno (RFC 9002 §7), beginning with HyStart++ (RFC 9406)."""

from libc.stdint cimport uint64_t, int64_t

from iroh_fast.quic._controller cimport (
    Acked, Congestion, Controller, Lost, MAX_ACKED, STATE_WORDS, grow_window, in_recovery, min_window, reduced_window,
    window_rate)
from iroh_fast.quic._hystart cimport hystart_init, hystart_on_acked

cdef Controller CONTROLLER


cdef const Controller* newreno() noexcept nogil:
    return &CONTROLLER


cdef void init(Congestion* cc, int64_t now) noexcept nogil:
    cc.recovery_start = now
    hystart_init(&(<NewReno*>cc.state).hystart, now)


cdef void on_acked(Congestion* cc, const Acked* acked) noexcept nogil:
    cdef NewReno* own = <NewReno*>cc.state
    cdef uint64_t size = acked.fresh
    if cc.cwnd < cc.ssthresh:
        size = hystart_on_acked(&own.hystart, cc, acked)
    if acked.app_limited or size == 0:
        return
    own.bytes_acked += size if size < MAX_ACKED else MAX_ACKED
    while own.bytes_acked >= cc.cwnd:
        own.bytes_acked -= cc.cwnd
        grow_window(cc, cc.mtu)


cdef void reduce(Congestion* cc, int64_t now) noexcept nogil:
    cdef NewReno* own = <NewReno*>cc.state
    cc.events += 1
    cc.recovery_start = now
    cc.cwnd = cc.ssthresh = reduced_window(cc, 5)
    own.bytes_acked = 0


cdef bint on_lost(Congestion* cc, const Lost* lost) noexcept nogil:
    cdef NewReno* own = <NewReno*>cc.state
    if in_recovery(cc, lost.sent_at):
        return False
    own.saved = True
    own.saved_cwnd = cc.cwnd
    own.saved_ssthresh = cc.ssthresh
    own.saved_bytes_acked = own.bytes_acked
    own.saved_recovery_start = cc.recovery_start
    reduce(cc, lost.now)
    if lost.persistent:
        cc.recovery_start = -1
        cc.cwnd = min_window(cc)
    return True


cdef bint on_ecn(Congestion* cc, int64_t now, int64_t sent_at, uint64_t marked, uint64_t total) noexcept nogil:
    if in_recovery(cc, sent_at):
        return False
    # A mark is never spurious: going back to before it would cancel a true signal.
    (<NewReno*>cc.state).saved = False
    reduce(cc, now)
    return True


cdef void on_spurious(Congestion* cc) noexcept nogil:
    cdef NewReno* own = <NewReno*>cc.state
    if not own.saved:
        return
    own.saved = False
    if cc.cwnd >= own.saved_cwnd:
        return
    cc.cwnd = own.saved_cwnd if own.saved_cwnd > min_window(cc) else min_window(cc)
    cc.ssthresh = own.saved_ssthresh
    cc.recovery_start = own.saved_recovery_start
    own.bytes_acked = own.saved_bytes_acked


if sizeof(NewReno) > STATE_WORDS * sizeof(uint64_t):
    raise SystemError("the state of NewReno does not fit")
CONTROLLER.name = b"newreno"
CONTROLLER.init = init
CONTROLLER.on_acked = on_acked
CONTROLLER.on_lost = on_lost
CONTROLLER.on_ecn = on_ecn
CONTROLLER.on_spurious = on_spurious
CONTROLLER.pacing_rate = window_rate
