"""Streams of one connection: state machines, flow control, scheduling.

`Streams` is the table a connection owns; its frame and packet functions touch
no Python object. `QuicStream` is the handle of one stream for the layers above.
Sources: RFC 9000 §2-§4 and §19, with iroh's credit policy.
"""

cimport cython
from cpython.buffer cimport PyObject_GetBuffer, PyBuffer_Release, PyBUF_SIMPLE, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset, memcpy

from iroh_fast._packet cimport (
    FT_STREAM, FT_RESET_STREAM, FT_STOP_SENDING, FT_MAX_DATA, FT_MAX_STREAM_DATA, FT_MAX_STREAMS_BIDI,
    FT_STREAMS_BLOCKED_BIDI, MAX_CONTROL_FRAME, varint_size, put_stream_header, put_v1, put_v2, put_v3)
from iroh_fast.quic._buffers cimport (
    sendbuf_init, sendbuf_free, sendbuf_write_ref, sendbuf_write_copy, sendbuf_poll, sendbuf_copy, sendbuf_ack,
    sendbuf_lost, sendbuf_rewind, sendbuf_has_pending, sendbuf_unacked, recvbuf_init, recvbuf_free, recvbuf_insert,
    recvbuf_take, recvbuf_read_into, recvbuf_take_unordered, recvbuf_discard, recvbuf_readable)
from iroh_fast.quic._sent cimport REC_STREAM, REC_FIN, REC_ELICITING, frame_rec
from iroh_fast.quic._counters cimport (
    IDX_STREAM, IDX_RESET_STREAM, IDX_STOP_SENDING, IDX_MAX_DATA, IDX_MAX_STREAM_DATA, IDX_MAX_STREAMS_BIDI,
    IDX_STREAMS_BLOCKED_BIDI)

from iroh_fast.errors import StreamClosed, StreamReset, StreamStopped, ZeroRttRejected

cdef enum:
    # RFC 9000 §20.1
    INTERNAL_ERROR = 0x01
    FLOW_CONTROL_ERROR = 0x03
    STREAM_LIMIT_ERROR = 0x04
    STREAM_STATE_ERROR = 0x05
    FINAL_SIZE_ERROR = 0x06
    # Smaller objects are cheaper to copy than to keep alive.
    KEEP_REFERENCE_BYTES = 2048
    MIN_STREAM_ROOM = 25

cdef uint64_t MAX_VARINT = (<uint64_t>1 << 62) - 1
cdef uint64_t UNKNOWN = <uint64_t>-1


cdef class StreamOwner:
    """What streams need of their connection."""

    cdef void want_send(self) noexcept:
        pass

    cdef object ended(self):
        return None


cdef void stream_free(Stream* s) noexcept nogil:
    if s.tx_state != TX_NONE:
        sendbuf_free(&s.tx)
    if s.rx_state != RX_NONE:
        recvbuf_free(&s.rx)
    free(s)


@cython.final
cdef class Streams:
    def __cinit__(self, StreamOwner owner, bint is_client, bint fair, uint64_t window, uint64_t receive_window,
                  uint64_t send_window, uint64_t max_bidi, uint64_t max_uni):
        self.owner = <PyObject*>owner
        self.is_client = is_client
        self.fair = fair
        self.window = window
        self.receive_window = receive_window
        self.send_window = send_window
        self.local_max_data = receive_window
        self.sent_max_data = receive_window
        self.concurrent[0] = self.max_remote[0] = self.sent_max_remote[0] = max_bidi
        self.concurrent[1] = self.max_remote[1] = self.sent_max_remote[1] = max_uni

    def __dealloc__(self):
        cdef uint32_t i
        cdef Stream* s
        cdef Stream* n
        while self.ev_head != NULL:
            self.unsignal(self.ev_head)
        if self.buckets != NULL:
            for i in range(self.n_buckets):
                s = self.buckets[i]
                while s != NULL:
                    n = s.hnext
                    if s.handle != NULL:
                        (<QuicStream>s.handle).s = NULL
                    stream_free(s)
                    s = n
            free(self.buckets)

    # ------------------------------------------------------------- table
    cdef Stream* find(self, uint64_t id) noexcept nogil:
        cdef Stream* s
        if self.buckets == NULL:
            return NULL
        s = self.buckets[(id ^ (id >> 2)) & (self.n_buckets - 1)]
        while s != NULL and s.id != id:
            s = s.hnext
        return s

    cdef Stream* create(self, uint64_t id) noexcept nogil:
        cdef Stream* s
        cdef Stream* n
        cdef Stream** buckets
        cdef uint32_t i, h, size
        cdef bint local = (id & 1) == (0 if self.is_client else 1)
        if self.n_streams >= self.n_buckets:
            size = self.n_buckets * 2 if self.n_buckets else 8
            buckets = <Stream**>calloc(size, sizeof(Stream*))
            if buckets == NULL:
                return NULL
            for i in range(self.n_buckets):
                s = self.buckets[i]
                while s != NULL:
                    n = s.hnext
                    h = (s.id ^ (s.id >> 2)) & (size - 1)
                    s.hnext = buckets[h]
                    buckets[h] = s
                    s = n
            free(self.buckets)
            self.buckets = buckets
            self.n_buckets = size
        s = <Stream*>calloc(1, sizeof(Stream))
        if s == NULL:
            return NULL
        s.id = id
        s.table = <PyObject*>self
        s.final_size = UNKNOWN
        if local or not id & 2:
            s.tx_state = TX_OPEN
            sendbuf_init(&s.tx)
            if local:
                s.peer_max = self.peer_window[2 if id & 2 else 1]
            else:
                s.peer_max = self.peer_window[0]
        if not local or not id & 2:
            s.rx_state = RX_OPEN
            recvbuf_init(&s.rx)
            s.rx_max = s.rx_sent_max = self.window
        h = (id ^ (id >> 2)) & (self.n_buckets - 1)
        s.hnext = self.buckets[h]
        self.buckets[h] = s
        self.n_streams += 1
        return s

    cdef void close_if_done(self, Stream* s) noexcept nogil:
        """Forget a stream whose halves have both ended."""
        cdef Stream** at
        cdef Stream* x
        cdef Stream* prev
        cdef int uni
        if s.detached or not (s.tx_state == TX_NONE or s.tx_state == TX_DONE):
            return
        if not (s.rx_state == RX_NONE or s.rx_state == RX_DONE):
            return
        at = &self.buckets[(s.id ^ (s.id >> 2)) & (self.n_buckets - 1)]
        while at[0] != s:
            at = &at[0].hnext
        at[0] = s.hnext
        self.n_streams -= 1
        s.detached = True
        self.unready(s)
        if (s.id & 1) != (0 if self.is_client else 1):
            uni = 1 if s.id & 2 else 0
            self.max_remote[uni] += 1
            if self.max_remote[uni] - self.sent_max_remote[uni] > self.concurrent[uni] // 8:
                self.max_streams_unsent[uni] = True
        # The control and blocked lists are singly linked: unlink by search, these streams are few.
        if s.in_ctl:
            prev = NULL
            x = self.ctl_head
            while x != s:
                prev = x
                x = x.ctl_next
            if prev == NULL:
                self.ctl_head = s.ctl_next
            else:
                prev.ctl_next = s.ctl_next
            s.in_ctl = False
        if s.in_blocked:
            prev = NULL
            x = self.blocked_head
            while x != s:
                prev = x
                x = x.blocked_next
            if prev == NULL:
                self.blocked_head = s.blocked_next
            else:
                prev.blocked_next = s.blocked_next
            s.in_blocked = False
        if s.handle == NULL:
            stream_free(s)

    cdef void confirmed(self) noexcept nogil:
        """A stream that was finished is not waiting for acknowledgements any more."""
        self.unconfirmed -= 1
        if self.unconfirmed == 0:
            self.events |= EV_FINISHED

    cdef void mark_ready(self, Stream* s) noexcept nogil:
        """Queue for sending: behind all streams of the same priority, before lower ones."""
        cdef Stream* after
        if s.in_ready:
            return
        s.in_ready = True
        after = self.ready_tail
        while after != NULL and after.priority < s.priority:
            after = after.ready_prev
        s.ready_prev = after
        if after == NULL:
            s.ready_next = self.ready_head
            self.ready_head = s
        else:
            s.ready_next = after.ready_next
            after.ready_next = s
        if s.ready_next == NULL:
            self.ready_tail = s
        else:
            s.ready_next.ready_prev = s

    cdef void unready(self, Stream* s) noexcept nogil:
        if not s.in_ready:
            return
        s.in_ready = False
        if s.ready_prev == NULL:
            self.ready_head = s.ready_next
        else:
            s.ready_prev.ready_next = s.ready_next
        if s.ready_next == NULL:
            self.ready_tail = s.ready_prev
        else:
            s.ready_next.ready_prev = s.ready_prev
        s.ready_prev = NULL
        s.ready_next = NULL

    cdef void mark_control(self, Stream* s) noexcept nogil:
        if not s.in_ctl and not s.detached:
            s.in_ctl = True
            s.ctl_next = self.ctl_head
            self.ctl_head = s

    cdef void signal(self, Stream* s, uint32_t events) noexcept nogil:
        """Report events to whoever drains them; without a handle nobody could wait for them."""
        if s.handle == NULL:
            return
        s.events |= events
        if not s.in_events:
            s.in_events = True
            s.ev_next = NULL
            s.ev_prev = self.ev_tail
            if self.ev_tail == NULL:
                self.ev_head = s
            else:
                self.ev_tail.ev_next = s
            self.ev_tail = s

    cdef void unsignal(self, Stream* s) noexcept nogil:
        if not s.in_events:
            return
        s.in_events = False
        if s.ev_prev == NULL:
            self.ev_head = s.ev_next
        else:
            s.ev_prev.ev_next = s.ev_next
        if s.ev_next == NULL:
            self.ev_tail = s.ev_prev
        else:
            s.ev_next.ev_prev = s.ev_prev
        s.ev_prev = s.ev_next = NULL

    # ------------------------------------------------------------- frames
    cdef Stream* for_receive(self, uint64_t id, int* err) noexcept nogil:
        """The stream a frame of its sender is about; NULL without error: closed already."""
        cdef int uni = 1 if id & 2 else 0
        cdef uint64_t index = id >> 2
        cdef Stream* s
        err[0] = 0
        if (id & 1) == (0 if self.is_client else 1):
            if uni:
                self.reason = b"frame for a send-only stream"
                err[0] = STREAM_STATE_ERROR
                return NULL
            if index >= self.next_local[0]:
                self.reason = b"frame for a stream that was not opened"
                err[0] = STREAM_STATE_ERROR
                return NULL
            return self.find(id)
        if index >= self.max_remote[uni]:
            self.reason = b"stream limit exceeded"
            err[0] = STREAM_LIMIT_ERROR
            return NULL
        if index >= self.opened_remote[uni]:
            self.opened_remote[uni] = index + 1
            self.events |= EV_OPENED_UNI if uni else EV_OPENED_BI
        s = self.find(id)
        # Streams implicitly opened by a higher id exist only once something happens to them; one that was
        # never accepted cannot have been closed.
        if s == NULL and index >= self.accept_next[uni]:
            s = self.create(id)
            if s == NULL:
                self.reason = b"out of memory"
                err[0] = INTERNAL_ERROR
        return s

    cdef Stream* for_send(self, uint64_t id, int* err) noexcept nogil:
        """The stream a frame of its receiver is about."""
        err[0] = 0
        if (id & 1) == (0 if self.is_client else 1):
            if (id >> 2) >= self.next_local[1 if id & 2 else 0]:
                self.reason = b"frame for a stream that was not opened"
                err[0] = STREAM_STATE_ERROR
                return NULL
            return self.find(id)
        if id & 2:
            self.reason = b"frame for a receive-only stream"
            err[0] = STREAM_STATE_ERROR
            return NULL
        return self.for_receive(id, err)

    cdef int account(self, Stream* s, uint64_t end) noexcept nogil:
        """Charge both windows for data up to `end`."""
        cdef uint64_t grown
        if end <= s.highest:
            return 0
        grown = end - s.highest
        if end > s.rx_max or self.received + grown > self.local_max_data:
            self.reason = b""
            return FLOW_CONTROL_ERROR
        s.highest = end
        self.received += grown
        if s.rx_stopped:
            self.credit(grown)
        return 0

    cdef void credit(self, uint64_t n) noexcept nogil:
        """The application is done with n bytes: raise the connection limit."""
        cdef uint64_t limit
        self.consumed += n
        limit = self.consumed + self.receive_window
        if limit > MAX_VARINT:
            limit = MAX_VARINT
        if limit > self.local_max_data:
            self.local_max_data = limit
        if self.local_max_data - self.sent_max_data >= self.receive_window // 8 and self.local_max_data > self.sent_max_data:
            self.max_data_unsent = True

    cdef int on_stream(self, uint64_t id, uint64_t offset, const uint8_t* data, size_t n, bint fin) noexcept nogil:
        cdef int err = 0
        cdef Stream* s = self.for_receive(id, &err)
        cdef uint64_t end = offset + n
        cdef uint64_t before
        if s == NULL:
            return err
        if end > MAX_VARINT:
            self.reason = b""
            return FLOW_CONTROL_ERROR
        if s.final_size != UNKNOWN:
            if end > s.final_size or (fin and end != s.final_size):
                self.reason = b"data beyond the final size"
                return FINAL_SIZE_ERROR
        elif fin and end < s.highest:
            self.reason = b"final size below received data"
            return FINAL_SIZE_ERROR
        err = self.account(s, end)
        if err:
            return err
        if s.rx_state == RX_RESET or s.rx_state == RX_DONE:
            return 0
        if fin and s.final_size == UNKNOWN:
            s.final_size = end
            s.rx_state = RX_SIZE_KNOWN
            s.max_unsent = False
            if s.rx_stopped:
                s.rx_state = RX_DONE
                self.close_if_done(s)
                return 0
            if s.rx.tail == end or s.rx.tail == offset:
                self.signal(s, EV_READ)
            self.signal(s, EV_RESET)      # received_reset() ends too
        if s.rx_stopped:
            return 0
        if n:
            before = s.rx.tail
            err = recvbuf_insert(&s.rx, offset, data, n)
            if err:
                self.reason = b"too many gaps in stream buffer" if err == -2 else b"out of memory"
                return INTERNAL_ERROR
            if s.rx.tail > before or s.rx.unordered:
                self.signal(s, EV_READ)
        return 0

    cdef int on_reset(self, uint64_t id, uint64_t code, uint64_t final_size) noexcept nogil:
        cdef int err = 0
        cdef Stream* s = self.for_receive(id, &err)
        if s == NULL:
            return err
        if (s.final_size != UNKNOWN and s.final_size != final_size) or final_size < s.highest:
            self.reason = b"inconsistent final size"
            return FINAL_SIZE_ERROR
        err = self.account(s, final_size)
        if err:
            return err
        s.final_size = final_size
        if s.rx_state == RX_RESET or s.rx_state == RX_DONE:
            return 0
        s.max_unsent = False
        s.rx_reset_code = code
        if s.rx_stopped:
            s.rx_state = RX_DONE
        else:
            # Everything was already handed out: the end has been seen, keep it a clean end (RFC 9000 §3.2).
            if s.rx_state == RX_SIZE_KNOWN and s.rx.tail == final_size:
                return 0
            s.rx_state = RX_RESET
            self.credit(final_size - s.rx.read)
            recvbuf_discard(&s.rx)
            self.signal(s, EV_READ | EV_RESET)
        self.close_if_done(s)
        return 0

    cdef int on_stop_sending(self, uint64_t id, uint64_t code) noexcept nogil:
        cdef int err = 0
        cdef Stream* s = self.for_send(id, &err)
        if s == NULL or s.stopped or s.tx_state >= TX_RESET:
            return err
        s.stopped = True
        s.stop_code = code
        self.signal(s, EV_STOP | EV_WRITE)
        return 0

    cdef int on_max_stream_data(self, uint64_t id, uint64_t maximum) noexcept nogil:
        cdef int err = 0
        cdef Stream* s = self.for_send(id, &err)
        if s == NULL:
            return err
        if maximum > s.peer_max:
            s.peer_max = maximum
            if s.write_waiting and self.write_limit(s):
                s.write_waiting = False
                self.signal(s, EV_WRITE)
        return 0

    cdef int on_stream_data_blocked(self, uint64_t id) noexcept nogil:
        cdef int err = 0
        self.for_receive(id, &err)
        return err

    cdef void on_max_data(self, uint64_t maximum) noexcept nogil:
        if maximum > self.peer_max_data:
            self.peer_max_data = maximum
            self.unblock_writers()

    cdef void on_max_streams(self, int uni, uint64_t maximum) noexcept nogil:
        if maximum > self.max_local[uni]:
            self.max_local[uni] = maximum
            self.blocked_unsent[uni] = False
            self.blocked_told[uni] = False
            self.events |= EV_AVAILABLE_UNI if uni else EV_AVAILABLE_BI

    cdef void set_peer_limits(self, uint64_t max_data, uint64_t bidi_local, uint64_t bidi_remote, uint64_t uni,
                              uint64_t streams_bidi, uint64_t streams_uni) noexcept nogil:
        cdef uint32_t i
        cdef Stream* s
        cdef uint64_t w
        self.peer_window[0] = bidi_local
        self.peer_window[1] = bidi_remote
        self.peer_window[2] = uni
        # Streams opened before the limits were known (0-RTT) take the new initial window.
        for i in range(self.n_buckets):
            s = self.buckets[i]
            while s != NULL:
                if s.tx_state != TX_NONE:
                    if (s.id & 1) == (0 if self.is_client else 1):
                        w = uni if s.id & 2 else bidi_remote
                    else:
                        w = bidi_local
                    if w > s.peer_max:
                        s.peer_max = w
                        if s.write_waiting and self.write_limit(s):
                            s.write_waiting = False
                            self.signal(s, EV_WRITE)
                s = s.hnext
        self.on_max_data(max_data)
        self.on_max_streams(0, streams_bidi)
        self.on_max_streams(1, streams_uni)

    # ------------------------------------------------------------- packets
    cdef uint8_t* write_control(self, uint8_t* p, uint8_t* end, SentRec* rec, uint64_t* counts) noexcept nogil:
        """Flow control, RESET_STREAM and STOP_SENDING frames, as many as fit."""
        cdef Stream* s
        cdef int uni
        if self.max_data_unsent and end - p >= MAX_CONTROL_FRAME:
            p = put_v1(p, FT_MAX_DATA, self.local_max_data)
            self.sent_max_data = self.local_max_data
            self.max_data_unsent = False
            frame_rec(&rec.frames, FT_MAX_DATA, 0, 0, 0, 0)
            rec.flags |= REC_ELICITING
            counts[IDX_MAX_DATA] += 1
        for uni in range(2):
            if self.max_streams_unsent[uni] and end - p >= MAX_CONTROL_FRAME:
                p = put_v1(p, FT_MAX_STREAMS_BIDI + uni, self.max_remote[uni])
                self.sent_max_remote[uni] = self.max_remote[uni]
                self.max_streams_unsent[uni] = False
                frame_rec(&rec.frames, FT_MAX_STREAMS_BIDI + uni, 0, 0, 0, 0)
                rec.flags |= REC_ELICITING
                counts[IDX_MAX_STREAMS_BIDI + uni] += 1
            if self.blocked_unsent[uni] and end - p >= MAX_CONTROL_FRAME:
                p = put_v1(p, FT_STREAMS_BLOCKED_BIDI + uni, self.max_local[uni])
                self.blocked_unsent[uni] = False
                frame_rec(&rec.frames, FT_STREAMS_BLOCKED_BIDI + uni, 0, 0, self.max_local[uni], 0)
                rec.flags |= REC_ELICITING
                counts[IDX_STREAMS_BLOCKED_BIDI + uni] += 1
        while self.ctl_head != NULL and end - p >= 3 * MAX_CONTROL_FRAME:
            s = self.ctl_head
            self.ctl_head = s.ctl_next
            s.in_ctl = False
            if s.reset_unsent:
                s.reset_unsent = False
                p = put_v3(p, FT_RESET_STREAM, s.id, s.reset_code, s.tx.end)
                frame_rec(&rec.frames, FT_RESET_STREAM, 0, s.id, 0, 0)
                rec.flags |= REC_ELICITING
                counts[IDX_RESET_STREAM] += 1
            if s.stop_unsent:
                s.stop_unsent = False
                p = put_v2(p, FT_STOP_SENDING, s.id, s.rx_stop_code)
                frame_rec(&rec.frames, FT_STOP_SENDING, 0, s.id, 0, 0)
                rec.flags |= REC_ELICITING
                counts[IDX_STOP_SENDING] += 1
            if s.max_unsent:
                s.max_unsent = False
                s.rx_sent_max = s.rx_max
                p = put_v2(p, FT_MAX_STREAM_DATA, s.id, s.rx_max)
                frame_rec(&rec.frames, FT_MAX_STREAM_DATA, 0, s.id, 0, 0)
                rec.flags |= REC_ELICITING
                counts[IDX_MAX_STREAM_DATA] += 1
        return p

    cdef uint8_t* write_data(self, uint8_t* p, uint8_t* end, SentRec* rec, uint64_t* counts) noexcept nogil:  # hot
        """STREAM frames of the streams in turn until the packet is full."""
        cdef Stream* s
        cdef uint64_t offset
        cdef size_t room, n, header
        cdef bint again, fin, with_len
        while self.ready_head != NULL and end - p >= MIN_STREAM_ROOM:
            s = self.ready_head
            if s.tx_state >= TX_RESET:
                self.unready(s)
                continue
            n = 0
            if sendbuf_has_pending(&s.tx):
                offset = s.tx.lost.v[0] if s.tx.lost.n else s.tx.next
                header = 1 + varint_size(s.id) + (varint_size(offset) if offset else 0)
                room = <size_t>(end - p) - header
                if not sendbuf_poll(&s.tx, room, &offset, &n, &again):
                    self.unready(s)
                    continue
            elif s.fin_unsent:
                offset = s.tx.end
                header = 1 + varint_size(s.id) + (varint_size(offset) if offset else 0)
                room = <size_t>(end - p) - header
            else:
                self.unready(s)
                continue
            fin = s.tx_state == TX_FINISHED and offset + n == s.tx.end
            if fin:
                s.fin_unsent = False
            with_len = n + varint_size(n) <= room
            if not with_len and n < room:
                # No room for the length and the frame would not fill the packet: padding goes in front,
                # because a STREAM frame without length extends to the end.
                memset(p, 0, room - n)
                p += room - n
            p = put_stream_header(p, s.id, offset, n, with_len, fin)
            sendbuf_copy(&s.tx, offset, n, p)
            p += n
            counts[IDX_STREAM] += 1
            if rec.flags & REC_STREAM:
                frame_rec(&rec.frames, FT_STREAM, 0, s.id, offset, (<uint64_t>n << 1) | fin)
            else:
                rec.flags |= REC_STREAM | (REC_FIN if fin else 0)
                rec.stream_id = s.id
                rec.offset = offset
                rec.len = <uint32_t>n
            rec.flags |= REC_ELICITING
            if not sendbuf_has_pending(&s.tx) and not s.fin_unsent:
                self.unready(s)
            elif self.fair and (s.ready_next != NULL):
                self.unready(s)
                self.mark_ready(s)
        return p

    cdef void on_acked(self, uint64_t id, uint64_t offset, uint64_t n, bint fin) noexcept nogil:
        cdef Stream* s = self.find(id)
        cdef uint64_t before
        if s == NULL or s.tx_state == TX_NONE or s.tx_state >= TX_RESET:
            return
        if n:
            before = s.tx.acked
            sendbuf_ack(&s.tx, offset, n)
            self.unacked -= s.tx.acked - before
        if fin:
            s.fin_acked = True
        if s.fin_acked and s.tx.acked == s.tx.end:
            s.tx_state = TX_DONE
            self.confirmed()
            self.signal(s, EV_STOP | EV_WRITE)
            self.close_if_done(s)
        elif s.write_waiting and self.write_limit(s):
            s.write_waiting = False
            self.signal(s, EV_WRITE)
        if self.blocked_head != NULL:
            self.unblock_writers()

    cdef void on_lost(self, uint64_t id, uint64_t offset, uint64_t n, bint fin) noexcept nogil:
        cdef Stream* s = self.find(id)
        if s == NULL or s.tx_state == TX_NONE or s.tx_state >= TX_RESET:
            return
        if n:
            sendbuf_lost(&s.tx, offset, n)
        if fin and not s.fin_acked:
            s.fin_unsent = True
        if sendbuf_has_pending(&s.tx) or s.fin_unsent:
            self.mark_ready(s)

    cdef void on_reset_acked(self, uint64_t id) noexcept nogil:
        cdef Stream* s = self.find(id)
        if s == NULL or s.tx_state != TX_RESET:
            return
        s.tx_state = TX_DONE
        self.signal(s, EV_STOP)
        self.close_if_done(s)

    cdef void on_control_lost(self, const FrameRec* f) noexcept nogil:
        """Send again what still matters, with present values."""
        cdef Stream* s
        if f.type == FT_MAX_DATA:
            self.max_data_unsent = True
        elif f.type == FT_MAX_STREAMS_BIDI or f.type == FT_MAX_STREAMS_BIDI + 1:
            self.max_streams_unsent[f.type - FT_MAX_STREAMS_BIDI] = True
        elif f.type == FT_STREAMS_BLOCKED_BIDI or f.type == FT_STREAMS_BLOCKED_BIDI + 1:
            if self.blocked_told[f.type - FT_STREAMS_BLOCKED_BIDI]:
                self.blocked_unsent[f.type - FT_STREAMS_BLOCKED_BIDI] = True
        else:
            s = self.find(f.id)
            if s == NULL:
                return
            if f.type == FT_RESET_STREAM and s.tx_state == TX_RESET:
                s.reset_unsent = True
            elif f.type == FT_STOP_SENDING and s.rx_state == RX_OPEN:
                s.stop_unsent = True
            elif f.type == FT_MAX_STREAM_DATA and s.rx_state == RX_OPEN and not s.rx_stopped:
                s.max_unsent = True
            else:
                return
            self.mark_control(s)

    cdef void rewind_0rtt(self) noexcept nogil:
        """After Retry: everything sent so far goes out again."""
        cdef uint32_t i
        cdef Stream* s
        for i in range(self.n_buckets):
            s = self.buckets[i]
            while s != NULL:
                if s.tx_state == TX_OPEN or s.tx_state == TX_FINISHED:
                    sendbuf_rewind(&s.tx)
                    if s.tx_state == TX_FINISHED:
                        s.fin_unsent = True
                    if sendbuf_has_pending(&s.tx) or s.fin_unsent:
                        self.mark_ready(s)
                s = s.hnext

    cdef void reject_0rtt(self):
        """The server refused 0-RTT: streams opened so far never existed (RFC 9001 §4.6.2)."""
        cdef uint32_t i
        cdef Stream* s
        cdef Stream* n
        cdef QuicStream h
        for i in range(self.n_buckets):
            s = self.buckets[i]
            while s != NULL:
                n = s.hnext
                if s.tx_state != TX_NONE:
                    sendbuf_free(&s.tx)
                if s.rx_state != RX_NONE:
                    recvbuf_free(&s.rx)
                s.tx_state = TX_NONE
                s.rx_state = RX_NONE
                s.detached = True
                s.in_ready = s.in_ctl = s.in_blocked = False
                s.hnext = s.ready_prev = s.ready_next = s.ctl_next = s.blocked_next = NULL
                if s.handle == NULL:
                    stream_free(s)
                else:
                    h = <QuicStream>s.handle
                    h.rejected = True
                    self.signal(s, EV_ALL)
                s = n
            self.buckets[i] = NULL
        self.n_streams = 0
        self.ready_head = self.ready_tail = NULL
        self.ctl_head = self.blocked_head = NULL
        self.next_local[0] = self.next_local[1] = 0
        self.data_sent = 0
        self.unacked = 0
        self.unconfirmed = 0
        self.events |= EV_FINISHED
        self.peer_max_data = 0
        self.max_local[0] = self.max_local[1] = 0
        self.blocked_unsent[0] = self.blocked_unsent[1] = False

    # ------------------------------------------------------------- application
    cdef uint64_t write_limit(self, Stream* s) noexcept nogil:
        """Bytes that may be queued on the stream now."""
        cdef uint64_t limit = s.peer_max - s.tx.end if s.peer_max > s.tx.end else 0
        cdef uint64_t c = self.peer_max_data - self.data_sent if self.peer_max_data > self.data_sent else 0
        cdef uint64_t w = self.send_window - self.unacked if self.send_window > self.unacked else 0
        if c < limit:
            limit = c
        return w if w < limit else limit

    cdef void unblock_writers(self) noexcept nogil:
        cdef Stream* s
        if self.peer_max_data <= self.data_sent or self.send_window <= self.unacked:
            return
        while self.blocked_head != NULL:
            s = self.blocked_head
            self.blocked_head = s.blocked_next
            s.in_blocked = False
            if s.write_waiting:
                s.write_waiting = False
                self.signal(s, EV_WRITE)

    cdef void read_done(self, Stream* s, uint64_t n) noexcept nogil:
        """The application took n bytes: return credit in steps of an eighth of the window."""
        cdef uint64_t limit
        self.credit(n)
        if s.rx_state == RX_OPEN and not s.rx_stopped:
            limit = s.rx.read + self.window
            if limit > s.rx_max:
                s.rx_max = limit
            if s.rx_max - s.rx_sent_max >= self.window // 8 and not s.max_unsent:
                s.max_unsent = True
                self.mark_control(s)

    cdef object handle_for(self, Stream* s):
        cdef QuicStream h = QuicStream.__new__(QuicStream)
        h.connection = <StreamOwner>self.owner
        h.table = self
        h.s = s
        h.id = s.id
        h.is_0rtt = s.zero_rtt
        s.handle = <PyObject*>h
        return h

    cdef object open(self, bint bidi):
        cdef int uni = 0 if bidi else 1
        cdef Stream* s
        if self.next_local[uni] >= self.max_local[uni]:
            if not self.blocked_told[uni]:
                self.blocked_told[uni] = True
                self.blocked_unsent[uni] = True
                (<StreamOwner>self.owner).want_send()
            return None
        s = self.create((self.next_local[uni] << 2) | (uni << 1) | (0 if self.is_client else 1))
        if s == NULL:
            raise MemoryError
        self.next_local[uni] += 1
        return self.handle_for(s)

    cdef object accept(self, bint bidi):
        cdef int uni = 0 if bidi else 1
        cdef uint64_t id
        cdef Stream* s
        if self.accept_next[uni] >= self.opened_remote[uni]:
            return None
        id = (self.accept_next[uni] << 2) | (uni << 1) | (1 if self.is_client else 0)
        s = self.find(id)
        if s == NULL:
            s = self.create(id)
            if s == NULL:
                raise MemoryError
        self.accept_next[uni] += 1
        return self.handle_for(s)

    cdef QuicStream next_event(self, uint32_t* events):
        """The next stream that something happened to since it was given last, and what; None: no more."""
        cdef Stream* s = self.ev_head
        if s == NULL:
            return None
        self.unsignal(s)
        events[0] = s.events
        s.events = 0
        return <QuicStream>s.handle

    cdef void end(self) noexcept nogil:
        """The connection ended: that concerns every stream."""
        cdef uint32_t i
        cdef Stream* s
        self.closed = True
        for i in range(self.n_buckets):
            s = self.buckets[i]
            while s != NULL:
                self.signal(s, EV_ALL)
                s = s.hnext


@cython.final
@cython.freelist(64)
cdef class QuicStream:
    """One stream, both halves, without waiting: calls either act or say "blocked".

    Obtained from ``QuicConnection.open_stream`` and ``accept_stream``. Whoever is told "blocked" tries again after
    the next event of the stream (EV_READ for data, end or reset; EV_WRITE for room or a stop; EV_STOP when it is
    stopped or wholly acknowledged; EV_RESET when FIN or RESET_STREAM arrived): see ``QuicConnection.poll_events``.
    """

    def __dealloc__(self):
        if self.s != NULL:
            self.s.handle = NULL
            if self.s.in_events:          # then the table is alive, even if the collector took our reference to it
                (<Streams>self.s.table).unsignal(self.s)
            if self.s.detached:
                stream_free(self.s)
            self.s = NULL

    def __repr__(self):
        return f"<QuicStream {self.id}>"

    cdef object closed_error(self):
        return ZeroRttRejected() if self.rejected else StreamClosed()

    cdef int check_open(self) except -1:
        if self.rejected:
            raise ZeroRttRejected()
        if self.table.closed:
            raise self.connection.ended()
        return 0

    # --- receiving
    def read(self, Py_ssize_t maximum=65536):
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
        cdef Stream* s = self.s
        cdef bytes data
        if s == NULL:
            self.check_open()
            raise StreamClosed()
        if s.rx_state == RX_OPEN or s.rx_state == RX_SIZE_KNOWN:
            if s.rx_stopped:
                return b""
            if recvbuf_readable(&s.rx) and maximum > 0:
                data = recvbuf_take(&s.rx, <size_t>maximum)
                self.after_read(<uint64_t>PyBytes_GET_SIZE(data))
                return data
        return self.read_end()

    cdef object read_end(self):
        """What a reader gets when no data is ready."""
        cdef Stream* s = self.s
        cdef uint64_t code
        if s.rx_state == RX_DONE:
            if s.rx_reset_seen:
                raise StreamClosed()
            return b""
        if s.rx_state == RX_RESET:
            code = s.rx_reset_code
            s.rx_state = RX_DONE
            s.rx_reset_seen = True
            self.table.close_if_done(s)
            self.connection.want_send()
            raise StreamReset(code)
        if s.rx_state == RX_SIZE_KNOWN and s.rx.read == s.final_size:
            s.rx_state = RX_DONE
            self.table.close_if_done(s)
            if self.table.has_control():
                self.connection.want_send()
            return b""
        if s.rx_state == RX_NONE:
            raise self.closed_error()
        if s.rx_stopped:
            return b""
        self.check_open()
        return None

    cdef void after_read(self, uint64_t n):
        self.table.read_done(self.s, n)
        if self.s.rx_state == RX_SIZE_KNOWN and self.s.rx.read == self.s.final_size:
            self.s.rx_state = RX_DONE
            self.table.close_if_done(self.s)
        if self.table.has_control():
            self.connection.want_send()

    def readinto(self, buffer):
        """Copy received bytes into `buffer`: the count, -1 when nothing is there yet, 0 at the end."""
        cdef Stream* s = self.s
        cdef Py_buffer view
        cdef size_t n
        if s == NULL:
            self.check_open()
            raise StreamClosed()
        if (s.rx_state == RX_OPEN or s.rx_state == RX_SIZE_KNOWN) and not s.rx_stopped and recvbuf_readable(&s.rx):
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
            try:
                n = recvbuf_read_into(&s.rx, <uint8_t*>view.buf, <size_t>view.len)
            finally:
                PyBuffer_Release(&view)
            self.after_read(n)
            return n
        return -1 if self.read_end() is None else 0

    def read_unordered(self, Py_ssize_t maximum=65536):
        """The lowest buffered (offset, bytes), gaps or not; None: nothing yet; (final size, b""): the end."""
        cdef Stream* s = self.s
        cdef object got
        if s == NULL:
            self.check_open()
            raise StreamClosed()
        if (s.rx_state == RX_OPEN or s.rx_state == RX_SIZE_KNOWN) and not s.rx_stopped:
            s.rx.unordered = True
            got = recvbuf_take_unordered(&s.rx, <size_t>maximum)
            if got is not None:
                self.after_read(<uint64_t>len(got[1]))
                return got
        if self.read_end() is None:
            return None
        return (0 if s.final_size == UNKNOWN else s.final_size, b"")

    def stop(self, uint64_t code):
        """Refuse further data (STOP_SENDING). Later reads return b""."""
        cdef Stream* s = self.s
        if s == NULL or s.rx_state == RX_NONE or s.rx_stopped or s.rx_state == RX_DONE:
            return
        s.rx_stopped = True
        s.rx_stop_code = code
        if s.rx_state != RX_RESET:
            self.table.credit(s.highest - s.rx.read)
        recvbuf_discard(&s.rx)
        s.max_unsent = False
        if s.rx_state == RX_OPEN:
            s.stop_unsent = True
            self.table.mark_control(s)
        else:
            s.rx_state = RX_DONE
            self.table.close_if_done(s)
        self.table.signal(s, EV_READ | EV_RESET)
        self.connection.want_send()

    @property
    def readable(self):
        """Bytes that `read` would return without waiting."""
        return 0 if self.s == NULL or self.s.rx_state not in (RX_OPEN, RX_SIZE_KNOWN) or self.s.rx_stopped else recvbuf_readable(&self.s.rx)

    @property
    def bytes_read(self):
        """Offset of the next byte to read."""
        return 0 if self.s == NULL or self.s.rx_state == RX_NONE else self.s.rx.read

    @property
    def recv_finished(self):
        """Whether the reader has seen the end (or there is no receiving half)."""
        return self.s == NULL or self.s.rx_state == RX_NONE or self.s.rx_state == RX_DONE

    @property
    def recv_size_known(self):
        """Whether FIN or RESET_STREAM arrived."""
        return self.s == NULL or self.s.rx_state != RX_OPEN

    @property
    def reset_code(self):
        """Code of the peer's RESET_STREAM, or None."""
        if self.s != NULL and (self.s.rx_state == RX_RESET or self.s.rx_reset_seen):
            return self.s.rx_reset_code
        return None

    # --- sending
    def write(self, data, Py_ssize_t start=0):
        """Queue bytes from ``data[start:]``; the count accepted, 0 when blocked.

        Immutable `bytes` of 2 KiB and more are kept by reference until
        acknowledged, everything else is copied.
        """
        cdef Stream* s = self.s
        cdef uint64_t limit
        cdef Py_buffer view
        cdef size_t n
        cdef object owner = data
        if s == NULL or s.tx_state != TX_OPEN or s.stopped or self.table.closed:
            self.check_write()
            s = self.s
        if type(data) is bytes:
            n = <size_t>PyBytes_GET_SIZE(data)
            if start < 0 or <size_t>start > n:
                raise ValueError("start is outside of the data")
            n -= <size_t>start
            if n == 0:
                return 0
            limit = self.table.write_limit(s)
            if limit == 0:
                self.block()
                return 0
            if n > limit:
                n = <size_t>limit
            if n >= KEEP_REFERENCE_BYTES:
                sendbuf_write_ref(&s.tx, data, <const uint8_t*>PyBytes_AS_STRING(data) + start, n)
            elif sendbuf_write_copy(&s.tx, <const uint8_t*>PyBytes_AS_STRING(data) + start, n) < 0:
                raise MemoryError
        else:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                if start < 0 or start > view.len:
                    raise ValueError("start is outside of the data")
                n = <size_t>(view.len - start)
                if n == 0:
                    return 0
                limit = self.table.write_limit(s)
                if limit == 0:
                    self.block()
                    return 0
                if n > limit:
                    n = <size_t>limit
                if type(data) is memoryview:
                    owner = data.obj
                if n >= KEEP_REFERENCE_BYTES and type(owner) is bytes:
                    sendbuf_write_ref(&s.tx, owner, <const uint8_t*>view.buf + start, n)
                elif sendbuf_write_copy(&s.tx, <const uint8_t*>view.buf + start, n) < 0:
                    raise MemoryError
            finally:
                PyBuffer_Release(&view)
        self.table.data_sent += n
        self.table.unacked += n
        self.table.mark_ready(s)
        self.connection.want_send()
        return n

    cdef int block(self) except -1:
        cdef Stream* s = self.s
        s.write_waiting = True
        if s.peer_max > s.tx.end and not s.in_blocked:
            s.in_blocked = True
            s.blocked_next = self.table.blocked_head
            self.table.blocked_head = s
        return 0

    cdef int check_write(self) except -1:
        cdef Stream* s = self.s
        if s == NULL:
            self.check_open()
            raise StreamClosed()
        if s.tx_state == TX_NONE or s.tx_state >= TX_FINISHED:
            raise self.closed_error()
        if s.stopped:
            raise StreamStopped(s.stop_code)
        self.check_open()
        return 0

    def finish(self):
        """Mark the end of the stream (FIN). Harmless after the peer stopped it; else StreamClosed when repeated."""
        cdef Stream* s = self.s
        if s == NULL:
            self.check_open()
            raise StreamClosed()
        if s.tx_state != TX_OPEN:
            raise self.closed_error()
        if s.stopped:
            self.reset(s.stop_code)
            return
        self.check_open()
        s.tx_state = TX_FINISHED
        self.table.unconfirmed += 1
        s.fin_unsent = True
        self.table.mark_ready(s)
        self.connection.want_send()

    def reset(self, uint64_t code):
        """Abandon the sending half (RESET_STREAM); unsent data is dropped."""
        cdef Stream* s = self.s
        if s == NULL or s.tx_state == TX_NONE or s.tx_state >= TX_RESET:
            self.check_open()
            raise self.closed_error()
        if s.tx_state == TX_FINISHED:
            self.table.confirmed()
        s.tx_state = TX_RESET
        s.reset_code = code
        s.reset_unsent = True
        s.fin_unsent = False
        self.table.unacked -= sendbuf_unacked(&s.tx)
        self.drop_unsent()
        self.table.unready(s)
        self.table.mark_control(s)
        self.table.signal(s, EV_WRITE | EV_STOP)
        self.table.unblock_writers()
        self.connection.want_send()

    cdef void drop_unsent(self):
        # RESET_STREAM carries the amount handed to the stream as final size: both ends then agree on
        # what the connection window was charged.
        cdef uint64_t end = self.s.tx.end
        sendbuf_free(&self.s.tx)
        sendbuf_init(&self.s.tx)
        self.s.tx.end = self.s.tx.acked = self.s.tx.next = end

    @property
    def send_state(self):
        """One of "none", "ready", "stopped", "finished", "reset", "acked"."""
        cdef Stream* s = self.s
        if s == NULL:
            return "none"
        if s.tx_state == TX_OPEN:
            return "stopped" if s.stopped else "ready"
        return ("none", "ready", "finished", "reset", "acked")[s.tx_state]

    @property
    def stop_code(self):
        """Code of the peer's STOP_SENDING, or None."""
        return self.s.stop_code if self.s != NULL and self.s.stopped else None

    @property
    def fin_acked(self):
        """Whether everything including FIN was acknowledged."""
        return self.s != NULL and self.s.tx_state == TX_DONE and self.s.fin_acked

    @property
    def priority(self):
        """Higher is sent first; equal ones take turns. Default 0."""
        return 0 if self.s == NULL else self.s.priority

    @priority.setter
    def priority(self, int value):
        if self.s == NULL:
            return
        self.s.priority = value
        if self.s.in_ready:
            self.table.unready(self.s)
            self.table.mark_ready(self.s)

    # --- handle bookkeeping
    def drop_send(self):
        """The sending handle is gone: finish, or reset with the peer's stop code."""
        cdef Stream* s = self.s
        if s == NULL or self.table.closed or s.tx_state != TX_OPEN:
            return
        if s.stopped:
            self.reset(s.stop_code)
        else:
            self.finish()

    def drop_recv(self):
        """The receiving handle is gone: stop(0) unless the end was seen."""
        cdef Stream* s = self.s
        if s == NULL or self.table.closed:
            return
        if s.rx_state == RX_SIZE_KNOWN and s.rx.read == s.final_size:
            s.rx_state = RX_DONE
            self.table.close_if_done(s)
            if self.table.has_control():
                self.connection.want_send()
        else:
            self.stop(0)
