"""Control frames that wait for a packet, on whatever path."""

from libc.stdint cimport uint64_t

from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._sent cimport FrameRec


cdef void queue_record(QuicConnection conn, FrameRec* record) noexcept nogil
cdef void queue_control(QuicConnection conn, uint64_t type, uint64_t path, uint64_t id, uint64_t a) noexcept nogil
