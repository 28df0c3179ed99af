"""Probing packets for addresses that are no path's."""

from libc.stdint cimport uint8_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport OffPath
from iroh_fast.quic._traversal cimport probes_wait
from iroh_fast.quic._validation cimport off_path_waits


cdef inline bint off_path_due(Connection conn) noexcept nogil:
    return off_path_waits(conn) or probes_wait(conn)

# Write the next one, of at most MIN_DATAGRAM bytes: its size, and in `off` where it goes; 0: there is none.
cdef size_t write_off_path(Connection conn, uint8_t* buf, OffPath* off) noexcept nogil
