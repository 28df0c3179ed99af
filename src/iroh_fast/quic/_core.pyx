"""One QUIC connection: the parts it is composed of.

What happens to it when is in the rooms of functions around it; what the layers above do with it is in `_connection`.
Times are nanoseconds of a monotonic clock that the caller supplies.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._agreed cimport DEFAULT_ACK_DELAY_MS, MAX_UDP_PAYLOAD
from iroh_fast.quic._codes cimport ST_HANDSHAKE, W_ACCEPT_BI
from iroh_fast.quic._config cimport Config, config_release, config_share
from iroh_fast.quic._datagrams cimport datagrams_free, datagrams_init
from iroh_fast.quic._handshake_state cimport handshake_free, handshake_init
from iroh_fast.quic._keys cimport keys_clear, keys_init
from iroh_fast.quic._ledger cimport ledger_free
from iroh_fast.quic._paths cimport paths_first_id, paths_free
from iroh_fast.quic._streams cimport StreamOwner, Streams
from iroh_fast.quic._time cimport MS, SECOND
from iroh_fast.quic._timers cimport timers_clear
from iroh_fast.quic._traversal_state cimport traversal_free


cdef enum:
    MIN_HANDSHAKE_S = 10
    MAX_HANDSHAKE_S = 60


cdef class Host:
    cdef void wake(self, Connection conn) noexcept:
        pass

    cdef void new_cid(self, uint8_t* cid8) noexcept nogil:
        pass

    cdef void token_for(self, const uint8_t* cid8, uint8_t* token16) noexcept nogil:
        pass

    cdef void cid_add(self, uint64_t cid, Connection conn, uint32_t path_id) noexcept:
        pass

    cdef void cid_remove(self, uint64_t cid) noexcept:
        pass

    cdef void reset_token_add(self, bytes token, Connection conn):
        pass

    cdef void reset_token_remove(self, bytes token):
        pass

    cdef void on_drained(self, Connection conn) noexcept:
        pass

    cdef int64_t clock_ns(self) noexcept nogil:
        return 0

    cdef int largest_payload(self, const UdpAddr* remote, const UdpAddr* local) noexcept nogil:
        return 0

    cdef bint may_probe(self, const UdpAddr* remote, int64_t now) noexcept nogil:
        return True


cdef class Connection(StreamOwner):
    """The parts of one connection."""

    def __cinit__(self):
        self.state = ST_HANDSHAKE
        handshake_init(&self.handshake)
        keys_init(&self.keys)
        timers_clear(&self.timers)
        self.acks.max_delay = DEFAULT_ACK_DELAY_MS * MS
        self.acks.threshold = self.acks.reorder = 1
        self.acks.seq = -1
        self.agreed.peer_max_ack_delay = DEFAULT_ACK_DELAY_MS * MS
        self.agreed.peer_ack_exponent = 3
        self.agreed.peer_udp = MAX_UDP_PAYLOAD

    def __dealloc__(self):
        handshake_free(&self.handshake, &self.keys)
        paths_free(&self.paths)
        traversal_free(&self.traversal)
        config_release(self.cfg)
        keys_clear(&self.keys)
        ledger_free(&self.control)
        datagrams_free(&self.datagrams)

    cdef int compose(self, Host host, Config* config, bint is_client, uint64_t stable_id, int64_t now) except -1:
        self.host = host
        self.is_client = is_client
        self.stable_id = stable_id
        self.now = self.created_at = now
        self.cfg = config_share(config)
        self.handshake.until = now + handshake_limit(config)
        self.agreed.idle_timeout = config.idle_timeout
        # RFC 9000 §17.4: disabled on one of 16 connections even where it is allowed, so that its absence tells nothing.
        self.paths.spinning = config.spin and (host.random.word() & 15) != 0
        self.streams = Streams(self, is_client, config.fair, config.max_bidi, config.max_uni)
        self.streams.set_windows(config, host.budget)
        datagrams_init(&self.datagrams, config.datagram_rx, config.datagram_tx)
        host.new_cid(self.handshake.ours)
        host.cid_add(paths_first_id(&self.paths, self.handshake.ours), self, 0)
        return 0

    cdef void want_send(self) noexcept:
        self.host.wake(self)

    cdef object ended(self):
        return None if self.close_reason is None else self.close_reason.to_error()

    cdef str peer_name(self):
        return "?" if self.peer_id is None else self.peer_id[:5].hex()

    cdef int fail(self, uint64_t code, const char* text, uint64_t frame) noexcept nogil:
        """Note a protocol error; the caller's caller closes. Returns -1."""
        if self.failure.code == 0:
            self.failure.code = code
            self.failure.text = text
            self.failure.frame = frame
            self.failed = True
        return -1

    cdef void happened(self, int kind) noexcept nogil:
        """Record an event for whoever takes them."""
        self.events |= <uint32_t>1 << kind

    cdef uint32_t take_events(self) noexcept nogil:
        """What happened since the last call, as bits 1 << W_...; the streams' own events are apart."""
        cdef uint32_t events = self.events | (self.streams.table.events << W_ACCEPT_BI)
        self.events = 0
        self.streams.table.events = 0
        return events

    cdef void check(self) except *:
        if self.close_reason is not None:
            raise self.close_reason.to_error()


cdef int64_t handshake_limit(const Config* cfg) noexcept nogil:
    """How long a handshake may take, whatever the peer sends meanwhile: the idle timeout within bounds."""
    if cfg.idle_timeout == 0 or cfg.idle_timeout > MAX_HANDSHAKE_S * SECOND:
        return MAX_HANDSHAKE_S * SECOND
    return cfg.idle_timeout if cfg.idle_timeout > MIN_HANDSHAKE_S * SECOND else MIN_HANDSHAKE_S * SECOND
