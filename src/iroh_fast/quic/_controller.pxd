"""What a congestion controller is to the rest: one table of functions and one structure with room for its own state.

A controller is a module that fills a `Controller` and hands out its address; `_controllers` lists them. Times are ns,
sizes bytes of QUIC packets.
"""

from libc.stdint cimport uint64_t, int64_t

from iroh_fast.quic._delivery cimport Delivery, RateSample, Snapshot
from iroh_fast.quic._rtt cimport Rtt


cdef extern from *:
    """
    #define IF_MAX_WINDOW (UINT64_C(1) << 60)       /* 7 * this still fits */
    #define IF_MAX_ACKED (UINT64_C(1) << 26)        /* bytes one call may grow by in avoidance */
    #define IF_UNPACED_WINDOW (UINT64_C(1) << 32)
    """
    const uint64_t MAX_WINDOW "IF_MAX_WINDOW"
    const uint64_t MAX_ACKED "IF_MAX_ACKED"
    const uint64_t UNPACED_WINDOW "IF_UNPACED_WINDOW"
    const uint64_t UINT64_MAX


cdef enum:
    STATE_WORDS = 72              # of 8 bytes, for the controller's own state


# One acknowledgement, as far as it is about packets sent on the present route.
cdef struct Acked:
    int64_t now
    int64_t sent_at               # of the newest packet
    uint64_t size                 # of all of them
    uint64_t fresh                # ... that were sent after the recovery period began: these let a window grow
    uint64_t in_flight            # after it
    bint app_limited              # the window was not what kept us from sending
    bint measured                 # rtt.latest is of this acknowledgement
    const Rtt* rtt
    RateSample sample             # where the controller wants samples


# A batch of packets declared lost together.
cdef struct Lost:
    int64_t now
    int64_t sent_at               # of the newest packet
    uint64_t size
    uint64_t in_flight            # after it
    bint persistent               # persistent congestion (RFC 9002 §7.6)


cdef struct Congestion:
    const Controller* controller
    uint64_t cwnd                 # bytes that may be in flight
    uint64_t ssthresh             # UINT64_MAX: no limit yet
    uint64_t mtu
    int64_t recovery_start        # what was sent up to here belongs to an event that was answered; -1: none
    uint64_t events, spurious_events
    uint64_t quantum              # bytes that may leave at a time; 0: that is the pacer's to say
    bint window_full              # it kept a packet back; a controller that wants to know resets it
    Delivery delivery             # of the path, where the controller wants samples
    uint64_t state[72]            # STATE_WORDS


# One packet declared lost, whose size is in cc.delivery.lost already.
cdef struct LostPacket:
    int64_t now, sent_at
    uint64_t size
    const Snapshot* snapshot      # as of its leaving


# What a controller thinks of a path, for those who ask.
cdef struct View:
    const char* mode              # NULL: it has none
    double pacing_rate, bandwidth # bytes per ns; 0: unpaced, not known
    int64_t min_rtt               # 0: not known
    uint64_t inflight_longterm, inflight_shortterm        # UINT64_MAX: no bound
    double own_loss               # share of packets that the path loses whatever we send


# Functions that a controller has no use for are NULL, but for on_acked, on_lost and pacing_rate.
cdef struct Controller:
    const char* name
    bint samples                  # packets remember what was delivered when they left, acknowledgements carry a sample
    void (*init)(Congestion* cc, int64_t now) noexcept nogil
    # `in_flight`: before the packet
    void (*on_sent)(Congestion* cc, int64_t now, uint64_t size, uint64_t in_flight) noexcept nogil
    void (*on_acked)(Congestion* cc, const Acked* acked) noexcept nogil
    # the same acknowledgement, after what it shows to be lost was told
    void (*on_settled)(Congestion* cc, const Acked* acked) noexcept nogil
    # each packet, before `on_lost` tells them all; only where samples are wanted
    void (*on_packet_lost)(Congestion* cc, const LostPacket* lost) noexcept nogil
    # True: it answers a new congestion event, not one of the present recovery period
    bint (*on_lost)(Congestion* cc, const Lost* lost) noexcept nogil
    # the peer saw CE marks on `marked` of `total` packets more, up to the one sent at `sent_at`; the result as of on_lost
    bint (*on_ecn)(Congestion* cc, int64_t now, int64_t sent_at, uint64_t marked, uint64_t total) noexcept nogil
    # everything that was lost in the last event arrived after all
    void (*on_spurious)(Congestion* cc) noexcept nogil
    void (*on_app_limited)(Congestion* cc, int64_t now) noexcept nogil
    void (*on_mtu)(Congestion* cc, uint64_t before) noexcept nogil       # cc.mtu has changed
    # bytes per ns; 0: as fast as the window allows
    double (*pacing_rate)(const Congestion* cc, const Rtt* rtt) noexcept nogil
    void (*view)(const Congestion* cc, View* view) noexcept nogil


cdef inline uint64_t clamp_mtu(uint64_t mtu) noexcept nogil:
    if mtu == 0:
        return 1
    return 65535 if mtu > 65535 else mtu

cdef inline uint64_t min_window(const Congestion* cc) noexcept nogil:
    return 2 * cc.mtu

cdef inline void grow_window(Congestion* cc, uint64_t by) noexcept nogil:
    cc.cwnd = cc.cwnd + by if by < MAX_WINDOW - cc.cwnd else MAX_WINDOW

# A tenth of the window so many times, yet at least two packets.
cdef inline uint64_t reduced_window(const Congestion* cc, uint64_t tenths) noexcept nogil:
    cdef uint64_t window = cc.cwnd * tenths // 10
    return window if window > min_window(cc) else min_window(cc)

# Whether a loss or mark belongs to the recovery period that has begun already (RFC 9002 §7.3.2).
cdef inline bint in_recovery(const Congestion* cc, int64_t sent_at) noexcept nogil:
    return cc.recovery_start >= 0 and sent_at <= cc.recovery_start

# Slow start (RFC 9002 §7.3.1) by up to `size` acknowledged bytes; what is left for congestion avoidance.
cdef inline uint64_t slow_start(Congestion* cc, uint64_t size) noexcept nogil:
    cdef uint64_t room, take = size
    if cc.cwnd >= cc.ssthresh:
        return size
    room = cc.ssthresh - cc.cwnd
    if size > room:
        # Whole packets up to the one that crosses ssthresh, the rest is avoidance.
        take = (room + cc.mtu - 1) // cc.mtu * cc.mtu
        if take > size:
            take = size
    grow_window(cc, take)
    return size - take

# RFC 9002 §7.7: a quarter above the window per round trip, so that the pacer is never what limits; twice the window where it
# may double within the round trip.
cdef inline double window_rate(const Congestion* cc, const Rtt* rtt) noexcept nogil:
    cdef int64_t smoothed = rtt.smoothed if rtt.has_sample else rtt.latest
    if smoothed <= 0 or cc.cwnd > UNPACED_WINDOW:
        return 0
    return (2.0 if cc.cwnd < cc.ssthresh else 1.25) * <double><int64_t>cc.cwnd / <double>smoothed
