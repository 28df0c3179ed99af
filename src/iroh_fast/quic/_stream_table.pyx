"""The streams of a connection: finding, making and forgetting them.

A stream stays in the table until both its halves have ended; its handle may outlive that. Nothing here costs more
with more streams.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from iroh_fast.quic._budget cimport budget_give, budget_release
from iroh_fast.quic._flow cimport flow_acked, flow_give_up, flow_settle
from iroh_fast.quic._receive_buffer cimport recvbuf_free, recvbuf_init
from iroh_fast.quic._schedule cimport (
    queue_push, queue_remove, schedule_free, schedule_remove, schedule_set, schedule_unset, stream_signal)
from iroh_fast.quic._send_buffer cimport sendbuf_free, sendbuf_init, sendbuf_unacked
from iroh_fast.quic._stream cimport (
    EV_ALL, EV_FINISHED, EV_OPENED_BI, EV_OPENED_UNI, EV_STOP, EV_WRITE, INTERNAL_ERROR, IN_CONTROL, IN_EVENTS,
    IN_READY, RX_DONE, RX_NONE, RX_OPEN, STREAM_LIMIT_ERROR, STREAM_STATE_ERROR, Stream, StreamTable, TX_DONE,
    TX_FINISHED, TX_NONE, TX_OPEN, TX_RESET, stream_is_local)

cdef enum:
    CREDIT_STEP = 8               # MAX_STREAMS is told in steps of this part of the limit

cdef uint64_t UNKNOWN = <uint64_t>-1


cdef void stream_free(Stream* stream) noexcept nogil:
    if stream.tx_state != TX_NONE:
        sendbuf_free(&stream.tx)
    if stream.rx_state != RX_NONE:
        recvbuf_free(&stream.rx)
    free(stream)


cdef void table_free(StreamTable* table) noexcept nogil:
    cdef uint32_t i
    cdef Stream* stream
    cdef Stream* following
    while table.reported.head != NULL:
        queue_remove(&table.reported, IN_EVENTS, table.reported.head)
    for i in range(table.n_buckets):
        stream = table.buckets[i]
        while stream != NULL:
            following = stream.following
            stream.detached = True
            stream.level = NULL
            memset(stream.links, 0, sizeof(stream.links))
            if stream.handle == NULL:
                stream_free(stream)
            stream = following
    if table.flow.budget != NULL:
        budget_give(table.flow.budget, table.flow.receive_growth + table.flow.send_growth)
        budget_release(table.flow.budget)
        table.flow.budget = NULL
    free(table.buckets)
    schedule_free(&table.schedule)
    table.buckets = NULL
    table.n_buckets = 0


cdef int grow(StreamTable* table) noexcept nogil:
    cdef uint32_t size = table.n_buckets * 2 if table.n_buckets else 8
    cdef Stream** buckets = <Stream**>calloc(size, sizeof(Stream*))
    cdef Stream* stream
    cdef Stream* following
    cdef uint32_t i, at
    if buckets == NULL:
        return -1
    for i in range(table.n_buckets):
        stream = table.buckets[i]
        while stream != NULL:
            following = stream.following
            at = bucket_of(stream.id, size)
            stream.following = buckets[at]
            buckets[at] = stream
            stream = following
    free(table.buckets)
    table.buckets = buckets
    table.n_buckets = size
    return 0


cdef Stream* table_create(StreamTable* table, uint64_t id) noexcept nogil:
    cdef Stream* stream
    cdef bint local = stream_is_local(table, id)
    cdef uint32_t at
    if table.n_streams >= table.n_buckets and grow(table) < 0:
        return NULL
    stream = <Stream*>calloc(1, sizeof(Stream))
    if stream == NULL:
        return NULL
    stream.id = id
    stream.owner = table.owner
    stream.final_size = UNKNOWN
    if local or not id & 2:
        if schedule_set(&table.schedule, stream, 0) < 0:
            free(stream)
            return NULL
        stream.tx_state = TX_OPEN
        sendbuf_init(&stream.tx)
        if local:
            stream.peer_max = table.peer_window[2 if id & 2 else 1]
        else:
            stream.peer_max = table.peer_window[0]
    if not local or not id & 2:
        stream.rx_state = RX_OPEN
        recvbuf_init(&stream.rx)
        stream.window = stream.rx_max = stream.rx_sent_max = table.flow.window
    at = bucket_of(id, table.n_buckets)
    stream.following = table.buckets[at]
    table.buckets[at] = stream
    table.n_streams += 1
    return stream


cdef void leave_queues(StreamTable* table, Stream* stream) noexcept nogil:
    queue_remove(&table.control, IN_CONTROL, stream)
    if stream.level != NULL:
        flow_give_up(table, stream)
        schedule_unset(&table.schedule, stream)


cdef void table_close_if_done(StreamTable* table, Stream* stream) noexcept nogil:
    """Forget a stream whose halves have both ended."""
    cdef Stream** at
    cdef int uni = 1 if stream.id & 2 else 0
    cdef bint received = stream.rx_state == RX_NONE or stream.rx_state == RX_DONE
    if received:
        flow_settle(table, stream)
    if stream.detached or not received or not (stream.tx_state == TX_NONE or stream.tx_state == TX_DONE):
        return
    at = &table.buckets[bucket_of(stream.id, table.n_buckets)]
    while at[0] != stream:
        at = &at[0].following
    at[0] = stream.following
    table.n_streams -= 1
    table.n_gaps -= stream.gaps_counted
    stream.gaps_counted = 0
    stream.detached = True
    leave_queues(table, stream)
    if not stream_is_local(table, stream.id):
        table.closed_remote[uni] += 1
        table_raise_streams(table, uni)
    if stream.handle == NULL:
        stream_free(stream)


cdef void table_raise_streams(StreamTable* table, int uni) noexcept nogil:
    """Let the peer open more streams, as far as the limit of concurrent ones allows.

    A limit that was told cannot be taken back (RFC 9000 §4.6): after it was lowered nothing is told until enough
    streams have ended.
    """
    cdef uint64_t limit = table.closed_remote[uni] + table.concurrent[uni]
    if limit > table.max_remote[uni]:
        table.max_remote[uni] = limit
        if limit - table.sent_max_remote[uni] > table.concurrent[uni] // CREDIT_STEP:
            table.max_streams_unsent[uni] = True


cdef void table_reject_0rtt(StreamTable* table) noexcept nogil:
    """The server refused 0-RTT: the streams opened so far never existed (RFC 9001 §4.6.2)."""
    cdef uint32_t i
    cdef Stream* stream
    cdef Stream* following
    for i in range(table.n_buckets):
        stream = table.buckets[i]
        table.buckets[i] = NULL
        while stream != NULL:
            following = stream.following
            queue_remove(&table.control, IN_CONTROL, stream)
            stream.write_waiting = False
            schedule_unset(&table.schedule, stream)
            if stream.tx_state != TX_NONE:
                sendbuf_free(&stream.tx)
            if stream.rx_state != RX_NONE:
                recvbuf_free(&stream.rx)
                flow_settle(table, stream)
            stream.tx_state = TX_NONE
            stream.rx_state = RX_NONE
            stream.detached = True
            if stream.handle == NULL:
                stream_free(stream)
            else:
                stream_signal(table, stream, EV_ALL)
            stream = following
    table.n_streams = 0
    table.n_gaps = 0
    table.next_local[0] = table.next_local[1] = 0
    flow_acked(table, table.flow.unacked)
    table.flow.data_sent = table.flow.reserved = 0
    table.flow.peer_max_data = 0
    table.max_local[0] = table.max_local[1] = 0
    table.blocked_unsent[0] = table.blocked_unsent[1] = False
    table.blocked_told[0] = table.blocked_told[1] = False
    table.unconfirmed = 0
    table.events |= EV_FINISHED


# ---- which stream a frame is about ------------------------------------------
cdef Stream* table_for_receive_rest(StreamTable* table, uint64_t id, int* err) noexcept nogil:
    cdef int uni = 1 if id & 2 else 0
    cdef uint64_t index = id >> 2
    cdef Stream* stream
    err[0] = 0
    if stream_is_local(table, id):
        if uni:
            table.reason = b"frame for a send-only stream"
            err[0] = STREAM_STATE_ERROR
            return NULL
        if index >= table.next_local[0]:
            table.reason = b"frame for a stream that was not opened"
            err[0] = STREAM_STATE_ERROR
            return NULL
        return table_find(table, id)
    if index >= table.max_remote[uni]:
        table.reason = b"stream limit exceeded"
        err[0] = STREAM_LIMIT_ERROR
        return NULL
    if index >= table.opened_remote[uni]:
        table.opened_remote[uni] = index + 1
        table.events |= EV_OPENED_UNI if uni else EV_OPENED_BI
    stream = table_find(table, id)
    # Streams implicitly opened by a higher id exist only once something happens to them; one that was
    # never accepted cannot have been closed.
    if stream == NULL and index >= table.accept_next[uni]:
        stream = table_create(table, id)
        if stream == NULL:
            table.reason = b"out of memory"
            err[0] = INTERNAL_ERROR
    return stream


cdef Stream* table_for_send(StreamTable* table, uint64_t id, int* err) noexcept nogil:
    err[0] = 0
    if stream_is_local(table, id):
        if (id >> 2) >= table.next_local[1 if id & 2 else 0]:
            table.reason = b"frame for a stream that was not opened"
            err[0] = STREAM_STATE_ERROR
            return NULL
        return table_find(table, id)
    if id & 2:
        table.reason = b"frame for a receive-only stream"
        err[0] = STREAM_STATE_ERROR
        return NULL
    return table_for_receive(table, id, err)


# ---- the end of a sending half ----------------------------------------------
cdef void stream_confirmed(StreamTable* table) noexcept nogil:
    """A stream that was finished does not wait for acknowledgements any more."""
    table.unconfirmed -= 1
    if table.unconfirmed == 0:
        table.events |= EV_FINISHED


cdef void stream_reset(StreamTable* table, Stream* stream, uint64_t code) noexcept nogil:
    """Abandon an open or finished sending half; what is not acknowledged is dropped."""
    cdef uint64_t end = stream.tx.end
    if stream.tx_state == TX_FINISHED:
        stream_confirmed(table)
    stream.tx_state = TX_RESET
    stream.reset_code = code
    stream.reset_unsent = True
    stream.fin_unsent = stream.fin_acked = False
    flow_acked(table, sendbuf_unacked(&stream.tx))
    # RESET_STREAM carries the amount handed to the stream as final size: both ends then agree on what the
    # connection window was charged.
    sendbuf_free(&stream.tx)
    stream.tx.end = stream.tx.acked = stream.tx.next = end
    schedule_remove(&table.schedule, IN_READY, stream)
    queue_push(&table.control, IN_CONTROL, stream)
    stream_signal(table, stream, EV_WRITE | EV_STOP)
    flow_give_up(table, stream)
