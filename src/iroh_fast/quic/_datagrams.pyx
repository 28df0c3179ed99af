"""Bounded queue of byte messages in one ring (unreliable datagrams, RFC 9221)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc, free
from libc.string cimport memcpy, memset

cdef enum:
    HEADER = 4


cdef void queue_init(MessageQueue* q, uint64_t limit) noexcept nogil:
    memset(q, 0, sizeof(MessageQueue))
    q.limit = limit


cdef void queue_free(MessageQueue* q) noexcept nogil:
    free(q.ring)
    q.ring = NULL
    q.cap = 0
    q.head = q.tail = q.bytes = q.count = 0


cdef void put(MessageQueue* q, uint64_t at, const uint8_t* p, uint32_t n) noexcept nogil:
    cdef uint32_t i = <uint32_t>(at & (q.cap - 1))
    cdef uint32_t k = q.cap - i
    if n <= k:
        memcpy(q.ring + i, p, n)
    else:
        memcpy(q.ring + i, p, k)
        memcpy(q.ring, p + k, n - k)


cdef void get(const MessageQueue* q, uint64_t at, uint8_t* p, uint32_t n) noexcept nogil:
    cdef uint32_t i = <uint32_t>(at & (q.cap - 1))
    cdef uint32_t k = q.cap - i
    if n <= k:
        memcpy(p, q.ring + i, n)
    else:
        memcpy(p, q.ring + i, k)
        memcpy(p + k, q.ring, n - k)


cdef int grow(MessageQueue* q, uint64_t need) noexcept nogil:
    cdef uint32_t cap = q.cap if q.cap else 4096
    cdef uint8_t* ring
    cdef uint64_t used = q.tail - q.head
    while cap < need:
        if cap >= (<uint32_t>1 << 30):
            return -1
        cap *= 2
    ring = <uint8_t*>malloc(cap)
    if ring == NULL:
        return -1
    if used:
        get(q, q.head, ring, <uint32_t>used)
    free(q.ring)
    q.ring = ring
    q.cap = cap
    q.head = 0
    q.tail = used
    return 0


cdef uint32_t queue_peek(const MessageQueue* q) noexcept nogil:
    cdef uint32_t n = 0
    get(q, q.head, <uint8_t*>&n, HEADER)
    return n


cdef void queue_pop(MessageQueue* q, uint8_t* out) noexcept nogil:
    cdef uint32_t n = queue_peek(q)
    if out != NULL:
        get(q, q.head + HEADER, out, n)
    q.head += HEADER + n
    q.bytes -= n
    q.count -= 1
    if q.count == 0:
        q.head = q.tail = 0


cdef int queue_push(MessageQueue* q, const uint8_t* p, uint32_t n, bint drop_oldest) noexcept nogil:
    if n > q.limit:
        return -1
    # The header counts too, else empty messages would be unbounded.
    while q.bytes + n > q.limit or q.count * HEADER >= q.limit:
        if not drop_oldest or q.count == 0:
            return -1
        queue_pop(q, NULL)
        q.dropped += 1
    if q.tail - q.head + HEADER + n > q.cap and grow(q, q.tail - q.head + HEADER + n) < 0:
        return -1
    put(q, q.tail, <const uint8_t*>&n, HEADER)
    put(q, q.tail + HEADER, p, n)
    q.tail += HEADER + n
    q.bytes += n
    q.count += 1
    return 0
