"""Flow control: what may be received, what may be sent, and whose turn it is to write."""

from libc.stdint cimport int64_t, uint64_t

from iroh_fast.quic._budget cimport budget_give
from iroh_fast.quic._stream cimport FLOW_CONTROL_ERROR, Flow, Stream, StreamTable


cdef enum:
    # The send window, where the application set none: so many times what all paths may have in flight, within bounds.
    WINDOWS_AHEAD = 4             # one in flight, one that acknowledgements release, and time for the writer to come
    LEAST_SEND_WINDOW = 1048576
    FAR_SEND_WINDOW = 10000000    # iroh's, whatever the path. From here on the writer has time enough:
    WINDOWS_AHEAD_FAR = 2


# receiving
cdef void flow_read(StreamTable* table, Stream* stream, uint64_t n) noexcept nogil
cdef void flow_forget(StreamTable* table, Stream* stream) noexcept nogil     # the rest of the stream is not wanted
cdef void flow_credit(StreamTable* table, uint64_t n) noexcept nogil
# The stream's limit is told at `now`, on a path with this round trip: its window may grow.
cdef void flow_measure(StreamTable* table, Stream* stream, int64_t now, int64_t rtt) noexcept nogil
cdef void flow_settle(StreamTable* table, Stream* stream) noexcept nogil     # the peer sends no more: back to the first window
cdef void flow_end(StreamTable* table) noexcept nogil                        # the connection ended: nothing grows any more

cdef inline uint64_t above(uint64_t limit, uint64_t used) noexcept nogil:
    return limit - used if limit > used else 0

cdef inline int flow_received(StreamTable* table, Stream* stream, uint64_t end) noexcept nogil:
    """Charge both windows for data up to `end`. 0 or an error code."""
    cdef uint64_t grown = above(end, stream.highest)
    if grown == 0:
        return 0
    if end > stream.rx_max or grown > above(table.flow.local_max_data, table.flow.received):
        table.reason = b""
        return FLOW_CONTROL_ERROR
    stream.highest = end
    table.flow.received += grown
    if stream.rx_stopped:
        flow_forget(table, stream)
    return 0

# sending
cdef uint64_t flow_send_window(const StreamTable* table) noexcept nogil      # as far as the budget goes
cdef uint64_t flow_room(StreamTable* table, Stream* stream) noexcept nogil   # bytes that may be written now
cdef void flow_written(StreamTable* table, Stream* stream, uint64_t n) noexcept nogil
cdef void flow_block(StreamTable* table, Stream* stream, uint64_t wanted) noexcept nogil
cdef void flow_give_up(StreamTable* table, Stream* stream) noexcept nogil    # nobody wants to write any more
cdef void flow_stream_room(StreamTable* table, Stream* stream) noexcept nogil    # peer_max rose
cdef void flow_unblock(StreamTable* table) noexcept nogil                    # room of the connection appeared
cdef void flow_resize(StreamTable* table, uint64_t window) noexcept nogil    # of the send window

cdef inline void flow_follow(StreamTable* table, uint64_t in_flight) noexcept nogil:
    """Congestion control allows so much in flight now, on all paths together."""
    cdef Flow* flow = &table.flow
    cdef uint64_t window
    if not flow.send_follows:
        return
    if in_flight >= flow.max_send_window:
        in_flight = flow.max_send_window
    window = WINDOWS_AHEAD * in_flight
    if window > FAR_SEND_WINDOW:
        window = WINDOWS_AHEAD_FAR * in_flight
        if window < FAR_SEND_WINDOW:
            window = FAR_SEND_WINDOW
    if window > flow.max_send_window:
        window = flow.max_send_window
    elif window < flow.least_send_window:
        window = flow.least_send_window
    if window != flow.send_window:
        flow_resize(table, window)

cdef inline void flow_acked(StreamTable* table, uint64_t n) noexcept nogil:
    """So many bytes are kept no longer."""
    cdef Flow* flow = &table.flow
    cdef uint64_t growth
    flow.unacked -= n
    if flow.send_growth:
        growth = above(flow.unacked, flow.least_send_window)
        budget_give(flow.budget, flow.send_growth - growth)
        flow.send_growth = growth
