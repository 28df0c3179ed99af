"""What becomes of the paths when this machine's network changes.

A path that may go on is asked at once, from whatever address reaches its peer now and with a fresh connection id, so that
nobody on the way can link the two (RFC 9000 §9.5). One whose way is gone makes place for a new one to the same peer. Only the
side that dialed opens paths: the other one lets go of what is lost if there is something else. Source: the multipath draft.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._cids cimport rotate_id
from iroh_fast.quic._codes cimport PATH_UNSTABLE_OR_POOR, ST_ESTABLISHED
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._fates cimport release_all
from iroh_fast.quic._opening cimport may_open_path, open_path_to
from iroh_fast.quic._path_table cimport abandon_path, try_again
from iroh_fast.quic._paths cimport Path


cdef inline bint is_lost(const Path* path, const uint32_t* lost, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        if lost[i] == path.id:
            return True
    return False


cdef bint some_remains(Connection conn, const uint32_t* lost, int n) noexcept nogil:
    """Whether a path that works is not lost."""
    cdef Path* path = conn.paths.first
    while path != NULL:
        if path.route.validated and not path.abandoned and not is_lost(path, lost, n):
            return True
        path = path.next
    return False


cdef void paths_move(Connection conn, const uint32_t* lost, int n) noexcept nogil:
    cdef Path* path = conn.paths.first
    cdef Path* following
    cdef uint64_t fresh = <uint64_t>-1
    cdef bint remains = some_remains(conn, lost, n)
    if path != NULL:
        # What is opened here is not looked at again.
        while path.next != NULL:
            path = path.next
        fresh = path.id
        path = conn.paths.first
    while path != NULL and path.id <= fresh:
        following = path.next
        if not path.abandoned:
            if not is_lost(path, lost, n) or not replace(conn, path, remains):
                go_on(conn, path)
        path = following


cdef void go_on(Connection conn, Path* path) noexcept nogil:
    try_again(conn, path)
    memset(&path.route.local, 0, sizeof(UdpAddr))
    rotate_id(conn, path)


cdef bint replace(Connection conn, Path* path, bint remains) noexcept nogil:
    """Give a path up, and if we dialed open another one to where it led. False: it has to go on."""
    cdef UdpAddr nowhere, remote = path.route.remote
    cdef int status = path.status
    memset(&nowhere, 0, sizeof(UdpAddr))
    if conn.state != ST_ESTABLISHED or not (may_open_path(conn) or remains):
        return False
    release_all(conn, path)
    abandon_path(conn, path, PATH_UNSTABLE_OR_POOR)
    if may_open_path(conn):
        open_path_to(conn, &remote, &nowhere, status)
    return True
