"""What an acknowledgement or a loss of a packet means for the frames that it carried.

Sources: RFC 9000 §13, the multipath draft.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free

from iroh_fast._packet._frames cimport (
    FT_CRYPTO, FT_MAX_DATA, FT_OBSERVED_ADDR_V4, FT_PATH_ACK, FT_RESET_STREAM, FT_STOP_SENDING, FT_STREAM,
    FT_STREAMS_BLOCKED_UNI)
from iroh_fast.quic._control cimport control_acked, control_lost
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._handshake_state cimport crypto_out
from iroh_fast.quic._keys cimport LEVEL_1RTT
from iroh_fast.quic._ledger cimport CONTROL
from iroh_fast.quic._paths cimport Path, path_report
from iroh_fast.quic._send_buffer cimport SendBuf, sendbuf_ack, sendbuf_lost
from iroh_fast.quic._sent cimport FrameRec, REC_FIN, REC_STREAM, REC_USED, SentRec, sent_at
from iroh_fast.quic._space cimport PnSpace
from iroh_fast.quic._stream_packets cimport stream_acked, stream_control_lost, stream_lost, stream_reset_acked


cdef void frames_acked(Connection conn, FrameRec* record, int level) noexcept nogil:
    cdef FrameRec* following
    cdef SendBuf* tx
    while record != NULL:
        following = record.next
        if record.type == FT_STREAM:
            stream_acked(&conn.streams.table, record.id, record.a, record.b >> 1, record.b & 1)
        elif record.type == FT_CRYPTO:
            tx = crypto_out(&conn.handshake, level)
            if tx != NULL:
                sendbuf_ack(tx, record.a, record.b)
        elif record.type == FT_RESET_STREAM:
            stream_reset_acked(&conn.streams.table, record.id)
        elif record.type == FT_PATH_ACK:
            ack_seen(conn, NULL, LEVEL_1RTT, <uint32_t>record.path, record.a)
        elif record.type >= CONTROL:
            control_acked(conn, record)
            record = following
            continue
        free(record)
        record = following


cdef void frames_lost(Connection conn, Path* path, FrameRec* record, int level) noexcept nogil:
    """Queue again what must arrive; `f` is consumed."""
    cdef FrameRec* following
    cdef SendBuf* tx
    cdef uint64_t kind
    while record != NULL:
        following = record.next
        kind = record.type
        if kind == FT_STREAM:
            stream_lost(&conn.streams.table, record.id, record.a, record.b >> 1, record.b & 1)
            free(record)
        elif kind == FT_CRYPTO:
            tx = crypto_out(&conn.handshake, level)
            if tx != NULL:
                sendbuf_lost(tx, record.a, record.b)
            free(record)
        elif kind == FT_OBSERVED_ADDR_V4:
            path_report(path)
            free(record)
        elif kind == FT_PATH_ACK:
            free(record)
        elif kind == FT_RESET_STREAM or kind == FT_STOP_SENDING or (FT_MAX_DATA <= kind <= FT_STREAMS_BLOCKED_UNI):
            stream_control_lost(&conn.streams.table, record)
            free(record)
        else:
            control_lost(conn, record)
        record = following


cdef void release_frames(Connection conn, Path* path, SentRec* sent, int level) noexcept nogil:
    """Queue again what a packet carried; its record stays."""
    cdef FrameRec* records = sent.frames
    sent.frames = NULL
    if sent.flags & REC_STREAM:
        stream_lost(&conn.streams.table, sent.stream_id, sent.offset, sent.len, (sent.flags & REC_FIN) != 0)
        sent.flags &= ~(REC_STREAM | REC_FIN)
    if records != NULL:
        frames_lost(conn, path, records, level)


cdef void requeue_oldest(Connection conn, Path* path, PnSpace* space, int level) noexcept nogil:
    """A probe should carry something useful: control and CRYPTO frames of the oldest packet in flight."""
    cdef uint64_t position = space.sent.head
    cdef SentRec* sent
    cdef FrameRec* record
    cdef FrameRec* keep
    cdef FrameRec* again
    cdef FrameRec* following
    while position < space.sent.tail:
        sent = sent_at(&space.sent, position)
        position += 1
        if not sent.flags & REC_USED or sent.frames == NULL:
            continue
        record = sent.frames
        keep = again = NULL
        while record != NULL:
            following = record.next
            if record.type == FT_STREAM or record.type == FT_PATH_ACK:
                record.next = keep
                keep = record
            else:
                record.next = again
                again = record
            record = following
        sent.frames = keep
        if again != NULL:
            frames_lost(conn, path, again, level)
            return


cdef void release_all(Connection conn, Path* path) noexcept nogil:
    """Queue again what all packets in flight on a path carried, for other paths. The records stay: they measure the answer
    that may still come, and keep the probes going."""
    cdef PnSpace* space = &path.recovery.space
    cdef uint64_t position
    cdef SentRec* sent
    for position in range(space.sent.head, space.sent.tail):
        sent = sent_at(&space.sent, position)
        if sent.flags & REC_USED:
            release_frames(conn, path, sent, LEVEL_1RTT)
