"""The receiving half's bytes, put into order."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum:
    RECVBUF_CHUNK = 65536
    RECVBUF_FIRST_CHUNK = 2048
    RECVBUF_MAX_GAPS = 4096       # or one for each
    RECVBUF_GAP_BYTES = 512       # that came behind the first: losses of full packets never reach that

cdef struct Chunk:
    PyObject* obj                 # bytes of `cap`, filled in place
    uint8_t* base
    uint32_t cap, rd, wr
    Chunk* next

cdef struct Piece:                # out of order: [start, start+len)
    uint64_t start, len
    uint8_t* data                 # NULL once handed out by an unordered read
    uint32_t cap
    Piece* prev
    Piece* next

cdef struct RecvBuf:
    Chunk* first
    Chunk* last
    uint64_t read                 # offset of the next byte for an ordered reader
    uint64_t tail                 # end of the contiguous data
    Piece* pieces                 # sorted, disjoint, all above tail
    Piece* pieces_last
    int n_pieces
    int n_gaps                    # pieces that do not begin where the one before ends
    uint64_t covered              # bytes of all pieces
    uint32_t next_cap             # size of the next chunk, doubles up to RECVBUF_CHUNK
    bint unordered
    Piece** index                 # the same pieces as an array from index_head on, for binary search
    int index_head, index_cap

cdef inline uint64_t recvbuf_readable(const RecvBuf* buffer) noexcept nogil:
    return buffer.tail - buffer.read

cdef inline uint32_t recvbuf_thin_gaps(const RecvBuf* buffer) noexcept nogil:
    """Gaps beyond those that the bytes behind the first one explain."""
    cdef uint64_t explained = buffer.covered // RECVBUF_GAP_BYTES
    return <uint32_t>(buffer.n_gaps - explained) if <uint64_t>buffer.n_gaps > explained else 0

cdef void recvbuf_init(RecvBuf* buffer) noexcept nogil
cdef void recvbuf_free(RecvBuf* buffer) noexcept nogil                      # takes the GIL itself
cdef bytes recvbuf_take(RecvBuf* buffer, size_t maximum)                    # b"" when nothing is readable; whole chunks without a copy
cdef size_t recvbuf_read_into(RecvBuf* buffer, uint8_t* dst, size_t n) noexcept nogil
cdef object recvbuf_take_unordered(RecvBuf* buffer, size_t maximum)         # (offset, bytes) or None
cdef void recvbuf_discard(RecvBuf* buffer) noexcept nogil                   # drop all data, keep offsets

cdef int recvbuf_insert_rest(RecvBuf* buffer, uint64_t offset, const uint8_t* p, size_t n) noexcept nogil

cdef inline int recvbuf_insert(RecvBuf* buffer, uint64_t offset, const uint8_t* p, size_t n) noexcept nogil:  # hot
    """Store received bytes; what is already there wins over what comes later.

    The caller has checked flow control (RFC 9000 §4.1).  0; -1 out of memory or sizes no
    frame can have; -2 too many gaps.  After an error the
    buffer is consistent and holds a part of the bytes.
    """
    cdef Chunk* chunk = buffer.last
    if buffer.pieces == NULL and offset == buffer.tail and chunk != NULL and n <= chunk.cap - chunk.wr:
        memcpy(chunk.base + chunk.wr, p, n)
        chunk.wr += <uint32_t>n
        buffer.tail += n
        return 0
    return recvbuf_insert_rest(buffer, offset, p, n)
