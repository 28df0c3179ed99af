"""Which addresses are proven, and how much may go to those that are not (RFC 9000 §8, §9)."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport OffPath, Path


# Bytes that may still go to an address, a path's or not.
cdef uint64_t address_allowance(Connection conn, const UdpAddr* remote) noexcept nogil
cdef void address_received(Connection conn, const UdpAddr* remote, size_t n) noexcept nogil
cdef void address_sent(Connection conn, const UdpAddr* remote, size_t n) noexcept nogil

cdef void queue_off_path(Connection conn, const Path* path, const UdpAddr* remote, const UdpAddr* local,
                         const uint8_t* data) noexcept nogil
cdef inline bint off_path_waits(Connection conn) noexcept nogil:
    return conn.paths.n_off_path > 0

cdef bint take_off_path(Connection conn, OffPath* out) noexcept nogil
cdef void on_path_challenge(Connection conn, Path* path, const uint8_t* data, const UdpAddr* src,
                            const UdpAddr* dst) noexcept nogil
cdef void on_path_response(Connection conn, Path* path, const uint8_t* data, const UdpAddr* src) noexcept nogil
# The address that a path leads to is proven, by whatever means; `rtt`: of the answer.
cdef void path_proven(Connection conn, Path* path, int64_t rtt) noexcept nogil
cdef void next_challenge(Connection conn, Path* path, uint8_t* data) noexcept nogil
cdef int migrate(Connection conn, Path* path, const UdpAddr* src, const UdpAddr* dst) noexcept nogil
cdef void give_up_migration(Connection conn, Path* path) noexcept nogil
