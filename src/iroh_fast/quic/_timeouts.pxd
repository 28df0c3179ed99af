"""Deadlines of a connection."""

from libc.stdint cimport int64_t

from iroh_fast.quic._state cimport ConnectionState


cdef int64_t next_deadline(ConnectionState conn) noexcept nogil
# The same, with what may slip a little rounded up, so that many connections are due together.
cdef int64_t next_wake(ConnectionState conn) noexcept nogil
cdef void handle_timeout(ConnectionState conn, int64_t now) noexcept
