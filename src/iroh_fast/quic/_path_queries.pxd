"""What can be asked of the paths of a connection. Nothing here changes one."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport CidSet, Path


cdef enum:
    LEAST_DATAGRAM = 64           # below this allowance nothing is started


# NULL when there is no such path.
cdef inline Path* find_path(Connection conn, uint32_t id) noexcept nogil:
    if conn.paths.last_found != NULL and conn.paths.last_found.id == id:
        return conn.paths.last_found
    return search_path(conn, id)

cdef Path* search_path(Connection conn, uint32_t id) noexcept nogil
cdef int64_t pto_max(Connection conn) noexcept nogil
cdef int open_paths(Connection conn) noexcept nogil
cdef bint last_open(Connection conn, Path* path) noexcept nogil

cdef inline bint irreplaceable(Connection conn, Path* path) noexcept nogil:
    """Whether no other open path is known to work: then it may not be given up for being idle."""
    cdef Path* other = conn.paths.first
    while other != NULL:
        if other != path and not other.abandoned and other.route.validated:
            return False
        other = other.next
    return True

cdef bint any_usable(Connection conn) noexcept nogil
cdef bint must_abandon_itself(Connection conn, Path* path) noexcept nogil
cdef uint16_t path_mtu(Connection conn) noexcept nogil
# The ids of a path id, open or not; with `make` an empty set where there is none. NULL: none, or out of memory.
cdef CidSet* find_ids(Connection conn, uint32_t id, bint make) noexcept nogil
cdef bint was_abandoned(Connection conn, uint32_t id) noexcept nogil

# Bytes that may still go to the present address of a path.
cdef inline uint64_t path_allowance(Connection conn, const Path* path) noexcept nogil:
    if conn.is_client or path.route.validated:
        return <uint64_t>-1           # a client chose the address itself
    return 3 * path.route.received - path.route.sent if 3 * path.route.received > path.route.sent else 0

cdef inline bint amplification_blocked(Connection conn, const Path* path, size_t batched) noexcept nogil:
    return path_allowance(conn, path) < LEAST_DATAGRAM + batched
