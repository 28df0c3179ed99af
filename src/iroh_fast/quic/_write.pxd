"""Writing frames into a packet."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast._packet._varint cimport put_varint
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._ledger cimport control_waits
from iroh_fast.quic._packets cimport Packet
from iroh_fast.quic._paths cimport Path, PathStats, path_probing
from iroh_fast.quic._recovery_state cimport flight_has_room
from iroh_fast.quic._send_buffer cimport SendBuf, sendbuf_has_pending
from iroh_fast.quic._space cimport PnSpace, space_ack_wanted
from iroh_fast.quic._stream cimport streams_have_control, streams_ready


cdef enum:
    # Acknowledgements of many paths may fill a packet; what else must go on this path finds its place:
    PATH_FRAMES_ROOM = 64         # PING, IMMEDIATE_ACK, PATH_CHALLENGE, PATH_RESPONSE, OBSERVED_ADDR or PATH_ABANDON
    CLOSE_ROOM = 64               # CONNECTION_CLOSE and the beginning of its reason


cdef inline uint8_t* put_v0(uint8_t* p, uint64_t kind) noexcept nogil:
    return put_varint(p, kind)

cdef inline bint path_frames_due(Connection conn, Path* path) noexcept nogil:
    """Whether frames wait that only this path may carry.

    A full window holds back the answers that a peer can ask for as often as it likes, until a probe carries the last one
    (RFC 9000 §8.2.2).
    """
    return (path.ping_due or path.immediate_ack_due or path.challenge_due or path.observed_due or path_probing(path)
            or (path.response_due and flight_has_room(&path.route.flight, 0)))

cdef inline bint general_due(Connection conn) noexcept nogil:
    """Whether there is anything that any path may carry."""
    return (control_waits(&conn.control) or streams_ready(&conn.streams.table) or conn.datagrams.tx.count > 0 or streams_have_control(&conn.streams.table)
            or sendbuf_has_pending(&conn.handshake.crypto_tx))

cdef void write_ack(Connection conn, Packet* packet, PnSpace* space, bint multipath, uint32_t path_id,
                    PathStats* stats, size_t reserve) noexcept nogil
cdef void write_acks_of_all(Connection conn, Path* path, Packet* packet, bint data, size_t reserve) noexcept nogil

cdef inline void write_acks(Connection conn, Path* path, Packet* packet, bint data, size_t reserve) noexcept nogil:
    """Acknowledgements of this path, and where it carries data those of paths that can not carry their own.

    `reserve` bytes stay free for what else has to go.
    """
    if path.next != NULL or path != conn.paths.first or space_ack_wanted(&path.recovery.space, conn.now):
        write_acks_of_all(conn, path, packet, data, reserve)

cdef void write_crypto(Connection conn, Packet* packet, SendBuf* tx, PathStats* stats) noexcept nogil
cdef bint put_frame(Path* path, Packet* packet, uint64_t kind, const uint8_t* data8) noexcept nogil
cdef void write_path_frames(Connection conn, Path* path, Packet* packet, bint* want_full) noexcept nogil
cdef void write_general(Connection conn, Path* path, Packet* packet) noexcept nogil
