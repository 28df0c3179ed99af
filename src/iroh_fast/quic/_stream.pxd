"""What a stream and the streams of a connection are made of. Who changes which part is said beside it."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int32_t, int64_t

from iroh_fast.quic._budget cimport Budget
from iroh_fast.quic._receive_buffer cimport RecvBuf, recvbuf_thin_gaps
from iroh_fast.quic._send_buffer cimport SendBuf


cdef enum:
    # Stream.events
    EV_READ = 1
    EV_WRITE = 2
    EV_STOP = 4                   # stopped by the peer, or everything acknowledged
    EV_RESET = 8
    EV_ALL = 15
    # StreamTable.events, in the order of the connection's W_ACCEPT_BI and those after it
    EV_OPENED_BI = 1
    EV_OPENED_UNI = 2
    EV_AVAILABLE_BI = 4
    EV_AVAILABLE_UNI = 8
    EV_FINISHED = 16              # the last stream that was finished is acknowledged
    # Stream.tx_state
    TX_NONE = 0
    TX_OPEN = 1
    TX_FINISHED = 2               # finish() called
    TX_RESET = 3                  # RESET_STREAM due or sent
    TX_DONE = 4                   # FIN or RESET_STREAM acknowledged
    # Stream.rx_state
    RX_NONE = 0
    RX_OPEN = 1
    RX_SIZE_KNOWN = 2
    RX_RESET = 3
    RX_DONE = 4                   # the application saw the end
    # the queues a stream can stand in
    IN_READY = 0                  # has data to send; by priority
    IN_BLOCKED = 1                # its writer waits for room of the connection; by priority
    IN_CONTROL = 2                # has control frames to send
    IN_EVENTS = 3                 # has events that nobody took
    # RFC 9000 §20.1
    INTERNAL_ERROR = 0x01
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06


cdef struct Link:
    Stream* before
    Stream* after
    bint queued

cdef struct Queue:                # of streams, first in first out
    Stream* head
    Stream* tail

cdef struct Level:                # the streams of one priority
    int32_t priority
    uint32_t users                # streams with this priority
    Queue queues[2]               # IN_READY, IN_BLOCKED
    int32_t at[2]                 # place in the heap of levels with such streams, -1: none

cdef struct Levels:               # heap, the highest priority first
    Level** heap
    int32_t n, cap

cdef struct Schedule:
    Level** known                 # all levels, ascending
    int32_t n, cap
    Levels waiting[2]             # IN_READY, IN_BLOCKED


cdef struct Stream:
    uint64_t id
    Stream* following             # in the bucket of the table
    Link links[4]
    PyObject* handle              # QuicStream, borrowed; cleared by its __dealloc__
    PyObject* owner               # Streams, borrowed
    Level* level
    uint32_t events
    bint detached                 # not in the table any more; its handle keeps it
    # sending
    uint8_t tx_state
    bint fin_unsent, fin_acked, reset_unsent
    bint stopped                  # by the peer, which is answered with RESET_STREAM at once
    bint given_up                 # finished or reset by the application after that
    SendBuf tx
    uint64_t peer_max
    uint64_t reset_code, stop_code
    # flow control of its writer
    bint write_waiting
    uint64_t wanted               # bytes the blocked writer has
    uint64_t granted              # room reserved for it since it was woken, until it writes or gives up
    # receiving
    uint8_t rx_state
    bint max_unsent, stop_unsent, rx_stopped, rx_reset_seen
    RecvBuf rx
    uint64_t rx_max, rx_sent_max  # limit we stand for; last one told
    uint64_t window               # how far that is ahead of what was read
    int64_t measured_at           # since when it is watched how fast the application reads, 0: not yet
    uint64_t measured_from        # `credited` at that time
    uint64_t highest
    uint64_t credited             # bytes given back to the connection's window
    uint32_t gaps_counted         # of its buffer, in StreamTable.n_gaps
    uint64_t final_size
    uint64_t rx_reset_code, rx_stop_code


cdef struct Flow:
    # sending: the peer's limit, and ours on what is kept until acknowledged
    uint64_t peer_max_data, data_sent
    uint64_t send_window, unacked
    bint send_follows             # send_window follows the congestion windows, between these two; what is kept
    uint64_t least_send_window, max_send_window      # beyond the first counts for the budget
    uint64_t reserved             # granted to writers that were woken
    # receiving
    uint64_t window, max_window   # with which a stream begins, and what it may grow to
    uint64_t max_growth           # of the windows of all streams together
    uint64_t receive_window
    uint64_t local_max_data, sent_max_data, received, consumed
    bint max_data_unsent
    # taken of the endpoint's budget: by windows of streams, whatever is in them; by what is kept for sending
    Budget* budget
    uint64_t receive_growth, send_growth


cdef struct StreamTable:
    PyObject* owner               # Streams, borrowed
    bint is_client, fair, closed
    bint streams_turn             # the next packet is the streams' when datagrams wait too
    Stream** buckets
    uint32_t n_buckets, n_streams
    const char* reason            # of the last error
    uint32_t events
    uint32_t unconfirmed          # finished streams that are not wholly acknowledged
    uint32_t n_gaps               # in all receive buffers together, beyond what their data explain
    Flow flow
    Schedule schedule
    Queue control, reported       # IN_CONTROL, IN_EVENTS
    # stream numbers: [0] bidirectional, [1] unidirectional
    uint64_t concurrent[2]        # streams of the peer at a time
    uint64_t closed_remote[2]
    uint64_t max_remote[2]        # limit we stand for
    uint64_t sent_max_remote[2]   # last one told
    uint64_t opened_remote[2]
    uint64_t accept_next[2]
    uint64_t max_local[2]
    uint64_t next_local[2]
    bint max_streams_unsent[2]
    bint blocked_unsent[2]
    bint blocked_told[2]
    uint64_t peer_window[3]       # initial_max_stream_data bidi_local, bidi_remote, uni


cdef inline bint stream_is_local(const StreamTable* table, uint64_t id) noexcept nogil:
    return (id & 1) == (0 if table.is_client else 1)


cdef inline void stream_count_gaps(StreamTable* table, Stream* stream) noexcept nogil:
    """Keep the sum right after the receive buffer changed."""
    cdef uint32_t gaps = recvbuf_thin_gaps(&stream.rx)
    table.n_gaps += gaps - stream.gaps_counted
    stream.gaps_counted = gaps


cdef inline bint streams_ready(const StreamTable* table) noexcept nogil:
    """Whether a stream has data to send."""
    return table.schedule.waiting[IN_READY].n > 0


cdef inline bint streams_have_control(const StreamTable* table) noexcept nogil:
    """Whether a stream or the flow control has frames to send."""
    return (table.control.head != NULL or table.flow.max_data_unsent or table.max_streams_unsent[0]
            or table.max_streams_unsent[1] or table.blocked_unsent[0] or table.blocked_unsent[1])
