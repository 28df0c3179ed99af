"""The paths of a connection: opening, proving, abandoning, and what all of them say together."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast._packet._frames cimport Frame
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._paths cimport MAX_DRAINING, Path, Route


# NULL when there is no such path.
cdef inline Path* find_path(QuicConnection conn, uint32_t id) noexcept nogil:
    if conn.paths.last_found != NULL and conn.paths.last_found.id == id:
        return conn.paths.last_found
    return search_path(conn, id)

cdef Path* search_path(QuicConnection conn, uint32_t id) noexcept nogil
cdef int64_t pto_max(QuicConnection conn) noexcept nogil
cdef int open_paths(QuicConnection conn) noexcept nogil
cdef bint last_open(QuicConnection conn, Path* path) noexcept nogil

cdef inline bint irreplaceable(QuicConnection conn, Path* path) noexcept nogil:
    """Whether no other open path is known to work: then it may not be given up for being idle."""
    cdef Path* other = conn.paths.first
    while other != NULL:
        if other != path and not other.abandoned and other.r.validated:
            return False
        other = other.next
    return True

cdef bint any_usable(QuicConnection conn) noexcept nogil
cdef bint must_abandon_itself(QuicConnection conn, Path* path) noexcept nogil
cdef uint16_t path_mtu(QuicConnection conn) noexcept nogil
cdef void init_route(QuicConnection conn, Route* r, const UdpAddr* remote, const UdpAddr* local) noexcept nogil
cdef Path* add_path(QuicConnection conn, uint32_t id, const UdpAddr* remote, const UdpAddr* local) noexcept nogil
cdef void challenge_path(QuicConnection conn, Path* path) noexcept nogil
cdef void path_established(QuicConnection conn, Path* path) noexcept nogil
cdef void log_path(QuicConnection conn, str kind, uint32_t id, object a, object b, object c, object d)
cdef void set_path_status(QuicConnection conn, Path* path, int status) noexcept nogil
cdef void grant_path(QuicConnection conn) noexcept nogil
cdef int on_path_abandon(QuicConnection conn, Frame* frame) noexcept nogil
cdef void on_path_status(QuicConnection conn, Frame* frame, int status) noexcept nogil
cdef void abandon_path(QuicConnection conn, Path* path, uint64_t code) noexcept nogil
cdef object path_stats(Path* path)
# A snapshot, for log_path.
cdef object path_statistics(Path* path)
cdef list read_path_log(QuicConnection conn)
cdef bytes addr_bytes(const UdpAddr* a)
cdef void discard_path(QuicConnection conn, Path* path) noexcept nogil
cdef void discard_oldest(QuicConnection conn) noexcept nogil

cdef inline void limit_draining(QuicConnection conn) noexcept nogil:
    """When too many abandoned paths wait for late packets, the one with the lowest id waits no longer."""
    if conn.paths.n_draining > MAX_DRAINING:
        discard_oldest(conn)

cdef void start_multipath(QuicConnection conn, uint64_t peer_limit) noexcept nogil
cdef bint may_be_opened(QuicConnection conn, uint32_t id) noexcept nogil
cdef int64_t next_path_id(QuicConnection conn) noexcept nogil
cdef void on_max_path_id(QuicConnection conn, Frame* frame) noexcept nogil
cdef int on_blocked(QuicConnection conn, Frame* frame) noexcept nogil
