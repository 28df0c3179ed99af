"""What can be asked of the paths of a connection."""

from libc.stdint cimport uint16_t, uint32_t, int64_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport CidSet, Path, cidset_new, ids_have, path_pto


cdef Path* search_path(Connection conn, uint32_t id) noexcept nogil:
    cdef Path* path = conn.paths.first
    while path != NULL and path.id != id:
        path = path.next
    if path != NULL:
        conn.paths.last_found = path
    return path


cdef int64_t pto_max(Connection conn) noexcept nogil:
    """The largest PTO of all paths; what close, idle and key timers are multiples of.

    A path that never worked has only the PTO to start with, and carries nothing to wait for: it counts when there
    is no other.
    """
    cdef Path* path = conn.paths.first
    cdef int64_t best = 0, unproven = 0, v
    while path != NULL:
        if not path.abandoned:
            v = path_pto(path) + conn.agreed.peer_max_ack_delay
            if path.established:
                if v > best:
                    best = v
            elif v > unproven:
                unproven = v
        path = path.next
    return best or unproven or 3 * conn.cfg.initial_rtt


cdef int open_paths(Connection conn) noexcept nogil:
    cdef Path* path = conn.paths.first
    cdef int n = 0
    while path != NULL:
        if not path.abandoned:
            n += 1
        path = path.next
    return n


cdef bint last_open(Connection conn, Path* path) noexcept nogil:
    cdef Path* other = conn.paths.first
    while other != NULL:
        if other != path and not other.abandoned:
            return False
        other = other.next
    return True


cdef bint any_usable(Connection conn) noexcept nogil:
    """Whether some path can carry anything to the peer."""
    cdef Path* other = conn.paths.first
    while other != NULL:
        if other.route.validated and not other.abandoned and other.cids.active >= 0:
            return True
        other = other.next
    return False


cdef bint must_abandon_itself(Connection conn, Path* path) noexcept nogil:
    """Whether the end of an abandoned path can only be told on that path."""
    return (path.abandoned and not path.abandon_received and path.route.validated and path.cids.active >= 0
            and not any_usable(conn))


cdef uint16_t path_mtu(Connection conn) noexcept nogil:
    cdef Path* path = conn.paths.first
    cdef uint16_t best = 65535
    while path != NULL:
        if not path.abandoned and path.route.mtud.current < best:
            best = path.route.mtud.current
        path = path.next
    return best if best != 65535 else conn.cfg.initial_mtu


cdef CidSet* find_ids(Connection conn, uint32_t id, bint make) noexcept nogil:
    cdef CidSet* ids = conn.paths.cids
    while ids != NULL and ids.path_id != id:
        ids = ids.next
    if ids == NULL and make:
        ids = cidset_new(id)
        if ids != NULL:
            ids.next = conn.paths.cids
            conn.paths.cids = ids
    return ids


cdef bint was_abandoned(Connection conn, uint32_t id) noexcept nogil:
    return ids_have(&conn.paths.abandoned, id)
