"""Round trip times of one path (RFC 9002 §5). Times are ns."""

from libc.stdint cimport int64_t

from iroh_fast.quic._time cimport MS


cdef enum:
    MAX_WITHOUT_QUEUE_MS = 2000


cdef struct Rtt:
    int64_t latest, smoothed, var, min
    bint has_sample
    int64_t first_sample_at       # -1 until the first sample


cdef inline int64_t rtt_get(const Rtt* rtt) noexcept nogil:
    return rtt.smoothed if rtt.has_sample else rtt.latest

cdef inline int64_t rtt_conservative(const Rtt* rtt) noexcept nogil:
    cdef int64_t smoothed = rtt_get(rtt)
    return smoothed if smoothed > rtt.latest else rtt.latest

cdef inline int64_t rtt_pto_base(const Rtt* rtt) noexcept nogil:
    cdef int64_t deviation = 4 * rtt.var
    return rtt_get(rtt) + (deviation if deviation > 1000000 else 1000000)

cdef inline int64_t rtt_without_queue(const Rtt* rtt) noexcept nogil:
    """The round trip, at most twice the shortest one: the rest is queues that what is under way made itself.

    Never above two seconds, however long a peer keeps its acknowledgements back.
    """
    cdef int64_t usual = rtt_get(rtt), most = 2 * rtt.min
    if most > MAX_WITHOUT_QUEUE_MS * MS:
        most = MAX_WITHOUT_QUEUE_MS * MS
    return usual if usual < most else most

# Start without a sample; `initial` stands in until the first one.
cdef void rtt_init(Rtt* rtt, int64_t initial) noexcept nogil
# The caller limits `ack_delay` to what the peer declared.
cdef void rtt_sample(Rtt* rtt, int64_t now, int64_t ack_delay, int64_t sample) noexcept nogil
