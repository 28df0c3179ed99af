"""How a connection ends: closing, draining, drained (RFC 9000 §10)."""

from libc.stdint cimport uint64_t

from iroh_fast.quic._core cimport Connection


cdef void end_connection(Connection conn, object reason)
cdef void enter_close(Connection conn, object reason, uint64_t code, bint app, object text, uint64_t frame)
cdef void enter_drain(Connection conn, object reason, bint reply)
cdef void finish_drained(Connection conn, object reason)
cdef void end_failed(Connection conn) noexcept
cdef void on_stateless_reset(Connection conn)
