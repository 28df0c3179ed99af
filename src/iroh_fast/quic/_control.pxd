"""Control frames that must arrive: one table of kinds, one way to queue, write, acknowledge and lose them."""

from libc.stdint cimport uint32_t, uint64_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._packets cimport Packet
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._sent cimport FrameRec


# Write what is queued, as far as it fits.
cdef void control_write(Connection conn, Path* path, Packet* packet) noexcept nogil
# The PATH_ABANDON of a path on that path itself, out of turn.
cdef void control_last_words(Connection conn, Path* path, Packet* packet) noexcept nogil
# A record that was written was acknowledged or lost; it is consumed.
cdef void control_acked(Connection conn, FrameRec* record) noexcept nogil
cdef void control_lost(Connection conn, FrameRec* record) noexcept nogil
