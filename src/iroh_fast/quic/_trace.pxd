"""What of a connection goes into its qlog from compiled code."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport Path


cdef void log_packet(Connection conn, bint sent, int level, uint32_t path_id, uint64_t pn, size_t size,
                     const uint8_t* payload, size_t n) noexcept nogil
cdef void log_tuple(Connection conn, Path* path) noexcept nogil
# `count` packets that counted as lost arrived, `newest` among them.
cdef void log_spurious(Connection conn, Path* path, int level, uint64_t newest, uint32_t count, bint undone) noexcept nogil
# Keys of a level are gone; of 1-RTT those of the phase before.
cdef void log_key_discarded(Connection conn, int level) noexcept nogil
# Which timers are set. Once for a turn: what moves in between does not show.
cdef void log_timers(Connection conn) noexcept nogil
# `path` NULL: of the connection.
cdef void log_expired(Connection conn, Path* path, int which) noexcept nogil
