"""Which addresses are proven, and how much may go to those that are not (RFC 9000 §8, §9)."""

from libc.stdint cimport uint8_t, uint64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._paths cimport OffPath, Path


cdef enum:
    LEAST_DATAGRAM = 64           # below this allowance nothing is started


# Bytes that may still go to the present address of a path.
cdef inline uint64_t path_allowance(QuicConnection conn, const Path* path) noexcept nogil:
    if conn.is_client or path.r.validated:
        return <uint64_t>-1           # a client chose the address itself
    return 3 * path.r.received - path.r.sent if 3 * path.r.received > path.r.sent else 0

cdef inline bint amplification_blocked(QuicConnection conn, const Path* path, size_t batched) noexcept nogil:
    return path_allowance(conn, path) < LEAST_DATAGRAM + batched

# The same for an address that need not be a path's.
cdef uint64_t address_allowance(QuicConnection conn, const UdpAddr* remote) noexcept nogil
cdef void address_received(QuicConnection conn, const UdpAddr* remote, size_t n) noexcept nogil
cdef void address_sent(QuicConnection conn, const UdpAddr* remote, size_t n) noexcept nogil

cdef void queue_off_path(QuicConnection conn, const Path* path, const UdpAddr* remote, const UdpAddr* local,
                         const uint8_t* data) noexcept nogil
cdef inline bint off_path_waits(QuicConnection conn) noexcept nogil:
    return conn.paths.n_off_path > 0

cdef bint take_off_path(QuicConnection conn, OffPath* out) noexcept nogil
cdef void on_path_challenge(QuicConnection conn, Path* path, const uint8_t* data, const UdpAddr* src,
                            const UdpAddr* dst) noexcept nogil
cdef void on_path_response(QuicConnection conn, Path* path, const uint8_t* data, const UdpAddr* src) noexcept nogil
cdef void next_challenge(QuicConnection conn, Path* path, uint8_t* data) noexcept nogil
cdef int migrate(QuicConnection conn, Path* path, const UdpAddr* src, const UdpAddr* dst) noexcept nogil
cdef void give_up_migration(QuicConnection conn, Path* path) noexcept nogil
