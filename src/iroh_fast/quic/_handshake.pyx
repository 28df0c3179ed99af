"""TLS and keys of a connection: from the first Initial to a confirmed handshake.

Plain functions over the connection. Sources: RFC 9001, RFC 9000 §7, §17.2.5.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._crypto cimport constant_time_equal, retry_integrity_tag
from iroh_fast.quic._cids cimport issue_ids, issue_path_ids, watch_reset
from iroh_fast.quic._codes cimport (
    INTERNAL_ERROR, PROTOCOL_VIOLATION, ST_ESTABLISHED, TRANSPORT_PARAMETER_ERROR, W_ALPN, W_CONFIRMED, W_HANDSHAKE)
from iroh_fast.quic._config cimport Config
from iroh_fast.quic._control_queue cimport queue_control
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._handshake_state cimport (
    HandshakeId, crypto_in, crypto_out, handshake_release, handshake_validated, level_begin)
from iroh_fast.quic._keys cimport LEVEL_0RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_can_seal, keys_drop, keys_install, keys_may_update, keys_update
from iroh_fast.quic._ledger cimport CONTROL_ACK_FREQUENCY, CONTROL_HANDSHAKE_DONE
from iroh_fast.quic._loss cimport drop_space, forget_sent
from iroh_fast.quic._mtud cimport mtud_defer, mtud_peer_limit
from iroh_fast.quic._parameters cimport (
    HAS_ADDRESS_DISCOVERY, HAS_INITIAL_SCID, HAS_MAX_PATH_ID, HAS_MIN_ACK_DELAY, HAS_NAT_TRAVERSAL, HAS_ORIGINAL_DCID,
    HAS_RESET_TOKEN, HAS_RETRY_SCID, PARAMETERS_BYTES, PARAMETERS_MALFORMED, PARAMETERS_NOISE, ParameterCid, Parameters,
    cid_equals, cid_set, parameters_decode, parameters_encode, parameters_honour, parameters_init, parameters_remember)
from iroh_fast.quic._path_queries cimport find_path, pto_max
from iroh_fast.quic._path_table cimport path_established, start_multipath
from iroh_fast.quic._paths cimport CID_LEN, Path, REMOTE_CIDS, path_report, remote_cid_token
from iroh_fast.quic._receive_buffer cimport RecvBuf, recvbuf_readable, recvbuf_take
from iroh_fast.quic._send_buffer cimport SendBuf, sendbuf_write_copy
from iroh_fast.quic._stream_frames cimport got_peer_limits
from iroh_fast.quic._stream_table cimport table_reject_0rtt
from iroh_fast.quic._time cimport MS, ns_from_ms
from iroh_fast.quic._timers cimport TIMER_KEYS, timer_set
from iroh_fast.quic._trace cimport log_key_discarded

import logging

from iroh_fast.errors import CloseReason
from iroh_fast.quic.tls.alerts import TlsAlert

logger = logging.getLogger("iroh_fast.quic")

cdef enum:
    MTU_SEARCH_AFTER_MS = 100     # after the handshake, where no data hurries it


cdef bint may_update_keys(Connection conn) noexcept nogil:
    """RFC 9001 §6.1: the handshake is confirmed and the peer has seen the present phase."""
    return conn.handshake.confirmed and keys_may_update(&conn.keys)


cdef int update_keys(Connection conn) noexcept nogil:
    """Begin the next key phase; -1 when the connection failed."""
    if keys_update(&conn.keys, conn.now) < 0:
        return conn.fail(INTERNAL_ERROR, b"key update failed", 0)
    phase_changed(conn, False)
    return 0


cdef void phase_changed(Connection conn, bint remote) noexcept nogil:
    if conn.qlog is not None:
        with gil:
            conn.qlog.key_phase(conn.now, remote)


cdef void discard_keys_later(Connection conn) noexcept nogil:
    """RFC 9001 §4.9.3, §6.5: old keys stay for packets that are still under way."""
    timer_set(&conn.timers, TIMER_KEYS, conn.now + 3 * pto_max(conn))


cdef int tls_feed(Connection conn, int level) noexcept:
    """Hand received CRYPTO bytes to TLS and act on what comes out. -1 when the connection failed."""
    cdef RecvBuf* rx
    cdef bytes data
    try:
        while True:
            rx = crypto_in(&conn.handshake, level)
            if rx == NULL or not recvbuf_readable(rx):
                return 0
            data = recvbuf_take(rx, 65536)
            conn.tls.receive(level, data)
            tls_drain(conn)
            if conn.failure.code:
                return -1
    except TlsAlert as alert:
        # The alert may come with output (nothing but the close follows).
        conn.close_text = alert.reason
        return conn.fail(<uint64_t>alert.code, NULL, 0)
    except Exception:
        logger.exception("connection %d: TLS failed", conn.stable_id)
        conn.close_text = "internal error"
        return conn.fail(INTERNAL_ERROR, NULL, 0)


cdef void tls_drain(Connection conn):
    cdef object tls = conn.tls
    cdef SendBuf* tx
    cdef bytes data
    for write, level, suite, secret in tls.take_secrets():
        install_keys(conn, write, level, suite, secret)
    for level, data in tls.take_output():
        tx = crypto_out(&conn.handshake, level)
        if tx != NULL:
            sendbuf_write_copy(tx, <const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
    if conn.handshake.peer_parameters == NULL and not conn.handshake.confirmed and tls.peer_transport_parameters is not None:
        if receive_parameters(conn, tls.peer_transport_parameters) < 0:
            return
    if conn.alpn is None and tls.alpn is not None:
        conn.alpn = tls.alpn
        conn.happened(W_ALPN)
    if tls.complete and not conn.handshake.done and not conn.failure.code:
        complete_handshake(conn)


cdef void install_keys(Connection conn, bint write, int level, int suite, bytes secret):
    if (level == LEVEL_HANDSHAKE and not conn.handshake.handshake.live
            and level_begin(&conn.handshake, LEVEL_HANDSHAKE, conn.host.random.word()) < 0):
        conn.fail(INTERNAL_ERROR, b"out of memory", 0)
        return
    if keys_install(&conn.keys, level, write, suite, <const uint8_t*>PyBytes_AS_STRING(secret),
                    <size_t>PyBytes_GET_SIZE(secret)) < 0:
        conn.fail(INTERNAL_ERROR, b"key derivation failed", 0)
        return
    if conn.qlog is not None:
        conn.qlog.key(conn.now, write, level)


cdef int receive_parameters(Connection conn, bytes data) except? -1:
    """Check and adopt the peer's transport parameters (RFC 9000 §7.4); -1 when the connection failed."""
    cdef Parameters* params = <Parameters*>malloc(sizeof(Parameters))
    cdef int result
    if params == NULL:
        return conn.fail(INTERNAL_ERROR, b"out of memory", 0)
    result = parameters_decode(<const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), conn.is_client, params)
    if result < 0 or not right_ids(conn, params):
        free(params)
        conn.close_text = ("malformed" if result == PARAMETERS_MALFORMED else
                           "illegal value" if result < 0 else "CID authentication failure")
        return conn.fail(TRANSPORT_PARAMETER_ERROR, NULL, 0)
    conn.handshake.peer_parameters = params
    if conn.qlog is not None:
        from iroh_fast.quic.parameters import TransportParameters
        conn.qlog.parameters(conn.now, False, TransportParameters.decode(data, from_server=conn.is_client))
    adopt_parameters(conn, params)
    return 0


cdef inline bint names(const ParameterCid* told, const HandshakeId* id) noexcept nogil:
    return cid_equals(told, id.bytes, id.len)


cdef bint right_ids(Connection conn, Parameters* params) noexcept nogil:
    """RFC 9000 §7.3: the parameters name the ids that the handshake's packets had."""
    if params.present & HAS_INITIAL_SCID == 0 or not names(&params.initial_scid, &conn.handshake.theirs):
        return False
    if not conn.is_client:
        return True
    if params.present & HAS_ORIGINAL_DCID == 0 or not names(&params.original_dcid, &conn.handshake.original):
        return False
    if not conn.handshake.retried:
        return params.present & HAS_RETRY_SCID == 0
    return params.present & HAS_RETRY_SCID != 0 and names(&params.retry_scid, &conn.handshake.retry)


cdef void adopt_parameters(Connection conn, Parameters* params):
    cdef Path* path = find_path(conn, 0)
    cdef int64_t idle = ns_from_ms(params.max_idle_timeout_ms)
    cdef bint gives = params.present & HAS_ADDRESS_DISCOVERY != 0 and params.address_discovery != 1
    cdef bint takes = params.present & HAS_ADDRESS_DISCOVERY != 0 and params.address_discovery >= 1
    if conn.is_client and params.present & HAS_RESET_TOKEN != 0 and path != NULL and path.cids.n_remote:
        remote_cid_token(path.cids, params.reset_token)
        watch_reset(conn, path.cids)
    adopt_limits(conn, params)
    conn.agreed.peer_ack_exponent = <int>params.ack_delay_exponent
    conn.agreed.peer_max_ack_delay = ns_from_ms(params.max_ack_delay_ms)
    conn.agreed.peer_cid_limit = params.active_connection_id_limit
    conn.agreed.peer_ack_frequency = params.present & HAS_MIN_ACK_DELAY != 0
    conn.agreed.peer_min_ack_delay_us = params.min_ack_delay_us
    conn.agreed.peer_udp = <uint32_t>(params.max_udp_payload_size if params.max_udp_payload_size < 65527 else 65527)
    if path != NULL:
        mtud_peer_limit(&path.route.mtud, <uint16_t>conn.agreed.peer_udp)
    if idle and (conn.agreed.idle_timeout == 0 or idle < conn.agreed.idle_timeout):
        conn.agreed.idle_timeout = idle
    conn.agreed.send_observed = conn.cfg.observed_send and takes
    conn.agreed.receive_observed = conn.cfg.observed_receive and gives
    if conn.agreed.send_observed and path != NULL:
        path_report(path)


cdef void adopt_limits(Connection conn, Parameters* params):
    got_peer_limits(&conn.streams.table, params.initial_max_data, params.initial_max_stream_data_bidi_local,
                                 params.initial_max_stream_data_bidi_remote, params.initial_max_stream_data_uni,
                                 params.initial_max_streams_bidi, params.initial_max_streams_uni)
    conn.agreed.peer_datagram = params.max_datagram_frame_size


cdef void complete_handshake(Connection conn):
    """The TLS handshake is done on our side."""
    cdef Path* path = find_path(conn, 0)
    cdef object tls = conn.tls
    if conn.handshake.peer_parameters == NULL:
        conn.close_text = "peer misbehaved: MissingQuicTransportParameters"
        conn.fail(0x16d, NULL, 0)
        return
    if conn.is_client and tls.early_data_offered:
        conn.early_data_accepted = bool(tls.early_data_accepted)
        if not conn.early_data_accepted:
            drop_0rtt(conn, path)
        elif conn.handshake.remembered != NULL and not parameters_honour(
                conn.handshake.peer_parameters, conn.handshake.remembered):
            conn.close_text = "0-RTT accepted with incompatible transport parameters"
            conn.fail(PROTOCOL_VIOLATION, NULL, 0)
            return
    elif not conn.is_client:
        conn.early_data_accepted = tls.early_data_accepted
    conn.handshake.done = True
    conn.state = ST_ESTABLISHED
    conn.peer_id = tls.peer_public_key
    if conn.is_client:
        # 0-RTT keys are of no use once 1-RTT keys exist (RFC 9001 §4.9.3).
        if keys_can_seal(&conn.keys, LEVEL_0RTT):
            log_key_discarded(conn, LEVEL_0RTT)
        keys_drop(&conn.keys, LEVEL_0RTT)
    if conn.cfg.max_paths and conn.handshake.peer_parameters.present & HAS_MAX_PATH_ID:
        start_multipath(conn, conn.handshake.peer_parameters.initial_max_path_id)
        if path != NULL:
            path.idle_timeout = conn.cfg.path_idle
        if path != NULL and path.cids.n_remote and path.cids.remote[path.cids.active].len == 0:
            conn.fail(PROTOCOL_VIOLATION, b"multipath must not use zero-length CIDs", 0)
            return
    conn.agreed.nat = conn.agreed.multipath and conn.cfg.max_nat > 0 and conn.handshake.peer_parameters.present & HAS_NAT_TRAVERSAL != 0
    conn.agreed.peer_nat = conn.handshake.peer_parameters.n0_nat_traversal if conn.agreed.nat else 0
    if path != NULL:
        if conn.is_client:
            path.route.validated = True
        # Large packets are for data: a connection that is over before any was sent needs no search.
        mtud_defer(&path.route.mtud, conn.now + MTU_SEARCH_AFTER_MS * MS)
        path_established(conn, path)
    issue_ids(conn, 0)
    issue_path_ids(conn)
    if conn.cfg.ack_frequency and conn.agreed.peer_ack_frequency:
        queue_control(conn, CONTROL_ACK_FREQUENCY, 0, 0, 0)
    if not conn.is_client:
        queue_control(conn, CONTROL_HANDSHAKE_DONE, 0, 0, 0)
        confirm_handshake(conn)
    conn.happened(W_HANDSHAKE)


cdef void drop_0rtt(Connection conn, Path* path):
    """Forget everything sent in 0-RTT packets."""
    if path != NULL:
        forget_sent(path, &path.recovery.space)
    table_reject_0rtt(&conn.streams.table)
    adopt_limits(conn, conn.handshake.peer_parameters)


cdef void confirm_handshake(Connection conn):
    """Both sides have finished the handshake; its state can go."""
    cdef Path* path = find_path(conn, 0)
    conn.handshake.confirmed = True
    handshake_validated(&conn.handshake)
    if path != NULL:
        if conn.handshake.initial.live:
            drop_space(conn, path, &conn.handshake.initial.space)
        if conn.handshake.handshake.live:
            drop_space(conn, path, &conn.handshake.handshake.space)
    if conn.handshake.initial.live:
        log_key_discarded(conn, LEVEL_INITIAL)
    if conn.handshake.handshake.live:
        log_key_discarded(conn, LEVEL_HANDSHAKE)
    handshake_release(&conn.handshake, &conn.keys)
    conn.address_token = None
    conn.tls.release_handshake_state()
    conn.happened(W_CONFIRMED)


cdef int remember_parameters(Connection conn, bytes data) except? -1:
    """Go by the parameters `data` of an earlier connection, for 0-RTT."""
    cdef Parameters* params = <Parameters*>malloc(sizeof(Parameters))
    if params == NULL:
        raise MemoryError
    if parameters_decode(<const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), True, params) < 0:
        free(params)
        raise ValueError("a ticket without usable transport parameters")
    parameters_remember(params)
    conn.handshake.remembered = params
    if conn.qlog is not None:
        from iroh_fast.quic.parameters import TransportParameters
        conn.qlog.restored(conn.now, TransportParameters.decode(data, from_server=True))
    adopt_limits(conn, params)
    return 0


cdef bytes own_parameters(Connection conn, const uint8_t* reset_token):
    """Our transport parameters, encoded; `reset_token`: 16 bytes, of a server."""
    cdef Config* config = conn.cfg
    cdef Parameters params
    cdef uint8_t noise[PARAMETERS_NOISE]
    cdef uint8_t out[PARAMETERS_BYTES]
    parameters_init(&params)
    params.present = HAS_INITIAL_SCID | HAS_MIN_ACK_DELAY
    if not conn.is_client:
        params.present |= HAS_ORIGINAL_DCID | HAS_RESET_TOKEN
        cid_set(&params.original_dcid, conn.handshake.original.bytes, conn.handshake.original.len)
        memcpy(params.reset_token, reset_token, 16)
        if conn.handshake.retried:
            params.present |= HAS_RETRY_SCID
            cid_set(&params.retry_scid, conn.handshake.retry.bytes, conn.handshake.retry.len)
    params.max_idle_timeout_ms = <uint64_t>((config.idle_timeout + MS - 1) // MS)
    params.max_udp_payload_size = 1472 if config.mtu_bound <= 1472 else config.mtu_bound
    params.initial_max_data = config.receive_window
    params.initial_max_stream_data_bidi_local = config.stream_window
    params.initial_max_stream_data_bidi_remote = config.stream_window
    params.initial_max_stream_data_uni = config.stream_window
    params.initial_max_streams_bidi = config.max_bidi
    params.initial_max_streams_uni = config.max_uni
    params.active_connection_id_limit = REMOTE_CIDS
    cid_set(&params.initial_scid, conn.handshake.ours, CID_LEN)
    if config.datagrams:
        params.max_datagram_frame_size = 65535 if config.datagram_rx > 65535 else config.datagram_rx
    params.min_ack_delay_us = 1000
    if config.max_paths:
        params.present |= HAS_MAX_PATH_ID
        params.initial_max_path_id = config.max_paths - 1
        if config.max_nat:
            params.present |= HAS_NAT_TRAVERSAL
            params.n0_nat_traversal = <uint8_t>config.max_nat
    if config.observed_send or config.observed_receive:
        params.present |= HAS_ADDRESS_DISCOVERY
        params.address_discovery = 2 if config.observed_send and config.observed_receive else 0 if config.observed_send else 1
    conn.host.random.fill(noise, PARAMETERS_NOISE)
    return PyBytes_FromStringAndSize(<char*>out, <Py_ssize_t>parameters_encode(&params, noise, out))
