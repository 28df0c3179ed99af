"""Opening paths. Source: the multipath draft."""

from libc.stdint cimport uint32_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._control_queue cimport queue_control
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._ledger cimport CONTROL_CIDS_BLOCKED
from iroh_fast.quic._path_queries cimport find_ids
from iroh_fast.quic._path_table cimport add_path, challenge_path, next_path_id, set_path_status
from iroh_fast.quic._paths cimport CidSet, Path, STATUS_BACKUP, ip_known, same_addr, same_ip
from iroh_fast.quic._timers cimport TIMER_NO_PATH, timer_clear


cdef bint may_open_path(Connection conn) noexcept nogil:
    cdef int64_t id
    cdef CidSet* ids
    if not conn.is_client or not conn.agreed.multipath or not conn.handshake.confirmed:
        return False
    id = next_path_id(conn)
    ids = find_ids(conn, <uint32_t>id, False) if id >= 0 else NULL
    return ids != NULL and ids.active >= 0


cdef int64_t open_path_to(Connection conn, const UdpAddr* remote, const UdpAddr* local, int status) noexcept nogil:
    cdef Path* path
    cdef CidSet* ids
    cdef int64_t id
    if not conn.is_client or not conn.agreed.multipath or not conn.handshake.confirmed:
        return OPEN_NEVER
    id = next_path_id(conn)
    if id < 0:
        return OPEN_NO_ID
    ids = find_ids(conn, <uint32_t>id, True)
    if ids == NULL:
        return OPEN_NO_MEMORY
    if ids.active < 0:
        queue_control(conn, CONTROL_CIDS_BLOCKED, <uint32_t>id, 0, 0)
        return OPEN_NO_CIDS
    path = add_path(conn, <uint32_t>id, remote, local)
    if path == NULL:
        return OPEN_NO_MEMORY
    timer_clear(&conn.timers, TIMER_NO_PATH)
    challenge_path(conn, path)
    if status == STATUS_BACKUP:
        set_path_status(conn, path, STATUS_BACKUP)
    return id


cdef bint has_path_to(Connection conn, const UdpAddr* remote, const UdpAddr* local) noexcept nogil:
    cdef Path* path = conn.paths.first
    while path != NULL:
        if not path.abandoned and same_addr(&path.route.remote, remote) and (
                not ip_known(local) or not ip_known(&path.route.local) or same_ip(&path.route.local, local)):
            return True
        path = path.next
    return False
