"""Building datagrams of a connection."""

from libc.stdint cimport uint8_t, uint32_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._core cimport Connection


cdef struct Transmit:
    UdpAddr remote
    UdpAddr local                 # source address to use; ip all zero: any
    int ecn
    size_t segment                # size of each datagram but the last
    uint32_t path_id
    bint dialing                  # send a copy to every candidate address


# Fill `buf` with datagrams for one destination: at most `max_segments`, `cap` bytes. Total bytes, 0: nothing to send.
cdef size_t poll_transmit(Connection conn, int64_t now, uint8_t* buf, size_t cap, int max_segments,
                          Transmit* out) noexcept nogil
