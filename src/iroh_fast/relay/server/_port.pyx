"""One connection, as the forwarder sees it; `_connection` has the real one."""

from libc.stdint cimport int64_t


cdef class Port:
    """What the forwarder asks of a connection."""

    cdef void hand_over(self) noexcept:
        """Give output to the transport until it has no room."""

    cdef void fail(self, int code) noexcept:
        """Begin the end, with a close code, or for 0 at once."""

    cdef int check_stall(self, int64_t now) except -1:
        """End the connection if it has not read for too long."""
        return 0

    cdef int start_bucket(self) except -1:
        """Begin with a full bucket of the present limit."""
        return 0
