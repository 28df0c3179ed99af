"""What of a connection goes into its qlog from compiled code."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast._batch cimport addr_to_tuple
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport Path, ip_known


cdef void log_packet(Connection conn, bint sent, int level, uint32_t path_id, uint64_t pn, size_t size,
                     const uint8_t* payload, size_t n) noexcept nogil:
    with gil:
        conn.qlog.packet(conn.now, sent, level, path_id, pn, size, PyBytes_FromStringAndSize(<const char*>payload, n))


cdef void log_tuple(Connection conn, Path* path) noexcept nogil:
    with gil:
        conn.qlog.assigned(conn.now, path.id, addr_to_tuple(&path.route.remote),
                           addr_to_tuple(&path.route.local) if ip_known(&path.route.local) else None)
