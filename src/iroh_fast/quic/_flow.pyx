"""Flow control: what may be received, what may be sent, and whose turn it is to write.

A writer that finds no room is blocked. One that lacks room of its stream is told when the peer raises that limit.
Those that lack room of the connection, which all streams share, stand in a queue by priority and arrival; as many
are woken as there is room for, and that room stays reserved for them until they write or give up, so that nobody who
came later takes it away. An eighth of the send window is kept for the highest priority: what is urgent does not
wait behind bulk data that filled the window. Where the application set no send window it follows the congestion windows: what
lies in it beyond that only waits, and a slow peer slows its writer.
Sources: RFC 9000 §4, with iroh's credit policy (updates in steps of an eighth of a window).
"""

from libc.stdint cimport uint64_t

from iroh_fast.quic._schedule cimport (
    queue_push, schedule_first, schedule_is_top, schedule_push, schedule_remove, stream_signal)
from iroh_fast.quic._stream cimport EV_WRITE, Flow, IN_BLOCKED, IN_CONTROL, RX_OPEN, Stream, StreamTable

cdef enum:
    GRANT_BYTES = 65536           # a blocked writer is woken for this much, or for what it has
    CREDIT_STEP = 8               # limits are told in steps of this part of a window
    URGENT_SHARE = 8              # this part of the send window is for the highest priority only
    GRANT_SHARE = 4               # no grant is larger than this part of the send window

cdef uint64_t MAX_VARINT = (<uint64_t>1 << 62) - 1


# ---- receiving --------------------------------------------------------------
cdef void flow_credit(StreamTable* table, uint64_t n) noexcept nogil:
    """The application is done with n bytes: raise the limit of the connection."""
    cdef Flow* flow = &table.flow
    cdef uint64_t limit
    flow.consumed += n
    limit = flow.consumed + flow.receive_window
    if limit > MAX_VARINT:
        limit = MAX_VARINT
    if limit > flow.local_max_data:
        flow.local_max_data = limit
    if (flow.local_max_data - flow.sent_max_data >= flow.receive_window // CREDIT_STEP
            and flow.local_max_data > flow.sent_max_data):
        flow.max_data_unsent = True


cdef void flow_read(StreamTable* table, Stream* stream, uint64_t n) noexcept nogil:
    """The application took n bytes, in whatever order."""
    cdef uint64_t limit
    stream.credited += n
    flow_credit(table, n)
    if stream.rx_state == RX_OPEN and not stream.rx_stopped:
        limit = stream.credited + table.flow.window
        if limit > MAX_VARINT:
            limit = MAX_VARINT
        if limit > stream.rx_max:
            stream.rx_max = limit
        if stream.rx_max - stream.rx_sent_max >= table.flow.window // CREDIT_STEP and not stream.max_unsent:
            stream.max_unsent = True
            queue_push(&table.control, IN_CONTROL, stream)


cdef void flow_forget(StreamTable* table, Stream* stream) noexcept nogil:
    """Give back what the stream was charged and nobody will read; each byte once."""
    if stream.highest > stream.credited:
        flow_credit(table, stream.highest - stream.credited)
        stream.credited = stream.highest


# ---- sending ----------------------------------------------------------------
cdef inline void drop_grant(StreamTable* table, Stream* stream) noexcept nogil:
    table.flow.reserved -= stream.granted
    stream.granted = 0


cdef inline uint64_t window_room(const StreamTable* table, const Stream* stream) noexcept nogil:
    """What may be kept for the stream until acknowledged, reservations not counted."""
    cdef uint64_t window = table.flow.send_window
    if not schedule_is_top(&table.schedule, stream):
        window -= window // URGENT_SHARE
    return above(window, table.flow.unacked)


cdef uint64_t flow_room(StreamTable* table, Stream* stream) noexcept nogil:  # hot
    cdef Flow* flow = &table.flow
    cdef uint64_t limit = above(stream.peer_max, stream.tx.end)
    cdef uint64_t grant = stream.granted
    cdef uint64_t room
    cdef Stream* first
    if grant == 0:
        first = schedule_first(&table.schedule, IN_BLOCKED)
        if first != NULL and first.level.priority >= stream.level.priority:
            return 0                  # others came first
    room = above(flow.peer_max_data, flow.data_sent)
    limit = min(limit, above(room, flow.reserved - grant))
    room = above(window_room(table, stream), flow.reserved - grant)
    return room if room < limit else limit


cdef void flow_written(StreamTable* table, Stream* stream, uint64_t n) noexcept nogil:
    table.flow.data_sent += n
    table.flow.unacked += n
    if stream.granted:
        drop_grant(table, stream)
        flow_unblock(table)


cdef void flow_block(StreamTable* table, Stream* stream, uint64_t wanted) noexcept nogil:
    """Its writer waits with `wanted` bytes, at least one."""
    if stream.granted:
        drop_grant(table, stream)
    stream.write_waiting = True
    stream.wanted = wanted
    if stream.peer_max > stream.tx.end:
        schedule_push(&table.schedule, IN_BLOCKED, stream)


cdef void flow_give_up(StreamTable* table, Stream* stream) noexcept nogil:
    stream.write_waiting = False
    schedule_remove(&table.schedule, IN_BLOCKED, stream)
    if stream.granted:
        drop_grant(table, stream)
    flow_unblock(table)


cdef void flow_resize(StreamTable* table, uint64_t window) noexcept nogil:
    """What is above a smaller window stays until it is acknowledged."""
    cdef bint grew = window > table.flow.send_window
    table.flow.send_window = window
    if grew:
        flow_unblock(table)


cdef void flow_stream_room(StreamTable* table, Stream* stream) noexcept nogil:
    if stream.write_waiting:
        schedule_push(&table.schedule, IN_BLOCKED, stream)
        flow_unblock(table)


cdef void flow_unblock(StreamTable* table) noexcept nogil:
    """Wake as many of the blocked writers as there is room for."""
    cdef Flow* flow = &table.flow
    cdef Stream* stream
    cdef uint64_t need, credit
    while (stream := schedule_first(&table.schedule, IN_BLOCKED)) != NULL:
        if stream.handle == NULL:
            schedule_remove(&table.schedule, IN_BLOCKED, stream)     # nobody is left to write
            continue
        need = min(stream.wanted, <uint64_t>GRANT_BYTES)
        need = min(need, max(flow.send_window // GRANT_SHARE, <uint64_t>1))
        need = min(need, above(stream.peer_max, stream.tx.end))
        credit = above(flow.peer_max_data, flow.data_sent)
        if credit <= flow.reserved or above(window_room(table, stream), flow.reserved) < need:
            return
        need = min(need, credit - flow.reserved)
        schedule_remove(&table.schedule, IN_BLOCKED, stream)
        stream.write_waiting = False
        stream.granted = need
        flow.reserved += need
        stream_signal(table, stream, EV_WRITE)
