"""Acknowledgements and losses of a connection (RFC 9002)."""

from libc.stdint cimport uint32_t, uint64_t, int64_t

from iroh_fast._packet._frames cimport Frame
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._recovery cimport PnSpace
from iroh_fast.quic._sent cimport FrameRec, SentRec


cdef int on_ack(QuicConnection conn, Path* path, PnSpace* space, int level, Frame* frame) noexcept nogil
cdef void check_ecn(QuicConnection conn, Path* path, PnSpace* space, Frame* frame, bint raised) noexcept nogil
cdef void ack_seen(QuicConnection conn, PnSpace* space, int level, uint32_t path_id, uint64_t upto) noexcept nogil
cdef void frames_acked(QuicConnection conn, FrameRec* record, int level) noexcept nogil
cdef void frames_lost(QuicConnection conn, Path* path, FrameRec* record, int level) noexcept nogil
cdef void release_frames(QuicConnection conn, Path* path, SentRec* sent, int level) noexcept nogil
cdef void declare_lost(QuicConnection conn, Path* path, PnSpace* space, uint64_t position, int level) noexcept nogil
cdef void detect_losses(QuicConnection conn, Path* path, PnSpace* space, int level, const Frame* frame) noexcept nogil
cdef void drop_oversized(QuicConnection conn) noexcept nogil
cdef void drop_space(QuicConnection conn, Path* path, PnSpace* space) noexcept nogil
cdef void forget_sent(Path* path, PnSpace* space) noexcept nogil
cdef int64_t backoff(QuicConnection conn, Path* path, int64_t base) noexcept nogil
cdef int64_t pto_deadline(QuicConnection conn, Path* path, PnSpace** out, int* level) noexcept nogil
cdef void try_again(QuicConnection conn, Path* path) noexcept nogil
cdef void log_metrics(QuicConnection conn, Path* path) noexcept nogil
