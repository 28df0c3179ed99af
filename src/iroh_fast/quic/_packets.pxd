"""Building packets of a connection."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._keys cimport LEVEL_HANDSHAKE, LEVEL_INITIAL
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._sent cimport SentRec
from iroh_fast.quic._space cimport PnSpace


cdef enum:
    MAX_BATCH = 64                # packets of one call of `protect_headers`


# One packet while it is being written.
cdef struct Packet:
    uint8_t* start
    uint8_t* pn_at
    uint8_t* payload
    uint8_t* at                   # write position
    uint8_t* end                  # the payload may grow to here (the tag follows)
    uint8_t* length_at            # Length field of long headers, NULL for short ones
    uint64_t pn
    int pn_len
    int level
    SentRec sent


cdef inline PnSpace* space_of(Connection conn, Path* path, int level) noexcept nogil:
    if level == LEVEL_INITIAL:
        return &conn.handshake.initial.space
    if level == LEVEL_HANDSHAKE:
        return &conn.handshake.handshake.space
    return &path.recovery.space

cdef inline bint has_room(const Packet* packet, Py_ssize_t n) noexcept nogil:
    """Whether a frame of `n` bytes fits. Every writer of frames asks first."""
    return packet.end - packet.at >= n

cdef inline void pad_packet(Packet* packet, size_t n) noexcept nogil:
    memset(packet.at, 0, n)
    packet.at += n

cdef int begin_packet(Connection conn, Path* path, int level, uint8_t* at, size_t room, Packet* packet) noexcept nogil
cdef void drop_packet(Connection conn, Path* path, Packet* packet) noexcept nogil
cdef size_t seal_packet(Connection conn, Path* path, Packet* packet) noexcept nogil
cdef int protect_headers(Connection conn, Packet* packets, int n) noexcept nogil
cdef size_t seal_one(Connection conn, Path* path, Packet* packet) noexcept nogil
cdef size_t seal_coalesced(Connection conn, Path* path, Packet* packets, int n) noexcept nogil
