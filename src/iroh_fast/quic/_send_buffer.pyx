"""The sending half's bytes: they stay until the peer acknowledged them.

A plain C struct driven by ``nogil`` functions; an empty one owns no memory, so that ten thousand idle streams cost
only their structs. Memory comes from ``PyMem_Raw*``, which needs no GIL and is seen by tracemalloc; the GIL is taken
only to drop a reference. One buffer belongs to one thread. Wire: RFC 9000 §2.2, §13.3, §19.8.
"""

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from iroh_fast.quic._ranges cimport RangeSet, ranges_add, ranges_at, ranges_delete, ranges_free, ranges_remove

cdef extern from "Python.h" nogil:
    void raw_incref "Py_INCREF" (PyObject* o)
    void raw_decref "Py_DECREF" (PyObject* o)

cdef enum:
    TAIL_FIRST = 2048             # copied writes: size of the first tail segment
    TAIL_MAX = 16384              # and what doubling stops at
    RING_MAX = 1 << 26

# Largest stream offset (RFC 9000 §4.5).
cdef uint64_t OFFSET_END = <uint64_t>1 << 62


cdef void drop_object(PyObject* o) noexcept with gil:
    raw_decref(o)


cdef void sendbuf_init(SendBuf* buffer) noexcept nogil:
    memset(buffer, 0, sizeof(SendBuf))


cdef void drop_head(SendBuf* buffer) noexcept nogil:
    """Forget the oldest segment.

    The ring is put right before the reference goes: dropping it may run foreign code.
    """
    cdef Segment* segment = &buffer.segs[buffer.head]
    cdef PyObject* owner = segment.owner
    cdef uint8_t* base = segment.base
    buffer.head = (buffer.head + 1) & buffer.mask
    buffer.count -= 1
    if owner != NULL:
        drop_object(owner)
    else:
        PyMem_RawFree(base)


cdef void sendbuf_release_memory(SendBuf* buffer) noexcept nogil:
    """Give back the tables of a buffer without segments; offsets stay."""
    PyMem_RawFree(buffer.segs)
    buffer.segs = NULL
    buffer.head = buffer.mask = buffer.cursor = 0
    ranges_free(&buffer.acked_ranges)
    ranges_free(&buffer.lost)


cdef void sendbuf_free(SendBuf* buffer) noexcept nogil:
    while buffer.count > 0:
        drop_head(buffer)
    sendbuf_release_memory(buffer)
    sendbuf_init(buffer)


cdef Segment* sendbuf_slot(SendBuf* buffer) noexcept nogil:
    """The free slot behind the newest segment, growing the ring; NULL: out of memory."""
    cdef Segment* segs
    cdef uint32_t cap, first
    if buffer.segs == NULL or buffer.count > buffer.mask:
        cap = <uint32_t>(4 if buffer.segs == NULL else (buffer.mask + 1) * 2)
        if cap > RING_MAX:
            return NULL
        segs = <Segment*>PyMem_RawMalloc(<size_t>cap * sizeof(Segment))
        if segs == NULL:
            return NULL
        if buffer.count > 0:                      # full: all slots, starting at head
            first = buffer.mask + 1 - buffer.head
            memcpy(segs, buffer.segs + buffer.head, <size_t>first * sizeof(Segment))
            memcpy(segs + first, buffer.segs, <size_t>buffer.head * sizeof(Segment))
        PyMem_RawFree(buffer.segs)
        buffer.segs = segs
        buffer.mask = cap - 1
        buffer.head = buffer.cursor = 0
    return &buffer.segs[(buffer.head + buffer.count) & buffer.mask]


cdef int sendbuf_write_ref(SendBuf* buffer, object owner, const uint8_t* p, size_t n) except -1:
    """Append `n` bytes at `p` without copying; keeps a reference to `owner` until acked.

    The memory must not change while `owner` lives.  Raises MemoryError, or OverflowError
    past the largest stream offset; nothing is accepted then.
    """
    cdef Segment* segment
    if n == 0:
        return 0
    if n > OFFSET_END - buffer.end:
        raise OverflowError("stream offset above 2**62")
    segment = sendbuf_slot(buffer)
    if segment == NULL:
        raise MemoryError
    raw_incref(<PyObject*>owner)
    segment.owner = <PyObject*>owner
    segment.base = <uint8_t*>p
    segment.start = buffer.end
    segment.len = n
    segment.cap = n
    buffer.count += 1
    buffer.end += n
    return 0


cdef int sendbuf_write_copy(SendBuf* buffer, const uint8_t* p, size_t n) noexcept nogil:
    """Append a copy of `n` bytes. All or nothing: 0, or -1 out of memory."""
    cdef Segment* tail = NULL
    cdef Segment* segment
    cdef uint8_t* base
    cdef size_t room = 0, cap = TAIL_FIRST
    if n == 0:
        return 0
    if n > OFFSET_END - buffer.end:
        return -1
    if buffer.count > 0:
        tail = &buffer.segs[(buffer.head + buffer.count - 1) & buffer.mask]
        if tail.owner == NULL:
            room = tail.cap - tail.len
            if n <= room:
                memcpy(tail.base + tail.len, p, n)
                tail.len += n
                buffer.end += n
                return 0
            cap = min(tail.cap * 2, <size_t>TAIL_MAX)
    cap = max(cap, n - room)
    segment = sendbuf_slot(buffer)
    if segment == NULL:
        return -1
    base = <uint8_t*>PyMem_RawMalloc(cap)
    if base == NULL:
        if buffer.count == 0:
            sendbuf_release_memory(buffer)
        return -1
    if room > 0:
        tail = &buffer.segs[(buffer.head + buffer.count - 1) & buffer.mask]      # the ring may have moved
        memcpy(tail.base + tail.len, p, room)
        tail.len += room
    memcpy(base, p + room, n - room)
    segment.owner = NULL
    segment.base = base
    segment.start = buffer.end + room
    segment.len = n - room
    segment.cap = cap
    buffer.count += 1
    buffer.end += n
    return 0


cdef inline void sendbuf_skip_acked(SendBuf* buffer) noexcept nogil:
    """Keep `next` outside acked_ranges; only a rewind can have put it below one."""
    cdef RangeSet* ranges = &buffer.acked_ranges
    cdef int i
    if ranges.n > 0 and ranges.v[2 * ranges.n - 1] > buffer.next:
        i = ranges_at(ranges, buffer.next + 1)
        if ranges.v[2 * i] <= buffer.next:
            buffer.next = ranges.v[2 * i + 1]


cdef bint sendbuf_poll_rest(SendBuf* buffer, size_t maximum, uint64_t* offset, size_t* n, bint* again) noexcept nogil:
    cdef RangeSet* ranges = &buffer.lost
    cdef uint64_t size
    if maximum == 0:
        return False
    if ranges.n > 0:
        size = ranges.v[1] - ranges.v[0]
        offset[0] = ranges.v[0]
        if size > maximum:
            size = maximum
            ranges.v[0] += size
        else:
            ranges_delete(ranges, 0, 1)
        n[0] = <size_t>size
        again[0] = True
        return True
    if buffer.next >= buffer.end:
        return False
    size = min(buffer.end - buffer.next, <uint64_t>maximum)
    ranges = &buffer.acked_ranges
    if ranges.n > 0 and ranges.v[2 * ranges.n - 1] > buffer.next:
        size = min(size, ranges.v[2 * ranges_at(ranges, buffer.next + 1)] - buffer.next)
    offset[0] = buffer.next
    n[0] = <size_t>size
    again[0] = False
    buffer.next += size
    sendbuf_skip_acked(buffer)
    return True


cdef inline bint sendbuf_locate(SendBuf* buffer, uint64_t offset, uint32_t* at) noexcept nogil:
    """Find the segment that holds `offset`: at the cursor or just behind it, else bisect.

    `at` is counted from the oldest segment.
    """
    cdef uint32_t lo = (buffer.cursor - buffer.head) & buffer.mask, hi = buffer.count, mid
    cdef Segment* segment
    if lo < hi:
        buffer.steps += 1
        segment = &buffer.segs[buffer.cursor]
        if segment.start <= offset:
            if offset - segment.start < segment.len:
                at[0] = lo
                return True
            if lo + 1 < hi:
                buffer.steps += 1
                segment = &buffer.segs[(buffer.cursor + 1) & buffer.mask]
                if offset - segment.start < segment.len:
                    at[0] = lo + 1
                    return True
    lo = 0
    while lo < hi:
        buffer.steps += 1
        mid = (lo + hi) >> 1
        segment = &buffer.segs[(buffer.head + mid) & buffer.mask]
        if offset < segment.start:
            hi = mid
        elif offset - segment.start < segment.len:
            at[0] = mid
            return True
        else:
            lo = mid + 1
    return False


cdef void sendbuf_copy_rest(SendBuf* buffer, uint64_t offset, size_t n, uint8_t* dst) noexcept nogil:
    cdef uint32_t i
    cdef Segment* segment
    cdef size_t skip, part
    if buffer.count == 0 or not sendbuf_locate(buffer, offset, &i):
        memset(dst, 0, n)
        return
    while True:
        buffer.cursor = (buffer.head + i) & buffer.mask
        segment = &buffer.segs[buffer.cursor]
        skip = <size_t>(offset - segment.start)
        part = min(n, segment.len - skip)
        memcpy(dst, segment.base + skip, part)
        n -= part
        if n == 0:
            return
        dst += part
        offset += part
        i += 1
        if i >= buffer.count:
            memset(dst, 0, n)
            return


cdef void sendbuf_let_go(SendBuf* buffer) noexcept nogil:
    """Forget the segments that were acknowledged whole."""
    cdef Segment* segment
    while buffer.count > 0:
        segment = &buffer.segs[buffer.head]
        if segment.start + segment.len > buffer.acked:
            return
        drop_head(buffer)
    sendbuf_release_memory(buffer)


cdef int sendbuf_ack_rest(SendBuf* buffer, uint64_t offset, uint64_t n) noexcept nogil:
    cdef RangeSet* ranges = &buffer.acked_ranges
    cdef uint64_t stop = buffer.end
    cdef int i = 0, rc = 0
    if offset < stop and n < stop - offset:
        stop = offset + n
    if stop <= buffer.acked or offset >= stop:
        return 0
    if offset > buffer.acked:
        if ranges_add(ranges, offset, stop) < 0:
            return -1
        if buffer.lost.n > 0:
            rc = ranges_remove(&buffer.lost, offset, stop)
        sendbuf_skip_acked(buffer)
        return rc
    while i < ranges.n and ranges.v[2 * i] <= stop:
        stop = max(stop, ranges.v[2 * i + 1])
        i += 1
    ranges_delete(ranges, 0, i)
    buffer.acked = stop
    if buffer.lost.n > 0:
        ranges_remove(&buffer.lost, 0, stop)          # a prefix: cannot split, cannot fail
    if buffer.next < stop:
        buffer.next = stop
    sendbuf_let_go(buffer)
    return 0


cdef int sendbuf_lost(SendBuf* buffer, uint64_t offset, uint64_t n) noexcept nogil:
    """Queue the unacknowledged parts of [offset, offset+n) to be sent again.

    Bytes at or above `next` are skipped, they will be sent anyway.  0, or -1 out of memory.
    """
    cdef RangeSet* ranges = &buffer.acked_ranges
    cdef uint64_t stop = buffer.next
    cdef int i
    if offset < stop and n < stop - offset:
        stop = offset + n
    if offset < buffer.acked:
        offset = buffer.acked
    if offset >= stop:
        return 0
    i = ranges_at(ranges, offset + 1)
    while i < ranges.n and ranges.v[2 * i] < stop:
        if ranges_add(&buffer.lost, offset, ranges.v[2 * i]) < 0:
            return -1
        offset = ranges.v[2 * i + 1]
        i += 1
    return ranges_add(&buffer.lost, offset, stop)


cdef void sendbuf_rewind(SendBuf* buffer) noexcept nogil:
    buffer.lost.n = 0
    buffer.next = buffer.acked
