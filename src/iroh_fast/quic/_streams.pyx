"""The streams of a connection, and the handle of one, for the layers above.

What is in C is in rooms of its own: `_stream` (what a stream is), `_stream_table` (finding and forgetting), `_flow`
(windows and blocked writers), `_schedule` (whose turn it is), `_stream_frames` (frames that arrived),
`_stream_packets` (frames on their way out).
Sources: RFC 9000 §2-§4, with iroh's credit policy.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast.quic._budget cimport Budget, budget_share
from iroh_fast.quic._config cimport Config
from iroh_fast.quic._flow cimport (
    LEAST_SEND_WINDOW, flow_block, flow_credit, flow_end, flow_forget, flow_give_up, flow_read, flow_room, flow_send_window,
    flow_settle, flow_written)
from iroh_fast.quic._receive_buffer cimport (
    recvbuf_discard, recvbuf_read_into, recvbuf_readable, recvbuf_take, recvbuf_take_unordered)
from iroh_fast.quic._schedule cimport queue_push, queue_remove, schedule_push, schedule_set, stream_signal
from iroh_fast.quic._send_buffer cimport sendbuf_write_copy, sendbuf_write_ref
from iroh_fast.quic._stream cimport (
    EV_ALL, EV_READ, EV_RESET, Flow, IN_CONTROL, IN_EVENTS, IN_READY, RX_DONE, RX_NONE, RX_OPEN, RX_RESET, RX_SIZE_KNOWN,
    Stream, StreamTable, TX_DONE, TX_FINISHED, TX_NONE, TX_OPEN, stream_count_gaps, streams_have_control)
from iroh_fast.quic._stream_table cimport (
    stream_free, stream_reset, table_close_if_done, table_create, table_find, table_free, table_raise_streams)

from iroh_fast.errors import StreamClosed, StreamReset, StreamStopped, ZeroRttRejected

cdef enum:
    # Smaller objects are cheaper to copy than to keep alive.
    KEEP_REFERENCE_BYTES = 2048

cdef uint64_t UNKNOWN = <uint64_t>-1


cdef class StreamOwner:
    """What streams need of their connection."""

    cdef void want_send(self) noexcept:
        pass

    cdef object ended(self):
        return None

    cdef str peer_name(self):
        return "?"


@cython.final
cdef class Streams:
    """The streams of one connection."""

    def __cinit__(self, StreamOwner owner, bint is_client, bint fair, uint64_t max_bidi, uint64_t max_uni):
        cdef StreamTable* table = &self.table
        self.owner = <PyObject*>owner
        table.owner = <PyObject*>self
        table.is_client = is_client
        table.fair = fair
        table.concurrent[0] = table.max_remote[0] = table.sent_max_remote[0] = max_bidi
        table.concurrent[1] = table.max_remote[1] = table.sent_max_remote[1] = max_uni

    cdef void set_windows(self, const Config* config, Budget* budget) noexcept:
        """Before there is a stream."""
        cdef Flow* flow = &self.table.flow
        flow.budget = budget_share(budget)
        flow.window = config.stream_window
        flow.max_window = config.max_stream_window
        flow.max_growth = config.max_growth
        flow.receive_window = flow.local_max_data = flow.sent_max_data = config.receive_window
        flow.send_follows = config.send_window == 0
        flow.max_send_window = config.max_send_window
        flow.least_send_window = config.send_window
        if flow.send_follows:
            flow.least_send_window = min(<uint64_t>LEAST_SEND_WINDOW, config.max_send_window)
        flow.send_window = flow.least_send_window

    def __dealloc__(self):
        table_free(&self.table)

    cdef QuicStream next_event(self, uint32_t* events):
        """The next stream that something happened to since it was given last, and what; None: no more."""
        cdef Stream* stream = self.table.reported.head
        if stream == NULL:
            return None
        queue_remove(&self.table.reported, IN_EVENTS, stream)
        events[0] = stream.events
        stream.events = 0
        return <QuicStream>stream.handle

    cdef void end(self) noexcept nogil:
        """The connection ended: that concerns every stream."""
        cdef uint32_t i
        cdef Stream* stream
        self.table.closed = True
        for i in range(self.table.n_buckets):
            stream = self.table.buckets[i]
            while stream != NULL:
                stream_signal(&self.table, stream, EV_ALL)
                if stream.credited == stream.highest:
                    flow_settle(&self.table, stream)     # else when the application has read the rest
                stream = stream.following
        flow_end(&self.table)

    cdef dict windows(self):
        """Their sizes now, and what is kept for them."""
        cdef Flow* flow = &self.table.flow
        cdef Stream* stream
        cdef uint64_t largest = 0
        cdef uint32_t i
        for i in range(self.table.n_buckets):
            stream = self.table.buckets[i]
            while stream != NULL:
                largest = max(largest, stream.window)
                stream = stream.following
        return {"send_window": flow_send_window(&self.table), "send_buffered": flow.unacked, "stream_receive_window": largest,
                "window_growth": flow.receive_growth + flow.send_growth}

    cdef QuicStream handle_for(self, Stream* stream):
        cdef QuicStream handle = QuicStream.__new__(QuicStream)
        handle.connection = <StreamOwner>self.owner
        handle.streams = self
        handle.stream = stream
        handle.id = stream.id
        stream.handle = <PyObject*>handle
        return handle

    cdef QuicStream open(self, bint bidi):
        """A new stream, or None while the peer allows no more."""
        cdef StreamTable* table = &self.table
        cdef int uni = 0 if bidi else 1
        cdef Stream* stream
        if table.next_local[uni] >= table.max_local[uni]:
            if not table.blocked_told[uni]:
                table.blocked_told[uni] = True
                table.blocked_unsent[uni] = True
                (<StreamOwner>self.owner).want_send()
            return None
        stream = table_create(table, (table.next_local[uni] << 2) | (uni << 1) | (0 if table.is_client else 1))
        if stream == NULL:
            raise MemoryError
        table.next_local[uni] += 1
        return self.handle_for(stream)

    cdef QuicStream accept(self, bint bidi):
        """The peer's next stream in the order of ids, or None."""
        cdef StreamTable* table = &self.table
        cdef int uni = 0 if bidi else 1
        cdef uint64_t id
        cdef Stream* stream
        if table.accept_next[uni] >= table.opened_remote[uni]:
            return None
        id = (table.accept_next[uni] << 2) | (uni << 1) | (1 if table.is_client else 0)
        stream = table_find(table, id)
        if stream == NULL:
            stream = table_create(table, id)
            if stream == NULL:
                raise MemoryError
        table.accept_next[uni] += 1
        return self.handle_for(stream)

    cdef void set_concurrent(self, int uni, uint64_t value):
        """Allow the peer another number of concurrent streams."""
        self.table.concurrent[uni] = value
        table_raise_streams(&self.table, uni)
        if self.table.max_remote[uni] > self.table.sent_max_remote[uni]:
            self.table.max_streams_unsent[uni] = True

    cdef void set_receive_window(self, uint64_t window):
        """Change how much unread data the whole connection may hold."""
        self.table.flow.receive_window = window
        flow_credit(&self.table, 0)


@cython.final
@cython.freelist(64)
cdef class QuicStream:
    """One stream, both halves, without waiting: calls either act or say "blocked".

    Obtained from ``Connection.open_stream`` and ``accept_stream``. Whoever is told "blocked" tries again after
    the next event of the stream (EV_READ for data, end or reset; EV_WRITE for room or a stop; EV_STOP when it is
    stopped or wholly acknowledged; EV_RESET when FIN or RESET_STREAM arrived): see ``Connection.poll_events``.
    """

    def __dealloc__(self):
        cdef Stream* stream = self.stream
        if stream == NULL:
            return
        stream.handle = NULL
        if stream.links[IN_EVENTS].queued:
            # Then the table is alive, even if the garbage collector took our reference to it.
            queue_remove(&(<Streams>stream.owner).table.reported, IN_EVENTS, stream)
        if stream.detached:
            stream_free(stream)
        elif stream.level != NULL:
            flow_give_up(&(<Streams>stream.owner).table, stream)
        self.stream = NULL

    def __repr__(self):
        return f"<QuicStream {self.id}>"

    cdef bint rejected(self) noexcept:
        """Whether the server refused the 0-RTT packets that it was made in."""
        return self.stream.tx_state == TX_NONE and self.stream.rx_state == RX_NONE

    cdef bint over(self) noexcept:
        return self.streams.table.closed or self.rejected()

    cdef str told(self, str way):
        """Which stream this is, for messages."""
        return f"stream {self.id} {way} {self.connection.peer_name()}"

    cdef object rejected_error(self):
        return ZeroRttRejected(f"{self.told('with')} was early data, which the peer refused: open a new one")

    cdef object write_error(self):
        """Why a stream that was closed for sending takes no more."""
        cdef Stream* stream = self.stream
        if self.rejected():
            return self.rejected_error()
        if stream.tx_state == TX_NONE:
            why = "only the peer sends on it"
        elif stream.stopped:
            why = f"the peer stopped it with code {stream.stop_code}"
        elif stream.tx_state == TX_FINISHED:
            why = "it was finished here"
        elif stream.fin_acked:
            why = "it was finished here, and all was delivered"
        else:
            why = "it was reset here"
        return StreamClosed(f"{self.told('to')} takes no more data: {why}")

    cdef object read_error(self):
        """Why a stream that was read to its end, or never had one, cannot be read."""
        if self.rejected():
            return self.rejected_error()
        if self.stream.rx_reset_seen:
            return StreamClosed(f"{self.told('from')} has no more data: the peer reset it with code "
                                f"{self.stream.rx_reset_code}, as an earlier read told")
        return StreamClosed(f"{self.told('to')} cannot be read: only this side sends on it")

    cdef int check_open(self) except -1:
        if self.rejected():
            raise self.rejected_error()
        if self.streams.table.closed:
            raise self.connection.ended()
        return 0

    # --- receiving
    def read(self, Py_ssize_t maximum=65536):  # hot
        """Up to `maximum` bytes in order.

        Returns None when nothing is there yet and b"" at the end of the stream.

        Raises
        ------
        StreamReset
            The peer reset the stream; later calls raise StreamClosed.
        StreamClosed
            The stream was stopped here, or its reset has been seen.
        ConnectionLost
            The connection ended before the end of the stream was read.
        """
        cdef Stream* stream = self.stream
        cdef bytes data
        if stream.rx_state == RX_OPEN or stream.rx_state == RX_SIZE_KNOWN:
            if stream.rx_stopped:
                return b""
            if recvbuf_readable(&stream.rx) and maximum > 0:
                data = recvbuf_take(&stream.rx, <size_t>maximum)
                self.after_read(<uint64_t>PyBytes_GET_SIZE(data))
                return data
        return self.read_end()

    cdef object read_end(self):
        """What a reader gets when no data is ready."""
        cdef Stream* stream = self.stream
        if stream.rx_state == RX_DONE:
            if stream.rx_reset_seen:
                raise self.read_error()
            return b""
        if stream.rx_state == RX_RESET:
            stream.rx_state = RX_DONE
            stream.rx_reset_seen = True
            table_close_if_done(&self.streams.table, stream)
            self.connection.want_send()
            raise StreamReset(stream.rx_reset_code,
                              f"{self.told('from')} was reset by the peer: code {stream.rx_reset_code}")
        if stream.rx_state == RX_SIZE_KNOWN and stream.rx.read == stream.final_size:
            stream.rx_state = RX_DONE
            table_close_if_done(&self.streams.table, stream)
            if streams_have_control(&self.streams.table):
                self.connection.want_send()
            return b""
        if stream.rx_state == RX_NONE:
            raise self.read_error()
        if stream.rx_stopped:
            return b""
        self.check_open()
        return None

    cdef void after_read(self, uint64_t n):
        cdef Stream* stream = self.stream
        flow_read(&self.streams.table, stream, n)
        if stream.gaps_counted:
            stream_count_gaps(&self.streams.table, stream)
        if stream.rx_state == RX_SIZE_KNOWN and stream.rx.read == stream.final_size:
            stream.rx_state = RX_DONE
            table_close_if_done(&self.streams.table, stream)
        if streams_have_control(&self.streams.table):
            self.connection.want_send()

    def readinto(self, buffer):
        """Copy received bytes into `buffer`: the count, -1 when nothing is there yet, 0 at the end.

        An empty `buffer` takes 0 bytes at once.
        """
        cdef Stream* stream = self.stream
        cdef Py_buffer view
        cdef size_t n
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            if view.len == 0:
                return 0
            if ((stream.rx_state == RX_OPEN or stream.rx_state == RX_SIZE_KNOWN) and not stream.rx_stopped
                    and recvbuf_readable(&stream.rx)):
                n = recvbuf_read_into(&stream.rx, <uint8_t*>view.buf, <size_t>view.len)
                self.after_read(n)
                return n
        finally:
            PyBuffer_Release(&view)
        return -1 if self.read_end() is None else 0

    def read_unordered(self, Py_ssize_t maximum=65536):
        """The lowest buffered (offset, bytes), gaps or not; None: nothing yet; (final size, b""): the end."""
        cdef Stream* stream = self.stream
        cdef object got
        if (stream.rx_state == RX_OPEN or stream.rx_state == RX_SIZE_KNOWN) and not stream.rx_stopped:
            stream.rx.unordered = True
            got = recvbuf_take_unordered(&stream.rx, <size_t>maximum)
            if got is not None:
                self.after_read(<uint64_t>len(got[1]))
                return got
        if self.read_end() is None:
            return None
        return (0 if stream.final_size == UNKNOWN else stream.final_size, b"")

    def stop(self, uint64_t code):
        """Refuse further data (STOP_SENDING). Later reads return b""."""
        cdef Stream* stream = self.stream
        if stream.rx_state == RX_NONE or stream.rx_stopped or stream.rx_state == RX_DONE:
            return
        stream.rx_stopped = True
        stream.rx_stop_code = code
        flow_forget(&self.streams.table, stream)
        recvbuf_discard(&stream.rx)
        stream_count_gaps(&self.streams.table, stream)
        stream.max_unsent = False
        if stream.rx_state == RX_OPEN:
            stream.stop_unsent = True
            queue_push(&self.streams.table.control, IN_CONTROL, stream)
        else:
            stream.rx_state = RX_DONE
            table_close_if_done(&self.streams.table, stream)
        stream_signal(&self.streams.table, stream, EV_READ | EV_RESET)
        self.connection.want_send()

    @property
    def readable(self):
        """Bytes that `read` would return without waiting."""
        if self.stream.rx_state not in (RX_OPEN, RX_SIZE_KNOWN) or self.stream.rx_stopped:
            return 0
        return recvbuf_readable(&self.stream.rx)

    @property
    def bytes_read(self):
        """Offset of the next byte to read."""
        return 0 if self.stream.rx_state == RX_NONE else self.stream.rx.read

    @property
    def receive_window(self):
        """How far the peer may be ahead of the reader; the first window again once it may send no more."""
        return self.stream.window

    @property
    def recv_finished(self):
        """Whether the reader has seen the end (or there is no receiving half)."""
        return self.stream.rx_state == RX_NONE or self.stream.rx_state == RX_DONE

    @property
    def recv_size_known(self):
        """Whether FIN or RESET_STREAM arrived."""
        return self.stream.rx_state != RX_OPEN

    @property
    def reset_code(self):
        """Code of the peer's RESET_STREAM, or None."""
        if self.stream.rx_state == RX_RESET or self.stream.rx_reset_seen:
            return self.stream.rx_reset_code
        return None

    # --- sending
    def write(self, data, Py_ssize_t start=0, bint copy=True):  # hot
        """Queue bytes from ``data[start:]``; the count accepted, 0 when blocked.

        Immutable `bytes` of 2 KiB and more are kept by reference until acknowledged; everything else is copied
        unless `copy` is false: then `data` stays exported until acknowledged, and must not change so long.
        """
        cdef Stream* stream = self.stream
        cdef Py_buffer view
        if stream.tx_state != TX_OPEN or self.streams.table.closed:
            self.check_write()
        if type(data) is bytes:
            return self.put(data, <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), start, True)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not copy:
                return self.put(None, <const uint8_t*>view.buf, view.len, start, True, data)
            if type(data) is memoryview and type(data.obj) is bytes:
                return self.put(data.obj, <const uint8_t*>view.buf, view.len, start, True)
            return self.put(None, <const uint8_t*>view.buf, view.len, start, False)
        finally:
            PyBuffer_Release(&view)

    cdef object put(self, object owner, const uint8_t* data, Py_ssize_t size, Py_ssize_t start, bint keep,
                    object pinned=None):
        """Queue a part of `data`, which `owner` keeps alive; `pinned` is an object to be exported for that."""
        cdef Stream* stream = self.stream
        cdef StreamTable* table = &self.streams.table
        cdef uint64_t limit
        cdef size_t n
        if start < 0 or start > size:
            raise ValueError("start is outside of the data")
        n = <size_t>(size - start)
        if n == 0:
            return 0
        limit = flow_room(table, stream)
        if limit == 0:
            flow_block(table, stream, n)
            return 0
        if n > limit:
            n = <size_t>limit
        if keep and n >= KEEP_REFERENCE_BYTES:
            if owner is None:
                owner = PyMemoryView_FromObject(pinned)
            sendbuf_write_ref(&stream.tx, owner, data + start, n)
        elif sendbuf_write_copy(&stream.tx, data + start, n) < 0:
            raise MemoryError
        flow_written(table, stream, n)
        schedule_push(&table.schedule, IN_READY, stream)
        self.connection.want_send()
        return n

    cdef int check_write(self) except -1:
        cdef Stream* stream = self.stream
        if stream.stopped and not stream.given_up:
            raise StreamStopped(stream.stop_code,
                                f"{self.told('to')} was stopped by the peer: code {stream.stop_code}")
        if stream.tx_state != TX_OPEN:
            raise self.write_error()
        self.check_open()
        return 0

    cdef void give_up_writing(self) noexcept:
        """Whoever was blocked, or woken since, does not write any more."""
        if not self.stream.detached and self.stream.level != NULL:
            flow_give_up(&self.streams.table, self.stream)
            if self.streams.table.reported.head != NULL:
                self.connection.want_send()

    def finish(self):
        """Mark the end of the stream (FIN). Harmless after the peer stopped it; else StreamClosed when repeated."""
        cdef Stream* stream = self.stream
        if stream.stopped and not stream.given_up:
            stream.given_up = True
            return
        if stream.tx_state != TX_OPEN:
            raise self.write_error()
        self.check_open()
        stream.tx_state = TX_FINISHED
        stream.fin_unsent = True
        self.streams.table.unconfirmed += 1
        self.give_up_writing()
        schedule_push(&self.streams.table.schedule, IN_READY, stream)
        self.connection.want_send()

    def reset(self, uint64_t code):
        """Abandon the sending half (RESET_STREAM); what is not acknowledged is dropped."""
        cdef Stream* stream = self.stream
        if stream.stopped and not stream.given_up:
            stream.given_up = True    # the transport answered already
            return
        if stream.tx_state != TX_OPEN and stream.tx_state != TX_FINISHED:
            self.check_open()
            raise self.write_error()
        stream_reset(&self.streams.table, stream, code)
        self.connection.want_send()

    @property
    def send_state(self):
        """One of "none", "ready", "stopped", "finished", "reset", "acked"."""
        cdef Stream* stream = self.stream
        if stream.stopped and not stream.given_up:
            return "stopped"
        return ("none", "ready", "finished", "reset", "acked")[stream.tx_state]

    @property
    def stop_code(self):
        """Code of the peer's STOP_SENDING, or None."""
        return self.stream.stop_code if self.stream.stopped else None

    @property
    def fin_acked(self):
        """Whether everything including FIN was acknowledged."""
        return self.stream.tx_state == TX_DONE and self.stream.fin_acked

    @property
    def bytes_written(self):
        """Bytes accepted so far."""
        return 0 if self.stream.tx_state == TX_NONE else self.stream.tx.end

    @property
    def priority(self):
        """Higher is sent first; equal ones take turns. Default 0."""
        return 0 if self.stream.level == NULL else self.stream.level.priority

    @priority.setter
    def priority(self, int value):
        if self.stream.detached or self.stream.level == NULL:
            return
        if schedule_set(&self.streams.table.schedule, self.stream, value) < 0:
            raise MemoryError

    # --- handle bookkeeping
    def drop_send(self):
        """The sending handle is gone: what was not finished must not look complete."""
        if self.streams.table.closed or self.stream.tx_state != TX_OPEN:
            return
        self.reset(0)

    def drop_recv(self):
        """The receiving handle is gone: stop(0) unless the end was seen."""
        cdef Stream* stream = self.stream
        if self.streams.table.closed:
            return
        if stream.rx_state == RX_SIZE_KNOWN and stream.rx.read == stream.final_size:
            stream.rx_state = RX_DONE
            table_close_if_done(&self.streams.table, stream)
            if streams_have_control(&self.streams.table):
                self.connection.want_send()
        else:
            self.stop(0)
