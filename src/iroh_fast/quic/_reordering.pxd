"""How far packets of one path overtake each other, and how long an overtaken one is waited for."""

from libc.stdint cimport uint32_t, uint64_t, int64_t

from iroh_fast.quic._rtt cimport Rtt


# Of zeros: nothing was seen yet, RFC 9002's thresholds hold.
cdef struct Reordering:
    bint seen                     # a lost packet arrived after all: numbers say nothing any more, only time does
    uint32_t steps                # quarters of the least RTT that are waited for
    uint32_t calm                 # congestion events after which the next smaller step does
    uint64_t round_end            # losses of packets below were answered


# Time since it was sent after which an overtaken packet counts as lost.
cdef int64_t reordering_delay(const Reordering* reordering, const Rtt* rtt, double time_threshold) noexcept nogil
# The packet `pn` had been declared lost, and arrived.
cdef void reordering_on_spurious(Reordering* reordering, uint64_t pn, uint64_t next_pn) noexcept nogil
# A congestion event began.
cdef void reordering_on_event(Reordering* reordering) noexcept nogil
