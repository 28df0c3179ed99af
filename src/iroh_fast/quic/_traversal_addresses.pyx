"""Which addresses of ours the peer knows of: ADD_ADDRESS and REMOVE_ADDRESS of a server, REACH_OUT of a client.

A frame is written with what holds then; one about an address that has gone, or of a round that is over, is not sent again.
Changes that find too many frames under way wait until some are acknowledged.
"""

from libc.stdint cimport uint8_t, uint64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast._packet._frames cimport FT_ADD_ADDRESS_V4, FT_REACH_OUT_V4, FT_REMOVE_ADDRESS
from iroh_fast._packet._put cimport put_address, put_v1
from iroh_fast.quic._control_queue cimport control_open, queue_control
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._ledger cimport CONTROL_ADD_ADDRESS, CONTROL_REACH_OUT, CONTROL_REMOVE_ADDRESS, MAX_ADDRESS_FRAMES
from iroh_fast.quic._sent cimport FrameRec
from iroh_fast.quic._traversal_state cimport (
    OwnAddress, Traversal, own_add, own_at, own_find, own_live, own_move, own_remove)


cdef void set_own_addresses(Connection conn, const UdpAddr* addrs, int n) noexcept nogil:
    cdef Traversal* t = &conn.traversal
    cdef OwnAddress* own
    cdef int i, live = 0
    for i in range(n):
        if live == conn.agreed.peer_nat:
            break
        own = own_at(t, &addrs[i])
        if own == NULL:
            own = own_add(t, &addrs[i])
        if own == NULL:
            break
        if own - t.own >= live:       # the same one twice stays where it is
            own_move(t, <int>(own - t.own), live)
            live += 1
    for i in range(live, t.n_own):
        t.own[i].gone = True
    tell_addresses(conn)


cdef void tell_addresses(Connection conn) noexcept nogil:
    """What the peer of a server does not know yet; a client tells with its rounds."""
    cdef Traversal* t = &conn.traversal
    cdef int i = 0
    while i < t.n_own:
        if t.own[i].gone:
            # What nobody was told of needs no further word; what was, has a place until that is said.
            if conn.is_client or not t.own[i].told or queue_control(conn, CONTROL_REMOVE_ADDRESS, 0, t.own[i].seq, 0) == 0:
                own_remove(t, i)
                continue
        elif not conn.is_client and not t.own[i].told:
            t.own[i].told = queue_control(conn, CONTROL_ADD_ADDRESS, 0, t.own[i].seq, 0) == 0
        i += 1
    # A peer that acknowledges nothing must not make us keep more than it may know of.
    while t.n_own > 2 * conn.agreed.peer_nat:
        own_remove(t, t.n_own - 1)


cdef uint8_t* write_add_address(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    cdef OwnAddress* own = own_find(&conn.traversal, record.id)
    if own == NULL:
        return NULL
    record.b = FT_ADD_ADDRESS_V4
    return put_address(at, FT_ADD_ADDRESS_V4, own.seq, own.addr.ip, own.addr.port)


cdef bint add_address_again(Connection conn, FrameRec* record) noexcept nogil:
    return own_find(&conn.traversal, record.id) != NULL


cdef uint8_t* write_remove_address(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    record.b = FT_REMOVE_ADDRESS
    return put_v1(at, FT_REMOVE_ADDRESS, record.id)


cdef void address_acked(Connection conn, FrameRec* record) noexcept nogil:
    tell_addresses(conn)


# ---------------------------------------------------------------- rounds
cdef bint may_announce(Connection conn) noexcept nogil:
    """Whether there is something to announce, and room for all of it."""
    cdef int n = own_live(&conn.traversal)
    return n > 0 and control_open(conn, CONTROL_REACH_OUT) + n <= MAX_ADDRESS_FRAMES


cdef bint announce_round(Connection conn) noexcept nogil:
    cdef Traversal* t = &conn.traversal
    cdef int i
    for i in range(t.n_own):
        if not t.own[i].gone and queue_control(conn, CONTROL_REACH_OUT, 0, t.round, t.own[i].seq) != 0:
            return False
    return True


cdef uint8_t* write_reach_out(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    cdef OwnAddress* own = own_find(&conn.traversal, record.a)
    if own == NULL or record.id != conn.traversal.round:
        return NULL
    record.b = FT_REACH_OUT_V4
    return put_address(at, FT_REACH_OUT_V4, record.id, own.addr.ip, own.addr.port)


cdef bint reach_out_again(Connection conn, FrameRec* record) noexcept nogil:
    return record.id == conn.traversal.round
