"""What of a connection goes into its qlog from compiled code."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport Path


cdef void log_packet(Connection conn, bint sent, int level, uint32_t path_id, uint64_t pn, size_t size,
                     const uint8_t* payload, size_t n) noexcept nogil
cdef void log_tuple(Connection conn, Path* path) noexcept nogil
