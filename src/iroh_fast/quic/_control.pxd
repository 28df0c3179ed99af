"""Control frames that must arrive: one table of kinds, one way to queue, write, acknowledge and lose them."""

from libc.stdint cimport uint32_t, uint64_t

from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._packets cimport Packet
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._sent cimport FrameRec


# Queue a frame of a CONTROL_ kind. 0; 1 when as many as are allowed wait or are under way; -1 when that is more than the peer
# has a reason for: the connection has failed.
cdef int queue_control(QuicConnection conn, int kind, uint32_t path, uint64_t id, uint64_t value) noexcept nogil
# Write what is queued, as far as it fits.
cdef void control_write(QuicConnection conn, Path* path, Packet* packet) noexcept nogil
# The PATH_ABANDON of a path on that path itself, out of turn.
cdef void control_last_words(QuicConnection conn, Path* path, Packet* packet) noexcept nogil
# A record that was written was acknowledged or lost; it is consumed.
cdef void control_acked(QuicConnection conn, FrameRec* record) noexcept nogil
cdef void control_lost(QuicConnection conn, FrameRec* record) noexcept nogil
