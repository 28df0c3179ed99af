"""Deadlines of a connection."""

from libc.stdint cimport int64_t

from iroh_fast.quic._core cimport Connection


cdef int64_t next_deadline(Connection conn) noexcept nogil
# The same, with what may slip a little rounded up, so that many connections are due together.
cdef int64_t next_wake(Connection conn) noexcept nogil
cdef void handle_timeout(Connection conn, int64_t now) noexcept
