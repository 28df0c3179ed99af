"""TLS and keys of a connection (RFC 9001)."""

from libc.stdint cimport uint8_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._parameters cimport Parameters
from iroh_fast.quic._paths cimport Path


cdef bint may_update_keys(Connection conn) noexcept nogil
cdef int update_keys(Connection conn) noexcept nogil
cdef void phase_changed(Connection conn, bint remote) noexcept nogil
cdef void discard_keys_later(Connection conn) noexcept nogil
cdef int tls_feed(Connection conn, int level) noexcept
cdef void tls_drain(Connection conn)
cdef void install_keys(Connection conn, bint write, int level, int suite, bytes secret)
cdef void adopt_limits(Connection conn, Parameters* params)
cdef int remember_parameters(Connection conn, bytes data) except? -1
cdef void complete_handshake(Connection conn)
cdef void drop_0rtt(Connection conn, Path* path)
cdef void confirm_handshake(Connection conn)
cdef bytes own_parameters(Connection conn, const uint8_t* reset_token)
