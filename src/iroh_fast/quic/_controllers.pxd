"""Congestion control of one path: which controllers there are, and how they are called. See `_controller`."""

from libc.stdint cimport uint64_t, int64_t

from iroh_fast.quic._controller cimport Acked, Congestion, Controller, Lost, LostPacket, View
from iroh_fast.quic._delivery cimport Snapshot
from iroh_fast.quic._rtt cimport Rtt


cdef enum:
    CC_CUBIC = 0
    CC_NEW_RENO = 1
    CC_BBR = 2


# An unknown kind is Cubic. Window clamp(14720, 2 MTU, 10 MTU).
cdef void cc_init(Congestion* cc, int kind, uint64_t mtu, int64_t now) noexcept nogil

cdef inline void cc_on_sent(Congestion* cc, int64_t now, uint64_t size, uint64_t in_flight) noexcept nogil:
    if cc.controller.on_sent != NULL:
        cc.controller.on_sent(cc, now, size, in_flight)

# Once per acknowledgement, with the summed size of its packets.
cdef inline void cc_on_acked(Congestion* cc, const Acked* acked) noexcept nogil:
    cc.controller.on_acked(cc, acked)

# Once per acknowledgement, after `cc_on_lost`.
cdef inline void cc_on_settled(Congestion* cc, const Acked* acked) noexcept nogil:
    if cc.controller.on_settled != NULL:
        cc.controller.on_settled(cc, acked)

cdef inline bint cc_samples(const Congestion* cc) noexcept nogil:
    return cc.controller.samples

# `snapshot`: of the packet, NULL where there are none.
cdef inline void cc_on_packet_lost(Congestion* cc, int64_t now, int64_t sent_at, uint64_t size, const Snapshot* snapshot) noexcept nogil:
    cdef LostPacket lost
    if not cc.controller.samples or snapshot == NULL:
        return
    cc.delivery.lost += size
    lost.now = now
    lost.sent_at = sent_at
    lost.size = size
    lost.snapshot = snapshot
    cc.controller.on_packet_lost(cc, &lost)

# A packet waits for the window alone.
cdef inline void cc_on_window_full(Congestion* cc) noexcept nogil:
    cc.window_full = True

cdef inline bint cc_on_lost(Congestion* cc, const Lost* lost) noexcept nogil:
    return cc.controller.on_lost(cc, lost)

cdef inline bint cc_on_ecn(Congestion* cc, int64_t now, int64_t sent_at, uint64_t marked, uint64_t total) noexcept nogil:
    return cc.controller.on_ecn != NULL and cc.controller.on_ecn(cc, now, sent_at, marked, total)

cdef inline void cc_on_spurious(Congestion* cc) noexcept nogil:
    cc.spurious_events += 1
    if cc.controller.on_spurious != NULL:
        cc.controller.on_spurious(cc)

cdef inline void cc_on_app_limited(Congestion* cc, int64_t now) noexcept nogil:
    if cc.controller.on_app_limited != NULL:
        cc.controller.on_app_limited(cc, now)

# Bytes that may leave at a time; 0: as the pacer likes.
cdef inline uint64_t cc_quantum(const Congestion* cc) noexcept nogil:
    return cc.quantum

# Bytes per ns; 0: unpaced.
cdef inline double cc_pacing_rate(const Congestion* cc, const Rtt* rtt) noexcept nogil:
    return cc.controller.pacing_rate(cc, rtt)

cdef void cc_view(const Congestion* cc, const Rtt* rtt, View* view) noexcept nogil

# The path MTU changed; the window never stays below two of the new packets.
cdef void cc_on_mtu(Congestion* cc, uint64_t mtu) noexcept nogil
