"""Deadlines of a connection."""

from libc.stdint cimport int64_t

from iroh_fast.quic._connection cimport QuicConnection


cdef int64_t next_deadline(QuicConnection conn) noexcept nogil
# The same, with what may slip a little rounded up, so that many connections are due together.
cdef int64_t next_wake(QuicConnection conn) noexcept nogil
cdef void handle_timeout(QuicConnection conn, int64_t now) noexcept
