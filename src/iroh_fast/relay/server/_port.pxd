"""One connection, as the forwarder sees it."""

from libc.stdint cimport int64_t

from iroh_fast.relay.server._state cimport Client


cdef class Port:
    cdef Client c
    cdef readonly object transport
    cdef public object connection_id
    cdef readonly bytes endpoint_id
    cdef str why                  # it ended
    cdef void hand_over(self) noexcept
    cdef void fail(self, int code) noexcept
    cdef int check_stall(self, int64_t now) except -1
    cdef int start_bucket(self) except -1
