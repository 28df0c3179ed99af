"""Frames about streams that arrived.

Each takes constant time (data out of order: the logarithm of the pieces that wait), whatever the peer sent before.
Sources: RFC 9000 §3, §4.5, §4.6, §19.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast.quic._flow cimport flow_forget, flow_received, flow_stream_room, flow_unblock
from iroh_fast.quic._receive_buffer cimport recvbuf_discard, recvbuf_insert
from iroh_fast.quic._schedule cimport stream_signal
from iroh_fast.quic._stream cimport (
    EV_AVAILABLE_BI, EV_AVAILABLE_UNI, EV_READ, EV_RESET, FINAL_SIZE_ERROR, FLOW_CONTROL_ERROR, INTERNAL_ERROR, RX_DONE,
    RX_RESET, RX_SIZE_KNOWN, Stream, StreamTable, TX_NONE, TX_RESET, stream_count_gaps, stream_is_local)
from iroh_fast.quic._stream_table cimport stream_reset, table_close_if_done, table_for_receive, table_for_send

cdef enum:
    MAX_GAPS = 16384              # in the data of all streams together; RECVBUF_MAX_GAPS is the limit of one

cdef uint64_t MAX_VARINT = (<uint64_t>1 << 62) - 1
cdef uint64_t UNKNOWN = <uint64_t>-1


cdef int note_fin(StreamTable* table, Stream* stream, uint64_t offset, uint64_t end) noexcept nogil:
    """The final size is known now; whether the data does not matter any more."""
    stream.final_size = end
    stream.rx_state = RX_SIZE_KNOWN
    stream.max_unsent = False
    if stream.rx_stopped:
        stream.rx_state = RX_DONE
        table_close_if_done(table, stream)
        return 1
    if stream.rx.tail == end or stream.rx.tail == offset:
        stream_signal(table, stream, EV_READ)
    stream_signal(table, stream, EV_RESET)        # received_reset() ends too
    return 0


cdef int store(StreamTable* table, Stream* stream, uint64_t offset, const uint8_t* data, size_t n) noexcept nogil:
    cdef uint64_t before = stream.rx.tail
    cdef int err = recvbuf_insert(&stream.rx, offset, data, n)
    stream_count_gaps(table, stream)
    if table.n_gaps > MAX_GAPS and err == 0:
        err = -2
    if err:
        table.reason = b"too many gaps in stream buffer" if err == -2 else b"out of memory"
        return INTERNAL_ERROR
    if stream.rx.tail > before or stream.rx.unordered:
        stream_signal(table, stream, EV_READ)
    return 0


cdef int got_stream(StreamTable* table, uint64_t id, uint64_t offset, const uint8_t* data, size_t n,
                    bint fin) noexcept nogil:  # hot
    cdef int err = 0
    cdef Stream* stream = table_for_receive(table, id, &err)
    cdef uint64_t end = offset + n
    if stream == NULL:
        return err
    if end > MAX_VARINT:
        table.reason = b""
        return FLOW_CONTROL_ERROR
    if stream.final_size != UNKNOWN:
        if end > stream.final_size or (fin and end != stream.final_size):
            table.reason = b"data beyond the final size"
            return FINAL_SIZE_ERROR
    elif fin and end < stream.highest:
        table.reason = b"final size below received data"
        return FINAL_SIZE_ERROR
    err = flow_received(table, stream, end)
    if err:
        return err
    if stream.rx_state == RX_RESET or stream.rx_state == RX_DONE:
        return 0
    if fin and stream.final_size == UNKNOWN and note_fin(table, stream, offset, end):
        return 0
    if n == 0 or stream.rx_stopped:
        return 0
    return store(table, stream, offset, data, n)


cdef int got_reset(StreamTable* table, uint64_t id, uint64_t code, uint64_t final_size) noexcept nogil:
    cdef int err = 0
    cdef Stream* stream = table_for_receive(table, id, &err)
    if stream == NULL:
        return err
    if (stream.final_size != UNKNOWN and stream.final_size != final_size) or final_size < stream.highest:
        table.reason = b"inconsistent final size"
        return FINAL_SIZE_ERROR
    err = flow_received(table, stream, final_size)
    if err:
        return err
    stream.final_size = final_size
    if stream.rx_state == RX_RESET or stream.rx_state == RX_DONE:
        return 0
    stream.max_unsent = False
    stream.rx_reset_code = code
    if stream.rx_stopped:
        stream.rx_state = RX_DONE
    else:
        # Everything arrived: keep it a clean end (RFC 9000 §3.2).
        if stream.rx_state == RX_SIZE_KNOWN and stream.rx.tail == final_size:
            return 0
        stream.rx_state = RX_RESET
        flow_forget(table, stream)
        recvbuf_discard(&stream.rx)
        stream_count_gaps(table, stream)
        stream_signal(table, stream, EV_READ | EV_RESET)
    table_close_if_done(table, stream)
    return 0


cdef int got_stop_sending(StreamTable* table, uint64_t id, uint64_t code) noexcept nogil:
    """Answered with RESET_STREAM at once, what was not delivered is dropped (RFC 9000 §3.5)."""
    cdef int err = 0
    cdef Stream* stream = table_for_send(table, id, &err)
    if stream == NULL or stream.stopped or stream.tx_state == TX_NONE or stream.tx_state >= TX_RESET:
        return err
    stream.stopped = True
    stream.stop_code = code
    stream_reset(table, stream, code)
    return 0


cdef int got_max_stream_data(StreamTable* table, uint64_t id, uint64_t maximum) noexcept nogil:
    cdef int err = 0
    cdef Stream* stream = table_for_send(table, id, &err)
    if stream == NULL:
        return err
    if maximum > stream.peer_max:
        stream.peer_max = maximum
        flow_stream_room(table, stream)
    return 0


cdef int got_stream_data_blocked(StreamTable* table, uint64_t id) noexcept nogil:
    cdef int err = 0
    table_for_receive(table, id, &err)
    return err


cdef void got_max_data(StreamTable* table, uint64_t maximum) noexcept nogil:
    if maximum > table.flow.peer_max_data:
        table.flow.peer_max_data = maximum
        flow_unblock(table)


cdef void got_max_streams(StreamTable* table, int uni, uint64_t maximum) noexcept nogil:
    if maximum > table.max_local[uni]:
        table.max_local[uni] = maximum
        table.blocked_unsent[uni] = False
        table.blocked_told[uni] = False
        table.events |= EV_AVAILABLE_UNI if uni else EV_AVAILABLE_BI


cdef void got_peer_limits(StreamTable* table, uint64_t max_data, uint64_t bidi_local, uint64_t bidi_remote, uint64_t uni,
                          uint64_t streams_bidi, uint64_t streams_uni) noexcept nogil:
    cdef uint32_t i
    cdef Stream* stream
    cdef uint64_t limit
    table.peer_window[0] = bidi_local
    table.peer_window[1] = bidi_remote
    table.peer_window[2] = uni
    # Streams opened before the limits were known (0-RTT) take the new initial window.
    for i in range(table.n_buckets):
        stream = table.buckets[i]
        while stream != NULL:
            if stream.tx_state != TX_NONE:
                if stream_is_local(table, stream.id):
                    limit = uni if stream.id & 2 else bidi_remote
                else:
                    limit = bidi_local
                if limit > stream.peer_max:
                    stream.peer_max = limit
                    flow_stream_room(table, stream)
            stream = stream.following
    got_max_data(table, max_data)
    got_max_streams(table, 0, streams_bidi)
    got_max_streams(table, 1, streams_uni)
