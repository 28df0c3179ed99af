"""The sending half's bytes: they stay until acknowledged."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

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
cdef int sendbuf_lost(SendBuf* b, uint64_t offset, uint64_t n) noexcept nogil                # already acked parts are ignored
cdef void sendbuf_rewind(SendBuf* b) noexcept nogil                    # 0-RTT rejected or Retry: send all unacked again

# --- what each packet does: inline while nothing was lost or came out of order
cdef bint sendbuf_poll_rest(SendBuf* b, size_t maximum, uint64_t* offset, size_t* n, bint* again) noexcept nogil
cdef void sendbuf_copy_rest(SendBuf* b, uint64_t offset, size_t n, uint8_t* dst) noexcept nogil
cdef int sendbuf_ack_rest(SendBuf* b, uint64_t offset, uint64_t n) noexcept nogil
cdef void sendbuf_let_go(SendBuf* b) noexcept nogil

cdef inline bint sendbuf_poll(SendBuf* b, size_t maximum, uint64_t* offset, size_t* n, bint* again) noexcept nogil:  # hot
    """The next range to send, at most `maximum` bytes, lost ranges first. Marks it sent. False: nothing."""
    cdef uint64_t size = b.end - b.next
    if b.lost.n or b.acked_ranges.n:
        return sendbuf_poll_rest(b, maximum, offset, n, again)
    if size > maximum:
        size = maximum
    if size == 0:
        return False
    offset[0] = b.next
    n[0] = <size_t>size
    again[0] = False
    b.next += size
    return True

cdef inline void sendbuf_copy(SendBuf* b, uint64_t offset, size_t n, uint8_t* dst) noexcept nogil:  # hot
    """Copy [offset, offset+n), a range from sendbuf_poll, to `dst`.

    Bytes no longer or not yet held are written as zeros: a caller's mistake must not leak
    old memory to the wire.
    """
    cdef Segment* segment
    if ((b.cursor - b.head) & b.mask) < b.count:
        segment = &b.segs[b.cursor]
        # below its start the difference is huge
        if offset - segment.start < segment.len and n <= segment.len - (offset - segment.start):
            b.steps += 1
            memcpy(dst, segment.base + (offset - segment.start), n)
            return
    sendbuf_copy_rest(b, offset, n, dst)

cdef inline int sendbuf_ack(SendBuf* b, uint64_t offset, uint64_t n) noexcept nogil:  # hot
    """Mark [offset, offset+n) acknowledged; bytes below the first gap are let go.

    0, or -1 out of memory: then at worst the range is sent once more.
    """
    if offset != b.acked or n > b.next - offset or b.acked_ranges.n or b.lost.n:
        return sendbuf_ack_rest(b, offset, n)
    b.acked += n
    if b.count and b.segs[b.head].start + b.segs[b.head].len <= b.acked:
        sendbuf_let_go(b)
    return 0
