"""What an acknowledgement or a loss of a packet means for the frames that it carried."""

from libc.stdint cimport uint32_t, uint64_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._keys cimport LEVEL_1RTT
from iroh_fast.quic._path_queries cimport find_path
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._received cimport received_forget
from iroh_fast.quic._sent cimport FrameRec, SentRec
from iroh_fast.quic._space cimport PnSpace


cdef inline void ack_seen(Connection conn, PnSpace* space, int level, uint32_t path_id, uint64_t upto) noexcept nogil:
    """The peer has our acknowledgement of everything up to `upto`: those ranges need no repetition."""
    cdef Path* other
    if level != LEVEL_1RTT:
        received_forget(&space.received, upto)
        return
    other = find_path(conn, path_id)
    if other != NULL:
        received_forget(&other.recovery.space.received, upto)

# The records are consumed.
cdef void frames_acked(Connection conn, FrameRec* record, int level) noexcept nogil
cdef void frames_lost(Connection conn, Path* path, FrameRec* record, int level) noexcept nogil
cdef void release_frames(Connection conn, Path* path, SentRec* sent, int level) noexcept nogil
cdef void release_all(Connection conn, Path* path) noexcept nogil
cdef void requeue_oldest(Connection conn, Path* path, PnSpace* space, int level) noexcept nogil
