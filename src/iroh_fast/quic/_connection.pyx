"""One QUIC connection without IO: receiving, timers and the handle for the layers above.

Sources: RFC 9000, 9221, the multipath, ACK frequency and address discovery drafts, and iroh's
use of them.
"""
cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._batch cimport UdpAddr, addr_from_tuple, addr_to_tuple, addr_is_v4
from iroh_fast._packet cimport *
from iroh_fast.quic._buffers cimport recvbuf_insert, recvbuf_readable
from iroh_fast.quic._congestion cimport rtt_init, rtt_get, rtt_pto_base, mtud_peer_limit
from iroh_fast.quic._counters cimport *
from iroh_fast.quic._datagrams cimport queue_push, queue_peek, queue_pop, queue_empty
from iroh_fast.quic._keys cimport (
    FOLLOW_UPDATED, KEYS_LIMIT, KEYS_MISUSED, LEVEL_0RTT, LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, Opened, keys_can_open,
    keys_can_seal, keys_drop, keys_drop_previous, keys_follow, keys_open, keys_phase_news, keys_unmask)
from iroh_fast.quic._paths cimport *
from iroh_fast.quic._recovery cimport *
from iroh_fast.quic._streams cimport QuicStream

from iroh_fast.quic._state cimport *
from iroh_fast.quic._handshake cimport SecuredConnection

import logging

from iroh_fast.errors import (
    CloseReason, ConfigError, DatagramDisabled, DatagramTooLarge, DatagramUnsupported, IrohError)
from iroh_fast.quic._state import FRAME_NAMES

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

cdef enum:
    MAX_EARLY_DATAGRAMS = 10      # 1-RTT datagrams kept until the keys exist
    MAX_RETIRE_PENDING = 50
    MAX_ACK_DELAY_MS = 25

STATE_NAMES = ("handshake", "established", "closing", "draining", "drained")


@cython.final
cdef class QuicConnection(SecuredConnection):
    """One connection of a sans-IO QUIC endpoint.

    Made by ``QuicEndpoint.connect`` and ``QuicIncoming.accept``. Methods act at
    once and never wait; `wait` gives a future for the next event of a kind.
    """

    def __repr__(self):
        side = "client" if self.is_client else "server"
        return f"<QuicConnection {self.stable_id} {side} {STATE_NAMES[self.state]}>"

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
                if keys_can_open(&self.keys, LEVEL_1RTT):
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
        if self.early_datagrams is not None and self.handshake_done and self.err == 0:
            self.replay_early()
        if recvbuf_readable(&self.data_crypto_rx) and self.err == 0 and self.state < ST_CLOSING:
            self.tls_feed(LEVEL_1RTT)
        if self.failed:
            self.end_failed()

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
        cdef Opened packet
        cdef uint64_t pn
        cdef int level
        cdef int64_t before
        cdef bint eliciting = False, probing = True, retried
        if p == NULL or parse_long_header(data, n, &h) < 0:
            return -1
        used[0] = h.packet_len
        if h.type == -1:
            if self.is_client and h.version == 0:
                self.on_version_negotiation(data, n, &h)
            return -1
        if h.type == 3:
            if self.is_client:
                retried = self.used_retry
                self.on_retry(data, n, h.scid, h.scid_len, h.token, h.token_len)
                if self.used_retry and not retried:
                    # The token is for the address this came from: the other candidates would refuse it.
                    p.r.remote = src[0]
                    self.n_dial = 0
            return -1
        if h.type == 1:
            if self.is_client:
                return 0
            level = LEVEL_0RTT
            sp = &p.sp
        else:
            level = LEVEL_INITIAL if h.type == 0 else LEVEL_HANDSHAKE
            l = self.initial if level == LEVEL_INITIAL else self.handshake
            if not l.live:
                return 0
            sp = &l.sp
        if not keys_can_open(&self.keys, level):
            return 0
        if level == LEVEL_INITIAL and not self.is_client and total < MIN_DATAGRAM:
            return 0
        # Once known, the peer's handshake id does not change (RFC 9000 §7.2).
        if self.server_scid_known and level != LEVEL_0RTT and (
                h.scid_len != self.dcid0_len or memcmp(h.scid, self.dcid0, h.scid_len) != 0):
            return 0
        if keys_unmask(&self.keys, level, data, h.packet_len, h.pn_offset, <uint64_t>(sp.largest_rx + 1), &packet) < 0:
            return 0
        pn = packet.pn
        if space_is_duplicate(sp, pn):
            return 0
        if keys_open(&self.keys, level, 0, data, h.packet_len, h.pn_offset, &packet) < 0:
            return 0
        if data[0] & 0x0c:
            if self.got_first_packet:
                self.fail(PROTOCOL_VIOLATION, b"reserved bits set", 0)
            return -1
        # --- authenticated
        if self.qlog is not None:
            self.log_packet(False, level, 0, pn, h.packet_len, packet.payload, packet.size)
        if level == LEVEL_0RTT and keys_can_open(&self.keys, LEVEL_1RTT) and self.key_discard_at == 0:
            self.discard_keys_later()
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
                    self.drop_level(LEVEL_INITIAL)
        before = sp.largest_rx
        space_mark_received(sp, pn, self.now)
        self.count_ecn(sp, ecn)
        p.last_rx = p.idle_from = self.now
        p.permit_idle_reset = True
        self.frames(p, sp, level, packet.payload, packet.payload + packet.size, src, dst, &eliciting, &probing)
        if self.err or self.state >= ST_DRAINING:
            return -1
        l = self.initial if level == LEVEL_INITIAL else self.handshake
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
        cdef Opened packet
        cdef uint64_t pn
        cdef int rc
        cdef bint eliciting = False, probing = True
        cdef int64_t largest = -1, before
        if p == NULL:
            # Only the client opens paths, and only after the handshake.
            if (self.is_client or not self.multipath or path_id > self.local_max_path or self.was_abandoned(path_id)
                    or self.state != ST_ESTABLISHED):
                return
        else:
            largest = p.sp.largest_rx
        if keys_unmask(&self.keys, LEVEL_1RTT, data, n, 1 + CID_LEN, <uint64_t>(largest + 1), &packet) < 0:
            return
        pn = packet.pn
        if p != NULL and space_is_duplicate(&p.sp, pn):
            return
        rc = keys_open(&self.keys, LEVEL_1RTT, path_id, data, n, 1 + CID_LEN, &packet)
        if rc < 0:
            if rc == KEYS_LIMIT:
                self.fail(AEAD_LIMIT_REACHED, b"integrity limit reached", 0)
            return
        if data[0] & 0x18:
            self.fail(PROTOCOL_VIOLATION, b"reserved bits set", 0)
            return
        if self.qlog is not None:
            self.log_packet(False, LEVEL_1RTT, path_id, pn, n, packet.payload, packet.size)
        if keys_phase_news(&self.keys, &packet) and self.follow_keys(&packet, path_id, largest) < 0:
            return
        if self.state == ST_HANDSHAKE and not self.handshake_done:
            return
        if self.is_client:
            self.peer_validated_us = True
        if not self.is_client and keys_can_open(&self.keys, LEVEL_0RTT) and self.key_discard_at == 0:
            self.discard_keys_later()
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
        if self.spinning and <int64_t>pn > before:
            p.spin = ((data[0] & 0x20) != 0) != self.is_client
        space_mark_received(&p.sp, pn, self.now)
        self.count_ecn(&p.sp, ecn)
        p.last_rx = p.idle_from = self.now
        p.permit_idle_reset = True
        if self.frames(p, &p.sp, LEVEL_1RTT, packet.payload, packet.payload + packet.size, src, dst, &eliciting, &probing) < 0:
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

    cdef int follow_keys(self, const Opened* packet, uint32_t path_id, int64_t largest) noexcept nogil:
        """The packet came in another key phase, or is the first one in ours; -1 when the connection failed."""
        cdef int rc = keys_follow(&self.keys, packet, path_id, largest, self.now)
        if rc == KEYS_MISUSED:
            return self.fail(KEY_UPDATE_ERROR, b"", 0)
        if rc < 0:
            return self.fail(INTERNAL_ERROR, b"key update failed", 0)
        if rc == FOLLOW_UPDATED:
            self.phase_changed(True)
        self.discard_keys_later()
        return 0

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
        self.reset_spin(p)
        self.rotate_cid(p)
        self.challenge(p)
        p.pto_count = 0
        if self.send_observed:
            p.observed_due = True
        return 0

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
                l = self.initial if level == LEVEL_INITIAL else self.handshake
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

    # ------------------------------------------------------------- time

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
            keys_drop_previous(&self.keys)
            if not self.is_client:
                keys_drop(&self.keys, LEVEL_0RTT)
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
        return self.is_client and keys_can_seal(&self.keys, LEVEL_0RTT)

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
        self.update_keys()
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

    cdef void on_stateless_reset(self):
        if self.state < ST_DRAINING:
            self.finish_drained(CloseReason("reset", 0, b"", True))
