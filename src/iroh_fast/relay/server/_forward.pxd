"""The registry of a relay server's clients, and what happens to their frames."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from iroh_fast._relay._frames cimport KeyCache
from iroh_fast._relay._websocket cimport _Memory, ws_head
from iroh_fast.relay.server._outbox cimport Outbox
from iroh_fast.relay.server._peers cimport PeerTable
from iroh_fast.relay.server._state cimport Client, Counters


cdef class Forwarder:
    cdef object loop
    cdef object handle            # of the next tick
    cdef dict clients             # id to RelayConnection: keeps them alive while registered
    cdef object next_id
    cdef PeerTable peers
    cdef Outbox outbox
    cdef uint64_t epoch           # changes when a remembered destination may be gone
    cdef KeyCache keys
    cdef Counters counters
    cdef _Memory scratch
    cdef object view, small_view, tiny_view
    # due times, one per registered client, for a fast scan
    cdef int64_t* due
    cdef Client** at
    cdef size_t count, slots
    cdef Client* dirty
    cdef bint flushing
    cdef uint32_t max_packets
    cdef size_t max_bytes
    cdef int64_t write_timeout_ms, ping_interval_ms, ping_jitter_ms, tick_ms
    cdef int64_t rate_max, rate_refill    # 0: no limit
    cdef int64_t ahead_ms         # what tests skipped
    cdef set stalled              # connections whose transport holds data

    cdef int64_t now_ms(self) noexcept nogil
    cdef int reserve_slot(self) except -1
    cdef void unregister(self, Client* c) noexcept
    cdef uint8_t* message(self, Client* c, int opcode, size_t size) noexcept nogil
    cdef bint control(self, Client* c, int kind, const uint8_t* body, size_t n) noexcept nogil
    cdef void notice(self, Client* c, uint8_t status, bytes text) noexcept
    cdef void pong(self, Client* c, const uint8_t* data) noexcept nogil
    cdef void flush(self, Client* c) noexcept nogil
    cdef void flush_dirty(self) noexcept nogil
    cdef int datagram(self, Client* c, int kind, const uint8_t* key, int ecn, uint32_t segment,
                      const uint8_t* contents, size_t n, uint32_t mask) noexcept nogil
    cdef int frame(self, Client* c, uint8_t* p, size_t n, uint32_t mask) noexcept nogil
    cdef int fragment(self, Client* c, const ws_head* h, uint8_t* p) noexcept nogil
    # handles all complete frames; 0 or the code to close with
    cdef int parse(self, Client* c, uint8_t* p, size_t n, size_t* used) noexcept nogil
    cdef void ws_pong(self, Client* c, const uint8_t* data, size_t n) noexcept nogil
    cdef int64_t next_ping(self) noexcept
    cdef void send_ping(self, Client* c, int64_t now) noexcept
