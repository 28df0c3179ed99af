"""Acknowledgements, losses and deadlines of a connection.

Sources: RFC 9002, RFC 9000 §13, the multipath draft.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free

from iroh_fast._packet cimport *
from iroh_fast.quic._buffers cimport sendbuf_ack, sendbuf_lost
from iroh_fast.quic._congestion cimport (
    rtt_sample, rtt_get, rtt_conservative, rtt_pto_base, cc_on_ack, cc_on_congestion, cc_on_spurious,
    cc_on_mtu, mtud_on_acked, mtud_on_probe_lost, mtud_on_lost, mtud_black_hole, MTUD_COMPLETE)
from iroh_fast.quic._counters cimport *
from iroh_fast.quic._datagrams cimport queue_peek, queue_pop, queue_empty
from iroh_fast.quic._keys cimport LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_acked, keys_can_seal
from iroh_fast.quic._paths cimport *
from iroh_fast.quic._recovery cimport *

from iroh_fast.quic._state cimport *

cdef int64_t MS = 1000000
cdef int64_t SECOND = 1000000000
cdef int64_t NEVER = <int64_t>0x7fffffffffffffff


cdef class LossRecovery(ConnectionState):
    """Second room: what was sent, and whether it arrived."""

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

    cdef void log_metrics(self, Path* p) noexcept nogil:
        cdef uint64_t packets = p.sp.eliciting
        if p.id == 0:
            packets += self.initial.sp.eliciting + self.handshake.sp.eliciting
        with gil:
            self.qlog.metrics(self.now, p.id, (
                p.r.rtt.min, rtt_get(&p.r.rtt), p.r.rtt.latest, p.r.rtt.var, p.pto_count, p.r.cc.cwnd, p.r.in_flight,
                p.r.cc.ssthresh, packets))

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
                        keys_acked(&self.keys, r.sent_at, (r.flags & REC_PHASE) != 0)
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
                    l = self.initial if level == LEVEL_INITIAL else self.handshake
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
                    l = self.initial if level == LEVEL_INITIAL else self.handshake
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
            if self.handshake.live and keys_can_seal(&self.keys, LEVEL_HANDSHAKE):
                out[0] = &self.handshake.sp
                level[0] = LEVEL_HANDSHAKE
            else:
                out[0] = &self.initial.sp
                level[0] = LEVEL_INITIAL
        return best

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
