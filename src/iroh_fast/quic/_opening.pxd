"""Opening paths, which only the side that dialed does."""

from libc.stdint cimport int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._core cimport Connection


cdef enum:
    # why there is no path
    OPEN_NO_ID = -1               # the peer allows no further one,
    OPEN_NO_CIDS = -2             # has given no connection id for it,
    OPEN_NO_MEMORY = -3
    OPEN_NEVER = -4               # or neither side has multipath, or we did not dial


# Whether one can be started now.
cdef bint may_open_path(Connection conn) noexcept nogil
# Start a path; its id, or one of the above. After the first two the peer is asked for more.
cdef int64_t open_path_to(Connection conn, const UdpAddr* remote, const UdpAddr* local, int status) noexcept nogil
# Whether an open path leads there; from anywhere if `local` says nothing.
cdef bint has_path_to(Connection conn, const UdpAddr* remote, const UdpAddr* local) noexcept nogil
