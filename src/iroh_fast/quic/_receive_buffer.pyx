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
    char* raw_bytes_data "PyBytes_AS_STRING" (PyObject* obj)
    int raw_bytes_resize "_PyBytes_Resize" (PyObject** obj, Py_ssize_t n)
    void raw_decref "Py_DECREF" (PyObject* obj)
    void PyErr_Clear()

cdef enum:
    PIECE_MAX = 16384             # out-of-order pieces stop growing here
    PIECE_MERGE = 2048            # a following piece up to this size is copied into its neighbour
    INSERT_MAX = 1 << 30          # far above any frame; keeps 32-bit capacities honest

# Largest stream offset (RFC 9000 §4.5).
cdef uint64_t OFFSET_END = <uint64_t>1 << 62

# Chunks come and go at the end of the heap, megabytes of them where a reader lags behind. glibc gives all but 128 KiB
# back each time, and the kernel clears each page again, until it saw a larger block come and go: this one. Twice its size
# stays from then on: what a read of 16 KiB each on 2,000 streams holds.
PyMem_RawFree(PyMem_RawMalloc(16 << 20))


cdef PyObject* new_bytes(Py_ssize_t n) noexcept with gil:
    """Create an uninitialised ``bytes`` of `n`; NULL without an exception if out of memory."""
    cdef PyObject* obj = raw_bytes(NULL, n)
    if obj == NULL:
        PyErr_Clear()
    return obj


cdef void drop_object(PyObject* obj) noexcept with gil:
    raw_decref(obj)


cdef void recvbuf_init(RecvBuf* buffer) noexcept nogil:
    memset(buffer, 0, sizeof(RecvBuf))
    buffer.next_cap = RECVBUF_FIRST_CHUNK


cdef Chunk* chunk_new(RecvBuf* buffer, size_t want) noexcept nogil:
    """Append an empty chunk sized for `want` bytes and for what the stream used so far."""
    cdef Chunk* chunk = <Chunk*>PyMem_RawMalloc(sizeof(Chunk))
    cdef uint32_t cap = max(buffer.next_cap, <uint32_t>RECVBUF_FIRST_CHUNK)
    if chunk == NULL:
        return NULL
    while cap < want and cap < RECVBUF_CHUNK:
        cap *= 2
    chunk.obj = new_bytes(cap)
    if chunk.obj == NULL:
        PyMem_RawFree(chunk)
        return NULL
    chunk.base = <uint8_t*>raw_bytes_data(chunk.obj)
    chunk.cap = cap
    chunk.rd = chunk.wr = 0
    chunk.next = NULL
    if buffer.last != NULL:
        buffer.last.next = chunk
    else:
        buffer.first = chunk
        buffer.read = buffer.tail                      # they differ only after a discard
    buffer.last = chunk
    buffer.next_cap = <uint32_t>min(cap * 2, <uint32_t>RECVBUF_CHUNK)
    return chunk


cdef PyObject* chunk_pop(RecvBuf* buffer) noexcept nogil:
    """Unlink the first chunk and return its object, now the caller's reference."""
    cdef Chunk* chunk = buffer.first
    cdef PyObject* obj = chunk.obj
    buffer.first = chunk.next
    if buffer.first == NULL:
        buffer.last = NULL
    # A reader that keeps up with less than half a chunk needs no larger one next time.
    if chunk.wr <= chunk.cap // 2:
        buffer.next_cap = <uint32_t>max(chunk.cap // 2, <uint32_t>RECVBUF_FIRST_CHUNK)
    PyMem_RawFree(chunk)
    return obj


cdef int chunk_append(RecvBuf* buffer, const uint8_t* p, size_t n) noexcept nogil:
    """Put `n` bytes at the tail; `tail` tells how far it got when out of memory (-1)."""
    cdef Chunk* chunk = buffer.last
    cdef size_t part
    while True:
        if chunk != NULL:
            part = min(n, <size_t>(chunk.cap - chunk.wr))
            if part > 0:
                memcpy(chunk.base + chunk.wr, p, part)
                chunk.wr += <uint32_t>part
                buffer.tail += part
                p += part
                n -= part
        if n == 0:
            return 0
        chunk = chunk_new(buffer, n)
        if chunk == NULL:
            return -1


cdef inline Piece* piece_at(const RecvBuf* buffer, int k) noexcept nogil:
    return buffer.index[buffer.index_head + k]


cdef int piece_find(const RecvBuf* buffer, uint64_t offset) noexcept nogil:
    """Position of the first piece that ends above `offset`."""
    cdef int lo = 0, hi = buffer.n_pieces, mid
    cdef Piece* piece
    while lo < hi:
        mid = (lo + hi) >> 1
        piece = piece_at(buffer, mid)
        if piece.start + piece.len <= offset:
            lo = mid + 1
        else:
            hi = mid
    return lo


cdef int piece_reserve(RecvBuf* buffer) noexcept nogil:
    """Make room for one more pointer behind the index."""
    cdef Piece** index
    cdef int cap
    if buffer.index_head + buffer.n_pieces < buffer.index_cap:
        return 0
    if buffer.index_head > buffer.index_cap // 2:
        memmove(buffer.index, buffer.index + buffer.index_head, <size_t>buffer.n_pieces * sizeof(Piece*))
        buffer.index_head = 0
        return 0
    cap = <int>(buffer.index_cap * 2 if buffer.index_cap else 8)
    index = <Piece**>PyMem_RawRealloc(buffer.index, <size_t>cap * sizeof(Piece*))
    if index == NULL:
        return -1
    buffer.index = index
    buffer.index_cap = cap
    return 0


cdef inline int gap_before(const Piece* piece) noexcept nogil:
    """1 when something is missing between a piece and the one before; the first one always counts."""
    return 0 if piece == NULL or (piece.prev != NULL and piece.prev.start + piece.prev.len == piece.start) else 1


cdef Piece* piece_new(RecvBuf* buffer, int k, uint64_t start, const uint8_t* p, uint64_t n) noexcept nogil:
    """Insert a piece at position `k`, copying `n` bytes from `p`; p NULL: handed out already.

    The first allocation fits exactly, so that a peer sending single bytes does not make us
    hold kilobytes for each.
    """
    cdef Piece* piece
    cdef Piece** index
    if piece_reserve(buffer) < 0:
        return NULL
    piece = <Piece*>PyMem_RawMalloc(sizeof(Piece))
    if piece == NULL:
        return NULL
    piece.data = NULL
    piece.cap = 0
    if p != NULL:
        piece.data = <uint8_t*>PyMem_RawMalloc(<size_t>n)
        if piece.data == NULL:
            PyMem_RawFree(piece)
            return NULL
        memcpy(piece.data, p, <size_t>n)
        piece.cap = <uint32_t>n
    piece.start = start
    piece.len = n
    index = buffer.index + buffer.index_head
    piece.prev = index[k - 1] if k > 0 else NULL
    piece.next = index[k] if k < buffer.n_pieces else NULL
    # There was a gap on either side, unless this one closes it.
    if piece.prev != NULL:
        piece.prev.next = piece
        buffer.n_gaps += piece.prev.start + piece.prev.len != start
    else:
        buffer.pieces = piece
        buffer.n_gaps += 1
    if piece.next != NULL:
        piece.next.prev = piece
        buffer.n_gaps -= start + n == piece.next.start
    else:
        buffer.pieces_last = piece
    if buffer.index_head > 0 and k < buffer.n_pieces - k:
        memmove(index - 1, index, <size_t>k * sizeof(Piece*))
        index[k - 1] = piece
        buffer.index_head -= 1
    else:
        memmove(index + k + 1, index + k, <size_t>(buffer.n_pieces - k) * sizeof(Piece*))
        index[k] = piece
    buffer.n_pieces += 1
    buffer.covered += n
    return piece


cdef void piece_delete(RecvBuf* buffer, int k) noexcept nogil:
    cdef Piece** index = buffer.index + buffer.index_head
    cdef Piece* piece = index[k]
    buffer.n_gaps -= gap_before(piece)
    if piece.prev != NULL:
        piece.prev.next = piece.next
    else:
        buffer.pieces = piece.next
    if piece.next != NULL:
        buffer.n_gaps -= gap_before(piece.next)
        piece.next.prev = piece.prev
        buffer.n_gaps += gap_before(piece.next)
    else:
        buffer.pieces_last = piece.prev
    buffer.n_pieces -= 1
    buffer.covered -= piece.len
    if k == 0:
        buffer.index_head += 1
    else:
        memmove(index + k, index + k + 1, <size_t>(buffer.n_pieces - k) * sizeof(Piece*))
    PyMem_RawFree(piece.data)
    PyMem_RawFree(piece)
    if buffer.n_pieces == 0:
        PyMem_RawFree(buffer.index)
        buffer.index = NULL
        buffer.index_head = buffer.index_cap = 0


cdef inline void piece_lengthen(RecvBuf* buffer, Piece* piece, uint64_t n) noexcept nogil:
    buffer.n_gaps -= gap_before(piece.next)
    piece.len += n
    buffer.covered += n
    buffer.n_gaps += gap_before(piece.next)


cdef int piece_append(RecvBuf* buffer, Piece* piece, const uint8_t* p, uint64_t n) noexcept nogil:
    """Add bytes behind a piece that still has its data; the caller limits the total."""
    cdef uint8_t* data
    cdef uint64_t cap
    if piece.len + n > piece.cap:
        cap = max(piece.len + n, min(<uint64_t>piece.cap * 2, <uint64_t>PIECE_MAX))
        data = <uint8_t*>PyMem_RawRealloc(piece.data, <size_t>cap)
        if data == NULL:
            return -1
        piece.data = data
        piece.cap = <uint32_t>cap
    memcpy(piece.data + piece.len, p, <size_t>n)
    piece_lengthen(buffer, piece, n)
    return 0


cdef void piece_cut(RecvBuf* buffer, Piece* piece, uint64_t n) noexcept nogil:
    """Drop the first `n` bytes, fewer than it has."""
    buffer.n_gaps -= gap_before(piece)
    piece.start += n
    piece.len -= n
    buffer.covered -= n
    buffer.n_gaps += gap_before(piece)
    if piece.data != NULL:
        memmove(piece.data, piece.data + n, <size_t>piece.len)


cdef int piece_put(RecvBuf* buffer, int* at, uint64_t start, const uint8_t* p, uint64_t n) noexcept nogil:
    """Store bytes that belong between the pieces `at`-1 and `at`.

    `at` becomes the position of the piece that holds them; it may have swallowed the next.
    """
    cdef int k = at[0]
    cdef Piece* piece = piece_at(buffer, k - 1) if k > 0 else NULL
    cdef Piece* after
    if piece != NULL and piece.data != NULL and piece.start + piece.len == start and piece.len + n <= PIECE_MAX:
        if piece_append(buffer, piece, p, n) < 0:
            return -1
        k -= 1
        at[0] = k
    else:
        if (buffer.n_gaps >= RECVBUF_MAX_GAPS and <uint64_t>buffer.n_gaps * RECVBUF_GAP_BYTES > buffer.covered
                and (piece == NULL or piece.start + piece.len != start)):
            return -2
        piece = piece_new(buffer, k, start, p, n)
        if piece == NULL:
            return -1
    after = piece.next
    if after != NULL:
        if (
            after.data != NULL and after.start == piece.start + piece.len
            and after.len <= PIECE_MERGE and piece.len + after.len <= PIECE_MAX
            and piece_append(buffer, piece, after.data, after.len) == 0
        ):
            piece_delete(buffer, k + 1)
    return 0


cdef inline void recvbuf_settle(RecvBuf* buffer) noexcept nogil:
    """Move over handed out pieces once everything before them was read."""
    cdef Piece* piece = buffer.pieces
    while piece != NULL and piece.data == NULL and piece.start == buffer.tail and buffer.read == buffer.tail:
        buffer.tail += piece.len
        buffer.read = buffer.tail
        piece_delete(buffer, 0)
        piece = buffer.pieces


cdef int recvbuf_insert_slow(RecvBuf* buffer, uint64_t offset, const uint8_t* p, uint64_t n) noexcept nogil:
    cdef uint64_t end = offset + n, stop, before
    cdef Piece* piece
    cdef int k, rc
    cdef bint blocked = False
    while True:
        if offset < buffer.tail:
            if end <= buffer.tail:
                return 0
            p += buffer.tail - offset
            offset = buffer.tail
        if offset > buffer.tail or blocked:
            break
        stop = end
        if buffer.pieces != NULL and buffer.pieces.start < stop:
            stop = buffer.pieces.start
        if stop > offset and chunk_append(buffer, p, <size_t>(stop - offset)) < 0:
            return -1
        # The tail may have reached pieces: they become part of it.
        recvbuf_settle(buffer)
        piece = buffer.pieces
        while piece != NULL and piece.start == buffer.tail:
            if piece.data == NULL:
                # Handed out, but bytes before it are still unread: chunks cannot have a hole,
                # so the rest waits as pieces.
                blocked = True
                break
            before = buffer.tail
            if chunk_append(buffer, piece.data, <size_t>piece.len) < 0:
                if buffer.tail > before:
                    piece_cut(buffer, piece, buffer.tail - before)
                return -1
            piece_delete(buffer, 0)
            piece = buffer.pieces
    k = piece_find(buffer, offset)
    while offset < end:
        piece = piece_at(buffer, k) if k < buffer.n_pieces else NULL
        if piece != NULL and piece.start <= offset:
            stop = piece.start + piece.len
            k += 1
        else:
            stop = end
            if piece != NULL and piece.start < stop:
                stop = piece.start
            rc = piece_put(buffer, &k, offset, p, stop - offset)
            if rc < 0:
                return rc
        if stop > end:
            stop = end
        p += stop - offset
        offset = stop
    return 0


cdef int recvbuf_insert_rest(RecvBuf* buffer, uint64_t offset, const uint8_t* p, size_t n) noexcept nogil:
    if n == 0:
        return 0
    if n > INSERT_MAX or offset > OFFSET_END - n:
        return -1
    return recvbuf_insert_slow(buffer, offset, p, n)


cdef bytes recvbuf_take(RecvBuf* buffer, size_t maximum):
    """Remove and return up to `maximum` bytes, at most one chunk; b"" if nothing is readable.

    A chunk that fits is handed over without a copy: it is detached first and never written
    again.  MemoryError leaves the buffer as it was, unless shrinking the chunk itself fails.
    """
    cdef Chunk* chunk = buffer.first
    cdef PyObject* obj
    cdef bytes out
    cdef uint32_t n, cap
    if chunk == NULL or maximum == 0:
        return b""
    n = chunk.wr - chunk.rd
    if chunk.rd == 0 and n <= maximum:
        cap = chunk.cap
        obj = chunk_pop(buffer)
        buffer.read += n
        if n < cap and raw_bytes_resize(&obj, n) < 0:
            raise MemoryError
        out = <bytes>obj
        raw_decref(obj)
    else:
        if n > maximum:
            n = <uint32_t>maximum
        out = PyBytes_FromStringAndSize(<char*>chunk.base + chunk.rd, n)
        chunk.rd += n
        buffer.read += n
        if chunk.rd == chunk.wr:
            raw_decref(chunk_pop(buffer))
    recvbuf_settle(buffer)
    return out


cdef size_t recvbuf_read_into(RecvBuf* buffer, uint8_t* dst, size_t n) noexcept nogil:
    """Move up to `n` readable bytes to `dst`, across chunks; returns how many."""
    cdef Chunk* chunk = buffer.first
    cdef size_t part, done = 0
    while chunk != NULL and done < n:
        part = min(n - done, <size_t>(chunk.wr - chunk.rd))
        memcpy(dst + done, chunk.base + chunk.rd, part)
        chunk.rd += <uint32_t>part
        done += part
        buffer.read += part
        if chunk.rd == chunk.wr:
            drop_object(chunk_pop(buffer))
            chunk = buffer.first
    recvbuf_settle(buffer)
    return done


cdef int recvbuf_mark_taken(RecvBuf* buffer, int k, uint64_t n) noexcept nogil:
    """Remember the first `n` bytes of piece `k` as handed out. 0, or -1, then unchanged."""
    cdef Piece* piece = piece_at(buffer, k)
    cdef Piece* other
    if n < piece.len:
        other = piece_at(buffer, k - 1) if k > 0 else NULL
        if piece.start == buffer.tail and buffer.read == buffer.tail:
            buffer.tail += n
            buffer.read = buffer.tail
        elif other != NULL and other.data == NULL and other.start + other.len == piece.start:
            piece_lengthen(buffer, other, n)
        elif piece_new(buffer, k, piece.start, NULL, n) == NULL:
            return -1
        piece_cut(buffer, piece, n)
        return 0
    PyMem_RawFree(piece.data)
    piece.data = NULL
    piece.cap = 0
    if k + 1 < buffer.n_pieces:
        other = piece_at(buffer, k + 1)
        if other.data == NULL and other.start == piece.start + piece.len:
            piece_lengthen(buffer, piece, other.len)
            piece_delete(buffer, k + 1)
    if k > 0:
        other = piece_at(buffer, k - 1)
        if other.data == NULL and other.start + other.len == piece.start:
            piece_lengthen(buffer, other, piece.len)
            piece_delete(buffer, k)
    recvbuf_settle(buffer)
    return 0


cdef object recvbuf_take_unordered(RecvBuf* buffer, size_t maximum):
    """Remove the lowest buffered bytes, gaps or not: ``(offset, bytes)``, or None.

    Switches the buffer to unordered mode.  At most one chunk or piece at a time.  What was
    handed out is remembered, so every byte comes once.
    """
    cdef uint64_t offset = buffer.read
    cdef Piece* piece
    cdef uint64_t n
    cdef int k = 0
    cdef tuple result
    cdef object number, data
    buffer.unordered = True
    if maximum == 0:
        return None
    if buffer.first != NULL:
        # All allocations that may fail come before the bytes leave the buffer.
        result = PyTuple_New(2)
        number = offset
        Py_INCREF(number)
        PyTuple_SET_ITEM(result, 0, number)
        data = recvbuf_take(buffer, maximum)
        Py_INCREF(data)
        PyTuple_SET_ITEM(result, 1, data)
        return result
    buffer.read = buffer.tail                          # they differ only after a discard
    recvbuf_settle(buffer)
    piece = buffer.pieces
    while piece != NULL and piece.data == NULL:
        piece = piece.next
        k += 1
    if piece == NULL:
        return None
    n = min(piece.len, <uint64_t>maximum)
    result = (piece.start, PyBytes_FromStringAndSize(<char*>piece.data, <Py_ssize_t>n))
    if recvbuf_mark_taken(buffer, k, n) < 0:
        raise MemoryError
    return result


cdef void recvbuf_discard(RecvBuf* buffer) noexcept nogil:
    """Drop all data; `read` and `tail` stay, for accounting of the unread bytes."""
    cdef Piece* piece = buffer.pieces
    cdef Piece* following
    while buffer.first != NULL:
        drop_object(chunk_pop(buffer))
    buffer.pieces = buffer.pieces_last = NULL
    buffer.n_pieces = buffer.n_gaps = 0
    buffer.covered = 0
    PyMem_RawFree(buffer.index)
    buffer.index = NULL
    buffer.index_head = buffer.index_cap = 0
    while piece != NULL:
        following = piece.next
        PyMem_RawFree(piece.data)
        PyMem_RawFree(piece)
        piece = following


cdef void recvbuf_free(RecvBuf* buffer) noexcept nogil:
    recvbuf_discard(buffer)
    recvbuf_init(buffer)
