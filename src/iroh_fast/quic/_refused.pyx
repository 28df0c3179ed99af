"""What it means when the system does not take a datagram: it never left.

An interface may become smaller under a connection, or another one may be the way from now on. The system says so at once:
that is an answer, no loss, and nothing about the network.
"""

from libc.stdint cimport uint16_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._controllers cimport cc_on_mtu
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._keys cimport LEVEL_1RTT
from iroh_fast.quic._loss cimport declare_lost, drop_oversized
from iroh_fast.quic._mtud cimport TOO_BIG_FELL, TOO_BIG_NO_HELP, mtud_too_big
from iroh_fast.quic._paths cimport Path, path_generation, same_addr
from iroh_fast.quic._sent cimport REC_USED, SentRec, sent_at
from iroh_fast.quic._space cimport PnSpace


cdef void datagram_too_big(Connection conn, const UdpAddr* remote, size_t size, int64_t now) noexcept nogil:
    cdef Path* path = conn.paths.first
    while path != NULL:
        if size <= 65535 and same_addr(&path.route.remote, remote):
            path_too_big(conn, path, <uint16_t>size, now)
        path = path.next


cdef void path_too_big(Connection conn, Path* path, uint16_t size, int64_t now) noexcept nogil:
    cdef int largest = conn.host.largest_payload(&path.route.remote, &path.route.local)
    cdef int rc = mtud_too_big(&path.route.mtud, now, size, largest)
    if rc == TOO_BIG_NO_HELP:
        return
    if rc == TOO_BIG_FELL:
        cc_on_mtu(&path.route.flight.cc, path.route.mtud.current)
        drop_oversized(conn)
    take_back(conn, path, size)


cdef void take_back(Connection conn, Path* path, uint16_t size) noexcept nogil:
    """Queue again what packets of such a size carried, and what left, or did not leave, with the newest of them."""
    cdef PnSpace* space = &path.recovery.space
    cdef uint64_t position, end = space.sent.tail
    cdef SentRec* sent
    cdef int64_t newest = -1
    for position in range(space.sent.head, end):
        sent = sent_at(&space.sent, position)
        if sent.flags & REC_USED and sent.size >= size and sent.generation == path_generation(path):
            newest = sent.sent_at
    for position in range(space.sent.head, end):
        sent = sent_at(&space.sent, position)
        if (sent.flags & REC_USED and sent.generation == path_generation(path)
                and (sent.size >= size or sent.sent_at == newest)):
            declare_lost(conn, path, space, position, LEVEL_1RTT)
