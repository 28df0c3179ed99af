"""TLS and keys of a connection (RFC 9001)."""

from libc.stdint cimport uint8_t

from iroh_fast._packet cimport LongHeader
from iroh_fast.quic._parameters cimport Parameters
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._state cimport ConnectionState


cdef bint may_update_keys(ConnectionState conn) noexcept nogil
cdef int update_keys(ConnectionState conn) noexcept nogil
cdef void phase_changed(ConnectionState conn, bint remote) noexcept nogil
cdef void discard_keys_later(ConnectionState conn) noexcept nogil
cdef int tls_feed(ConnectionState conn, int level) noexcept
cdef void tls_drain(ConnectionState conn)
cdef void install_keys(ConnectionState conn, bint write, int level, int suite, bytes secret)
cdef void adopt_limits(ConnectionState conn, Parameters* p)
cdef int remember_parameters(ConnectionState conn, bytes data) except? -1
cdef void complete_handshake(ConnectionState conn)
cdef void drop_0rtt(ConnectionState conn, Path* path)
cdef void confirm_handshake(ConnectionState conn)
cdef bytes own_parameters(ConnectionState conn, const uint8_t* reset_token)
cdef void on_retry(ConnectionState conn, const uint8_t* data, size_t n, const uint8_t* scid, uint8_t scid_len,
                   const uint8_t* token, size_t token_len) noexcept
cdef int set_initial_keys(ConnectionState conn, const uint8_t* dcid, size_t n) noexcept nogil
cdef void on_version_negotiation(ConnectionState conn, const uint8_t* data, size_t n, LongHeader* header) noexcept
