"""The receiving half's bytes, put into order.

A plain C struct driven by ``nogil`` functions; an empty one owns no memory. The contiguous part waits in chunks that
are ``bytes`` objects filled in place, handed over without a copy; what arrived ahead of a gap waits in pieces. The
GIL is taken only where such an object is made or dropped, once per chunk. One buffer belongs to one thread.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

cdef extern from "Python.h" nogil:
    PyObject* raw_bytes "PyBytes_FromStringAndSize" (const char* v, Py_ssize_t n)
    char* raw_bytes_data "PyBytes_AS_STRING" (PyObject* o)
    int raw_bytes_resize "_PyBytes_Resize" (PyObject** o, Py_ssize_t n)
    void raw_decref "Py_DECREF" (PyObject* o)
    void PyErr_Clear()

cdef enum:
    PIECE_MAX = 16384             # out-of-order pieces stop growing here
    PIECE_MERGE = 2048            # a following piece up to this size is copied into its neighbour
    INSERT_MAX = 1 << 30          # far above any frame; keeps 32-bit capacities honest

# Largest stream offset (RFC 9000 §4.5).
cdef uint64_t OFFSET_END = <uint64_t>1 << 62

# Chunks come and go at the end of the heap, megabytes of them where a reader lags behind. glibc gives all but 128 KiB
# back each time, and the kernel clears each page again, until it saw a larger block come and go: this one.
PyMem_RawFree(PyMem_RawMalloc(2 << 20))


cdef PyObject* new_bytes(Py_ssize_t n) noexcept with gil:
    """Create an uninitialised ``bytes`` of `n`; NULL without an exception if out of memory."""
    cdef PyObject* o = raw_bytes(NULL, n)
    if o == NULL:
        PyErr_Clear()
    return o


cdef void drop_object(PyObject* o) noexcept with gil:
    raw_decref(o)


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


cdef inline int gap_before(const Piece* x) noexcept nogil:
    """1 when something is missing between a piece and the one before; the first one always counts."""
    return 0 if x == NULL or (x.prev != NULL and x.prev.start + x.prev.len == x.start) else 1


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
    # There was a gap on either side, unless this one closes it.
    if x.prev != NULL:
        x.prev.next = x
        b.n_gaps += x.prev.start + x.prev.len != start
    else:
        b.pieces = x
        b.n_gaps += 1
    if x.next != NULL:
        x.next.prev = x
        b.n_gaps -= start + n == x.next.start
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
    b.covered += n
    return x


cdef void piece_delete(RecvBuf* b, int k) noexcept nogil:
    cdef Piece** index = b.index + b.index_head
    cdef Piece* x = index[k]
    b.n_gaps -= gap_before(x)
    if x.prev != NULL:
        x.prev.next = x.next
    else:
        b.pieces = x.next
    if x.next != NULL:
        b.n_gaps -= gap_before(x.next)
        x.next.prev = x.prev
        b.n_gaps += gap_before(x.next)
    else:
        b.pieces_last = x.prev
    b.n_pieces -= 1
    b.covered -= x.len
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


cdef inline void piece_lengthen(RecvBuf* b, Piece* x, uint64_t n) noexcept nogil:
    b.n_gaps -= gap_before(x.next)
    x.len += n
    b.covered += n
    b.n_gaps += gap_before(x.next)


cdef int piece_append(RecvBuf* b, Piece* x, const uint8_t* p, uint64_t n) noexcept nogil:
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
    piece_lengthen(b, x, n)
    return 0


cdef void piece_cut(RecvBuf* b, Piece* x, uint64_t n) noexcept nogil:
    """Drop the first `n` bytes, fewer than it has."""
    b.n_gaps -= gap_before(x)
    x.start += n
    x.len -= n
    b.covered -= n
    b.n_gaps += gap_before(x)
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
        if piece_append(b, x, p, n) < 0:
            return -1
        k -= 1
        at[0] = k
    else:
        if (b.n_gaps >= RECVBUF_MAX_GAPS and <uint64_t>b.n_gaps * RECVBUF_GAP_BYTES > b.covered
                and (x == NULL or x.start + x.len != start)):
            return -2
        x = piece_new(b, k, start, p, n)
        if x == NULL:
            return -1
    after = x.next
    if after != NULL:
        if (
            after.data != NULL and after.start == x.start + x.len
            and after.len <= PIECE_MERGE and x.len + after.len <= PIECE_MAX
            and piece_append(b, x, after.data, after.len) == 0
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
                    piece_cut(b, x, b.tail - before)
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


cdef int recvbuf_insert_rest(RecvBuf* b, uint64_t offset, const uint8_t* p, size_t n) noexcept nogil:
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
            piece_lengthen(b, other, n)
        elif piece_new(b, k, x.start, NULL, n) == NULL:
            return -1
        piece_cut(b, x, n)
        return 0
    PyMem_RawFree(x.data)
    x.data = NULL
    x.cap = 0
    if k + 1 < b.n_pieces:
        other = piece_at(b, k + 1)
        if other.data == NULL and other.start == x.start + x.len:
            piece_lengthen(b, x, other.len)
            piece_delete(b, k + 1)
    if k > 0:
        other = piece_at(b, k - 1)
        if other.data == NULL and other.start + other.len == x.start:
            piece_lengthen(b, other, x.len)
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
    b.n_pieces = b.n_gaps = 0
    b.covered = 0
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
