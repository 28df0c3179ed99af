"""Demultiplexing and connection admission of a sans-IO QUIC endpoint.

Datagrams and the time come in as arguments; what has to be sent is asked for.
Sources: RFC 9000 §5.2, §6, §8.1, §10.3, §17.2.5, and iroh's limits.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset

from iroh_fast._batch cimport UdpAddr, addr_from_tuple, addr_to_tuple
from iroh_fast._packet._headers cimport LongHeader, parse_long_header
from iroh_fast.quic._admission cimport Admission, AdmissionHost, QuicIncoming
from iroh_fast.quic._budget cimport budget_limit, budget_new, budget_release
from iroh_fast.quic._cids cimport unregister
from iroh_fast.quic._closing cimport end_failed, finish_drained, on_stateless_reset
from iroh_fast.quic._config cimport Config, config_new, config_release
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._first_flight cimport begin_client, begin_server, dial_at, dial_window
from iroh_fast.quic._handshake cimport own_parameters, remember_parameters, tls_drain
from iroh_fast.quic._handshake_state cimport id_set
from iroh_fast.quic._id_table cimport IdEntry, IdTable
from iroh_fast.quic._paths cimport CID_LEN, ip_known, path_cwnd
from iroh_fast.quic._probe_limit cimport ProbeLimit
from iroh_fast.quic._random cimport RandomSource
from iroh_fast.quic._refused cimport datagram_too_big
from iroh_fast.quic._receive cimport receive_datagram
from iroh_fast.quic._stateless cimport MIN_INITIAL, MIN_RESET_TRIGGER, stateless_reset, version_negotiation
from iroh_fast.quic._time cimport MS
from iroh_fast.quic._timeouts cimport handle_timeout, next_deadline
from iroh_fast.quic._trace cimport log_tuple
from iroh_fast.quic._transmit cimport Transmit, poll_transmit

import logging
import os
import time
from collections import deque

from iroh_fast.errors import CloseReason
from iroh_fast.quic.config import WINDOW_BUDGET

logger = logging.getLogger("iroh_fast.quic")

cdef enum:
    RESET_INTERVAL_MS = 20

MAX_OUTGOING = 256                # endpoint replies waiting; more are dropped


cdef class Waker:
    cdef void wake(self, QuicConnection conn) noexcept:
        pass

    cdef void wake_endpoint(self) noexcept:
        pass

    cdef void drained(self, QuicConnection conn) noexcept:
        pass

    cdef int64_t clock_ns(self) noexcept nogil:
        return 0

    cdef int largest_payload(self, const UdpAddr* remote, const UdpAddr* local) noexcept nogil:
        return 0


@cython.final
cdef class QuicEndpoint(AdmissionHost):
    """A QUIC endpoint without sockets or clock.

    Parameters
    ----------
    identity : quic.tls.Identity
    random : callable(n) -> bytes, the only source of randomness (default os.urandom)
    clock : callable() -> ns, the time of calls by the application when there is no driver
    window_budget : bytes by which the windows of all connections together may grow
    tls : class with the interface of quic.tls.TlsSession, which is the default; or an object whose
        methods ``client`` and ``server`` take the same arguments and give such sessions
    """

    def __cinit__(self, identity, *, random=os.urandom, session_cache=None, server_tickets=None,
                  keylog=None, wall_clock=time.time, clock=None, tls=None, uint64_t window_budget=WINDOW_BUDGET):
        self.budget = budget_new(window_budget)
        self.identity = identity
        self.random_source = random
        self.random = RandomSource(random)
        self.random_take = self.random.take
        self.wall_clock = wall_clock
        self.clock = clock
        if tls is None:               # loaded here, so that no handshake waits for it
            from iroh_fast.quic.tls import TlsSession as tls
        self.tls_class = tls
        self.keylog = keylog
        self.session_cache = session_cache
        if session_cache is not None:
            # Bound once, for all connections.
            self.put_ticket, self.put_token = session_cache.put_ticket, session_cache.put_token
        self.server_tickets = server_tickets
        self.connections = {}
        self.initial_ids = {}
        self.reset_tokens = {}
        self.outgoing = deque()
        self.ids = IdTable(self.random, random(32))
        self.probe_limit = ProbeLimit(self.random)
        self.admission = Admission(random, wall_clock)
        self.accepting = True
        self.counters = {"accepted_handshakes": 0, "outgoing_handshakes": 0, "refused_handshakes": 0,
                         "ignored_handshakes": 0, "dropped_datagrams": 0}
        self.last_reset = -1000 * MS

    def __dealloc__(self):
        config_release(self.config)
        budget_release(self.budget)

    @property
    def window_budget(self):
        """Bytes by which the windows of all connections together may grow."""
        return self.budget.limit

    @window_budget.setter
    def window_budget(self, uint64_t value):
        budget_limit(self.budget, value)

    @property
    def window_budget_used(self):
        """Bytes by which they have grown now."""
        return self.budget.used

    @property
    def window_budget_refused(self):
        """Times a window did not grow, or not as far as it wanted, because of the budget."""
        return self.budget.refused

    @property
    def max_incoming(self):
        """Undecided attempts and connections that came in, together, beyond which no new attempt is taken."""
        return self.admission.max_attempts

    @max_incoming.setter
    def max_incoming(self, uint64_t value):
        self.admission.max_attempts = value

    @property
    def incoming_buffer(self):
        """Bytes kept for one undecided attempt."""
        return self.admission.max_attempt_bytes

    @incoming_buffer.setter
    def incoming_buffer(self, uint64_t value):
        self.admission.max_attempt_bytes = value

    @property
    def incoming_total(self):
        """Bytes kept for all undecided attempts together."""
        return self.admission.max_bytes

    @incoming_total.setter
    def incoming_total(self, uint64_t value):
        self.admission.max_bytes = value

    # ------------------------------------------------------------- ids
    cdef void new_cid(self, uint8_t* cid8) noexcept nogil:
        self.ids.fresh(cid8)

    cdef void fresh_id(self, uint8_t* id8) noexcept nogil:
        self.ids.fresh(id8)

    cdef void token_for(self, const uint8_t* cid8, uint8_t* token16) noexcept nogil:
        """Stateless reset token of an id of ours."""
        if self.ids.reset_token(cid8, token16) < 0:
            # Only without memory. A value that nobody can foretell matches nothing, and harms nobody.
            self.random.fill(token16, 16)

    cdef void cid_add(self, uint64_t cid, Connection conn, uint32_t path_id) noexcept:
        self.ids.add(cid, <PyObject*>conn, path_id)

    cdef void cid_remove(self, uint64_t cid) noexcept:
        self.ids.remove(cid)
        if self.last_cid == cid:
            self.last_conn = NULL

    cdef void reset_token_add(self, bytes token, Connection conn):
        self.reset_tokens[token] = conn

    cdef void reset_token_remove(self, bytes token):
        self.reset_tokens.pop(token, None)

    cdef void on_drained(self, Connection conn) noexcept:
        unregister(conn)
        if self.waker is not None:
            self.waker.drained(<QuicConnection>conn)
        if conn.handshake.first.len:
            self.initial_ids.pop(PyBytes_FromStringAndSize(<char*>conn.handshake.first.bytes, conn.handshake.first.len), None)
        self.connections.pop(conn.stable_id, None)
        self.last_conn = NULL

    def fresh_cid(self):
        """A new connection id of this endpoint, not yet registered."""
        cdef uint8_t cid[8]
        self.ids.fresh(cid)
        return PyBytes_FromStringAndSize(<char*>cid, 8)

    # ------------------------------------------------------------- receiving
    cdef void reply(self, const UdpAddr* src, const UdpAddr* dst, bytes data):
        if len(self.outgoing) < MAX_OUTGOING:
            self.outgoing.append((addr_to_tuple(src), addr_to_tuple(dst), data))
            if self.waker is not None:
                self.waker.wake_endpoint()

    cdef void wake(self, Connection conn) noexcept:
        if self.waker is not None:
            self.waker.wake(<QuicConnection>conn)

    cdef int64_t clock_ns(self) noexcept nogil:
        if self.waker is not None:
            return self.waker.clock_ns()
        if self.clock is None:
            return 0
        with gil:
            return self.clock()

    cdef int largest_payload(self, const UdpAddr* remote, const UdpAddr* local) noexcept nogil:
        return self.waker.largest_payload(remote, local) if self.waker is not None else self.interface_limit

    cdef bint may_probe(self, const UdpAddr* remote, int64_t now) noexcept nogil:
        return self.probe_limit.take(remote, now)

    @property
    def held_probes(self):
        """Probes of NAT traversal that did not leave because their address had enough."""
        return self.probe_limit.held

    cdef QuicConnection datagram(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                            int64_t now):  # hot
        cdef uint64_t cid
        cdef IdEntry* entry
        cdef QuicConnection conn
        if n < 21:
            return None
        if not data[0] & 0x80:
            # The fixed bit of long headers depends on the version: their parser knows.
            if not data[0] & 0x40:
                return None
            memcpy(&cid, data + 1, 8)
            if self.last_conn != NULL and cid == self.last_cid:
                conn = <QuicConnection>self.last_conn
                receive_datagram(conn, data, n, src, dst, ecn, now, self.last_path, True)
                return conn
            entry = self.ids.find(cid)
            if entry != NULL:
                conn = <QuicConnection>entry.conn
                self.last_cid = cid
                self.last_conn = entry.conn
                self.last_path = entry.path_id
                receive_datagram(conn, data, n, src, dst, ecn, now, entry.path_id, True)
                return conn
        elif n >= 15 and data[5] == CID_LEN:
            memcpy(&cid, data + 6, 8)
            entry = self.ids.find(cid)
            if entry != NULL:
                conn = <QuicConnection>entry.conn
                receive_datagram(conn, data, n, src, dst, ecn, now, entry.path_id, True)
                return conn
        try:
            return self.unknown(data, n, src, dst, ecn, now)
        except Exception:
            logger.exception("a datagram could not be processed")
            return None

    cdef QuicConnection unknown(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn, int64_t now):
        """A datagram for none of our ids: new connection, repeated Initial, stateless reset or noise."""
        cdef LongHeader header
        cdef QuicConnection conn
        cdef bytes dcid
        cdef object known
        if not data[0] & 0x80:
            if not self.reset_received(data, n, now):
                self.maybe_send_reset(data, n, src, dst, now)
            return None
        if parse_long_header(data, n, &header) < 0:
            return None
        if header.type == -1:
            if header.version != 0 and self.accepting and n >= MIN_INITIAL:
                self.reply(src, dst, version_negotiation(&header, self.random))
            return None
        dcid = PyBytes_FromStringAndSize(<char*>header.dcid, header.dcid_len)
        known = self.initial_ids.get(dcid)
        if known is not None:
            conn = known
            receive_datagram(conn, data, n, src, dst, ecn, now, 0, False)
            return conn
        known = self.admission.attempts.get(dcid)
        if known is not None:
            self.admission.more(self, known, data, n, src, dst, ecn)
        elif header.type == 0:
            self.admission.first(self, data, n, &header, dcid, len(self.initial_ids), src, dst, ecn, now)
        return None

    cdef bint reset_received(self, uint8_t* data, size_t n, int64_t now):
        """RFC 9000 §10.3.1: the last 16 bytes may be a token of a connection that the peer lost."""
        cdef QuicConnection conn = self.reset_tokens.get(PyBytes_FromStringAndSize(<char*>data + n - 16, 16))
        if conn is None:
            return False
        conn.now = now
        on_stateless_reset(conn)
        self.wake(conn)
        return True

    cdef void maybe_send_reset(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int64_t now):
        """Tell a peer that its connection is gone here; rarely, and only for ids that were ours."""
        cdef uint64_t cid
        cdef uint8_t token[16]
        memcpy(&cid, data + 1, 8)
        if n < MIN_RESET_TRIGGER or now - self.last_reset < RESET_INTERVAL_MS * MS or not self.ids.was_ours(cid):
            return
        if self.ids.reset_token(data + 1, token) == 0:
            self.last_reset = now
            self.reply(src, dst, stateless_reset(n, token, self.random))

    # ------------------------------------------------------------- connections
    cdef QuicConnection new_connection(self, bint is_client, object transport, int64_t now):
        cdef QuicConnection conn = QuicConnection.__new__(QuicConnection)
        cdef Config* config
        self.next_id += 1
        if transport is not self.config_of:        # frozen: the same object means the same values
            config = config_new(transport)
            config_release(self.config)
            self.config = config
            self.config_of = transport
        conn.host_random = self.random_source
        conn.compose(self, self.config, is_client, self.next_id, now)
        self.connections[conn.stable_id] = conn
        return conn

    cdef void open_qlog(self, QuicConnection conn, object transport, bytes parameters):
        """Start the log of a connection whose first path is known."""
        if not transport.qlog_dir:
            return
        from iroh_fast.quic.qlog import QlogWriter
        conn.qlog = QlogWriter.open(
            transport.qlog_dir, transport.qlog_prefix, conn.is_client,
            PyBytes_FromStringAndSize(<char*>conn.handshake.original.bytes, conn.handshake.original.len), conn.now, self.wall_clock())
        if conn.qlog is None:
            return
        conn.qlog.started(conn.now, addr_to_tuple(&conn.paths.first.route.remote),
                       addr_to_tuple(&conn.paths.first.route.local) if ip_known(&conn.paths.first.route.local) else None,
                       PyBytes_FromStringAndSize(<char*>conn.handshake.ours, CID_LEN),
                       PyBytes_FromStringAndSize(<char*>conn.handshake.theirs.bytes, conn.handshake.theirs.len))
        log_tuple(conn, conn.paths.first)
        conn.qlog.parameters(conn.now, True, parameters)
        conn.qlog.recovery(conn.now, transport.congestion_controller, path_cwnd(conn.paths.first), {
            "reordering_threshold": transport.packet_threshold, "time_threshold": transport.time_threshold,
            "initial_rtt": transport.initial_rtt * 1000, "max_datagram_size": transport.initial_mtu,
            "persistent_congestion_threshold": transport.persistent_congestion_threshold})

    def connect(self, remotes, *, bytes expected_peer=None, alpns, transport, int64_t now=0, bint resume=True,
                tls=None):
        """Start dialing. `remotes`: candidate addresses, at most 64; Initials go to them, 16 in turn, until one proves itself.

        `tls` authenticates this connection by other means than the key `expected_peer`, without resumption.
        """
        cdef QuicConnection conn
        if not remotes:
            raise ValueError("no address to dial")
        if expected_peer is None and tls is None:
            raise ValueError("expected_peer is needed: the key the server must prove")
        if now == 0:
            now = self.clock_ns()
        conn = self.new_connection(True, transport, now)
        try:
            # Tickets are kept by key: other means of authentication resume nothing.
            self.start_client(conn, remotes, expected_peer, alpns, transport, resume and tls is None, tls)
        except BaseException:
            finish_drained(conn, CloseReason("locally_closed"))
            raise
        return conn

    cdef int start_client(self, QuicConnection conn, remotes, expected_peer, alpns, transport, bint resume, tls) except -1:
        """The rest of `connect`; after an exception nothing of the connection stays."""
        cdef object ticket = None, token = None
        begin_client(conn, list(remotes))
        if self.session_cache is not None and resume:
            ticket = self.session_cache.take_ticket(expected_peer, self.wall_clock(), alpns)
            token = self.session_cache.take_token(expected_peer)
            conn.on_address_token = self.put_token
        conn.address_token = token
        parameters = own_parameters(conn, NULL)
        self.open_qlog(conn, transport, parameters)
        conn.tls = (tls or self.tls_class).client(
            self.identity, expected_peer=expected_peer, alpns=alpns, transport_parameters=parameters,
            ticket=ticket, random=self.random_take,
            on_ticket=self.put_ticket if tls is None else None,
            keylog=self.keylog,
            now=self.wall_clock)
        conn.tls.start()
        if ticket is not None:
            remember_parameters(conn, ticket.transport_parameters)
        tls_drain(conn)
        self.counters["outgoing_handshakes"] += 1
        self.wake(conn)

    cdef QuicConnection begin(self, QuicIncoming attempt, object alpns, object transport, int64_t now):
        cdef QuicConnection conn = self.new_connection(False, transport, now)
        try:
            self.start_server(conn, attempt, alpns, transport)
        except BaseException:
            finish_drained(conn, CloseReason("locally_closed"))
            raise
        return conn

    cdef int start_server(self, QuicConnection conn, QuicIncoming attempt, alpns, transport) except -1:
        """The rest of `begin`; after an exception nothing of the connection stays."""
        cdef uint8_t token[16]
        begin_server(conn, attempt.odcid, attempt.retry_scid, attempt.client_id, attempt.dcid, &attempt.src, &attempt.dst, attempt.validated)
        self.token_for(conn.handshake.ours, token)
        parameters = own_parameters(conn, token)
        self.open_qlog(conn, transport, parameters)
        conn.tls = self.tls_class.server(
            self.identity, alpns=alpns,
            transport_parameters=parameters,
            ticket_store=self.server_tickets, random=self.random_take, keylog=self.keylog, now=self.wall_clock)
        self.initial_ids[attempt.dcid] = conn
        id_set(&conn.handshake.first, <const uint8_t*>PyBytes_AS_STRING(attempt.dcid), <size_t>PyBytes_GET_SIZE(attempt.dcid))
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

    def too_big(self, QuicConnection conn, remote, size_t size, int64_t now):
        """A datagram of `size` bytes to `remote` was not taken: it exceeds the interface."""
        cdef UdpAddr to
        addr_from_tuple(remote, &to)
        datagram_too_big(conn, &to, size, now)

    def transmit(self, QuicConnection conn, int64_t now, int max_segments=1):
        """The next datagrams of a connection, or None: (remote, local, ecn, segment, data, extra remotes)."""
        cdef Transmit out
        cdef bytearray buf = bytearray(65536)
        cdef int at = 0, count = 0
        cdef size_t n = poll_transmit(conn, now, <uint8_t*><char*>buf, 65536, max_segments, &out)
        if conn.failed:
            end_failed(conn)
        if n == 0:
            conn.deadline = next_deadline(conn)
            return None
        extra = []
        if out.dialing:
            dial_window(conn, &at, &count)
            out.remote = dial_at(conn, at)[0]
            extra = [addr_to_tuple(dial_at(conn, at + k)) for k in range(1, count)]
        return (addr_to_tuple(&out.remote), addr_to_tuple(&out.local) if ip_known(&out.local) else None, out.ecn, out.segment,
                bytes(buf[:n]), extra)

    def take_replies(self):
        """Datagrams of the endpoint itself: [(remote, local, data)]."""
        out = list(self.outgoing)
        self.outgoing.clear()
        return out

    def timeout(self, QuicConnection conn):
        """When `handle_timeout` is due for the connection, or None."""
        conn.deadline = next_deadline(conn)
        return conn.deadline or None

    def handle_timeout(self, QuicConnection conn, int64_t now):
        """Let time pass for one connection."""
        handle_timeout(conn, now)

    def known_ids(self):
        """Number of ids that are routed (leak checks)."""
        return self.ids.live + len(self.initial_ids) + len(self.admission.attempts)
