"""How a handshake begins, and what its first packets say."""

from libc.stdint cimport uint8_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast._packet._headers cimport LongHeader
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport Path


cdef enum:
    MAX_DIAL = 64                 # candidate addresses of one attempt
    DIAL_AT_ONCE = 16             # of them, those that get a copy of a flight


cdef int begin_client(Connection conn, list remotes) except -1
cdef int begin_server(Connection conn, bytes original, bytes retry, bytes theirs, bytes first, const UdpAddr* src,
                      const UdpAddr* dst, bint validated) except -1

# Whether flights go to several addresses, and one of them.
cdef inline bint dialing(Connection conn) noexcept nogil:
    return conn.is_client and not conn.handshake.settled and conn.handshake.n_dial > 1

cdef inline const UdpAddr* dial_at(Connection conn, int i) noexcept nogil:
    """NULL when no address is left to dial."""
    return &conn.handshake.dial[i % conn.handshake.n_dial] if conn.handshake.n_dial else NULL

# Take in further candidates while the attempt runs. How many were new; the flight under way goes to them at once.
cdef int dial_more(Connection conn, list remotes) except -1
# Whether further ones may come. Without, and when nothing can leave to any known one, the attempt is over.
cdef void dial_expect(Connection conn, bint more) noexcept

# Which candidates get this flight: `count` of them from `at` on, wrapping around.
cdef void dial_window(Connection conn, int* at, int* count) noexcept nogil
# A datagram to an address can not leave. When that is so for all candidates, the attempt is over.
cdef void dial_refused(Connection conn, const UdpAddr* to, int error) noexcept

cdef void receive_unprotected(Connection conn, Path* path, const uint8_t* data, size_t n, LongHeader* header,
                              const UdpAddr* src) noexcept
cdef bint long_is_expected(Connection conn, int level, const LongHeader* header, size_t size) noexcept nogil
cdef void learn_from_long(Connection conn, Path* path, int level, const LongHeader* header, const UdpAddr* src,
                          const UdpAddr* dst) noexcept nogil
