"""Taking in datagrams of a connection."""

from libc.stdint cimport uint8_t, uint32_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._core cimport Connection


cdef void receive_datagram(Connection conn, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst,
                           int ecn, int64_t now, uint32_t path_id, bint routed) noexcept
