"""Acknowledgements and losses of a connection: what was sent, and whether it arrived.

Plain functions over the connection. Sources: RFC 9002, RFC 9000 §13, the multipath draft.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free

from iroh_fast._packet cimport (
    FT_CRYPTO, FT_MAX_DATA, FT_OBSERVED_ADDR_V4, FT_PATH_ACK, FT_PATH_NEW_CONNECTION_ID, FT_PATH_RETIRE_CONNECTION_ID,
    FT_PATH_STATUS_AVAILABLE, FT_PATH_STATUS_BACKUP, FT_RESET_STREAM, FT_RETIRE_CONNECTION_ID, FT_STOP_SENDING,
    FT_STREAM, FT_STREAMS_BLOCKED_UNI, Frame, next_ack_range)
from iroh_fast.quic._buffers cimport sendbuf_ack, sendbuf_lost
from iroh_fast.quic._congestion cimport cc_on_acked, cc_on_ecn, cc_on_lost, cc_on_mtu, cc_on_spurious
from iroh_fast.quic._controller cimport Acked, Lost
from iroh_fast.quic._datagrams cimport queue_empty, queue_peek, queue_pop
from iroh_fast.quic._keys cimport LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_acked, keys_can_seal
from iroh_fast.quic._mtud cimport mtud_black_hole, mtud_on_acked, mtud_on_lost, mtud_on_probe_lost
from iroh_fast.quic._paths cimport MAX_CID_LEN, Path, PathStats, path_challenging, path_free, stats_add
from iroh_fast.quic._recovery cimport (
    FrameRec, PnSpace, REC_ACK, REC_ELICITING, REC_FIN, REC_MTU_PROBE, REC_PHASE, REC_STREAM, SentRec, frame_recs_free,
    space_forget_acked, space_free, space_rec, space_remember_lost, space_remove, space_unlose)
from iroh_fast.quic._rtt cimport rtt_conservative, rtt_get, rtt_pto_base, rtt_sample
from iroh_fast.quic._state cimport ConnectionState, Level, PROTOCOL_VIOLATION, ST_HANDSHAKE, W_DATAGRAM_SPACE
from iroh_fast.quic._time cimport MS, SECOND, doubled, ns_from_us, times
from iroh_fast.quic._validation cimport amplification_blocked


cdef int on_ack(ConnectionState conn, Path* path, PnSpace* space, int level, Frame* frame) noexcept nogil:  # hot
    """ACK or PATH_ACK for one packet number space."""
    cdef uint64_t lo, hi, smallest, pn
    cdef Acked acked
    cdef const uint8_t* at
    cdef uint64_t left
    cdef SentRec* sent
    cdef int64_t newest_sent = -1, delay
    cdef uint32_t newest_route = 0
    cdef bint raised = False, newly = False, newly_eliciting = False, cleared = False
    # consecutive STREAM ranges of one stream are acknowledged together
    cdef uint64_t s_id = 0, s_off = 0, s_end = 0
    cdef bint s_open = False, s_fin = False
    cdef FrameRec* records
    acked.size = acked.fresh = 0
    acked.sent_at = -1
    if frame.largest >= space.next_pn:
        return conn.fail(PROTOCOL_VIOLATION, b"unsent packet acked", 0)
    hi = frame.largest
    lo = frame.largest - frame.first
    smallest = lo
    at = frame.ranges
    left = frame.range_count
    if <int64_t>frame.largest > space.largest_acked:
        raised = True
        space.largest_acked = <int64_t>frame.largest
    while True:
        if space.last_skipped >= 0 and lo <= <uint64_t>space.last_skipped <= hi:
            return conn.fail(PROTOCOL_VIOLATION, b"unsent packet acked", 0)
        if space.n_lost and space_unlose(space, lo, hi):
            cleared = True
        if space.outstanding and hi >= space.first:
            pn = lo if lo > space.first else space.first
            if hi > space.last:
                hi = space.last
            while pn <= hi and space.outstanding:
                sent = space_rec(space, pn)
                if sent != NULL:
                    newly = True
                    if sent.flags & REC_ELICITING:
                        newly_eliciting = True
                    if sent.sent_at > newest_sent:
                        newest_sent = sent.sent_at
                        newest_route = sent.generation
                    keys_acked(&conn.keys, sent.sent_at, (sent.flags & REC_PHASE) != 0)
                    if sent.flags & REC_ACK:
                        ack_seen(conn, space, level, sent.acked_path, sent.acked_upto)
                    if sent.size:
                        if sent.generation == path.r.generation:
                            path.r.in_flight -= sent.size
                            acked.size += sent.size
                            if sent.sent_at > path.r.cc.recovery_start:
                                acked.fresh += sent.size
                            if sent.sent_at > acked.sent_at:
                                acked.sent_at = sent.sent_at
                            if level == LEVEL_1RTT and mtud_on_acked(&path.r.mtud, conn.now, pn, sent.size):
                                cc_on_mtu(&path.r.cc, path.r.mtud.current)
                        elif path.previous != NULL and sent.generation == path.previous.generation:
                            path.previous.in_flight -= sent.size
                    if sent.flags & REC_STREAM:
                        if s_open and sent.stream_id == s_id and sent.offset == s_end:
                            s_end += sent.len
                            s_fin = (sent.flags & REC_FIN) != 0
                        else:
                            if s_open:
                                conn.streams.on_acked(s_id, s_off, s_end - s_off, s_fin)
                            s_open = True
                            s_id = sent.stream_id
                            s_off = sent.offset
                            s_end = sent.offset + sent.len
                            s_fin = (sent.flags & REC_FIN) != 0
                        if s_fin:
                            conn.streams.on_acked(s_id, s_off, s_end - s_off, True)
                            s_open = False
                            s_fin = False
                    records = sent.frames
                    space_remove(space, pn)
                    if records != NULL:
                        if s_open:
                            conn.streams.on_acked(s_id, s_off, s_end - s_off, False)
                            s_open = False
                        frames_acked(conn, records, level)
                pn += 1
            if s_open:
                conn.streams.on_acked(s_id, s_off, s_end - s_off, s_fin)
                s_open = False
        if left == 0:
            break
        left -= 1
        at = next_ack_range(at, &smallest, &lo, &hi)
    if raised:
        if newest_sent >= 0:
            space.largest_acked_at = newest_sent
        # What was sent before a migration measures the way to the old address.
        if newly_eliciting and newest_sent >= 0 and newest_route == path.r.generation:
            delay = 0
            if level == LEVEL_1RTT:
                delay = times(ns_from_us(frame.delay), <int64_t>1 << conn.peer_ack_exponent)
                if delay > conn.peer_max_ack_delay:
                    delay = conn.peer_max_ack_delay
            rtt_sample(&path.r.rtt, conn.now, delay, conn.now - newest_sent)
    if conn.is_client and level == LEVEL_HANDSHAKE:
        conn.peer_validated_us = True
    if acked.size:
        acked.now = conn.now
        acked.in_flight = path.r.in_flight
        # RFC 9002 §7.8: a window that is hardly used does not grow. The room above what flow control lets into
        # flight keeps the pacer from being the limit.
        acked.app_limited = path.app_limited or 4 * (path.r.in_flight + acked.size) < path.r.cc.cwnd
        acked.rtt = &path.r.rtt
        cc_on_acked(&path.r.cc, &acked)
    if cleared:
        cc_on_spurious(&path.r.cc)
        path.stats.spurious += 1
    if newly:
        check_ecn(conn, path, space, frame, raised)
    detect_losses(conn, path, space, level, True)
    if newly and (not conn.is_client or conn.peer_validated_us):
        path.pto_count = 0
        path.silent = False
    if conn.qlog is not None:
        log_metrics(conn, path)
    return 0


cdef void check_ecn(ConnectionState conn, Path* path, PnSpace* space, Frame* frame, bint raised) noexcept nogil:
    """RFC 9000 §13.4.2, as lenient as iroh: counts must exist and not shrink."""
    if not path.r.ecn:
        return
    if not frame.has_ecn:
        path.r.ecn = False
        return
    if not raised:
        return
    if (frame.ect0 < space.peer_ect0 or frame.ect1 > space.peer_ect1 or frame.ce < space.peer_ce
            or frame.ect0 + frame.ce <= space.peer_ect0 + space.peer_ce):
        path.r.ecn = False
        return
    if frame.ce > space.peer_ce:
        if cc_on_ecn(&path.r.cc, conn.now, space.largest_acked_at):
            path.stats.congestion_events += 1
    space.peer_ect0 = frame.ect0
    space.peer_ect1 = frame.ect1
    space.peer_ce = frame.ce


cdef void ack_seen(ConnectionState conn, PnSpace* space, int level, uint32_t path_id, uint64_t upto) noexcept nogil:
    """The peer has our acknowledgement of everything up to `upto`: those ranges need no repetition."""
    cdef Path* other
    if level != LEVEL_1RTT:
        space_forget_acked(space, upto)
        return
    other = conn.path(path_id)
    if other != NULL:
        space_forget_acked(&other.sp, upto)


cdef void frames_acked(ConnectionState conn, FrameRec* record, int level) noexcept nogil:
    cdef FrameRec* following
    cdef Level* stage
    while record != NULL:
        following = record.next
        if record.type == FT_STREAM:
            conn.streams.on_acked(record.id, record.a, record.b >> 1, record.b & 1)
        elif record.type == FT_CRYPTO:
            if level == LEVEL_1RTT:
                sendbuf_ack(&conn.data_crypto_tx, record.a, record.b)
            else:
                stage = conn.initial if level == LEVEL_INITIAL else conn.handshake
                sendbuf_ack(&stage.tx, record.a, record.b)
        elif record.type == FT_RESET_STREAM:
            conn.streams.on_reset_acked(record.id)
        elif record.type == FT_PATH_ACK:
            ack_seen(conn, NULL, LEVEL_1RTT, <uint32_t>record.path, record.a)
        elif record.type == FT_PATH_RETIRE_CONNECTION_ID or record.type == FT_RETIRE_CONNECTION_ID:
            conn.n_retire -= 1
        free(record)
        record = following


cdef void frames_lost(ConnectionState conn, Path* path, FrameRec* record, int level) noexcept nogil:
    """Queue again what must arrive; `f` is consumed."""
    cdef FrameRec* following
    cdef Level* stage
    cdef uint64_t kind
    while record != NULL:
        following = record.next
        kind = record.type
        if kind == FT_STREAM:
            conn.streams.on_lost(record.id, record.a, record.b >> 1, record.b & 1)
            free(record)
        elif kind == FT_CRYPTO:
            if level == LEVEL_1RTT:
                sendbuf_lost(&conn.data_crypto_tx, record.a, record.b)
            else:
                stage = conn.initial if level == LEVEL_INITIAL else conn.handshake
                sendbuf_lost(&stage.tx, record.a, record.b)
            free(record)
        elif kind == FT_OBSERVED_ADDR_V4:
            if not path.abandoned:
                path.observed_due = True
            free(record)
        elif kind == FT_PATH_ACK:
            free(record)
        elif kind == FT_RESET_STREAM or kind == FT_STOP_SENDING or (FT_MAX_DATA <= kind <= FT_STREAMS_BLOCKED_UNI):
            conn.streams.on_control_lost(record)
            free(record)
        elif (kind == FT_PATH_NEW_CONNECTION_ID or kind == FT_PATH_STATUS_BACKUP or kind == FT_PATH_STATUS_AVAILABLE
              ) and conn.was_abandoned(<uint32_t>record.path):
            free(record)
        else:
            conn.pend_rec(record)
        record = following


cdef void release_frames(ConnectionState conn, Path* path, SentRec* sent, int level) noexcept nogil:
    """Queue again what a packet carried; its record stays."""
    cdef FrameRec* records = sent.frames
    sent.frames = NULL
    if sent.flags & REC_STREAM:
        conn.streams.on_lost(sent.stream_id, sent.offset, sent.len, (sent.flags & REC_FIN) != 0)
        sent.flags &= ~(REC_STREAM | REC_FIN)
    if records != NULL:
        frames_lost(conn, path, records, level)


cdef void declare_lost(ConnectionState conn, Path* path, PnSpace* space, uint64_t pn, int level) noexcept nogil:
    """Take one record out of the table and queue its frames again."""
    cdef SentRec* sent = space_rec(space, pn)
    if sent.size:
        if sent.generation == path.r.generation:
            path.r.in_flight -= sent.size
        elif path.previous != NULL and sent.generation == path.previous.generation:
            path.previous.in_flight -= sent.size
    release_frames(conn, path, sent, level)
    space_remove(space, pn)


cdef void detect_losses(ConnectionState conn, Path* path, PnSpace* space, int level, bint by_ack) noexcept nogil:
    cdef int64_t delay = <int64_t>(<double>rtt_conservative(&path.r.rtt) * conn.cfg.time_threshold)
    cdef int64_t lost_before
    cdef uint64_t pn
    cdef SentRec* sent
    cdef Lost lost
    cdef int64_t run_start = -1, span
    cdef uint64_t previous_pn = 0
    lost.size = 0
    lost.persistent = False
    space.loss_time = 0
    if space.outstanding == 0 or space.largest_acked < 0:
        return
    if delay < MS:
        delay = MS
    lost_before = conn.now - delay
    span = times(rtt_pto_base(&path.r.rtt) + (conn.peer_max_ack_delay if level == LEVEL_1RTT else 0),
                 conn.cfg.persistent_threshold)
    pn = space.first
    while space.outstanding and pn <= <uint64_t>space.largest_acked and pn <= space.last:
        sent = space_rec(space, pn)
        if sent == NULL:
            pn += 1
            continue
        if sent.sent_at > lost_before and (path.abandoned or <uint64_t>space.largest_acked < pn + <uint64_t>conn.cfg.packet_threshold):
            space.loss_time = sent.sent_at + delay
            break
        if conn.qlog is not None:
            with gil:
                conn.qlog.lost(conn.now, level, path.id, pn, sent.sent_at <= lost_before, (sent.flags & REC_MTU_PROBE) != 0)
        if sent.flags & REC_MTU_PROBE:
            if sent.generation == path.r.generation:
                mtud_on_probe_lost(&path.r.mtud, conn.now)
            declare_lost(conn, path, space, pn, level)
            pn += 1
            continue
        path.stats.lost_packets += 1
        path.stats.lost_bytes += sent.size
        space_remember_lost(space, pn, sent.sent_at, conn.now - 2 * rtt_pto_base(&path.r.rtt))
        if sent.size and sent.generation == path.r.generation:
            lost.size += sent.size
            lost.sent_at = sent.sent_at
            if level == LEVEL_1RTT:
                mtud_on_lost(&path.r.mtud, pn, sent.size)
            if by_ack and sent.flags & REC_ELICITING and path.r.rtt.first_sample_at >= 0 and sent.sent_at > path.r.rtt.first_sample_at:
                if run_start < 0 or previous_pn + 1 != pn:
                    run_start = sent.sent_at
                elif sent.sent_at - run_start > span:
                    lost.persistent = True
                previous_pn = pn
        declare_lost(conn, path, space, pn, level)
        pn += 1
    if lost.size:
        if level == LEVEL_1RTT and mtud_black_hole(&path.r.mtud, conn.now):
            cc_on_mtu(&path.r.cc, path.r.mtud.current)
            drop_oversized(conn)
        lost.now = conn.now
        lost.in_flight = path.r.in_flight
        if cc_on_lost(&path.r.cc, &lost):
            path.stats.congestion_events += 1


cdef void drop_oversized(ConnectionState conn) noexcept nogil:
    """Datagrams queued for a larger MTU can never leave: drop those at the head."""
    cdef uint32_t room = conn.path_mtu() - (1 + MAX_CID_LEN + 4 + 16) - 9
    while not queue_empty(&conn.dgram_tx) and queue_peek(&conn.dgram_tx) > room:
        queue_pop(&conn.dgram_tx, NULL)
        conn.happened(W_DATAGRAM_SPACE)


cdef void drop_space(ConnectionState conn, Path* path, PnSpace* space) noexcept nogil:
    """Keys of a handshake space are discarded: nothing in it is in flight any more."""
    cdef uint64_t pn
    cdef SentRec* sent
    if space.ring != NULL:
        for pn in range(space.first, space.last + 1):
            if not space.outstanding:
                break
            sent = space_rec(space, pn)
            if sent != NULL:
                if sent.size and sent.generation == path.r.generation:
                    path.r.in_flight -= sent.size
                frame_recs_free(sent.frames)
                space_remove(space, pn)
    space_free(space)
    path.pto_count = 0


cdef void forget_sent(ConnectionState conn, Path* path, PnSpace* space) noexcept nogil:
    cdef uint64_t pn
    cdef SentRec* sent
    if space.ring == NULL:
        return
    for pn in range(space.first, space.last + 1):
        if not space.outstanding:
            break
        sent = space_rec(space, pn)
        if sent != NULL:
            frame_recs_free(sent.frames)
            space_remove(space, pn)


cdef void discard_path(ConnectionState conn, Path* path) noexcept nogil:
    """Drained: what was in flight is lost, the ids are forgotten, counters are kept."""
    cdef Path** at = &conn.paths
    if conn.qlog is not None:
        with gil:
            conn.qlog.assigned(conn.now, path.id, None, None)
    while path.sp.outstanding:
        declare_lost(conn, path, &path.sp, path.sp.first, LEVEL_1RTT)
    if conn.done == NULL:
        conn.done = <PathStats*>calloc(1, sizeof(PathStats))
    if conn.done != NULL:
        stats_add(conn.done, &path.stats)
    conn.drop_cidset(path.id)
    while at[0] != path:
        at = &at[0].next
    at[0] = path.next
    conn.n_draining -= 1
    if conn.last_path == path:
        conn.last_path = NULL
    path_free(path)


cdef void discard_oldest(ConnectionState conn) noexcept nogil:
    """Too many abandoned paths wait for late packets: the one with the lowest id waits no longer."""
    cdef Path* path = conn.paths
    while not path.abandoned:
        path = path.next
    if not path.abandon_received:
        # The peer's answer will find no path any more.
        conn.grant_path()
    discard_path(conn, path)


cdef int64_t backoff(ConnectionState conn, Path* path, int64_t base) noexcept nogil:
    """Probe timeout after pto_count expiries, growing at most by a cap each time."""
    cdef int64_t cap, d = base, grown
    cdef int i
    cdef int64_t rtt = rtt_get(&path.r.rtt)
    if rtt > 1333 * MS:
        cap = rtt + rtt // 2
    elif (path.idle_timeout and path.idle_timeout <= 25 * SECOND) or (conn.idle_timeout and conn.idle_timeout <= 25 * SECOND):
        cap = SECOND
    else:
        cap = 2 * SECOND
    for i in range(1, (path.pto_count if path.pto_count < 60 else 60) + 1):
        grown = doubled(base, i if i < 16 else 16)
        d = grown if grown < d + cap else d + cap
    return d


cdef int64_t pto_deadline(ConnectionState conn, Path* path, PnSpace** out, int* level) noexcept nogil:
    """When the path's loss probe is due: 0 never."""
    cdef int64_t best = 0, d
    cdef int64_t base = rtt_pto_base(&path.r.rtt)
    cdef bint something = False
    if path.abandoned and not conn.must_abandon_itself(path):
        return 0
    if amplification_blocked(conn, path, 0):
        return 0
    if path.id == 0:
        if conn.initial.live and conn.initial.sp.eliciting:
            something = True
            best = conn.initial.sp.last_eliciting_at + backoff(conn, path, base)
            out[0] = &conn.initial.sp
            level[0] = LEVEL_INITIAL
        if conn.handshake.live and conn.handshake.sp.eliciting:
            something = True
            d = conn.handshake.sp.last_eliciting_at + backoff(conn, path, base)
            if best == 0 or d < best:
                best = d
                out[0] = &conn.handshake.sp
                level[0] = LEVEL_HANDSHAKE
    if path.sp.eliciting and (conn.handshake_confirmed or (conn.handshake_done and not conn.initial.live and not conn.handshake.live)):
        something = True
        d = path.sp.last_eliciting_at + backoff(conn, path, base + conn.peer_max_ack_delay)
        if best == 0 or d < best:
            best = d
            out[0] = &path.sp
            level[0] = LEVEL_1RTT
    if not something and path.id == 0 and conn.is_client and not conn.peer_validated_us and conn.state == ST_HANDSHAKE:
        # Anti-deadlock: the server may be blocked by the amplification limit.
        best = path.last_tx + backoff(conn, path, base)
        if conn.handshake.live and keys_can_seal(&conn.keys, LEVEL_HANDSHAKE):
            out[0] = &conn.handshake.sp
            level[0] = LEVEL_HANDSHAKE
        else:
            out[0] = &conn.initial.sp
            level[0] = LEVEL_INITIAL
    return best


cdef void try_again(ConnectionState conn, Path* path) noexcept nogil:
    """Forget the backoff of a path's probes and send one at once."""
    path.pto_count = 0
    path.silent = False
    path.challenge_lost = 0
    if path_challenging(path):
        path.challenge_due = True
    if path.sp.eliciting:
        path.sp.loss_probes = 2
    path.ping_due = True
    if conn.peer_ack_frequency:
        path.immediate_ack_due = True
    if path.id == 0 and conn.initial.live and conn.initial.sp.eliciting:
        conn.initial.sp.loss_probes = 1
    if path.id == 0 and conn.handshake.live and conn.handshake.sp.eliciting:
        conn.handshake.sp.loss_probes = 1


cdef int64_t loss_deadline(ConnectionState conn, Path* path) noexcept nogil:
    cdef int64_t t = path.sp.loss_time
    if path.id == 0:
        if conn.initial.live and conn.initial.sp.loss_time and (t == 0 or conn.initial.sp.loss_time < t):
            t = conn.initial.sp.loss_time
        if conn.handshake.live and conn.handshake.sp.loss_time and (t == 0 or conn.handshake.sp.loss_time < t):
            t = conn.handshake.sp.loss_time
    return t


cdef void log_metrics(ConnectionState conn, Path* path) noexcept nogil:
    cdef uint64_t packets = path.sp.eliciting
    if path.id == 0:
        packets += conn.initial.sp.eliciting + conn.handshake.sp.eliciting
    with gil:
        conn.qlog.metrics(conn.now, path.id, (
            path.r.rtt.min, rtt_get(&path.r.rtt), path.r.rtt.latest, path.r.rtt.var, path.pto_count, path.r.cc.cwnd, path.r.in_flight,
            path.r.cc.ssthresh, packets))
