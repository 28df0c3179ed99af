"""Forwarding of a relay server: from the bytes of one client to the socket of another.

One `Forwarder` holds the clients of a server. A read event is handled in one go: WebSocket frames are
taken apart where they were received, the destination is looked up, the contents are unmasked straight
into the destination's output buffer (`_outbox`), and at the end every destination that got something
is flushed once. No Python object is made per frame. On plain TCP the flush is one ``send(2)``; what the
socket does not take, and everything under TLS, goes through the transport.

Everything belongs to one event loop.

Wire: sub-protocols ``iroh-relay-v1`` and ``iroh-relay-v2`` of iroh; RFC 6455.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memmove

from iroh_fast._relay._frames cimport (
    FE_PUBLIC_KEY, FE_TOO_LARGE, FROM_CLIENT, FT_C2S_BATCH, FT_C2S_DATAGRAM, FT_GONE, FT_HEALTH, FT_PING, FT_PONG,
    FT_S2C_BATCH, FT_S2C_DATAGRAM, FT_STATUS, MAX_AFTER_TYPE, MAX_FRAME, RelayFrame, key_cache_free,
    key_cache_init, key_is_point, parse_frame)
from iroh_fast._relay._websocket cimport (
    MAX_MESSAGE, WS_BINARY, WS_CLOSE, WS_CONTINUATION, WS_PING, WS_PONG, WS_TEXT, _Memory, close_payload_ok,
    relay_hash, ws_head, ws_mask_at, ws_parse, ws_xor)
from iroh_fast._view cimport View, view_of
from iroh_fast.relay.server._outbox cimport Outbox
from iroh_fast.relay.server._peers cimport PeerTable, sent_to_add
from iroh_fast.relay.server._port cimport Port
from iroh_fast.relay.server._state cimport (
    CLOSE_AWAY, CLOSE_NORMAL, CLOSE_PROTOCOL, CLOSE_TOO_BIG, FLUSH_BYTES, HANDSHAKE_READ, HEADROOM, MAX_CONTROL,
    MAX_INACTIVE, MESSAGE_LIMIT, PAUSE_RATE, PING_MAX_TIMEOUT_MS, PING_MIN_TIMEOUT_MS, READ_BYTES, ST_HANDSHAKE, ST_OPEN,
    Client, Counters, Peer)

import os

cdef extern from "../../native/clock.h" nogil:
    int64_t clock_now_ns()

cdef extern from "../../native/relay_send.h" nogil:
    long relay_send(int fd, const void* data, size_t n)

HEALTH_DUPLICATE = (
    b"Another endpoint connected with the same endpoint id. No more messages will be received."
)
HEALTH_RESTORED = b"The other endpoint with the same endpoint id disconnected. Messages are received again."


@cython.final
cdef class Forwarder:
    """Registry and queues of the clients of one relay server.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        Where the clients' transports run.
    key_cache : int
        Keys remembered as valid.
    max_packets, max_bytes : int
        Bounds of what waits for one client; newer datagrams are dropped.
    write_timeout : float
        Seconds a client may take no byte while something waits for it.
    ping_interval, ping_jitter : float
        Seconds of silence after which a client is pinged: the interval and 1..jitter whole seconds.
    """

    def __cinit__(self, loop, *, size_t key_cache=1048576, uint32_t max_packets=512,
                  size_t max_bytes=4 * 1024 * 1024, double write_timeout=2.0,
                  double ping_interval=15.0, int ping_jitter=5):
        cdef bytes seed = os.urandom(16)
        self.loop = loop
        self.clients = {}
        self.stalled = set()
        self.next_id = 0
        self.peers = PeerTable()
        self.outbox = Outbox()
        self.outbox.counters = &self.counters
        if key_cache_init(&self.keys, key_cache, <const uint8_t*>PyBytes_AS_STRING(seed)) < 0:
            raise MemoryError
        self.scratch = _Memory(HEADROOM + READ_BYTES)
        whole = memoryview(self.scratch)
        self.view = whole[HEADROOM:]
        self.small_view = whole[HEADROOM : HEADROOM + 16384]
        self.tiny_view = whole[HEADROOM : HEADROOM + HANDSHAKE_READ]
        self.max_packets = max_packets
        self.max_bytes = max_bytes
        self.write_timeout_ms = <int64_t>(write_timeout * 1000)
        self.ping_interval_ms = <int64_t>(ping_interval * 1000)
        self.ping_jitter_ms = ping_jitter * 1000
        self.tick_ms = max(10, min(250, self.write_timeout_ms // 4, self.ping_interval_ms // 4))

    def __dealloc__(self):
        free(self.due)
        free(self.at)
        key_cache_free(&self.keys)

    # --- what Python sees

    def start(self):
        """Begin with pings and time limits."""
        if self.handle is None:
            self.handle = self.loop.call_later(self.tick_ms / 1000.0, self._tick)

    def stop(self):
        """End the timer. Clients stay as they are."""
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None

    def skip(self, double seconds):
        """Let this much time pass at once, so that whoever tests time limits need not wait for them."""
        self.ahead_ms += <int64_t>(seconds * 1000)
        self.stop()
        self._tick()

    @property
    def connections(self):
        """Registered connections, as a list."""
        return list(self.clients.values())

    def __len__(self):
        return self.count

    def counters_snapshot(self):
        """Counters and gauges by name."""
        cdef Counters c = self.counters
        found = dict(c)
        found["connections"] = self.count
        found["keys"] = self.peers.table_used
        found["out_buffer_bytes"] = self.outbox.out_bytes
        found["pooled_bytes"] = self.outbox.pool_bytes
        return found

    def set_client_rate(self, int64_t burst, int64_t refill):
        """Limit what each client may send: bucket and bytes per 100 ms; 0 and 0 for no limit.

        Applies at once to all: every client starts with a full bucket, pauses end.
        """
        cdef Port conn
        if (burst or refill) and (burst <= 0 or refill <= 0):
            raise ValueError("a rate limit needs a burst and a refill above 0")
        self.rate_max = burst
        self.rate_refill = refill
        for conn in self.connections:
            conn.start_bucket()

    def take_id(self):
        """Next connection id; counts from 0."""
        cdef object found = self.next_id
        self.next_id = found + 1
        return found

    def find(self, key):
        """Connections of a key: the active one first, then the inactive ones, oldest first."""
        cdef View view = view_of(key)
        cdef Peer* peer
        cdef int i
        if view.size != 32:
            return []
        peer = self.peers.lookup(relay_hash(self.peers.seed, view.data), view.data)
        if peer == NULL:
            return []
        found = [<object>peer.active.obj]
        for i in range(peer.inactive_count):
            found.append(<object>peer.inactive[i].obj)
        return found

    def register(self, Port conn not None, key, connection_id):
        """Let a connection in: from now on it is the active one of its key."""
        cdef View view = view_of(key)
        cdef Client* c = &conn.c
        cdef Client* old
        cdef Peer* peer
        cdef uint64_t h
        cdef int64_t now
        if view.size != 32 or c.peer != NULL or c.state != ST_HANDSHAKE:
            raise ValueError("not a connection that can be registered")
        self.reserve_slot()
        h = relay_hash(self.peers.seed, view.data)
        peer = self.peers.lookup(h, view.data)
        if peer == NULL:
            peer = self.peers.insert(h, view.data)
        else:
            old = peer.active
            if peer.inactive_count == MAX_INACTIVE:
                (<Port>peer.inactive[0].obj).fail(CLOSE_AWAY)
            peer.inactive[peer.inactive_count] = old
            peer.inactive_count += 1
            self.counters.clients_inactive_added += 1
            self.notice(old, 1, HEALTH_DUPLICATE)
        self.epoch += 1
        peer.active = c
        c.peer = peer
        c.state = ST_OPEN
        self.counters.accepts += 1
        now = self.now_ms()
        c.heard = now
        c.ping_wait = self.next_ping()
        c.slot = self.count
        self.at[self.count] = c
        self.due[self.count] = now + c.ping_wait
        self.count += 1
        conn.connection_id = connection_id
        self.clients[connection_id] = conn
        self.flush_dirty()

    # --- clients

    cdef int reserve_slot(self) except -1:
        cdef size_t size
        cdef int64_t* due
        cdef Client** at
        if self.count < self.slots:
            return 0
        size = self.slots * 2 if self.slots else 64
        due = <int64_t*>realloc(self.due, size * sizeof(int64_t))
        if due == NULL:
            raise MemoryError
        self.due = due
        at = <Client**>realloc(self.at, size * sizeof(Client*))
        if at == NULL:
            raise MemoryError
        self.at = at
        self.slots = size
        return 0

    cdef void unregister(self, Client* c) noexcept:
        """Take a connection out; the rest of its key takes over, or its destinations are told."""
        cdef Peer* peer = c.peer
        cdef Peer* other
        cdef Client* last
        cdef uint32_t i
        cdef int j
        if peer == NULL:
            return
        c.peer = NULL
        self.epoch += 1
        self.count -= 1
        last = self.at[self.count]
        self.at[c.slot] = last
        self.due[c.slot] = self.due[self.count]
        last.slot = c.slot
        self.counters.disconnects += 1
        if peer.active != c:
            for j in range(peer.inactive_count):
                if peer.inactive[j] == c:
                    memmove(&peer.inactive[j], &peer.inactive[j + 1],
                            (peer.inactive_count - j - 1) * sizeof(Client*))
                    peer.inactive_count -= 1
                    self.counters.clients_inactive_removed += 1
                    break
        elif peer.inactive_count:
            peer.inactive_count -= 1
            peer.active = peer.inactive[peer.inactive_count]
            self.counters.clients_inactive_removed += 1
            self.notice(peer.active, 0, HEALTH_RESTORED)
        else:
            for i in range(peer.sent_to.count):
                other = self.peers.lookup(peer.sent_to.ring[(peer.sent_to.head + i) & (peer.sent_to.cap - 1)], NULL)
                if other != NULL and other != peer:
                    self.control(other.active, FT_GONE, peer.key, 32)
                    self.counters.peers_gone += 1
            self.peers.remove(peer)
        self.flush_dirty()

    # --- output

    cdef uint8_t* message(self, Client* c, int opcode, size_t size) noexcept nogil:
        """Append the head of a frame; where to put its payload, or NULL without memory."""
        cdef uint8_t* p = self.outbox.message(c, opcode, size)
        if p != NULL and not c.dirty:
            c.dirty = 1
            c.next_dirty = self.dirty
            self.dirty = c
        return p

    cdef bint control(self, Client* c, int kind, const uint8_t* body, size_t n) noexcept nogil:
        """Queue a relay frame that is no datagram; dropped when too many wait."""
        cdef uint8_t* p
        if c.state != ST_OPEN or c.controls >= MAX_CONTROL:
            return False
        p = self.message(c, WS_BINARY, n + 1)
        if p == NULL:
            return False
        p[0] = <uint8_t>kind
        memcpy(p + 1, body, n)
        c.controls += 1
        return True

    cdef void notice(self, Client* c, uint8_t status, bytes text) noexcept:
        """Tell about the state of the connection, in the words of its version."""
        if c.version != 1:
            self.control(c, FT_STATUS, &status, 1)
        elif text is not None:
            self.control(c, FT_HEALTH, <const uint8_t*>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    cdef void pong(self, Client* c, const uint8_t* data) noexcept nogil:
        if self.control(c, FT_PONG, data, 8):
            self.counters.sent_pong += 1
        else:
            # the newest answers best
            memcpy(c.pong, data, 8)
            c.pong_waits = 1

    cdef void flush(self, Client* c) noexcept nogil:
        """Give the output of a client to its socket, or else to its transport."""
        cdef long n
        if c.blocked or c.out_start == c.out_end or c.state != ST_OPEN:
            return
        self.counters.flushes += 1
        # A closing transport may have given its descriptor away already.
        with gil:
            if (<Port>c.obj).transport.is_closing():
                (<Port>c.obj).fail(0)
        if c.state != ST_OPEN:
            return
        if c.fd >= 0:
            n = relay_send(c.fd, c.out + c.out_start, c.out_end - c.out_start)
            if n < 0:
                with gil:
                    (<Port>c.obj).fail(0)
                return
            self.outbox.sent(c, n)
            self.outbox.settle(c)
        if c.out_start != c.out_end:
            with gil:
                (<Port>c.obj).hand_over()
        if c.pong_waits and c.controls < MAX_CONTROL:
            c.pong_waits = 0
            self.pong(c, c.pong)

    cdef void flush_dirty(self) noexcept nogil:
        """Flush every client that got something.

        A flush may end a client, which makes others dirty: the outermost call takes care of them.
        """
        cdef Client* c
        if self.flushing:
            return
        self.flushing = True
        while self.dirty != NULL:
            c = self.dirty
            self.dirty = c.next_dirty
            c.dirty = 0
            self.flush(c)
        self.flushing = False

    # --- input

    cdef int datagram(self, Client* c, int kind, const uint8_t* key, int ecn, uint32_t segment,
                      const uint8_t* contents, size_t n, uint32_t mask) noexcept nogil:
        """Forward one datagram or batch, contents still masked; 0 or a negated FE_ code."""
        cdef Client* to
        cdef Peer* peer = NULL
        cdef uint64_t h = 0
        cdef uint8_t* p
        cdef size_t head = 36 if segment else 34
        self.counters.send_packets_recv += 1
        if c.to_epoch == self.epoch and memcmp(c.to_key, key, 32) == 0:
            to = c.to
        else:
            h = relay_hash(self.peers.seed, key)
            peer = self.peers.lookup(h, key)
            if peer == NULL:
                if not key_is_point(&self.keys, key):
                    return -FE_PUBLIC_KEY
                self.counters.send_packets_dropped += 1
                return 0
            to = peer.active
            c.to = to
            c.to_epoch = self.epoch
            c.to_known = 0
            memcpy(c.to_key, key, 32)
        if n == 0 or head + n > MAX_FRAME:
            # Legal to receive, but no relay may send it: the destination would pay.
            self.counters.unusable_datagrams += 1
            return 0
        self.counters.bytes_recv += n
        if (to.packets >= self.max_packets or to.out_end - to.out_start + head + n + 10 > self.max_bytes
                or to.out_end - to.out_start >= FLUSH_BYTES):
            self.flush(to)
            if c.peer == NULL:
                return 0
            if (to.packets >= self.max_packets
                    or to.out_end - to.out_start + head + n + 10 > self.max_bytes):
                self.counters.queue_full += 1
                return 0
        if to.state != ST_OPEN:
            self.counters.send_packets_dropped += 1
            return 0
        p = self.message(to, WS_BINARY, head + n)
        if p == NULL:
            self.counters.queue_full += 1
            return 0
        p[0] = FT_S2C_BATCH if segment else FT_S2C_DATAGRAM
        memcpy(p + 1, c.peer.key, 32)
        p[33] = <uint8_t>ecn
        if segment:
            p[34] = <uint8_t>(segment >> 8)
            p[35] = <uint8_t>segment
        ws_xor(p + head, contents, n, mask)
        to.packets += 1
        to.contents += n
        if not c.to_known:
            c.to_known = 1
            sent_to_add(&c.peer.sent_to, h if h else relay_hash(self.peers.seed, key))
        return 0

    cdef int frame(self, Client* c, uint8_t* p, size_t n, uint32_t mask) noexcept nogil:
        """Handle the payload of a binary message; 0 or a negated FE_ code."""
        cdef uint8_t head[36]
        cdef uint32_t segment
        cdef RelayFrame f
        cdef int code
        cdef uint8_t kind
        if n >= 36:
            ws_xor(head, p, 36, mask)
            kind = head[0]
            if kind == FT_C2S_DATAGRAM or kind == FT_C2S_BATCH:
                if n - 1 > MAX_AFTER_TYPE:
                    return -FE_TOO_LARGE
                if kind == FT_C2S_DATAGRAM:
                    return self.datagram(c, kind, head + 1, head[33] & 3, 0, p + 34, n - 34,
                                         ws_mask_at(mask, 34))
                segment = <uint32_t>head[34] << 8 | head[35]
                return self.datagram(c, kind, head + 1, head[33] & 3, segment, p + 36, n - 36, mask)
        ws_xor(p, p, n, mask)
        code = parse_frame(p, n, FROM_CLIENT, c.version, &f)
        if code < 0:
            return code
        if f.key != NULL:
            return self.datagram(c, f.type, f.key, f.ecn, f.segment_size, f.body, f.body_len, 0)
        if f.type == FT_PING:
            self.counters.got_ping += 1
            self.pong(c, f.body)
        elif c.ping_deadline and memcmp(f.body, c.ping, 8) == 0:
            c.rtt_ms = (clock_now_ns() - c.ping_sent_ns) // 1000000
            c.ping_deadline = 0
            self.due[c.slot] = c.heard + c.ping_wait
        return 0

    cdef int fragment(self, Client* c, const ws_head* h, uint8_t* p) noexcept nogil:
        """Handle a whole frame that is part of a longer message; 0 or a close code."""
        cdef uint8_t* bigger
        cdef uint32_t cap
        cdef int code
        if c.parts_len + h.len > MESSAGE_LIMIT:
            return CLOSE_PROTOCOL
        if c.parts_cap - c.parts_len < h.len:
            cap = c.parts_cap or 1024
            while cap - c.parts_len < h.len:
                cap *= 2
            bigger = <uint8_t*>realloc(c.parts, cap)
            if bigger == NULL:
                return CLOSE_TOO_BIG
            c.parts = bigger
            c.parts_cap = cap
        if h.len:
            ws_xor(c.parts + c.parts_len, p, h.len, h.mask)
        c.parts_len += <uint32_t>h.len
        c.message = WS_BINARY
        if not h.fin:
            return 0
        bigger = c.parts
        cap = c.parts_len
        c.parts = NULL
        c.parts_len = c.parts_cap = 0
        c.message = 0
        code = self.frame(c, bigger, cap, 0)
        free(bigger)
        return CLOSE_PROTOCOL if code < 0 else 0

    cdef int parse(self, Client* c, uint8_t* p, size_t n, size_t* used) noexcept nogil:
        """Handle all complete frames; 0 or the code to close with."""
        cdef ws_head h
        cdef size_t i = 0
        cdef size_t step
        cdef int size, code
        used[0] = n
        while i < n:
            if c.skip:
                step = min(<size_t>c.skip, n - i)
                c.skip -= step
                i += step
                continue
            size = ws_parse(p + i, n - i, 1, &h)
            if size < 0:
                return CLOSE_PROTOCOL
            if size == 0:
                break
            if h.opcode < WS_CLOSE:
                if (h.opcode == WS_CONTINUATION) != (c.message != 0):
                    return CLOSE_PROTOCOL
                if h.len > MAX_MESSAGE:
                    return CLOSE_TOO_BIG
                if h.opcode == WS_TEXT or c.message == WS_TEXT:
                    # Text is ignored, so it need not be kept either.
                    c.text_len += h.len
                    if c.text_len > MAX_MESSAGE:
                        return CLOSE_TOO_BIG
                    c.message = 0 if h.fin else WS_TEXT
                    if h.fin:
                        c.text_len = 0
                        self.counters.text_messages += 1
                    c.skip = h.len
                    i += size
                    continue
                if h.len > MESSAGE_LIMIT:
                    return CLOSE_PROTOCOL
            if n - i - size < h.len:
                break
            i += size
            if h.opcode == WS_BINARY and h.fin:
                code = self.frame(c, p + i, h.len, h.mask)
                if code < 0:
                    return CLOSE_PROTOCOL
                if c.state != ST_OPEN:
                    return 0
            elif h.opcode < WS_CLOSE:
                code = self.fragment(c, &h, p + i)
                if code:
                    return code
                if c.state != ST_OPEN:
                    return 0
            else:
                ws_xor(p + i, p + i, h.len, h.mask)
                if h.opcode == WS_CLOSE:
                    return CLOSE_NORMAL if close_payload_ok(p + i, h.len) else CLOSE_PROTOCOL
                if h.opcode == WS_PING and c.controls < MAX_CONTROL:
                    self.ws_pong(c, p + i, h.len)
            i += h.len
        used[0] = i
        return 0

    cdef void ws_pong(self, Client* c, const uint8_t* data, size_t n) noexcept nogil:
        cdef uint8_t* p = self.message(c, WS_PONG, n)
        if p != NULL:
            memcpy(p, data, n)
            c.controls += 1

    # --- time

    cdef int64_t next_ping(self) noexcept:
        """Silence in ms before the next ping: the interval and some whole seconds, drawn anew."""
        cdef bytes noise
        if self.ping_jitter_ms == 0:
            return self.ping_interval_ms
        noise = os.urandom(2)
        return (self.ping_interval_ms
                + 1000 * (1 + (noise[0] * 256 + noise[1]) % (self.ping_jitter_ms // 1000)))

    cdef int64_t now_ms(self) noexcept nogil:
        """The monotonic clock, which only tests make go faster."""
        return clock_now_ns() // 1000000 + self.ahead_ms

    def _tick(self):
        """Send pings, end silent and stalled connections."""
        cdef Port conn
        cdef Client* c
        cdef size_t i = 0
        cdef int64_t now = self.now_ms()
        self.handle = self.loop.call_later(self.tick_ms / 1000.0, self._tick)
        while i < self.count:
            if self.due[i] > now:
                i += 1
                continue
            c = self.at[i]
            conn = <Port>c.obj
            if c.ping_deadline:
                if c.ping_deadline <= now and not c.pause & PAUSE_RATE:
                    self.counters.ping_timeouts += 1
                    conn.why = "it did not answer a ping"
                    conn.fail(0)  # takes the connection out: the last one is at i now
                    continue
                self.due[i] = max(c.ping_deadline, now + self.tick_ms)
            elif c.heard + c.ping_wait <= now:
                self.send_ping(c, now)
                self.due[i] = c.ping_deadline
            else:
                self.due[i] = c.heard + c.ping_wait
            i += 1
        if self.stalled:
            for conn in list(self.stalled):
                conn.check_stall(now)
        self.flush_dirty()

    cdef void send_ping(self, Client* c, int64_t now) noexcept:
        cdef bytes data = os.urandom(8)
        cdef int64_t timeout = PING_MAX_TIMEOUT_MS
        if c.rtt_ms >= 0:
            timeout = min(max(3 * c.rtt_ms, PING_MIN_TIMEOUT_MS), PING_MAX_TIMEOUT_MS)
        memcpy(c.ping, <const uint8_t*>PyBytes_AS_STRING(data), 8)
        self.control(c, FT_PING, c.ping, 8)
        c.ping_sent_ns = clock_now_ns()
        c.ping_deadline = now + timeout
        c.ping_wait = self.next_ping()
