"""Which packets are lost, and what that says of the path. Sources: RFC 9002 §6.1, §7.6."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._packet._frames cimport Frame, next_ack_range
from iroh_fast.quic._codes cimport W_DATAGRAM_SPACE
from iroh_fast.quic._controller cimport Lost
from iroh_fast.quic._controllers cimport cc_on_lost, cc_on_mtu, cc_on_packet_lost
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._datagrams cimport queue_empty, queue_peek, queue_pop
from iroh_fast.quic._fates cimport release_frames
from iroh_fast.quic._keys cimport LEVEL_1RTT
from iroh_fast.quic._mtud cimport mtud_black_hole, mtud_on_lost, mtud_on_probe_lost
from iroh_fast.quic._path_queries cimport path_mtu
from iroh_fast.quic._paths cimport MAX_CID_LEN, Path, path_pto
from iroh_fast.quic._reordering cimport reordering_delay, reordering_on_event
from iroh_fast.quic._sent cimport (
    REC_ACKED, REC_MTU_PROBE, REC_USED, SentRec, frame_recs_free, lost_add, lost_event, sent_at, sent_remove,
    snapshot_at)
from iroh_fast.quic._space cimport PnSpace, space_free
from iroh_fast.quic._time cimport times


cdef void declare_lost(Connection conn, Path* path, PnSpace* space, uint64_t position, int level) noexcept nogil:
    """Take one packet out of flight and queue its frames again."""
    cdef SentRec* sent = sent_at(&space.sent, position)
    if sent.generation == path.route.flight.generation:
        path.route.flight.in_flight -= sent.size
    elif path.previous != NULL and sent.generation == path.previous.flight.generation:
        path.previous.flight.in_flight -= sent.size
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
    delay = reordering_delay(&path.route.flight.reordering, &path.route.flight.rtt, conn.cfg.time_threshold)
    lost_before = conn.now - delay
    if not path.route.flight.reordering.seen and not path.abandoned and <uint64_t>space.largest_acked >= conn.cfg.packet_threshold:
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
    if level == LEVEL_1RTT and mtud_black_hole(&path.route.mtud, conn.now):
        cc_on_mtu(&path.route.flight.cc, path.route.mtud.current)
        drop_oversized(conn)
    lost.now = conn.now
    lost.in_flight = path.route.flight.in_flight
    begins = cc_on_lost(&path.route.flight.cc, &lost)
    lost_event(&space.lost, begins, first, count, path.route.flight.generation)
    if begins:
        path.stats.congestion_events += 1
        reordering_on_event(&path.route.flight.reordering)


cdef void take_lost(Connection conn, Path* path, PnSpace* space, int level, uint64_t end, int64_t lost_before, Lost* lost,
                    uint64_t* first, uint32_t* count) noexcept nogil:
    """Declare what is in flight before `end` lost; the numbers of packets that count as a sign of congestion."""
    cdef int64_t keep_from = conn.now - 2 * path_pto(path)
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
            if sent.generation == path.route.flight.generation:
                mtud_on_probe_lost(&path.route.mtud, conn.now)
        else:
            path.stats.lost_packets += 1
            path.stats.lost_bytes += sent.size
            if sent.generation == path.route.flight.generation:
                if count[0] == 0:
                    first[0] = sent.pn
                count[0] += 1
                lost.size += sent.size
                lost.sent_at = sent.sent_at
                lost_add(&space.lost, sent.pn, sent.sent_at, keep_from)
                cc_on_packet_lost(&path.route.flight.cc, conn.now, sent.sent_at, sent.size, snapshot_at(&space.sent, position))
                if level == LEVEL_1RTT:
                    mtud_on_lost(&path.route.mtud, sent.pn, sent.size)
        declare_lost(conn, path, space, position, level)
        position += 1


cdef bint persistent_congestion(Connection conn, Path* path, PnSpace* space, int level, uint64_t end,
                                const Frame* frame) noexcept nogil:
    """RFC 9002 §7.6.2: whether two of the losses before `end` are far apart, and nothing sent between them arrived.

    Numbers between them that were left out, or belong to packets without ack-eliciting frames, are no sign of life
    unless `frame` names them.
    """
    cdef int64_t span = times(path_pto(path) + (conn.agreed.peer_max_ack_delay if level == LEVEL_1RTT else 0),
                              conn.cfg.persistent_threshold)
    cdef uint64_t position = end, head = space.sent.head
    cdef uint64_t hi = frame.largest, lo = frame.largest - frame.first, smallest = lo, left = frame.range_count, newer = 0
    cdef const uint8_t* at = frame.ranges
    cdef int64_t newest = -1
    cdef SentRec* sent
    if path.route.flight.rtt.first_sample_at < 0 or sent_at(&space.sent, end - 1).sent_at - sent_at(&space.sent, head).sent_at <= span:
        return False
    # Both the packets and the ranges from the newest to the oldest.
    while position > head:
        position -= 1
        sent = sent_at(&space.sent, position)
        if sent.flags & REC_ACKED:
            newest = -1
            continue
        if (not sent.flags & REC_USED or sent.flags & REC_MTU_PROBE or sent.generation != path.route.flight.generation
                or sent.sent_at <= path.route.flight.rtt.first_sample_at):
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
            if sent.generation == path.route.flight.generation:
                path.route.flight.in_flight -= sent.size
            frame_recs_free(sent.frames)
            sent_remove(&space.sent, position, 0)
        position += 1


cdef void drop_space(Connection conn, Path* path, PnSpace* space) noexcept nogil:
    """Keys of a handshake space are discarded."""
    forget_sent(path, space)
    space_free(space)
    path.recovery.pto_count = 0
