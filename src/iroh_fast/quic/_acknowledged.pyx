"""What an acknowledgement says: which packets arrived, the round trip, the room in the window. Sources: RFC 9002, RFC 9000 §13."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.string cimport memset

from iroh_fast._packet._frames cimport Frame, next_ack_range
from iroh_fast.quic._codes cimport PROTOCOL_VIOLATION
from iroh_fast.quic._controller cimport Acked
from iroh_fast.quic._controllers cimport cc_on_acked, cc_on_ecn, cc_on_mtu, cc_on_settled, cc_on_spurious, cc_samples
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._delivery cimport Snapshot, delivery_arrived, delivery_on_acked
from iroh_fast.quic._fates cimport ack_seen, frames_acked
from iroh_fast.quic._flow cimport flow_follow
from iroh_fast.quic._handshake_state cimport handshake_validated
from iroh_fast.quic._keys cimport LEVEL_1RTT, LEVEL_HANDSHAKE, keys_acked
from iroh_fast.quic._loss cimport detect_losses
from iroh_fast.quic._mtud cimport mtud_on_acked
from iroh_fast.quic._paths cimport Path, path_cwnd
from iroh_fast.quic._recovery cimport log_metrics
from iroh_fast.quic._reordering cimport reordering_on_spurious
from iroh_fast.quic._routing cimport carries_own_acks, path_answered
from iroh_fast.quic._rtt cimport rtt_sample
from iroh_fast.quic._sent cimport (
    FrameRec, REC_ACK, REC_ACKED, REC_FIN, REC_PHASE, REC_STREAM, REC_USED, SentRec, lost_arrived, sent_at, sent_from,
    sent_onward, sent_remove, snapshot_at)
from iroh_fast.quic._space cimport PnSpace, space_sent_time, space_skipped
from iroh_fast.quic._stream_packets cimport stream_acked
from iroh_fast.quic._time cimport ns_from_us, times
from iroh_fast.quic._trace cimport log_spurious


# Consecutive STREAM ranges of one stream that are acknowledged together.
cdef struct StreamRun:
    bint open
    uint64_t id, offset, end
    bint fin


# What an acknowledgement newly acknowledges.
cdef struct News:
    Acked acked                   # on the present route
    uint64_t newest               # position of the newest of them
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
    if alive and news.eliciting and largest_sent_at >= path.route.flight.since:
        take_rtt(conn, path, level, frame, largest_sent_at)
        news.acked.measured = True
    if conn.is_client and level == LEVEL_HANDSHAKE:
        handshake_validated(&conn.handshake)
    if news.acked.size:
        news.acked.now = conn.now
        news.acked.in_flight = path.route.flight.in_flight
        # RFC 9002 §7.8: a window that is hardly used does not grow. The room above what flow control lets into
        # flight keeps the pacer from being the limit.
        news.acked.app_limited = path.recovery.app_limited or 4 * (path.route.flight.in_flight + news.acked.size) < path.route.flight.cc.cwnd
        news.acked.rtt = &path.route.flight.rtt
        if cc_samples(&path.route.flight.cc):
            # Their sizes are not known any more; nearly all are full.
            delivery_arrived(&path.route.flight.cc.delivery, news.arrived * path.route.flight.cc.mtu)
            take_sample(path, space, &news)
        cc_on_acked(&path.route.flight.cc, &news.acked)
    if news.arrived:
        if conn.qlog is not None:
            log_spurious(conn, path, level, news.newest_arrived, news.arrived, news.undone)
        reordering_on_spurious(&path.route.flight.reordering, news.newest_arrived, space.next_pn)
        if news.undone and space.lost.event_generation == path.route.flight.generation:
            cc_on_spurious(&path.route.flight.cc)
            path.stats.spurious += 1
    if news.any:
        check_ecn(conn, path, space, frame, raised)
    detect_losses(conn, path, space, level, frame)
    if news.acked.size:
        news.acked.in_flight = path.route.flight.in_flight
        cc_on_settled(&path.route.flight.cc, &news.acked)
    if alive and (not conn.is_client or conn.handshake.peer_validated_us):
        path.recovery.pto_count = 0
        path_answered(conn, path)
    if news.any:
        follow_window(conn)
    if conn.qlog is not None:
        log_metrics(conn, path)
    return 0


cdef inline void follow_window(Connection conn) noexcept nogil:
    """What writers may queue follows what the paths that carry data may have in flight."""
    cdef Path* path = conn.paths.first
    cdef uint64_t total = 0
    while path != NULL:
        if carries_own_acks(path):
            total += path_cwnd(path)
        path = path.next
    flow_follow(&conn.streams.table, total)


cdef int take_ranges(Connection conn, Path* path, PnSpace* space, int level, Frame* frame, News* news) noexcept nogil:  # hot
    """Take what the frame's ranges acknowledge out of flight. -1: it names a number that was left out."""
    cdef uint64_t hi = frame.largest, lo = frame.largest - frame.first
    cdef uint64_t smallest = lo, left = frame.range_count, position
    cdef const uint8_t* at = frame.ranges
    cdef SentRec* sent
    while True:
        if space_skipped(space, lo, hi):
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
                position = sent_onward(&space.sent, position)
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
    if sent.generation == path.route.flight.generation:
        path.route.flight.in_flight -= sent.size
        news.acked.size += sent.size
        if sent.sent_at > path.route.flight.cc.recovery_start:
            news.acked.fresh += sent.size
        if sent.sent_at > news.acked.sent_at or (sent.sent_at == news.acked.sent_at and position > news.newest):
            news.acked.sent_at = sent.sent_at
            news.newest = position
        if level == LEVEL_1RTT and mtud_on_acked(&path.route.mtud, conn.now, sent.pn, sent.size):
            cc_on_mtu(&path.route.flight.cc, path.route.mtud.current)
    elif path.previous != NULL and sent.generation == path.previous.flight.generation:
        path.previous.flight.in_flight -= sent.size
    if sent.flags & REC_STREAM:
        take_stream(conn, sent, &news.run)
    sent_remove(&space.sent, position, REC_ACKED)
    if records != NULL:
        end_run(conn, &news.run)
        frames_acked(conn, records, level)


cdef inline void take_sample(Path* path, PnSpace* space, News* news) noexcept nogil:
    cdef const Snapshot* snapshot = snapshot_at(&space.sent, news.newest)
    if snapshot != NULL:
        delivery_on_acked(&path.route.flight.cc.delivery, snapshot, news.acked.sent_at, news.acked.now, news.acked.size,
                          path.route.flight.rtt.min, &news.acked.sample)


cdef void take_rtt(Connection conn, Path* path, int level, const Frame* frame, int64_t sent_time) noexcept nogil:
    cdef int64_t delay = 0
    if level == LEVEL_1RTT:
        delay = times(ns_from_us(frame.delay), <int64_t>1 << conn.agreed.peer_ack_exponent)
        if delay > conn.agreed.peer_max_ack_delay:
            delay = conn.agreed.peer_max_ack_delay
    rtt_sample(&path.route.flight.rtt, conn.now, delay, conn.now - sent_time)


cdef void check_ecn(Connection conn, Path* path, PnSpace* space, Frame* frame, bint raised) noexcept nogil:
    """RFC 9000 §13.4.2, as lenient as iroh: counts must exist, not shrink, and not be above what was sent."""
    if not path.route.ecn:
        return
    if not frame.has_ecn:
        path.route.ecn = False
        return
    if not raised:
        return
    if (frame.ect0 < space.peer_ect0 or frame.ect1 > space.peer_ect1 or frame.ce < space.peer_ce
            or frame.ect0 + frame.ce <= space.peer_ect0 + space.peer_ce
            or frame.ect0 + frame.ce > space.next_pn):
        path.route.ecn = False
        return
    if frame.ce > space.peer_ce:
        if cc_on_ecn(&path.route.flight.cc, conn.now, space.largest_acked_at, frame.ce - space.peer_ce,
                     frame.ect0 + frame.ce - space.peer_ect0 - space.peer_ce):
            path.stats.congestion_events += 1
    space.peer_ect0 = frame.ect0
    space.peer_ect1 = frame.ect1
    space.peer_ce = frame.ce
