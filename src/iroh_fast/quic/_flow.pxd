"""Flow control: what may be received, what may be sent, and whose turn it is to write."""

from libc.stdint cimport uint64_t

from iroh_fast.quic._stream cimport FLOW_CONTROL_ERROR, Stream, StreamTable


# receiving
cdef void flow_read(StreamTable* table, Stream* stream, uint64_t n) noexcept nogil
cdef void flow_forget(StreamTable* table, Stream* stream) noexcept nogil     # the rest of the stream is not wanted
cdef void flow_credit(StreamTable* table, uint64_t n) noexcept nogil

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
cdef uint64_t flow_room(StreamTable* table, Stream* stream) noexcept nogil   # bytes that may be written now
cdef void flow_written(StreamTable* table, Stream* stream, uint64_t n) noexcept nogil
cdef void flow_block(StreamTable* table, Stream* stream, uint64_t wanted) noexcept nogil
cdef void flow_give_up(StreamTable* table, Stream* stream) noexcept nogil    # nobody wants to write any more
cdef void flow_stream_room(StreamTable* table, Stream* stream) noexcept nogil    # peer_max rose
cdef void flow_unblock(StreamTable* table) noexcept nogil                    # room of the connection appeared
