"""Writing frames into a packet: what is due, as far as there is room.

Sources: RFC 9000 §13 and §19, RFC 9221, the multipath, ACK frequency and address discovery drafts.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._crypto cimport TAG_LEN
from iroh_fast._packet._frames cimport (
    FT_CRYPTO, FT_IMMEDIATE_ACK, FT_OBSERVED_ADDR_V4, FT_PATH_ACK, FT_PATH_CHALLENGE, FT_PATH_RESPONSE, FT_PING)
from iroh_fast._packet._put cimport (
    MAX_CONTROL_FRAME, MAX_STREAM_HEADER, ack_size, put_ack, put_address, put_crypto_header, put_datagram_header,
    put_path_data)
from iroh_fast._packet._varint cimport varint_size
from iroh_fast.quic._codes cimport W_DATAGRAM_SPACE
from iroh_fast.quic._control cimport control_write
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._counters cimport IDX_ACKS, IDX_CRYPTO, IDX_DATAGRAM, IDX_OBSERVED_ADDR, IDX_PATH_ACKS, frame_index
from iroh_fast.quic._datagrams cimport datagrams_unblock, queue_peek, queue_pop
from iroh_fast.quic._keys cimport LEVEL_1RTT
from iroh_fast.quic._ledger cimport control_waits
from iroh_fast.quic._packets cimport Packet, has_room
from iroh_fast.quic._paths cimport Path, PathStats, paths_next_report
from iroh_fast.quic._received cimport ReceivedSet, received_from
from iroh_fast.quic._routing cimport carries_own_acks
from iroh_fast.quic._rtt cimport rtt_without_queue
from iroh_fast.quic._send_buffer cimport SendBuf, sendbuf_copy, sendbuf_has_pending, sendbuf_poll
from iroh_fast.quic._sent cimport REC_ACK, REC_ELICITING, frame_rec
from iroh_fast.quic._space cimport PnSpace, space_ack_sent, space_ack_wanted
from iroh_fast.quic._stream cimport StreamTable, streams_have_control, streams_ready
from iroh_fast.quic._stream_packets cimport write_stream_control, write_stream_data
from iroh_fast.quic._validation cimport next_challenge


cdef void write_ack(Connection conn, Packet* packet, PnSpace* space, bint multipath, uint32_t path_id,
                    PathStats* stats, size_t reserve) noexcept nogil:
    cdef ReceivedSet* received = &space.received
    cdef uint64_t delay = 0
    cdef int first = received_from(received), n = received.n_ranges
    cdef size_t room = <size_t>(packet.end - packet.at)
    if room <= reserve:
        return
    room -= reserve
    if packet.level == LEVEL_1RTT and conn.now > space.largest_rx_at:
        delay = <uint64_t>(conn.now - space.largest_rx_at) // 1000 >> 3
    # Too many ranges for the packet: the newest matter.
    while ack_size(multipath, path_id, received.starts + first, received.ends + first, n - first, delay, conn.acks.saw_ecn,
                   space.ect0, space.ect1, space.ce) > room:
        if first + 1 == n:
            return
        first += 1 + (n - 1 - first) // 8
    packet.at = put_ack(packet.at, multipath, path_id, received.starts + first, received.ends + first, n - first, delay,
                        conn.acks.saw_ecn, space.ect0, space.ect1, space.ce)
    if packet.sent.flags & REC_ACK:
        frame_rec(&packet.sent.frames, FT_PATH_ACK, path_id, 0, <uint64_t>received.largest, 0)
    else:
        packet.sent.flags |= REC_ACK
        packet.sent.acked_path = path_id
        packet.sent.acked_upto = <uint64_t>received.largest
    stats.tx_frames[IDX_PATH_ACKS if multipath else IDX_ACKS] += 1
    space_ack_sent(space)


cdef void write_acks_of_all(Connection conn, Path* path, Packet* packet, bint data, size_t reserve) noexcept nogil:
    cdef Path* other = conn.paths.first
    while other != NULL:
        if (space_ack_wanted(&other.recovery.space, conn.now) and (conn.agreed.multipath or other.id == 0)
                and (other == path or not carries_own_acks(other)) and (data or other == path)):
            write_ack(conn, packet, &other.recovery.space, conn.agreed.multipath, other.id, &path.stats, reserve)
        other = other.next


cdef void write_crypto(Connection conn, Packet* packet, SendBuf* tx, PathStats* stats) noexcept nogil:
    cdef uint64_t offset
    cdef size_t n, room
    cdef bint again
    while sendbuf_has_pending(tx) and packet.end - packet.at > MAX_STREAM_HEADER + 16:
        room = <size_t>(packet.end - packet.at) - MAX_STREAM_HEADER
        if not sendbuf_poll(tx, room, &offset, &n, &again):
            return
        packet.at = put_crypto_header(packet.at, offset, n)
        sendbuf_copy(tx, offset, n, packet.at)
        packet.at += n
        frame_rec(&packet.sent.frames, FT_CRYPTO, 0, 0, offset, n)
        packet.sent.flags |= REC_ELICITING
        stats.tx_frames[IDX_CRYPTO] += 1


cdef bint put_frame(Path* path, Packet* packet, uint64_t kind, const uint8_t* data8) noexcept nogil:
    """An ack-eliciting frame without arguments or with 8 bytes of data; False when there is no room."""
    if not has_room(packet, 9 if data8 != NULL else 1):
        return False
    packet.at = put_path_data(packet.at, kind, data8) if data8 != NULL else put_v0(packet.at, kind)
    packet.sent.flags |= REC_ELICITING
    path.stats.tx_frames[frame_index(kind)] += 1
    return True


cdef void write_path_frames(Connection conn, Path* path, Packet* packet, bint* want_full) noexcept nogil:
    """Frames that only this path may carry, as far as they fit."""
    cdef uint8_t data[8]
    if path.ping_due:
        path.ping_due = not put_frame(path, packet, FT_PING, NULL)
    if path.immediate_ack_due:
        path.immediate_ack_due = not put_frame(path, packet, FT_IMMEDIATE_ACK, NULL)
    if path.challenge_due and has_room(packet, 9):
        path.challenge_due = False
        next_challenge(conn, path, data)
        put_frame(path, packet, FT_PATH_CHALLENGE, data)
        want_full[0] = True
    if path.response_due and has_room(packet, 10):
        path.response_due = False
        put_frame(path, packet, FT_PATH_RESPONSE, path.response)
        # A response alone is a probing packet; the peer wants proof from real traffic too.
        put_frame(path, packet, FT_IMMEDIATE_ACK if conn.agreed.peer_ack_frequency else FT_PING, NULL)
        want_full[0] = True
    if path.observed_due and has_room(packet, MAX_CONTROL_FRAME):
        path.observed_due = False
        if conn.agreed.send_observed:
            packet.at = put_address(packet.at, FT_OBSERVED_ADDR_V4, paths_next_report(&conn.paths), path.route.remote.ip, path.route.remote.port)
            frame_rec(&packet.sent.frames, FT_OBSERVED_ADDR_V4, path.id, 0, 0, 0)
            packet.sent.flags |= REC_ELICITING
            path.stats.tx_frames[IDX_OBSERVED_ADDR] += 1


cdef void write_datagrams(Connection conn, Path* path, Packet* packet) noexcept nogil:  # hot
    """As many of the waiting datagrams as fit."""
    cdef uint32_t n
    while conn.datagrams.tx.count:
        n = queue_peek(&conn.datagrams.tx)
        if <Py_ssize_t>(n + 1 + varint_size(n)) > packet.end - packet.at:
            if n + 1 + varint_size(n) + (packet.payload - packet.start) + TAG_LEN > path.route.mtud.current:
                # Too large even for an empty packet: the path's MTU fell below it.
                queue_pop(&conn.datagrams.tx, NULL)
                continue
            break
        packet.at = put_datagram_header(packet.at, n)
        queue_pop(&conn.datagrams.tx, packet.at)
        packet.at += n
        packet.sent.flags |= REC_ELICITING
        path.stats.tx_frames[IDX_DATAGRAM] += 1
        if datagrams_unblock(&conn.datagrams):
            conn.happened(W_DATAGRAM_SPACE)


cdef void write_general(Connection conn, Path* path, Packet* packet) noexcept nogil:  # hot
    """Control frames, then datagrams and stream data; when both wait they take turns in being first."""
    cdef StreamTable* table = &conn.streams.table
    cdef bint both
    if conn.handshake.crypto_tx.end and sendbuf_has_pending(&conn.handshake.crypto_tx) and packet.level == LEVEL_1RTT:
        write_crypto(conn, packet, &conn.handshake.crypto_tx, &path.stats)
    if control_waits(&conn.control):
        control_write(conn, path, packet)
    if streams_have_control(&conn.streams.table):
        packet.at = write_stream_control(&conn.streams.table, packet.at, packet.end, &packet.sent, path.stats.tx_frames, conn.now,
                                         rtt_without_queue(&path.route.flight.rtt))
    both = conn.datagrams.tx.count > 0 and streams_ready(&conn.streams.table)
    if not (both and table.streams_turn):
        write_datagrams(conn, path, packet)
    if streams_ready(&conn.streams.table):
        packet.at = write_stream_data(&conn.streams.table, packet.at, packet.end, &packet.sent, path.stats.tx_frames)
    if both and table.streams_turn:
        write_datagrams(conn, path, packet)
    table.streams_turn = both and not table.streams_turn


