"""Round trip times of one path (RFC 9002 §5)."""

cimport cython

from iroh_fast.quic._time cimport clamp_ns


@cython.cdivision(True)
cdef void rtt_init(Rtt* rtt, int64_t initial) noexcept nogil:
    initial = clamp_ns(initial)
    rtt.latest = initial
    rtt.smoothed = 0
    rtt.var = initial / 2
    rtt.min = initial
    rtt.has_sample = False
    rtt.first_sample_at = -1


@cython.cdivision(True)
cdef void rtt_sample(Rtt* rtt, int64_t now, int64_t ack_delay, int64_t sample) noexcept nogil:
    cdef int64_t adjusted, deviation
    sample = clamp_ns(sample)
    ack_delay = clamp_ns(ack_delay)
    rtt.latest = sample
    if not rtt.has_sample:
        rtt.has_sample = True
        rtt.first_sample_at = now
        rtt.smoothed = sample
        rtt.var = sample / 2
        rtt.min = sample
        return
    if sample < rtt.min:
        rtt.min = sample
    # A delay that would push the sample below the minimum is not believed.
    adjusted = sample - ack_delay if rtt.min + ack_delay <= sample else sample
    deviation = rtt.smoothed - adjusted
    if deviation < 0:
        deviation = -deviation
    rtt.var = (3 * rtt.var + deviation) / 4
    rtt.smoothed = (7 * rtt.smoothed + adjusted) / 8
