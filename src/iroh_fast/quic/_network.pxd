"""What becomes of the paths when this machine's network changes."""

from libc.stdint cimport uint8_t, uint32_t

from iroh_fast.quic._core cimport Connection


# `lost`: ids of the paths whose local address or way is gone for good; all others may go on.
cdef void paths_move(Connection conn, const uint32_t* lost, int n) noexcept nogil
