"""The paths of a connection: opening, proving, abandoning, and what all of them say together."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast._packet._frames cimport Frame
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport MAX_DRAINING, Path, Route


cdef void init_route(Connection conn, Route* route, const UdpAddr* remote, const UdpAddr* local) noexcept nogil
cdef Path* add_path(Connection conn, uint32_t id, const UdpAddr* remote, const UdpAddr* local) noexcept nogil
cdef void challenge_path(Connection conn, Path* path) noexcept nogil
cdef void path_established(Connection conn, Path* path) noexcept nogil
cdef void log_path(Connection conn, str kind, uint32_t id, object a, object b, object c, object d)
cdef void try_again(Connection conn, Path* path) noexcept nogil
cdef void set_path_status(Connection conn, Path* path, int status) noexcept nogil
cdef void grant_path(Connection conn) noexcept nogil
cdef int on_path_abandon(Connection conn, Frame* frame) noexcept nogil
cdef void on_path_status(Connection conn, Frame* frame, int status) noexcept nogil
cdef void abandon_path(Connection conn, Path* path, uint64_t code) noexcept nogil
cdef object path_stats(Path* path)
# What congestion control thinks of it.
cdef object controller_info(const Path* path)
# A snapshot, for log_path.
cdef object path_statistics(Path* path)
cdef list read_path_log(Connection conn)
cdef void record_path_log(Connection conn, bint on)
cdef bytes addr_bytes(const UdpAddr* a)
cdef void discard_path(Connection conn, Path* path) noexcept nogil
cdef void discard_oldest(Connection conn) noexcept nogil

cdef inline void limit_draining(Connection conn) noexcept nogil:
    """When too many abandoned paths wait for late packets, the one with the lowest id waits no longer."""
    if conn.paths.n_draining > MAX_DRAINING:
        discard_oldest(conn)

cdef void start_multipath(Connection conn, uint64_t peer_limit) noexcept nogil
cdef bint may_be_opened(Connection conn, uint32_t id) noexcept nogil
cdef int64_t next_path_id(Connection conn) noexcept nogil
cdef void on_max_path_id(Connection conn, Frame* frame) noexcept nogil
cdef int on_blocked(Connection conn, Frame* frame) noexcept nogil
