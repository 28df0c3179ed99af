"""Streams of one connection: state, flow control, scheduling."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t, int64_t

from iroh_fast.quic._buffers cimport SendBuf, RecvBuf
from iroh_fast.quic._sent cimport SentRec, FrameRec


cdef enum:
    # Stream.events
    EV_READ = 1
    EV_WRITE = 2
    EV_STOP = 4                   # stopped by the peer, or everything acknowledged
    EV_RESET = 8
    EV_ALL = 15
    # Streams.events, in the order of the connection's W_ACCEPT_BI and the three after it
    EV_OPENED_BI = 1
    EV_OPENED_UNI = 2
    EV_AVAILABLE_BI = 4
    EV_AVAILABLE_UNI = 8
    EV_FINISHED = 16              # the last stream that was finished is acknowledged
    # Stream.tx_state
    TX_NONE = 0
    TX_OPEN = 1
    TX_FINISHED = 2               # finish() called
    TX_RESET = 3                  # reset() called
    TX_DONE = 4                   # FIN or RESET_STREAM acknowledged
    # Stream.rx_state
    RX_NONE = 0
    RX_OPEN = 1
    RX_SIZE_KNOWN = 2
    RX_RESET = 3
    RX_DONE = 4                   # the application saw the end


cdef struct Stream:
    uint64_t id
    Stream* hnext
    Stream* ready_prev
    Stream* ready_next
    Stream* ctl_next
    Stream* ev_prev
    Stream* ev_next
    Stream* blocked_next
    PyObject* handle              # QuicStream, borrowed; cleared by its __dealloc__
    PyObject* table               # Streams, borrowed
    uint32_t events
    int32_t priority
    bint in_ready, in_ctl, in_events, in_blocked, detached, zero_rtt
    # sending
    uint8_t tx_state
    bint fin_unsent, fin_acked, stopped, reset_unsent, write_waiting
    SendBuf tx
    uint64_t peer_max
    uint64_t reset_code, stop_code
    # receiving
    uint8_t rx_state
    bint max_unsent, stop_unsent, rx_stopped, rx_reset_seen
    RecvBuf rx
    uint64_t rx_max, rx_sent_max  # limit we stand for; last one told
    uint64_t highest
    uint64_t final_size
    uint64_t rx_reset_code, rx_stop_code


cdef class StreamOwner:
    cdef void want_send(self) noexcept
    cdef object ended(self)       # the exception of a dead connection, or None


cdef class Streams:
    cdef bint is_client, fair
    cdef Stream** buckets
    cdef uint32_t n_buckets, n_streams
    cdef PyObject* owner           # StreamOwner, borrowed: it owns the table
    cdef const char* reason       # of the last error
    # [0] bidirectional, [1] unidirectional
    cdef uint64_t concurrent[2]   # configured
    cdef uint64_t max_remote[2]
    cdef uint64_t sent_max_remote[2]
    cdef uint64_t opened_remote[2]
    cdef uint64_t accept_next[2]
    cdef uint64_t max_local[2]
    cdef uint64_t next_local[2]
    cdef bint max_streams_unsent[2]
    cdef bint blocked_unsent[2]
    cdef bint blocked_told[2]
    cdef uint64_t peer_window[3]  # initial_max_stream_data bidi_local, bidi_remote, uni
    cdef uint64_t window, receive_window, send_window
    cdef uint64_t peer_max_data, data_sent, unacked
    cdef uint64_t local_max_data, sent_max_data, received, consumed
    cdef bint max_data_unsent
    cdef Stream* ready_head
    cdef Stream* ready_tail
    cdef Stream* ctl_head
    cdef Stream* ev_head
    cdef Stream* ev_tail
    cdef Stream* blocked_head
    cdef uint32_t events
    cdef bint closed
    cdef uint32_t unconfirmed     # finished streams that are not wholly acknowledged

    cdef inline bint has_control(self) noexcept nogil:
        return (self.ctl_head != NULL or self.max_data_unsent or self.max_streams_unsent[0] or self.max_streams_unsent[1]
                or self.blocked_unsent[0] or self.blocked_unsent[1])

    # frames: 0, or a QUIC transport error code with `reason` set
    cdef int on_stream(self, uint64_t id, uint64_t offset, const uint8_t* data, size_t n, bint fin) noexcept nogil
    cdef int on_reset(self, uint64_t id, uint64_t code, uint64_t final_size) noexcept nogil
    cdef int on_stop_sending(self, uint64_t id, uint64_t code) noexcept nogil
    cdef int on_max_stream_data(self, uint64_t id, uint64_t maximum) noexcept nogil
    cdef int on_stream_data_blocked(self, uint64_t id) noexcept nogil
    cdef void on_max_data(self, uint64_t maximum) noexcept nogil
    cdef void on_max_streams(self, int uni, uint64_t maximum) noexcept nogil
    cdef void set_peer_limits(self, uint64_t max_data, uint64_t bidi_local, uint64_t bidi_remote, uint64_t uni,
                              uint64_t streams_bidi, uint64_t streams_uni) noexcept nogil
    # packets
    cdef uint8_t* write_control(self, uint8_t* p, uint8_t* end, SentRec* rec, uint64_t* counts) noexcept nogil
    cdef uint8_t* write_data(self, uint8_t* p, uint8_t* end, SentRec* rec, uint64_t* counts) noexcept nogil
    cdef void on_acked(self, uint64_t id, uint64_t offset, uint64_t n, bint fin) noexcept nogil
    cdef void on_lost(self, uint64_t id, uint64_t offset, uint64_t n, bint fin) noexcept nogil
    cdef void on_reset_acked(self, uint64_t id) noexcept nogil
    cdef void on_control_lost(self, const FrameRec* f) noexcept nogil
    cdef void rewind_0rtt(self) noexcept nogil
    cdef void reject_0rtt(self)
    # application
    cdef Stream* find(self, uint64_t id) noexcept nogil
    cdef Stream* create(self, uint64_t id) noexcept nogil
    cdef void confirmed(self) noexcept nogil
    cdef void close_if_done(self, Stream* s) noexcept nogil
    cdef void mark_ready(self, Stream* s) noexcept nogil
    cdef void unready(self, Stream* s) noexcept nogil
    cdef void mark_control(self, Stream* s) noexcept nogil
    cdef void signal(self, Stream* s, uint32_t events) noexcept nogil
    cdef void unsignal(self, Stream* s) noexcept nogil
    cdef Stream* for_receive(self, uint64_t id, int* err) noexcept nogil
    cdef Stream* for_send(self, uint64_t id, int* err) noexcept nogil
    cdef int account(self, Stream* s, uint64_t end) noexcept nogil
    cdef void credit(self, uint64_t n) noexcept nogil
    cdef void read_done(self, Stream* s, uint64_t n) noexcept nogil
    cdef uint64_t write_limit(self, Stream* s) noexcept nogil
    cdef void unblock_writers(self) noexcept nogil
    cdef QuicStream next_event(self, uint32_t* events)
    cdef void end(self) noexcept nogil
    cdef object handle_for(self, Stream* s)
    cdef object open(self, bint bidi)
    cdef object accept(self, bint bidi)


cdef class QuicStream:
    cdef readonly StreamOwner connection
    cdef Streams table
    cdef Stream* s
    cdef readonly uint64_t id
    cdef readonly bint is_0rtt
    cdef bint rejected
    cdef object waiters               # of whoever drains the events; the core does not look at it
    cdef object __weakref__
    cdef object closed_error(self)
    cdef int check_open(self) except -1
    cdef int check_write(self) except -1
    cdef int block(self) except -1
    cdef object read_end(self)
    cdef void after_read(self, uint64_t n)
    cdef void drop_unsent(self)
