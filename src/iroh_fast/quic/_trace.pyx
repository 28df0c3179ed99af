"""What of a connection goes into its qlog from compiled code."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport addr_to_tuple
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport Path, ip_known
from iroh_fast.quic._timers cimport N_CONNECTION_TIMERS, N_TIMERS, timer_is_set


cdef void log_packet(Connection conn, bint sent, int level, uint32_t path_id, uint64_t pn, size_t size,
                     const uint8_t* payload, size_t n) noexcept nogil:
    with gil:
        conn.qlog.packet(conn.now, sent, level, path_id, pn, size, PyBytes_FromStringAndSize(<const char*>payload, n))


cdef void log_tuple(Connection conn, Path* path) noexcept nogil:
    with gil:
        conn.qlog.assigned(conn.now, path.id, addr_to_tuple(&path.route.remote),
                           addr_to_tuple(&path.route.local) if ip_known(&path.route.local) else None)


cdef void log_spurious(Connection conn, Path* path, int level, uint64_t newest, uint32_t count, bint undone) noexcept nogil:
    with gil:
        conn.qlog.spurious(conn.now, level, path.id, newest, count, undone)


cdef void log_key_discarded(Connection conn, int level) noexcept nogil:
    if conn.qlog is not None:
        with gil:
            conn.qlog.key_discarded(conn.now, level)


cdef void log_timers(Connection conn) noexcept nogil:
    cdef Path* path = conn.paths.first
    cdef int which
    with gil:
        due = {(-1, which): conn.timers.due[which]
               for which in range(N_CONNECTION_TIMERS) if timer_is_set(&conn.timers, which)}
        while path != NULL:
            for which in range(N_TIMERS):
                if timer_is_set(&path.timers, which):
                    due[path.id, which] = path.timers.due[which]
            path = path.next
        conn.qlog.timers(conn.now, due)


cdef void log_expired(Connection conn, Path* path, int which) noexcept nogil:
    with gil:
        conn.qlog.expired(conn.now, -1 if path == NULL else <int64_t>path.id, which)
