"""Acknowledgements, losses and deadlines of a connection (RFC 9002)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._packet cimport Frame
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._recovery cimport FrameRec, PnSpace
from iroh_fast.quic._state cimport ConnectionState


cdef class LossRecovery(ConnectionState):
    cdef int on_ack(self, Path* p, PnSpace* sp, int level, Frame* f) noexcept nogil
    cdef void frames_acked_level(self, FrameRec* f, int level) noexcept nogil
    cdef void frames_lost(self, Path* p, FrameRec* f, int level) noexcept nogil
    cdef void detect_losses(self, Path* p, PnSpace* sp, int level, bint by_ack) noexcept nogil
    cdef void declare_lost(self, Path* p, PnSpace* sp, uint64_t pn, int level) noexcept nogil
    cdef void drop_space(self, Path* p, PnSpace* sp) noexcept nogil
    cdef int64_t pto_deadline(self, Path* p, PnSpace** sp, int* level) noexcept nogil
    cdef void check_ecn(self, Path* p, PnSpace* sp, Frame* f, bint raised) noexcept nogil
    cdef void ack_seen(self, PnSpace* sp, int level, uint32_t path_id, uint64_t upto) noexcept nogil
    cdef void drop_oversized(self) noexcept nogil
    cdef int64_t backoff(self, Path* p, int64_t base) noexcept nogil
    cdef int64_t loss_deadline(self, Path* p) noexcept nogil
    cdef int64_t idle_since(self) noexcept nogil
    cdef bint keep_alive_due(self) noexcept nogil
    cdef void path_timeout(self, Path* p, int64_t now) noexcept nogil
    cdef void forget_sent(self, Path* p, PnSpace* sp) noexcept nogil
    cdef void discard_path(self, Path* p) noexcept nogil
    cdef int64_t next_deadline(self) noexcept nogil
    cdef void log_metrics(self, Path* p) noexcept nogil
