"""One QUIC connection without IO: receiving, recovery, timers and the handle for the layers above.

Everything a packet touches is C; TLS, events and the methods of the handle are
Python. Times are nanoseconds of a monotonic clock that the caller supplies.
Sources: RFC 9000, 9001, 9002, 9221, the multipath, ACK frequency and address
discovery drafts, and iroh's use of them.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from iroh_fast._batch cimport UdpAddr, addr_from_tuple, addr_to_tuple, addr_is_v4
from iroh_fast._crypto cimport (
    Aead, HeaderKey, aead_free, aead_open, constant_time_equal, hp_free, hp_masks, initial_secrets, keys_from_secret,
    next_secret, retry_integrity_tag, SUITE_AES128_GCM, SUITE_CHACHA20_POLY1305)
from iroh_fast._packet cimport *
from iroh_fast.quic._buffers cimport (
    sendbuf_init, sendbuf_free, sendbuf_write_copy, sendbuf_ack, sendbuf_lost, sendbuf_rewind, recvbuf_init,
    recvbuf_free, recvbuf_insert, recvbuf_take, recvbuf_readable)
from iroh_fast.quic._congestion cimport (
    CC_CUBIC, CC_NEW_RENO, rtt_init, rtt_sample, rtt_get, rtt_conservative, rtt_pto_base, cc_init, cc_on_ack,
    cc_on_congestion, cc_on_spurious, cc_on_mtu, pacer_init, mtud_init, mtud_peer_limit, mtud_on_acked,
    mtud_on_probe_lost, mtud_on_lost, mtud_black_hole, MTUD_COMPLETE)
from iroh_fast.quic._counters cimport *
from iroh_fast.quic._datagrams cimport queue_init, queue_free, queue_push, queue_peek, queue_pop, queue_empty
from iroh_fast.quic._paths cimport *
from iroh_fast.quic._recovery cimport *
from iroh_fast.quic._streams cimport (
    Streams, QuicStream, EV_OPENED_BI, EV_OPENED_UNI, EV_AVAILABLE_BI, EV_AVAILABLE_UNI)

import logging
from collections import deque

from iroh_fast.errors import (
    CloseReason, ConfigError, DatagramDisabled, DatagramTooLarge, DatagramUnsupported, IrohError)
from iroh_fast.quic.parameters import ParameterError, TransportParameters

logger = logging.getLogger("iroh_fast.quic")

WAIT_HANDSHAKE = W_HANDSHAKE
WAIT_CONFIRMED = W_CONFIRMED
WAIT_ALPN = W_ALPN
WAIT_CLOSED = W_CLOSED
WAIT_DRAINED = W_DRAINED
WAIT_DATAGRAM = W_DATAGRAM
WAIT_DATAGRAM_SPACE = W_DATAGRAM_SPACE
WAIT_ACCEPT_BI = W_ACCEPT_BI
WAIT_ACCEPT_UNI = W_ACCEPT_UNI
WAIT_OPEN_BI = W_OPEN_BI
WAIT_OPEN_UNI = W_OPEN_UNI
WAIT_PATHS = W_PATHS

cdef int64_t MS = 1000000
cdef int64_t SECOND = 1000000000
cdef int64_t NEVER = <int64_t>0x7fffffffffffffff
cdef uint64_t MAX_VARINT = (<uint64_t>1 << 62) - 1

cdef enum:
    MAX_EARLY_DATAGRAMS = 10      # 1-RTT datagrams kept until the keys exist
    MAX_RETIRE_PENDING = 50
    MAX_ABANDONED = 1024
    MAX_PATH_LOG = 64
    ACK_DELAY_EXPONENT = 3
    MAX_ACK_DELAY_MS = 25

# AEAD limits, RFC 9001 §6.6
cdef uint64_t GCM_SEAL_LIMIT = <uint64_t>1 << 23
cdef uint64_t GCM_OPEN_LIMIT = <uint64_t>1 << 52
cdef uint64_t CHACHA_OPEN_LIMIT = <uint64_t>1 << 36
cdef uint64_t UPDATE_MARGIN = 10000

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
    cdef void wake(self, QuicConnection c) noexcept:
        pass

    cdef void new_cid(self, uint8_t* cid8) noexcept nogil:
        pass

    cdef void token_for(self, const uint8_t* cid8, uint8_t* token16) noexcept nogil:
        pass

    cdef void cid_add(self, uint64_t cid, QuicConnection c, uint32_t path_id) noexcept:
        pass

    cdef void cid_remove(self, uint64_t cid) noexcept:
        pass

    cdef void reset_token_add(self, bytes token, QuicConnection c):
        pass

    cdef void reset_token_remove(self, bytes token):
        pass

    cdef void on_drained(self, QuicConnection c) noexcept:
        pass

    cdef int64_t clock_ns(self) noexcept nogil:
        return 0


cdef inline int64_t ns(object seconds) except? -1:
    return 0 if seconds is None else <int64_t>(<double>seconds * 1e9)


cdef int load_config(object t, Config* c) except -1:
    """Read a QuicTransportConfig once per connection."""
    cdef object m = t.mtu_discovery, af = t.ack_frequency
    memset(c, 0, sizeof(Config))
    c.idle_timeout = ns(t.max_idle_timeout)
    c.keep_alive = ns(t.keep_alive_interval)
    c.path_idle = ns(t.default_path_max_idle_timeout)
    c.path_keep_alive = ns(t.default_path_keep_alive_interval)
    c.initial_rtt = ns(t.initial_rtt)
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
        c.mtu_interval = ns(m.interval)
        c.mtu_cooldown = ns(m.black_hole_cooldown)
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
        c.af_max_delay = ns(af.max_ack_delay)
    return 0


cdef void keys_free(Keys* k) noexcept nogil:
    aead_free(k.rx)
    aead_free(k.tx)
    hp_free(k.rx_hp)
    hp_free(k.tx_hp)
    memset(k, 0, sizeof(Keys))


@cython.final
cdef class QuicConnection(StreamOwner):
    """One connection of a sans-IO QUIC endpoint.

    Made by ``QuicEndpoint.connect`` and ``QuicIncoming.accept``. Methods act at
    once and never wait; `wait` gives a future for the next event of a kind.
    """

    def __cinit__(self):
        cdef int i
        self.waiters = None
        self.state = ST_HANDSHAKE
        self.phase_first_pn = -1
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
        if self.initial.live:
            self.drop_level(&self.initial)
        if self.handshake.live:
            self.drop_level(&self.handshake)
        while p != NULL:
            pn = p.next
            path_free(p)
            p = pn
        while c != NULL:
            cn = c.next
            free(c)
            c = cn
        keys_free(&self.app)
        aead_free(self.rx_prev)
        aead_free(self.rx_next)
        aead_free(self.tx_next)
        aead_free(self.early_key)
        hp_free(self.early_hp)
        memset(self.rx_secret, 0, 48)
        memset(self.tx_secret, 0, 48)
        sendbuf_free(&self.data_crypto_tx)
        recvbuf_free(&self.data_crypto_rx)
        frame_recs_free(self.pending_head)
        queue_free(&self.dgram_rx)
        queue_free(&self.dgram_tx)
        free(self.abandoned)
        free(self.off_path)
        free(self.dial)

    def __repr__(self):
        side = "client" if self.is_client else "server"
        return f"<QuicConnection {self.stable_id} {side} {STATE_NAMES[self.state]}>"

    cdef uint64_t random(self) noexcept nogil:
        """xoroshiro128+: seeded per connection; for packet number gaps, spin and challenge values' timing only."""
        cdef uint64_t a = self.rng[0], b = self.rng[1], r = self.rng[0] + self.rng[1]
        b ^= a
        self.rng[0] = ((a << 24) | (a >> 40)) ^ b ^ (b << 16)
        self.rng[1] = (b << 37) | (b >> 27)
        return r

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

    # ------------------------------------------------------------- paths
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
        space_init(&p.sp, self.random())
        p.last_rx = p.last_tx = p.idle_from = self.now
        p.permit_idle_reset = True
        p.idle_timeout = self.cfg.path_idle if id or self.multipath else 0
        if self.peer_parameters is not None:
            mtud_peer_limit(&p.r.mtud, <uint16_t>self.peer_max_udp())
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

    cdef uint32_t peer_max_udp(self) noexcept nogil:
        return self.peer_udp

    cdef bint was_abandoned(self, uint32_t id) noexcept nogil:
        cdef int i
        for i in range(self.n_abandoned):
            if self.abandoned[i] == id:
                return True
        return False

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
        p.challenge_at = 0

    cdef void on_established(self, Path* p) noexcept nogil:
        """First proof that the path works."""
        if p.established:
            return
        p.established = True
        if self.send_observed and p.id:
            p.observed_due = True     # path 0 has been told with the parameters
        with gil:
            self.log_path("opened", p.id, addr_to_tuple(&p.r.remote),
                          addr_to_tuple(&p.r.local) if ip_known(&p.r.local) else None, None, None)

    cdef void log_path(self, str kind, uint32_t id, object a, object b, object c, object d):
        cdef tuple event = (kind, id, a, b, c, d)
        if self.path_log is None:
            self.path_log = deque()
        # Also when nobody takes the events: the listener follows the paths themselves.
        self.dirty_events |= <uint32_t>1 << W_PATHS
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
        p.abandon_code = code
        p.challenge_due = False
        p.challenge_at = 0
        p.validation_fails_at = 0
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
        cdef uint32_t* grown
        if self.n_abandoned < MAX_ABANDONED:
            grown = <uint32_t*>realloc(self.abandoned, (self.n_abandoned + 1) * sizeof(uint32_t))
            if grown != NULL:
                self.abandoned = grown
                self.abandoned[self.n_abandoned] = id
                self.n_abandoned += 1

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

    cdef void discard_path(self, Path* p) noexcept nogil:
        """Drained: what was in flight is lost, the ids are forgotten, counters are kept."""
        cdef Path** at = &self.paths
        cdef int i
        if self.qlog is not None:
            with gil:
                self.qlog.assigned(self.now, p.id, None, None)
        while p.sp.outstanding:
            self.declare_lost(p, &p.sp, p.sp.first, LEVEL_1RTT)
        self.done.tx_datagrams += p.stats.tx_datagrams
        self.done.tx_bytes += p.stats.tx_bytes
        self.done.rx_datagrams += p.stats.rx_datagrams
        self.done.rx_bytes += p.stats.rx_bytes
        self.done.lost_packets += p.stats.lost_packets
        self.done.lost_bytes += p.stats.lost_bytes
        for i in range(N_COUNTERS):
            self.done.tx_frames[i] += p.stats.tx_frames[i]
            self.done.rx_frames[i] += p.stats.rx_frames[i]
        self.drop_cidset(p.id)
        while at[0] != p:
            at = &at[0].next
        at[0] = p.next
        if self.last_path == p:
            self.last_path = NULL
        path_free(p)

    cdef void issue_cids(self, uint32_t path_id) noexcept nogil:
        """Bring a path id up to the number of ids the peer accepts."""
        cdef CidSet* c = self.cidset(path_id, True)
        cdef uint64_t limit = self.peer_cid_limit if self.peer_cid_limit < LOCAL_CIDS else LOCAL_CIDS
        cdef uint8_t cid[8]
        cdef uint64_t value
        if c == NULL:
            return
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
        cdef uint32_t top = self.local_max_path if self.local_max_path < self.remote_max_path else self.remote_max_path
        cdef uint32_t id
        cdef CidSet* c
        if not self.multipath:
            return
        for id in range(1, top + 1):
            if not self.was_abandoned(id):
                c = self.cidset(id, False)
                if c == NULL or c.next_seq == 0:
                    self.issue_cids(id)

    cdef void rotate_cid(self, Path* p) noexcept nogil:
        cdef uint64_t old
        if p.cids != NULL and remote_cid_rotate(p.cids, &old):
            self.watch_reset(p.cids)
            self.n_retire += 1
            self.pend(FT_PATH_RETIRE_CONNECTION_ID if self.multipath else FT_RETIRE_CONNECTION_ID, p.id, old, 0)

    # ------------------------------------------------------------- frames to send
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

    # ------------------------------------------------------------- receiving
    cdef void receive(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn, int64_t now,
                      uint32_t path_id, bint routed) noexcept:
        """Process one datagram, in place. `path_id` is what its first destination id stands for."""
        cdef Path* p
        cdef size_t used, total = n
        self.now = now
        if self.state >= ST_DRAINING:
            return
        p = self.path(path_id)
        if p != NULL and same_addr(&p.r.remote, src):
            p.r.received += n
            p.stats.rx_datagrams += 1
            p.stats.rx_bytes += n
        while n > 0 and self.err == 0 and self.state < ST_DRAINING:
            if not data[0] & 0x80:
                if self.app.rx != NULL:
                    self.receive_short(data, n, src, dst, ecn, path_id)
                elif self.state == ST_HANDSHAKE and path_id == 0:
                    if self.early_datagrams is None:
                        self.early_datagrams = []
                    if len(self.early_datagrams) < MAX_EARLY_DATAGRAMS:
                        self.early_datagrams.append((
                            PyBytes_FromStringAndSize(<char*>data, n), addr_bytes(src), addr_bytes(dst), ecn))
                break
            if path_id != 0:
                # INTEROP: iroh closes on long headers for other paths; a stale coalesced packet is no reason to.
                break
            if self.receive_long(data, n, src, dst, ecn, total, &used) < 0:
                break
            data += used
            n -= used
        if recvbuf_readable(&self.data_crypto_rx) and self.err == 0 and self.state < ST_CLOSING:
            self.tls_feed(LEVEL_1RTT)
        if self.failed:
            self.end_failed()

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

    def replay_early(self):
        """Process 1-RTT datagrams that arrived before their keys."""
        cdef list kept = self.early_datagrams
        cdef bytes d, s, t
        cdef UdpAddr src, dst
        cdef bytearray copy
        self.early_datagrams = None
        if kept is None:
            return
        for d, s, t, ecn in kept:
            if self.err or self.state >= ST_CLOSING:
                return
            copy = bytearray(d)
            memcpy(&src, PyBytes_AS_STRING(s), sizeof(UdpAddr))
            memcpy(&dst, PyBytes_AS_STRING(t), sizeof(UdpAddr))
            self.receive_short(<uint8_t*><char*>copy, len(copy), &src, &dst, ecn, 0)

    cdef int receive_long(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                          size_t total, size_t* used) noexcept:
        """One long-header packet. 0 with its length in `used`, or -1 to drop the rest of the datagram."""
        cdef LongHeader h
        cdef Level* l
        cdef PnSpace* sp
        cdef Path* p = self.path(0)
        cdef Aead* key
        cdef HeaderKey* hp
        cdef const uint8_t* sample
        cdef uint8_t mask[16]
        cdef uint8_t* pnb
        cdef uint64_t truncated = 0, pn
        cdef int pnl, i, level
        cdef int64_t before
        cdef Py_ssize_t plain
        cdef bint eliciting = False, probing = True
        if p == NULL or parse_long_header(data, n, &h) < 0:
            return -1
        used[0] = h.packet_len
        if h.type == -1:
            if self.is_client and h.version == 0:
                self.on_version_negotiation(data, n, &h)
            return -1
        if h.type == 3:
            if self.is_client:
                self.on_retry(data, n, h.scid, h.scid_len, h.token, h.token_len)
            return -1
        if h.type == 1:
            if self.is_client or self.early_key == NULL:
                return 0
            level = LEVEL_0RTT
            key = self.early_key
            hp = self.early_hp
            sp = &p.sp
        else:
            level = LEVEL_INITIAL if h.type == 0 else LEVEL_HANDSHAKE
            l = &self.initial if level == LEVEL_INITIAL else &self.handshake
            if not l.live or l.keys.rx == NULL:
                return 0
            key = l.keys.rx
            hp = l.keys.rx_hp
            sp = &l.sp
        if level == LEVEL_INITIAL and not self.is_client and total < MIN_DATAGRAM:
            return 0
        # Once known, the peer's handshake id does not change (RFC 9000 §7.2).
        if self.server_scid_known and level != LEVEL_0RTT and (
                h.scid_len != self.dcid0_len or memcmp(h.scid, self.dcid0, h.scid_len) != 0):
            return 0
        if h.packet_len < h.pn_offset + 4 + 16:
            return 0
        sample = data + h.pn_offset + 4
        if hp_masks(hp, &sample, 1, mask) < 0:
            return -1
        data[0] ^= mask[0] & 0x0f
        pnl = (data[0] & 3) + 1
        pnb = data + h.pn_offset
        for i in range(pnl):
            pnb[i] ^= mask[1 + i]
            truncated = (truncated << 8) | pnb[i]
        pn = pn_expand(truncated, pnl, <uint64_t>(sp.largest_rx + 1))
        if space_is_duplicate(sp, pn):
            return 0
        plain = aead_open(key, 0, pn, data, h.pn_offset + pnl, pnb + pnl, h.packet_len - h.pn_offset - pnl)
        if plain < 0:
            self.opened_fail += 1
            return 0
        if data[0] & 0x0c:
            if self.got_first_packet:
                self.fail(PROTOCOL_VIOLATION, b"reserved bits set", 0)
            return -1
        # --- authenticated
        if self.qlog is not None:
            self.log_packet(False, level, 0, pn, h.packet_len, pnb + pnl, <size_t>plain)
        if level == LEVEL_0RTT and self.app.rx != NULL and self.key_discard_at == 0:
            self.key_discard_at = self.now + 3 * self.pto_max()
        self.got_first_packet = True
        if not self.server_scid_known and level != LEVEL_0RTT:
            self.server_scid_known = True
            memcpy(self.dcid0, h.scid, h.scid_len)
            self.dcid0_len = h.scid_len
            if p.cids.n_remote == 0 or (p.cids.n_remote == 1 and p.cids.remote[0].seq == 0):
                p.cids.n_remote = 1
                p.cids.active = 0
                p.cids.remote[0].seq = 0
                p.cids.remote[0].len = h.scid_len
                memcpy(p.cids.remote[0].cid, h.scid, h.scid_len)
                p.cids.remote[0].has_token = False
        if not same_addr(src, &p.r.remote):
            if self.is_client and not self.migration_frozen:
                # iroh's handshake migration: until a Handshake packet proves the address, follow the server.
                p.r.remote = src[0]
                p.r.received += h.packet_len
            elif self.is_client or level != LEVEL_INITIAL:
                pass
        if ip_known(dst):
            p.r.local = dst[0]
        if level == LEVEL_HANDSHAKE:
            self.migration_frozen = True
            if self.is_client:
                self.n_dial = 0
            else:
                p.r.validated = True
                self.peer_validated_us = True
                if self.initial.live:
                    self.drop_space(p, &self.initial.sp)
                    self.drop_level(&self.initial)
        before = sp.largest_rx
        space_mark_received(sp, pn, self.now)
        self.count_ecn(sp, ecn)
        p.last_rx = p.idle_from = self.now
        p.permit_idle_reset = True
        self.frames(p, sp, level, pnb + pnl, pnb + pnl + plain, src, dst, &eliciting, &probing)
        if self.err or self.state >= ST_DRAINING:
            return -1
        l = &self.initial if level == LEVEL_INITIAL else &self.handshake
        if level == LEVEL_0RTT or l.live:
            space_on_processed(sp, pn, eliciting, ecn == 3, self.now, self.max_ack_delay if level == LEVEL_0RTT else 0,
                               1 if level == LEVEL_0RTT else 0, 1, before)
            if eliciting and level != LEVEL_0RTT:
                sp.ack_now = True
        if level != LEVEL_0RTT and l.live and recvbuf_readable(&l.rx) and self.state < ST_CLOSING:
            if self.tls_feed(level) < 0:
                return -1
        return 0

    cdef void count_ecn(self, PnSpace* sp, int ecn) noexcept nogil:
        if ecn:
            self.saw_ecn = True
            if ecn == 2:
                sp.ect0 += 1
            elif ecn == 1:
                sp.ect1 += 1
            else:
                sp.ce += 1

    cdef void receive_short(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                            uint32_t path_id) noexcept nogil:  # hot
        """One 1-RTT packet."""
        cdef Path* p = self.path(path_id)
        cdef const uint8_t* sample
        cdef uint8_t mask[16]
        cdef uint64_t truncated = 0, pn
        cdef int pnl, i, phase
        cdef Py_ssize_t plain
        cdef Aead* key
        cdef bint with_next = False, eliciting = False, probing = True, fresh
        cdef int64_t largest = -1, before
        if n < 1 + CID_LEN + 4 + 16:
            return
        if p == NULL:
            # Only the client opens paths, and only after the handshake.
            if (self.is_client or not self.multipath or path_id > self.local_max_path or self.was_abandoned(path_id)
                    or self.state != ST_ESTABLISHED):
                return
        else:
            largest = p.sp.largest_rx
        sample = data + 1 + CID_LEN + 4
        if hp_masks(self.app.rx_hp, &sample, 1, mask) < 0:
            return
        data[0] ^= mask[0] & 0x1f
        pnl = (data[0] & 3) + 1
        for i in range(pnl):
            data[1 + CID_LEN + i] ^= mask[1 + i]
            truncated = (truncated << 8) | data[1 + CID_LEN + i]
        pn = pn_expand(truncated, pnl, <uint64_t>(largest + 1))
        if p != NULL and space_is_duplicate(&p.sp, pn):
            return
        phase = (data[0] >> 2) & 1
        key = self.app.rx
        if phase != self.key_phase:
            if self.rx_prev != NULL and (
                    self.phase_first_pn < 0 or path_id != self.phase_path or <int64_t>pn < self.phase_first_pn):
                key = self.rx_prev
            else:
                key = self.rx_next
                with_next = True
        plain = aead_open(key, path_id, pn, data, 1 + CID_LEN + pnl, data + 1 + CID_LEN + pnl, n - 1 - CID_LEN - pnl)
        if plain < 0:
            self.opened_fail += 1
            if self.opened_fail > (CHACHA_OPEN_LIMIT if self.suite == SUITE_CHACHA20_POLY1305 else GCM_OPEN_LIMIT):
                self.fail(AEAD_LIMIT_REACHED, b"integrity limit reached", 0)
            return
        if data[0] & 0x18:
            self.fail(PROTOCOL_VIOLATION, b"reserved bits set", 0)
            return
        if self.qlog is not None:
            self.log_packet(False, LEVEL_1RTT, path_id, pn, n, data + 1 + CID_LEN + pnl, <size_t>plain)
        if with_next:
            if <int64_t>pn <= largest or self.update_unanswered:
                self.fail(KEY_UPDATE_ERROR, b"", 0)
                return
            self.update_keys(True)
            self.update_unanswered = True
            self.phase_first_pn = <int64_t>pn
            self.phase_path = path_id
            self.key_discard_at = self.now + 3 * self.pto_max()
        elif key == self.app.rx and self.phase_first_pn < 0 and self.rx_prev != NULL:
            # The peer followed our update.
            self.phase_first_pn = <int64_t>pn
            self.phase_path = path_id
            self.key_discard_at = self.now + 3 * self.pto_max()
        if self.state == ST_HANDSHAKE and not self.handshake_done:
            return
        if self.is_client:
            self.peer_validated_us = True
        if self.early_key != NULL and not self.is_client and self.key_discard_at == 0:
            self.key_discard_at = self.now + 3 * self.pto_max()
        if p == NULL:
            p = self.add_path(path_id, src, dst)
            if p == NULL:
                self.fail(INTERNAL_ERROR, b"out of memory", 0)
                return
            p.r.received = n
            p.stats.rx_datagrams += 1
            p.stats.rx_bytes += n
            self.challenge(p)
            if p.r.validated:
                self.on_established(p)
        before = p.sp.largest_rx
        space_mark_received(&p.sp, pn, self.now)
        self.count_ecn(&p.sp, ecn)
        p.last_rx = p.idle_from = self.now
        p.permit_idle_reset = True
        if self.frames(p, &p.sp, LEVEL_1RTT, data + 1 + CID_LEN + pnl, data + 1 + CID_LEN + pnl + plain, src, dst,
                       &eliciting, &probing) < 0:
            return
        space_on_processed(&p.sp, pn, eliciting, ecn == 3, self.now, self.max_ack_delay, self.ack_threshold,
                           self.ack_reorder, before)
        if p.abandoned and eliciting:
            p.sp.ack_now = True
        if not same_addr(src, &p.r.remote):
            if (not self.is_client and self.handshake_confirmed and <int64_t>pn > before
                    and (not probing or (self.multipath and not self.nat)) and self.state == ST_ESTABLISHED):
                self.migrate(p, src, dst)
                p.r.received = n
        elif ip_known(dst) and not same_ip(&p.r.local, dst) and (
                not ip_known(&p.r.local) or (not probing and <int64_t>pn > before)):
            # Probes of an address that we left must not bring us back to it.
            p.r.local = dst[0]

    cdef int migrate(self, Path* p, const UdpAddr* src, const UdpAddr* dst) noexcept nogil:
        """The peer's address of a path changed (RFC 9000 §9.3)."""
        cdef Route* old
        cdef Route fresh
        cdef bint port_only = same_ip(&p.r.remote, src) and addr_is_v4(src)
        if p.previous == NULL and p.r.validated:
            old = <Route*>malloc(sizeof(Route))
            if old != NULL:
                old[0] = p.r
                p.previous = old
                # Make sure that the old address is really gone, not just spoofed away.
                self.queue_off_path(p.id, &p.r.remote, &p.r.local, NULL, True, True)
        self.init_route(&fresh, src, dst)
        if port_only:
            fresh.rtt = p.r.rtt
            fresh.cc = p.r.cc
            fresh.mtud = p.r.mtud
            fresh.mtud.in_flight = 0      # nothing sent to the old address answers for the new one
            fresh.pacer = p.r.pacer
        else:
            mtud_peer_limit(&fresh.mtud, <uint16_t>self.peer_udp)
        p.validation_fails_at = self.now + 3 * (rtt_pto_base(&p.r.rtt) if rtt_pto_base(&p.r.rtt) > rtt_pto_base(&fresh.rtt)
                                                else rtt_pto_base(&fresh.rtt))
        p.r = fresh
        if self.qlog is not None:
            self.log_tuple(p)
        self.rotate_cid(p)
        self.challenge(p)
        p.pto_count = 0
        self.spin = False
        if self.send_observed:
            p.observed_due = True
        return 0

    cdef void queue_off_path(self, uint32_t path_id, const UdpAddr* remote, const UdpAddr* local, const uint8_t* data,
                             bint challenge, bint pad) noexcept nogil:
        """A probing packet for an address that is not the path's; one per address, the newest wins."""
        cdef int i
        cdef OffPath* o
        cdef uint64_t r
        for i in range(self.n_off_path):
            if (same_addr(&self.off_path[i].remote, remote) and same_ip(&self.off_path[i].local, local)
                    and self.off_path[i].challenge == challenge):
                if data != NULL:
                    memcpy(self.off_path[i].data, data, 8)
                return
        if self.n_off_path == MAX_OFF_PATH:
            return
        if self.off_path == NULL:
            self.off_path = <OffPath*>malloc(MAX_OFF_PATH * sizeof(OffPath))
            if self.off_path == NULL:
                return
        o = &self.off_path[self.n_off_path]
        self.n_off_path += 1
        o.path_id = path_id
        o.remote = remote[0]
        o.local = local[0]
        o.challenge = challenge
        o.pad = pad
        if data != NULL:
            memcpy(o.data, data, 8)
        else:
            r = self.random()
            memcpy(o.data, &r, 8)

    # ------------------------------------------------------------- frames
    cdef int frames(self, Path* p, PnSpace* sp, int level, const uint8_t* at, const uint8_t* end, const UdpAddr* src,
                    const UdpAddr* dst, bint* eliciting, bint* probing) noexcept nogil:  # hot
        """Process a packet's payload; -1 after an error was noted."""
        cdef Frame f
        cdef int err
        if self.state == ST_CLOSING and self.now >= self.close_next:
            # RFC 9000 §10.2.1: the peer has not heard yet. At most one repetition per round trip.
            self.close_next = self.now + rtt_get(&p.r.rtt)
            self.close_due = True
        if at == end:
            return self.fail(PROTOCOL_VIOLATION, b"packet payload is empty", 0)
        while at < end:
            err = 0
            at = decode_frame(at, end, &f, &err)
            if at == NULL:
                return self.fail(FRAME_ENCODING_ERROR, b"invalid frame ID" if err == DEC_UNKNOWN
                                 else b"unexpected end" if err == DEC_TRUNCATED else b"malformed", f.type)
            p.stats.rx_frames[frame_index(f.type)] += 1
            if f.type == FT_STREAM and level == LEVEL_1RTT:
                eliciting[0] = True
                probing[0] = False
                if self.state == ST_ESTABLISHED or self.state == ST_HANDSHAKE:
                    err = self.streams.on_stream(f.id, f.offset, f.data, f.len, f.fin)
                    if err:
                        return self.fail(err, self.streams.reason, 0)
                continue
            if f.type == FT_PADDING:
                continue
            if not (f.type == FT_ACK or f.type == FT_ACK_ECN or f.type == FT_PATH_ACK or f.type == FT_PATH_ACK_ECN
                    or f.type == FT_CONNECTION_CLOSE or f.type == FT_APPLICATION_CLOSE):
                eliciting[0] = True
            if not (f.type == FT_PATH_CHALLENGE or f.type == FT_PATH_RESPONSE or f.type == FT_NEW_CONNECTION_ID
                    or f.type == FT_PATH_NEW_CONNECTION_ID or f.type == FT_OBSERVED_ADDR_V4
                    or f.type == FT_OBSERVED_ADDR_V6):
                probing[0] = False
            if self.frame(p, sp, level, &f, src, dst) < 0:
                return -1
            if self.state >= ST_DRAINING:
                return 0
        return 0

    cdef int frame(self, Path* p, PnSpace* sp, int level, Frame* f, const UdpAddr* src, const UdpAddr* dst) noexcept nogil:
        cdef Level* l
        cdef RecvBuf* rx
        cdef Path* q
        cdef int rc
        cdef uint64_t t = f.type
        if self.state == ST_CLOSING:
            if t == FT_CONNECTION_CLOSE or t == FT_APPLICATION_CLOSE:
                self.on_peer_close(f, level)
            return 0
        if level == LEVEL_INITIAL or level == LEVEL_HANDSHAKE:
            if not (t == FT_PING or t == FT_CRYPTO or t == FT_ACK or t == FT_ACK_ECN or t == FT_CONNECTION_CLOSE):
                return self.fail(PROTOCOL_VIOLATION, b"illegal frame type in handshake", t)
        elif level == LEVEL_0RTT:
            if (t == FT_CRYPTO or t == FT_ACK or t == FT_ACK_ECN or t == FT_HANDSHAKE_DONE or t == FT_NEW_TOKEN
                    or t == FT_PATH_RESPONSE or t == FT_RETIRE_CONNECTION_ID or t == FT_APPLICATION_CLOSE
                    or t == FT_PATH_ACK or t == FT_PATH_ACK_ECN or t >= FT_PATH_ABANDON):
                return self.fail(PROTOCOL_VIOLATION, b"illegal frame type in 0-RTT", t)
        if t == FT_STREAM:
            rc = self.streams.on_stream(f.id, f.offset, f.data, f.len, f.fin)
            return self.fail(rc, self.streams.reason, 0) if rc else 0
        if t == FT_ACK or t == FT_ACK_ECN:
            if level == LEVEL_1RTT:
                q = self.path(0)      # plain ACK always means path 0
                if q == NULL:
                    return 0
                return self.on_ack(q, &q.sp, level, f)
            return self.on_ack(p, sp, level, f)
        if t == FT_PATH_ACK or t == FT_PATH_ACK_ECN:
            if not self.multipath:
                return self.fail(PROTOCOL_VIOLATION, b"received PATH_ACK without multipath", 0)
            q = self.path(<uint32_t>f.path)
            if q == NULL:
                if self.was_abandoned(<uint32_t>f.path):
                    return 0
                return self.fail(PROTOCOL_VIOLATION, b"received PATH_ACK with path ID never used", 0)
            return self.on_ack(q, &q.sp, level, f)
        if t == FT_PING:
            return 0
        if t == FT_DATAGRAM:
            if not self.cfg.datagrams:
                return self.fail(PROTOCOL_VIOLATION, b"unexpected DATAGRAM", 0)
            if f.len > self.cfg.datagram_rx or f.len > 65535:
                return self.fail(PROTOCOL_VIOLATION, b"oversized datagram", 0)
            if queue_empty(&self.dgram_rx):
                self.dirty_events |= <uint32_t>1 << W_DATAGRAM
            queue_push(&self.dgram_rx, f.data, <uint32_t>f.len, True)
            return 0
        if t == FT_CRYPTO:
            if level == LEVEL_1RTT:
                rx = &self.data_crypto_rx
            else:
                l = &self.initial if level == LEVEL_INITIAL else &self.handshake
                rx = &l.rx
            if f.offset + f.len > rx.read + self.cfg.crypto_buffer:
                return self.fail(CRYPTO_BUFFER_EXCEEDED, b"", 0)
            if recvbuf_insert(rx, f.offset, f.data, f.len) < 0:
                return self.fail(INTERNAL_ERROR, b"too many gaps in CRYPTO data", 0)
            return 0
        if t == FT_CONNECTION_CLOSE or t == FT_APPLICATION_CLOSE:
            self.on_peer_close(f, level)
            return 0
        return self.control_frame(p, level, f, src, dst)

    cdef int control_frame(self, Path* p, int level, Frame* f, const UdpAddr* src, const UdpAddr* dst) noexcept nogil:
        """Everything that is not on the fast paths."""
        cdef uint64_t t = f.type
        cdef int rc = 0
        cdef CidSet* c
        cdef LocalCid* lc
        cdef Path* q
        cdef uint64_t value
        cdef UdpAddr observed
        if t == FT_RESET_STREAM:
            rc = self.streams.on_reset(f.id, f.value, f.offset)
        elif t == FT_STOP_SENDING:
            rc = self.streams.on_stop_sending(f.id, f.value)
        elif t == FT_MAX_DATA:
            self.streams.on_max_data(f.value)
        elif t == FT_MAX_STREAM_DATA:
            rc = self.streams.on_max_stream_data(f.id, f.value)
        elif t == FT_MAX_STREAMS_BIDI or t == FT_MAX_STREAMS_UNI:
            self.streams.on_max_streams(<int>(t - FT_MAX_STREAMS_BIDI), f.value)
        elif t == FT_STREAM_DATA_BLOCKED:
            rc = self.streams.on_stream_data_blocked(f.id)
        elif t == FT_DATA_BLOCKED or t == FT_STREAMS_BLOCKED_BIDI or t == FT_STREAMS_BLOCKED_UNI:
            pass
        elif t == FT_PATH_CHALLENGE:
            if same_addr(src, &p.r.remote) and (
                    not ip_known(dst) or not ip_known(&p.r.local) or same_ip(dst, &p.r.local)):
                memcpy(p.response, f.data, 8)
                p.response_due = True
                # A response alone is a probing packet; the peer wants proof from real traffic too.
                if self.peer_ack_frequency:
                    p.immediate_ack_due = True
                else:
                    p.ping_due = True
            else:
                self.queue_off_path(p.id, src, dst, f.data, False, True)
        elif t == FT_PATH_RESPONSE:
            self.on_path_response(p, f.data, src)
        elif t == FT_NEW_CONNECTION_ID:
            return self.new_cid_frame(0, f)
        elif t == FT_RETIRE_CONNECTION_ID:
            return self.retire_cid_frame(0, f.id)
        elif t == FT_HANDSHAKE_DONE:
            if not self.is_client:
                return self.fail(PROTOCOL_VIOLATION, b"client sent HANDSHAKE_DONE", 0)
            if not self.handshake_confirmed:
                with gil:
                    self.on_confirmed()
        elif t == FT_NEW_TOKEN:
            if not self.is_client:
                return self.fail(PROTOCOL_VIOLATION, b"client sent NEW_TOKEN", 0)
            with gil:
                if self.on_address_token is not None:
                    self.on_address_token(PyBytes_FromStringAndSize(<char*>f.data, f.len))
        elif t == FT_IMMEDIATE_ACK:
            q = self.paths
            while q != NULL:
                q.sp.ack_now = True
                q = q.next
        elif t == FT_ACK_FREQUENCY:
            if <int64_t>f.id > self.ack_frequency_seq:
                if f.value2 < 1000:
                    return self.fail(PROTOCOL_VIOLATION, b"requested max ack delay below min_ack_delay", 0)
                self.ack_frequency_seq = <int64_t>f.id
                self.ack_threshold = f.value
                self.ack_reorder = f.offset
                self.max_ack_delay = <int64_t>(f.value2 if f.value2 < 16383000 else 16383000) * 1000
        elif t == FT_OBSERVED_ADDR_V4 or t == FT_OBSERVED_ADDR_V6:
            if not self.receive_observed:
                return self.fail(PROTOCOL_VIOLATION, b"received OBSERVED_ADDRESS frame when not negotiated", 0)
            if <int64_t>f.id > p.observed_seq:
                p.observed_seq = <int64_t>f.id
                memset(&observed, 0, sizeof(UdpAddr))
                memcpy(observed.ip, f.ip, 16)
                observed.port = f.port
                if not same_addr(&observed, &p.observed):
                    p.observed = observed
                    with gil:
                        self.log_path("observed", p.id, addr_to_tuple(&observed), None, None, None)
        elif FT_ADD_ADDRESS_V4 <= t <= FT_REMOVE_ADDRESS:
            # Candidates for hole punching. Rounds are not part of this engine yet: the frames are checked and counted.
            if not self.nat:
                return self.fail(PROTOCOL_VIOLATION, b"n0's nat traversal was not negotiated", 0)
            if (t == FT_REACH_OUT_V4 or t == FT_REACH_OUT_V6) == self.is_client:
                return self.fail(PROTOCOL_VIOLATION, b"Not allowed for this endpoint's connection side", 0)
        else:
            if level != LEVEL_1RTT or not self.multipath:
                return self.fail(PROTOCOL_VIOLATION, b"received multipath frame without multipath", 0)
            return self.multipath_frame(p, f)
        if rc:
            return self.fail(rc, self.streams.reason, 0)
        return 0

    cdef int new_cid_frame(self, uint32_t path_id, Frame* f) noexcept nogil:
        cdef CidSet* c = self.cidset(path_id, True)
        cdef uint64_t retired[5]
        cdef int n = 0, i, rc
        cdef uint64_t type = FT_PATH_RETIRE_CONNECTION_ID if self.multipath else FT_RETIRE_CONNECTION_ID
        if c == NULL:
            return self.fail(INTERNAL_ERROR, b"out of memory", 0)
        rc = remote_cid_add(c, f.id, f.offset, f.data, <uint8_t>f.len, f.token, retired, &n)
        if rc == -1:
            return self.fail(CONNECTION_ID_LIMIT_ERROR, b"", 0)
        if rc == -2:
            return self.fail(PROTOCOL_VIOLATION, b"conflicting connection ids", 0)
        if rc == 2:
            retired[n] = f.id
            n += 1
        for i in range(n):
            self.pend(type, path_id, retired[i], 0)
            self.n_retire += 1
        if n and self.path(path_id) != NULL:
            self.watch_reset(c)
        if self.n_retire > MAX_RETIRE_PENDING:
            return self.fail(CONNECTION_ID_LIMIT_ERROR, b"too many retired connection ids", 0)
        if path_id == 0 and not self.is_client and c.active >= 0 and c.remote[c.active].seq == 0 and c.n_remote > 1:
            # Like iroh: leave the client's handshake id as soon as there is another.
            if self.path(0) != NULL:
                self.rotate_cid(self.path(0))
        return 0

    cdef int retire_cid_frame(self, uint32_t path_id, uint64_t seq) noexcept nogil:
        cdef CidSet* c = self.cidset(path_id, False)
        cdef LocalCid* l
        if c == NULL:
            return 0
        if seq >= c.next_seq:
            return self.fail(PROTOCOL_VIOLATION, b"RETIRE_CONNECTION_ID for unissued sequence number", 0)
        l = local_cid_find(c, seq)
        if l == NULL:
            return 0
        # Packets with the old id may still be under way: it stays routed until the connection ends or the set is full.
        with gil:
            self.retire_later(l.value)
        local_cid_remove(c, l)
        if not self.was_abandoned(path_id) and self.state == ST_ESTABLISHED:
            self.issue_cids(path_id)
        return 0

    cdef int multipath_frame(self, Path* p, Frame* f) noexcept nogil:
        cdef uint64_t t = f.type
        cdef Path* q
        cdef CidSet* c
        if t == FT_PATH_NEW_CONNECTION_ID:
            if f.path > self.local_max_path:
                return self.fail(PROTOCOL_VIOLATION, b"PATH_NEW_CONNECTION_ID contains path_id exceeding current max", 0)
            if self.was_abandoned(<uint32_t>f.path):
                return 0
            return self.new_cid_frame(<uint32_t>f.path, f)
        if t == FT_PATH_RETIRE_CONNECTION_ID:
            return self.retire_cid_frame(<uint32_t>f.path, f.id)
        if t == FT_PATH_ABANDON:
            q = self.path(<uint32_t>f.path)
            if q == NULL:
                if not self.is_client and f.path <= self.local_max_path and not self.was_abandoned(<uint32_t>f.path):
                    # Opened by the client but never seen here. Without an answer its id would be lost for both.
                    self.note_abandoned(<uint32_t>f.path)
                    self.drop_cidset(<uint32_t>f.path)
                    self.pend(FT_PATH_ABANDON, f.path, 0, f.value)
                    self.local_max_path += 1
                    self.pend(FT_MAX_PATH_ID, 0, 0, 0)
                    self.issue_path_cids()
                return 0
            if not q.abandon_received:
                q.abandon_received = True
                self.abandon(q, f.value)
                q.drained_at = self.now + 3 * (rtt_pto_base(&q.r.rtt) + self.peer_max_ack_delay)
                self.local_max_path += 1
                self.pend(FT_MAX_PATH_ID, 0, 0, 0)
                self.issue_path_cids()
                if self.open_paths() == 0 and self.no_path_at == 0:
                    self.no_path_at = self.now + 3 * (self.cfg.initial_rtt * 3 + MAX_ACK_DELAY_MS * MS)
            return 0
        if t == FT_PATH_STATUS_BACKUP or t == FT_PATH_STATUS_AVAILABLE:
            q = self.path(<uint32_t>f.path)
            if q != NULL and <int64_t>f.id > q.remote_status_seq:
                q.remote_status_seq = <int64_t>f.id
                q.remote_status = STATUS_BACKUP if t == FT_PATH_STATUS_BACKUP else STATUS_AVAILABLE
                with gil:
                    self.log_path("status", q.id, "backup" if t == FT_PATH_STATUS_BACKUP else "available", None, None, None)
            return 0
        if t == FT_MAX_PATH_ID:
            if f.id > self.remote_max_path:
                self.remote_max_path = <uint32_t>f.id
                self.issue_path_cids()
            return 0
        if t == FT_PATHS_BLOCKED:
            if f.id > self.local_max_path:
                return self.fail(PROTOCOL_VIOLATION, b"PATHS_BLOCKED maximum path identifier was larger than local maximum", 0)
            return 0
        # PATH_CIDS_BLOCKED
        if f.path > self.local_max_path:
            return self.fail(PROTOCOL_VIOLATION, b"PATH_CIDS_BLOCKED path identifier was larger than local maximum", 0)
        c = self.cidset(<uint32_t>f.path, False)
        if f.value > (c.next_seq if c != NULL else 0) + 1:
            return self.fail(PROTOCOL_VIOLATION, b"PATH_CIDS_BLOCKED next sequence number larger than in local state", 0)
        return 0

    cdef void on_path_response(self, Path* p, const uint8_t* data, const UdpAddr* src) noexcept nogil:
        cdef int i
        for i in range(MAX_CHALLENGES):
            if p.challenge_sent[i] != 0 and memcmp(p.challenges[i], data, 8) == 0:
                break
        else:
            return
        if p.abandoned:
            return
        if p.challenge_route[i] != p.r.generation or not same_addr(src, &p.r.remote):
            return
        if not p.r.rtt.has_sample and self.now > p.challenge_sent[i]:
            rtt_init(&p.r.rtt, self.now - p.challenge_sent[i])
        for i in range(MAX_CHALLENGES):
            p.challenge_sent[i] = 0
        p.challenge_at = 0
        p.challenge_due = False
        p.challenge_lost = 0
        p.validation_fails_at = 0
        p.r.validated = True
        free(p.previous)
        p.previous = NULL
        self.dirty_events |= <uint32_t>1 << W_PATHS      # maybe at a new address
        self.on_established(p)

    cdef void on_peer_close(self, Frame* f, int level) noexcept nogil:
        cdef bint app = f.type == FT_APPLICATION_CLOSE
        with gil:
            text = PyBytes_FromStringAndSize(<char*>f.data, f.len)
            reason = CloseReason("application" if app else "transport_peer", f.value, text, True,
                                 None if app or not f.offset else f.offset)
            self.enter_drain(reason, level == LEVEL_1RTT)

    # ------------------------------------------------------------- qlog
    cdef void log_packet(self, bint sent, int level, uint32_t path_id, uint64_t pn, size_t size, const uint8_t* payload,
                         size_t n) noexcept nogil:
        with gil:
            self.qlog.packet(self.now, sent, level, path_id, pn, size, PyBytes_FromStringAndSize(<const char*>payload, n))

    cdef void log_metrics(self, Path* p) noexcept nogil:
        cdef uint64_t packets = p.sp.eliciting
        if p.id == 0:
            packets += self.initial.sp.eliciting + self.handshake.sp.eliciting
        with gil:
            self.qlog.metrics(self.now, p.id, (
                p.r.rtt.min, rtt_get(&p.r.rtt), p.r.rtt.latest, p.r.rtt.var, p.pto_count, p.r.cc.cwnd, p.r.in_flight,
                p.r.cc.ssthresh, packets))

    cdef void log_tuple(self, Path* p) noexcept nogil:
        with gil:
            self.qlog.assigned(self.now, p.id, addr_to_tuple(&p.r.remote),
                               addr_to_tuple(&p.r.local) if ip_known(&p.r.local) else None)

    # ------------------------------------------------------------- acknowledgements and losses
    cdef int level_of(self, PnSpace* sp) noexcept nogil:
        if sp == &self.initial.sp:
            return LEVEL_INITIAL
        if sp == &self.handshake.sp:
            return LEVEL_HANDSHAKE
        return LEVEL_1RTT

    cdef int on_ack(self, Path* p, PnSpace* sp, int level, Frame* f) noexcept nogil:  # hot
        """ACK or PATH_ACK for one packet number space."""
        cdef uint64_t lo, hi, smallest, pn, acked_bytes = 0
        cdef const uint8_t* at
        cdef uint64_t left
        cdef SentRec* r
        cdef int64_t newest_sent = -1, newest_bytes_at = -1, delay
        cdef bint raised = False, newly = False, newly_eliciting = False, cleared = False
        # consecutive STREAM ranges of one stream are acknowledged together
        cdef uint64_t s_id = 0, s_off = 0, s_end = 0
        cdef bint s_open = False, s_fin = False
        cdef FrameRec* fr
        if f.largest >= sp.next_pn:
            return self.fail(PROTOCOL_VIOLATION, b"unsent packet acked", 0)
        hi = f.largest
        lo = f.largest - f.first
        smallest = lo
        at = f.ranges
        left = f.range_count
        if <int64_t>f.largest > sp.largest_acked:
            raised = True
            sp.largest_acked = <int64_t>f.largest
        while True:
            if sp.last_skipped >= 0 and lo <= <uint64_t>sp.last_skipped <= hi:
                return self.fail(PROTOCOL_VIOLATION, b"unsent packet acked", 0)
            if sp.n_lost and space_unlose(sp, lo, hi):
                cleared = True
            if sp.outstanding and hi >= sp.first:
                pn = lo if lo > sp.first else sp.first
                if hi > sp.last:
                    hi = sp.last
                while pn <= hi and sp.outstanding:
                    r = space_rec(sp, pn)
                    if r != NULL:
                        newly = True
                        if r.flags & REC_ELICITING:
                            newly_eliciting = True
                        if r.sent_at > newest_sent:
                            newest_sent = r.sent_at
                        if r.sent_at >= self.phase_since and ((r.flags & REC_PHASE) != 0) == self.key_phase:
                            self.phase_unacked = False
                        if r.flags & REC_ACK:
                            self.ack_seen(sp, level, r.acked_path, r.acked_upto)
                        if r.size:
                            if r.generation == p.r.generation:
                                p.r.in_flight -= r.size
                                if r.sent_at > p.r.cc.recovery_start:
                                    acked_bytes += r.size
                                    newest_bytes_at = r.sent_at
                                if level == LEVEL_1RTT and mtud_on_acked(&p.r.mtud, self.now, pn, r.size):
                                    cc_on_mtu(&p.r.cc, p.r.mtud.current)
                            elif p.previous != NULL and r.generation == p.previous.generation:
                                p.previous.in_flight -= r.size
                        if r.flags & REC_STREAM:
                            if s_open and r.stream_id == s_id and r.offset == s_end:
                                s_end += r.len
                                s_fin = (r.flags & REC_FIN) != 0
                            else:
                                if s_open:
                                    self.streams.on_acked(s_id, s_off, s_end - s_off, s_fin)
                                s_open = True
                                s_id = r.stream_id
                                s_off = r.offset
                                s_end = r.offset + r.len
                                s_fin = (r.flags & REC_FIN) != 0
                            if s_fin:
                                self.streams.on_acked(s_id, s_off, s_end - s_off, True)
                                s_open = False
                                s_fin = False
                        fr = r.frames
                        space_remove(sp, pn)
                        if fr != NULL:
                            if s_open:
                                self.streams.on_acked(s_id, s_off, s_end - s_off, False)
                                s_open = False
                            self.frames_acked_level(fr, level)
                    pn += 1
                if s_open:
                    self.streams.on_acked(s_id, s_off, s_end - s_off, s_fin)
                    s_open = False
            if left == 0:
                break
            left -= 1
            at = next_ack_range(at, &smallest, &lo, &hi)
        if raised:
            if newest_sent >= 0:
                sp.largest_acked_at = newest_sent
            if newly_eliciting and newest_sent >= 0:
                delay = 0
                if level == LEVEL_1RTT:
                    delay = <int64_t>(f.delay << self.peer_ack_exponent) * 1000 if f.delay < (<uint64_t>1 << 30) else self.peer_max_ack_delay
                    if delay > self.peer_max_ack_delay:
                        delay = self.peer_max_ack_delay
                rtt_sample(&p.r.rtt, self.now, delay, self.now - newest_sent)
        if self.is_client and level == LEVEL_HANDSHAKE:
            self.peer_validated_us = True
        if acked_bytes:
            # RFC 9002 §7.8: a window that is hardly used does not grow. The room above what flow control lets into
            # flight keeps the pacer from being the limit.
            cc_on_ack(&p.r.cc, self.now, newest_bytes_at, acked_bytes,
                      p.app_limited or 4 * (p.r.in_flight + acked_bytes) < p.r.cc.cwnd, &p.r.rtt)
        if cleared:
            cc_on_spurious(&p.r.cc)
            p.stats.spurious += 1
        if newly:
            self.check_ecn(p, sp, f, raised)
        self.detect_losses(p, sp, level, True)
        if not self.is_client or self.peer_validated_us:
            p.pto_count = 0
        if self.qlog is not None:
            self.log_metrics(p)
        return 0

    cdef void check_ecn(self, Path* p, PnSpace* sp, Frame* f, bint raised) noexcept nogil:
        """RFC 9000 §13.4.2, as lenient as iroh: counts must exist and not shrink."""
        if not p.r.ecn:
            return
        if not f.has_ecn:
            p.r.ecn = False
            return
        if not raised:
            return
        if (f.ect0 < sp.peer_ect0 or f.ect1 > sp.peer_ect1 or f.ce < sp.peer_ce
                or f.ect0 + f.ce <= sp.peer_ect0 + sp.peer_ce):
            p.r.ecn = False
            return
        if f.ce > sp.peer_ce:
            cc_on_congestion(&p.r.cc, self.now, sp.largest_acked_at, False, True)
            p.stats.congestion_events += 1
        sp.peer_ect0 = f.ect0
        sp.peer_ect1 = f.ect1
        sp.peer_ce = f.ce

    cdef void ack_seen(self, PnSpace* sp, int level, uint32_t path_id, uint64_t upto) noexcept nogil:
        """The peer has our acknowledgement of everything up to `upto`: those ranges need no repetition."""
        cdef Path* q
        if level != LEVEL_1RTT:
            space_forget_acked(sp, upto)
            return
        q = self.path(path_id)
        if q != NULL:
            space_forget_acked(&q.sp, upto)

    cdef void frames_acked_level(self, FrameRec* f, int level) noexcept nogil:
        cdef FrameRec* n
        cdef Level* l
        while f != NULL:
            n = f.next
            if f.type == FT_STREAM:
                self.streams.on_acked(f.id, f.a, f.b >> 1, f.b & 1)
            elif f.type == FT_CRYPTO:
                if level == LEVEL_1RTT:
                    sendbuf_ack(&self.data_crypto_tx, f.a, f.b)
                else:
                    l = &self.initial if level == LEVEL_INITIAL else &self.handshake
                    sendbuf_ack(&l.tx, f.a, f.b)
            elif f.type == FT_RESET_STREAM:
                self.streams.on_reset_acked(f.id)
            elif f.type == FT_PATH_ACK:
                self.ack_seen(NULL, LEVEL_1RTT, <uint32_t>f.path, f.a)
            elif f.type == FT_PATH_RETIRE_CONNECTION_ID or f.type == FT_RETIRE_CONNECTION_ID:
                self.n_retire -= 1
            free(f)
            f = n

    cdef void frames_lost(self, Path* p, FrameRec* f, int level) noexcept nogil:
        """Queue again what must arrive; `f` is consumed."""
        cdef FrameRec* n
        cdef Level* l
        cdef uint64_t t
        while f != NULL:
            n = f.next
            t = f.type
            if t == FT_STREAM:
                self.streams.on_lost(f.id, f.a, f.b >> 1, f.b & 1)
                free(f)
            elif t == FT_CRYPTO:
                if level == LEVEL_1RTT:
                    sendbuf_lost(&self.data_crypto_tx, f.a, f.b)
                else:
                    l = &self.initial if level == LEVEL_INITIAL else &self.handshake
                    sendbuf_lost(&l.tx, f.a, f.b)
                free(f)
            elif t == FT_OBSERVED_ADDR_V4:
                if not p.abandoned:
                    p.observed_due = True
                free(f)
            elif t == FT_PATH_ACK:
                free(f)
            elif t == FT_RESET_STREAM or t == FT_STOP_SENDING or (FT_MAX_DATA <= t <= FT_STREAMS_BLOCKED_UNI):
                self.streams.on_control_lost(f)
                free(f)
            elif (t == FT_PATH_NEW_CONNECTION_ID or t == FT_PATH_STATUS_BACKUP or t == FT_PATH_STATUS_AVAILABLE
                  ) and self.was_abandoned(<uint32_t>f.path):
                free(f)
            else:
                self.pend_rec(f)
            f = n

    cdef void declare_lost(self, Path* p, PnSpace* sp, uint64_t pn, int level) noexcept nogil:
        """Take one record out of the table and queue its frames again."""
        cdef SentRec* r = space_rec(sp, pn)
        cdef FrameRec* fr = r.frames
        if r.size:
            if r.generation == p.r.generation:
                p.r.in_flight -= r.size
            elif p.previous != NULL and r.generation == p.previous.generation:
                p.previous.in_flight -= r.size
        if r.flags & REC_STREAM:
            self.streams.on_lost(r.stream_id, r.offset, r.len, (r.flags & REC_FIN) != 0)
        space_remove(sp, pn)
        if fr != NULL:
            self.frames_lost(p, fr, level)

    cdef void detect_losses(self, Path* p, PnSpace* sp, int level, bint by_ack) noexcept nogil:
        cdef int64_t delay = <int64_t>(<double>rtt_conservative(&p.r.rtt) * self.cfg.time_threshold)
        cdef int64_t lost_before
        cdef uint64_t pn, lost_bytes = 0
        cdef SentRec* r
        cdef bint congested = False, persistent = False
        cdef int64_t newest_lost = -1, run_start = -1, span
        cdef uint64_t previous_pn = 0
        sp.loss_time = 0
        if sp.outstanding == 0 or sp.largest_acked < 0:
            return
        if delay < MS:
            delay = MS
        lost_before = self.now - delay
        span = self.cfg.persistent_threshold * (rtt_pto_base(&p.r.rtt) + (self.peer_max_ack_delay if level == LEVEL_1RTT else 0))
        pn = sp.first
        while sp.outstanding and pn <= <uint64_t>sp.largest_acked and pn <= sp.last:
            r = space_rec(sp, pn)
            if r == NULL:
                pn += 1
                continue
            if r.sent_at > lost_before and (p.abandoned or <uint64_t>sp.largest_acked < pn + <uint64_t>self.cfg.packet_threshold):
                sp.loss_time = r.sent_at + delay
                break
            if self.qlog is not None:
                with gil:
                    self.qlog.lost(self.now, level, p.id, pn, r.sent_at <= lost_before, (r.flags & REC_MTU_PROBE) != 0)
            if r.flags & REC_MTU_PROBE:
                if r.generation == p.r.generation:
                    mtud_on_probe_lost(&p.r.mtud, self.now)
                self.declare_lost(p, sp, pn, level)
                pn += 1
                continue
            p.stats.lost_packets += 1
            p.stats.lost_bytes += r.size
            space_remember_lost(sp, pn, r.sent_at, self.now - 2 * rtt_pto_base(&p.r.rtt))
            if r.size and r.generation == p.r.generation:
                congested = True
                newest_lost = r.sent_at
                if level == LEVEL_1RTT:
                    mtud_on_lost(&p.r.mtud, pn, r.size)
                if by_ack and r.flags & REC_ELICITING and p.r.rtt.first_sample_at >= 0 and r.sent_at > p.r.rtt.first_sample_at:
                    if run_start < 0 or previous_pn + 1 != pn:
                        run_start = r.sent_at
                    elif r.sent_at - run_start > span:
                        persistent = True
                    previous_pn = pn
            self.declare_lost(p, sp, pn, level)
            pn += 1
        if congested:
            if level == LEVEL_1RTT and mtud_black_hole(&p.r.mtud, self.now):
                cc_on_mtu(&p.r.cc, p.r.mtud.current)
                self.drop_oversized()
            cc_on_congestion(&p.r.cc, self.now, newest_lost, persistent, False)
            p.stats.congestion_events += 1

    cdef void drop_oversized(self) noexcept nogil:
        """Datagrams queued for a larger MTU can never leave: drop those at the head."""
        cdef uint32_t room = self.path_mtu() - (1 + MAX_CID_LEN + 4 + 16) - 9
        while not queue_empty(&self.dgram_tx) and queue_peek(&self.dgram_tx) > room:
            queue_pop(&self.dgram_tx, NULL)
            self.dirty_events |= <uint32_t>1 << W_DATAGRAM_SPACE

    cdef void drop_space(self, Path* p, PnSpace* sp) noexcept nogil:
        """Keys of a handshake space are discarded: nothing in it is in flight any more."""
        cdef uint64_t pn
        cdef SentRec* r
        if sp.ring != NULL:
            for pn in range(sp.first, sp.last + 1):
                if not sp.outstanding:
                    break
                r = space_rec(sp, pn)
                if r != NULL:
                    if r.size and r.generation == p.r.generation:
                        p.r.in_flight -= r.size
                    frame_recs_free(r.frames)
                    space_remove(sp, pn)
        space_free(sp)
        p.pto_count = 0

    cdef void drop_level(self, Level* l) noexcept nogil:
        keys_free(&l.keys)
        space_free(&l.sp)
        sendbuf_free(&l.tx)
        recvbuf_free(&l.rx)
        memset(l, 0, sizeof(Level))

    cdef int64_t pto_max(self) noexcept nogil:
        """The largest PTO of all paths; what close, idle and key timers are multiples of."""
        cdef Path* p = self.paths
        cdef int64_t best = 0, v
        while p != NULL:
            if not p.abandoned:
                v = rtt_pto_base(&p.r.rtt) + self.peer_max_ack_delay
                if v > best:
                    best = v
            p = p.next
        return best if best else 3 * self.cfg.initial_rtt

    cdef int64_t backoff(self, Path* p, int64_t base) noexcept nogil:
        """Probe timeout after pto_count expiries, growing at most by a cap each time."""
        cdef int64_t cap, d = base, doubled
        cdef int i
        cdef int64_t rtt = rtt_get(&p.r.rtt)
        if rtt > 1333 * MS:
            cap = rtt + rtt // 2
        elif (p.idle_timeout and p.idle_timeout <= 25 * SECOND) or (self.idle_timeout and self.idle_timeout <= 25 * SECOND):
            cap = SECOND
        else:
            cap = 2 * SECOND
        for i in range(1, (p.pto_count if p.pto_count < 60 else 60) + 1):
            doubled = base << (i if i < 16 else 16)
            d = doubled if doubled < d + cap else d + cap
        return d

    cdef int64_t pto_deadline(self, Path* p, PnSpace** out, int* level) noexcept nogil:
        """When the path's loss probe is due: 0 never."""
        cdef int64_t best = 0, d
        cdef int64_t base = rtt_pto_base(&p.r.rtt)
        cdef bint something = False
        if p.abandoned and not self.must_abandon_itself(p):
            return 0
        if not self.is_client and not p.r.validated and p.r.sent + 1 > 3 * p.r.received:
            return 0
        if p.id == 0:
            if self.initial.live and self.initial.sp.eliciting:
                something = True
                best = self.initial.sp.last_eliciting_at + self.backoff(p, base)
                out[0] = &self.initial.sp
                level[0] = LEVEL_INITIAL
            if self.handshake.live and self.handshake.sp.eliciting:
                something = True
                d = self.handshake.sp.last_eliciting_at + self.backoff(p, base)
                if best == 0 or d < best:
                    best = d
                    out[0] = &self.handshake.sp
                    level[0] = LEVEL_HANDSHAKE
        if p.sp.eliciting and (self.handshake_confirmed or (self.handshake_done and not self.initial.live and not self.handshake.live)):
            something = True
            d = p.sp.last_eliciting_at + self.backoff(p, base + self.peer_max_ack_delay)
            if best == 0 or d < best:
                best = d
                out[0] = &p.sp
                level[0] = LEVEL_1RTT
        if not something and p.id == 0 and self.is_client and not self.peer_validated_us and self.state == ST_HANDSHAKE:
            # Anti-deadlock: the server may be blocked by the amplification limit.
            best = p.last_tx + self.backoff(p, base)
            if self.handshake.live and self.handshake.keys.tx != NULL:
                out[0] = &self.handshake.sp
                level[0] = LEVEL_HANDSHAKE
            else:
                out[0] = &self.initial.sp
                level[0] = LEVEL_INITIAL
        return best

    # ------------------------------------------------------------- keys
    cdef int derive_next_keys(self) noexcept nogil:
        """Have the keys of the next phase ready (RFC 9001 §6.3)."""
        cdef uint8_t rx[48]
        cdef uint8_t tx[48]
        cdef HeaderKey* none = NULL
        if next_secret(self.suite, self.rx_secret, self.secret_len, rx) < 0:
            return -1
        if next_secret(self.suite, self.tx_secret, self.secret_len, tx) < 0:
            return -1
        memcpy(self.rx_secret, rx, self.secret_len)
        memcpy(self.tx_secret, tx, self.secret_len)
        if keys_from_secret(self.suite, rx, self.secret_len, &self.rx_next, NULL) < 0:
            return -1
        return keys_from_secret(self.suite, tx, self.secret_len, &self.tx_next, NULL)

    cdef bint may_update_keys(self) noexcept nogil:
        """RFC 9001 §6.1: the handshake is confirmed and the peer has seen the present phase."""
        return self.handshake_confirmed and self.rx_prev == NULL and not self.phase_unacked

    cdef void update_keys(self, bint remote) noexcept nogil:
        """Enter the next key phase in both directions."""
        aead_free(self.rx_prev)
        self.rx_prev = self.app.rx
        self.app.rx = self.rx_next
        aead_free(self.app.tx)
        self.app.tx = self.tx_next
        self.rx_next = NULL
        self.tx_next = NULL
        self.key_phase = not self.key_phase
        self.phase_since = self.now
        self.phase_unacked = True
        self.phase_first_pn = -1
        self.sealed = 0
        self.next_update = GCM_SEAL_LIMIT - UPDATE_MARGIN
        if self.qlog is not None:
            with gil:
                self.qlog.key_phase(self.now, remote)
        if self.derive_next_keys() < 0:
            self.fail(INTERNAL_ERROR, b"key update failed", 0)

    # ------------------------------------------------------------- TLS
    cdef int tls_feed(self, int level) noexcept:
        """Hand received CRYPTO bytes to TLS and act on what comes out. -1 when the connection failed."""
        cdef RecvBuf* rx
        cdef bytes data
        cdef Level* l
        try:
            while True:
                if level == LEVEL_1RTT:
                    rx = &self.data_crypto_rx
                else:
                    l = &self.initial if level == LEVEL_INITIAL else &self.handshake
                    if not l.live:
                        return 0
                    rx = &l.rx
                if not recvbuf_readable(rx):
                    return 0
                data = recvbuf_take(rx, 65536)
                self.tls.receive(level, data)
                self.tls_drain()
                if self.err:
                    return -1
        except Exception as e:
            description = getattr(e, "description", None)
            if description is None:
                logger.exception("connection %d: TLS failed", self.stable_id)
                self.close_text = "internal error"
                return self.fail(INTERNAL_ERROR, NULL, 0)
            # The alert may come with output (nothing but the close follows).
            self.close_text = e.reason
            return self.fail(0x100 + <uint64_t>description, NULL, 0)

    cdef void tls_drain(self):
        cdef object tls = self.tls
        cdef Level* l
        cdef bytes data
        for write, level, suite, secret in tls.take_secrets():
            self.install(write, level, suite, secret)
        for level, data in tls.take_output():
            if level == LEVEL_1RTT:
                sendbuf_write_copy(&self.data_crypto_tx, <const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
            else:
                l = &self.initial if level == LEVEL_INITIAL else &self.handshake
                if l.live:
                    sendbuf_write_copy(&l.tx, <const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
        if self.peer_parameters is None and tls.peer_transport_parameters is not None:
            try:
                self.apply_parameters(TransportParameters().decode(tls.peer_transport_parameters, self.is_client))
            except ParameterError as e:
                self.close_text = e.reason
                self.fail(TRANSPORT_PARAMETER_ERROR, NULL, 0)
                return
        if self.alpn is None and tls.alpn is not None:
            self.alpn = tls.alpn
            self.fire(W_ALPN)
        if tls.complete and not self.handshake_done and not self.err:
            self.on_complete()

    cdef void install(self, bint write, int level, int suite, bytes secret):
        cdef const uint8_t* s = <const uint8_t*>PyBytes_AS_STRING(secret)
        cdef size_t n = <size_t>PyBytes_GET_SIZE(secret)
        cdef Aead* aead = NULL
        cdef HeaderKey* hp = NULL
        cdef Keys* k
        if n > 48 or keys_from_secret(suite, s, n, &aead, &hp) < 0:
            self.fail(INTERNAL_ERROR, b"key derivation failed", 0)
            return
        if self.qlog is not None:
            self.qlog.key(self.now, write, level)
        if level == LEVEL_0RTT:
            self.early_key = aead
            self.early_hp = hp
            return
        if level == LEVEL_HANDSHAKE:
            if not self.handshake.live:
                self.handshake.live = True
                space_init(&self.handshake.sp, self.random())
                sendbuf_init(&self.handshake.tx)
                recvbuf_init(&self.handshake.rx)
            k = &self.handshake.keys
        else:
            k = &self.app
            self.suite = suite
            self.secret_len = n
            memcpy(&self.tx_secret[0] if write else &self.rx_secret[0], s, n)
        if write:
            k.tx = aead
            k.tx_hp = hp
        else:
            k.rx = aead
            k.rx_hp = hp
        if level == LEVEL_1RTT and k.rx != NULL and k.tx != NULL:
            # INTEROP: iroh updates its keys after 10..999 packets; we update for the AEAD limit only.
            self.next_update = GCM_SEAL_LIMIT - UPDATE_MARGIN
            if self.derive_next_keys() < 0:
                self.fail(INTERNAL_ERROR, b"key derivation failed", 0)

    cdef int apply_parameters(self, object tp) except -1:
        """Check and adopt the peer's transport parameters (RFC 9000 §7.3, §7.4)."""
        cdef Path* p = self.path(0)
        cdef bytes odcid = PyBytes_FromStringAndSize(<char*>self.odcid, self.odcid_len)
        cdef bytes scid = PyBytes_FromStringAndSize(<char*>self.dcid0, self.dcid0_len)
        if tp.initial_source_connection_id != scid:
            raise ParameterError("CID authentication failure")
        if self.is_client:
            if tp.original_destination_connection_id != odcid:
                raise ParameterError("CID authentication failure")
            retry = PyBytes_FromStringAndSize(<char*>self.retry_scid, self.retry_scid_len) if self.used_retry else None
            if tp.retry_source_connection_id != retry:
                raise ParameterError("CID authentication failure")
            if tp.stateless_reset_token is not None and p != NULL and p.cids.n_remote:
                memcpy(p.cids.remote[0].token, PyBytes_AS_STRING(tp.stateless_reset_token), 16)
                p.cids.remote[0].has_token = True
                self.watch_reset(p.cids)
        self.peer_parameters = tp
        if self.qlog is not None:
            self.qlog.parameters(self.now, False, tp)
        self.adopt_limits(tp)
        self.peer_ack_exponent = tp.ack_delay_exponent
        self.peer_max_ack_delay = <int64_t>tp.max_ack_delay_ms * MS
        self.peer_cid_limit = tp.active_connection_id_limit
        self.peer_ack_frequency = tp.min_ack_delay_us is not None
        if self.peer_ack_frequency:
            self.peer_min_ack_delay_us = tp.min_ack_delay_us
        self.peer_udp = tp.max_udp_payload_size if tp.max_udp_payload_size < 65527 else 65527
        if p != NULL:
            mtud_peer_limit(&p.r.mtud, <uint16_t>self.peer_udp)
        idle = <int64_t>tp.max_idle_timeout_ms * MS
        if idle and (self.idle_timeout == 0 or idle < self.idle_timeout):
            self.idle_timeout = idle
        role = tp.address_discovery
        self.send_observed = self.cfg.observed_send and role is not None and role >= 1
        self.receive_observed = self.cfg.observed_receive and role is not None and role != 1
        if self.send_observed and p != NULL:
            p.observed_due = True
        return 0

    cdef int adopt_limits(self, object tp) except -1:
        self.streams.set_peer_limits(tp.initial_max_data, tp.initial_max_stream_data_bidi_local,
                                     tp.initial_max_stream_data_bidi_remote, tp.initial_max_stream_data_uni,
                                     tp.initial_max_streams_bidi, tp.initial_max_streams_uni)
        self.peer_datagram = tp.max_datagram_frame_size
        return 0

    cdef void on_complete(self):
        """The TLS handshake is done on our side."""
        cdef Path* p = self.path(0)
        cdef object tls = self.tls
        if self.peer_parameters is None:
            self.close_text = "peer misbehaved: MissingQuicTransportParameters"
            self.fail(0x16d, NULL, 0)
            return
        if self.is_client and tls.early_data_offered:
            self.early_data_accepted = bool(tls.early_data_accepted)
            if not self.early_data_accepted:
                self.drop_0rtt(p)
            elif self.remembered_parameters is not None and not self.peer_parameters.accepts_zero_rtt_of(
                    self.remembered_parameters):
                self.close_text = "0-RTT accepted with incompatible transport parameters"
                self.fail(PROTOCOL_VIOLATION, NULL, 0)
                return
        elif not self.is_client:
            self.early_data_accepted = tls.early_data_accepted
        self.handshake_done = True
        self.state = ST_ESTABLISHED
        self.peer_id = tls.peer_public_key
        if self.is_client:
            # 0-RTT keys are of no use once 1-RTT keys exist (RFC 9001 §4.9.3).
            aead_free(self.early_key)
            hp_free(self.early_hp)
            self.early_key = NULL
            self.early_hp = NULL
        if self.cfg.max_paths and self.peer_parameters.initial_max_path_id is not None:
            self.multipath = True
            self.local_max_path = self.cfg.max_paths - 1
            self.remote_max_path = self.peer_parameters.initial_max_path_id
            if p != NULL:
                p.idle_timeout = self.cfg.path_idle
            if p != NULL and p.cids.n_remote and p.cids.remote[p.cids.active].len == 0:
                self.fail(PROTOCOL_VIOLATION, b"multipath must not use zero-length CIDs", 0)
                return
        self.nat = self.multipath and self.cfg.max_nat > 0 and self.peer_parameters.n0_nat_traversal is not None
        if p != NULL:
            if self.is_client:
                p.r.validated = True
            self.on_established(p)
        self.issue_cids(0)
        self.issue_path_cids()
        if self.cfg.ack_frequency and self.peer_ack_frequency:
            self.pend(FT_ACK_FREQUENCY, 0, 0, 0)
        if not self.is_client:
            self.pend(FT_HANDSHAKE_DONE, 0, 0, 0)
            self.on_confirmed()
        self.fire(W_HANDSHAKE)
        if self.early_datagrams is not None:
            self.replay_early()

    cdef void drop_0rtt(self, Path* p):
        """Forget everything sent in 0-RTT packets."""
        cdef uint64_t pn
        cdef SentRec* r
        if p != NULL and p.sp.ring != NULL:
            for pn in range(p.sp.first, p.sp.last + 1):
                if not p.sp.outstanding:
                    break
                r = space_rec(&p.sp, pn)
                if r != NULL:
                    if r.size:
                        p.r.in_flight -= r.size
                    frame_recs_free(r.frames)
                    space_remove(&p.sp, pn)
        self.streams.reject_0rtt()
        self.adopt_limits(self.peer_parameters)

    cdef void on_confirmed(self):
        """Both sides have finished the handshake; its state can go."""
        cdef Path* p = self.path(0)
        self.handshake_confirmed = True
        self.peer_validated_us = True
        if p != NULL:
            if self.initial.live:
                self.drop_space(p, &self.initial.sp)
            if self.handshake.live:
                self.drop_space(p, &self.handshake.sp)
        if self.initial.live:
            self.drop_level(&self.initial)
        if self.handshake.live:
            self.drop_level(&self.handshake)
        self.address_token = None
        self.remembered_parameters = None
        free(self.dial)
        self.dial = NULL
        self.n_dial = 0
        self.tls.release_handshake_state()
        self.fire(W_CONFIRMED)

    def parameters(self, bytes reset_token):
        """Our transport parameters, encoded (spec 02 §3)."""
        cdef Config* c = &self.cfg
        tp = TransportParameters()
        if not self.is_client:
            tp.original_destination_connection_id = PyBytes_FromStringAndSize(<char*>self.odcid, self.odcid_len)
            tp.stateless_reset_token = reset_token
            if self.used_retry:
                tp.retry_source_connection_id = PyBytes_FromStringAndSize(<char*>self.retry_scid, self.retry_scid_len)
        tp.max_idle_timeout_ms = c.idle_timeout // MS
        tp.max_udp_payload_size = 1472 if c.mtu_bound <= 1472 else c.mtu_bound
        tp.initial_max_data = c.receive_window
        tp.initial_max_stream_data_bidi_local = c.stream_window
        tp.initial_max_stream_data_bidi_remote = c.stream_window
        tp.initial_max_stream_data_uni = c.stream_window
        tp.initial_max_streams_bidi = c.max_bidi
        tp.initial_max_streams_uni = c.max_uni
        tp.active_connection_id_limit = REMOTE_CIDS
        tp.initial_source_connection_id = PyBytes_FromStringAndSize(<char*>self.scid, CID_LEN)
        tp.max_datagram_frame_size = (65535 if c.datagram_rx > 65535 else c.datagram_rx) if c.datagrams else 0
        tp.min_ack_delay_us = 1000
        if c.max_paths:
            tp.initial_max_path_id = c.max_paths - 1
        if c.max_nat and c.max_paths:
            tp.n0_nat_traversal = c.max_nat
        if c.observed_send or c.observed_receive:
            tp.address_discovery = 2 if c.observed_send and c.observed_receive else 0 if c.observed_send else 1
        return tp.encode(not self.is_client, self.host_random)

    cdef void on_retry(self, const uint8_t* data, size_t n, const uint8_t* scid, uint8_t scid_len, const uint8_t* token,
                       size_t token_len) noexcept:
        """RFC 9000 §17.2.5: start over with the server's token and id, once."""
        cdef uint8_t tag[16]
        cdef Path* p = self.path(0)
        if self.got_first_packet or self.used_retry or n < 16 or token_len == 0:
            return
        if retry_integrity_tag(self.odcid, self.odcid_len, data, n - 16, tag) < 0 or not constant_time_equal(tag, data + n - 16, 16):
            return
        if scid_len == self.dcid0_len and memcmp(scid, self.dcid0, scid_len) == 0:
            return
        self.used_retry = True
        memcpy(self.retry_scid, scid, scid_len)
        self.retry_scid_len = scid_len
        memcpy(self.dcid0, scid, scid_len)
        self.dcid0_len = scid_len
        p.cids.n_remote = 1
        p.cids.active = 0
        memset(&p.cids.remote[0], 0, sizeof(RemoteCid))
        p.cids.remote[0].len = scid_len
        memcpy(p.cids.remote[0].cid, scid, scid_len)
        self.address_token = PyBytes_FromStringAndSize(<char*>token, token_len)
        self.set_initial_keys(scid, scid_len)
        # Packet numbers go on; what was sent counts as never sent.
        self.forget_sent(p, &self.initial.sp)
        sendbuf_rewind(&self.initial.tx)
        self.forget_sent(p, &p.sp)
        self.streams.rewind_0rtt()
        p.pto_count = 0
        p.r.in_flight = 0

    cdef void forget_sent(self, Path* p, PnSpace* sp) noexcept nogil:
        cdef uint64_t pn
        cdef SentRec* r
        if sp.ring == NULL:
            return
        for pn in range(sp.first, sp.last + 1):
            if not sp.outstanding:
                break
            r = space_rec(sp, pn)
            if r != NULL:
                frame_recs_free(r.frames)
                space_remove(sp, pn)

    cdef int set_initial_keys(self, const uint8_t* dcid, size_t n) noexcept nogil:
        cdef uint8_t client[32]
        cdef uint8_t server[32]
        cdef Level* l = &self.initial
        if not l.live:
            l.live = True
            space_init(&l.sp, self.random())
            sendbuf_init(&l.tx)
            recvbuf_init(&l.rx)
        keys_free(&l.keys)
        if initial_secrets(dcid, n, client, server) < 0:
            return -1
        if keys_from_secret(SUITE_AES128_GCM, &client[0] if self.is_client else &server[0], 32, &l.keys.tx, &l.keys.tx_hp) < 0:
            return -1
        return keys_from_secret(SUITE_AES128_GCM, &server[0] if self.is_client else &client[0], 32, &l.keys.rx, &l.keys.rx_hp)

    cdef void on_version_negotiation(self, const uint8_t* data, size_t n, LongHeader* h) noexcept:
        """RFC 9000 §6.2: only before any other packet, and only if our version is missing."""
        cdef size_t at = 7 + h.dcid_len + h.scid_len
        if self.got_first_packet or self.state != ST_HANDSHAKE:
            return
        if h.scid_len != self.dcid0_len or memcmp(h.scid, self.dcid0, h.scid_len) != 0:
            return
        if h.dcid_len != CID_LEN or memcmp(h.dcid, self.scid, CID_LEN) != 0:
            return
        while at + 4 <= n:
            if data[at] == 0 and data[at + 1] == 0 and data[at + 2] == 0 and data[at + 3] == 1:
                return
            at += 4
        self.finish_drained(CloseReason("version_mismatch", 0, b"", True))

    # ------------------------------------------------------------- end of life
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
        if self.path_listener is not None:
            self.loop.call_soon(self.path_listener, self)
            self.path_listener = None
        self.streams.fire_all()
        for kind in range(N_WAITS):
            if kind != W_DRAINED:
                self.fire(kind)

    cdef void enter_close(self, object reason, uint64_t code, bint app, object text, uint64_t frame):
        if self.state >= ST_CLOSING:
            return
        self.state = ST_CLOSING
        self.close_due = True
        self.close_app = app
        self.close_code = code
        self.close_text = text
        self.close_frame = frame
        self.drained_at = self.now + 3 * self.pto_max()
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
        self.drained_at = self.now + 3 * self.pto_max()
        self.end(reason)

    cdef void finish_drained(self, object reason):
        if self.state == ST_DRAINED:
            return
        self.state = ST_DRAINED
        self.deadline = 0
        if reason is not None:
            self.end(reason)
        self.host.on_drained(self)
        if self.qlog is not None:
            self.qlog.finish()
        self.fire(W_DRAINED)

    # ------------------------------------------------------------- time
    cdef int64_t next_deadline(self) noexcept nogil:
        """When handle_timeout has something to do; 0 never. Recomputed once per turn, not per packet."""
        cdef int64_t d = NEVER, t, active, three
        cdef Path* p = self.paths
        cdef PnSpace* sp
        cdef int level
        if self.state == ST_DRAINED:
            return 0
        if self.state >= ST_CLOSING:
            return self.drained_at
        three = 3 * self.pto_max()
        if self.idle_timeout:
            t = self.idle_since() + (self.idle_timeout if self.idle_timeout > three else three)
            if t < d:
                d = t
        if self.key_discard_at and self.key_discard_at < d:
            d = self.key_discard_at
        if self.no_path_at and self.no_path_at < d:
            d = self.no_path_at
        if self.cfg.keep_alive and self.state == ST_ESTABLISHED:
            active = 0
            while p != NULL:
                if p.last_rx > active:
                    active = p.last_rx
                if p.last_tx > active:
                    active = p.last_tx
                p = p.next
            p = self.paths
            if self.paths != NULL and not self.keep_alive_due():
                t = active + self.cfg.keep_alive
                if t < d:
                    d = t
        while p != NULL:
            if p.drained_at and p.drained_at < d:
                d = p.drained_at
            t = self.loss_deadline(p)
            if t == 0:
                t = self.pto_deadline(p, &sp, &level)
            if t and t < d:
                d = t
            if p.sp.ack_at and not p.sp.ack_now and p.sp.ack_at < d:
                d = p.sp.ack_at
            if p.challenge_at and p.challenge_at < d:
                d = p.challenge_at
            if p.validation_fails_at and p.validation_fails_at < d:
                d = p.validation_fails_at
            if p.pacing_at and p.pacing_at < d:
                d = p.pacing_at
            if not p.abandoned and self.state == ST_ESTABLISHED:
                if self.multipath and p.idle_timeout and not self.irreplaceable(p):
                    t = p.idle_from + (p.idle_timeout if p.idle_timeout > 3 * rtt_pto_base(&p.r.rtt) else 3 * rtt_pto_base(&p.r.rtt))
                    if t < d:
                        d = t
                if self.cfg.path_keep_alive and self.multipath and not p.ping_due:
                    t = p.last_tx + self.cfg.path_keep_alive
                    if t < d:
                        d = t
                if self.cfg.path_keep_alive and self.multipath and p.r.validated and not (p.challenge_at or p.challenge_due):
                    t = p.last_rx + 2 * self.cfg.path_keep_alive
                    if t < d:
                        d = t
                # Only while a probe could really leave, else this deadline would stay in the past.
                if (p.r.mtud.state == MTUD_COMPLETE and p.r.validated and p.r.mtud.next_search
                        and p.r.mtud.next_search < d and not p.challenge_at and p.cids.active >= 0
                        and p.r.in_flight + 1500 < p.r.cc.cwnd):
                    d = p.r.mtud.next_search
            p = p.next
        return 0 if d == NEVER else d

    cdef bint keep_alive_due(self) noexcept nogil:
        """Whether every path already has its PING waiting."""
        cdef Path* p = self.paths
        while p != NULL:
            if not p.abandoned and not p.ping_due:
                return False
            p = p.next
        return True

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

    cdef int64_t idle_since(self) noexcept nogil:
        cdef Path* p = self.paths
        cdef int64_t t = self.created_at
        while p != NULL:
            if p.idle_from > t:
                t = p.idle_from
            p = p.next
        return t

    cdef int64_t loss_deadline(self, Path* p) noexcept nogil:
        cdef int64_t t = p.sp.loss_time
        if p.id == 0:
            if self.initial.live and self.initial.sp.loss_time and (t == 0 or self.initial.sp.loss_time < t):
                t = self.initial.sp.loss_time
            if self.handshake.live and self.handshake.sp.loss_time and (t == 0 or self.handshake.sp.loss_time < t):
                t = self.handshake.sp.loss_time
        return t

    cdef void handle_timeout(self, int64_t now) noexcept:
        """Do what is due at `now`. Calls before the deadline are harmless."""
        cdef Path* p
        cdef Path* n
        cdef PnSpace* sp = NULL
        cdef int level = 0
        cdef int64_t t, three, active
        self.now = now
        if self.state == ST_DRAINED:
            return
        if self.state >= ST_CLOSING:
            if now >= self.drained_at:
                self.finish_drained(None)
            return
        three = 3 * self.pto_max()
        if self.idle_timeout:
            t = self.idle_since() + (self.idle_timeout if self.idle_timeout > three else three)
            if now >= t:
                logger.debug("connection %d: idle timeout", self.stable_id)
                self.finish_drained(CloseReason("timed_out"))
                return
        if self.key_discard_at and now >= self.key_discard_at:
            self.key_discard_at = 0
            aead_free(self.rx_prev)
            self.rx_prev = NULL
            if not self.is_client:
                aead_free(self.early_key)
                hp_free(self.early_hp)
                self.early_key = NULL
                self.early_hp = NULL
        if self.no_path_at and now >= self.no_path_at:
            self.no_path_at = 0
            if self.open_paths() == 0:
                self.fail(NO_VIABLE_PATH, b"", 0)
                self.end_failed()
                return
        if self.cfg.keep_alive and self.state == ST_ESTABLISHED:
            active = 0
            p = self.paths
            while p != NULL:
                if p.last_rx > active:
                    active = p.last_rx
                if p.last_tx > active:
                    active = p.last_tx
                p = p.next
            if now >= active + self.cfg.keep_alive:
                p = self.paths
                while p != NULL:
                    if not p.abandoned:
                        p.ping_due = True
                    p = p.next
        p = self.paths
        while p != NULL:
            n = p.next
            self.path_timeout(p, now)
            p = n
        if self.failed:
            self.end_failed()

    cdef void path_timeout(self, Path* p, int64_t now) noexcept nogil:
        cdef PnSpace* sp = NULL
        cdef int level = 0
        cdef int64_t t
        if p.drained_at and now >= p.drained_at:
            self.discard_path(p)
            return
        t = self.loss_deadline(p)
        if t:
            if now >= t:
                if p.sp.loss_time:
                    self.detect_losses(p, &p.sp, LEVEL_1RTT, False)
                if p.id == 0 and self.initial.live and self.initial.sp.loss_time:
                    self.detect_losses(p, &self.initial.sp, LEVEL_INITIAL, False)
                if p.id == 0 and self.handshake.live and self.handshake.sp.loss_time:
                    self.detect_losses(p, &self.handshake.sp, LEVEL_HANDSHAKE, False)
        else:
            t = self.pto_deadline(p, &sp, &level)
            if t and now >= t:
                sp.loss_probes += 2 if sp.eliciting else 1
                if sp.loss_probes > 2:
                    sp.loss_probes = 2
                p.pto_count += 1
                if sp.eliciting == 0:
                    p.last_tx = now
                else:
                    # The next expiry counts from the probe that goes out now, even if nothing can be sent.
                    sp.last_eliciting_at = now
                if self.qlog is not None:
                    self.log_metrics(p)
        if p.sp.ack_at and now >= p.sp.ack_at:
            p.sp.ack_now = True
        if p.challenge_at and now >= p.challenge_at:
            p.challenge_at = 0
            p.challenge_lost += 1
            p.challenge_due = True
        if p.validation_fails_at and now >= p.validation_fails_at:
            p.validation_fails_at = 0
            if p.previous != NULL and not p.r.validated:
                # The new address never answered: back to the one that did.
                self.generation += 1
                p.r = p.previous[0]
                free(p.previous)
                p.previous = NULL
                if self.qlog is not None:
                    self.log_tuple(p)
                p.challenge_due = False
                p.challenge_at = 0
        if p.pacing_at and now >= p.pacing_at:
            p.pacing_at = 0
        if p.abandoned or self.state != ST_ESTABLISHED:
            return
        if self.multipath and p.idle_timeout and not self.irreplaceable(p):
            t = p.idle_from + (p.idle_timeout if p.idle_timeout > 3 * rtt_pto_base(&p.r.rtt) else 3 * rtt_pto_base(&p.r.rtt))
            if now >= t:
                self.abandon(p, PATH_UNSTABLE_OR_POOR)
                return
        if self.cfg.path_keep_alive and self.multipath:
            # Both sides beat: acknowledgements take the best path, so only what the peer sends here on its own account
            # shows that this path works.
            if now >= p.last_tx + self.cfg.path_keep_alive:
                p.ping_due = True
            # INTEROP: iroh does not beat on a path on which it hears us, be it data that is not acknowledged here. It must
            # answer a challenge on the path.
            if p.r.validated and not (p.challenge_at or p.challenge_due) and now >= p.last_rx + 2 * self.cfg.path_keep_alive:
                self.challenge(p)

    # ------------------------------------------------------------- events
    cdef void fire(self, int kind):
        cdef list waiting
        if self.waiters is None:
            return
        waiting = self.waiters.pop(kind, None)
        if waiting is not None:
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    cdef void dispatch(self):
        """Deliver what happened since the last turn. Runs no foreign code: futures only."""
        cdef uint32_t e = self.dirty_events
        cdef uint32_t s = self.streams.events
        self.dirty_events = 0
        self.streams.events = 0
        if self.streams.ev_head != NULL:
            self.streams.dispatch()
        if s and self.waiters is not None:
            if s & EV_OPENED_BI:
                self.fire(W_ACCEPT_BI)
            if s & EV_OPENED_UNI:
                self.fire(W_ACCEPT_UNI)
            if s & EV_AVAILABLE_BI:
                self.fire(W_OPEN_BI)
            if s & EV_AVAILABLE_UNI:
                self.fire(W_OPEN_UNI)
        if e and self.waiters is not None:
            if e & (<uint32_t>1 << W_DATAGRAM):
                self.fire(W_DATAGRAM)
            if e & (<uint32_t>1 << W_DATAGRAM_SPACE):
                self.fire(W_DATAGRAM_SPACE)
            if e & (<uint32_t>1 << W_PATHS):
                self.fire(W_PATHS)
        if e & (<uint32_t>1 << W_PATHS) and self.path_listener is not None:
            self.loop.call_soon(self.path_listener, self)

    def wait(self, int kind):
        """A future for the next event of a WAIT_* kind; it also resolves when the connection ends."""
        cdef object future = self.loop.create_future()
        if (self.close_reason is not None if kind != W_DRAINED else self.state == ST_DRAINED):
            future.set_result(None)
            return future
        if self.waiters is None:
            self.waiters = {}
        waiting = self.waiters.get(kind)
        if waiting is None:
            self.waiters[kind] = [future]
        else:
            if len(waiting) > 16:
                waiting[:] = [f for f in waiting if not f.done()]
            waiting.append(future)
        return future

    # ------------------------------------------------------------- handle
    cdef void check(self) except *:
        if self.close_reason is not None:
            raise self.close_reason.to_error()

    @property
    def handshake_complete(self):
        """Whether TLS finished on our side."""
        return self.handshake_done

    @property
    def drained(self):
        """Whether nothing of the connection is left on the wire."""
        return self.state == ST_DRAINED

    @property
    def closing(self):
        """Whether the connection is over, drained or not."""
        return self.state >= ST_CLOSING

    @property
    def resumed(self):
        """Whether TLS resumed an earlier session."""
        return bool(self.tls.resumed)

    @property
    def has_0rtt(self):
        """Client: 0-RTT keys are available now."""
        return self.is_client and self.early_key != NULL

    @property
    def has_multipath(self):
        """Whether both sides negotiated multipath."""
        return self.multipath

    def open_stream(self, bint bidi):
        """A new stream, or None while the peer allows no more.

        Raises
        ------
        ConnectionLost
            The connection is over.
        """
        self.check()
        cdef QuicStream s = self.streams.open(bidi)
        if s is not None and not self.handshake_done:
            s.is_0rtt = True
        return s

    def accept_stream(self, bint bidi):
        """The peer's next stream in id order, or None."""
        cdef QuicStream s = self.streams.accept(bidi)
        if s is None:
            self.check()
        elif not self.handshake_done:
            s.is_0rtt = True
        return s

    def read_datagram(self):
        """The oldest received datagram, or None."""
        cdef uint32_t n
        cdef bytes out
        if queue_empty(&self.dgram_rx):
            self.check()
            return None
        n = queue_peek(&self.dgram_rx)
        out = PyBytes_FromStringAndSize(NULL, n)
        queue_pop(&self.dgram_rx, <uint8_t*>PyBytes_AS_STRING(out))
        return out

    def send_datagram(self, data, bint drop_oldest=True):
        """Queue one datagram (copied); False when the buffer is full and nothing may be dropped."""
        cdef Py_buffer view
        if type(data) is bytes:
            return self.queue_datagram(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), drop_oldest)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.queue_datagram(<const uint8_t*>view.buf, view.len, drop_oldest)
        finally:
            PyBuffer_Release(&view)

    cdef bint queue_datagram(self, const uint8_t* p, Py_ssize_t n, bint drop_oldest) except -1:
        self.check()
        limit = self.max_datagram()
        if limit is None:
            if not self.cfg.datagrams:
                raise DatagramDisabled()
            raise DatagramUnsupported()
        if n > <Py_ssize_t>limit:
            raise DatagramTooLarge(n, limit)
        if queue_push(&self.dgram_tx, p, <uint32_t>n, drop_oldest) < 0:
            if <uint64_t>n > self.cfg.datagram_tx:
                raise DatagramTooLarge(n, self.cfg.datagram_tx)
            self.datagram_blocked = True
            return False
        self.host.wake(self)
        return True

    cdef uint16_t path_mtu(self) noexcept nogil:
        cdef Path* p = self.paths
        cdef uint16_t best = 65535
        while p != NULL:
            if not p.abandoned and p.r.mtud.current < best:
                best = p.r.mtud.current
            p = p.next
        return best if best != 65535 else self.cfg.initial_mtu

    cdef object max_datagram(self):
        cdef int64_t room, dcid = CID_LEN
        cdef Path* p = self.paths
        if not self.cfg.datagrams or self.peer_datagram == 0:
            return None
        while p != NULL:
            if p.cids.active >= 0 and p.cids.remote[p.cids.active].len > dcid:
                dcid = p.cids.remote[p.cids.active].len
            p = p.next
        room = self.path_mtu() - (1 + dcid + 4 + 16)
        if room > <int64_t>self.peer_datagram:
            room = <int64_t>self.peer_datagram
        return room - 9 if room > 9 else 0

    @property
    def max_datagram_size(self):
        """Largest datagram that fits now, or None when either side has datagrams off."""
        return self.max_datagram()

    @property
    def datagram_send_buffer_space(self):
        """Bytes that may be queued before old datagrams are dropped."""
        return self.cfg.datagram_tx - self.dgram_tx.bytes

    def close(self, uint64_t code=0, bytes reason=b""):
        """Close with an application code; queued data is abandoned. Later calls do nothing."""
        cdef int64_t now = self.host.clock_ns()
        if self.state >= ST_CLOSING:
            return
        if now:
            self.now = now
        self.enter_close(CloseReason("locally_closed"), code, True, reason, 0)

    def abandon_handle(self):
        """The last handle is gone."""
        self.close(0, b"")

    def ping(self):
        """Send a PING on every path."""
        cdef Path* p = self.paths
        while p != NULL:
            if not p.abandoned:
                p.ping_due = True
            p = p.next
        self.host.wake(self)

    def force_key_update(self):
        """Enter the next key phase now (tests); IrohError when the last one is still under way."""
        if not self.may_update_keys():
            raise IrohError("a key update is not possible now")
        self.update_keys(False)
        self.key_discard_at = 0

    def network_changed(self):
        """Addresses of this machine may have changed: probe every path with a fresh id."""
        cdef Path* p = self.paths
        while p != NULL:
            if not p.abandoned:
                p.ping_due = True
                if self.peer_ack_frequency:
                    p.immediate_ack_due = True
                p.pto_count = 0
                memset(&p.r.local, 0, sizeof(UdpAddr))
                self.rotate_cid(p)
            p = p.next
        self.host.wake(self)

    def set_max_concurrent(self, bidi=None, uni=None):
        """Allow the peer other numbers of concurrent streams."""
        cdef int i
        for i, value in enumerate((bidi, uni)):
            if value is None:
                continue
            if value > self.streams.concurrent[i]:
                self.streams.max_remote[i] += value - self.streams.concurrent[i]
                self.streams.max_streams_unsent[i] = True
            self.streams.concurrent[i] = value
        self.host.wake(self)

    def set_receive_window(self, uint64_t window):
        """Change how much unread data the whole connection may hold."""
        self.streams.receive_window = window
        self.streams.credit(0)
        self.host.wake(self)

    # --- paths
    def path_ids(self):
        """Ids of the paths that are not abandoned."""
        cdef Path* p = self.paths
        cdef list out = []
        while p != NULL:
            if not p.abandoned:
                out.append(p.id)
            p = p.next
        return out

    def path_info(self, uint32_t id):
        """A snapshot of one path, or None."""
        cdef Path* p = self.path(id)
        if p == NULL:
            return None
        return {
            "id": p.id, "remote": addr_to_tuple(&p.r.remote),
            "local": addr_to_tuple(&p.r.local) if ip_known(&p.r.local) else None,
            "status": "backup" if p.status == STATUS_BACKUP else "available", "validated": p.r.validated, "announced": p.status_seq > 0,
            "rtt": rtt_get(&p.r.rtt) / 1e9, "cwnd": p.r.cc.cwnd, "mtu": p.r.mtud.current, "in_flight": p.r.in_flight,
            "stats": path_stats(p)}

    def path_events(self):
        """Take the events of paths since the last call (at most 64, then a "lagged" entry)."""
        cdef list out
        if self.path_log is None:
            return []
        out = list(self.path_log)
        self.path_log.clear()
        if self.path_log_lost:
            out.append(("lagged", self.path_log_lost))
            self.path_log_lost = 0
        return out

    def open_path(self, remote, local=None, bint backup=False):
        """Client: start another path. Its id; IrohError when ids or connection ids ran out."""
        cdef UdpAddr r, l
        cdef Path* p
        cdef uint32_t top = self.local_max_path if self.local_max_path < self.remote_max_path else self.remote_max_path
        cdef int64_t id = self.max_path_used + 1
        cdef int64_t now = self.host.clock_ns()
        cdef int i
        cdef CidSet* c
        self.check()
        if now:
            self.now = now
        if not self.is_client:
            raise ConfigError("only the side that dialed opens paths")
        if not self.multipath or not self.handshake_confirmed:
            raise IrohError("multipath is not available on this connection")
        addr_from_tuple(remote, &r)
        memset(&l, 0, sizeof(UdpAddr))
        if local is not None:
            addr_from_tuple(local, &l)
        for i in range(self.n_abandoned):
            if <int64_t>self.abandoned[i] >= id:
                id = <int64_t>self.abandoned[i] + 1
        if id > top:
            self.pend(FT_PATHS_BLOCKED, 0, self.remote_max_path, 0)
            self.host.wake(self)
            raise IrohError("the peer allows no further path")
        c = self.cidset(<uint32_t>id, True)
        if c.active < 0:
            self.pend(FT_PATH_CIDS_BLOCKED, id, 0, 0)
            self.host.wake(self)
            raise IrohError("the peer has given no connection id for another path")
        p = self.add_path(<uint32_t>id, &r, &l)
        if p == NULL:
            raise MemoryError
        self.no_path_at = 0
        self.challenge(p)
        if backup:
            self.set_status(p, STATUS_BACKUP)
        self.host.wake(self)
        return id

    def close_path(self, uint32_t id, uint64_t code=APPLICATION_ABANDON_PATH):
        """Abandon a path; IrohError for the last open one."""
        cdef Path* p = self.path(id)
        if p == NULL or p.abandoned:
            return
        if self.last_open(p):
            raise IrohError("the last open path cannot be closed")
        self.abandon(p, code)
        self.host.wake(self)

    cdef void set_status(self, Path* p, int status) noexcept nogil:
        p.status = status
        p.status_seq += 1
        if self.multipath:
            self.pend(FT_PATH_STATUS_BACKUP if status == STATUS_BACKUP else FT_PATH_STATUS_AVAILABLE, p.id, p.status_seq, 0)

    def set_path_status(self, uint32_t id, bint available):
        """Whether data may use the path (True) or only when no available one works."""
        cdef Path* p = self.path(id)
        if p != NULL and not p.abandoned:
            self.set_status(p, STATUS_AVAILABLE if available else STATUS_BACKUP)
            self.host.wake(self)

    def set_path_max_idle(self, uint32_t id, seconds):
        """Idle timeout of one path in seconds; None for none."""
        cdef Path* p = self.path(id)
        if p != NULL:
            p.idle_timeout = ns(seconds)
            self.host.wake(self)

    def stats(self):
        """Counters over all paths there ever were."""
        cdef Path* p = self.paths
        cdef PathStats s = self.done
        cdef int i
        while p != NULL:
            s.tx_datagrams += p.stats.tx_datagrams
            s.tx_bytes += p.stats.tx_bytes
            s.rx_datagrams += p.stats.rx_datagrams
            s.rx_bytes += p.stats.rx_bytes
            s.lost_packets += p.stats.lost_packets
            s.lost_bytes += p.stats.lost_bytes
            for i in range(N_COUNTERS):
                s.tx_frames[i] += p.stats.tx_frames[i]
                s.rx_frames[i] += p.stats.rx_frames[i]
            p = p.next
        return {
            "udp_tx": {"datagrams": s.tx_datagrams, "bytes": s.tx_bytes},
            "udp_rx": {"datagrams": s.rx_datagrams, "bytes": s.rx_bytes},
            "frame_tx": {name: s.tx_frames[i] for i, name in enumerate(FRAME_NAMES)},
            "frame_rx": {name: s.rx_frames[i] for i, name in enumerate(FRAME_NAMES)},
            "lost_packets": s.lost_packets, "lost_bytes": s.lost_bytes}

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

    cdef void on_stateless_reset(self):
        if self.state < ST_DRAINING:
            self.finish_drained(CloseReason("reset", 0, b"", True))


STATE_NAMES = ("handshake", "established", "closing", "draining", "drained")


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
