"""Probing packets for addresses that are no path's: answers to challenges, and challenges.

They carry a number and an id of a path that the peer knows, no acknowledgement and no ECN mark, take no part in congestion
control, and leave no record: lost or not, they say nothing of that path. Sources: RFC 9000 §8.1, §8.2, §9.1, and iroh's
NAT traversal.
"""

from libc.stdint cimport uint8_t, uint64_t

from iroh_fast._packet._frames cimport FT_PATH_CHALLENGE, FT_PATH_RESPONSE
from iroh_fast.quic._codes cimport MIN_DATAGRAM
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._keys cimport LEVEL_1RTT, keys_can_seal
from iroh_fast.quic._packets cimport Packet, begin_packet, pad_packet, seal_one
from iroh_fast.quic._path_queries cimport LEAST_DATAGRAM, find_path
from iroh_fast.quic._paths cimport OffPath, Path, path_sent_elsewhere
from iroh_fast.quic._traversal cimport ask_along, next_probe
from iroh_fast.quic._validation cimport address_allowance, address_sent, take_off_path
from iroh_fast.quic._write cimport put_frame


cdef size_t write_off_path(Connection conn, uint8_t* buf, OffPath* off) noexcept nogil:
    cdef size_t n
    if not keys_can_seal(&conn.keys, LEVEL_1RTT):
        return 0
    while take_off_path(conn, off):
        n = write_probing(conn, buf, off, False)
        if n or conn.failure.code:
            return n
    while next_probe(conn, off):
        n = write_probing(conn, buf, off, True)
        if n or conn.failure.code:
            return n
    return 0


cdef size_t write_probing(Connection conn, uint8_t* buf, OffPath* off, bint probe) noexcept nogil:
    """One packet; 0 when it may not leave."""
    cdef Path* path = find_path(conn, off.path_id)
    cdef Packet packet
    cdef uint8_t token[8]
    cdef uint64_t allowed = LEAST_DATAGRAM if probe else address_allowance(conn, &off.remote)
    cdef size_t n
    if path == NULL or path.abandoned or path.cids.active < 0 or allowed < LEAST_DATAGRAM:
        return 0
    if begin_packet(conn, path, LEVEL_1RTT, buf, MIN_DATAGRAM, &packet) < 0:
        return 0
    put_frame(path, &packet, FT_PATH_CHALLENGE if off.challenge else FT_PATH_RESPONSE, off.data)
    if not off.challenge and ask_along(conn, &off.remote, &off.local, token):
        put_frame(path, &packet, FT_PATH_CHALLENGE, token)
    packet.sent.flags = 0
    # DIFFERS: iroh pads each answer to 1200 bytes, also to probes of 35 from wherever they claim to come. It takes small ones.
    if allowed >= MIN_DATAGRAM:
        pad_packet(&packet, <size_t>(packet.end - packet.at))
    n = seal_one(conn, path, &packet)
    if n == 0:
        return 0
    address_sent(conn, &off.remote, n)
    path_sent_elsewhere(path, n)
    return n
