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


cdef void sendbuf_init(SendBuf* b) noexcept nogil:
    memset(b, 0, sizeof(SendBuf))


cdef void drop_head(SendBuf* b) noexcept nogil:
    """Forget the oldest segment.

    The ring is put right before the reference goes: dropping it may run foreign code.
    """
    cdef Segment* s = &b.segs[b.head]
    cdef PyObject* owner = s.owner
    cdef uint8_t* base = s.base
    b.head = (b.head + 1) & b.mask
    b.count -= 1
    if owner != NULL:
        drop_object(owner)
    else:
        PyMem_RawFree(base)


cdef void sendbuf_release_memory(SendBuf* b) noexcept nogil:
    """Give back the tables of a buffer without segments; offsets stay."""
    PyMem_RawFree(b.segs)
    b.segs = NULL
    b.head = b.mask = b.cursor = 0
    ranges_free(&b.acked_ranges)
    ranges_free(&b.lost)


cdef void sendbuf_free(SendBuf* b) noexcept nogil:
    while b.count > 0:
        drop_head(b)
    sendbuf_release_memory(b)
    sendbuf_init(b)


cdef Segment* sendbuf_slot(SendBuf* b) noexcept nogil:
    """The free slot behind the newest segment, growing the ring; NULL: out of memory."""
    cdef Segment* segs
    cdef uint32_t cap, first
    if b.segs == NULL or b.count > b.mask:
        cap = <uint32_t>(4 if b.segs == NULL else (b.mask + 1) * 2)
        if cap > RING_MAX:
            return NULL
        segs = <Segment*>PyMem_RawMalloc(<size_t>cap * sizeof(Segment))
        if segs == NULL:
            return NULL
        if b.count > 0:                      # full: all slots, starting at head
            first = b.mask + 1 - b.head
            memcpy(segs, b.segs + b.head, <size_t>first * sizeof(Segment))
            memcpy(segs + first, b.segs, <size_t>b.head * sizeof(Segment))
        PyMem_RawFree(b.segs)
        b.segs = segs
        b.mask = cap - 1
        b.head = b.cursor = 0
    return &b.segs[(b.head + b.count) & b.mask]


cdef int sendbuf_write_ref(SendBuf* b, object owner, const uint8_t* p, size_t n) except -1:
    """Append `n` bytes at `p` without copying; keeps a reference to `owner` until acked.

    The memory must not change while `owner` lives.  Raises MemoryError, or OverflowError
    past the largest stream offset; nothing is accepted then.
    """
    cdef Segment* s
    if n == 0:
        return 0
    if n > OFFSET_END - b.end:
        raise OverflowError("stream offset above 2**62")
    s = sendbuf_slot(b)
    if s == NULL:
        raise MemoryError
    raw_incref(<PyObject*>owner)
    s.owner = <PyObject*>owner
    s.base = <uint8_t*>p
    s.start = b.end
    s.len = n
    s.cap = n
    b.count += 1
    b.end += n
    return 0


cdef int sendbuf_write_copy(SendBuf* b, const uint8_t* p, size_t n) noexcept nogil:
    """Append a copy of `n` bytes. All or nothing: 0, or -1 out of memory."""
    cdef Segment* tail = NULL
    cdef Segment* s
    cdef uint8_t* base
    cdef size_t room = 0, cap = TAIL_FIRST
    if n == 0:
        return 0
    if n > OFFSET_END - b.end:
        return -1
    if b.count > 0:
        tail = &b.segs[(b.head + b.count - 1) & b.mask]
        if tail.owner == NULL:
            room = tail.cap - tail.len
            if n <= room:
                memcpy(tail.base + tail.len, p, n)
                tail.len += n
                b.end += n
                return 0
            cap = min(tail.cap * 2, <size_t>TAIL_MAX)
    cap = max(cap, n - room)
    s = sendbuf_slot(b)
    if s == NULL:
        return -1
    base = <uint8_t*>PyMem_RawMalloc(cap)
    if base == NULL:
        if b.count == 0:
            sendbuf_release_memory(b)
        return -1
    if room > 0:
        tail = &b.segs[(b.head + b.count - 1) & b.mask]      # the ring may have moved
        memcpy(tail.base + tail.len, p, room)
        tail.len += room
    memcpy(base, p + room, n - room)
    s.owner = NULL
    s.base = base
    s.start = b.end + room
    s.len = n - room
    s.cap = cap
    b.count += 1
    b.end += n
    return 0


cdef inline void sendbuf_skip_acked(SendBuf* b) noexcept nogil:
    """Keep `next` outside acked_ranges; only a rewind can have put it below one."""
    cdef RangeSet* r = &b.acked_ranges
    cdef int i
    if r.n > 0 and r.v[2 * r.n - 1] > b.next:
        i = ranges_at(r, b.next + 1)
        if r.v[2 * i] <= b.next:
            b.next = r.v[2 * i + 1]


cdef bint sendbuf_poll_rest(SendBuf* b, size_t maximum, uint64_t* offset, size_t* n, bint* again) noexcept nogil:
    cdef RangeSet* r = &b.lost
    cdef uint64_t size
    if maximum == 0:
        return False
    if r.n > 0:
        size = r.v[1] - r.v[0]
        offset[0] = r.v[0]
        if size > maximum:
            size = maximum
            r.v[0] += size
        else:
            ranges_delete(r, 0, 1)
        n[0] = <size_t>size
        again[0] = True
        return True
    if b.next >= b.end:
        return False
    size = min(b.end - b.next, <uint64_t>maximum)
    r = &b.acked_ranges
    if r.n > 0 and r.v[2 * r.n - 1] > b.next:
        size = min(size, r.v[2 * ranges_at(r, b.next + 1)] - b.next)
    offset[0] = b.next
    n[0] = <size_t>size
    again[0] = False
    b.next += size
    sendbuf_skip_acked(b)
    return True


cdef inline bint sendbuf_locate(SendBuf* b, uint64_t offset, uint32_t* at) noexcept nogil:
    """Find the segment that holds `offset`: at the cursor or just behind it, else bisect.

    `at` is counted from the oldest segment.
    """
    cdef uint32_t lo = (b.cursor - b.head) & b.mask, hi = b.count, mid
    cdef Segment* s
    if lo < hi:
        b.steps += 1
        s = &b.segs[b.cursor]
        if s.start <= offset:
            if offset - s.start < s.len:
                at[0] = lo
                return True
            if lo + 1 < hi:
                b.steps += 1
                s = &b.segs[(b.cursor + 1) & b.mask]
                if offset - s.start < s.len:
                    at[0] = lo + 1
                    return True
    lo = 0
    while lo < hi:
        b.steps += 1
        mid = (lo + hi) >> 1
        s = &b.segs[(b.head + mid) & b.mask]
        if offset < s.start:
            hi = mid
        elif offset - s.start < s.len:
            at[0] = mid
            return True
        else:
            lo = mid + 1
    return False


cdef void sendbuf_copy_rest(SendBuf* b, uint64_t offset, size_t n, uint8_t* dst) noexcept nogil:
    cdef uint32_t i
    cdef Segment* s
    cdef size_t skip, part
    if b.count == 0 or not sendbuf_locate(b, offset, &i):
        memset(dst, 0, n)
        return
    while True:
        b.cursor = (b.head + i) & b.mask
        s = &b.segs[b.cursor]
        skip = <size_t>(offset - s.start)
        part = min(n, s.len - skip)
        memcpy(dst, s.base + skip, part)
        n -= part
        if n == 0:
            return
        dst += part
        offset += part
        i += 1
        if i >= b.count:
            memset(dst, 0, n)
            return


cdef void sendbuf_let_go(SendBuf* b) noexcept nogil:
    """Forget the segments that were acknowledged whole."""
    cdef Segment* s
    while b.count > 0:
        s = &b.segs[b.head]
        if s.start + s.len > b.acked:
            return
        drop_head(b)
    sendbuf_release_memory(b)


cdef int sendbuf_ack_rest(SendBuf* b, uint64_t offset, uint64_t n) noexcept nogil:
    cdef RangeSet* r = &b.acked_ranges
    cdef uint64_t stop = b.end
    cdef int i = 0, rc = 0
    if offset < stop and n < stop - offset:
        stop = offset + n
    if stop <= b.acked or offset >= stop:
        return 0
    if offset > b.acked:
        if ranges_add(r, offset, stop) < 0:
            return -1
        if b.lost.n > 0:
            rc = ranges_remove(&b.lost, offset, stop)
        sendbuf_skip_acked(b)
        return rc
    while i < r.n and r.v[2 * i] <= stop:
        stop = max(stop, r.v[2 * i + 1])
        i += 1
    ranges_delete(r, 0, i)
    b.acked = stop
    if b.lost.n > 0:
        ranges_remove(&b.lost, 0, stop)          # a prefix: cannot split, cannot fail
    if b.next < stop:
        b.next = stop
    sendbuf_let_go(b)
    return 0


cdef int sendbuf_lost(SendBuf* b, uint64_t offset, uint64_t n) noexcept nogil:
    """Queue the unacknowledged parts of [offset, offset+n) to be sent again.

    Bytes at or above `next` are skipped, they will be sent anyway.  0, or -1 out of memory.
    """
    cdef RangeSet* r = &b.acked_ranges
    cdef uint64_t stop = b.next
    cdef int i
    if offset < stop and n < stop - offset:
        stop = offset + n
    if offset < b.acked:
        offset = b.acked
    if offset >= stop:
        return 0
    i = ranges_at(r, offset + 1)
    while i < r.n and r.v[2 * i] < stop:
        if ranges_add(&b.lost, offset, r.v[2 * i]) < 0:
            return -1
        offset = r.v[2 * i + 1]
        i += 1
    return ranges_add(&b.lost, offset, stop)


cdef void sendbuf_rewind(SendBuf* b) noexcept nogil:
    b.lost.n = 0
    b.next = b.acked
