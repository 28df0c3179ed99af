"""What it means when the system does not take a datagram."""

from libc.stdint cimport int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._core cimport Connection


# It is larger than the interface on the way to `remote` carries.
cdef void datagram_too_big(Connection conn, const UdpAddr* remote, size_t size, int64_t now) noexcept nogil
