"""The model of a link for compiled callers: no IO, no clock, no Python objects."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    DROP_POLICER = 0
    DROP_LOSS
    DROP_BURST
    DROP_QUEUE
    DROP_OUTAGE
    DROP_CAUSES
    DELAY_BINS = 1536             # of 2^-5 of a power of two each: to beyond an hour
    SLOTS = 36000                 # tenths of a second: an hour
    SLOT_NS = 100000000

cdef struct Random:
    uint64_t state

cdef struct Span:                 # what holds from a time on, until the next
    int64_t start                 # ns since the link began
    int64_t value

cdef struct Waiting:              # a packet in the queue
    int64_t leaves                # absolute ns
    uint32_t size

cdef struct LinkCounts:
    uint64_t packets
    uint64_t bytes
    uint64_t delivered
    uint64_t delivered_bytes
    uint64_t dropped[DROP_CAUSES]
    uint64_t marked
    uint64_t overtaken

cdef struct LinkState:
    # configuration
    Span* rates                   # bytes per second
    uint32_t n_rates              # 0: no limit and no queue
    Span* outages                 # 1: lost, 0: not
    uint32_t n_outages
    int64_t delay
    int64_t jitter
    bint reorder
    uint64_t loss                 # of 2^64
    uint64_t burst_begins
    uint64_t burst_ends
    uint64_t burst_loses
    uint32_t queue                # packets
    int64_t queue_bytes
    int64_t ecn                   # packets, -1: never
    int64_t police_rate           # bytes per second, 0: no policer
    int64_t police_burst          # bytes
    # state
    int64_t began                 # -1: with the first packet
    Random luck                   # one each, so that one setting leaves the draws of others alone
    Random bursts
    Random wobble
    bint in_burst
    int64_t tokens                # 10^-9 bytes
    int64_t filled_at
    Waiting* ring                 # of `queue` packets
    uint32_t head
    uint32_t waiting
    int64_t waiting_bytes
    int64_t free_at               # when the last bit of the last packet has left
    int64_t remainder             # 10^-9 bytes that are left at that time, less than a nanosecond's worth
    uint32_t span                 # of `rates` that `free_at` is in
    int64_t last_arrival
    LinkCounts counts
    uint32_t* delays              # DELAY_BINS
    uint64_t* slots               # bytes arrived, SLOTS
    uint32_t n_slots

# When the packet arrives at the other end, or -1 when it does not. `ecn` is what its header has, and becomes what it
# has there. Calls come in the order of `now`.
cdef int64_t link_push(LinkState* link, int64_t now, uint32_t size, uint8_t* ecn) noexcept nogil
cdef void link_begin(LinkState* link, int64_t now) noexcept nogil


@cython.final
cdef class Link:
    cdef LinkState state
    cdef readonly object config

    cdef configure(self)
