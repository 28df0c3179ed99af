"""The queue of the control-frame ledger: what waits, and how much of each kind may."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._sent cimport FrameRec


ctypedef uint8_t* (*WriteFn)(Connection, uint8_t*, FrameRec*) noexcept nogil
ctypedef void (*AckedFn)(Connection, FrameRec*) noexcept nogil
ctypedef bint (*LostFn)(Connection, FrameRec*) noexcept nogil


cdef struct Kind:
    int level                     # the lowest that may carry it; all of them elicit acknowledgements
    int room                      # bytes that are enough for the frame
    bint joins                    # one that waits stands for later ones, too
    uint32_t bound                # of frames that wait or are not acknowledged,
    uint32_t per_path             # and as many more for each path that we allow
    uint64_t error                # beyond; NO_ERROR: a further one is not queued
    const char* text
    WriteFn write                 # the frame, its wire type into `b`; NULL: it has become pointless
    AckedFn acked                 # NULL: nothing to do
    LostFn again                  # whether a lost one is sent again; NULL: always


# The row of a CONTROL_ kind; `_control` fills the table.
cdef Kind* control_kind(int kind) noexcept nogil
# Queue a frame of a CONTROL_ kind. 0; 1 when as many as are allowed wait or are under way; -1 when that is more than the peer
# has a reason for: the connection has failed.
cdef int queue_control(Connection conn, int kind, uint32_t path, uint64_t id, uint64_t value) noexcept nogil
# A record that counts already waits again.
cdef void append_record(Connection conn, FrameRec* record) noexcept nogil
# The first record that waits, which there must be.
cdef FrameRec* take_record(Connection conn) noexcept nogil
# A frame of a kind that is made out of turn counts, too.
cdef FrameRec* make_record(Connection conn, int kind, uint32_t path, uint64_t id, uint64_t value) noexcept nogil
# It is done with.
cdef void forget_record(Connection conn, FrameRec* record) noexcept nogil

# Frames of a kind that wait or are under way.
cdef inline uint32_t control_open(Connection conn, int kind) noexcept nogil:
    return conn.control.open[kind]

cdef inline FrameRec* first_record(Connection conn) noexcept nogil:
    return conn.control.head
