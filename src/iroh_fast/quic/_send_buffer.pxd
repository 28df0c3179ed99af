"""The sending half's bytes: they stay until acknowledged."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast.quic._ranges cimport RangeSet


cdef struct Segment:
    PyObject* owner               # strong reference to an immutable bytes, or NULL: `base` is malloc'ed
    uint8_t* base
    uint64_t start                # stream offset of base[0]
    size_t len, cap

cdef struct SendBuf:
    Segment* segs                 # power-of-two ring
    uint32_t head, count, mask
    uint64_t acked                # everything below is acknowledged
    uint64_t next                 # first offset never sent
    uint64_t end                  # bytes accepted so far
    RangeSet acked_ranges         # acknowledged out of order
    RangeSet lost                 # to send again, served first
    uint32_t cursor               # ring index of the segment last read, a hint
    uint32_t steps                # segments looked at while searching; tests bound the work with it

cdef inline uint64_t sendbuf_unacked(const SendBuf* b) noexcept nogil:
    return b.end - b.acked

cdef inline bint sendbuf_has_pending(const SendBuf* b) noexcept nogil:
    return b.next < b.end or b.lost.n > 0

cdef void sendbuf_init(SendBuf* b) noexcept nogil
cdef void sendbuf_free(SendBuf* b) noexcept nogil                      # takes the GIL itself when it must drop references
cdef int sendbuf_write_ref(SendBuf* b, object owner, const uint8_t* p, size_t n) except -1   # keeps a reference
cdef int sendbuf_write_copy(SendBuf* b, const uint8_t* p, size_t n) noexcept nogil           # 0, -1 out of memory
# The next range to send, at most `maximum` bytes, lost ranges first. Marks it sent. False: nothing.
cdef bint sendbuf_poll(SendBuf* b, size_t maximum, uint64_t* offset, size_t* n, bint* again) noexcept nogil
cdef void sendbuf_copy(SendBuf* b, uint64_t offset, size_t n, uint8_t* dst) noexcept nogil
cdef int sendbuf_ack(SendBuf* b, uint64_t offset, uint64_t n) noexcept nogil
cdef int sendbuf_lost(SendBuf* b, uint64_t offset, uint64_t n) noexcept nogil                # already acked parts are ignored
cdef void sendbuf_rewind(SendBuf* b) noexcept nogil                    # 0-RTT rejected or Retry: send all unacked again
