"""Flow control: what may be received, what may be sent, and whose turn it is to write.

A writer that finds no room is blocked. One that lacks room of its stream is told when the peer raises that limit.
Those that lack room of the connection, which all streams share, stand in a queue by priority and arrival; as many
are woken as there is room for, and that room stays reserved for them until they write or give up, so that nobody who
came later takes it away. An eighth of the send window is kept for the highest priority: what is urgent does not
wait behind bulk data that filled the window. Where the application set no send window it follows the congestion windows: what
lies in it beyond that only waits, and a slow peer slows its writer.

The window of a stream begins as iroh's and doubles when the application read a quarter of it within one round trip: it is
then between four and eight times what arrives in one. A sender that starts doubles in each of them, and what is lost comes
again one or two later. Whoever reads
slowly, or not at all, keeps the first window. What a window was told to be larger than at first is taken of the endpoint's
budget, and what is kept for sending beyond the least send window.
Sources: RFC 9000 §4, with iroh's credit policy (updates in steps of an eighth of a window).
"""

from libc.stdint cimport int64_t, uint64_t

from iroh_fast.quic._budget cimport budget_give, budget_refuse, budget_room, budget_take
from iroh_fast.quic._receive_buffer cimport recvbuf_readable
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


cdef inline void raise_limit(Stream* stream) noexcept nogil:
    cdef uint64_t limit = stream.credited + stream.window
    if limit > MAX_VARINT:
        limit = MAX_VARINT
    if limit > stream.rx_max:
        stream.rx_max = limit


cdef void flow_read(StreamTable* table, Stream* stream, uint64_t n) noexcept nogil:
    """The application took n bytes, in whatever order."""
    stream.credited += n
    flow_credit(table, n)
    if table.closed:
        if stream.credited == stream.highest:
            flow_settle(table, stream)
    elif stream.rx_state == RX_OPEN and not stream.rx_stopped:
        raise_limit(stream)
        if stream.rx_max - stream.rx_sent_max >= stream.window // CREDIT_STEP and not stream.max_unsent:
            stream.max_unsent = True
            queue_push(&table.control, IN_CONTROL, stream)


cdef void flow_forget(StreamTable* table, Stream* stream) noexcept nogil:
    """Give back what the stream was charged and nobody will read; each byte once."""
    if stream.highest > stream.credited:
        flow_credit(table, stream.highest - stream.credited)
        stream.credited = stream.highest
    flow_settle(table, stream)


# ---- windows that grow ------------------------------------------------------
cdef inline uint64_t growth(const Flow* flow) noexcept nogil:
    """What the connection took of the budget."""
    return flow.receive_growth + flow.send_growth


cdef void grow(StreamTable* table, Stream* stream) noexcept nogil:
    cdef Flow* flow = &table.flow
    cdef uint64_t more = min(stream.window, above(flow.max_window, stream.window)), room
    more = min(more, above(flow.max_growth, flow.receive_growth))
    room = budget_room(flow.budget, growth(flow))
    if room < more:
        budget_refuse(flow.budget)
        more = room
    budget_take(flow.budget, more)
    flow.receive_growth += more
    stream.window += more
    raise_limit(stream)


cdef void flow_measure(StreamTable* table, Stream* stream, int64_t now, int64_t rtt) noexcept nogil:
    cdef uint64_t taken = stream.credited - stream.measured_from
    if stream.window >= table.flow.max_window or stream.rx_state != RX_OPEN:
        return
    if stream.measured_at != 0 and now - stream.measured_at <= rtt:
        if taken < stream.window // 4:
            return
        # Where much is left to read it is the reader that takes its time.
        if recvbuf_readable(&stream.rx) <= stream.window // 4:
            grow(table, stream)
    stream.measured_at = now
    stream.measured_from = stream.credited


cdef void flow_settle(StreamTable* table, Stream* stream) noexcept nogil:
    cdef uint64_t grown = above(stream.window, table.flow.window)
    if grown:
        stream.window -= grown
        table.flow.receive_growth -= grown
        budget_give(table.flow.budget, grown)


cdef void flow_end(StreamTable* table) noexcept nogil:
    budget_give(table.flow.budget, table.flow.send_growth)
    table.flow.send_growth = 0


# ---- sending ----------------------------------------------------------------
cdef inline void drop_grant(StreamTable* table, Stream* stream) noexcept nogil:
    table.flow.reserved -= stream.granted
    stream.granted = 0


cdef uint64_t flow_send_window(const StreamTable* table) noexcept nogil:
    cdef const Flow* flow = &table.flow
    cdef uint64_t most
    if flow.send_window <= flow.least_send_window:
        return flow.send_window
    most = flow.least_send_window + flow.send_growth + budget_room(flow.budget, growth(flow))
    return min(flow.send_window, most)


cdef inline uint64_t window_room(const StreamTable* table, const Stream* stream) noexcept nogil:
    """What may be kept for the stream until acknowledged, reservations not counted."""
    cdef uint64_t window = flow_send_window(table)
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
    cdef Flow* flow = &table.flow
    cdef uint64_t kept
    flow.data_sent += n
    flow.unacked += n
    kept = above(flow.unacked, flow.least_send_window)
    if kept > flow.send_growth:
        budget_take(flow.budget, kept - flow.send_growth)
        flow.send_growth = kept
    if stream.granted:
        drop_grant(table, stream)
        flow_unblock(table)


cdef void flow_block(StreamTable* table, Stream* stream, uint64_t wanted) noexcept nogil:
    """Its writer waits with `wanted` bytes, at least one."""
    if stream.granted:
        drop_grant(table, stream)
    if flow_send_window(table) < table.flow.send_window:
        budget_refuse(table.flow.budget)
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
