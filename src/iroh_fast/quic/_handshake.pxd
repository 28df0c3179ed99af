"""TLS and keys of a connection (RFC 9001)."""

from libc.stdint cimport uint8_t

from iroh_fast._packet._headers cimport LongHeader
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._parameters cimport Parameters
from iroh_fast.quic._paths cimport Path


cdef bint may_update_keys(QuicConnection conn) noexcept nogil
cdef int update_keys(QuicConnection conn) noexcept nogil
cdef void phase_changed(QuicConnection conn, bint remote) noexcept nogil
cdef void discard_keys_later(QuicConnection conn) noexcept nogil
cdef int tls_feed(QuicConnection conn, int level) noexcept
cdef void tls_drain(QuicConnection conn)
cdef void install_keys(QuicConnection conn, bint write, int level, int suite, bytes secret)
cdef void adopt_limits(QuicConnection conn, Parameters* p)
cdef int remember_parameters(QuicConnection conn, bytes data) except? -1
cdef void complete_handshake(QuicConnection conn)
cdef void drop_0rtt(QuicConnection conn, Path* path)
cdef void confirm_handshake(QuicConnection conn)
cdef bytes own_parameters(QuicConnection conn, const uint8_t* reset_token)
cdef void on_retry(QuicConnection conn, const uint8_t* data, size_t n, const uint8_t* scid, uint8_t scid_len,
                   const uint8_t* token, size_t token_len) noexcept
cdef int set_initial_keys(QuicConnection conn, const uint8_t* dcid, size_t n) noexcept nogil
cdef void on_version_negotiation(QuicConnection conn, const uint8_t* data, size_t n, LongHeader* header) noexcept
