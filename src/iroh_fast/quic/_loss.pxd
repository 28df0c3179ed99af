"""Acknowledgements and losses of a connection (RFC 9002)."""

from libc.stdint cimport uint32_t, uint64_t, int64_t

from iroh_fast._packet._frames cimport Frame
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._recovery cimport PnSpace
from iroh_fast.quic._sent cimport FrameRec, SentRec


cdef int on_ack(Connection conn, Path* path, PnSpace* space, int level, Frame* frame, bint elsewhere) noexcept nogil
cdef void check_ecn(Connection conn, Path* path, PnSpace* space, Frame* frame, bint raised) noexcept nogil
cdef void ack_seen(Connection conn, PnSpace* space, int level, uint32_t path_id, uint64_t upto) noexcept nogil
cdef void frames_acked(Connection conn, FrameRec* record, int level) noexcept nogil
cdef void frames_lost(Connection conn, Path* path, FrameRec* record, int level) noexcept nogil
cdef void release_frames(Connection conn, Path* path, SentRec* sent, int level) noexcept nogil
cdef void declare_lost(Connection conn, Path* path, PnSpace* space, uint64_t position, int level) noexcept nogil
cdef void detect_losses(Connection conn, Path* path, PnSpace* space, int level, const Frame* frame) noexcept nogil
cdef void drop_oversized(Connection conn) noexcept nogil
cdef void drop_space(Connection conn, Path* path, PnSpace* space) noexcept nogil
cdef void forget_sent(Path* path, PnSpace* space) noexcept nogil
cdef int64_t backoff(Connection conn, Path* path, int64_t base) noexcept nogil
cdef int64_t pto_deadline(Connection conn, Path* path, PnSpace** out, int* level) noexcept nogil
cdef void try_again(Connection conn, Path* path) noexcept nogil
cdef void log_metrics(Connection conn, Path* path) noexcept nogil
