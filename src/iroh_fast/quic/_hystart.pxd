"""HyStart++ (RFC 9406): a slow start that ends when the queue begins to grow, not when it overflows."""

from libc.stdint cimport uint32_t, uint64_t, int64_t

from iroh_fast.quic._controller cimport Acked, Congestion


# Of the first slow start of a path. Times are ns, NEVER: not known.
cdef struct Hystart:
    int64_t round_start           # a round ends when something that was sent after it began is acknowledged
    int64_t last_min, least       # least round trip of the last round and of the present one
    int64_t baseline              # ... of the round in which the delay rose; NEVER: it did not, or fell again
    uint32_t samples              # round trips measured in this round
    uint32_t rounds               # of conservative slow start that have ended


cdef void hystart_init(Hystart* own, int64_t now) noexcept nogil

# Slow start by what was acknowledged; the bytes that are left for congestion avoidance.
cdef uint64_t hystart_on_acked(Hystart* own, Congestion* cc, const Acked* acked) noexcept nogil
