"""Keys and TLS of a connection (RFC 9001)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._packet cimport LongHeader
from iroh_fast.quic._loss cimport LossRecovery
from iroh_fast.quic._paths cimport Path


cdef class SecuredConnection(LossRecovery):
    cdef void on_retry(self, const uint8_t* data, size_t n, const uint8_t* scid, uint8_t scid_len, const uint8_t* token,
                       size_t token_len) noexcept
    cdef bint may_update_keys(self) noexcept nogil
    cdef void on_version_negotiation(self, const uint8_t* data, size_t n, LongHeader* h) noexcept
    cdef int set_initial_keys(self, const uint8_t* dcid, size_t n) noexcept nogil
    cdef int adopt_limits(self, object tp) except -1
    cdef void drop_0rtt(self, Path* p)
    cdef int tls_feed(self, int level) noexcept
    cdef void tls_drain(self)
    cdef void install(self, bint write, int level, int suite, bytes secret)
    cdef int apply_parameters(self, object tp) except -1
    cdef void on_complete(self)
    cdef void on_confirmed(self)
    cdef int update_keys(self) noexcept nogil
    cdef void phase_changed(self, bint remote) noexcept nogil
    cdef int discard_keys_later(self) noexcept nogil
