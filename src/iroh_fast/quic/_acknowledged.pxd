"""What an acknowledgement says."""

from iroh_fast._packet._frames cimport Frame
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._space cimport PnSpace


# ACK or PATH_ACK for one packet number space, `elsewhere`: on another path than its own. -1 after an error was noted.
cdef int on_ack(Connection conn, Path* path, PnSpace* space, int level, Frame* frame, bint elsewhere) noexcept nogil
