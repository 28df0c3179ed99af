"""Which addresses of ours the peer knows of."""

from libc.stdint cimport uint8_t, uint64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._sent cimport FrameRec


# These are our addresses from now on, most useful first; no more than the peer takes are kept.
cdef void set_own_addresses(Connection conn, const UdpAddr* addrs, int n) noexcept nogil
# Client: queue a REACH_OUT of the present round for each of them; False: too many are under way.
cdef bint announce_round(Connection conn) noexcept nogil
cdef bint may_announce(Connection conn) noexcept nogil

# Rows of the table in `_control`.
cdef uint8_t* write_add_address(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil
cdef bint add_address_again(Connection conn, FrameRec* record) noexcept nogil
cdef uint8_t* write_remove_address(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil
cdef uint8_t* write_reach_out(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil
cdef bint reach_out_again(Connection conn, FrameRec* record) noexcept nogil
cdef void address_acked(Connection conn, FrameRec* record) noexcept nogil
