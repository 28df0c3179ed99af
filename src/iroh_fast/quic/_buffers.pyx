"""Stream byte buffers and range sets of the data path.

``SendBuf`` keeps written bytes until the peer acknowledged them, ``RecvBuf`` puts received
bytes into order, ``RangeSet`` is a sorted set of half-open ranges.  All three are plain C
structs driven by ``nogil`` functions; an empty one owns no memory at all, so that ten
thousand idle streams cost only their structs.  The ``*Model`` classes at the end expose
them to Python for tests and benchmarks.

Notes
-----
Memory comes from ``PyMem_Raw*``, which needs no GIL and is seen by tracemalloc.  The GIL is
taken only where a ``bytes`` object is created or dropped: once per receive chunk and once
per written object.  One buffer belongs to one thread.  Wire: RFC 9000 §2.2, §13.3, §19.8.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t, UINT64_MAX
from libc.string cimport memcpy, memmove, memset

cdef extern from "Python.h" nogil:
    PyObject* raw_bytes "PyBytes_FromStringAndSize" (const char* v, Py_ssize_t n)
    char* raw_bytes_data "PyBytes_AS_STRING" (PyObject* o)
    int raw_bytes_resize "_PyBytes_Resize" (PyObject** o, Py_ssize_t n)
    void raw_incref "Py_INCREF" (PyObject* o)
    void raw_decref "Py_DECREF" (PyObject* o)
    void PyErr_Clear()

cdef enum:
    TAIL_FIRST = 2048             # copied writes: size of the first tail segment
    TAIL_MAX = 16384              # and what doubling stops at
    PIECE_MAX = 16384             # out-of-order pieces stop growing here
    PIECE_MERGE = 2048            # a following piece up to this size is copied into its neighbour
    INSERT_MAX = 1 << 30          # far above any frame; keeps 32-bit capacities honest
    RING_MAX = 1 << 26

# Largest stream offset (RFC 9000 §4.5).
cdef uint64_t OFFSET_END = <uint64_t>1 << 62


# ---- objects from nogil code ------------------------------------------------
cdef PyObject* new_bytes(Py_ssize_t n) noexcept with gil:
    """Create an uninitialised ``bytes`` of `n`; NULL without an exception if out of memory."""
    cdef PyObject* o = raw_bytes(NULL, n)
    if o == NULL:
        PyErr_Clear()
    return o


cdef void drop_object(PyObject* o) noexcept with gil:
    raw_decref(o)


# ---- ranges -----------------------------------------------------------------
cdef void ranges_init(RangeSet* r) noexcept nogil:
    r.v = NULL
    r.n = 0
    r.cap = 0


cdef void ranges_free(RangeSet* r) noexcept nogil:
    PyMem_RawFree(r.v)
    ranges_init(r)


cdef int ranges_grow(RangeSet* r) noexcept nogil:
    """Make room for one more range."""
    cdef uint64_t* v
    cdef int cap
    if r.n < r.cap:
        return 0
    if r.cap >= RING_MAX:
        return -1
    cap = <int>(r.cap * 2 if r.cap else 4)
    v = <uint64_t*>PyMem_RawRealloc(r.v, <size_t>cap * 2 * sizeof(uint64_t))
    if v == NULL:
        return -1
    r.v = v
    r.cap = cap
    return 0


cdef inline int ranges_at(const RangeSet* r, uint64_t x) noexcept nogil:
    """Index of the first range that ends at or above `x`; ``r.n`` if there is none."""
    cdef int lo = 0, hi = r.n, mid
    while lo < hi:
        mid = (lo + hi) >> 1
        if r.v[2 * mid + 1] < x:
            lo = mid + 1
        else:
            hi = mid
    return lo


cdef inline void ranges_delete(RangeSet* r, int i, int j) noexcept nogil:
    """Delete the ranges with index `i` up to, not including, `j`."""
    if j > i:
        memmove(r.v + 2 * i, r.v + 2 * j, <size_t>(r.n - j) * 2 * sizeof(uint64_t))
        r.n -= j - i


cdef int ranges_add(RangeSet* r, uint64_t start, uint64_t end) noexcept nogil:
    """Add [start, end), joining what it touches. 0, or -1 out of memory, then unchanged."""
    cdef uint64_t* last
    cdef int i, j
    if start >= end:
        return 0
    i = r.n
    if i > 0:
        last = r.v + 2 * (i - 1)
        if start < last[0]:
            i = ranges_at(r, start)
        elif start <= last[1]:               # the common case: extend the newest range
            if end > last[1]:
                last[1] = end
            return 0
    j = i
    while j < r.n and r.v[2 * j] <= end:
        j += 1
    if i == j:
        if ranges_grow(r) < 0:
            return -1
        memmove(r.v + 2 * i + 2, r.v + 2 * i, <size_t>(r.n - i) * 2 * sizeof(uint64_t))
        r.v[2 * i] = start
        r.v[2 * i + 1] = end
        r.n += 1
        return 0
    if start < r.v[2 * i]:
        r.v[2 * i] = start
    if end < r.v[2 * j - 1]:
        end = r.v[2 * j - 1]
    r.v[2 * i + 1] = end
    ranges_delete(r, i + 1, j)
    return 0


cdef int ranges_remove(RangeSet* r, uint64_t start, uint64_t end) noexcept nogil:
    """Take [start, end) out. 0, or -1 if a split ran out of memory, then unchanged."""
    cdef int i, j
    if start >= end or r.n == 0:
        return 0
    i = ranges_at(r, start + 1)
    if i == r.n or r.v[2 * i] >= end:
        return 0
    if r.v[2 * i] < start:
        if r.v[2 * i + 1] > end:
            if ranges_grow(r) < 0:
                return -1
            memmove(r.v + 2 * i + 2, r.v + 2 * i, <size_t>(r.n - i) * 2 * sizeof(uint64_t))
            r.v[2 * i + 1] = start
            r.v[2 * i + 2] = end
            r.n += 1
            return 0
        r.v[2 * i + 1] = start
        i += 1
    j = i
    while j < r.n and r.v[2 * j + 1] <= end:
        j += 1
    if j < r.n and r.v[2 * j] < end:
        r.v[2 * j] = end
    ranges_delete(r, i, j)
    return 0


cdef bint ranges_contains(const RangeSet* r, uint64_t x) noexcept nogil:
    cdef int i
    if x == UINT64_MAX:
        return False
    i = ranges_at(r, x + 1)
    return i < r.n and r.v[2 * i] <= x


# ---- sending ----------------------------------------------------------------
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


cdef bint sendbuf_poll(
    SendBuf* b, size_t maximum, uint64_t* offset, size_t* n, bint* again
) noexcept nogil:
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


cdef void sendbuf_copy(SendBuf* b, uint64_t offset, size_t n, uint8_t* dst) noexcept nogil:
    """Copy [offset, offset+n), a range from sendbuf_poll, to `dst`.

    Bytes no longer or not yet held are written as zeros: a caller's mistake must not leak
    old memory to the wire.
    """
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


cdef int sendbuf_ack(SendBuf* b, uint64_t offset, uint64_t n) noexcept nogil:
    """Mark [offset, offset+n) acknowledged; bytes below the first gap are let go.

    0, or -1 out of memory: then at worst the range is sent once more.
    """
    cdef RangeSet* r = &b.acked_ranges
    cdef uint64_t stop = b.end
    cdef Segment* s
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
    while b.count > 0:
        s = &b.segs[b.head]
        if s.start + s.len > b.acked:
            return 0
        drop_head(b)
    sendbuf_release_memory(b)
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


# ---- receiving --------------------------------------------------------------
cdef void recvbuf_init(RecvBuf* b) noexcept nogil:
    memset(b, 0, sizeof(RecvBuf))
    b.next_cap = RECVBUF_FIRST_CHUNK


cdef Chunk* chunk_new(RecvBuf* b, size_t want) noexcept nogil:
    """Append an empty chunk sized for `want` bytes and for what the stream used so far."""
    cdef Chunk* c = <Chunk*>PyMem_RawMalloc(sizeof(Chunk))
    cdef uint32_t cap = max(b.next_cap, <uint32_t>RECVBUF_FIRST_CHUNK)
    if c == NULL:
        return NULL
    while cap < want and cap < RECVBUF_CHUNK:
        cap *= 2
    c.obj = new_bytes(cap)
    if c.obj == NULL:
        PyMem_RawFree(c)
        return NULL
    c.base = <uint8_t*>raw_bytes_data(c.obj)
    c.cap = cap
    c.rd = c.wr = 0
    c.next = NULL
    if b.last != NULL:
        b.last.next = c
    else:
        b.first = c
        b.read = b.tail                      # they differ only after a discard
    b.last = c
    b.next_cap = <uint32_t>min(cap * 2, <uint32_t>RECVBUF_CHUNK)
    return c


cdef PyObject* chunk_pop(RecvBuf* b) noexcept nogil:
    """Unlink the first chunk and return its object, now the caller's reference."""
    cdef Chunk* c = b.first
    cdef PyObject* o = c.obj
    b.first = c.next
    if b.first == NULL:
        b.last = NULL
    # A reader that keeps up with less than half a chunk needs no larger one next time.
    if c.wr <= c.cap // 2:
        b.next_cap = <uint32_t>max(c.cap // 2, <uint32_t>RECVBUF_FIRST_CHUNK)
    PyMem_RawFree(c)
    return o


cdef int chunk_append(RecvBuf* b, const uint8_t* p, size_t n) noexcept nogil:
    """Put `n` bytes at the tail; `tail` tells how far it got when out of memory (-1)."""
    cdef Chunk* c = b.last
    cdef size_t part
    while True:
        if c != NULL:
            part = min(n, <size_t>(c.cap - c.wr))
            if part > 0:
                memcpy(c.base + c.wr, p, part)
                c.wr += <uint32_t>part
                b.tail += part
                p += part
                n -= part
        if n == 0:
            return 0
        c = chunk_new(b, n)
        if c == NULL:
            return -1


cdef inline Piece* piece_at(const RecvBuf* b, int k) noexcept nogil:
    return b.index[b.index_head + k]


cdef int piece_find(const RecvBuf* b, uint64_t offset) noexcept nogil:
    """Position of the first piece that ends above `offset`."""
    cdef int lo = 0, hi = b.n_pieces, mid
    cdef Piece* x
    while lo < hi:
        mid = (lo + hi) >> 1
        x = piece_at(b, mid)
        if x.start + x.len <= offset:
            lo = mid + 1
        else:
            hi = mid
    return lo


cdef int piece_reserve(RecvBuf* b) noexcept nogil:
    """Make room for one more pointer behind the index."""
    cdef Piece** index
    cdef int cap
    if b.index_head + b.n_pieces < b.index_cap:
        return 0
    if b.index_head > b.index_cap // 2:
        memmove(b.index, b.index + b.index_head, <size_t>b.n_pieces * sizeof(Piece*))
        b.index_head = 0
        return 0
    cap = <int>(b.index_cap * 2 if b.index_cap else 8)
    index = <Piece**>PyMem_RawRealloc(b.index, <size_t>cap * sizeof(Piece*))
    if index == NULL:
        return -1
    b.index = index
    b.index_cap = cap
    return 0


cdef Piece* piece_new(RecvBuf* b, int k, uint64_t start, const uint8_t* p, uint64_t n) noexcept nogil:
    """Insert a piece at position `k`, copying `n` bytes from `p`; p NULL: handed out already.

    The first allocation fits exactly, so that a peer sending single bytes does not make us
    hold kilobytes for each.
    """
    cdef Piece* x
    cdef Piece** index
    if piece_reserve(b) < 0:
        return NULL
    x = <Piece*>PyMem_RawMalloc(sizeof(Piece))
    if x == NULL:
        return NULL
    x.data = NULL
    x.cap = 0
    if p != NULL:
        x.data = <uint8_t*>PyMem_RawMalloc(<size_t>n)
        if x.data == NULL:
            PyMem_RawFree(x)
            return NULL
        memcpy(x.data, p, <size_t>n)
        x.cap = <uint32_t>n
    x.start = start
    x.len = n
    index = b.index + b.index_head
    x.prev = index[k - 1] if k > 0 else NULL
    x.next = index[k] if k < b.n_pieces else NULL
    if x.prev != NULL:
        x.prev.next = x
    else:
        b.pieces = x
    if x.next != NULL:
        x.next.prev = x
    else:
        b.pieces_last = x
    if b.index_head > 0 and k < b.n_pieces - k:
        memmove(index - 1, index, <size_t>k * sizeof(Piece*))
        index[k - 1] = x
        b.index_head -= 1
    else:
        memmove(index + k + 1, index + k, <size_t>(b.n_pieces - k) * sizeof(Piece*))
        index[k] = x
    b.n_pieces += 1
    return x


cdef void piece_delete(RecvBuf* b, int k) noexcept nogil:
    cdef Piece** index = b.index + b.index_head
    cdef Piece* x = index[k]
    if x.prev != NULL:
        x.prev.next = x.next
    else:
        b.pieces = x.next
    if x.next != NULL:
        x.next.prev = x.prev
    else:
        b.pieces_last = x.prev
    b.n_pieces -= 1
    if k == 0:
        b.index_head += 1
    else:
        memmove(index + k, index + k + 1, <size_t>(b.n_pieces - k) * sizeof(Piece*))
    PyMem_RawFree(x.data)
    PyMem_RawFree(x)
    if b.n_pieces == 0:
        PyMem_RawFree(b.index)
        b.index = NULL
        b.index_head = b.index_cap = 0


cdef int piece_append(Piece* x, const uint8_t* p, uint64_t n) noexcept nogil:
    """Add bytes behind a piece that still has its data; the caller limits the total."""
    cdef uint8_t* data
    cdef uint64_t cap
    if x.len + n > x.cap:
        cap = max(x.len + n, min(<uint64_t>x.cap * 2, <uint64_t>PIECE_MAX))
        data = <uint8_t*>PyMem_RawRealloc(x.data, <size_t>cap)
        if data == NULL:
            return -1
        x.data = data
        x.cap = <uint32_t>cap
    memcpy(x.data + x.len, p, <size_t>n)
    x.len += n
    return 0


cdef void piece_cut(Piece* x, uint64_t n) noexcept nogil:
    """Drop the first `n` bytes, fewer than it has."""
    x.start += n
    x.len -= n
    if x.data != NULL:
        memmove(x.data, x.data + n, <size_t>x.len)


cdef int piece_put(RecvBuf* b, int* at, uint64_t start, const uint8_t* p, uint64_t n) noexcept nogil:
    """Store bytes that belong between the pieces `at`-1 and `at`.

    `at` becomes the position of the piece that holds them; it may have swallowed the next.
    """
    cdef int k = at[0]
    cdef Piece* x = piece_at(b, k - 1) if k > 0 else NULL
    cdef Piece* after
    if x != NULL and x.data != NULL and x.start + x.len == start and x.len + n <= PIECE_MAX:
        if piece_append(x, p, n) < 0:
            return -1
        k -= 1
        at[0] = k
    else:
        if b.n_pieces >= RECVBUF_MAX_GAPS:
            return -2
        x = piece_new(b, k, start, p, n)
        if x == NULL:
            return -1
    if k + 1 < b.n_pieces:
        after = piece_at(b, k + 1)
        if (
            after.data != NULL and after.start == x.start + x.len
            and after.len <= PIECE_MERGE and x.len + after.len <= PIECE_MAX
            and piece_append(x, after.data, after.len) == 0
        ):
            piece_delete(b, k + 1)
    return 0


cdef inline void recvbuf_settle(RecvBuf* b) noexcept nogil:
    """Move over handed out pieces once everything before them was read."""
    cdef Piece* x = b.pieces
    while x != NULL and x.data == NULL and x.start == b.tail and b.read == b.tail:
        b.tail += x.len
        b.read = b.tail
        piece_delete(b, 0)
        x = b.pieces


cdef int recvbuf_insert_slow(RecvBuf* b, uint64_t offset, const uint8_t* p, uint64_t n) noexcept nogil:
    cdef uint64_t end = offset + n, stop, before
    cdef Piece* x
    cdef int k, rc
    cdef bint blocked = False
    while True:
        if offset < b.tail:
            if end <= b.tail:
                return 0
            p += b.tail - offset
            offset = b.tail
        if offset > b.tail or blocked:
            break
        stop = end
        if b.pieces != NULL and b.pieces.start < stop:
            stop = b.pieces.start
        if stop > offset and chunk_append(b, p, <size_t>(stop - offset)) < 0:
            return -1
        # The tail may have reached pieces: they become part of it.
        recvbuf_settle(b)
        x = b.pieces
        while x != NULL and x.start == b.tail:
            if x.data == NULL:
                # Handed out, but bytes before it are still unread: chunks cannot have a hole,
                # so the rest waits as pieces.
                blocked = True
                break
            before = b.tail
            if chunk_append(b, x.data, <size_t>x.len) < 0:
                if b.tail > before:
                    piece_cut(x, b.tail - before)
                return -1
            piece_delete(b, 0)
            x = b.pieces
    k = piece_find(b, offset)
    while offset < end:
        x = piece_at(b, k) if k < b.n_pieces else NULL
        if x != NULL and x.start <= offset:
            stop = x.start + x.len
            k += 1
        else:
            stop = end
            if x != NULL and x.start < stop:
                stop = x.start
            rc = piece_put(b, &k, offset, p, stop - offset)
            if rc < 0:
                return rc
        if stop > end:
            stop = end
        p += stop - offset
        offset = stop
    return 0


cdef int recvbuf_insert(RecvBuf* b, uint64_t offset, const uint8_t* p, size_t n) noexcept nogil:
    """Store received bytes; what is already there wins over what comes later.

    The caller has checked flow control (RFC 9000 §4.1).  0; -1 out of memory or sizes no
    frame can have; -2 more than RECVBUF_MAX_GAPS pieces out of order.  After an error the
    buffer is consistent and holds a part of the bytes.
    """
    cdef Chunk* c = b.last
    if b.pieces == NULL and offset == b.tail and c != NULL and n <= c.cap - c.wr:   # hot
        memcpy(c.base + c.wr, p, n)
        c.wr += <uint32_t>n
        b.tail += n
        return 0
    if n == 0:
        return 0
    if n > INSERT_MAX or offset > OFFSET_END - n:
        return -1
    return recvbuf_insert_slow(b, offset, p, n)


cdef bytes recvbuf_take(RecvBuf* b, size_t maximum):
    """Remove and return up to `maximum` bytes, at most one chunk; b"" if nothing is readable.

    A chunk that fits is handed over without a copy: it is detached first and never written
    again.  MemoryError leaves the buffer as it was, unless shrinking the chunk itself fails.
    """
    cdef Chunk* c = b.first
    cdef PyObject* o
    cdef bytes out
    cdef uint32_t n, cap
    if c == NULL or maximum == 0:
        return b""
    n = c.wr - c.rd
    if c.rd == 0 and n <= maximum:
        cap = c.cap
        o = chunk_pop(b)
        b.read += n
        if n < cap and raw_bytes_resize(&o, n) < 0:
            raise MemoryError
        out = <bytes>o
        raw_decref(o)
    else:
        if n > maximum:
            n = <uint32_t>maximum
        out = PyBytes_FromStringAndSize(<char*>c.base + c.rd, n)
        c.rd += n
        b.read += n
        if c.rd == c.wr:
            raw_decref(chunk_pop(b))
    recvbuf_settle(b)
    return out


cdef size_t recvbuf_read_into(RecvBuf* b, uint8_t* dst, size_t n) noexcept nogil:
    """Move up to `n` readable bytes to `dst`, across chunks; returns how many."""
    cdef Chunk* c = b.first
    cdef size_t part, done = 0
    while c != NULL and done < n:
        part = min(n - done, <size_t>(c.wr - c.rd))
        memcpy(dst + done, c.base + c.rd, part)
        c.rd += <uint32_t>part
        done += part
        b.read += part
        if c.rd == c.wr:
            drop_object(chunk_pop(b))
            c = b.first
    recvbuf_settle(b)
    return done


cdef int recvbuf_mark_taken(RecvBuf* b, int k, uint64_t n) noexcept nogil:
    """Remember the first `n` bytes of piece `k` as handed out. 0, or -1, then unchanged."""
    cdef Piece* x = piece_at(b, k)
    cdef Piece* other
    if n < x.len:
        other = piece_at(b, k - 1) if k > 0 else NULL
        if x.start == b.tail and b.read == b.tail:
            b.tail += n
            b.read = b.tail
        elif other != NULL and other.data == NULL and other.start + other.len == x.start:
            other.len += n
        elif piece_new(b, k, x.start, NULL, n) == NULL:
            return -1
        piece_cut(x, n)
        return 0
    PyMem_RawFree(x.data)
    x.data = NULL
    x.cap = 0
    if k + 1 < b.n_pieces:
        other = piece_at(b, k + 1)
        if other.data == NULL and other.start == x.start + x.len:
            x.len += other.len
            piece_delete(b, k + 1)
    if k > 0:
        other = piece_at(b, k - 1)
        if other.data == NULL and other.start + other.len == x.start:
            other.len += x.len
            piece_delete(b, k)
    recvbuf_settle(b)
    return 0


cdef object recvbuf_take_unordered(RecvBuf* b, size_t maximum):
    """Remove the lowest buffered bytes, gaps or not: ``(offset, bytes)``, or None.

    Switches the buffer to unordered mode.  At most one chunk or piece at a time.  What was
    handed out is remembered, so every byte comes once.
    """
    cdef uint64_t offset = b.read
    cdef Piece* x
    cdef uint64_t n
    cdef int k = 0
    cdef tuple result
    cdef object number, data
    b.unordered = True
    if maximum == 0:
        return None
    if b.first != NULL:
        # All allocations that may fail come before the bytes leave the buffer.
        result = PyTuple_New(2)
        number = offset
        Py_INCREF(number)
        PyTuple_SET_ITEM(result, 0, number)
        data = recvbuf_take(b, maximum)
        Py_INCREF(data)
        PyTuple_SET_ITEM(result, 1, data)
        return result
    b.read = b.tail                          # they differ only after a discard
    recvbuf_settle(b)
    x = b.pieces
    while x != NULL and x.data == NULL:
        x = x.next
        k += 1
    if x == NULL:
        return None
    n = min(x.len, <uint64_t>maximum)
    result = (x.start, PyBytes_FromStringAndSize(<char*>x.data, <Py_ssize_t>n))
    if recvbuf_mark_taken(b, k, n) < 0:
        raise MemoryError
    return result


cdef void recvbuf_discard(RecvBuf* b) noexcept nogil:
    """Drop all data; `read` and `tail` stay, for accounting of the unread bytes."""
    cdef Piece* x = b.pieces
    cdef Piece* following
    while b.first != NULL:
        drop_object(chunk_pop(b))
    b.pieces = b.pieces_last = NULL
    b.n_pieces = 0
    PyMem_RawFree(b.index)
    b.index = NULL
    b.index_head = b.index_cap = 0
    while x != NULL:
        following = x.next
        PyMem_RawFree(x.data)
        PyMem_RawFree(x)
        x = following


cdef void recvbuf_free(RecvBuf* b) noexcept nogil:
    recvbuf_discard(b)
    recvbuf_init(b)


# ---- for tests and benchmarks -----------------------------------------------
cdef int check(int rc) except -1:
    if rc == -2:
        raise OverflowError(f"more than {RECVBUF_MAX_GAPS} pieces out of order")
    if rc < 0:
        raise MemoryError
    return 0


@cython.final
cdef class RangeSetModel:
    """Python view of a ``RangeSet``, for tests. Methods raise MemoryError."""
    cdef RangeSet r

    def __cinit__(self):
        ranges_init(&self.r)

    def __dealloc__(self):
        ranges_free(&self.r)

    def add(self, uint64_t start, uint64_t end):
        """Add [start, end)."""
        check(ranges_add(&self.r, start, end))

    def remove(self, uint64_t start, uint64_t end):
        """Remove [start, end)."""
        check(ranges_remove(&self.r, start, end))

    def __contains__(self, uint64_t x):
        return ranges_contains(&self.r, x)

    def ranges(self):
        """All ranges as ``(start, end)``, ascending."""
        return [(self.r.v[2 * i], self.r.v[2 * i + 1]) for i in range(self.r.n)]


@cython.final
cdef class SendBufferModel:
    """Python view of a ``SendBuf``, for tests. Methods raise MemoryError."""
    cdef SendBuf b

    def __cinit__(self):
        sendbuf_init(&self.b)

    def __dealloc__(self):
        sendbuf_free(&self.b)

    def write_ref(self, bytes data not None):
        """Append without a copy; holds a reference until acknowledged."""
        sendbuf_write_ref(
            &self.b, data, <const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data)
        )

    def write_copy(self, data):
        """Append a copy of any contiguous buffer."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            check(sendbuf_write_copy(&self.b, <const uint8_t*>view.buf, <size_t>view.len))
        finally:
            PyBuffer_Release(&view)

    def poll(self, size_t maximum):
        """Next range to send as ``(offset, n, again)``, or None."""
        cdef uint64_t offset = 0
        cdef size_t n = 0
        cdef bint again = False
        if not sendbuf_poll(&self.b, maximum, &offset, &n, &again):
            return None
        return offset, n, again

    def copy(self, uint64_t offset, Py_ssize_t n):
        """The bytes of [offset, offset+n); zeros where not held."""
        if n < 0:
            raise ValueError("negative length")
        cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
        sendbuf_copy(&self.b, offset, <size_t>n, <uint8_t*>PyBytes_AS_STRING(out))
        return out

    def ack(self, uint64_t offset, uint64_t n):
        """Acknowledge [offset, offset+n)."""
        check(sendbuf_ack(&self.b, offset, n))

    def lose(self, uint64_t offset, uint64_t n):
        """Declare [offset, offset+n) lost."""
        check(sendbuf_lost(&self.b, offset, n))

    def rewind(self):
        """Send everything unacknowledged again."""
        sendbuf_rewind(&self.b)

    def clear(self):
        """Free all data and start at offset 0."""
        sendbuf_free(&self.b)

    def send_all(self, size_t packet, bint ack):
        """Poll and copy until nothing is pending, optionally acking each packet.

        Returns the number of packets. `packet` is at most 65536 bytes.
        """
        cdef uint8_t scratch[65536]
        cdef uint64_t offset = 0
        cdef size_t n = 0, count = 0
        cdef bint again = False
        if packet > sizeof(scratch):
            raise ValueError("packet larger than 65536 bytes")
        while sendbuf_poll(&self.b, packet, &offset, &n, &again):
            sendbuf_copy(&self.b, offset, n, scratch)
            count += 1
            if ack:
                check(sendbuf_ack(&self.b, offset, n))
        return count

    @property
    def acked(self):
        """Everything below this offset is acknowledged."""
        return self.b.acked

    @property
    def next(self):
        """First offset never sent."""
        return self.b.next

    @property
    def end(self):
        """Bytes accepted so far."""
        return self.b.end

    @property
    def unacked(self):
        """Bytes held for the peer, in order."""
        return sendbuf_unacked(&self.b)

    @property
    def has_pending(self):
        """Whether poll has something to give."""
        return sendbuf_has_pending(&self.b)

    @property
    def segments(self):
        """Number of segments held."""
        return self.b.count

    @property
    def steps(self):
        """Segments looked at by copy while searching, modulo 2**32."""
        return self.b.steps

    @property
    def owns_memory(self):
        """Whether any heap block or reference is held."""
        return (
            self.b.count > 0 or self.b.segs != NULL
            or self.b.acked_ranges.v != NULL or self.b.lost.v != NULL
        )


@cython.final
cdef class ReceiveBufferModel:
    """Python view of a ``RecvBuf``, for tests.

    Methods raise MemoryError; `insert` raises OverflowError for too many gaps.
    """
    cdef RecvBuf b

    def __cinit__(self):
        recvbuf_init(&self.b)

    def __dealloc__(self):
        recvbuf_free(&self.b)

    def insert(self, uint64_t offset, data):
        """Copy a contiguous buffer to stream position `offset`."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            check(recvbuf_insert(&self.b, offset, <const uint8_t*>view.buf, <size_t>view.len))
        finally:
            PyBuffer_Release(&view)

    def insert_packets(self, bytes data not None, size_t packet):
        """Append `data` at the tail in pieces of `packet` bytes."""
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(data)
        cdef size_t left = <size_t>PyBytes_GET_SIZE(data), n
        if packet == 0:
            raise ValueError("packet of 0 bytes")
        while left > 0:
            n = min(left, packet)
            check(recvbuf_insert(&self.b, self.b.tail, p, n))
            p += n
            left -= n

    def take(self, size_t maximum):
        """Next bytes in order, at most one chunk."""
        return recvbuf_take(&self.b, maximum)

    def read_into(self, target):
        """Fill a writable buffer with bytes in order; returns how many."""
        cdef Py_buffer view
        PyObject_GetBuffer(target, &view, PyBUF_WRITABLE)
        try:
            return recvbuf_read_into(&self.b, <uint8_t*>view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)

    def take_unordered(self, size_t maximum):
        """Lowest buffered bytes as ``(offset, bytes)``, or None."""
        return recvbuf_take_unordered(&self.b, maximum)

    def discard(self):
        """Drop all data, keep offsets."""
        recvbuf_discard(&self.b)

    def layout(self):
        """``(chunks, pieces)``: (cap, rd, wr) per chunk, (start, len, has_data) per piece.

        Raises RuntimeError if the piece list and its index disagree.
        """
        cdef Chunk* c = self.b.first
        cdef Piece* x = self.b.pieces
        cdef Piece* last = NULL
        cdef int k = 0
        chunks = []
        pieces = []
        while c != NULL:
            chunks.append((c.cap, c.rd, c.wr))
            c = c.next
        while x != NULL:
            if k >= self.b.n_pieces or x != piece_at(&self.b, k) or x.prev != last:
                raise RuntimeError("piece list and index disagree")
            pieces.append((x.start, x.len, x.data != NULL))
            last = x
            x = x.next
            k += 1
        if k != self.b.n_pieces or last != self.b.pieces_last:
            raise RuntimeError("piece list and index disagree")
        return chunks, pieces

    @property
    def read(self):
        """Offset of the next byte for an ordered reader."""
        return self.b.read

    @property
    def tail(self):
        """End of the contiguous data."""
        return self.b.tail

    @property
    def readable(self):
        """Bytes an ordered reader can have now."""
        return recvbuf_readable(&self.b)

    @property
    def owns_memory(self):
        """Whether any heap block is held."""
        return self.b.first != NULL or self.b.pieces != NULL or self.b.index != NULL
