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

cdef inline uint64_t sendbuf_unacked(const SendBuf* buffer) noexcept nogil:
    return buffer.end - buffer.acked

cdef inline bint sendbuf_has_pending(const SendBuf* buffer) noexcept nogil:
    return buffer.next < buffer.end or buffer.lost.n > 0

cdef void sendbuf_init(SendBuf* buffer) noexcept nogil
cdef void sendbuf_free(SendBuf* buffer) noexcept nogil                      # takes the GIL itself when it must drop references
cdef int sendbuf_write_ref(SendBuf* buffer, object owner, const uint8_t* p, size_t n) except -1   # keeps a reference
cdef int sendbuf_write_copy(SendBuf* buffer, const uint8_t* p, size_t n) noexcept nogil           # 0, -1 out of memory
cdef int sendbuf_lost(SendBuf* buffer, uint64_t offset, uint64_t n) noexcept nogil                # already acked parts are ignored
cdef void sendbuf_rewind(SendBuf* buffer) noexcept nogil                    # 0-RTT rejected or Retry: send all unacked again

# --- what each packet does: inline while nothing was lost or came out of order
cdef bint sendbuf_poll_rest(SendBuf* buffer, size_t maximum, uint64_t* offset, size_t* n, bint* again) noexcept nogil
cdef void sendbuf_copy_rest(SendBuf* buffer, uint64_t offset, size_t n, uint8_t* dst) noexcept nogil
cdef int sendbuf_ack_rest(SendBuf* buffer, uint64_t offset, uint64_t n) noexcept nogil
cdef void sendbuf_let_go(SendBuf* buffer) noexcept nogil

cdef inline bint sendbuf_poll(SendBuf* buffer, size_t maximum, uint64_t* offset, size_t* n, bint* again) noexcept nogil:  # hot
    """The next range to send, at most `maximum` bytes, lost ranges first. Marks it sent. False: nothing."""
    cdef uint64_t size = buffer.end - buffer.next
    if buffer.lost.n or buffer.acked_ranges.n:
        return sendbuf_poll_rest(buffer, maximum, offset, n, again)
    if size > maximum:
        size = maximum
    if size == 0:
        return False
    offset[0] = buffer.next
    n[0] = <size_t>size
    again[0] = False
    buffer.next += size
    return True

cdef inline void sendbuf_copy(SendBuf* buffer, uint64_t offset, size_t n, uint8_t* dst) noexcept nogil:  # hot
    """Copy [offset, offset+n), a range from sendbuf_poll, to `dst`.

    Bytes no longer or not yet held are written as zeros: a caller's mistake must not leak
    old memory to the wire.
    """
    cdef Segment* segment
    if ((buffer.cursor - buffer.head) & buffer.mask) < buffer.count:
        segment = &buffer.segs[buffer.cursor]
        # below its start the difference is huge
        if offset - segment.start < segment.len and n <= segment.len - (offset - segment.start):
            buffer.steps += 1
            memcpy(dst, segment.base + (offset - segment.start), n)
            return
    sendbuf_copy_rest(buffer, offset, n, dst)

cdef inline int sendbuf_ack(SendBuf* buffer, uint64_t offset, uint64_t n) noexcept nogil:  # hot
    """Mark [offset, offset+n) acknowledged; bytes below the first gap are let go.

    0, or -1 out of memory: then at worst the range is sent once more.
    """
    if offset != buffer.acked or n > buffer.next - offset or buffer.acked_ranges.n or buffer.lost.n:
        return sendbuf_ack_rest(buffer, offset, n)
    buffer.acked += n
    if buffer.count and buffer.segs[buffer.head].start + buffer.segs[buffer.head].len <= buffer.acked:
        sendbuf_let_go(buffer)
    return 0
