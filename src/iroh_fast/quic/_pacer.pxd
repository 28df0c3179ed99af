"""Pacing of one path: a token bucket that is filled at the rate the controller asks for."""

from libc.stdint cimport uint64_t, int64_t


cdef struct Pacer:
    uint64_t capacity, tokens
    double rate                   # that the capacity was made for
    uint64_t mtu
    int64_t filled_at
    bint started
    double carry                  # part of a byte the last refill was off by, within 0.5 either way


cdef void pacer_init(Pacer* pacer, int64_t now) noexcept nogil
cdef inline void pacer_on_sent(Pacer* pacer, uint64_t size) noexcept nogil:
    pacer.tokens = pacer.tokens - size if size < pacer.tokens else 0

cdef int64_t pacer_refill(Pacer* pacer, int64_t now, uint64_t need, double rate, uint64_t mtu) noexcept nogil

cdef inline int64_t pacer_delay(Pacer* pacer, int64_t now, uint64_t need, double rate, uint64_t mtu) noexcept nogil:  # hot
    """Refill at `rate` (bytes per ns; 0: unpaced); 0 when at least `need` bytes may go now, else ns to wait.

    Afterwards pacer.tokens bounds the burst.
    """
    if pacer.tokens >= need and now == pacer.filled_at and rate == pacer.rate and mtu == pacer.mtu and pacer.started:
        return 0                      # a further packet of the same batch
    return pacer_refill(pacer, now, need, rate, mtu)
