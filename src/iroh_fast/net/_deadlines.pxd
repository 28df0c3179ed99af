"""When connections want to be looked at: a heap in which each of them has one place."""

from libc.stdint cimport int64_t, uint32_t

from iroh_fast.quic._connection cimport QuicConnection


cdef class Deadlines:
    cdef list entries             # (time, stable id): the earliest first, the children of `i` at 4 i + 1 to 4 i + 4
    cdef dict connections         # all of the endpoint, by stable id
    cdef void place(self, uint32_t at, tuple entry) noexcept
    cdef void rise(self, uint32_t at) noexcept
    cdef void sink(self, uint32_t at) noexcept
    # Add a connection, or move it.
    cpdef int put(self, QuicConnection conn, int64_t at) except -1
    # Also when it is not in.
    cpdef void remove(self, QuicConnection conn) noexcept
    # The connection whose deadline is the earliest of those that have come, taken out; None: there is none.
    cpdef QuicConnection take_due(self, int64_t now)
    cpdef void clear(self) noexcept
    # The earliest, 0 when there is none.
    cdef int64_t earliest(self) noexcept
