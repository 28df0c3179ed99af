"""Frames of streams on their way out: written, acknowledged, lost."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from iroh_fast._packet._frames cimport (
    FT_MAX_DATA, FT_MAX_STREAMS_BIDI, FT_MAX_STREAM_DATA, FT_RESET_STREAM, FT_STOP_SENDING, FT_STREAM,
    FT_STREAMS_BLOCKED_BIDI)
from iroh_fast._packet._put cimport MAX_CONTROL_FRAME, put_stream_header, put_v1, put_v2, put_v3
from iroh_fast._packet._varint cimport varint_size
from iroh_fast.quic._counters cimport (
    IDX_MAX_DATA, IDX_MAX_STREAMS_BIDI, IDX_MAX_STREAM_DATA, IDX_RESET_STREAM, IDX_STOP_SENDING, IDX_STREAM,
    IDX_STREAMS_BLOCKED_BIDI)
from iroh_fast.quic._flow cimport flow_acked, flow_measure, flow_unblock
from iroh_fast.quic._schedule cimport (
    queue_push, queue_remove, schedule_first, schedule_push, schedule_remove, schedule_rotate, stream_signal)
from iroh_fast.quic._send_buffer cimport (
    sendbuf_ack, sendbuf_copy, sendbuf_has_pending, sendbuf_lost, sendbuf_poll, sendbuf_rewind)
from iroh_fast.quic._sent cimport FrameRec, REC_ELICITING, REC_FIN, REC_STREAM, SentRec, frame_rec
from iroh_fast.quic._stream cimport (
    EV_STOP, EV_WRITE, IN_BLOCKED, IN_CONTROL, IN_READY, RX_OPEN, Stream, StreamTable, TX_DONE, TX_FINISHED, TX_NONE,
    TX_OPEN, TX_RESET, streams_ready)
from iroh_fast.quic._stream_table cimport stream_confirmed, table_close_if_done, table_find

cdef enum:
    MIN_STREAM_ROOM = 25          # a STREAM frame is begun only with this much room


cdef inline void note(SentRec* sent, uint64_t* counts, int index, uint64_t kind, uint64_t id, uint64_t a) noexcept nogil:
    """Remember a control frame in the record of its packet."""
    frame_rec(&sent.frames, kind, 0, id, a, 0)
    sent.flags |= REC_ELICITING
    counts[index] += 1


cdef uint8_t* write_limits(StreamTable* table, uint8_t* at, uint8_t* end, SentRec* sent, uint64_t* counts) noexcept nogil:
    """Flow control of the connection, as far as it fits."""
    cdef int uni
    if table.flow.max_data_unsent and end - at >= MAX_CONTROL_FRAME:
        at = put_v1(at, FT_MAX_DATA, table.flow.local_max_data)
        table.flow.sent_max_data = table.flow.local_max_data
        table.flow.max_data_unsent = False
        note(sent, counts, IDX_MAX_DATA, FT_MAX_DATA, 0, 0)
    for uni in range(2):
        if table.max_streams_unsent[uni] and end - at >= MAX_CONTROL_FRAME:
            at = put_v1(at, FT_MAX_STREAMS_BIDI + uni, table.max_remote[uni])
            table.sent_max_remote[uni] = table.max_remote[uni]
            table.max_streams_unsent[uni] = False
            note(sent, counts, IDX_MAX_STREAMS_BIDI + uni, FT_MAX_STREAMS_BIDI + uni, 0, 0)
        if table.blocked_unsent[uni] and end - at >= MAX_CONTROL_FRAME:
            at = put_v1(at, FT_STREAMS_BLOCKED_BIDI + uni, table.max_local[uni])
            table.blocked_unsent[uni] = False
            note(sent, counts, IDX_STREAMS_BLOCKED_BIDI + uni, FT_STREAMS_BLOCKED_BIDI + uni, 0, table.max_local[uni])
    return at


cdef uint8_t* write_stream_control(StreamTable* table, uint8_t* at, uint8_t* end, SentRec* sent, uint64_t* counts,
                                   int64_t now, int64_t rtt) noexcept nogil:
    """Flow control, RESET_STREAM and STOP_SENDING frames, as many as fit."""
    cdef Stream* stream
    at = write_limits(table, at, end, sent, counts)
    while table.control.head != NULL and end - at >= 3 * MAX_CONTROL_FRAME:
        stream = table.control.head
        queue_remove(&table.control, IN_CONTROL, stream)
        if stream.reset_unsent:
            stream.reset_unsent = False
            at = put_v3(at, FT_RESET_STREAM, stream.id, stream.reset_code, stream.tx.end)
            note(sent, counts, IDX_RESET_STREAM, FT_RESET_STREAM, stream.id, 0)
        if stream.stop_unsent:
            stream.stop_unsent = False
            at = put_v2(at, FT_STOP_SENDING, stream.id, stream.rx_stop_code)
            note(sent, counts, IDX_STOP_SENDING, FT_STOP_SENDING, stream.id, 0)
        if stream.max_unsent:
            stream.max_unsent = False
            flow_measure(table, stream, now, rtt)
            stream.rx_sent_max = stream.rx_max
            at = put_v2(at, FT_MAX_STREAM_DATA, stream.id, stream.rx_max)
            note(sent, counts, IDX_MAX_STREAM_DATA, FT_MAX_STREAM_DATA, stream.id, 0)
    return at


cdef uint8_t* write_one(Stream* stream, uint8_t* at, uint8_t* end, SentRec* sent, uint64_t* counts) noexcept nogil:  # hot
    """The next STREAM frame of a stream; NULL when it has none."""
    cdef uint64_t offset
    cdef size_t room, n = 0, header
    cdef bint again, fin, with_len
    if sendbuf_has_pending(&stream.tx):
        offset = stream.tx.lost.v[0] if stream.tx.lost.n else stream.tx.next
        header = 1 + varint_size(stream.id) + (varint_size(offset) if offset else 0)
        room = <size_t>(end - at) - header
        if not sendbuf_poll(&stream.tx, room, &offset, &n, &again):
            return NULL
    elif stream.fin_unsent:
        offset = stream.tx.end
        header = 1 + varint_size(stream.id) + (varint_size(offset) if offset else 0)
        room = <size_t>(end - at) - header
    else:
        return NULL
    fin = stream.tx_state == TX_FINISHED and offset + n == stream.tx.end
    if fin:
        stream.fin_unsent = False
    with_len = n + varint_size(n) <= room
    if not with_len and n < room:
        # No room for the length and the frame would not fill the packet: padding goes in front,
        # because a STREAM frame without length extends to the end.
        memset(at, 0, room - n)
        at += room - n
    at = put_stream_header(at, stream.id, offset, n, with_len, fin)
    sendbuf_copy(&stream.tx, offset, n, at)
    counts[IDX_STREAM] += 1
    if sent.flags & REC_STREAM:
        frame_rec(&sent.frames, FT_STREAM, 0, stream.id, offset, (<uint64_t>n << 1) | fin)
    else:
        sent.flags |= REC_STREAM | (REC_FIN if fin else 0)
        sent.stream_id = stream.id
        sent.offset = offset
        sent.len = <uint32_t>n
    sent.flags |= REC_ELICITING
    return at + n


cdef uint8_t* write_stream_data(StreamTable* table, uint8_t* at, uint8_t* end, SentRec* sent,
                                uint64_t* counts) noexcept nogil:  # hot
    """STREAM frames of the streams in turn until the packet is full."""
    cdef Stream* stream
    cdef uint8_t* after
    while streams_ready(table) and end - at >= MIN_STREAM_ROOM:
        stream = schedule_first(&table.schedule, IN_READY)
        after = write_one(stream, at, end, sent, counts)
        if after != NULL:
            at = after
            if sendbuf_has_pending(&stream.tx) or stream.fin_unsent:
                if table.fair:
                    schedule_rotate(stream)
                continue
        schedule_remove(&table.schedule, IN_READY, stream)
    return at


cdef void stream_acked(StreamTable* table, uint64_t id, uint64_t offset, uint64_t n, bint fin) noexcept nogil:  # hot
    cdef Stream* stream = table_find(table, id)
    cdef uint64_t before
    if stream == NULL or stream.tx_state == TX_NONE or stream.tx_state >= TX_RESET:
        return
    if n:
        before = stream.tx.acked
        sendbuf_ack(&stream.tx, offset, n)
        flow_acked(table, stream.tx.acked - before)
    if fin:
        stream.fin_acked = True
    if stream.fin_acked and stream.tx.acked == stream.tx.end:
        stream.tx_state = TX_DONE
        stream_confirmed(table)
        stream_signal(table, stream, EV_STOP | EV_WRITE)
        table_close_if_done(table, stream)
    if table.schedule.waiting[IN_BLOCKED].n:
        flow_unblock(table)


cdef void stream_lost(StreamTable* table, uint64_t id, uint64_t offset, uint64_t n, bint fin) noexcept nogil:
    cdef Stream* stream = table_find(table, id)
    if stream == NULL or stream.tx_state == TX_NONE or stream.tx_state >= TX_RESET:
        return
    if n:
        sendbuf_lost(&stream.tx, offset, n)
    if fin and not stream.fin_acked:
        stream.fin_unsent = True
    if sendbuf_has_pending(&stream.tx) or stream.fin_unsent:
        schedule_push(&table.schedule, IN_READY, stream)


cdef void stream_reset_acked(StreamTable* table, uint64_t id) noexcept nogil:
    cdef Stream* stream = table_find(table, id)
    if stream == NULL or stream.tx_state != TX_RESET:
        return
    stream.tx_state = TX_DONE
    stream_signal(table, stream, EV_STOP)
    table_close_if_done(table, stream)


cdef void stream_control_lost(StreamTable* table, const FrameRec* record) noexcept nogil:
    """Send again what still matters, with present values."""
    cdef Stream* stream
    cdef int uni
    if record.type == FT_MAX_DATA:
        table.flow.max_data_unsent = True
    elif record.type == FT_MAX_STREAMS_BIDI or record.type == FT_MAX_STREAMS_BIDI + 1:
        table.max_streams_unsent[record.type - FT_MAX_STREAMS_BIDI] = True
    elif record.type == FT_STREAMS_BLOCKED_BIDI or record.type == FT_STREAMS_BLOCKED_BIDI + 1:
        uni = <int>(record.type - FT_STREAMS_BLOCKED_BIDI)
        if table.blocked_told[uni]:
            table.blocked_unsent[uni] = True
    else:
        stream = table_find(table, record.id)
        if stream == NULL:
            return
        if record.type == FT_RESET_STREAM and stream.tx_state == TX_RESET:
            stream.reset_unsent = True
        elif record.type == FT_STOP_SENDING and stream.rx_state == RX_OPEN:
            stream.stop_unsent = True
        elif record.type == FT_MAX_STREAM_DATA and stream.rx_state == RX_OPEN and not stream.rx_stopped:
            stream.max_unsent = True
        else:
            return
        queue_push(&table.control, IN_CONTROL, stream)


cdef void rewind_0rtt(StreamTable* table) noexcept nogil:
    """After Retry: everything sent so far goes out again."""
    cdef uint32_t i
    cdef Stream* stream
    for i in range(table.n_buckets):
        stream = table.buckets[i]
        while stream != NULL:
            if stream.tx_state == TX_OPEN or stream.tx_state == TX_FINISHED:
                sendbuf_rewind(&stream.tx)
                if stream.tx_state == TX_FINISHED:
                    stream.fin_unsent = True
                if sendbuf_has_pending(&stream.tx) or stream.fin_unsent:
                    schedule_push(&table.schedule, IN_READY, stream)
            stream = stream.following
