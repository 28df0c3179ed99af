"""Meaning of received frames."""

from libc.stdint cimport uint8_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._space cimport PnSpace


cdef int read_frames(Connection conn, Path* path, PnSpace* space, int level, const uint8_t* at, const uint8_t* end,
                     const UdpAddr* src, const UdpAddr* dst, bint* eliciting, bint* probing) noexcept nogil
