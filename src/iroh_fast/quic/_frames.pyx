"""What each frame of a received packet means, and where it is allowed.

Sources: RFC 9000 §12.4 and §19, RFC 9221, the multipath, ACK frequency and address discovery drafts, and iroh's use of them.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcpy, memset

from iroh_fast._batch cimport UdpAddr, addr_to_tuple
from iroh_fast._packet._frames cimport (
    DEC_TRUNCATED, DEC_UNKNOWN, FT_ACK, FT_ACK_ECN, FT_ACK_FREQUENCY, FT_ADD_ADDRESS_V4, FT_APPLICATION_CLOSE,
    FT_CONNECTION_CLOSE, FT_CRYPTO, FT_DATAGRAM, FT_DATA_BLOCKED, FT_HANDSHAKE_DONE, FT_IMMEDIATE_ACK, FT_MAX_DATA,
    FT_MAX_PATH_ID, FT_MAX_STREAMS_BIDI, FT_MAX_STREAMS_UNI, FT_MAX_STREAM_DATA, FT_NEW_CONNECTION_ID, FT_NEW_TOKEN,
    FT_OBSERVED_ADDR_V4, FT_OBSERVED_ADDR_V6, FT_PADDING, FT_PATH_ABANDON, FT_PATH_ACK, FT_PATH_ACK_ECN,
    FT_PATH_CHALLENGE, FT_PATH_NEW_CONNECTION_ID, FT_PATH_RESPONSE, FT_PATH_RETIRE_CONNECTION_ID,
    FT_PATH_STATUS_AVAILABLE, FT_PATH_STATUS_BACKUP, FT_PING, FT_REMOVE_ADDRESS,
    FT_RESET_STREAM, FT_RETIRE_CONNECTION_ID, FT_STOP_SENDING, FT_STREAM, FT_STREAMS_BLOCKED_BIDI,
    FT_STREAMS_BLOCKED_UNI, FT_STREAM_DATA_BLOCKED, Frame, decode_frame)
from iroh_fast.quic._acknowledged cimport on_ack
from iroh_fast.quic._agreed cimport acks_follow
from iroh_fast.quic._cids cimport on_new_id, on_retired_id
from iroh_fast.quic._closing cimport enter_drain
from iroh_fast.quic._closing_state cimport closing_heard
from iroh_fast.quic._codes cimport (
    CRYPTO_BUFFER_EXCEEDED, FRAME_ENCODING_ERROR, INTERNAL_ERROR, PROTOCOL_VIOLATION, ST_CLOSING, ST_DRAINING,
    ST_ESTABLISHED, ST_HANDSHAKE, W_DATAGRAM)
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._counters cimport frame_index
from iroh_fast.quic._datagrams cimport queue_empty, queue_push
from iroh_fast.quic._handshake cimport confirm_handshake
from iroh_fast.quic._handshake_state cimport crypto_in
from iroh_fast.quic._keys cimport LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL
from iroh_fast.quic._path_queries cimport find_path, was_abandoned
from iroh_fast.quic._path_table cimport log_path, on_blocked, on_max_path_id, on_path_abandon, on_path_status
from iroh_fast.quic._paths cimport Path, STATUS_AVAILABLE, STATUS_BACKUP, path_rtt, same_addr
from iroh_fast.quic._receive_buffer cimport RecvBuf, recvbuf_insert
from iroh_fast.quic._space cimport PnSpace, space_ack_now
from iroh_fast.quic._stream_frames cimport (
    got_max_data, got_max_stream_data, got_max_streams, got_reset, got_stop_sending, got_stream,
    got_stream_data_blocked)
from iroh_fast.quic._time cimport ns_from_us
from iroh_fast.quic._traversal cimport ids_arrived, on_address_frame, on_probe_answered
from iroh_fast.quic._validation cimport on_path_challenge, on_path_response

from iroh_fast.errors import CloseReason

cdef enum:
    MAX_ACK_DELAY_US = 16383000   # RFC 9000 §18.2: larger ones cannot be announced


cdef int read_frames(Connection conn, Path* path, PnSpace* space, int level, const uint8_t* at, const uint8_t* end,
                     const UdpAddr* src, const UdpAddr* dst, bint* eliciting, bint* probing) noexcept nogil:  # hot
    """Process a packet's payload; -1 after an error was noted."""
    cdef Frame frame
    cdef int err
    if conn.state == ST_CLOSING:
        closing_heard(&conn.ending, conn.now, path_rtt(path))
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
                err = got_stream(&conn.streams.table, frame.id, frame.offset, frame.data, frame.len, frame.fin)
                if err:
                    return conn.fail(err, conn.streams.table.reason, 0)
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


cdef int read_frame(Connection conn, Path* path, PnSpace* space, int level, Frame* frame, const UdpAddr* src,
                    const UdpAddr* dst) noexcept nogil:
    cdef Path* other
    cdef int rc
    cdef uint64_t kind = frame.type
    if conn.state == ST_CLOSING:
        if kind == FT_CONNECTION_CLOSE or kind == FT_APPLICATION_CLOSE:
            on_peer_close(conn, frame, level)
        return 0
    if level != LEVEL_1RTT and check_level(conn, level, kind) < 0:
        return -1
    if kind == FT_STREAM:
        rc = got_stream(&conn.streams.table, frame.id, frame.offset, frame.data, frame.len, frame.fin)
        return conn.fail(rc, conn.streams.table.reason, 0) if rc else 0
    if kind == FT_ACK or kind == FT_ACK_ECN:
        if level == LEVEL_1RTT:
            other = find_path(conn, 0)      # plain ACK always means path 0
            if other == NULL:
                return 0
            return on_ack(conn, other, &other.recovery.space, level, frame, other != path)
        return on_ack(conn, path, space, level, frame, False)
    if kind == FT_PATH_ACK or kind == FT_PATH_ACK_ECN:
        if not conn.agreed.multipath:
            return conn.fail(PROTOCOL_VIOLATION, b"received PATH_ACK without multipath", 0)
        other = find_path(conn, <uint32_t>frame.path)
        if other == NULL:
            if was_abandoned(conn, <uint32_t>frame.path):
                return 0
            return conn.fail(PROTOCOL_VIOLATION, b"received PATH_ACK with path ID never used", 0)
        return on_ack(conn, other, &other.recovery.space, level, frame, other != path)
    if kind == FT_PING:
        return 0
    if kind == FT_DATAGRAM:
        return on_datagram(conn, frame)
    if kind == FT_CRYPTO:
        return on_crypto(conn, level, frame)
    if kind == FT_CONNECTION_CLOSE or kind == FT_APPLICATION_CLOSE:
        on_peer_close(conn, frame, level)
        return 0
    return control_frame(conn, path, level, frame, src, dst)


cdef int check_level(Connection conn, int level, uint64_t kind) noexcept nogil:
    """RFC 9000 §12.5: what packets before 1-RTT may carry."""
    if level == LEVEL_INITIAL or level == LEVEL_HANDSHAKE:
        if not (kind == FT_PING or kind == FT_CRYPTO or kind == FT_ACK or kind == FT_ACK_ECN or kind == FT_CONNECTION_CLOSE):
            return conn.fail(PROTOCOL_VIOLATION, b"illegal frame type in handshake", kind)
    elif (kind == FT_CRYPTO or kind == FT_ACK or kind == FT_ACK_ECN or kind == FT_HANDSHAKE_DONE or kind == FT_NEW_TOKEN
            or kind == FT_PATH_RESPONSE or kind == FT_RETIRE_CONNECTION_ID
            or kind == FT_PATH_ACK or kind == FT_PATH_ACK_ECN or kind >= FT_PATH_ABANDON):
        return conn.fail(PROTOCOL_VIOLATION, b"illegal frame type in 0-RTT", kind)
    return 0


cdef int on_datagram(Connection conn, Frame* frame) noexcept nogil:
    if not conn.cfg.datagrams:
        return conn.fail(PROTOCOL_VIOLATION, b"unexpected DATAGRAM", 0)
    if frame.len > conn.cfg.datagram_rx or frame.len > 65535:
        return conn.fail(PROTOCOL_VIOLATION, b"oversized datagram", 0)
    if queue_empty(&conn.datagrams.rx):
        conn.happened(W_DATAGRAM)
    queue_push(&conn.datagrams.rx, frame.data, <uint32_t>frame.len, True)
    return 0


cdef int on_crypto(Connection conn, int level, Frame* frame) noexcept nogil:
    cdef RecvBuf* rx = crypto_in(&conn.handshake, level)
    if rx == NULL:
        return 0
    if frame.offset + frame.len > rx.read + conn.cfg.crypto_buffer:
        return conn.fail(CRYPTO_BUFFER_EXCEEDED, b"", 0)
    if recvbuf_insert(rx, frame.offset, frame.data, frame.len) < 0:
        return conn.fail(INTERNAL_ERROR, b"too many gaps in CRYPTO data", 0)
    return 0


cdef int control_frame(Connection conn, Path* path, int level, Frame* frame, const UdpAddr* src,
                       const UdpAddr* dst) noexcept nogil:
    """Everything that is not on the fast paths: one arm for each type, which compiles to a switch."""
    cdef uint64_t kind = frame.type
    cdef int rc = 0
    cdef Path* other
    if kind == FT_RESET_STREAM:
        rc = got_reset(&conn.streams.table, frame.id, frame.value, frame.offset)
    elif kind == FT_STOP_SENDING:
        rc = got_stop_sending(&conn.streams.table, frame.id, frame.value)
    elif kind == FT_MAX_DATA:
        got_max_data(&conn.streams.table, frame.value)
    elif kind == FT_MAX_STREAM_DATA:
        rc = got_max_stream_data(&conn.streams.table, frame.id, frame.value)
    elif kind == FT_MAX_STREAMS_BIDI or kind == FT_MAX_STREAMS_UNI:
        got_max_streams(&conn.streams.table, <int>(kind - FT_MAX_STREAMS_BIDI), frame.value)
    elif kind == FT_STREAM_DATA_BLOCKED:
        rc = got_stream_data_blocked(&conn.streams.table, frame.id)
    elif kind == FT_DATA_BLOCKED or kind == FT_STREAMS_BLOCKED_BIDI or kind == FT_STREAMS_BLOCKED_UNI:
        pass
    elif kind == FT_PATH_CHALLENGE:
        on_path_challenge(conn, path, frame.data, src, dst)
    elif kind == FT_PATH_RESPONSE:
        if not on_probe_answered(conn, frame.data, src, dst):
            on_path_response(conn, path, frame.data, src)
    elif kind == FT_NEW_CONNECTION_ID:
        return on_new_id(conn, 0, frame)
    elif kind == FT_RETIRE_CONNECTION_ID:
        return on_retired_id(conn, 0, frame.id)
    elif kind == FT_HANDSHAKE_DONE:
        if not conn.is_client:
            return conn.fail(PROTOCOL_VIOLATION, b"client sent HANDSHAKE_DONE", 0)
        if not conn.handshake.confirmed:
            with gil:
                confirm_handshake(conn)
    elif kind == FT_NEW_TOKEN:
        if not conn.is_client:
            return conn.fail(PROTOCOL_VIOLATION, b"client sent NEW_TOKEN", 0)
        with gil:
            if conn.on_address_token is not None and conn.peer_id is not None:
                conn.on_address_token(conn.peer_id, PyBytes_FromStringAndSize(<char*>frame.data, frame.len))
    elif kind == FT_IMMEDIATE_ACK:
        other = conn.paths.first
        while other != NULL:
            space_ack_now(&other.recovery.space)
            other = other.next
    elif kind == FT_ACK_FREQUENCY:
        return on_ack_frequency(conn, frame)
    elif kind == FT_OBSERVED_ADDR_V4 or kind == FT_OBSERVED_ADDR_V6:
        return on_observed(conn, path, frame)
    elif FT_ADD_ADDRESS_V4 <= kind <= FT_REMOVE_ADDRESS:
        return on_address_frame(conn, frame)
    else:
        if level != LEVEL_1RTT or not conn.agreed.multipath:
            return conn.fail(PROTOCOL_VIOLATION, b"received multipath frame without multipath", 0)
        return multipath_frame(conn, path, frame)
    if rc:
        return conn.fail(rc, conn.streams.table.reason, 0)
    return 0


cdef int on_ack_frequency(Connection conn, Frame* frame) noexcept nogil:
    if <int64_t>frame.id <= conn.acks.seq:
        return 0
    if frame.value2 < 1000:
        return conn.fail(PROTOCOL_VIOLATION, b"requested max ack delay below min_ack_delay", 0)
    acks_follow(&conn.acks, <int64_t>frame.id, frame.value, frame.offset,
                ns_from_us(frame.value2 if frame.value2 < MAX_ACK_DELAY_US else MAX_ACK_DELAY_US))
    return 0


cdef int on_observed(Connection conn, Path* path, Frame* frame) noexcept nogil:
    cdef UdpAddr observed
    if not conn.agreed.receive_observed:
        return conn.fail(PROTOCOL_VIOLATION, b"received OBSERVED_ADDRESS frame when not negotiated", 0)
    if <int64_t>frame.id <= path.observed_seq:
        return 0
    path.observed_seq = <int64_t>frame.id
    memset(&observed, 0, sizeof(UdpAddr))
    memcpy(observed.ip, frame.ip, 16)
    observed.port = frame.port
    if not same_addr(&observed, &path.observed):
        path.observed = observed
        with gil:
            log_path(conn, "observed", path.id, addr_to_tuple(&observed), None, None, None)
    return 0


cdef int multipath_frame(Connection conn, Path* path, Frame* frame) noexcept nogil:
    cdef uint64_t kind = frame.type
    if kind == FT_PATH_NEW_CONNECTION_ID:
        if on_new_id(conn, <uint32_t>frame.path, frame) < 0:
            return -1
        ids_arrived(conn)
        return 0
    if kind == FT_PATH_RETIRE_CONNECTION_ID:
        return on_retired_id(conn, <uint32_t>frame.path, frame.id)
    if kind == FT_PATH_ABANDON:
        return on_path_abandon(conn, frame)
    if kind == FT_PATH_STATUS_BACKUP or kind == FT_PATH_STATUS_AVAILABLE:
        on_path_status(conn, frame, STATUS_BACKUP if kind == FT_PATH_STATUS_BACKUP else STATUS_AVAILABLE)
        return 0
    if kind == FT_MAX_PATH_ID:
        on_max_path_id(conn, frame)
        ids_arrived(conn)
        return 0
    return on_blocked(conn, frame)


cdef void on_peer_close(Connection conn, Frame* frame, int level) noexcept nogil:
    cdef bint app = frame.type == FT_APPLICATION_CLOSE
    with gil:
        text = PyBytes_FromStringAndSize(<char*>frame.data, frame.len)
        reason = CloseReason("application" if app else "transport_peer", frame.value, text, True,
                             None if app or not frame.offset else frame.offset)
        enter_drain(conn, reason, level == LEVEL_1RTT)
