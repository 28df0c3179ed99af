"""What loss recovery and congestion control know of a path. The interface of this part is in `_recovery`."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t

from iroh_fast.quic._controller cimport Congestion, View
from iroh_fast.quic._controllers cimport (
    cc_init, cc_on_app_limited, cc_on_sent, cc_on_window_full, cc_pacing_rate, cc_quantum, cc_samples, cc_view)
from iroh_fast.quic._delivery cimport Snapshot, delivery_dry, delivery_is_dry, delivery_on_sent, delivery_resumes
from iroh_fast.quic._pacer cimport Pacer, pacer_delay, pacer_init, pacer_next, pacer_on_idle, pacer_on_sent
from iroh_fast.quic._reordering cimport Reordering
from iroh_fast.quic._rtt cimport Rtt, rtt_init, rtt_pto_base
from iroh_fast.quic._sent cimport SentRec, sent_insert, sent_snapshot
from iroh_fast.quic._space cimport PnSpace


# What belongs to one 4-tuple of a path, and stays behind when the path migrates.
cdef struct Flight:
    uint32_t generation           # of the 4-tuple: packets remember theirs
    int64_t since                 # when it came into use
    Rtt rtt
    Reordering reordering
    Congestion cc
    Pacer pacer
    uint64_t in_flight


cdef struct Recovery:             # of a path
    PnSpace space                 # of 1-RTT packets; those of the handshake are in its levels
    int pto_count                 # probe timeouts in a row
    bint app_limited              # the application, not the window, limits what is sent


cdef inline void flight_init(Flight* flight, uint32_t generation, int64_t initial_rtt, int controller, uint64_t mtu,
                             int64_t now) noexcept nogil:
    flight.generation = generation
    flight.since = now
    rtt_init(&flight.rtt, initial_rtt)
    cc_init(&flight.cc, controller, mtu, now)
    pacer_init(&flight.pacer, now)

cdef inline void flight_continue(Flight* flight, const Flight* before) noexcept nogil:
    """Another 4-tuple, the same way as far as one can tell: estimates go on, what is in flight does not count."""
    flight.rtt = before.rtt
    flight.cc = before.cc
    flight.pacer = before.pacer

cdef inline void flight_expect(Flight* flight, int64_t rtt) noexcept nogil:
    """A first guess of the round trip, where none was measured."""
    if not flight.rtt.has_sample:
        rtt_init(&flight.rtt, rtt)

cdef inline int64_t flight_pto(const Flight* flight) noexcept nogil:
    return rtt_pto_base(&flight.rtt)

cdef inline bint flight_has_room(const Flight* flight, uint64_t size) noexcept nogil:
    """Whether the congestion window takes another packet."""
    return flight.in_flight + size < flight.cc.cwnd

cdef inline void flight_view(const Flight* flight, View* view) noexcept nogil:
    cc_view(&flight.cc, &flight.rtt, view)

cdef inline void flight_full(Flight* flight, int64_t now) noexcept nogil:
    """The congestion window keeps data back."""
    cc_on_window_full(&flight.cc)
    pacer_on_idle(&flight.pacer, now)

cdef inline int64_t flight_wait(Flight* flight, int64_t now, uint64_t size, double* rate) noexcept nogil:
    """How long the pacer holds a packet back. `rate`: of the pacer, -1 where it was not asked for in this batch."""
    if rate[0] < 0:
        rate[0] = cc_pacing_rate(&flight.cc, &flight.rtt)
    return pacer_delay(&flight.pacer, now, size, rate[0], size, cc_quantum(&flight.cc))

cdef inline int recovery_on_sent(Flight* flight, PnSpace* space, const SentRec* sent, uint16_t size, uint16_t flags,
                                 int64_t now) noexcept nogil:  # hot
    """An ack-eliciting packet leaves. 0, or -1 out of memory."""
    cdef Snapshot* snapshot
    if sent_insert(&space.sent, sent, size, flags) < 0:
        return -1
    if cc_samples(&flight.cc):
        snapshot = sent_snapshot(&space.sent)
        if snapshot == NULL:
            return -1
        delivery_resumes(&flight.cc.delivery, now, flight.in_flight)
        cc_on_sent(&flight.cc, now, size, flight.in_flight)
        delivery_on_sent(&flight.cc.delivery, snapshot, now, size, flight.in_flight)
    else:
        cc_on_sent(&flight.cc, now, size, flight.in_flight)
    flight.in_flight += size
    space.last_eliciting_at = now
    pacer_on_sent(&flight.pacer, size)
    return 0

cdef inline void recovery_on_migration(Recovery* recovery) noexcept nogil:
    recovery.pto_count = 0

# The peer answers on the path, be it no acknowledgement.
cdef inline void recovery_on_answer(Recovery* recovery) noexcept nogil:
    recovery.pto_count = 0

cdef inline void recovery_on_data(Recovery* recovery) noexcept nogil:
    """Packets left: the application had something to send."""
    recovery.app_limited = False

cdef inline void recovery_on_idle(Flight* flight, Recovery* recovery, bint limited, int64_t now) noexcept nogil:
    """Nothing more leaves now. `limited`: for want of data."""
    recovery.app_limited = limited
    if not limited:
        return
    if cc_samples(&flight.cc) and not delivery_is_dry(&flight.cc.delivery) and flight_has_room(flight, flight.cc.mtu):
        delivery_dry(&flight.cc.delivery, pacer_next(&flight.pacer, now))
    pacer_on_idle(&flight.pacer, now)
    cc_on_app_limited(&flight.cc, now)
