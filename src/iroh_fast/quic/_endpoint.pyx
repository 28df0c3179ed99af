"""Demultiplexing and connection admission of a sans-IO QUIC endpoint.

Datagrams and the time come in as arguments; what has to be sent is asked for.
Sources: RFC 9000 §5.2, §6, §8.1, §10.3, §17.2.5, and iroh's limits.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._batch cimport UdpAddr, addr_from_tuple, addr_to_tuple
from iroh_fast._crypto cimport (
    Aead, HeaderKey, aead_free, aead_open, aead_seal, hp_free, hp_masks, hp_new, initial_secrets,
    keys_from_secret, retry_integrity_tag, SUITE_AES128_GCM, SUITE_AES256_GCM)
from iroh_fast._packet cimport *
from iroh_fast.quic._buffers cimport sendbuf_init, recvbuf_init
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._handshake cimport own_parameters, remember_parameters, set_initial_keys, tls_drain
from iroh_fast.quic._receive cimport receive_datagram
from iroh_fast.quic._state cimport *
from iroh_fast.quic._datagrams cimport queue_init
from iroh_fast.quic._paths cimport CID_LEN, MAX_CID_LEN, CidSet, Path, RemoteCid, ip_known
from iroh_fast.quic._random cimport RandomSource
from iroh_fast.quic._streams cimport Streams
from iroh_fast.quic._timeouts cimport handle_timeout, next_deadline
from iroh_fast.quic._transmit cimport Transmit, poll_transmit

import logging
import os
import time
from collections import OrderedDict, deque

from iroh_fast.errors import CloseReason, IrohError

logger = logging.getLogger("iroh_fast.quic")

cdef enum:
    MIN_INITIAL = 1200            # RFC 9000 §14.1
    MIN_INITIAL_DCID = 8
    MIN_RESET = 22                # shortest datagram that a stateless reset answers
    RESET_INTERVAL_MS = 20
    MIN_HANDSHAKE_S = 10
    MAX_HANDSHAKE_S = 60

cdef int64_t MS = 1000000
cdef int64_t SECOND = 1000000000
cdef PyObject* DELETED = <PyObject*>1

DEFAULT_MAX_INCOMING = 65536
DEFAULT_INCOMING_BUFFER = 10 << 20
DEFAULT_INCOMING_TOTAL = 100 << 20
MAX_OUTGOING = 256                # endpoint replies waiting; more are dropped


cdef class Waker:
    cdef void wake(self, QuicConnection c) noexcept:
        pass

    cdef void wake_endpoint(self) noexcept:
        pass

    cdef int64_t clock_ns(self) noexcept nogil:
        return 0


@cython.final
cdef class QuicIncoming:
    """A connection attempt that waits for a decision.

    Attributes
    ----------
    remote, local : address tuples; `local` is None when unknown
    validated : whether the client has proven its address (Retry)
    """

    cdef QuicEndpoint endpoint
    cdef readonly object remote, local
    cdef readonly bint validated
    cdef UdpAddr src, dst
    cdef bytes dcid, scid, odcid, retry_scid
    cdef list datagrams           # (bytes, src, dst, ecn)
    cdef uint64_t size
    cdef int64_t born
    cdef bint decided
    cdef object alpn_offer

    def __repr__(self):
        return f"<QuicIncoming from {self.remote}>"

    @property
    def alpns(self):
        """ALPN protocols the client offers, as far as its first datagrams tell; None when unreadable."""
        if self.alpn_offer is None:
            self.alpn_offer = peek_alpns(self.dcid, [d[0] for d in self.datagrams])
        return self.alpn_offer or None

    cdef void settle(self):
        self.decided = True
        self.endpoint.initial_ids.pop(self.dcid, None)
        self.endpoint.incoming_bytes -= self.size

    cdef int claim(self) except -1:
        if self.decided:
            raise IrohError("this incoming connection was already accepted, refused, retried or ignored")
        self.settle()
        return 0

    def accept(self, alpns, transport, int64_t now=0):
        """Go on with the handshake. `alpns` are ours in order of preference; `now` defaults to the driver's clock."""
        cdef QuicConnection c
        cdef bytes d
        cdef tuple item
        cdef UdpAddr src, dst
        cdef bytearray copy
        self.claim()
        if now == 0:
            now = self.endpoint.clock_ns()
        if self.endpoint.closed_for_new():
            raise IrohError("the endpoint is closed")
        c = self.endpoint.accept(self, alpns, transport, now)
        for d, s, t, ecn in self.datagrams:
            copy = bytearray(d)
            memcpy(&src, PyBytes_AS_STRING(s), sizeof(UdpAddr))
            memcpy(&dst, PyBytes_AS_STRING(t), sizeof(UdpAddr))
            receive_datagram(c, <uint8_t*><char*>copy, len(copy), &src, &dst, ecn, now, 0, False)
        self.datagrams = []
        self.endpoint.wake(c)
        return c

    def refuse(self):
        """Answer with CONNECTION_REFUSED."""
        self.claim()
        self.endpoint.count("refused_handshakes")
        self.endpoint.reply(&self.src, &self.dst, initial_close(self.dcid, self.scid, CONNECTION_REFUSED, b""))

    def ignore(self):
        """Forget it without an answer; the client's retransmissions come as new attempts."""
        self.claim()
        self.endpoint.count("ignored_handshakes")

    def retry(self):
        """Ask the client to prove its address (RFC 9000 §8.1.2). IrohError when it already has."""
        cdef bytes scid, token, packet
        cdef uint8_t tag[16]
        if self.validated:
            raise IrohError("the address is already validated")
        self.claim()
        scid = self.endpoint.fresh_cid()
        token = self.endpoint.seal_retry(PyBytes_FromStringAndSize(<char*>self.src.ip, 16), self.src.port, self.dcid)
        packet = (b"\xf0\x00\x00\x00\x01" + bytes([len(self.scid)]) + self.scid + bytes([len(scid)]) + scid + token)
        if retry_integrity_tag(<const uint8_t*>PyBytes_AS_STRING(self.dcid), len(self.dcid),
                               <const uint8_t*>PyBytes_AS_STRING(packet), len(packet), tag) < 0:
            raise MemoryError
        self.endpoint.reply(&self.src, &self.dst, packet + PyBytes_FromStringAndSize(<char*>tag, 16))


@cython.final
cdef class QuicEndpoint(Host):
    """A QUIC endpoint without sockets or clock.

    Parameters
    ----------
    identity : quic.tls.Identity
    random : callable(n) -> bytes, the only source of randomness (default os.urandom)
    clock : callable() -> ns, the time of calls by the application when there is no driver
    tls : class with the interface of quic.tls.TlsSession, which is the default; or an object whose
        methods ``client`` and ``server`` take the same arguments and give such sessions
    """

    def __cinit__(self, identity, *, random=os.urandom, session_cache=None, server_tickets=None,
                  keylog=None, wall_clock=time.time, clock=None, tls=None):
        self.identity = identity
        self.random_source = random
        self.random = RandomSource(random)
        self.wall_clock = wall_clock
        self.clock = clock
        self.tls_class = tls
        self.keylog = keylog
        self.session_cache = session_cache
        self.server_tickets = server_tickets
        self.connections = {}
        self.initial_ids = {}
        self.reset_tokens = {}
        self.incoming = deque()
        self.outgoing = deque()
        self.reset_key = block_key(random(32))
        self.cid_key = block_key(random(32))
        self.accepting = True
        self.max_incoming = DEFAULT_MAX_INCOMING
        self.incoming_buffer = DEFAULT_INCOMING_BUFFER
        self.incoming_total = DEFAULT_INCOMING_TOTAL
        self.counters = {"accepted_handshakes": 0, "outgoing_handshakes": 0, "refused_handshakes": 0,
                         "ignored_handshakes": 0, "dropped_datagrams": 0}
        self.last_reset = -1000 * MS

    def __dealloc__(self):
        free(self.table)
        hp_free(self.cid_key)
        hp_free(self.reset_key)

    def count(self, str name):
        self.counters[name] += 1

    def closed_for_new(self):
        return not self.accepting

    # ------------------------------------------------------------- ids
    cdef void new_cid(self, uint8_t* cid8) noexcept nogil:
        """3 random bytes and a 5-byte keyed hash of them: ids of ours are recognised without a table."""
        cdef uint8_t mac[16]
        cdef uint64_t value
        while True:
            self.random.fill(cid8, 3)
            self.keyed(self.cid_key, cid8, 3, mac)
            memcpy(cid8 + 3, mac, 5)
            memcpy(&value, cid8, 8)
            if self.lookup(value) == NULL:
                return

    cdef void keyed(self, HeaderKey* key, const uint8_t* data, size_t n, uint8_t* out16) noexcept nogil:
        """AES-256 of up to 16 bytes, padded with zeros: a keyed function of inputs of one length, and far
        cheaper than an HMAC. A connection needs about a hundred of them."""
        cdef uint8_t block[16]
        cdef const uint8_t* sample = block
        memset(block, 0, 16)
        memcpy(block, data, n)
        if hp_masks(key, &sample, 1, out16) < 0:
            # Only without memory. A value that nobody can foretell matches nothing, and harms nobody.
            self.random.fill(out16, 16)

    cdef bint is_ours(self, const uint8_t* cid8) noexcept nogil:
        cdef uint8_t mac[16]
        self.keyed(self.cid_key, cid8, 3, mac)
        return memcmp(cid8 + 3, mac, 5) == 0

    cdef void token_for(self, const uint8_t* cid8, uint8_t* token16) noexcept nogil:
        """Stateless reset token of an id: a function of it under a key of this endpoint (RFC 9000 §10.3.2)."""
        self.keyed(self.reset_key, cid8, CID_LEN, token16)

    cdef CidEntry* lookup(self, uint64_t cid) noexcept nogil:
        cdef uint32_t i
        if self.table == NULL:
            return NULL
        i = <uint32_t>(cid ^ (cid >> 29)) & self.mask
        while self.table[i].conn != NULL:
            if self.table[i].cid == cid and self.table[i].conn != DELETED:
                return &self.table[i]
            i = (i + 1) & self.mask
        return NULL

    cdef int grow(self) noexcept nogil:
        cdef uint32_t cap = self.mask + 1 if self.table != NULL else 32
        cdef CidEntry* t
        cdef CidEntry* old = self.table
        cdef uint32_t i, j, n = self.mask + 1 if old != NULL else 0
        while cap < self.live * 2 + 2:
            cap *= 2
        t = <CidEntry*>calloc(cap, sizeof(CidEntry))
        if t == NULL:
            return -1
        for i in range(n):
            if old[i].conn != NULL and old[i].conn != DELETED:
                j = <uint32_t>(old[i].cid ^ (old[i].cid >> 29)) & (cap - 1)
                while t[j].conn != NULL:
                    j = (j + 1) & (cap - 1)
                t[j] = old[i]
        free(old)
        self.table = t
        self.mask = cap - 1
        self.used = self.live
        return 0

    cdef void cid_add(self, uint64_t cid, ConnectionState c, uint32_t path_id) noexcept:
        cdef uint32_t i
        if self.table == NULL or (self.used + 1) * 3 > (self.mask + 1) * 2:
            if self.grow() < 0:
                return
        i = <uint32_t>(cid ^ (cid >> 29)) & self.mask
        while self.table[i].conn != NULL:
            i = (i + 1) & self.mask
        self.table[i].cid = cid
        self.table[i].conn = <PyObject*>c
        self.table[i].path_id = path_id
        self.used += 1
        self.live += 1

    cdef void cid_remove(self, uint64_t cid) noexcept:
        cdef CidEntry* e = self.lookup(cid)
        if e != NULL:
            e.conn = DELETED
            self.live -= 1
        if self.last_cid == cid:
            self.last_conn = NULL

    cdef void reset_token_add(self, bytes token, ConnectionState c):
        self.reset_tokens[token] = c

    cdef void reset_token_remove(self, bytes token):
        self.reset_tokens.pop(token, None)

    cdef void on_drained(self, ConnectionState c) noexcept:
        c.unregister()
        if c.initial_dcid_len:
            self.initial_ids.pop(PyBytes_FromStringAndSize(<char*>c.initial_dcid, c.initial_dcid_len), None)
        self.connections.pop(c.stable_id, None)
        self.last_conn = NULL

    def fresh_cid(self):
        """A new connection id of this endpoint, not yet registered."""
        cdef uint8_t cid[8]
        self.new_cid(cid)
        return PyBytes_FromStringAndSize(<char*>cid, 8)

    def seal_retry(self, bytes ip16, port, bytes odcid):
        return self.tokens().seal_retry(ip16, port, odcid, int(self.wall_clock()))

    def tokens(self):
        if self.token_key is None:
            from iroh_fast.quic.tls.tokens import TokenKey
            self.token_key = TokenKey(self.random_source(32), self.random_source)
        return self.token_key

    # ------------------------------------------------------------- receiving
    cdef void reply(self, const UdpAddr* src, const UdpAddr* dst, bytes data):
        if len(self.outgoing) < MAX_OUTGOING:
            self.outgoing.append((addr_to_tuple(src), addr_to_tuple(dst), data))
            if self.waker is not None:
                self.waker.wake_endpoint()

    cdef void wake(self, ConnectionState c) noexcept:
        if self.waker is not None:
            self.waker.wake(<QuicConnection>c)

    cdef int64_t clock_ns(self) noexcept nogil:
        if self.waker is not None:
            return self.waker.clock_ns()
        if self.clock is None:
            return 0
        with gil:
            return self.clock()

    cdef QuicConnection datagram(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                            int64_t now):  # hot
        cdef uint64_t cid
        cdef CidEntry* e
        cdef QuicConnection c
        if n < 21 or not data[0] & 0x40:
            return None
        if not data[0] & 0x80:
            memcpy(&cid, data + 1, 8)
            if self.last_conn != NULL and cid == self.last_cid:
                c = <QuicConnection>self.last_conn
                receive_datagram(c, data, n, src, dst, ecn, now, self.last_path, True)
                return c
            e = self.lookup(cid)
            if e != NULL:
                c = <QuicConnection>e.conn
                self.last_cid = cid
                self.last_conn = e.conn
                self.last_path = e.path_id
                receive_datagram(c, data, n, src, dst, ecn, now, e.path_id, True)
                return c
        elif n >= 15 and data[5] == CID_LEN:
            memcpy(&cid, data + 6, 8)
            e = self.lookup(cid)
            if e != NULL:
                c = <QuicConnection>e.conn
                receive_datagram(c, data, n, src, dst, ecn, now, e.path_id, True)
                return c
        try:
            return self.unknown(data, n, src, dst, ecn, now)
        except Exception:
            logger.exception("a datagram could not be processed")
            return None

    cdef QuicConnection unknown(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn, int64_t now):
        """A datagram for none of our ids: new connection, repeated Initial, stateless reset or noise."""
        cdef LongHeader h
        cdef QuicConnection c
        cdef QuicIncoming i
        cdef bytes dcid
        cdef object known
        if not data[0] & 0x80:
            if self.reset_received(data, n, now):
                return None
            self.maybe_send_reset(data, n, src, dst, now)
            return None
        if parse_long_header(data, n, &h) < 0:
            return None
        if h.type == -1:
            if h.version != 0 and self.accepting:
                self.reply(src, dst, version_negotiation(&h, self.random_source(1)[0]))
            return None
        dcid = PyBytes_FromStringAndSize(<char*>h.dcid, h.dcid_len)
        known = self.initial_ids.get(dcid)
        if known is not None:
            if type(known) is QuicConnection:
                c = known
                receive_datagram(c, data, n, src, dst, ecn, now, 0, False)
                return c
            i = known
            if i.size + n <= self.incoming_buffer and self.incoming_bytes + n <= self.incoming_total:
                i.datagrams.append((PyBytes_FromStringAndSize(<char*>data, n), addr_bytes(src), addr_bytes(dst), ecn))
                i.size += n
                self.incoming_bytes += n
            return None
        if h.type != 0:
            return None
        if n < MIN_INITIAL or not self.accepting or self.on_incoming is None:
            return None
        if len(self.initial_ids) >= self.max_incoming:
            self.counters["dropped_datagrams"] += 1
            return None
        self.first_initial(data, n, &h, dcid, src, dst, ecn, now)
        return None

    cdef void first_initial(self, uint8_t* data, size_t n, LongHeader* h, bytes dcid, const UdpAddr* src,
                            const UdpAddr* dst, int ecn, int64_t now):
        cdef QuicIncoming i
        cdef bytes scid = PyBytes_FromStringAndSize(<char*>h.scid, h.scid_len)
        cdef object odcid = None, check
        if h.token_len:
            from iroh_fast.quic.tls.tokens import TokenOutcome, validate
            check = validate(self.tokens(), PyBytes_FromStringAndSize(<char*>h.token, h.token_len),
                             PyBytes_FromStringAndSize(<char*>src.ip, 16), src.port, int(self.wall_clock()))
            if check.outcome is TokenOutcome.INVALID:
                self.reply(src, dst, initial_close(dcid, scid, INVALID_TOKEN, b""))
                return
            odcid = check.original_dcid
        if odcid is None and h.dcid_len < MIN_INITIAL_DCID:
            self.reply(src, dst, initial_close(dcid, scid, PROTOCOL_VIOLATION, b"invalid destination CID length"))
            return
        # A packet that does not authenticate is no attempt: garbage must not reach the application.
        if not opens_as_initial(data, n, h):
            return
        i = QuicIncoming.__new__(QuicIncoming)
        i.endpoint = self
        i.src = src[0]
        i.dst = dst[0]
        i.remote = addr_to_tuple(src)
        i.local = addr_to_tuple(dst) if ip_known(dst) else None
        i.validated = odcid is not None
        i.dcid = dcid
        i.scid = scid
        i.odcid = odcid if odcid is not None else dcid
        i.retry_scid = dcid if odcid is not None else b""
        i.datagrams = [(PyBytes_FromStringAndSize(<char*>data, n), addr_bytes(src), addr_bytes(dst), ecn)]
        i.size = n
        i.born = now
        self.incoming_bytes += n
        self.initial_ids[dcid] = i
        self.on_incoming(i)

    cdef bint reset_received(self, uint8_t* data, size_t n, int64_t now):
        """RFC 9000 §10.3.1: the last 16 bytes may be a token of a connection that the peer lost."""
        cdef QuicConnection c = self.reset_tokens.get(PyBytes_FromStringAndSize(<char*>data + n - 16, 16))
        if c is None:
            return False
        c.now = now
        c.on_stateless_reset()
        self.wake(c)
        return True

    cdef void maybe_send_reset(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int64_t now):
        cdef uint8_t token[16]
        cdef size_t size
        cdef bytes filler
        if n < MIN_RESET or not self.is_ours(data + 1) or now - self.last_reset < RESET_INTERVAL_MS * MS:
            return
        self.last_reset = now
        self.token_for(data + 1, token)
        # Always shorter than what triggered it, so that two endpoints cannot play ping-pong.
        size = n - 1 if n <= 43 else 42 + self.random_source(1)[0] % (n - 42 if n < 100 else 58)
        if size >= n:
            size = n - 1
        filler = self.random_source(size - 16)
        self.reply(src, dst, bytes([0x40 | (filler[0] & 0x3f)]) + filler[1:] + PyBytes_FromStringAndSize(<char*>token, 16))

    # ------------------------------------------------------------- connections
    cdef QuicConnection new_connection(self, bint is_client, object transport, int64_t now):
        cdef QuicConnection c = QuicConnection.__new__(QuicConnection)
        cdef uint64_t value
        cdef CidSet* s
        c.host = self
        c.host_random = self.random_source
        c.is_client = is_client
        c.now = c.created_at = now
        self.next_id += 1
        c.stable_id = self.next_id
        load_config(transport, &c.cfg)
        c.idle_timeout = c.cfg.idle_timeout
        c.handshake_until = now + handshake_limit(&c.cfg)
        c.peer_udp = 65527
        # RFC 9000 §17.4: disabled on one of 16 connections even where it is allowed, so that its absence tells nothing.
        c.spinning = c.cfg.spin and (self.random.word() & 15) != 0
        c.streams = Streams(c, is_client, c.cfg.fair, c.cfg.stream_window, c.cfg.receive_window, c.cfg.send_window,
                            c.cfg.max_bidi, c.cfg.max_uni)
        queue_init(&c.dgram_rx, c.cfg.datagram_rx)
        queue_init(&c.dgram_tx, c.cfg.datagram_tx)
        self.new_cid(c.scid)
        memcpy(&value, c.scid, 8)
        s = c.cidset(0, True)
        if s == NULL:
            raise MemoryError
        s.local[0].seq = 0
        s.local[0].value = value
        s.n_local = 1
        s.next_seq = s.sent = 1
        self.cid_add(value, c, 0)
        self.connections[c.stable_id] = c
        return c

    cdef void open_qlog(self, QuicConnection c, object transport, bytes parameters):
        """Start the log of a connection whose first path is known."""
        if not transport.qlog_dir:
            return
        from iroh_fast.quic.qlog import QlogWriter
        c.qlog = QlogWriter.open(
            transport.qlog_dir, transport.qlog_prefix, c.is_client,
            PyBytes_FromStringAndSize(<char*>c.odcid, c.odcid_len), c.now, self.wall_clock())
        if c.qlog is None:
            return
        c.qlog.started(c.now, addr_to_tuple(&c.paths.r.remote),
                       addr_to_tuple(&c.paths.r.local) if ip_known(&c.paths.r.local) else None,
                       PyBytes_FromStringAndSize(<char*>c.scid, CID_LEN),
                       PyBytes_FromStringAndSize(<char*>c.dcid0, c.dcid0_len))
        c.log_tuple(c.paths)
        c.qlog.parameters(c.now, True, parameters)

    def connect(self, remotes, *, bytes expected_peer=None, alpns, transport, int64_t now=0, bint resume=True,
                tls=None):
        """Start dialing. `remotes`: candidate addresses; Initials go to all until one proves itself.

        `tls` authenticates this connection by other means than the key `expected_peer`, without resumption.
        """
        cdef QuicConnection c
        if not remotes:
            raise ValueError("no address to dial")
        if expected_peer is None and tls is None:
            raise ValueError("expected_peer is needed: the key the server must prove")
        if now == 0:
            now = self.clock_ns()
        c = self.new_connection(True, transport, now)
        try:
            # Tickets are kept by key: other means of authentication resume nothing.
            self.start_client(c, remotes, expected_peer, alpns, transport, resume and tls is None, tls)
        except BaseException:
            c.finish_drained(CloseReason("locally_closed"))
            raise
        return c

    cdef int start_client(self, QuicConnection c, remotes, expected_peer, alpns, transport, bint resume, tls) except -1:
        """The rest of `connect`; after an exception nothing of the connection stays."""
        cdef Path* p
        cdef CidSet* s
        cdef object ticket = None, token = None
        from iroh_fast.quic.tls import TlsSession
        c.n_dial = len(remotes)
        c.dial = <UdpAddr*>malloc(c.n_dial * sizeof(UdpAddr))
        if c.dial == NULL:
            raise MemoryError
        for k, remote in enumerate(remotes):
            addr_from_tuple(remote, &c.dial[k])
        self.random.fill(c.odcid, 20)
        c.odcid_len = 20
        memcpy(c.dcid0, c.odcid, 20)
        c.dcid0_len = 20
        p = c.add_path(0, &c.dial[0], NULL)
        if p == NULL:
            raise MemoryError
        p.r.validated = True
        s = p.cids
        s.n_remote = 1
        s.active = 0
        s.remote[0].seq = 0
        s.remote[0].len = 20
        memcpy(s.remote[0].cid, c.odcid, 20)
        if set_initial_keys(c, c.odcid, 20) < 0:
            raise MemoryError
        if self.session_cache is not None and resume:
            ticket = self.session_cache.take_ticket(expected_peer, self.wall_clock(), alpns)
            token = self.session_cache.take_token(expected_peer)
            c.on_address_token = AddressTokenSink(self.session_cache, expected_peer)
        c.address_token = token
        parameters = own_parameters(c, NULL)
        self.open_qlog(c, transport, parameters)
        c.tls = (tls or self.tls_class or TlsSession).client(
            self.identity, expected_peer=expected_peer, alpns=alpns, transport_parameters=parameters,
            ticket=ticket, random=self.random_source,
            on_ticket=self.session_cache.put_ticket if self.session_cache is not None and tls is None else None,
            keylog=self.keylog,
            now=self.wall_clock)
        c.tls.start()
        if ticket is not None:
            remember_parameters(c, ticket.transport_parameters)
        tls_drain(c)
        self.counters["outgoing_handshakes"] += 1
        self.wake(c)

    def accept(self, QuicIncoming i, alpns, transport, int64_t now):
        """Used by QuicIncoming.accept."""
        cdef QuicConnection c = self.new_connection(False, transport, now)
        try:
            self.start_server(c, i, alpns, transport)
        except BaseException:
            c.finish_drained(CloseReason("locally_closed"))
            raise
        return c

    cdef int start_server(self, QuicConnection c, object incoming, alpns, transport) except -1:
        """The rest of `accept`; after an exception nothing of the connection stays."""
        cdef QuicIncoming i = incoming
        cdef Path* p
        cdef uint8_t token[16]
        from iroh_fast.quic.tls import TlsSession
        memcpy(c.odcid, PyBytes_AS_STRING(i.odcid), len(i.odcid))
        c.odcid_len = len(i.odcid)
        if i.retry_scid:
            c.used_retry = True
            memcpy(c.retry_scid, PyBytes_AS_STRING(i.retry_scid), len(i.retry_scid))
            c.retry_scid_len = len(i.retry_scid)
        memcpy(c.dcid0, PyBytes_AS_STRING(i.scid), len(i.scid))
        c.dcid0_len = len(i.scid)
        p = c.add_path(0, &i.src, &i.dst)
        if p == NULL:
            raise MemoryError
        p.r.validated = i.validated
        if set_initial_keys(c, <const uint8_t*>PyBytes_AS_STRING(i.dcid), len(i.dcid)) < 0:
            raise MemoryError
        self.token_for(c.scid, token)
        parameters = own_parameters(c, token)
        self.open_qlog(c, transport, parameters)
        c.tls = (self.tls_class or TlsSession).server(
            self.identity, alpns=alpns,
            transport_parameters=parameters,
            ticket_store=self.server_tickets, random=self.random_source, keylog=self.keylog, now=self.wall_clock)
        self.initial_ids[i.dcid] = c
        memcpy(c.initial_dcid, PyBytes_AS_STRING(i.dcid), len(i.dcid))
        c.initial_dcid_len = len(i.dcid)
        self.counters["accepted_handshakes"] += 1

    # ------------------------------------------------------------- sans-IO interface for simulations
    def receive_datagram(self, data, remote, int64_t now, local=None, int ecn=0):
        """Feed one datagram; `data` is copied first because it is decrypted in place."""
        cdef bytearray copy = bytearray(data)
        cdef UdpAddr src, dst
        addr_from_tuple(remote, &src)
        memset(&dst, 0, sizeof(UdpAddr))
        if local is not None:
            addr_from_tuple(local, &dst)
        self.datagram(<uint8_t*><char*>copy, len(copy), &src, &dst, ecn, now)

    def transmit(self, QuicConnection c, int64_t now, int max_segments=1):
        """The next datagrams of a connection, or None: (remote, local, ecn, segment, data, extra remotes)."""
        cdef Transmit t
        cdef bytearray buf = bytearray(65536)
        cdef size_t n = poll_transmit(c, now, <uint8_t*><char*>buf, 65536, max_segments, &t)
        if c.failed:
            c.end_failed()
        if n == 0:
            c.deadline = next_deadline(c)
            return None
        extra = [addr_to_tuple(&c.dial[k]) for k in range(1, c.n_dial)] if t.dialing else []
        return (addr_to_tuple(&t.remote), addr_to_tuple(&t.local) if ip_known(&t.local) else None, t.ecn, t.segment,
                bytes(buf[:n]), extra)

    def take_replies(self):
        """Datagrams of the endpoint itself: [(remote, local, data)]."""
        out = list(self.outgoing)
        self.outgoing.clear()
        return out

    def timeout(self, QuicConnection c):
        """When `handle_timeout` is due for the connection, or None."""
        c.deadline = next_deadline(c)
        return c.deadline or None

    def handle_timeout(self, QuicConnection c, int64_t now):
        """Let time pass for one connection."""
        handle_timeout(c, now)

    def known_ids(self):
        """Number of ids that are routed (leak checks)."""
        return self.live + len(self.initial_ids)


class AddressTokenSink:
    """Keeps NEW_TOKEN tokens of one peer in the session cache."""

    __slots__ = ("cache", "peer")

    def __init__(self, cache, peer):
        self.cache = cache
        self.peer = peer

    def __call__(self, token):
        self.cache.put_token(self.peer, token)


cdef int64_t handshake_limit(const Config* cfg) noexcept nogil:
    """How long a handshake may take, whatever the peer sends meanwhile: the idle timeout within bounds."""
    if cfg.idle_timeout == 0 or cfg.idle_timeout > MAX_HANDSHAKE_S * SECOND:
        return MAX_HANDSHAKE_S * SECOND
    return cfg.idle_timeout if cfg.idle_timeout > MIN_HANDSHAKE_S * SECOND else MIN_HANDSHAKE_S * SECOND


cdef HeaderKey* block_key(bytes key) except NULL:
    cdef HeaderKey* k
    if len(key) != 32:
        raise ValueError("the random source gave too little")
    k = hp_new(SUITE_AES256_GCM, <const uint8_t*>PyBytes_AS_STRING(key))
    if k == NULL:
        raise MemoryError
    return k


cdef bytes version_negotiation(LongHeader* h, int r):
    """RFC 9000 §17.2.1, with a reserved version like iroh's."""
    cdef bytes dcid = PyBytes_FromStringAndSize(<char*>h.dcid, h.dcid_len)
    cdef bytes scid = PyBytes_FromStringAndSize(<char*>h.scid, h.scid_len)
    grease = b"\x0a\x1a\x2a\x4a" if h.version == 0x0a1a2a3a else b"\x0a\x1a\x2a\x3a"
    return (bytes([0x80 | (r & 0x7f) | 0x40, 0, 0, 0, 0, len(scid)]) + scid + bytes([len(dcid)]) + dcid + grease
            + b"\x00\x00\x00\x01")


cdef bint initial_open(bytes dcid, uint8_t* data, size_t n, LongHeader* h, Py_ssize_t* at, Py_ssize_t* size) noexcept:
    """Decrypt a client Initial in place. `at`, `size`: its payload."""
    cdef uint8_t client[32]
    cdef uint8_t server[32]
    cdef Aead* a = NULL
    cdef HeaderKey* hp = NULL
    cdef const uint8_t* sample
    cdef uint8_t mask[16]
    cdef uint64_t pn = 0
    cdef int pnl, i
    cdef bint ok = False
    if h.packet_len < h.pn_offset + 20:
        return False
    if initial_secrets(<const uint8_t*>PyBytes_AS_STRING(dcid), PyBytes_GET_SIZE(dcid), client, server) < 0:
        return False
    if keys_from_secret(SUITE_AES128_GCM, client, 32, &a, &hp) == 0:
        sample = data + h.pn_offset + 4
        if hp_masks(hp, &sample, 1, mask) == 0:
            data[0] ^= mask[0] & 0x0f
            pnl = (data[0] & 3) + 1
            for i in range(pnl):
                data[h.pn_offset + i] ^= mask[1 + i]
                pn = (pn << 8) | data[h.pn_offset + i]
            at[0] = h.pn_offset + pnl
            size[0] = aead_open(a, 0, pn, data, h.pn_offset + pnl, data + h.pn_offset + pnl, h.packet_len - h.pn_offset - pnl)
            ok = size[0] >= 0 and not data[0] & 0x0c
    aead_free(a)
    hp_free(hp)
    return ok


cdef bint opens_as_initial(uint8_t* data, size_t n, LongHeader* h):
    cdef bytearray copy = bytearray(PyBytes_FromStringAndSize(<char*>data, n))
    cdef LongHeader own
    cdef Py_ssize_t at, size
    if parse_long_header(<uint8_t*><char*>copy, n, &own) < 0:
        return False
    return initial_open(PyBytes_FromStringAndSize(<char*>own.dcid, own.dcid_len), <uint8_t*><char*>copy, n, &own, &at, &size)


def peek_alpns(bytes dcid, list datagrams):
    """ALPN offers in the ClientHello of some Initial datagrams; [] when incomplete or unreadable."""
    cdef bytearray copy
    cdef LongHeader h
    cdef Py_ssize_t at, size
    cdef const uint8_t* p
    cdef const uint8_t* end
    cdef Frame f
    cdef int err = 0
    pieces = {}
    for data in datagrams:
        copy = bytearray(data)
        if parse_long_header(<uint8_t*><char*>copy, len(copy), &h) < 0 or h.type != 0:
            continue
        if not initial_open(dcid, <uint8_t*><char*>copy, len(copy), &h, &at, &size):
            continue
        p = <uint8_t*><char*>copy + at
        end = p + size
        while p != NULL and p < end:
            p = decode_frame(p, end, &f, &err)
            if p != NULL and f.type == FT_CRYPTO:
                pieces[f.offset] = PyBytes_FromStringAndSize(<char*>f.data, f.len)
    hello = b""
    while len(hello) in pieces and pieces[len(hello)]:
        hello += pieces[len(hello)]
    return client_hello_alpns(hello)


def client_hello_alpns(bytes m):
    """The protocol list of a TLS ClientHello message, best effort."""
    try:
        if m[0] != 1 or len(m) < 4 + int.from_bytes(m[1:4], "big"):
            return []
        i = 4 + 2 + 32
        i += 1 + m[i]
        i += 2 + int.from_bytes(m[i:i + 2], "big")
        i += 1 + m[i]
        end = i + 2 + int.from_bytes(m[i:i + 2], "big")
        i += 2
        while i + 4 <= end:
            kind = int.from_bytes(m[i:i + 2], "big")
            size = int.from_bytes(m[i + 2:i + 4], "big")
            if kind == 16:
                body = m[i + 6:i + 4 + size]
                out = []
                while body:
                    out.append(body[1:1 + body[0]])
                    body = body[1 + body[0]:]
                return out
            i += 4 + size
    except IndexError:
        pass
    return []


cdef bytes initial_close(bytes dcid, bytes scid, uint64_t code, bytes reason):
    """A server's Initial that carries nothing but CONNECTION_CLOSE."""
    cdef uint8_t client[32]
    cdef uint8_t server[32]
    cdef Aead* a = NULL
    cdef HeaderKey* hp = NULL
    cdef bytearray out
    cdef uint8_t* p
    cdef uint8_t* payload
    cdef uint8_t* start
    cdef const uint8_t* sample
    cdef uint8_t mask[16]
    cdef size_t n, header
    cdef bint sealed = False
    # Our own id does not matter: nothing will ever be sent to it.
    out = bytearray(b"\xc0\x00\x00\x00\x01" + bytes([len(scid)]) + scid + bytes([len(dcid)]) + dcid + b"\x00\x40\x00\x00")
    header = len(out)
    out += bytes(64 + len(reason) + 16)
    start = <uint8_t*><char*>out
    payload = start + header
    p = put_close(payload, False, code, 0, <const uint8_t*>PyBytes_AS_STRING(reason), len(reason))
    n = <size_t>(p - payload)
    if n < 8:
        n = 8
    start[header - 3] = <uint8_t>(0x40 | ((1 + n + 16) >> 8))
    start[header - 2] = <uint8_t>(1 + n + 16)
    if (initial_secrets(<const uint8_t*>PyBytes_AS_STRING(dcid), len(dcid), client, server) == 0
            and keys_from_secret(SUITE_AES128_GCM, server, 32, &a, &hp) == 0
            and aead_seal(a, 0, 0, start, header, payload, n) == 0):
        sample = start + header - 1 + 4
        sealed = hp_masks(hp, &sample, 1, mask) == 0
    aead_free(a)
    hp_free(hp)
    if not sealed:
        raise MemoryError
    start[0] ^= mask[0] & 0x0f
    start[header - 1] ^= mask[1]
    return bytes(out[:header + n + 16])
