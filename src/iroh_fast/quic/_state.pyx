"""State of one QUIC connection: paths, connection ids, what is waiting to be sent, how it ends.

The first of four rooms, each a class on top of the one before: `ConnectionState`, `LossRecovery`
(_loss), `SecuredConnection` (_handshake), `QuicConnection` (_connection). Everything a packet
touches is C. Times are nanoseconds of a monotonic clock that the caller supplies.
Sources: RFC 9000 §5.1, §8, §9, §10, the multipath draft, and iroh's use of them.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from iroh_fast._batch cimport UdpAddr, addr_to_tuple
from iroh_fast._packet cimport *
from iroh_fast.quic._buffers cimport sendbuf_init, sendbuf_free, recvbuf_init, recvbuf_free
from iroh_fast.quic._congestion cimport CC_CUBIC, CC_NEW_RENO, cc_init
from iroh_fast.quic._mtud cimport mtud_init, mtud_peer_limit
from iroh_fast.quic._pacer cimport pacer_init
from iroh_fast.quic._rtt cimport rtt_init, rtt_get, rtt_conservative, rtt_pto_base
from iroh_fast.quic._datagrams cimport queue_free
from iroh_fast.quic._keys cimport LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_clear, keys_drop, keys_init
from iroh_fast.quic._paths cimport *
from iroh_fast.quic._recovery cimport space_free, space_init
from iroh_fast.quic._sent cimport frame_rec, frame_recs_free
from iroh_fast.quic._streams cimport QuicStream
from iroh_fast.quic._time cimport MS, ns_of
from iroh_fast.quic._timers cimport TIMER_CHALLENGE, TIMER_CLOSE, TIMER_VALIDATION, timer_clear, timer_set, timers_clear

import logging

from iroh_fast.errors import CloseReason

logger = logging.getLogger("iroh_fast.quic")

cdef enum:
    MAX_PATH_LOG = 64
    MAX_ACK_DELAY_MS = 25

# What a connection without a handshake level points to: not live, never written.
cdef Level NO_LEVEL

FRAME_NAMES = (
    "padding", "ping", "acks", "reset_stream", "stop_sending", "crypto", "new_token", "stream", "max_data",
    "max_stream_data", "max_streams_bidi", "max_streams_uni", "data_blocked", "stream_data_blocked",
    "streams_blocked_bidi", "streams_blocked_uni", "new_connection_id", "retire_connection_id", "path_challenge",
    "path_response", "connection_close", "handshake_done", "immediate_ack", "datagram", "ack_frequency", "path_acks",
    "path_abandon", "path_status_backup", "path_status_available", "path_new_connection_id",
    "path_retire_connection_id", "max_path_id", "paths_blocked", "path_cids_blocked", "observed_addr", "add_address",
    "reach_out", "remove_address")

ABANDON_REASONS = {APPLICATION_ABANDON_PATH: "application", PATH_UNSTABLE_OR_POOR: "timed out"}

cdef class Host:
    cdef void wake(self, ConnectionState c) noexcept:
        pass

    cdef void new_cid(self, uint8_t* cid8) noexcept nogil:
        pass

    cdef void token_for(self, const uint8_t* cid8, uint8_t* token16) noexcept nogil:
        pass

    cdef void cid_add(self, uint64_t cid, ConnectionState c, uint32_t path_id) noexcept:
        pass

    cdef void cid_remove(self, uint64_t cid) noexcept:
        pass

    cdef void reset_token_add(self, bytes token, ConnectionState c):
        pass

    cdef void reset_token_remove(self, bytes token):
        pass

    cdef void on_drained(self, ConnectionState c) noexcept:
        pass

    cdef int64_t clock_ns(self) noexcept nogil:
        return 0

cdef int load_config(object t, Config* c) except -1:
    """Read a QuicTransportConfig once per connection."""
    cdef object m = t.mtu_discovery, af = t.ack_frequency
    memset(c, 0, sizeof(Config))
    c.idle_timeout = ns_of(t.max_idle_timeout)
    c.keep_alive = ns_of(t.keep_alive_interval)
    c.path_idle = ns_of(t.default_path_max_idle_timeout)
    c.path_keep_alive = ns_of(t.default_path_keep_alive_interval)
    c.initial_rtt = ns_of(t.initial_rtt)
    c.max_bidi = t.max_concurrent_bidi_streams
    c.max_uni = t.max_concurrent_uni_streams
    c.stream_window = t.stream_receive_window
    c.receive_window = t.receive_window
    c.send_window = t.send_window
    c.fair = t.send_fairness
    c.spin = t.allow_spin
    c.mtud = m is not None
    c.pad_to_mtu = t.pad_to_mtu
    c.gso = t.enable_segmentation_offload
    c.observed_send = t.send_observed_address_reports
    c.observed_receive = t.receive_observed_address_reports
    c.packet_threshold = t.packet_threshold
    c.time_threshold = t.time_threshold
    c.persistent_threshold = t.persistent_congestion_threshold
    c.initial_mtu = t.initial_mtu
    c.min_mtu = t.min_mtu
    if m is not None:
        c.mtu_bound = m.upper_bound
        c.mtu_interval = ns_of(m.interval)
        c.mtu_cooldown = ns_of(m.black_hole_cooldown)
        c.mtu_min_change = m.minimum_change
    else:
        c.mtu_bound = c.initial_mtu
    c.crypto_buffer = t.crypto_buffer_size
    c.datagrams = t.datagram_receive_buffer_size is not None
    c.datagram_rx = t.datagram_receive_buffer_size or 0
    c.datagram_tx = t.datagram_send_buffer_size
    c.cc = CC_NEW_RENO if t.congestion_controller == "newreno" else CC_CUBIC
    c.max_paths = t.max_concurrent_multipath_paths or 0
    c.max_nat = t.max_remote_nat_traversal_addresses or 0
    if af is not None:
        c.ack_frequency = True
        c.af_threshold = af.ack_eliciting_threshold
        c.af_reorder = af.reordering_threshold
        c.af_max_delay = ns_of(af.max_ack_delay)
    return 0


cdef class ConnectionState(StreamOwner):
    """What all rooms of a connection share."""

    def __cinit__(self):
        cdef int i
        self.initial = self.handshake = &NO_LEVEL
        self.state = ST_HANDSHAKE
        keys_init(&self.keys)
        timers_clear(&self.timers)
        self.max_path_used = 0
        self.ack_frequency_seq = -1
        self.max_ack_delay = MAX_ACK_DELAY_MS * MS
        self.peer_max_ack_delay = MAX_ACK_DELAY_MS * MS
        self.peer_ack_exponent = 3
        self.ack_threshold = 1
        self.ack_reorder = 1
        sendbuf_init(&self.data_crypto_tx)
        recvbuf_init(&self.data_crypto_rx)

    def __dealloc__(self):
        cdef Path* p = self.paths
        cdef Path* pn
        cdef CidSet* c = self.cids
        cdef CidSet* cn
        self.drop_level(LEVEL_INITIAL)
        self.drop_level(LEVEL_HANDSHAKE)
        while p != NULL:
            pn = p.next
            path_free(p)
            p = pn
        while c != NULL:
            cn = c.next
            free(c)
            c = cn
        keys_clear(&self.keys)
        sendbuf_free(&self.data_crypto_tx)
        recvbuf_free(&self.data_crypto_rx)
        frame_recs_free(self.pending_head)
        queue_free(&self.dgram_rx)
        queue_free(&self.dgram_tx)
        free(self.abandoned.ranges)
        free(self.off_path)
        free(self.done)
        free(self.budgets)
        free(self.dial)
        free(self.peer_parameters)
        free(self.remembered_parameters)

    cdef void want_send(self) noexcept:
        self.host.wake(self)

    cdef object ended(self):
        return None if self.close_reason is None else self.close_reason.to_error()

    cdef int fail(self, uint64_t code, const char* text, uint64_t frame) noexcept nogil:
        """Note a protocol error; the caller's caller closes. Returns -1."""
        if self.err == 0:
            self.err = code
            self.err_text = text
            self.err_frame = frame
            self.failed = True
        return -1

    cdef Path* path(self, uint32_t id) noexcept nogil:
        cdef Path* p = self.last_path
        if p != NULL and p.id == id:
            return p
        p = self.paths
        while p != NULL and p.id != id:
            p = p.next
        if p != NULL:
            self.last_path = p
        return p

    cdef CidSet* cidset(self, uint32_t id, bint make) noexcept nogil:
        cdef CidSet* c = self.cids
        while c != NULL and c.path_id != id:
            c = c.next
        if c == NULL and make:
            c = cidset_new(id)
            if c != NULL:
                c.next = self.cids
                self.cids = c
        return c

    cdef void init_route(self, Route* r, const UdpAddr* remote, const UdpAddr* local) noexcept nogil:
        memset(r, 0, sizeof(Route))
        r.remote = remote[0]
        if local != NULL:
            r.local = local[0]
        self.generation += 1
        r.generation = self.generation
        r.since = self.now
        r.ecn = True
        rtt_init(&r.rtt, self.cfg.initial_rtt)
        cc_init(&r.cc, self.cfg.cc, self.cfg.initial_mtu, self.now)
        pacer_init(&r.pacer, self.now)
        mtud_init(&r.mtud, self.cfg.initial_mtu, self.cfg.min_mtu, self.cfg.mtu_bound, self.cfg.mtu_interval,
                  self.cfg.mtu_cooldown, self.cfg.mtu_min_change, self.cfg.mtud)

    cdef Path* add_path(self, uint32_t id, const UdpAddr* remote, const UdpAddr* local) noexcept nogil:
        """Create the state of a path; it inherits validation and RTT of a path on the same 4-tuple."""
        cdef Path* p = path_new(id)
        cdef Path* q
        cdef Path** at
        if p == NULL:
            return NULL
        self.init_route(&p.r, remote, local)
        space_init(&p.sp, self.host.random.word())
        self.reset_spin(p)
        p.last_rx = p.last_tx = p.idle_from = self.now
        p.permit_idle_reset = True
        p.idle_timeout = self.cfg.path_idle if id or self.multipath else 0
        mtud_peer_limit(&p.r.mtud, <uint16_t>self.peer_udp)
        q = self.paths
        while q != NULL:
            if q.r.validated and not q.abandoned and same_addr(&q.r.remote, remote):
                p.r.validated = True
                rtt_init(&p.r.rtt, rtt_conservative(&q.r.rtt))
                break
            q = q.next
        p.cids = self.cidset(id, True)
        if p.cids == NULL:
            path_free(p)
            return NULL
        at = &self.paths
        while at[0] != NULL and at[0].id < id:
            at = &at[0].next
        p.next = at[0]
        at[0] = p
        self.watch_reset(p.cids)
        if <int64_t>id > self.max_path_used:
            self.max_path_used = id
        if self.qlog is not None:
            self.log_tuple(p)
        return p

    cdef bint was_abandoned(self, uint32_t id) noexcept nogil:
        return ids_have(&self.abandoned, id)

    cdef int open_paths(self) noexcept nogil:
        cdef Path* p = self.paths
        cdef int n = 0
        while p != NULL:
            if not p.abandoned:
                n += 1
            p = p.next
        return n

    cdef void challenge(self, Path* p) noexcept nogil:
        p.challenge_due = True
        p.challenge_lost = 0
        timer_clear(&p.timers, TIMER_CHALLENGE)

    cdef void on_established(self, Path* p) noexcept nogil:
        """First proof that the path works."""
        if p.established:
            return
        p.established = True
        if p.id:
            self.issue_cids(p.id)     # path 0 has got its own with the handshake
        if self.send_observed and p.id:
            p.observed_due = True     # path 0 has been told with the parameters
        with gil:
            self.log_path("opened", p.id, addr_to_tuple(&p.r.remote),
                          addr_to_tuple(&p.r.local) if ip_known(&p.r.local) else None, None, None)

    cdef void log_path(self, str kind, uint32_t id, object a, object b, object c, object d):
        cdef tuple event = (kind, id, a, b, c, d)
        if self.path_log is None:
            self.path_log = []
        # Also when nobody takes the events: the listener follows the paths themselves.
        self.happened(W_PATHS)
        if len(self.path_log) >= MAX_PATH_LOG:
            self.path_log_lost += 1
            return
        self.path_log.append(event[:6 if kind == "closed" else 4 if kind == "opened" else 3])

    cdef void abandon(self, Path* p, uint64_t code) noexcept nogil:
        """Stop using a path and tell the peer."""
        cdef FrameRec** at
        cdef FrameRec* f
        if p.abandoned:
            return
        p.abandoned = True
        self.n_draining += 1
        p.abandon_code = code
        p.challenge_due = False
        timer_clear(&p.timers, TIMER_CHALLENGE)
        timer_clear(&p.timers, TIMER_VALIDATION)
        p.ping_due = p.immediate_ack_due = p.observed_due = p.response_due = False
        p.pto_count = 0
        p.sp.loss_probes = 0
        self.pend(FT_PATH_ABANDON, p.id, 0, code)
        # Frames about the path that are still waiting say nothing useful any more.
        at = &self.pending_head
        self.pending_tail = NULL
        while at[0] != NULL:
            f = at[0]
            if f.path == p.id and (f.type == FT_PATH_NEW_CONNECTION_ID or f.type == FT_PATH_STATUS_BACKUP
                                   or f.type == FT_PATH_STATUS_AVAILABLE):
                at[0] = f.next
                self.n_pending -= 1
                free(f)
                continue
            self.pending_tail = f
            at = &f.next
        self.note_abandoned(p.id)
        self.watch_reset(NULL)
        with gil:
            self.log_path("closed", p.id, addr_to_tuple(&p.r.remote),
                          addr_to_tuple(&p.r.local) if ip_known(&p.r.local) else None,
                          ABANDON_REASONS.get(code, f"code {code:#x}") if not p.abandon_received
                          else f"closed by peer: {code:#x}",
                          path_stats(p))

    cdef void note_abandoned(self, uint32_t id) noexcept nogil:
        """A path id must not come back."""
        if ids_add(&self.abandoned, id) < 0:
            self.fail(INTERNAL_ERROR, b"out of memory", 0)

    cdef void grant_path(self) noexcept nogil:
        """Both sides gave up a path id: allow the peer another one."""
        if self.local_max_path < <uint32_t>0xffffffff:
            self.local_max_path += 1
            self.pend(FT_MAX_PATH_ID, 0, 0, 0)
            self.issue_path_cids()

    cdef void drop_cidset(self, uint32_t id) noexcept nogil:
        """Forget all connection ids of a path id, ours and the peer's."""
        cdef CidSet** c = &self.cids
        cdef CidSet* s
        cdef int i
        while c[0] != NULL:
            s = c[0]
            if s.path_id == id:
                with gil:
                    for i in range(s.n_local):
                        self.host.cid_remove(s.local[i].value)
                c[0] = s.next
                free(s)
                return
            c = &s.next

    cdef void issue_cids(self, uint32_t path_id) noexcept nogil:
        """Bring a path id up to the number of ids the peer accepts."""
        cdef CidSet* c = self.cidset(path_id, True)
        cdef Path* path = self.path(path_id)
        cdef uint64_t limit = self.peer_cid_limit if self.peer_cid_limit < LOCAL_CIDS else LOCAL_CIDS
        cdef uint8_t cid[8]
        cdef uint64_t value
        if c == NULL:
            return
        # DIFFERS: iroh gives them all at once, 35 for paths of which most never come to be.
        if limit > UNOPENED_CIDS and path_id and (path == NULL or not path.established):
            limit = UNOPENED_CIDS
        while <uint64_t>c.n_local < limit:
            self.host.new_cid(cid)
            memcpy(&value, cid, 8)
            c.local[c.n_local].seq = c.next_seq
            c.local[c.n_local].value = value
            c.n_local += 1
            with gil:
                self.host.cid_add(value, self, path_id)
            # With multipath negotiated every id is announced with its path.
            self.pend(FT_PATH_NEW_CONNECTION_ID if self.multipath else FT_NEW_CONNECTION_ID, path_id, c.next_seq, 0)
            c.next_seq += 1

    cdef void issue_path_cids(self) noexcept nogil:
        """Give ids for every path id that both sides allow, once for each."""
        cdef uint64_t top = self.local_max_path if self.local_max_path < self.remote_max_path else self.remote_max_path
        if not self.multipath:
            return
        if self.issued_paths == 0:
            self.issued_paths = 1
        while self.issued_paths <= top:
            if not self.was_abandoned(<uint32_t>self.issued_paths):
                self.issue_cids(<uint32_t>self.issued_paths)
            self.issued_paths += 1

    cdef void rotate_cid(self, Path* p) noexcept nogil:
        cdef uint64_t old
        if p.cids != NULL and remote_cid_rotate(p.cids, &old):
            self.reset_spin(p)
            self.watch_reset(p.cids)
            self.n_retire += 1
            self.pend(FT_PATH_RETIRE_CONNECTION_ID if self.multipath else FT_RETIRE_CONNECTION_ID, p.id, old, 0)

    cdef void reset_spin(self, Path* p) noexcept nogil:
        """The spin bit starts anew with each connection id (RFC 9000 §17.4)."""
        p.spin = not self.spinning and (self.host.random.word() & 1)

    cdef void pend_rec(self, FrameRec* f) noexcept nogil:
        f.next = NULL
        if self.pending_tail == NULL:
            self.pending_head = f
        else:
            self.pending_tail.next = f
        self.pending_tail = f
        self.n_pending += 1

    cdef void pend(self, uint64_t type, uint64_t path, uint64_t id, uint64_t a) noexcept nogil:
        cdef FrameRec* f = NULL
        if frame_rec(&f, type, path, id, a, 0) != NULL:
            self.pend_rec(f)

    cdef void end_failed(self) noexcept:
        """Close because of `err`; runs outside of packet processing."""
        cdef object text
        cdef uint64_t err = self.err
        self.failed = False
        self.err = 0                  # a closing connection still listens to its peer
        if self.state >= ST_CLOSING:
            return
        try:
            text = self.close_text if self.close_text is not None else (
                (<bytes>self.err_text).decode() if self.err_text != NULL else "")
            if err == AEAD_LIMIT_REACHED:
                self.finish_drained(CloseReason("transport_local", err, b"", False, None, text))
                return
            logger.debug("connection %d: closing with %#x %s", self.stable_id, err, text)
            self.enter_close(CloseReason("transport_local", err, text.encode(), False, self.err_frame or None, text),
                             err, False, text.encode(), self.err_frame)
        except Exception:
            logger.exception("closing failed")

    cdef void log_packet(self, bint sent, int level, uint32_t path_id, uint64_t pn, size_t size, const uint8_t* payload,
                         size_t n) noexcept nogil:
        with gil:
            self.qlog.packet(self.now, sent, level, path_id, pn, size, PyBytes_FromStringAndSize(<const char*>payload, n))

    cdef void log_tuple(self, Path* p) noexcept nogil:
        with gil:
            self.qlog.assigned(self.now, p.id, addr_to_tuple(&p.r.remote),
                               addr_to_tuple(&p.r.local) if ip_known(&p.r.local) else None)

    cdef int make_level(self, Level** l) noexcept nogil:
        """Start a handshake level. 0, or -1 out of memory."""
        cdef Level* fresh = <Level*>calloc(1, sizeof(Level))
        if fresh == NULL:
            return -1
        fresh.live = True
        space_init(&fresh.sp, self.host.random.word())
        sendbuf_init(&fresh.tx)
        recvbuf_init(&fresh.rx)
        l[0] = fresh
        return 0

    cdef void drop_level(self, int level) noexcept nogil:
        """End Initial or Handshake. Keys, packets and buffers of the handshake are a third of an idle connection."""
        cdef Level** place = &self.initial if level == LEVEL_INITIAL else &self.handshake
        cdef Level* old = place[0]
        if not old.live:
            return
        place[0] = &NO_LEVEL
        keys_drop(&self.keys, level)
        space_free(&old.sp)
        sendbuf_free(&old.tx)
        recvbuf_free(&old.rx)
        free(old)

    cdef int64_t pto_max(self) noexcept nogil:
        """The largest PTO of all paths; what close, idle and key timers are multiples of.

        A path that never worked has only the PTO to start with, and carries nothing to wait for: it counts when there
        is no other.
        """
        cdef Path* p = self.paths
        cdef int64_t best = 0, unproven = 0, v
        while p != NULL:
            if not p.abandoned:
                v = rtt_pto_base(&p.r.rtt) + self.peer_max_ack_delay
                if p.established:
                    if v > best:
                        best = v
                elif v > unproven:
                    unproven = v
            p = p.next
        return best or unproven or 3 * self.cfg.initial_rtt

    cdef void end(self, object reason):
        """Tell everybody, once."""
        cdef Path* p = self.paths
        cdef int kind
        if self.close_reason is not None:
            return
        self.close_reason = reason
        if self.qlog is not None:
            self.qlog.closed(self.now, reason, self.close_code, self.close_app)
        while p != NULL:
            if not p.abandoned and p.established:
                self.log_path("closed", p.id, addr_to_tuple(&p.r.remote),
                              addr_to_tuple(&p.r.local) if ip_known(&p.r.local) else None, str(reason), path_stats(p))
            p = p.next
        self.streams.end()
        for kind in range(N_WAITS):
            if kind != W_DRAINED:
                self.happened(kind)
        self.host.wake(self)

    cdef void enter_close(self, object reason, uint64_t code, bint app, object text, uint64_t frame):
        if self.state >= ST_CLOSING:
            return
        self.state = ST_CLOSING
        self.close_due = True
        self.close_app = app
        self.close_code = code
        self.close_text = text
        self.close_frame = frame
        timers_clear(&self.timers)
        timer_set(&self.timers, TIMER_CLOSE, self.now + 3 * self.pto_max())
        self.close_next = self.now + (rtt_get(&self.paths.r.rtt) if self.paths != NULL else self.cfg.initial_rtt)
        self.end(reason)
        self.host.wake(self)

    cdef void enter_drain(self, object reason, bint reply):
        if self.state >= ST_DRAINING:
            return
        if self.state == ST_CLOSING:
            self.state = ST_DRAINING
            self.close_due = False
            return
        self.state = ST_DRAINING
        self.close_due = reply
        self.close_app = False
        self.close_code = NO_ERROR
        self.close_text = b""
        self.close_frame = 0
        timers_clear(&self.timers)
        timer_set(&self.timers, TIMER_CLOSE, self.now + 3 * self.pto_max())
        self.end(reason)

    cdef void finish_drained(self, object reason):
        if self.state == ST_DRAINED:
            return
        self.state = ST_DRAINED
        self.deadline = 0
        timers_clear(&self.timers)
        if reason is not None:
            self.end(reason)
        self.host.on_drained(self)
        if self.qlog is not None:
            self.qlog.finish()
        self.happened(W_DRAINED)
        self.host.wake(self)

    cdef bint last_open(self, Path* p) noexcept nogil:
        cdef Path* q = self.paths
        while q != NULL:
            if q != p and not q.abandoned:
                return False
            q = q.next
        return True

    cdef bint irreplaceable(self, Path* p) noexcept nogil:
        """Whether no other open path is known to work: then it may not be given up for being idle."""
        cdef Path* q = self.paths
        while q != NULL:
            if q != p and not q.abandoned and q.r.validated:
                return False
            q = q.next
        return True

    cdef bint any_usable(self) noexcept nogil:
        """Whether some path can carry anything to the peer."""
        cdef Path* q = self.paths
        while q != NULL:
            if q.r.validated and not q.abandoned and q.cids.active >= 0:
                return True
            q = q.next
        return False

    cdef bint must_abandon_itself(self, Path* p) noexcept nogil:
        """Whether the end of an abandoned path can only be told on that path."""
        return (p.abandoned and not p.abandon_received and p.r.validated and p.cids.active >= 0
                and not self.any_usable())

    cdef void happened(self, int kind) noexcept nogil:
        """Record an event for whoever takes them."""
        self.dirty_events |= <uint32_t>1 << kind

    cdef uint32_t take_events(self) noexcept nogil:
        """What happened since the last call, as bits 1 << W_...; the streams' own events are apart."""
        cdef uint32_t events = self.dirty_events | (self.streams.events << W_ACCEPT_BI)
        self.dirty_events = 0
        self.streams.events = 0
        return events

    @property
    def unconfirmed_streams(self):
        """Streams that were finished and are not wholly acknowledged; WAIT_FINISHED when there are none any more."""
        return self.streams.unconfirmed

    def poll_events(self):
        """What happened since the last call, for hosts without a driver.

        Returns
        -------
        tuple
            Bits ``1 << WAIT_...`` of the connection, and a list of (QuicStream, EV_... bits).
        """
        cdef list streams = []
        cdef uint32_t bits = 0
        while (stream := self.streams.next_event(&bits)) is not None:
            streams.append((stream, bits))
        return self.take_events(), streams

    cdef uint16_t path_mtu(self) noexcept nogil:
        cdef Path* p = self.paths
        cdef uint16_t best = 65535
        while p != NULL:
            if not p.abandoned and p.r.mtud.current < best:
                best = p.r.mtud.current
            p = p.next
        return best if best != 65535 else self.cfg.initial_mtu

    cdef void set_status(self, Path* p, int status) noexcept nogil:
        p.status = status
        p.status_seq += 1
        if self.multipath:
            self.pend(FT_PATH_STATUS_BACKUP if status == STATUS_BACKUP else FT_PATH_STATUS_AVAILABLE, p.id, p.status_seq, 0)

    cdef void retire_later(self, uint64_t cid):
        """Keep routing an id the peer retired for a while: packets with it may be under way."""
        cdef list old
        if self.retired is None:
            self.retired = []
        old = self.retired
        while old and (old[0][1] <= self.now or len(old) > 64):
            self.host.cid_remove(old.pop(0)[0])
        old.append((cid, self.now + 3 * self.pto_max()))

    cdef void unregister(self):
        """Forget every id at the endpoint."""
        cdef CidSet* c = self.cids
        cdef int i
        while c != NULL:
            for i in range(c.n_local):
                self.host.cid_remove(c.local[i].value)
            c = c.next
        if self.retired is not None:
            for cid, _ in self.retired:
                self.host.cid_remove(cid)
            self.retired = None
        if self.reset_tokens is not None:
            for token in self.reset_tokens:
                self.host.reset_token_remove(token)
            self.reset_tokens = None

    cdef void watch_reset(self, CidSet* c) noexcept nogil:
        """Have the endpoint recognise stateless resets for the ids in use, and only for those (RFC 9000 §10.3.1).

        `c`: what changed, NULL for anything.
        """
        cdef Path* p = self.paths
        if c != NULL and (c.active < 0 or not c.remote[c.active].has_token):
            return
        with gil:
            wanted = []
            while p != NULL:
                if not p.abandoned and p.cids.active >= 0 and p.cids.remote[p.cids.active].has_token:
                    wanted.append(PyBytes_FromStringAndSize(<char*>p.cids.remote[p.cids.active].token, 16))
                p = p.next
            old = self.reset_tokens or []
            for token in old:
                if token not in wanted:
                    self.host.reset_token_remove(token)
            for token in wanted:
                if token not in old:
                    self.host.reset_token_add(token, self)
            self.reset_tokens = wanted


cdef bytes addr_bytes(const UdpAddr* a):
    return PyBytes_FromStringAndSize(<char*>a, sizeof(UdpAddr))


cdef object path_stats(Path* p):
    cdef PathStats* s = &p.stats
    cdef int i
    return {
        "udp_tx": {"datagrams": s.tx_datagrams, "bytes": s.tx_bytes},
        "udp_rx": {"datagrams": s.rx_datagrams, "bytes": s.rx_bytes},
        "frame_tx": {name: s.tx_frames[i] for i, name in enumerate(FRAME_NAMES)},
        "frame_rx": {name: s.rx_frames[i] for i, name in enumerate(FRAME_NAMES)},
        "rtt": rtt_get(&p.r.rtt) / 1e9, "cwnd": p.r.cc.cwnd, "congestion_events": s.congestion_events,
        "spurious_congestion_events": s.spurious, "lost_packets": s.lost_packets, "lost_bytes": s.lost_bytes,
        "sent_plpmtud_probes": p.r.mtud.probes_sent, "lost_plpmtud_probes": p.r.mtud.probes_lost,
        "black_holes_detected": p.r.mtud.black_holes, "current_mtu": p.r.mtud.current}
