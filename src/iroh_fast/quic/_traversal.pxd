"""NAT traversal: rounds, probes, and what answers lead to."""

from libc.stdint cimport uint8_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast._packet._frames cimport Frame
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._paths cimport OffPath, Path


# Client: begin a round; False when there is nothing to announce or not now.
cdef bint start_round(Connection conn) noexcept nogil
# ADD_ADDRESS, REMOVE_ADDRESS or REACH_OUT; -1 after a violation.
cdef int on_address_frame(Connection conn, Frame* frame) noexcept nogil
# A PATH_RESPONSE: whether it answers a probe.
cdef bint on_probe_answered(Connection conn, const uint8_t* token8, const UdpAddr* src, const UdpAddr* dst) noexcept nogil
# The next probe that is due and allowed; False when there is none.
cdef bint next_probe(Connection conn, OffPath* out) noexcept nogil
cdef inline bint probes_wait(Connection conn) noexcept nogil:
    return conn.traversal.n_due > 0

# A token to send along with a response to this address; False: it needs none.
cdef bint ask_along(Connection conn, const UdpAddr* remote, const UdpAddr* local, uint8_t* token8) noexcept nogil
# The round's timer has expired.
cdef void probe_again(Connection conn) noexcept nogil
cdef void open_proven(Connection conn) noexcept nogil
# Server: a path that the client opened may lead to an address that answered.
cdef void adopt_proof(Connection conn, Path* path) noexcept nogil

cdef inline void ids_arrived(Connection conn) noexcept nogil:
    """The peer allows further paths, or gave connection ids."""
    if conn.traversal.n_proven:
        open_proven(conn)

cdef list peer_addresses(Connection conn)
cdef dict traversal_snapshot(Connection conn)
