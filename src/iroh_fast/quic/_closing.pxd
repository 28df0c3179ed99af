"""How a connection ends: closing, draining, drained (RFC 9000 §10)."""

from libc.stdint cimport uint64_t

from iroh_fast.quic._connection cimport QuicConnection


cdef void end_connection(QuicConnection conn, object reason)
cdef void enter_close(QuicConnection conn, object reason, uint64_t code, bint app, object text, uint64_t frame)
cdef void enter_drain(QuicConnection conn, object reason, bint reply)
cdef void finish_drained(QuicConnection conn, object reason)
cdef void end_failed(QuicConnection conn) noexcept
