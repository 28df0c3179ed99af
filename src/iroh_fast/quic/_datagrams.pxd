"""Bounded queue of byte messages in one ring (unreliable datagrams, RFC 9221)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef struct MessageQueue:
    uint8_t* ring
    uint32_t cap                  # power of two, grown up to the limit
    uint64_t head, tail           # running positions
    uint64_t limit                # payload bytes
    uint64_t bytes                # payload bytes queued
    uint64_t count
    uint64_t dropped


cdef struct Datagrams:            # of a connection
    MessageQueue rx, tx
    bint blocked                  # somebody waits for room in `tx`


cdef void queue_init(MessageQueue* q, uint64_t limit) noexcept nogil
cdef void queue_free(MessageQueue* q) noexcept nogil
# 0, or -1 when it does not fit (limit, memory). With drop_oldest room is made by forgetting old messages.
cdef int queue_push(MessageQueue* q, const uint8_t* p, uint32_t n, bint drop_oldest) noexcept nogil
cdef inline bint queue_empty(const MessageQueue* q) noexcept nogil:
    return q.count == 0
cdef uint32_t queue_peek(const MessageQueue* q) noexcept nogil         # length of the oldest message
cdef void queue_pop(MessageQueue* q, uint8_t* out) noexcept nogil      # out may be NULL: drop it

cdef inline void datagrams_wait(Datagrams* datagrams) noexcept nogil:
    """Somebody waits for room to send."""
    datagrams.blocked = True

cdef inline bint datagrams_unblock(Datagrams* datagrams) noexcept nogil:
    """Room appeared. Whether somebody has waited for it."""
    cdef bint waited = datagrams.blocked
    datagrams.blocked = False
    return waited

cdef inline void datagrams_init(Datagrams* datagrams, uint64_t rx, uint64_t tx) noexcept nogil:
    queue_init(&datagrams.rx, rx)
    queue_init(&datagrams.tx, tx)

cdef inline void datagrams_free(Datagrams* datagrams) noexcept nogil:
    queue_free(&datagrams.rx)
    queue_free(&datagrams.tx)
