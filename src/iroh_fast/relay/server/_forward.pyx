"""Forwarding of a relay server: from the bytes of one client to the socket of another.

One `Forwarder` holds the clients of a server; each has one `RelayConnection`, the protocol of its
transport. A read event is handled in one go: WebSocket frames are taken apart where they were
received, the destination is looked up, the contents are unmasked straight into the destination's
output buffer, and at the end every destination that got something is flushed once. No Python
object is made per frame. On plain TCP the flush is one ``send(2)``; what the socket does not take,
and everything under TLS, goes through the transport.

Everything belongs to one event loop.

Wire: sub-protocols ``iroh-relay-v1`` and ``iroh-relay-v2`` of iroh; RFC 6455.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from iroh_fast._relay cimport (
    FE_PUBLIC_KEY, FE_TOO_LARGE, FROM_CLIENT, FT_C2S_BATCH, FT_C2S_DATAGRAM, FT_GONE, FT_HEALTH, FT_PING,
    FT_PONG, FT_S2C_BATCH, FT_S2C_DATAGRAM, FT_STATUS, KeyCache, MAX_AFTER_TYPE, MAX_FRAME,
    MAX_MESSAGE, RelayFrame, close_payload_ok, key_cache_free, key_cache_init, key_is_point, parse_frame)

import asyncio
import logging
import os

from ..._relay import WsProtocolError, WsReader, build_message

logger = logging.getLogger("iroh_fast.relay.server")

cdef extern from "../../native/clock.h" nogil:
    int64_t clock_now_ns()

cdef extern from "../../native/relay_ws.h" nogil:
    ctypedef struct ws_head:
        uint64_t len
        uint32_t mask
        uint8_t opcode
        uint8_t fin

    enum:
        WS_CONTINUATION
        WS_TEXT
        WS_BINARY
        WS_CLOSE
        WS_PING
        WS_PONG

    int ws_parse(const uint8_t* p, size_t n, int want_mask, ws_head* h)
    int ws_put_head(uint8_t* p, int opcode, size_t length, int masked)
    uint32_t ws_mask_at(uint32_t mask, size_t offset)
    void ws_xor(uint8_t* dst, const uint8_t* src, size_t n, uint32_t mask)
    uint64_t relay_hash(const uint64_t* seed, const uint8_t* key)

cdef extern from "../../native/relay_send.h" nogil:
    long relay_send(int fd, const void* data, size_t n)

cdef enum:
    READ_BYTES = 256 * 1024       # taken from a socket at once
    MESSAGE_LIMIT = MAX_AFTER_TYPE + 8    # the type may take eight bytes
    HEADROOM = MESSAGE_LIMIT + 14         # an incomplete frame is put in front of the next read
    HANDSHAKE_READ = 4096
    HANDSHAKE_MESSAGE = 4096      # largest legal one has 98 bytes
    HANDSHAKE_HELD = 256 * 1024
    EARLY_MESSAGES = 32           # of a client before it is let in: one is needed
    EARLY_BYTES = 65536
    FLUSH_BYTES = 128 * 1024      # a destination with more is flushed within the read event
    HANDOVER_BYTES = 64 * 1024    # given to a transport whose socket is full
    SMALLEST_OUT = 4096
    POOL_CLASSES = 10             # 4 KiB to 2 MiB
    POOL_BYTES = 4 * 1024 * 1024  # kept for reuse in all
    MAX_CONTROL = 512             # queued control messages of a client
    MAX_INACTIVE = 15             # further connections of one key
    SENT_TO = 4096                # destinations remembered of one key
    PING_MIN_TIMEOUT_MS = 500
    PING_MAX_TIMEOUT_MS = 5000
    REFILL_MS = 100

    # States of a connection
    ST_HANDSHAKE = 0
    ST_OPEN = 1
    ST_CLOSING = 2
    ST_LOST = 3

    # Why reading is paused
    PAUSE_ACCESS = 1
    PAUSE_RATE = 2

    # Close codes of RFC 6455 §7.4.1; 0: drop without a close frame
    CLOSE_NORMAL = 1000
    CLOSE_AWAY = 1001
    CLOSE_PROTOCOL = 1002
    CLOSE_POLICY = 1008
    CLOSE_TOO_BIG = 1009

HEALTH_DUPLICATE = (
    b"Another endpoint connected with the same endpoint id. No more messages will be received."
)
HEALTH_RESTORED = b"The other endpoint with the same endpoint id disconnected. Messages are received again."


# --- structures ---------------------------------------------------------------------------


cdef struct Bucket:               # bytes; see bucket_take
    int64_t fill, maximum, refill, last_ms


cdef struct SentTo:               # hashes of keys, oldest first, with a set over them
    uint64_t* ring
    uint64_t* table               # twice the ring; 0 is empty
    uint32_t cap, head, count


cdef struct Peer:                 # one key
    uint8_t key[32]
    uint64_t hash
    Client* active
    Client* inactive[MAX_INACTIVE]    # oldest first
    int inactive_count
    SentTo sent_to


cdef struct Client:               # one connection
    void* obj                     # its RelayConnection, borrowed
    Peer* peer                    # NULL until registered and after the end
    Client* next_dirty
    int fd                        # of a plain TCP socket, else -1
    uint8_t state, version, pause, dirty, blocked, rate_limited, notified
    # input
    uint8_t* spill                # an incomplete frame, masked as it came
    uint32_t spill_len, spill_cap
    uint8_t* parts                # message under assembly
    uint32_t parts_len, parts_cap
    uint64_t text_len             # of a text message under assembly
    uint64_t skip                 # bytes of a text frame still to be thrown away
    int message                   # opcode of the message under assembly, 0 if none
    # output: data[bound] starts the first frame not sent completely, data[start] is sent next
    uint8_t* out
    size_t out_bound, out_start, out_end, out_cap, out_hint
    uint32_t packets, controls
    uint64_t contents             # bytes of datagram contents in `packets`
    uint32_t held_packets         # given to the transport, which has not sent all of it
    uint64_t held_contents
    uint8_t pong[8]
    uint8_t pong_waits
    # destination of the last datagram
    Client* to
    uint8_t to_key[32]
    uint64_t to_epoch
    uint8_t to_known              # that it is in sent_to
    # timers, in milliseconds of the clock
    int64_t heard, ping_wait, ping_deadline, ping_sent_ns, rtt_ms, stall_due
    size_t transport_held         # when stall_due was set
    uint8_t ping[8]
    size_t slot
    uint8_t limited
    Bucket bucket


cdef struct Slot:
    uint64_t hash
    Peer* peer


cdef struct Counters:
    uint64_t bytes_sent, bytes_recv
    uint64_t send_packets_sent, send_packets_recv, send_packets_dropped
    uint64_t got_ping, sent_pong, unknown_frames
    uint64_t bytes_rx_ratelimited, conns_rx_ratelimited
    uint64_t accepts, disconnects, clients_inactive_added, clients_inactive_removed
    uint64_t queue_full, unusable_datagrams, write_timeouts, ping_timeouts, text_messages
    uint64_t peers_gone, flushes, read_events, handshake_floods


# --- small parts --------------------------------------------------------------------------


cdef void bucket_fill(Bucket* b, int64_t maximum, int64_t refill, int64_t now_ms) noexcept nogil:
    b.fill = b.maximum = maximum
    b.refill = refill
    b.last_ms = now_ms


cdef int64_t bucket_take(Bucket* b, int64_t n, int64_t now_ms) noexcept nogil:
    """Take `n` bytes; 0, or the time in ms until which reading has to pause."""
    cdef int64_t periods = (now_ms - b.last_ms) // REFILL_MS
    if periods > 0:
        # a bucket that was full long ago must not overflow the product
        if periods > (b.maximum - b.fill) // b.refill:
            b.fill = b.maximum
        else:
            b.fill += periods * b.refill
        b.last_ms += periods * REFILL_MS
    b.fill -= n
    if b.fill > 0:
        return 0
    return b.last_ms + (-b.fill // b.refill + 1) * REFILL_MS


cdef class TokenBucket:
    """The receive limit of one client, for tests and tools: bytes, refilled every 100 ms.

    Parameters
    ----------
    maximum, refill : int
        Size of the bucket, and bytes added per 100 ms; both above 0.
    now_ms : int
        When it starts, full.
    """

    cdef Bucket bucket

    def __init__(self, int64_t maximum, int64_t refill, int64_t now_ms=0):
        if maximum <= 0 or refill <= 0:
            raise ValueError("a token bucket needs a size and a refill above 0")
        bucket_fill(&self.bucket, maximum, refill, now_ms)

    @property
    def fill(self):
        return self.bucket.fill

    def consume(self, int64_t nbytes, int64_t now_ms):
        """Take `nbytes`; returns None, or the time in ms until which reading has to pause."""
        return bucket_take(&self.bucket, nbytes, now_ms) or None


cdef inline uint32_t sent_to_home(const SentTo* s, uint64_t h) noexcept nogil:
    return <uint32_t>h & (2 * s.cap - 1)


cdef void sent_to_insert(SentTo* s, uint64_t h) noexcept nogil:
    cdef uint32_t i = sent_to_home(s, h)
    while s.table[i] != 0:
        i = (i + 1) & (2 * s.cap - 1)
    s.table[i] = h


cdef void sent_to_remove(SentTo* s, uint64_t h) noexcept nogil:
    cdef uint32_t mask = 2 * s.cap - 1
    cdef uint32_t i = sent_to_home(s, h)
    cdef uint32_t j, home
    while s.table[i] != h:
        i = (i + 1) & mask
    # close the gap, so that no search ends early
    j = i
    while True:
        j = (j + 1) & mask
        if s.table[j] == 0:
            break
        home = sent_to_home(s, s.table[j])
        if ((j - home) & mask) >= ((j - i) & mask):
            s.table[i] = s.table[j]
            i = j
    s.table[i] = 0


cdef void sent_to_free(SentTo* s) noexcept nogil:
    free(s.ring)
    free(s.table)
    memset(s, 0, sizeof(SentTo))


cdef void sent_to_add(SentTo* s, uint64_t h) noexcept nogil:
    """Remember a destination; without memory it is forgotten, which costs a notice at most."""
    cdef SentTo bigger
    cdef uint32_t i
    if h == 0:
        h = 1
    if s.cap:
        i = sent_to_home(s, h)
        while s.table[i] != 0:
            if s.table[i] == h:
                return
            i = (i + 1) & (2 * s.cap - 1)
    if s.count == s.cap:
        if s.cap < SENT_TO:
            memset(&bigger, 0, sizeof(SentTo))
            bigger.cap = s.cap * 2 if s.cap else 4
            bigger.ring = <uint64_t*>calloc(bigger.cap, 8)
            bigger.table = <uint64_t*>calloc(bigger.cap, 16)
            if bigger.ring == NULL or bigger.table == NULL:
                sent_to_free(&bigger)
                return
            for i in range(s.count):
                bigger.ring[i] = s.ring[(s.head + i) & (s.cap - 1)]
                sent_to_insert(&bigger, bigger.ring[i])
            bigger.count = s.count
            sent_to_free(s)
            s[0] = bigger
        else:
            sent_to_remove(s, s.ring[s.head])
            s.head = (s.head + 1) & (s.cap - 1)
            s.count -= 1
    s.ring[(s.head + s.count) & (s.cap - 1)] = h
    s.count += 1
    sent_to_insert(s, h)


cdef class _Scratch:
    """What all clients of a loop read into, one after the other."""

    cdef uint8_t* data
    cdef size_t size

    def __cinit__(self, size_t size):
        self.data = <uint8_t*>malloc(size)
        if self.data == NULL:
            raise MemoryError
        self.size = size

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, 0, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass


# --- the forwarder ------------------------------------------------------------------------


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

    cdef object loop
    cdef object handle            # of the next tick
    cdef dict clients             # id to RelayConnection: keeps them alive while registered
    cdef object next_id
    # table of peers, open addressing
    cdef Slot* table
    cdef size_t table_size, table_used
    cdef uint64_t seed[2]
    cdef uint64_t epoch           # changes when a remembered destination may be gone
    cdef KeyCache keys
    cdef Counters counters
    cdef _Scratch scratch
    cdef object view, small_view, tiny_view
    # due times, one per registered client, for a fast scan
    cdef int64_t* due
    cdef Client** at
    cdef size_t count, slots
    cdef Client* dirty
    cdef bint flushing
    cdef uint8_t** pool[POOL_CLASSES]
    cdef uint32_t pool_count[POOL_CLASSES]
    cdef size_t pool_bytes
    cdef size_t out_bytes         # memory of output buffers in use
    cdef uint32_t max_packets
    cdef size_t max_bytes
    cdef int64_t write_timeout_ms, ping_interval_ms, ping_jitter_ms, tick_ms
    cdef int64_t rate_max, rate_refill    # 0: no limit
    cdef set stalled              # connections whose transport holds data

    def __cinit__(self, loop, *, size_t key_cache=1048576, uint32_t max_packets=512,
                  size_t max_bytes=4 * 1024 * 1024, double write_timeout=2.0,
                  double ping_interval=15.0, int ping_jitter=5):
        cdef bytes seed = os.urandom(32)
        self.loop = loop
        self.clients = {}
        self.stalled = set()
        self.next_id = 0
        memcpy(self.seed, <const uint8_t*>PyBytes_AS_STRING(seed), 16)
        self.table_size = 64
        self.table = <Slot*>calloc(self.table_size, sizeof(Slot))
        if (self.table == NULL
                or key_cache_init(&self.keys, key_cache, <const uint8_t*>PyBytes_AS_STRING(seed) + 16) < 0):
            raise MemoryError
        self.scratch = _Scratch(HEADROOM + READ_BYTES)
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
        cdef size_t i
        cdef uint32_t j
        cdef int k
        if self.table != NULL:
            for i in range(self.table_size):
                if self.table[i].peer != NULL:
                    sent_to_free(&self.table[i].peer.sent_to)
                    free(self.table[i].peer)
            free(self.table)
        for k in range(POOL_CLASSES):
            for j in range(self.pool_count[k]):
                free(self.pool[k][j])
            free(self.pool[k])
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
        found["keys"] = self.table_used
        found["out_buffer_bytes"] = self.out_bytes
        found["pooled_bytes"] = self.pool_bytes
        return found

    def set_client_rate(self, int64_t burst, int64_t refill):
        """Limit what each client may send: bucket and bytes per 100 ms; 0 and 0 for no limit.

        Applies at once to all: every client starts with a full bucket, pauses end.
        """
        cdef RelayConnection conn
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
        cdef const uint8_t[::1] view = key
        cdef Peer* peer
        cdef int i
        if view.shape[0] != 32:
            return []
        peer = self.lookup(relay_hash(self.seed, &view[0]), &view[0])
        if peer == NULL:
            return []
        found = [<object>peer.active.obj]
        for i in range(peer.inactive_count):
            found.append(<object>peer.inactive[i].obj)
        return found

    def register(self, RelayConnection conn not None, key, connection_id):
        """Let a connection in: from now on it is the active one of its key."""
        cdef const uint8_t[::1] view = key
        cdef Client* c = &conn.c
        cdef Client* old
        cdef Peer* peer
        cdef uint64_t h
        cdef int64_t now
        if view.shape[0] != 32 or c.peer != NULL or c.state != ST_HANDSHAKE:
            raise ValueError("not a connection that can be registered")
        self.reserve_slot()
        h = relay_hash(self.seed, &view[0])
        peer = self.lookup(h, &view[0])
        if peer == NULL:
            peer = self.insert(h, &view[0])
        else:
            old = peer.active
            if peer.inactive_count == MAX_INACTIVE:
                (<RelayConnection>peer.inactive[0].obj).close(CLOSE_AWAY)
            peer.inactive[peer.inactive_count] = old
            peer.inactive_count += 1
            self.counters.clients_inactive_added += 1
            self.notice(old, 1, HEALTH_DUPLICATE)
        self.epoch += 1
        peer.active = c
        c.peer = peer
        c.state = ST_OPEN
        self.counters.accepts += 1
        now = clock_now_ns() // 1000000
        c.heard = now
        c.ping_wait = self.next_ping()
        c.slot = self.count
        self.at[self.count] = c
        self.due[self.count] = now + c.ping_wait
        self.count += 1
        conn.connection_id = connection_id
        self.clients[connection_id] = conn
        self.flush_dirty()

    # --- table

    cdef Peer* lookup(self, uint64_t h, const uint8_t* key) noexcept nogil:
        """The peer of a key; with key NULL the one of a hash."""
        cdef size_t i = h & (self.table_size - 1)
        while self.table[i].peer != NULL:
            if self.table[i].hash == h and (key == NULL or memcmp(self.table[i].peer.key, key, 32) == 0):
                return self.table[i].peer
            i = (i + 1) & (self.table_size - 1)
        return NULL

    cdef Peer* insert(self, uint64_t h, const uint8_t* key) except NULL:
        cdef Peer* peer
        cdef Slot* bigger
        cdef size_t i, j, size
        if self.table_used * 2 >= self.table_size:
            size = self.table_size * 2
            bigger = <Slot*>calloc(size, sizeof(Slot))
            if bigger == NULL:
                raise MemoryError
            for i in range(self.table_size):
                if self.table[i].peer != NULL:
                    j = self.table[i].hash & (size - 1)
                    while bigger[j].peer != NULL:
                        j = (j + 1) & (size - 1)
                    bigger[j] = self.table[i]
            free(self.table)
            self.table = bigger
            self.table_size = size
        peer = <Peer*>calloc(1, sizeof(Peer))
        if peer == NULL:
            raise MemoryError
        memcpy(peer.key, key, 32)
        peer.hash = h
        i = h & (self.table_size - 1)
        while self.table[i].peer != NULL:
            i = (i + 1) & (self.table_size - 1)
        self.table[i].hash = h
        self.table[i].peer = peer
        self.table_used += 1
        return peer

    cdef void remove(self, Peer* peer) noexcept nogil:
        cdef size_t mask = self.table_size - 1
        cdef size_t i = peer.hash & mask
        cdef size_t j, home
        while self.table[i].peer != peer:
            i = (i + 1) & mask
        j = i
        while True:
            j = (j + 1) & mask
            if self.table[j].peer == NULL:
                break
            home = self.table[j].hash & mask
            if ((j - home) & mask) >= ((j - i) & mask):
                self.table[i] = self.table[j]
                i = j
        self.table[i].peer = NULL
        self.table_used -= 1
        sent_to_free(&peer.sent_to)
        free(peer)

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
                other = self.lookup(peer.sent_to.ring[(peer.sent_to.head + i) & (peer.sent_to.cap - 1)], NULL)
                if other != NULL and other != peer:
                    self.control(other.active, FT_GONE, peer.key, 32)
                    self.counters.peers_gone += 1
            self.remove(peer)
        self.flush_dirty()

    # --- output

    cdef bint room(self, Client* c, size_t need) noexcept nogil:
        """Make room for `need` bytes at the end of the output of `c`; False without memory."""
        cdef size_t live, size
        cdef uint8_t* bigger
        cdef int k
        if c.out_cap - c.out_end >= need:
            return True
        live = c.out_end - c.out_bound
        if c.out_bound >= c.out_cap // 2 and live + need <= c.out_cap:
            memmove(c.out, c.out + c.out_bound, live)
        else:
            size = SMALLEST_OUT
            k = 0
            while size < live + need or (c.out == NULL and size < c.out_hint):
                size *= 2
                k += 1
            if k < POOL_CLASSES and self.pool_count[k]:
                self.pool_count[k] -= 1
                bigger = self.pool[k][self.pool_count[k]]
                self.pool_bytes -= size
            else:
                bigger = <uint8_t*>malloc(size)
                if bigger == NULL:
                    return False
            if c.out != NULL:
                memcpy(bigger, c.out + c.out_bound, live)
                self.recycle(c.out, c.out_cap)
            self.out_bytes += size
            c.out = bigger
            c.out_cap = size
        c.out_start -= c.out_bound
        c.out_end -= c.out_bound
        c.out_bound = 0
        return True

    cdef void recycle(self, uint8_t* memory, size_t size) noexcept nogil:
        cdef size_t s = SMALLEST_OUT
        cdef int k = 0
        self.out_bytes -= size
        while s < size:
            s *= 2
            k += 1
        if k < POOL_CLASSES and self.pool_bytes + size <= POOL_BYTES:
            if self.pool[k] == NULL:
                self.pool[k] = <uint8_t**>malloc((POOL_BYTES // s) * sizeof(uint8_t*))
            if self.pool[k] != NULL:
                self.pool[k][self.pool_count[k]] = memory
                self.pool_count[k] += 1
                self.pool_bytes += size
                return
        free(memory)

    cdef void drop_out(self, Client* c) noexcept nogil:
        """Let the output buffer go."""
        if c.out != NULL:
            c.out_hint = min(c.out_end, <size_t>READ_BYTES)
            self.recycle(c.out, c.out_cap)
            c.out = NULL
        c.out_bound = c.out_start = c.out_end = c.out_cap = 0
        c.packets = c.controls = 0
        c.contents = 0

    cdef void sent(self, Client* c, size_t n) noexcept nogil:
        """Account for `n` bytes that left the output buffer."""
        cdef uint8_t* p
        cdef size_t head, size, contents
        c.out_start += n
        if c.out_start == c.out_end:
            c.held_packets += c.packets
            c.held_contents += c.contents
            self.drop_out(c)
            return
        while True:
            # our own frames: final, not masked
            p = c.out + c.out_bound
            if p[1] < 126:
                head = 2
                size = p[1]
            elif p[1] == 126:
                head = 4
                size = <size_t>p[2] << 8 | p[3]
            else:
                head = 10
                size = <size_t>p[6] << 24 | <size_t>p[7] << 16 | <size_t>p[8] << 8 | p[9]
            if c.out_bound + head + size > c.out_start:
                return
            c.out_bound += head + size
            if p[0] == (0x80 | WS_BINARY) and (p[head] == FT_S2C_DATAGRAM or p[head] == FT_S2C_BATCH):
                contents = size - (36 if p[head] == FT_S2C_BATCH else 34)
                c.packets -= 1
                c.contents -= contents
                c.held_packets += 1
                c.held_contents += contents
            else:
                c.controls -= 1

    cdef inline void settle(self, Client* c) noexcept nogil:
        """The socket has taken everything that left the output buffer: now it counts as sent."""
        self.counters.send_packets_sent += c.held_packets
        self.counters.bytes_sent += c.held_contents
        c.held_packets = 0
        c.held_contents = 0

    cdef void mark(self, Client* c) noexcept nogil:
        if not c.dirty:
            c.dirty = 1
            c.next_dirty = self.dirty
            self.dirty = c

    cdef uint8_t* message(self, Client* c, int opcode, size_t size) noexcept nogil:
        """Append the head of a frame; where to put its payload, or NULL without memory."""
        cdef uint8_t* p
        cdef int head
        if not self.room(c, size + 10):
            return NULL
        p = c.out + c.out_end
        head = ws_put_head(p, opcode, size, 0)
        c.out_end += head + size
        self.mark(c)
        return p + head

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
            if (<RelayConnection>c.obj).transport.is_closing():
                (<RelayConnection>c.obj).fail(0)
        if c.state != ST_OPEN:
            return
        if c.fd >= 0:
            n = relay_send(c.fd, c.out + c.out_start, c.out_end - c.out_start)
            if n < 0:
                with gil:
                    (<RelayConnection>c.obj).fail(0)
                return
            self.sent(c, n)
            self.settle(c)
        if c.out_start != c.out_end:
            with gil:
                (<RelayConnection>c.obj).hand_over()
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
            h = relay_hash(self.seed, key)
            peer = self.lookup(h, key)
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
            sent_to_add(&c.peer.sent_to, h if h else relay_hash(self.seed, key))
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

    def _tick(self):
        """Send pings, end silent and stalled connections."""
        cdef RelayConnection conn
        cdef Client* c
        cdef size_t i = 0
        cdef int64_t now = clock_now_ns() // 1000000
        self.handle = self.loop.call_later(self.tick_ms / 1000.0, self._tick)
        while i < self.count:
            if self.due[i] > now:
                i += 1
                continue
            c = self.at[i]
            conn = <RelayConnection>c.obj
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


_WHY = {
    CLOSE_NORMAL: "it closed the connection",
    CLOSE_AWAY: "this server closed the connection",
    CLOSE_PROTOCOL: "it broke the protocol",
    CLOSE_POLICY: "it may not stay",
    CLOSE_TOO_BIG: "it sent a message that is too big",
}


# --- connections --------------------------------------------------------------------------


cdef class RelayConnection:
    """One WebSocket connection of a client, from the 101 to its end.

    Parameters
    ----------
    forwarder : Forwarder
    version : int
        Protocol version, 1 or 2.
    owner : object
        Gets ``handshake_message(connection, payload)`` for each binary message before
        registration, and ``connection_closed(connection, why)`` once.

    Attributes
    ----------
    connection_id : int or None
        Set by `Forwarder.register`.
    context : object
        For the owner; let go at registration.
    """

    cdef Client c
    cdef Forwarder forwarder
    cdef readonly object transport
    cdef object owner
    cdef object reader            # during the handshake
    cdef object resume            # timer that ends a pause
    cdef public object connection_id
    cdef public object context
    cdef readonly bytes endpoint_id
    cdef bint told                # connection_closed was called
    cdef str why                  # it ended
    cdef uint32_t early_messages, early_bytes    # before registration

    def __cinit__(self, Forwarder forwarder not None, int version, owner, *_):
        memset(&self.c, 0, sizeof(Client))
        self.c.obj = <void*>self
        self.c.fd = -1
        self.c.rtt_ms = -1
        self.c.version = <uint8_t>version
        self.forwarder = forwarder
        self.owner = owner
        self.reader = WsReader("server", HANDSHAKE_MESSAGE)

    def __dealloc__(self):
        free(self.c.spill)
        free(self.c.parts)
        if self.c.out != NULL:
            self.forwarder.drop_out(&self.c)

    # --- what Python sees

    @property
    def version(self):
        return self.c.version

    @property
    def is_open(self):
        """Registered, and not yet closing."""
        return self.c.state == ST_OPEN

    @property
    def is_waiting(self):
        """Neither registered nor closing yet."""
        return self.c.state == ST_HANDSHAKE and self.transport is not None

    @property
    def is_active(self):
        """Gets the datagrams of its key."""
        return self.c.peer != NULL and self.c.peer.active == &self.c

    @property
    def queued(self):
        """Datagrams and bytes that wait for the client."""
        return self.c.packets, self.c.out_end - self.c.out_start

    def attach(self, transport, plain_socket=None):
        """Take over a transport, whose protocol this has to be.

        `plain_socket` is the socket if nothing but the transport is between it and the client.
        """
        self.transport = transport
        if plain_socket is None:
            # TLS transports pause when the limit is reached, others when it is exceeded.
            transport.set_write_buffer_limits(high=1, low=0)
        else:
            # Paused whenever it holds anything: else a direct send would overtake that.
            transport.set_write_buffer_limits(high=0)
            if os.name != "nt":
                self.c.fd = plain_socket.fileno()
        self.start_bucket()

    def send_handshake(self, payload):
        """Send a binary message before registration."""
        self.transport.write(build_message(WS_BINARY, payload))

    def pause(self):
        """Stop reading: the client's message is being judged."""
        self.set_pause(PAUSE_ACCESS)

    def admit(self, key, connection_id):
        """Register under `key` and go on with what was received meanwhile."""
        self.forwarder.register(self, key, connection_id)
        self.endpoint_id = bytes(key)
        self.context = None
        reader, self.reader = self.reader, None
        rest = reader.take_rest()
        if rest:
            self.received_bytes(rest)
        self.clear_pause(PAUSE_ACCESS)

    def close(self, int code=CLOSE_AWAY):
        """End the connection with a close frame and what is queued, or at once if it is stuck."""
        self.fail(code)

    def abort(self):
        """End the connection at once."""
        self.fail(0)

    def drop(self):
        """End the connection without a close frame, after what was written is sent."""
        if self.c.state == ST_HANDSHAKE and self.transport is not None:
            self.c.state = ST_CLOSING
            self.c.fd = -1
            self.end()
            self.transport.close()
            self.forwarder.loop.call_later(self.forwarder.write_timeout_ms / 1000.0, self._abort_late)

    # --- protocol

    def connection_made(self, transport):
        pass

    def get_buffer(self, sizehint):
        if self.c.state == ST_HANDSHAKE:
            return self.forwarder.tiny_view
        if self.c.limited:
            return self.forwarder.small_view
        return self.forwarder.view

    def buffer_updated(self, Py_ssize_t nbytes):
        cdef Forwarder f = self.forwarder
        cdef Client* c = &self.c
        cdef uint8_t* p = f.scratch.data + HEADROOM
        cdef int64_t now, until
        if nbytes <= 0 or c.state >= ST_CLOSING:
            return
        now = clock_now_ns() // 1000000
        c.heard = now
        f.counters.read_events += 1
        if c.limited:
            until = bucket_take(&c.bucket, nbytes, now)
            if until:
                self.limit(nbytes, until - now)
        if c.state == ST_HANDSHAKE:
            self.handshake(PyBytes_FromStringAndSize(<const char*>p, nbytes))
            return
        if c.spill_len:
            p -= c.spill_len
            memcpy(p, c.spill, c.spill_len)
            nbytes += c.spill_len
            c.spill_len = 0
        self.received(p, nbytes)

    def eof_received(self):
        # Nobody waits for what is queued. TLS transports would take writes until they are closed.
        self.fail(0)
        return False

    def pause_writing(self):
        self.c.blocked = 1
        self.c.transport_held = self.transport.get_write_buffer_size()
        self.c.stall_due = clock_now_ns() // 1000000 + self.forwarder.write_timeout_ms
        self.forwarder.stalled.add(self)

    def resume_writing(self):
        self.c.blocked = 0
        self.forwarder.settle(&self.c)
        self.forwarder.stalled.discard(self)
        self.forwarder.flush(&self.c)
        self.forwarder.flush_dirty()

    def connection_lost(self, exc):
        self.c.fd = -1
        self.end()
        self.c.state = ST_LOST
        if self.resume is not None:
            self.resume.cancel()
            self.resume = None
        self.forwarder.stalled.discard(self)
        self.forwarder.drop_out(&self.c)
        self.transport = None
        self.reader = None
        self.context = None

    # --- parts

    cdef int received(self, uint8_t* p, size_t n) except -1:
        """Handle bytes that lie in memory we may change."""
        cdef Forwarder f = self.forwarder
        cdef Client* c = &self.c
        cdef size_t used = 0
        cdef int code
        if n >= 16384:
            with nogil:
                code = f.parse(c, p, n, &used)
        else:
            code = f.parse(c, p, n, &used)
        if code:
            self.fail(code)
        elif used < n and c.state == ST_OPEN:
            self.keep(p + used, n - used)
        elif c.spill_cap > 4096:
            # Idle clients should hold next to nothing.
            free(c.spill)
            c.spill = NULL
            c.spill_cap = 0
        f.flush_dirty()
        return 0

    cdef int keep(self, const uint8_t* p, size_t n) except -1:
        """Put an incomplete frame aside; the parser has limited its size."""
        cdef uint8_t* bigger
        cdef uint32_t cap = 64
        if n > HEADROOM:
            raise RuntimeError("incomplete frame beyond the limit")
        if n > self.c.spill_cap:
            while cap < n:
                cap *= 2
            bigger = <uint8_t*>malloc(cap)
            if bigger == NULL:
                raise MemoryError
            free(self.c.spill)
            self.c.spill = bigger
            self.c.spill_cap = cap
        memcpy(self.c.spill, p, n)
        self.c.spill_len = <uint32_t>n
        return 0

    cdef int received_bytes(self, bytes data) except -1:
        cdef uint8_t* p
        cdef size_t n = PyBytes_GET_SIZE(data)
        p = <uint8_t*>malloc(n)
        if p == NULL:
            raise MemoryError
        try:
            memcpy(p, <const uint8_t*>PyBytes_AS_STRING(data), n)
            self.received(p, n)
        finally:
            free(p)
        return 0

    cdef int handshake(self, bytes data) except -1:
        """Before registration: whole messages go to the owner, one at a time."""
        self.early_bytes += <uint32_t>len(data)
        if self.early_bytes > EARLY_BYTES and not self.c.pause & PAUSE_ACCESS:
            self.flood()
            return 0
        self.reader.feed(data)
        if self.c.pause & PAUSE_ACCESS:
            # Some transports deliver a little more after pause_reading.
            if self.reader.buffered > HANDSHAKE_HELD:
                self.fail(CLOSE_PROTOCOL)
            return 0
        try:
            while self.c.state == ST_HANDSHAKE and not self.c.pause & PAUSE_ACCESS:
                message = self.reader.next_message()
                if message is None:
                    return 0
                opcode, payload = message
                self.early_messages += 1
                if self.early_messages > EARLY_MESSAGES:
                    self.flood()
                    return 0
                if opcode == WS_BINARY:
                    self.owner.handshake_message(self, payload)
                elif opcode == WS_PING:
                    self.transport.write(build_message(WS_PONG, payload))
                elif opcode == WS_CLOSE:
                    self.fail(CLOSE_NORMAL)
        except WsProtocolError as err:
            self.fail(err.code)
        return 0

    cdef void flood(self) noexcept:
        """End a client that sends more than one that only has to prove its key."""
        self.forwarder.counters.handshake_floods += 1
        self.why = "it sent too much before it was let in"
        self.fail(CLOSE_POLICY)

    cdef int set_pause(self, int why) except -1:
        if not self.c.pause and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        self.c.pause |= why
        return 0

    cdef int clear_pause(self, int why) except -1:
        cdef int before = self.c.pause
        self.c.pause &= ~why
        if before and not self.c.pause and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        return 0

    cdef int start_bucket(self) except -1:
        cdef Forwarder f = self.forwarder
        self.c.limited = f.rate_max > 0
        if self.c.limited:
            bucket_fill(&self.c.bucket, f.rate_max, f.rate_refill, clock_now_ns() // 1000000)
        if self.resume is not None:
            self.resume.cancel()
            self.resume = None
        self.clear_pause(PAUSE_RATE)
        return 0

    cdef int limit(self, Py_ssize_t nbytes, int64_t wait_ms) except -1:
        cdef Forwarder f = self.forwarder
        f.counters.bytes_rx_ratelimited += nbytes
        if not self.c.rate_limited:
            self.c.rate_limited = 1
            f.counters.conns_rx_ratelimited += 1
        if not self.c.notified and self.c.state == ST_OPEN:
            self.c.notified = 1
            f.notice(&self.c, 2, None)
        self.set_pause(PAUSE_RATE)
        if self.resume is not None:
            self.resume.cancel()
        self.resume = f.loop.call_later(max(wait_ms, 1) / 1000.0, self._resume_reading)
        return 0

    def _resume_reading(self):
        self.resume = None
        self.c.heard = clock_now_ns() // 1000000  # it could not be heard
        if self.c.ping_deadline:
            self.c.ping_deadline = self.c.heard + PING_MAX_TIMEOUT_MS
        self.clear_pause(PAUSE_RATE)

    cdef void hand_over(self) noexcept:
        """Give output to the transport until it has no room."""
        cdef Client* c = &self.c
        cdef size_t n
        try:
            while not c.blocked and c.out_start != c.out_end and self.transport is not None:
                n = c.out_end - c.out_start
                if c.fd >= 0 and n > HANDOVER_BYTES:
                    n = HANDOVER_BYTES
                elif n > 4 * HANDOVER_BYTES:
                    n = 4 * HANDOVER_BYTES
                data = PyBytes_FromStringAndSize(<const char*>c.out + c.out_start, n)
                self.forwarder.sent(c, n)
                self.transport.write(data)
                if not c.blocked:
                    self.forwarder.settle(c)
        except Exception:
            logger.exception("writing to a client failed")
            self.fail(0)

    cdef int check_stall(self, int64_t now) except -1:
        cdef size_t held
        if self.c.stall_due > now or self.transport is None:
            return 0
        held = self.transport.get_write_buffer_size()
        if held < self.c.transport_held and self.c.state == ST_OPEN:
            self.c.transport_held = held
            self.c.stall_due = now + self.forwarder.write_timeout_ms
            return 0
        if self.c.state == ST_OPEN:
            self.why = "it read nothing"
            self.forwarder.counters.write_timeouts += 1
            self.forwarder.counters.send_packets_dropped += self.c.packets + self.c.held_packets
        self.fail(0)
        return 0

    cdef void end(self) noexcept:
        """Leave the registry and tell the owner, once."""
        if self.told:
            return
        self.told = True
        try:
            if self.c.peer != NULL:
                self.forwarder.unregister(&self.c)
                del self.forwarder.clients[self.connection_id]
            self.owner.connection_closed(self, self.why or "the connection was lost")
        except Exception:
            logger.exception("end of a connection")
        self.owner = None

    cdef void fail(self, int code) noexcept:
        """Begin the end: with a close frame, or for 0 and when the client does not read, at once."""
        cdef Client* c = &self.c
        if c.state == ST_LOST:
            return
        if self.why is None:
            self.why = _WHY.get(code)
        try:
            if c.state == ST_CLOSING:
                if code == 0 and self.transport is not None:
                    self.transport.abort()
                return
            if code and not c.blocked:
                self.forwarder.flush(c)
                if c.state >= ST_CLOSING:
                    return
            c.state = ST_CLOSING
            c.fd = -1
            self.end()
            if self.transport is None:
                return
            if code == 0 or c.blocked:
                self.transport.abort()
                return
            try:
                self.transport.write(build_message(WS_CLOSE, code.to_bytes(2, "big")))
                self.transport.close()
            except RuntimeError:
                # uvloop: the TLS session of a client that is gone cannot be ended in good order.
                self.transport.abort()
                return
            # A client that does not read must not keep the socket for ever.
            self.forwarder.loop.call_later(self.forwarder.write_timeout_ms / 1000.0, self._abort_late)
        except Exception:
            logger.exception("closing a connection")

    def _abort_late(self):
        if self.transport is not None:
            self.transport.abort()


class RelayProtocol(RelayConnection, asyncio.BufferedProtocol):
    """`RelayConnection` in the form event loops look for."""

    __slots__ = ()
