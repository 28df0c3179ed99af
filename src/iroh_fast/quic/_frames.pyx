"""What each frame of a received packet means, and where it is allowed.

Sources: RFC 9000 §12.4 and §19, RFC 9221, the multipath, ACK frequency and address discovery drafts, and iroh's use of them.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcpy, memset

from iroh_fast._batch cimport UdpAddr, addr_to_tuple
from iroh_fast._packet cimport (
    DEC_TRUNCATED, DEC_UNKNOWN, FT_ACK, FT_ACK_ECN, FT_ACK_FREQUENCY, FT_ADD_ADDRESS_V4, FT_APPLICATION_CLOSE,
    FT_CONNECTION_CLOSE, FT_CRYPTO, FT_DATAGRAM, FT_DATA_BLOCKED, FT_HANDSHAKE_DONE, FT_IMMEDIATE_ACK, FT_MAX_DATA,
    FT_MAX_PATH_ID, FT_MAX_STREAMS_BIDI, FT_MAX_STREAMS_UNI, FT_MAX_STREAM_DATA, FT_NEW_CONNECTION_ID, FT_NEW_TOKEN,
    FT_OBSERVED_ADDR_V4, FT_OBSERVED_ADDR_V6, FT_PADDING, FT_PATHS_BLOCKED, FT_PATH_ABANDON, FT_PATH_ACK,
    FT_PATH_ACK_ECN, FT_PATH_CHALLENGE, FT_PATH_NEW_CONNECTION_ID, FT_PATH_RESPONSE, FT_PATH_RETIRE_CONNECTION_ID,
    FT_PATH_STATUS_AVAILABLE, FT_PATH_STATUS_BACKUP, FT_PING, FT_REACH_OUT_V4, FT_REACH_OUT_V6, FT_REMOVE_ADDRESS,
    FT_RESET_STREAM, FT_RETIRE_CONNECTION_ID, FT_STOP_SENDING, FT_STREAM, FT_STREAMS_BLOCKED_BIDI,
    FT_STREAMS_BLOCKED_UNI, FT_STREAM_DATA_BLOCKED, Frame, decode_frame)
from iroh_fast.quic._buffers cimport RecvBuf, recvbuf_insert
from iroh_fast.quic._cids cimport (
    drop_ids, find_ids, issue_ids, issue_path_ids, retire_later, rotate_id, was_abandoned, watch_reset)
from iroh_fast.quic._closing cimport enter_drain
from iroh_fast.quic._codes cimport (
    CONNECTION_ID_LIMIT_ERROR, CRYPTO_BUFFER_EXCEEDED, FRAME_ENCODING_ERROR, INTERNAL_ERROR, PROTOCOL_VIOLATION,
    ST_CLOSING, ST_DRAINING, ST_ESTABLISHED, ST_HANDSHAKE, W_DATAGRAM)
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._control cimport queue_control
from iroh_fast.quic._counters cimport frame_index
from iroh_fast.quic._datagrams cimport queue_empty, queue_push
from iroh_fast.quic._handshake cimport confirm_handshake
from iroh_fast.quic._keys cimport LEVEL_0RTT, LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL
from iroh_fast.quic._levels cimport Level
from iroh_fast.quic._loss cimport on_ack
from iroh_fast.quic._path_table cimport abandon_path, find_path, grant_path, log_path, note_abandoned, open_paths
from iroh_fast.quic._paths cimport (
    CidSet, LocalCid, Path, STATUS_AVAILABLE, STATUS_BACKUP, local_cid_find, local_cid_remove, remote_cid_add,
    same_addr)
from iroh_fast.quic._recovery cimport PnSpace
from iroh_fast.quic._rtt cimport rtt_get, rtt_pto_base
from iroh_fast.quic._time cimport MS, ns_from_us
from iroh_fast.quic._timers cimport TIMER_DRAIN, TIMER_NO_PATH, timer_is_set, timer_set
from iroh_fast.quic._validation cimport on_path_challenge, on_path_response

from iroh_fast.errors import CloseReason

cdef enum:
    MAX_RETIRE_PENDING = 50
    MAX_ACK_DELAY_MS = 25
    MAX_ACK_DELAY_US = 16383000   # RFC 9000 §18.2: larger ones cannot be announced


cdef int read_frames(QuicConnection conn, Path* path, PnSpace* space, int level, const uint8_t* at, const uint8_t* end,
                     const UdpAddr* src, const UdpAddr* dst, bint* eliciting, bint* probing) noexcept nogil:  # hot
    """Process a packet's payload; -1 after an error was noted."""
    cdef Frame frame
    cdef int err
    if conn.state == ST_CLOSING and conn.now >= conn.close_next:
        # RFC 9000 §10.2.1: the peer has not heard yet. At most one repetition per round trip.
        conn.close_next = conn.now + rtt_get(&path.r.rtt)
        conn.close_due = True
    if at == end:
        return conn.fail(PROTOCOL_VIOLATION, b"packet payload is empty", 0)
    while at < end:
        err = 0
        at = decode_frame(at, end, &frame, &err)
        if at == NULL:
            return conn.fail(FRAME_ENCODING_ERROR, b"invalid frame ID" if err == DEC_UNKNOWN
                             else b"unexpected end" if err == DEC_TRUNCATED else b"malformed", frame.type)
        path.stats.rx_frames[frame_index(frame.type)] += 1
        if frame.type == FT_STREAM and level == LEVEL_1RTT:
            eliciting[0] = True
            probing[0] = False
            if conn.state == ST_ESTABLISHED or conn.state == ST_HANDSHAKE:
                err = conn.streams.on_stream(frame.id, frame.offset, frame.data, frame.len, frame.fin)
                if err:
                    return conn.fail(err, conn.streams.reason, 0)
            continue
        if frame.type == FT_PADDING:
            continue
        if not (frame.type == FT_ACK or frame.type == FT_ACK_ECN or frame.type == FT_PATH_ACK or frame.type == FT_PATH_ACK_ECN
                or frame.type == FT_CONNECTION_CLOSE or frame.type == FT_APPLICATION_CLOSE):
            eliciting[0] = True
        if not (frame.type == FT_PATH_CHALLENGE or frame.type == FT_PATH_RESPONSE or frame.type == FT_NEW_CONNECTION_ID
                or frame.type == FT_PATH_NEW_CONNECTION_ID or frame.type == FT_OBSERVED_ADDR_V4
                or frame.type == FT_OBSERVED_ADDR_V6):
            probing[0] = False
        if read_frame(conn, path, space, level, &frame, src, dst) < 0:
            return -1
        if conn.state >= ST_DRAINING:
            return 0
    return 0


cdef int read_frame(QuicConnection conn, Path* path, PnSpace* space, int level, Frame* frame, const UdpAddr* src,
                    const UdpAddr* dst) noexcept nogil:
    cdef Level* stage
    cdef RecvBuf* rx
    cdef Path* other
    cdef int rc
    cdef uint64_t kind = frame.type
    if conn.state == ST_CLOSING:
        if kind == FT_CONNECTION_CLOSE or kind == FT_APPLICATION_CLOSE:
            on_peer_close(conn, frame, level)
        return 0
    if level == LEVEL_INITIAL or level == LEVEL_HANDSHAKE:
        if not (kind == FT_PING or kind == FT_CRYPTO or kind == FT_ACK or kind == FT_ACK_ECN or kind == FT_CONNECTION_CLOSE):
            return conn.fail(PROTOCOL_VIOLATION, b"illegal frame type in handshake", kind)
    elif level == LEVEL_0RTT:
        if (kind == FT_CRYPTO or kind == FT_ACK or kind == FT_ACK_ECN or kind == FT_HANDSHAKE_DONE or kind == FT_NEW_TOKEN
                or kind == FT_PATH_RESPONSE or kind == FT_RETIRE_CONNECTION_ID
                or kind == FT_PATH_ACK or kind == FT_PATH_ACK_ECN or kind >= FT_PATH_ABANDON):
            return conn.fail(PROTOCOL_VIOLATION, b"illegal frame type in 0-RTT", kind)
    if kind == FT_STREAM:
        rc = conn.streams.on_stream(frame.id, frame.offset, frame.data, frame.len, frame.fin)
        return conn.fail(rc, conn.streams.reason, 0) if rc else 0
    if kind == FT_ACK or kind == FT_ACK_ECN:
        if level == LEVEL_1RTT:
            other = find_path(conn, 0)      # plain ACK always means path 0
            if other == NULL:
                return 0
            return on_ack(conn, other, &other.sp, level, frame)
        return on_ack(conn, path, space, level, frame)
    if kind == FT_PATH_ACK or kind == FT_PATH_ACK_ECN:
        if not conn.multipath:
            return conn.fail(PROTOCOL_VIOLATION, b"received PATH_ACK without multipath", 0)
        other = find_path(conn, <uint32_t>frame.path)
        if other == NULL:
            if was_abandoned(conn, <uint32_t>frame.path):
                return 0
            return conn.fail(PROTOCOL_VIOLATION, b"received PATH_ACK with path ID never used", 0)
        return on_ack(conn, other, &other.sp, level, frame)
    if kind == FT_PING:
        return 0
    if kind == FT_DATAGRAM:
        if not conn.cfg.datagrams:
            return conn.fail(PROTOCOL_VIOLATION, b"unexpected DATAGRAM", 0)
        if frame.len > conn.cfg.datagram_rx or frame.len > 65535:
            return conn.fail(PROTOCOL_VIOLATION, b"oversized datagram", 0)
        if queue_empty(&conn.dgram_rx):
            conn.happened(W_DATAGRAM)
        queue_push(&conn.dgram_rx, frame.data, <uint32_t>frame.len, True)
        return 0
    if kind == FT_CRYPTO:
        if level == LEVEL_1RTT:
            rx = &conn.data_crypto_rx
        else:
            stage = conn.initial if level == LEVEL_INITIAL else conn.handshake
            rx = &stage.rx
        if frame.offset + frame.len > rx.read + conn.cfg.crypto_buffer:
            return conn.fail(CRYPTO_BUFFER_EXCEEDED, b"", 0)
        if recvbuf_insert(rx, frame.offset, frame.data, frame.len) < 0:
            return conn.fail(INTERNAL_ERROR, b"too many gaps in CRYPTO data", 0)
        return 0
    if kind == FT_CONNECTION_CLOSE or kind == FT_APPLICATION_CLOSE:
        on_peer_close(conn, frame, level)
        return 0
    return control_frame(conn, path, level, frame, src, dst)


cdef int control_frame(QuicConnection conn, Path* path, int level, Frame* frame, const UdpAddr* src,
                       const UdpAddr* dst) noexcept nogil:
    """Everything that is not on the fast paths."""
    cdef uint64_t kind = frame.type
    cdef int rc = 0
    cdef CidSet* ids
    cdef LocalCid* local
    cdef Path* other
    cdef uint64_t value
    cdef UdpAddr observed
    if kind == FT_RESET_STREAM:
        rc = conn.streams.on_reset(frame.id, frame.value, frame.offset)
    elif kind == FT_STOP_SENDING:
        rc = conn.streams.on_stop_sending(frame.id, frame.value)
    elif kind == FT_MAX_DATA:
        conn.streams.on_max_data(frame.value)
    elif kind == FT_MAX_STREAM_DATA:
        rc = conn.streams.on_max_stream_data(frame.id, frame.value)
    elif kind == FT_MAX_STREAMS_BIDI or kind == FT_MAX_STREAMS_UNI:
        conn.streams.on_max_streams(<int>(kind - FT_MAX_STREAMS_BIDI), frame.value)
    elif kind == FT_STREAM_DATA_BLOCKED:
        rc = conn.streams.on_stream_data_blocked(frame.id)
    elif kind == FT_DATA_BLOCKED or kind == FT_STREAMS_BLOCKED_BIDI or kind == FT_STREAMS_BLOCKED_UNI:
        pass
    elif kind == FT_PATH_CHALLENGE:
        on_path_challenge(conn, path, frame.data, src, dst)
    elif kind == FT_PATH_RESPONSE:
        on_path_response(conn, path, frame.data, src)
    elif kind == FT_NEW_CONNECTION_ID:
        return new_cid_frame(conn, 0, frame) if not was_abandoned(conn, 0) else 0
    elif kind == FT_RETIRE_CONNECTION_ID:
        return retire_cid_frame(conn, 0, frame.id)
    elif kind == FT_HANDSHAKE_DONE:
        if not conn.is_client:
            return conn.fail(PROTOCOL_VIOLATION, b"client sent HANDSHAKE_DONE", 0)
        if not conn.handshake_confirmed:
            with gil:
                confirm_handshake(conn)
    elif kind == FT_NEW_TOKEN:
        if not conn.is_client:
            return conn.fail(PROTOCOL_VIOLATION, b"client sent NEW_TOKEN", 0)
        with gil:
            if conn.on_address_token is not None:
                conn.on_address_token(PyBytes_FromStringAndSize(<char*>frame.data, frame.len))
    elif kind == FT_IMMEDIATE_ACK:
        other = conn.paths
        while other != NULL:
            other.sp.ack_now = True
            other = other.next
    elif kind == FT_ACK_FREQUENCY:
        if <int64_t>frame.id > conn.ack_frequency_seq:
            if frame.value2 < 1000:
                return conn.fail(PROTOCOL_VIOLATION, b"requested max ack delay below min_ack_delay", 0)
            conn.ack_frequency_seq = <int64_t>frame.id
            conn.ack_threshold = frame.value
            conn.ack_reorder = frame.offset
            conn.max_ack_delay = ns_from_us(frame.value2 if frame.value2 < MAX_ACK_DELAY_US else MAX_ACK_DELAY_US)
    elif kind == FT_OBSERVED_ADDR_V4 or kind == FT_OBSERVED_ADDR_V6:
        if not conn.receive_observed:
            return conn.fail(PROTOCOL_VIOLATION, b"received OBSERVED_ADDRESS frame when not negotiated", 0)
        if <int64_t>frame.id > path.observed_seq:
            path.observed_seq = <int64_t>frame.id
            memset(&observed, 0, sizeof(UdpAddr))
            memcpy(observed.ip, frame.ip, 16)
            observed.port = frame.port
            if not same_addr(&observed, &path.observed):
                path.observed = observed
                with gil:
                    log_path(conn, "observed", path.id, addr_to_tuple(&observed), None, None, None)
    elif FT_ADD_ADDRESS_V4 <= kind <= FT_REMOVE_ADDRESS:
        # Candidates for hole punching. Rounds are not part of this engine yet: the frames are checked and counted.
        if not conn.nat:
            return conn.fail(PROTOCOL_VIOLATION, b"n0's nat traversal was not negotiated", 0)
        if (kind == FT_REACH_OUT_V4 or kind == FT_REACH_OUT_V6) == conn.is_client:
            return conn.fail(PROTOCOL_VIOLATION, b"Not allowed for this endpoint's connection side", 0)
    else:
        if level != LEVEL_1RTT or not conn.multipath:
            return conn.fail(PROTOCOL_VIOLATION, b"received multipath frame without multipath", 0)
        return multipath_frame(conn, path, frame)
    if rc:
        return conn.fail(rc, conn.streams.reason, 0)
    return 0


cdef int new_cid_frame(QuicConnection conn, uint32_t path_id, Frame* frame) noexcept nogil:
    cdef CidSet* ids = find_ids(conn, path_id, True)
    cdef uint64_t retired[5]
    cdef int n = 0, i, rc
    cdef uint64_t type = FT_PATH_RETIRE_CONNECTION_ID if conn.multipath else FT_RETIRE_CONNECTION_ID
    if ids == NULL:
        return conn.fail(INTERNAL_ERROR, b"out of memory", 0)
    rc = remote_cid_add(ids, frame.id, frame.offset, frame.data, <uint8_t>frame.len, frame.token, retired, &n)
    if rc == -1:
        return conn.fail(CONNECTION_ID_LIMIT_ERROR, b"", 0)
    if rc == -2:
        return conn.fail(PROTOCOL_VIOLATION, b"conflicting connection ids", 0)
    if rc == 2:
        retired[n] = frame.id
        n += 1
    for i in range(n):
        queue_control(conn, type, path_id, retired[i], 0)
        conn.n_retire += 1
    if n and find_path(conn, path_id) != NULL:
        watch_reset(conn, ids)
    if conn.n_retire > MAX_RETIRE_PENDING:
        return conn.fail(CONNECTION_ID_LIMIT_ERROR, b"too many retired connection ids", 0)
    if path_id == 0 and not conn.is_client and ids.active >= 0 and ids.remote[ids.active].seq == 0 and ids.n_remote > 1:
        # Like iroh: leave the client's handshake id as soon as there is another.
        if find_path(conn, 0) != NULL:
            rotate_id(conn, find_path(conn, 0))
    return 0


cdef int retire_cid_frame(QuicConnection conn, uint32_t path_id, uint64_t seq) noexcept nogil:
    cdef CidSet* ids = find_ids(conn, path_id, False)
    cdef LocalCid* local
    if ids == NULL:
        return 0
    if seq >= ids.sent:
        # Ids wait for room in the congestion window: issued is not sent (RFC 9000 §19.16).
        return conn.fail(PROTOCOL_VIOLATION, b"RETIRE_CONNECTION_ID for unissued sequence number", 0)
    local = local_cid_find(ids, seq)
    if local == NULL:
        return 0
    # Packets with the old id may still be under way: it stays routed until the connection ends or the set is full.
    with gil:
        retire_later(conn, local.value)
    local_cid_remove(ids, local)
    if not was_abandoned(conn, path_id) and conn.state == ST_ESTABLISHED:
        issue_ids(conn, path_id)
    return 0


cdef int multipath_frame(QuicConnection conn, Path* path, Frame* frame) noexcept nogil:
    cdef uint64_t kind = frame.type
    cdef Path* other
    cdef CidSet* ids
    if kind == FT_PATH_NEW_CONNECTION_ID:
        if frame.path > conn.sent_max_path:
            return conn.fail(PROTOCOL_VIOLATION, b"PATH_NEW_CONNECTION_ID contains path_id exceeding current max", 0)
        if was_abandoned(conn, <uint32_t>frame.path):
            return 0
        return new_cid_frame(conn, <uint32_t>frame.path, frame)
    if kind == FT_PATH_RETIRE_CONNECTION_ID:
        return retire_cid_frame(conn, <uint32_t>frame.path, frame.id)
    if kind == FT_PATH_ABANDON:
        other = find_path(conn, <uint32_t>frame.path)
        if other == NULL:
            if frame.path > conn.sent_max_path:
                return conn.fail(PROTOCOL_VIOLATION, b"PATH_ABANDON contains path_id exceeding current max", 0)
            if not conn.is_client and not was_abandoned(conn, <uint32_t>frame.path):
                # Opened by the client but never seen here. Without an answer its id would be lost for both.
                note_abandoned(conn, <uint32_t>frame.path)
                drop_ids(conn, <uint32_t>frame.path)
                queue_control(conn, FT_PATH_ABANDON, frame.path, 0, frame.value)
                grant_path(conn)
            return 0
        if not other.abandon_received:
            other.abandon_received = True
            abandon_path(conn, other, frame.value)
            timer_set(&other.timers, TIMER_DRAIN, conn.now + 3 * (rtt_pto_base(&other.r.rtt) + conn.peer_max_ack_delay))
            grant_path(conn)
            if open_paths(conn) == 0 and not timer_is_set(&conn.timers, TIMER_NO_PATH):
                timer_set(&conn.timers, TIMER_NO_PATH, conn.now + 3 * (conn.cfg.initial_rtt * 3 + MAX_ACK_DELAY_MS * MS))
        return 0
    if kind == FT_PATH_STATUS_BACKUP or kind == FT_PATH_STATUS_AVAILABLE:
        other = find_path(conn, <uint32_t>frame.path)
        if other != NULL and <int64_t>frame.id > other.remote_status_seq:
            other.remote_status_seq = <int64_t>frame.id
            other.remote_status = STATUS_BACKUP if kind == FT_PATH_STATUS_BACKUP else STATUS_AVAILABLE
            with gil:
                log_path(conn, "status", other.id, "backup" if kind == FT_PATH_STATUS_BACKUP else "available", None, None, None)
        return 0
    if kind == FT_MAX_PATH_ID:
        if frame.id > conn.remote_max_path:
            conn.remote_max_path = <uint32_t>frame.id
            issue_path_ids(conn)
        return 0
    if kind == FT_PATHS_BLOCKED:
        if frame.id > conn.local_max_path:
            return conn.fail(PROTOCOL_VIOLATION, b"PATHS_BLOCKED maximum path identifier was larger than local maximum", 0)
        return 0
    # PATH_CIDS_BLOCKED
    if frame.path > conn.local_max_path:
        return conn.fail(PROTOCOL_VIOLATION, b"PATH_CIDS_BLOCKED path identifier was larger than local maximum", 0)
    ids = find_ids(conn, <uint32_t>frame.path, False)
    if frame.value > (ids.next_seq if ids != NULL else 0) + 1:
        return conn.fail(PROTOCOL_VIOLATION, b"PATH_CIDS_BLOCKED next sequence number larger than in local state", 0)
    return 0


cdef void on_peer_close(QuicConnection conn, Frame* frame, int level) noexcept nogil:
    cdef bint app = frame.type == FT_APPLICATION_CLOSE
    with gil:
        text = PyBytes_FromStringAndSize(<char*>frame.data, frame.len)
        reason = CloseReason("application" if app else "transport_peer", frame.value, text, True,
                             None if app or not frame.offset else frame.offset)
        enter_drain(conn, reason, level == LEVEL_1RTT)
