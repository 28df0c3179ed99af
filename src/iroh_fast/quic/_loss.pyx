"""Acknowledgements and losses of a connection: what was sent, and whether it arrived.

Plain functions over the connection. Sources: RFC 9002, RFC 9000 §13, the multipath draft.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memset

from iroh_fast._packet._frames cimport (
    FT_CRYPTO, FT_MAX_DATA, FT_OBSERVED_ADDR_V4, FT_PATH_ACK, FT_RESET_STREAM, FT_STOP_SENDING, FT_STREAM,
    FT_STREAMS_BLOCKED_UNI, Frame, next_ack_range)
from iroh_fast.quic._codes cimport PROTOCOL_VIOLATION, ST_HANDSHAKE, W_DATAGRAM_SPACE
from iroh_fast.quic._controllers cimport cc_on_acked, cc_on_ecn, cc_on_lost, cc_on_mtu, cc_on_spurious
from iroh_fast.quic._control cimport control_acked, control_lost
from iroh_fast.quic._controller cimport Acked, Lost
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._datagrams cimport queue_empty, queue_peek, queue_pop
from iroh_fast.quic._handshake_state cimport crypto_out
from iroh_fast.quic._keys cimport LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_acked, keys_can_seal
from iroh_fast.quic._ledger cimport CONTROL
from iroh_fast.quic._mtud cimport mtud_black_hole, mtud_on_acked, mtud_on_lost, mtud_on_probe_lost
from iroh_fast.quic._path_queries cimport amplification_blocked, find_path, must_abandon_itself, path_mtu
from iroh_fast.quic._paths cimport MAX_CID_LEN, Path, path_challenging
from iroh_fast.quic._received cimport received_forget
from iroh_fast.quic._recovery cimport PnSpace, space_free, space_sent_time
from iroh_fast.quic._reordering cimport reordering_delay, reordering_on_event, reordering_on_spurious
from iroh_fast.quic._rtt cimport rtt_get, rtt_pto_base, rtt_sample
from iroh_fast.quic._send_buffer cimport SendBuf, sendbuf_ack, sendbuf_lost
from iroh_fast.quic._sent cimport (
    FrameRec, REC_ACK, REC_ACKED, REC_FIN, REC_MTU_PROBE, REC_PHASE, REC_STREAM, REC_USED, SentRec, frame_recs_free,
    lost_add, lost_arrived, lost_event, sent_at, sent_from, sent_remove)
from iroh_fast.quic._stream_packets cimport stream_acked, stream_control_lost, stream_lost, stream_reset_acked
from iroh_fast.quic._time cimport MS, SECOND, doubled, ns_from_us, times


# Consecutive STREAM ranges of one stream that are acknowledged together.
cdef struct StreamRun:
    bint open
    uint64_t id, offset, end
    bint fin


# What an acknowledgement newly acknowledges.
cdef struct News:
    Acked acked                   # on the present route
    bint any, eliciting
    StreamRun run
    uint32_t arrived              # packets that had been declared lost
    uint64_t newest_arrived
    bint undone                   # ... all of the last congestion event


cdef int on_ack(Connection conn, Path* path, PnSpace* space, int level, Frame* frame, bint elsewhere) noexcept nogil:  # hot
    """ACK or PATH_ACK for one packet number space. `elsewhere`: it came on another path."""
    cdef News news
    cdef int64_t largest_sent_at = -1
    cdef bint alive
    cdef bint raised = <int64_t>frame.largest > space.largest_acked
    memset(&news, 0, sizeof(News))
    news.acked.sent_at = -1
    if frame.largest >= space.next_pn:
        return conn.fail(PROTOCOL_VIOLATION, b"unsent packet acked", 0)
    if raised:
        space.largest_acked = <int64_t>frame.largest
        largest_sent_at = space_sent_time(space, frame.largest)
        if largest_sent_at >= 0:
            space.largest_acked_at = largest_sent_at
    if take_ranges(conn, path, space, level, frame, &news) < 0:
        return -1
    # RFC 9002 §5.1: the largest one is newly acknowledged, and something that the peer does not acknowledge at leisure.
    # What was sent before a migration measures the way to the old address. What was sent before the path went silent, and
    # is acknowledged by way of another one, measures nothing and is no sign of life.
    alive = news.any and (not elsewhere or not path.silent or news.acked.sent_at > path.silent_since)
    if alive and news.eliciting and largest_sent_at >= path.r.since:
        take_rtt(conn, path, level, frame, largest_sent_at)
    if conn.is_client and level == LEVEL_HANDSHAKE:
        conn.handshake.peer_validated_us = True
    if news.acked.size:
        news.acked.now = conn.now
        news.acked.in_flight = path.r.in_flight
        # RFC 9002 §7.8: a window that is hardly used does not grow. The room above what flow control lets into
        # flight keeps the pacer from being the limit.
        news.acked.app_limited = path.app_limited or 4 * (path.r.in_flight + news.acked.size) < path.r.cc.cwnd
        news.acked.rtt = &path.r.rtt
        cc_on_acked(&path.r.cc, &news.acked)
    if news.arrived:
        reordering_on_spurious(&path.r.reordering, news.newest_arrived, space.next_pn)
        if news.undone and space.lost.event_generation == path.r.generation:
            cc_on_spurious(&path.r.cc)
            path.stats.spurious += 1
    if news.any:
        check_ecn(conn, path, space, frame, raised)
    detect_losses(conn, path, space, level, frame)
    if alive and (not conn.is_client or conn.handshake.peer_validated_us):
        path.pto_count = 0
        path.silent = False
    if conn.qlog is not None:
        log_metrics(conn, path)
    return 0


cdef int take_ranges(Connection conn, Path* path, PnSpace* space, int level, Frame* frame, News* news) noexcept nogil:  # hot
    """Take what the frame's ranges acknowledge out of flight. -1: it names a number that was left out."""
    cdef uint64_t hi = frame.largest, lo = frame.largest - frame.first
    cdef uint64_t smallest = lo, left = frame.range_count, position
    cdef const uint8_t* at = frame.ranges
    cdef SentRec* sent
    while True:
        if space.last_skipped >= 0 and lo <= <uint64_t>space.last_skipped <= hi:
            return conn.fail(PROTOCOL_VIOLATION, b"unsent packet acked", 0)
        if space.lost.live:
            news.arrived += lost_arrived(&space.lost, lo, hi, &news.newest_arrived, &news.undone)
        if space.sent.outstanding and hi >= sent_at(&space.sent, space.sent.head).pn:
            position = sent_from(&space.sent, lo)
            while position < space.sent.tail:
                sent = sent_at(&space.sent, position)
                if sent.pn > hi:
                    break
                if sent.flags & REC_USED:
                    take_acked(conn, path, space, level, position, news)
                position += 1
            end_run(conn, &news.run)
        if left == 0:
            return 0
        left -= 1
        at = next_ack_range(at, &smallest, &lo, &hi)


cdef inline void end_run(Connection conn, StreamRun* run) noexcept nogil:
    if run.open:
        run.open = False
        stream_acked(&conn.streams.table, run.id, run.offset, run.end - run.offset, run.fin)


cdef inline void take_stream(Connection conn, const SentRec* sent, StreamRun* run) noexcept nogil:
    if run.open and sent.stream_id == run.id and sent.offset == run.end:
        run.end += sent.len
    else:
        end_run(conn, run)
        run.open = True
        run.id = sent.stream_id
        run.offset = sent.offset
        run.end = sent.offset + sent.len
    run.fin = (sent.flags & REC_FIN) != 0
    if run.fin:
        end_run(conn, run)


cdef inline void take_acked(Connection conn, Path* path, PnSpace* space, int level, uint64_t position,
                            News* news) noexcept nogil:  # hot
    """One packet was acknowledged."""
    cdef SentRec* sent = sent_at(&space.sent, position)
    cdef FrameRec* records = sent.frames
    news.any = news.eliciting = True
    keys_acked(&conn.keys, sent.sent_at, (sent.flags & REC_PHASE) != 0)
    if sent.flags & REC_ACK:
        ack_seen(conn, space, level, sent.acked_path, sent.acked_upto)
    if sent.generation == path.r.generation:
        path.r.in_flight -= sent.size
        news.acked.size += sent.size
        if sent.sent_at > path.r.cc.recovery_start:
            news.acked.fresh += sent.size
        if sent.sent_at > news.acked.sent_at:
            news.acked.sent_at = sent.sent_at
        if level == LEVEL_1RTT and mtud_on_acked(&path.r.mtud, conn.now, sent.pn, sent.size):
            cc_on_mtu(&path.r.cc, path.r.mtud.current)
    elif path.previous != NULL and sent.generation == path.previous.generation:
        path.previous.in_flight -= sent.size
    if sent.flags & REC_STREAM:
        take_stream(conn, sent, &news.run)
    sent_remove(&space.sent, position, REC_ACKED)
    if records != NULL:
        end_run(conn, &news.run)
        frames_acked(conn, records, level)


cdef void take_rtt(Connection conn, Path* path, int level, const Frame* frame, int64_t sent_time) noexcept nogil:
    cdef int64_t delay = 0
    if level == LEVEL_1RTT:
        delay = times(ns_from_us(frame.delay), <int64_t>1 << conn.agreed.peer_ack_exponent)
        if delay > conn.agreed.peer_max_ack_delay:
            delay = conn.agreed.peer_max_ack_delay
    rtt_sample(&path.r.rtt, conn.now, delay, conn.now - sent_time)


cdef void check_ecn(Connection conn, Path* path, PnSpace* space, Frame* frame, bint raised) noexcept nogil:
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


cdef void ack_seen(Connection conn, PnSpace* space, int level, uint32_t path_id, uint64_t upto) noexcept nogil:
    """The peer has our acknowledgement of everything up to `upto`: those ranges need no repetition."""
    cdef Path* other
    if level != LEVEL_1RTT:
        received_forget(&space.received, upto)
        return
    other = find_path(conn, path_id)
    if other != NULL:
        received_forget(&other.sp.received, upto)


cdef void frames_acked(Connection conn, FrameRec* record, int level) noexcept nogil:
    cdef FrameRec* following
    cdef SendBuf* tx
    while record != NULL:
        following = record.next
        if record.type == FT_STREAM:
            stream_acked(&conn.streams.table, record.id, record.a, record.b >> 1, record.b & 1)
        elif record.type == FT_CRYPTO:
            tx = crypto_out(&conn.handshake, level)
            if tx != NULL:
                sendbuf_ack(tx, record.a, record.b)
        elif record.type == FT_RESET_STREAM:
            stream_reset_acked(&conn.streams.table, record.id)
        elif record.type == FT_PATH_ACK:
            ack_seen(conn, NULL, LEVEL_1RTT, <uint32_t>record.path, record.a)
        elif record.type >= CONTROL:
            control_acked(conn, record)
            record = following
            continue
        free(record)
        record = following


cdef void frames_lost(Connection conn, Path* path, FrameRec* record, int level) noexcept nogil:
    """Queue again what must arrive; `f` is consumed."""
    cdef FrameRec* following
    cdef SendBuf* tx
    cdef uint64_t kind
    while record != NULL:
        following = record.next
        kind = record.type
        if kind == FT_STREAM:
            stream_lost(&conn.streams.table, record.id, record.a, record.b >> 1, record.b & 1)
            free(record)
        elif kind == FT_CRYPTO:
            tx = crypto_out(&conn.handshake, level)
            if tx != NULL:
                sendbuf_lost(tx, record.a, record.b)
            free(record)
        elif kind == FT_OBSERVED_ADDR_V4:
            if not path.abandoned:
                path.observed_due = True
            free(record)
        elif kind == FT_PATH_ACK:
            free(record)
        elif kind == FT_RESET_STREAM or kind == FT_STOP_SENDING or (FT_MAX_DATA <= kind <= FT_STREAMS_BLOCKED_UNI):
            stream_control_lost(&conn.streams.table, record)
            free(record)
        else:
            control_lost(conn, record)
        record = following


cdef void release_frames(Connection conn, Path* path, SentRec* sent, int level) noexcept nogil:
    """Queue again what a packet carried; its record stays."""
    cdef FrameRec* records = sent.frames
    sent.frames = NULL
    if sent.flags & REC_STREAM:
        stream_lost(&conn.streams.table, sent.stream_id, sent.offset, sent.len, (sent.flags & REC_FIN) != 0)
        sent.flags &= ~(REC_STREAM | REC_FIN)
    if records != NULL:
        frames_lost(conn, path, records, level)


cdef void declare_lost(Connection conn, Path* path, PnSpace* space, uint64_t position, int level) noexcept nogil:
    """Take one packet out of flight and queue its frames again."""
    cdef SentRec* sent = sent_at(&space.sent, position)
    if sent.generation == path.r.generation:
        path.r.in_flight -= sent.size
    elif path.previous != NULL and sent.generation == path.previous.generation:
        path.previous.in_flight -= sent.size
    release_frames(conn, path, sent, level)
    sent_remove(&space.sent, position, 0)


cdef void detect_losses(Connection conn, Path* path, PnSpace* space, int level, const Frame* frame) noexcept nogil:
    """RFC 9002 §6.1. `frame`: the acknowledgement that leads here, NULL: time does."""
    cdef int64_t delay, lost_before
    cdef uint64_t position = space.sent.head, by_number = 0, first = 0
    cdef uint32_t count = 0
    cdef SentRec* sent
    cdef Lost lost
    cdef bint begins
    space.loss_time = 0
    if space.sent.outstanding == 0 or space.largest_acked < 0:
        return
    delay = reordering_delay(&path.r.reordering, &path.r.rtt, conn.cfg.time_threshold)
    lost_before = conn.now - delay
    if not path.r.reordering.seen and not path.abandoned and <uint64_t>space.largest_acked >= conn.cfg.packet_threshold:
        by_number = <uint64_t>space.largest_acked - conn.cfg.packet_threshold + 1
    while position < space.sent.tail:
        sent = sent_at(&space.sent, position)
        if sent.pn >= <uint64_t>space.largest_acked:
            break
        if sent.flags & REC_USED and sent.sent_at > lost_before and sent.pn >= by_number:
            space.loss_time = sent.sent_at + delay
            break
        position += 1
    if position == space.sent.head:
        return
    lost.size = 0
    lost.persistent = frame != NULL and persistent_congestion(conn, path, space, level, position, frame)
    take_lost(conn, path, space, level, position, lost_before, &lost, &first, &count)
    if lost.size == 0:
        return
    if level == LEVEL_1RTT and mtud_black_hole(&path.r.mtud, conn.now):
        cc_on_mtu(&path.r.cc, path.r.mtud.current)
        drop_oversized(conn)
    lost.now = conn.now
    lost.in_flight = path.r.in_flight
    begins = cc_on_lost(&path.r.cc, &lost)
    lost_event(&space.lost, begins, first, count, path.r.generation)
    if begins:
        path.stats.congestion_events += 1
        reordering_on_event(&path.r.reordering)


cdef void take_lost(Connection conn, Path* path, PnSpace* space, int level, uint64_t end, int64_t lost_before, Lost* lost,
                    uint64_t* first, uint32_t* count) noexcept nogil:
    """Declare what is in flight before `end` lost; the numbers of packets that count as a sign of congestion."""
    cdef int64_t keep_from = conn.now - 2 * rtt_pto_base(&path.r.rtt)
    cdef uint64_t position = space.sent.head
    cdef SentRec* sent
    while position < end:
        sent = sent_at(&space.sent, position)
        if not sent.flags & REC_USED:
            position += 1
            continue
        if conn.qlog is not None:
            with gil:
                conn.qlog.lost(conn.now, level, path.id, sent.pn, sent.sent_at <= lost_before, (sent.flags & REC_MTU_PROBE) != 0)
        if sent.flags & REC_MTU_PROBE:
            if sent.generation == path.r.generation:
                mtud_on_probe_lost(&path.r.mtud, conn.now)
        else:
            path.stats.lost_packets += 1
            path.stats.lost_bytes += sent.size
            if sent.generation == path.r.generation:
                if count[0] == 0:
                    first[0] = sent.pn
                count[0] += 1
                lost.size += sent.size
                lost.sent_at = sent.sent_at
                lost_add(&space.lost, sent.pn, sent.sent_at, keep_from)
                if level == LEVEL_1RTT:
                    mtud_on_lost(&path.r.mtud, sent.pn, sent.size)
        declare_lost(conn, path, space, position, level)
        position += 1


cdef bint persistent_congestion(Connection conn, Path* path, PnSpace* space, int level, uint64_t end,
                                const Frame* frame) noexcept nogil:
    """RFC 9002 §7.6.2: whether two of the losses before `end` are far apart, and nothing sent between them arrived.

    Numbers between them that were left out, or belong to packets without ack-eliciting frames, are no sign of life
    unless `frame` names them.
    """
    cdef int64_t span = times(rtt_pto_base(&path.r.rtt) + (conn.agreed.peer_max_ack_delay if level == LEVEL_1RTT else 0),
                              conn.cfg.persistent_threshold)
    cdef uint64_t position = end, head = space.sent.head
    cdef uint64_t hi = frame.largest, lo = frame.largest - frame.first, smallest = lo, left = frame.range_count, newer = 0
    cdef const uint8_t* at = frame.ranges
    cdef int64_t newest = -1
    cdef SentRec* sent
    if path.r.rtt.first_sample_at < 0 or sent_at(&space.sent, end - 1).sent_at - sent_at(&space.sent, head).sent_at <= span:
        return False
    # Both the packets and the ranges from the newest to the oldest.
    while position > head:
        position -= 1
        sent = sent_at(&space.sent, position)
        if sent.flags & REC_ACKED:
            newest = -1
            continue
        if (not sent.flags & REC_USED or sent.flags & REC_MTU_PROBE or sent.generation != path.r.generation
                or sent.sent_at <= path.r.rtt.first_sample_at):
            continue
        while lo > sent.pn and left:
            if newest >= 0 and hi < newer:
                newest = -1               # it lies between this one and the next newer
            left -= 1
            at = next_ack_range(at, &smallest, &lo, &hi)
        if newest >= 0 and lo > sent.pn and hi < newer:
            newest = -1
        if newest < 0:
            newest = sent.sent_at
        elif newest - sent.sent_at > span:
            return True
        newer = sent.pn
    return False


cdef void drop_oversized(Connection conn) noexcept nogil:
    """Datagrams queued for a larger MTU can never leave: drop those at the head."""
    cdef uint32_t room = path_mtu(conn) - (1 + MAX_CID_LEN + 4 + 16) - 9
    while not queue_empty(&conn.datagrams.tx) and queue_peek(&conn.datagrams.tx) > room:
        queue_pop(&conn.datagrams.tx, NULL)
        conn.happened(W_DATAGRAM_SPACE)


cdef void forget_sent(Path* path, PnSpace* space) noexcept nogil:
    """What was sent counts as never sent; nothing of it is in flight any more."""
    cdef uint64_t position = space.sent.head
    cdef SentRec* sent
    while position < space.sent.tail and space.sent.outstanding:
        sent = sent_at(&space.sent, position)
        if sent.flags & REC_USED:
            if sent.generation == path.r.generation:
                path.r.in_flight -= sent.size
            frame_recs_free(sent.frames)
            sent_remove(&space.sent, position, 0)
        position += 1


cdef void drop_space(Connection conn, Path* path, PnSpace* space) noexcept nogil:
    """Keys of a handshake space are discarded."""
    forget_sent(path, space)
    space_free(space)
    path.pto_count = 0


cdef int64_t backoff(Connection conn, Path* path, int64_t base) noexcept nogil:
    """Probe timeout after pto_count expiries, growing at most by a cap each time."""
    cdef int64_t cap, d = base, grown
    cdef int i
    cdef int64_t rtt = rtt_get(&path.r.rtt)
    if path.pto_count == 0:
        return base
    if rtt > 1333 * MS:
        cap = rtt + rtt // 2
    elif (path.idle_timeout and path.idle_timeout <= 25 * SECOND) or (conn.agreed.idle_timeout and conn.agreed.idle_timeout <= 25 * SECOND):
        cap = SECOND
    else:
        cap = 2 * SECOND
    for i in range(1, (path.pto_count if path.pto_count < 60 else 60) + 1):
        grown = doubled(base, i if i < 16 else 16)
        d = grown if grown < d + cap else d + cap
    return d


cdef int64_t pto_deadline(Connection conn, Path* path, PnSpace** out, int* level) noexcept nogil:
    """When the path's loss probe is due: 0 never."""
    cdef int64_t best = 0, d
    cdef int64_t base = rtt_pto_base(&path.r.rtt)
    cdef bint something = False
    if path.abandoned and not must_abandon_itself(conn, path):
        return 0
    if amplification_blocked(conn, path, 0):
        return 0
    if path.id == 0:
        if conn.handshake.initial.live and conn.handshake.initial.sp.sent.outstanding:
            something = True
            best = conn.handshake.initial.sp.last_eliciting_at + backoff(conn, path, base)
            out[0] = &conn.handshake.initial.sp
            level[0] = LEVEL_INITIAL
        if conn.handshake.handshake.live and conn.handshake.handshake.sp.sent.outstanding:
            something = True
            d = conn.handshake.handshake.sp.last_eliciting_at + backoff(conn, path, base)
            if best == 0 or d < best:
                best = d
                out[0] = &conn.handshake.handshake.sp
                level[0] = LEVEL_HANDSHAKE
    if path.sp.sent.outstanding and (conn.handshake.confirmed or (conn.handshake.done and not conn.handshake.initial.live and not conn.handshake.handshake.live)):
        something = True
        d = path.sp.last_eliciting_at + backoff(conn, path, base + conn.agreed.peer_max_ack_delay)
        if best == 0 or d < best:
            best = d
            out[0] = &path.sp
            level[0] = LEVEL_1RTT
    if not something and path.id == 0 and conn.is_client and not conn.handshake.peer_validated_us and conn.state == ST_HANDSHAKE:
        # Anti-deadlock: the server may be blocked by the amplification limit.
        best = path.last_tx + backoff(conn, path, base)
        if conn.handshake.handshake.live and keys_can_seal(&conn.keys, LEVEL_HANDSHAKE):
            out[0] = &conn.handshake.handshake.sp
            level[0] = LEVEL_HANDSHAKE
        else:
            out[0] = &conn.handshake.initial.sp
            level[0] = LEVEL_INITIAL
    return best


cdef void try_again(Connection conn, Path* path) noexcept nogil:
    """Forget the backoff of a path's probes and send one at once."""
    path.pto_count = 0
    path.silent = False
    path.challenge_lost = 0
    if path_challenging(path):
        path.challenge_due = True
    if path.sp.sent.outstanding:
        path.sp.loss_probes = 2
    path.ping_due = True
    if conn.agreed.peer_ack_frequency:
        path.immediate_ack_due = True
    if path.id == 0 and conn.handshake.initial.live and conn.handshake.initial.sp.sent.outstanding:
        conn.handshake.initial.sp.loss_probes = 1
    if path.id == 0 and conn.handshake.handshake.live and conn.handshake.handshake.sp.sent.outstanding:
        conn.handshake.handshake.sp.loss_probes = 1


cdef void log_metrics(Connection conn, Path* path) noexcept nogil:
    cdef uint64_t packets = path.sp.sent.outstanding
    if path.id == 0:
        packets += conn.handshake.initial.sp.sent.outstanding + conn.handshake.handshake.sp.sent.outstanding
    with gil:
        conn.qlog.metrics(conn.now, path.id, (
            path.r.rtt.min, rtt_get(&path.r.rtt), path.r.rtt.latest, path.r.rtt.var, path.pto_count, path.r.cc.cwnd, path.r.in_flight,
            path.r.cc.ssthresh, packets))
