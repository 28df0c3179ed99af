"""Stream byte buffers and range sets."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t


# ---- half-open ranges, sorted, disjoint, grown on demand -------------------
cdef struct RangeSet:
    uint64_t* v                   # pairs start, end
    int n, cap

cdef void ranges_init(RangeSet* r) noexcept nogil
cdef void ranges_free(RangeSet* r) noexcept nogil
cdef int ranges_add(RangeSet* r, uint64_t start, uint64_t end) noexcept nogil       # 0, -1 out of memory
cdef int ranges_remove(RangeSet* r, uint64_t start, uint64_t end) noexcept nogil
cdef bint ranges_contains(const RangeSet* r, uint64_t x) noexcept nogil


# ---- sending half: bytes stay until acknowledged ---------------------------
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


# ---- receiving half --------------------------------------------------------
cdef enum:
    RECVBUF_CHUNK = 65536
    RECVBUF_FIRST_CHUNK = 2048
    RECVBUF_MAX_GAPS = 4096

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
    uint32_t next_cap             # size of the next chunk, doubles up to RECVBUF_CHUNK
    bint unordered
    Piece** index                 # the same pieces as an array from index_head on, for binary search
    int index_head, index_cap

cdef inline uint64_t recvbuf_readable(const RecvBuf* b) noexcept nogil:
    return b.tail - b.read

cdef void recvbuf_init(RecvBuf* b) noexcept nogil
cdef void recvbuf_free(RecvBuf* b) noexcept nogil                      # takes the GIL itself
# Copies; duplicates and overlaps are resolved. 0, -1 out of memory, -2 more than RECVBUF_MAX_GAPS gaps.
cdef int recvbuf_insert(RecvBuf* b, uint64_t offset, const uint8_t* p, size_t n) noexcept nogil
cdef bytes recvbuf_take(RecvBuf* b, size_t maximum)                    # b"" when nothing is readable; whole chunks without a copy
cdef size_t recvbuf_read_into(RecvBuf* b, uint8_t* dst, size_t n) noexcept nogil
cdef object recvbuf_take_unordered(RecvBuf* b, size_t maximum)         # (offset, bytes) or None
cdef void recvbuf_discard(RecvBuf* b) noexcept nogil                   # drop all data, keep offsets
