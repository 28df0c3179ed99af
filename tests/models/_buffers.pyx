"""The byte buffers of streams as Python objects, for tests and benchmarks.

Built as ``iroh_fast.quic._buffers`` in development builds alone.
"""

cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast.quic._ranges cimport RangeSet, ranges_add, ranges_contains, ranges_free, ranges_init, ranges_remove
from iroh_fast.quic._receive_buffer cimport (
    Chunk, Piece, RECVBUF_MAX_GAPS, RecvBuf, recvbuf_discard, recvbuf_free, recvbuf_init, recvbuf_insert,
    recvbuf_read_into, recvbuf_readable, recvbuf_take, recvbuf_take_unordered)
from iroh_fast.quic._send_buffer cimport (
    SendBuf, sendbuf_ack, sendbuf_copy, sendbuf_free, sendbuf_has_pending, sendbuf_init, sendbuf_lost, sendbuf_poll,
    sendbuf_rewind, sendbuf_unacked, sendbuf_write_copy, sendbuf_write_ref)


cdef int check(int rc) except -1:
    if rc == -2:
        raise OverflowError(f"more than {RECVBUF_MAX_GAPS} gaps")
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
            if k >= self.b.n_pieces or x != self.b.index[self.b.index_head + k] or x.prev != last:
                raise RuntimeError("piece list and index disagree")
            pieces.append((x.start, x.len, x.data != NULL))
            last = x
            x = x.next
            k += 1
        if k != self.b.n_pieces or last != self.b.pieces_last:
            raise RuntimeError("piece list and index disagree")
        if self.gaps != sum(not i or pieces[i - 1][0] + pieces[i - 1][1] != pieces[i][0] for i in range(k)):
            raise RuntimeError("gaps were not counted right")
        return chunks, pieces

    @property
    def gaps(self):
        """Gaps in front of pieces out of order."""
        return self.b.n_gaps

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
