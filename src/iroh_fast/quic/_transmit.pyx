"""What to send, on which path, in which order.

Nothing here touches a Python object. Sources: RFC 9000 §12-§14, RFC 9002 §7, the multipath draft.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint64_t, int64_t
from libc.string cimport memcmp

from iroh_fast._crypto cimport TAG_LEN
from iroh_fast._packet._frames cimport FT_IMMEDIATE_ACK, FT_PING
from iroh_fast._packet._put cimport put_close
from iroh_fast.quic._closing_state cimport closing_sent
from iroh_fast.quic._codes cimport APPLICATION_ERROR, MIN_DATAGRAM, ST_CLOSING, ST_DRAINED
from iroh_fast.quic._control cimport control_last_words
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._counters cimport IDX_CONNECTION_CLOSE, IDX_DATAGRAM, IDX_STREAM
from iroh_fast.quic._fates cimport requeue_oldest
from iroh_fast.quic._first_flight cimport dialing
from iroh_fast.quic._handshake cimport may_update_keys, update_keys
from iroh_fast.quic._handshake_state cimport Stage, id_equals, level_at, level_end
from iroh_fast.quic._keys cimport (
    LEVEL_0RTT, LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_can_seal, keys_update_wanted)
from iroh_fast.quic._loss cimport drop_space
from iroh_fast.quic._mtud cimport mtud_asks, mtud_hurry, mtud_on_probe_sent, mtud_poll, mtud_route_limit
from iroh_fast.quic._off_path cimport off_path_due, write_off_path
from iroh_fast.quic._packets cimport (
    MAX_BATCH, Packet, begin_packet, drop_packet, pad_packet, protect_headers, seal_coalesced, seal_one, seal_packet,
    space_of)
from iroh_fast.quic._path_queries cimport LEAST_DATAGRAM, any_usable, path_allowance
from iroh_fast.quic._paths cimport OffPath, Path, RemoteCid, path_may_probe, path_probe_room, path_probing, path_sent
from iroh_fast.quic._recovery cimport limit_records
from iroh_fast.quic._recovery_state cimport flight_full, flight_has_room, flight_wait, recovery_on_data, recovery_on_idle
from iroh_fast.quic._routing cimport acks_due, carries_own_acks, may_send_data, usable
from iroh_fast.quic._send_buffer cimport sendbuf_has_pending
from iroh_fast.quic._sent cimport REC_ELICITING, REC_MTU_PROBE
from iroh_fast.quic._space cimport PnSpace, space_ack_due, space_probe_sent, space_probing
from iroh_fast.quic._stream cimport streams_have_control, streams_ready
from iroh_fast.quic._timers cimport TIMER_CLOSE, TIMER_PACING, timer_clear, timer_set
from iroh_fast.quic._trace cimport log_key_discarded
from iroh_fast.quic._write cimport (
    CLOSE_ROOM, PATH_FRAMES_ROOM, general_due, path_frames_due, put_frame, write_ack, write_acks, write_crypto,
    write_general, write_path_frames)

cdef enum:
    LEAST_CLOSE = 32              # a CONNECTION_CLOSE without its reason
    MIN_COALESCE = 87             # room below which no further packet is started
    GSO_PAD = 32                  # a datagram shorter than the segment by at most this is padded up to it


cdef void fill(Path* path, Transmit* out, bint ecn) noexcept nogil:
    out.remote = path.route.remote
    out.local = path.route.local
    out.ecn = 2 if ecn and path.route.ecn else 0
    out.path_id = path.id
    out.dialing = False


cdef size_t send_off_path(Connection conn, uint8_t* buf, Transmit* out) noexcept nogil:
    """A probing packet for an address that is no path's."""
    cdef OffPath off
    cdef size_t n = write_off_path(conn, buf, &off)
    if n:
        out.remote = off.remote
        out.local = off.local
        out.ecn = 0
        out.segment = n
        out.path_id = off.path_id
        out.dialing = False
    return n


cdef bint level_due(Connection conn, Path* path, int level) noexcept nogil:
    cdef Stage* stage
    if level == LEVEL_INITIAL or level == LEVEL_HANDSHAKE:
        stage = level_at(&conn.handshake, level)
        return stage.live and keys_can_seal(&conn.keys, level) and (stage.space.ack_now or space_probing(&stage.space) or sendbuf_has_pending(&stage.tx))
    if level == LEVEL_0RTT:
        return not keys_can_seal(&conn.keys, LEVEL_1RTT) and keys_can_seal(&conn.keys, LEVEL_0RTT) and (
            streams_ready(&conn.streams.table) or conn.datagrams.tx.count > 0 or streams_have_control(&conn.streams.table))
    return keys_can_seal(&conn.keys, LEVEL_1RTT) and (general_due(conn) or acks_due(conn, path, True) or path_frames_due(conn, path))


cdef bint same_ids(Connection conn, Path* path) noexcept nogil:
    """Whether long and short packets carry the same destination id."""
    cdef RemoteCid* id
    if path.cids.active < 0:
        return False
    id = &path.cids.remote[path.cids.active]
    return id_equals(&conn.handshake.theirs, id.cid, id.len)


cdef void write_coalesced(Connection conn, Path* path, Packet* packet, bint* full) noexcept nogil:
    """What a packet of the handshake's datagrams carries at its level."""
    cdef PnSpace* space = space_of(conn, path, packet.level)
    cdef Stage* stage
    cdef bint probe = space_probing(space)
    if packet.level == LEVEL_0RTT or packet.level == LEVEL_1RTT:
        if packet.level == LEVEL_1RTT:
            write_acks(conn, path, packet, True, PATH_FRAMES_ROOM)
            write_path_frames(conn, path, packet, full)
        write_general(conn, path, packet)
        return
    stage = level_at(&conn.handshake, packet.level)
    if probe:
        space_probe_sent(space)
        if not sendbuf_has_pending(&stage.tx):
            requeue_oldest(conn, path, space, packet.level)
    if space.ack_now and space.received.n_ranges:
        write_ack(conn, packet, space, False, 0, &path.stats, 0)
    write_crypto(conn, packet, &stage.tx, &path.stats)
    if probe and not packet.sent.flags & REC_ELICITING:
        put_frame(path, packet, FT_PING, NULL)


cdef size_t send_handshake(Connection conn, Path* path, uint8_t* buf, Transmit* out) noexcept nogil:
    """One datagram of coalesced packets, lowest level first (RFC 9000 §12.2)."""
    cdef Packet packets[4]
    cdef int n = 0, level, i
    cdef uint8_t* at = buf
    cdef size_t room, total = 0, cap = path.route.mtud.current
    cdef uint64_t allowed = path_allowance(conn, path)
    cdef bint has_initial = False, full = False
    cdef Packet* packet
    # Never beyond three times what came (RFC 9000 §8.1), and no datagram too small for an Initial.
    if allowed < MIN_DATAGRAM:
        return 0
    if cap > allowed:
        cap = <size_t>allowed
    if not flight_has_room(&path.route.flight, cap) and not space_probing(&conn.handshake.initial.space) and not space_probing(&conn.handshake.handshake.space):
        if not ((conn.handshake.initial.live and conn.handshake.initial.space.ack_now) or (conn.handshake.handshake.live and conn.handshake.handshake.space.ack_now)):
            return 0
    for level in range(LEVEL_INITIAL, LEVEL_1RTT + 1):
        if not level_due(conn, path, level):
            continue
        # space for what was written already, each with its tag
        room = cap - <size_t>(at - buf)
        if n and room < MIN_COALESCE:
            break
        if level == LEVEL_1RTT and not (conn.handshake.done or not conn.is_client):
            continue
        if level == LEVEL_1RTT and n and not same_ids(conn, path):
            continue                  # RFC 9000 §12.2: one destination id per datagram
        packet = &packets[n]
        if begin_packet(conn, path, level, at, room, packet) < 0:
            break
        write_coalesced(conn, path, packet, &full)
        if packet.at == packet.payload:
            drop_packet(conn, path, packet)
            continue
        if level == LEVEL_INITIAL and (conn.is_client or packet.sent.flags & REC_ELICITING):
            has_initial = True
        at = packet.at + TAG_LEN
        if packet.at - packet.payload + packet.pn_len < 4:
            pad_packet(packet, 4 - <size_t>(packet.at - packet.payload) - packet.pn_len)
            at = packet.at + TAG_LEN
        n += 1
    if n == 0:
        return 0
    if (has_initial or full) and at - buf < MIN_DATAGRAM:
        pad_packet(&packets[n - 1], MIN_DATAGRAM - <size_t>(at - buf))
    total = seal_coalesced(conn, path, packets, n)
    if total == 0:
        return 0
    for i in range(n):
        if packets[i].level == LEVEL_HANDSHAKE and conn.is_client and conn.handshake.initial.live:
            # RFC 9001 §4.9.1: a client is done with Initial keys once it sends Handshake packets.
            drop_space(conn, path, &conn.handshake.initial.space)
            level_end(&conn.handshake, &conn.keys, LEVEL_INITIAL)
            log_key_discarded(conn, LEVEL_INITIAL)
    fill(path, out, True)
    out.segment = total
    out.dialing = dialing(conn)
    path_sent(path, total, 1, conn.now)
    return total


cdef struct Plan:                 # what packets of one batch are for
    bint data                     # the path may carry what any path may
    bint last_words               # its PATH_ABANDON has to go here
    double rate                   # of the pacer, -1: not asked for yet
    # of the next packet
    bint probe, general, ack_only, full


cdef size_t send_data(Connection conn, Path* path, uint8_t* buf, size_t cap, int max_segments, Transmit* out,
                      bint* blocked) noexcept nogil:  # hot
    """A batch of 1-RTT datagrams on one path; all but the last have the same size."""
    cdef Packet packets[MAX_BATCH]
    cdef Packet* packet
    cdef Plan plan
    cdef int n = 0, limit = max_segments if max_segments < MAX_BATCH else MAX_BATCH
    cdef size_t mtu = path.route.mtud.current, segment = 0, total = 0, size
    cdef uint64_t allowed = path_allowance(conn, path)
    if not plan_path(conn, path, &plan):
        return 0
    limit_records(conn, path)
    if mtu * limit > cap:
        limit = <int>(cap // mtu)
    while n < limit and allowed >= total + LEAST_DATAGRAM and plan_packet(conn, path, &plan, mtu, blocked):
        size = mtu if not plan.probe or mtu < MIN_DATAGRAM else MIN_DATAGRAM
        if n and segment < size:
            size = segment
        if size > allowed - total:
            size = <size_t>(allowed - total)
        packet = &packets[n]
        if begin_packet(conn, path, LEVEL_1RTT, buf + total, size, packet) < 0:
            break
        write_packet(conn, path, packet, &plan)
        if packet.at == packet.payload:
            drop_packet(conn, path, packet)
            if plan.probe:
                continue
            break
        pad_data(conn, packet, &plan, size, n > 0)
        size = seal_packet(conn, path, packet)
        if size == 0:
            break
        if plan.full:
            path.proves_mtu = size >= MIN_DATAGRAM
        total += size
        if n == 0:
            segment = size
        n += 1
        if size != segment or plan.ack_only or conn.failure.code != 0:
            break
        if n == 1 and segment < mtu and segment + GSO_PAD < mtu:
            # Not full. Datagrams of one size fill a batch of their size; stream data deserves larger packets.
            if conn.datagrams.tx.count == 0 and (not general_due(conn) or segment < MIN_DATAGRAM):
                break
    if n == 0 or protect_headers(conn, packets, n) < 0:
        return 0
    fill(path, out, True)
    out.segment = segment
    path_sent(path, total, n, conn.now)
    return total


cdef bint plan_path(Connection conn, Path* path, Plan* plan) noexcept nogil:
    """Whether anything may go on the path at all."""
    plan.data = may_send_data(conn, path)
    plan.last_words = False
    plan.rate = -1
    if path.cids.active < 0:
        return False
    if not path.abandoned:
        return True
    # Only what tells the peer, and only if no other path can: acknowledgements and the PATH_ABANDON itself.
    plan.data = False
    if any_usable(conn) or not path.route.validated:
        return False
    plan.last_words = path.abandon_due
    return plan.last_words or space_ack_due(&path.recovery.space, conn.now) or path_probing(path)


cdef inline bint plan_packet(Connection conn, Path* path, Plan* plan, size_t mtu, bint* blocked) noexcept nogil:
    """What the next packet is for; False: there is none."""
    plan.probe = path_probing(path)
    plan.general = plan.data and general_due(conn)
    plan.ack_only = plan.full = False
    if not plan.probe and not plan.general and not plan.last_words and not path_frames_due(conn, path):
        plan.ack_only = acks_due(conn, path, plan.data or path.abandoned)
        return plan.ack_only
    if plan.probe or not plan.general or window_is_open(conn, path, plan, mtu):
        return True
    blocked[0] = True
    if path_frames_due(conn, path):
        plan.general = False
        return True
    # Ours: a full window or bucket does not hold back acknowledgements.
    plan.ack_only = acks_due(conn, path, plan.data)
    return plan.ack_only


cdef inline bint window_is_open(Connection conn, Path* path, Plan* plan, size_t mtu) noexcept nogil:
    """Whether congestion control and the pacer let a full packet go now."""
    cdef int64_t wait
    if not flight_has_room(&path.route.flight, mtu):
        flight_full(&path.route.flight, conn.now)
        return False
    wait = flight_wait(&path.route.flight, conn.now, mtu, &plan.rate)
    if wait > 0:
        timer_set(&path.timers, TIMER_PACING, conn.now + wait)
    return wait <= 0


cdef inline void write_packet(Connection conn, Path* path, Packet* packet, Plan* plan) noexcept nogil:
    cdef bint every = plan.data or path.abandoned
    if plan.probe:
        space_probe_sent(&path.recovery.space)
        if not plan.general:
            requeue_oldest(conn, path, &path.recovery.space, LEVEL_1RTT)
            plan.general = plan.data
    if every or carries_own_acks(path):
        write_acks(conn, path, packet, every, 0 if plan.ack_only else PATH_FRAMES_ROOM)
    if path.abandoned:
        control_last_words(conn, path, packet)
        plan.last_words = False
    if plan.ack_only:
        return
    if plan.probe or path_frames_due(conn, path):
        write_path_frames(conn, path, packet, &plan.full)
    if plan.general:
        write_general(conn, path, packet)
    if plan.probe and (not conn.agreed.peer_ack_frequency or not put_frame(path, packet, FT_IMMEDIATE_ACK, NULL)):
        if not packet.sent.flags & REC_ELICITING:
            put_frame(path, packet, FT_PING, NULL)


cdef inline void pad_data(Connection conn, Packet* packet, const Plan* plan, size_t size, bint follows) noexcept nogil:
    """Up to what proves the MTU, to the whole packet where that is asked for, or to the segment size of the batch."""
    cdef Py_ssize_t room = packet.end - packet.at
    cdef size_t used = <size_t>(packet.at - packet.start)
    if plan.full and used + TAG_LEN < MIN_DATAGRAM <= size:
        pad_packet(packet, MIN_DATAGRAM - TAG_LEN - used)
    elif (conn.cfg.pad_to_mtu and packet.sent.flags & REC_ELICITING) or (follows and 0 < room <= GSO_PAD):
        pad_packet(packet, <size_t>room)


cdef size_t send_mtu_probe(Connection conn, Path* path, uint8_t* buf, size_t cap, Transmit* out) noexcept nogil:
    cdef uint16_t size
    cdef Packet packet
    cdef size_t n
    if not conn.cfg.mtud or not path_may_probe(path):
        return 0
    if path.stats.tx_frames[IDX_STREAM] or path.stats.tx_frames[IDX_DATAGRAM]:
        mtud_hurry(&path.route.mtud, conn.now)
    if mtud_asks(&path.route.mtud, conn.now):
        mtud_route_limit(&path.route.mtud, conn.now, conn.host.largest_payload(&path.route.remote, &path.route.local))
    size = mtud_poll(&path.route.mtud, conn.now, path_probe_room(path))
    if size == 0 or size > cap:
        return 0
    if begin_packet(conn, path, LEVEL_1RTT, buf, size, &packet) < 0:
        return 0
    put_frame(path, &packet, FT_PING, NULL)
    if conn.agreed.peer_ack_frequency:
        put_frame(path, &packet, FT_IMMEDIATE_ACK, NULL)
    packet.sent.flags |= REC_MTU_PROBE
    pad_packet(&packet, <size_t>(packet.end - packet.at))
    n = seal_one(conn, path, &packet)
    if n == 0:
        return 0
    mtud_on_probe_sent(&path.route.mtud, packet.pn, size)
    fill(path, out, True)
    out.segment = n
    path_sent(path, n, 1, conn.now)
    return n


cdef Path* usable_from(Connection conn, uint64_t id) noexcept nogil:
    """The first path that works, of those with this id and higher ones."""
    cdef Path* path = conn.paths.first
    while path != NULL and not (path.id >= id and usable(path)):
        path = path.next
    return path


cdef Path* path_for_close(Connection conn) noexcept nogil:
    """The next one that works, else any; NULL: none can carry a packet."""
    cdef Path* path = usable_from(conn, conn.ending.next_path)
    if path == NULL and conn.ending.next_path == 0:
        path = conn.paths.first
    return path if path != NULL and path.cids.active >= 0 else NULL


cdef const uint8_t* reason_for_close(Connection conn, size_t* size) noexcept nogil:
    size[0] = 0
    with gil:
        if conn.close_text is None:
            return NULL
        if isinstance(conn.close_text, str):
            conn.close_text = conn.close_text.encode()
        size[0] = <size_t>PyBytes_GET_SIZE(conn.close_text)
        return <const uint8_t*>PyBytes_AS_STRING(conn.close_text)


cdef bint write_close(Connection conn, Path* path, Packet* packet, const uint8_t* text, size_t size) noexcept nogil:
    """CONNECTION_CLOSE, as much of the reason as fits; False: no room."""
    cdef size_t room
    if packet.level == LEVEL_1RTT:
        write_acks(conn, path, packet, True, CLOSE_ROOM)
    if packet.end - packet.at < LEAST_CLOSE:
        return False
    if conn.ending.app and packet.level != LEVEL_1RTT:
        # RFC 9000 §10.2.3: application errors are not shown before the handshake is done.
        packet.at = put_close(packet.at, False, APPLICATION_ERROR, 0, NULL, 0)
    else:
        room = <size_t>(packet.end - packet.at) - LEAST_CLOSE
        packet.at = put_close(packet.at, conn.ending.app, conn.ending.code, conn.ending.frame, text, size if size < room else room)
    path.stats.tx_frames[IDX_CONNECTION_CLOSE] += 1
    if packet.at - packet.payload + packet.pn_len < 4:
        pad_packet(packet, 4)
    return True


cdef size_t send_close(Connection conn, uint8_t* buf, Transmit* out) noexcept nogil:
    """CONNECTION_CLOSE at every level that has keys, in one datagram."""
    cdef Path* path = path_for_close(conn)
    cdef Packet packets[3]
    cdef int n = 0, level
    cdef uint8_t* at = buf
    cdef size_t total, size = 0, allowed = MIN_DATAGRAM
    cdef const uint8_t* text = reason_for_close(conn, &size)
    cdef bint has_initial = False
    if path == NULL:
        closing_sent(&conn.ending, conn.ending.next_path, True)
        return 0
    closing_sent(&conn.ending, path.id, usable_from(conn, path.id + 1) == NULL)
    if allowed > path_allowance(conn, path):
        allowed = <size_t>path_allowance(conn, path)
    for level in range(LEVEL_INITIAL, LEVEL_1RTT + 1):
        if level == LEVEL_0RTT or not keys_can_seal(&conn.keys, level):
            continue
        if level == LEVEL_1RTT and conn.is_client and not conn.handshake.done:
            continue
        if begin_packet(conn, path, level, at, allowed - <size_t>(at - buf), &packets[n]) < 0:
            break
        if not write_close(conn, path, &packets[n], text, size):
            drop_packet(conn, path, &packets[n])
            break
        has_initial = has_initial or (level == LEVEL_INITIAL and conn.is_client)
        at = packets[n].at + TAG_LEN
        n += 1
    if n == 0:
        return 0
    if has_initial and at - buf < MIN_DATAGRAM:
        pad_packet(&packets[n - 1], MIN_DATAGRAM - <size_t>(at - buf))
    total = seal_coalesced(conn, path, packets, n)
    if total == 0:
        return 0
    fill(path, out, False)
    out.segment = total
    path_sent(path, total, 1, conn.now)
    return total


cdef size_t poll_transmit(Connection conn, int64_t now, uint8_t* buf, size_t cap, int max_segments,
                          Transmit* out) noexcept nogil:
    cdef Path* path
    cdef size_t n
    cdef bint blocked = False
    conn.now = now
    if conn.state >= ST_CLOSING:
        if conn.ending.due and conn.state != ST_DRAINED:
            if not conn.handshake.heard:
                # Nobody has answered, so nobody's packets are still to come.
                timer_set(&conn.timers, TIMER_CLOSE, now)
            while conn.ending.due:
                n = send_close(conn, buf, out)
                if n:
                    return n
        return 0
    if off_path_due(conn):
        n = send_off_path(conn, buf, out)
        if n:
            return n
    if keys_update_wanted(&conn.keys) and may_update_keys(conn) and update_keys(conn) < 0:
        return 0
    if not conn.cfg.gso:
        max_segments = 1
    path = conn.paths.first
    if path != NULL and path.id == 0 and not path.abandoned and (conn.handshake.initial.live or conn.handshake.handshake.live or not keys_can_seal(&conn.keys, LEVEL_1RTT)):
        if level_due(conn, path, LEVEL_INITIAL) or level_due(conn, path, LEVEL_HANDSHAKE) or level_due(conn, path, LEVEL_0RTT):
            n = send_handshake(conn, path, buf, out)
            if n:
                return n
    if not keys_can_seal(&conn.keys, LEVEL_1RTT) or (conn.is_client and not conn.handshake.done):
        return 0
    while path != NULL:
        blocked = False
        if path.timers.due[TIMER_PACING] <= now:
            timer_clear(&path.timers, TIMER_PACING)
        n = send_data(conn, path, buf, cap, max_segments, out, &blocked)
        if n:
            recovery_on_data(&path.recovery)
            return n
        recovery_on_idle(&path.route.flight, &path.recovery, not blocked, now)
        path = path.next
    if conn.handshake.done:
        path = conn.paths.first
        while path != NULL:
            n = send_mtu_probe(conn, path, buf, cap, out)
            if n:
                return n
            path = path.next
    return 0
