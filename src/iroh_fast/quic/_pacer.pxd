"""Pacing of one path: a token bucket that is filled at the rate the controller asks for, and emptied in bursts.

Three sizes: a *burst* leaves at once, and is what one look at the pacer lets through; the *quantum* is what a burst is
meant to be, about a millisecond of the rate; the *opening* is what a path may send before anything is known of it.
"""

from libc.stdint cimport uint64_t, int64_t


cdef struct Pacer:
    double rate                   # bytes per ns that the quantum was made for, 0: unpaced
    uint64_t mtu, asked           # ... and the packet size, and the controller's wish
    int64_t quantum               # bytes, whole packets
    int64_t apart                 # ns between two bursts at least, half a quantum's time
    int64_t most                  # tokens that are kept while late looks are made up for
    int64_t burst                 # bytes that may leave without another look
    int64_t tokens                # bytes earned and not sent; below 0: what left unasked
    uint64_t sent
    int64_t filled_at
    int64_t granted_at            # when the last burst was let through
    bint behind                   # data waits for tokens alone: a late look finds those of the time it is late
    int64_t due                   # ... which the next look should come at
    int64_t late                  # how late looks are, ns, smoothed
    double carry                  # part of a byte the last refill was off by, within 0.5 either way


cdef void pacer_init(Pacer* pacer, int64_t now) noexcept nogil

cdef inline void pacer_on_sent(Pacer* pacer, uint64_t size) noexcept nogil:
    pacer.tokens -= <int64_t>size
    pacer.burst -= <int64_t>size
    pacer.sent += size

# Something else than the pacer holds data back, or there is none: time that passes now earns no more than a quantum.
cdef void pacer_on_idle(Pacer* pacer, int64_t now) noexcept nogil

cdef int64_t pacer_refill(Pacer* pacer, int64_t now, uint64_t need, double rate, uint64_t mtu, uint64_t quantum) noexcept nogil

cdef inline int64_t pacer_delay(Pacer* pacer, int64_t now, uint64_t need, double rate, uint64_t mtu, uint64_t quantum) noexcept nogil:  # hot
    """0 when `need` bytes, at most a packet, may go now, else ns to wait.

    `rate`: bytes per ns, 0 unpaced. `quantum`: bytes that the controller wants to leave at a time, 0: about a millisecond.
    """
    if pacer.burst >= <int64_t>need and rate == pacer.rate and mtu == pacer.mtu and quantum == pacer.asked:
        return 0                      # a further packet of the same burst
    return pacer_refill(pacer, now, need, rate, mtu, quantum)

# When a packet could leave at the earliest, without asking for it.
cdef int64_t pacer_next(const Pacer* pacer, int64_t now) noexcept nogil
