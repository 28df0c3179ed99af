"""What the parts of a relay server's forwarding share: structures and bounds."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from iroh_fast._relay._frames cimport MAX_AFTER_TYPE


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
