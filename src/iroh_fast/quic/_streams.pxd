"""The streams of a connection, and the handle of one, for the layers above."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast.quic._sent cimport FrameRec, SentRec
from iroh_fast.quic._stream cimport Stream, StreamTable, streams_have_control, streams_ready
from iroh_fast.quic._stream_frames cimport (
    got_max_data, got_max_stream_data, got_max_streams, got_peer_limits, got_reset, got_stop_sending, got_stream,
    got_stream_data_blocked)
from iroh_fast.quic._stream_packets cimport (
    rewind_0rtt, stream_acked, stream_control_lost, stream_lost, stream_reset_acked, write_stream_control,
    write_stream_data)
from iroh_fast.quic._stream_table cimport table_reject_0rtt


cdef class StreamOwner:
    cdef void want_send(self) noexcept
    cdef object ended(self)       # the exception of a dead connection, or None
    cdef str peer_name(self)      # who is at the other end, for messages


cdef class Streams:
    cdef StreamTable table
    cdef PyObject* owner          # StreamOwner, borrowed: it owns this
    cdef QuicStream next_event(self, uint32_t* events)
    cdef void end(self) noexcept nogil
    cdef QuicStream handle_for(self, Stream* stream)
    cdef QuicStream open(self, bint bidi)
    cdef QuicStream accept(self, bint bidi)
    cdef void set_concurrent(self, int uni, uint64_t value)
    cdef void set_receive_window(self, uint64_t window)
    # What the connection calls; the rooms are _stream_frames, _stream_packets and _stream_table.
    cdef const char* reason       # of the last error of a frame

    cdef inline int failed(self, int code) noexcept nogil:
        if code:
            self.reason = self.table.reason
        return code

    cdef inline int on_stream(self, uint64_t id, uint64_t offset, const uint8_t* data, size_t n, bint fin) noexcept nogil:
        return self.failed(got_stream(&self.table, id, offset, data, n, fin))

    cdef inline int on_reset(self, uint64_t id, uint64_t code, uint64_t final_size) noexcept nogil:
        return self.failed(got_reset(&self.table, id, code, final_size))

    cdef inline int on_stop_sending(self, uint64_t id, uint64_t code) noexcept nogil:
        return self.failed(got_stop_sending(&self.table, id, code))

    cdef inline int on_max_stream_data(self, uint64_t id, uint64_t maximum) noexcept nogil:
        return self.failed(got_max_stream_data(&self.table, id, maximum))

    cdef inline int on_stream_data_blocked(self, uint64_t id) noexcept nogil:
        return self.failed(got_stream_data_blocked(&self.table, id))

    cdef inline void on_max_data(self, uint64_t maximum) noexcept nogil:
        got_max_data(&self.table, maximum)

    cdef inline void on_max_streams(self, int uni, uint64_t maximum) noexcept nogil:
        got_max_streams(&self.table, uni, maximum)

    cdef inline void set_peer_limits(self, uint64_t max_data, uint64_t bidi_local, uint64_t bidi_remote, uint64_t uni,
                                     uint64_t streams_bidi, uint64_t streams_uni) noexcept nogil:
        got_peer_limits(&self.table, max_data, bidi_local, bidi_remote, uni, streams_bidi, streams_uni)

    cdef inline bint has_data(self) noexcept nogil:
        return streams_ready(&self.table)

    cdef inline bint has_control(self) noexcept nogil:
        return streams_have_control(&self.table)

    cdef inline uint8_t* write_control(self, uint8_t* at, uint8_t* end, SentRec* sent, uint64_t* counts) noexcept nogil:
        return write_stream_control(&self.table, at, end, sent, counts)

    cdef inline uint8_t* write_data(self, uint8_t* at, uint8_t* end, SentRec* sent, uint64_t* counts) noexcept nogil:
        return write_stream_data(&self.table, at, end, sent, counts)

    cdef inline void on_acked(self, uint64_t id, uint64_t offset, uint64_t n, bint fin) noexcept nogil:
        stream_acked(&self.table, id, offset, n, fin)

    cdef inline void on_lost(self, uint64_t id, uint64_t offset, uint64_t n, bint fin) noexcept nogil:
        stream_lost(&self.table, id, offset, n, fin)

    cdef inline void on_reset_acked(self, uint64_t id) noexcept nogil:
        stream_reset_acked(&self.table, id)

    cdef inline void on_control_lost(self, const FrameRec* record) noexcept nogil:
        stream_control_lost(&self.table, record)

    cdef inline void rewind_0rtt(self) noexcept nogil:
        rewind_0rtt(&self.table)

    cdef inline void reject_0rtt(self) noexcept nogil:
        table_reject_0rtt(&self.table)


cdef class QuicStream:
    cdef readonly StreamOwner connection
    cdef Streams streams
    cdef Stream* stream
    cdef readonly uint64_t id
    cdef readonly bint is_0rtt
    cdef object waiters           # of whoever takes the events; the core does not look at it
    cdef object __weakref__
    cdef bint over(self) noexcept         # nothing will ever happen to it again
    cdef bint rejected(self) noexcept
    cdef str told(self, str way)
    cdef object rejected_error(self)
    cdef object write_error(self)
    cdef object read_error(self)
    cdef int check_open(self) except -1
    cdef int check_write(self) except -1
    cdef object read_end(self)
    cdef void after_read(self, uint64_t n)
    cdef object put(self, object owner, const uint8_t* data, Py_ssize_t size, Py_ssize_t start, bint keep,
                    object pinned=*)
    cdef void give_up_writing(self) noexcept
