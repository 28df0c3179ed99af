"""Pacing of one path (RFC 9002 §7.7)."""

cimport cython
from libc.string cimport memset

from iroh_fast.quic._controller cimport clamp_mtu
from iroh_fast.quic._time cimport MAX_NS


cdef enum:
    MIN_BURST = 10                # packets
    MAX_BURST = 256

# How long the path may be busy with one burst: so much for efficient batches, yet never more than the limit (ns).
cdef double BURST_NS = 1.6e6
cdef double LIMIT_NS = 8e6


cdef void pacer_init(Pacer* pacer, int64_t now) noexcept nogil:
    """A bucket that is full as soon as `pacer_delay` first learns its size."""
    memset(pacer, 0, sizeof(Pacer))
    pacer.filled_at = now


cdef void resize(Pacer* pacer, double rate, uint64_t mtu) noexcept nogil:
    cdef double packet = <double>clamp_mtu(mtu)
    cdef double burst = MAX_BURST * packet
    cdef double limit
    if rate > 0:
        burst = rate * BURST_NS
        if burst < MIN_BURST * packet:
            burst = MIN_BURST * packet
        elif burst > MAX_BURST * packet:
            burst = MAX_BURST * packet
        limit = rate * LIMIT_NS
        if limit < packet:
            limit = packet
        if burst > limit:
            burst = limit
    pacer.capacity = <uint64_t>(burst + 1e-6)    # 1e-6: undo the rounding of exact results
    if not pacer.started:
        pacer.started = True
        pacer.tokens = pacer.capacity
    elif pacer.tokens > pacer.capacity:
        pacer.tokens = pacer.capacity
    pacer.rate = rate
    pacer.mtu = mtu


@cython.cdivision(True)
cdef int64_t pacer_refill(Pacer* pacer, int64_t now, uint64_t need, double rate, uint64_t mtu) noexcept nogil:
    """Waiting for a full bucket instead of one packet is deliberate: it batches. A `need` above the capacity is
    satisfied by a full bucket, it could never be met otherwise.
    """
    cdef double add, wait
    cdef int64_t whole            # signed numbers become doubles, and back, with one instruction
    if not pacer.started or rate != pacer.rate or mtu != pacer.mtu:
        resize(pacer, rate, mtu)
    if rate <= 0:
        pacer.tokens = pacer.capacity
        if now > pacer.filled_at:
            pacer.filled_at = now
        return 0
    if now > pacer.filled_at:
        add = pacer.carry + rate * <double>(now - pacer.filled_at)
        if add >= <double><int64_t>(pacer.capacity - pacer.tokens):
            pacer.tokens = pacer.capacity
            pacer.carry = 0
        else:
            # Rounded, with the rest kept: otherwise frequent polls would gain or lose rate.
            whole = <int64_t>(add + 0.5)
            pacer.tokens += <uint64_t>whole
            pacer.carry = add - <double>whole
        pacer.filled_at = now
    if pacer.tokens >= need or pacer.tokens >= pacer.capacity:
        return 0
    wait = <double>(pacer.capacity - pacer.tokens) / rate
    if wait >= <double>MAX_NS:
        return MAX_NS
    return <int64_t>wait if wait >= 1 else 1
