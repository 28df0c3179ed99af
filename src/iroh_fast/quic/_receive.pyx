"""Taking in datagrams: from bytes of the network to packets that authenticate.

Sources: RFC 9000 §5.2, §9, §12, §17, RFC 9001 §5.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy

from iroh_fast._batch cimport UdpAddr
from iroh_fast._packet cimport LongHeader, parse_long_header
from iroh_fast.quic._buffers cimport recvbuf_readable
from iroh_fast.quic._cids cimport was_abandoned
from iroh_fast.quic._closing cimport end_failed
from iroh_fast.quic._codes cimport (
    AEAD_LIMIT_REACHED, INTERNAL_ERROR, KEY_UPDATE_ERROR, MIN_DATAGRAM, PROTOCOL_VIOLATION, ST_CLOSING, ST_DRAINING,
    ST_ESTABLISHED, ST_HANDSHAKE)
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._frames cimport read_frames
from iroh_fast.quic._handshake cimport discard_keys_later, on_retry, on_version_negotiation, phase_changed, tls_feed
from iroh_fast.quic._keys cimport (
    FOLLOW_UPDATED, KEYS_LIMIT, KEYS_MISUSED, LEVEL_0RTT, LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, Opened,
    keys_can_open, keys_follow, keys_open, keys_phase_news, keys_unmask)
from iroh_fast.quic._levels cimport Level, drop_level
from iroh_fast.quic._loss cimport discard_oldest, drop_space
from iroh_fast.quic._path_table cimport add_path, addr_bytes, challenge_path, find_path, path_established
from iroh_fast.quic._paths cimport CID_LEN, MAX_DRAINING, Path, ip_known, same_addr, same_ip
from iroh_fast.quic._recovery cimport PnSpace, space_is_duplicate, space_mark_received, space_on_processed
from iroh_fast.quic._timers cimport TIMER_KEYS, timer_is_set
from iroh_fast.quic._trace cimport log_packet
from iroh_fast.quic._validation cimport address_received, migrate

cdef enum:
    MAX_EARLY_DATAGRAMS = 10      # 1-RTT datagrams kept until the keys exist


cdef void receive_datagram(QuicConnection conn, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst,
                           int ecn, int64_t now, uint32_t path_id, bint routed) noexcept:
    """Process one datagram, in place. `path_id` is what its first destination id stands for."""
    cdef Path* path
    cdef size_t used, total = n
    cdef const uint8_t* first = data
    conn.now = now
    if conn.state >= ST_DRAINING:
        return
    if conn.n_draining > MAX_DRAINING:
        discard_oldest(conn)
    path = find_path(conn, path_id)
    if path != NULL and same_addr(&path.r.remote, src):
        path.r.received += n
        path.stats.rx_datagrams += 1
        path.stats.rx_bytes += n
    while n > 0 and conn.err == 0 and conn.state < ST_DRAINING:
        if data != first and not same_destination(first, data, n):
            break
        if not data[0] & 0x80:
            if keys_can_open(&conn.keys, LEVEL_1RTT):
                receive_short(conn, data, n, src, dst, ecn, path_id)
            elif conn.state == ST_HANDSHAKE and path_id == 0:
                if conn.early_datagrams is None:
                    conn.early_datagrams = []
                if len(conn.early_datagrams) < MAX_EARLY_DATAGRAMS:
                    conn.early_datagrams.append((
                        PyBytes_FromStringAndSize(<char*>data, n), addr_bytes(src), addr_bytes(dst), ecn))
            break
        if path_id != 0:
            # INTEROP: iroh closes on long headers for other paths; a stale coalesced packet is no reason to.
            break
        if receive_long(conn, data, n, src, dst, ecn, total, &used) < 0:
            break
        data += used
        n -= used
    if conn.early_datagrams is not None and conn.handshake_done and conn.err == 0:
        replay_early(conn)
    if recvbuf_readable(&conn.data_crypto_rx) and conn.err == 0 and conn.state < ST_CLOSING:
        tls_feed(conn, LEVEL_1RTT)
    if conn.failed:
        end_failed(conn)


cdef bint same_destination(const uint8_t* first, const uint8_t* data, size_t n) noexcept nogil:
    """Whether a coalesced packet is for us like the long one before it (RFC 9000 §12.2), and a packet at all (§17)."""
    cdef uint8_t len = first[5]
    if not data[0] & 0x40:
        return False
    if data[0] & 0x80:
        return n > <size_t>6 + len and data[5] == len and memcmp(data + 6, first + 6, len) == 0
    return len == CID_LEN and n > 1 + CID_LEN and memcmp(data + 1, first + 6, CID_LEN) == 0


cdef object replay_early(QuicConnection conn):
    """Process 1-RTT datagrams that arrived before their keys."""
    cdef list kept = conn.early_datagrams
    cdef bytes d, s, t
    cdef UdpAddr src, dst
    cdef bytearray copy
    conn.early_datagrams = None
    if kept is None:
        return
    for d, s, t, ecn in kept:
        if conn.err or conn.state >= ST_CLOSING:
            return
        copy = bytearray(d)
        memcpy(&src, PyBytes_AS_STRING(s), sizeof(UdpAddr))
        memcpy(&dst, PyBytes_AS_STRING(t), sizeof(UdpAddr))
        receive_short(conn, <uint8_t*><char*>copy, len(copy), &src, &dst, ecn, 0)


cdef int receive_long(QuicConnection conn, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                      size_t total, size_t* used) noexcept:
    """One long-header packet. 0 with its length in `used`, or -1 to drop the rest of the datagram."""
    cdef LongHeader header
    cdef Level* stage
    cdef PnSpace* space
    cdef Path* path = find_path(conn, 0)
    cdef Opened packet
    cdef uint64_t pn
    cdef int level
    cdef int64_t before
    cdef bint eliciting = False, probing = True, retried
    if path == NULL or parse_long_header(data, n, &header) < 0:
        return -1
    used[0] = header.packet_len
    if header.type == -1:
        if conn.is_client and header.version == 0:
            on_version_negotiation(conn, data, n, &header)
        return -1
    if header.type == 3:
        if conn.is_client:
            retried = conn.used_retry
            on_retry(conn, data, n, header.scid, header.scid_len, header.token, header.token_len)
            if conn.used_retry and not retried:
                # The token is for the address this came from: the other candidates would refuse it.
                path.r.remote = src[0]
                conn.n_dial = 0
        return -1
    if header.type == 1:
        if conn.is_client:
            return 0
        level = LEVEL_0RTT
        space = &path.sp
    else:
        level = LEVEL_INITIAL if header.type == 0 else LEVEL_HANDSHAKE
        stage = conn.initial if level == LEVEL_INITIAL else conn.handshake
        if not stage.live:
            return 0
        space = &stage.sp
    if not keys_can_open(&conn.keys, level):
        return 0
    if level == LEVEL_INITIAL and (header.token_len if conn.is_client else total < MIN_DATAGRAM):
        # RFC 9000 §17.2.2, §14.1: servers send no tokens, clients pad.
        return 0
    # Once known, the peer's handshake id does not change (RFC 9000 §7.2).
    if conn.server_scid_known and level != LEVEL_0RTT and (
            header.scid_len != conn.dcid0_len or memcmp(header.scid, conn.dcid0, header.scid_len) != 0):
        return 0
    if keys_unmask(&conn.keys, level, data, header.packet_len, header.pn_offset, <uint64_t>(space.received.largest + 1), &packet) < 0:
        return 0
    pn = packet.pn
    if space_is_duplicate(space, pn):
        return 0
    if keys_open(&conn.keys, level, 0, data, header.packet_len, header.pn_offset, &packet) < 0:
        return 0
    if data[0] & 0x0c:
        if conn.got_first_packet:
            conn.fail(PROTOCOL_VIOLATION, b"reserved bits set", 0)
        return -1
    # --- authenticated
    if conn.qlog is not None:
        log_packet(conn, False, level, 0, pn, header.packet_len, packet.payload, packet.size)
    if level == LEVEL_0RTT and keys_can_open(&conn.keys, LEVEL_1RTT) and not timer_is_set(&conn.timers, TIMER_KEYS):
        discard_keys_later(conn)
    conn.got_first_packet = True
    if not conn.server_scid_known and level != LEVEL_0RTT:
        conn.server_scid_known = True
        memcpy(conn.dcid0, header.scid, header.scid_len)
        conn.dcid0_len = header.scid_len
        if path.cids.n_remote == 0 or (path.cids.n_remote == 1 and path.cids.remote[0].seq == 0):
            path.cids.n_remote = 1
            path.cids.active = 0
            path.cids.remote[0].seq = 0
            path.cids.remote[0].len = header.scid_len
            memcpy(path.cids.remote[0].cid, header.scid, header.scid_len)
            path.cids.remote[0].has_token = False
    if not same_addr(src, &path.r.remote):
        if conn.is_client and not conn.migration_frozen:
            # iroh's handshake migration: until a Handshake packet proves the address, follow the server.
            path.r.remote = src[0]
            path.r.received += header.packet_len
    if ip_known(dst):
        path.r.local = dst[0]
    if level == LEVEL_HANDSHAKE:
        conn.migration_frozen = True
        if conn.is_client:
            conn.n_dial = 0
        else:
            path.r.validated = True
            conn.peer_validated_us = True
            if conn.initial.live:
                drop_space(conn, path, &conn.initial.sp)
                drop_level(conn, LEVEL_INITIAL)
    before = space.received.largest
    space_mark_received(space, pn, conn.now)
    count_ecn(conn, space, ecn)
    path.last_rx = path.idle_from = conn.now
    path.permit_idle_reset = True
    read_frames(conn, path, space, level, packet.payload, packet.payload + packet.size, src, dst, &eliciting, &probing)
    if conn.err or conn.state >= ST_DRAINING:
        return -1
    stage = conn.initial if level == LEVEL_INITIAL else conn.handshake
    if level == LEVEL_0RTT or stage.live:
        space_on_processed(space, pn, eliciting, ecn == 3, conn.now, conn.max_ack_delay if level == LEVEL_0RTT else 0,
                           1 if level == LEVEL_0RTT else 0, 1, before)
        if eliciting and level != LEVEL_0RTT:
            space.ack_now = True
    if level != LEVEL_0RTT and stage.live and recvbuf_readable(&stage.rx) and conn.state < ST_CLOSING:
        if tls_feed(conn, level) < 0:
            return -1
    return 0


cdef void count_ecn(QuicConnection conn, PnSpace* space, int ecn) noexcept nogil:
    if ecn:
        conn.saw_ecn = True
        if ecn == 2:
            space.ect0 += 1
        elif ecn == 1:
            space.ect1 += 1
        else:
            space.ce += 1


cdef void receive_short(QuicConnection conn, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                        uint32_t path_id) noexcept nogil:  # hot
    """One 1-RTT packet."""
    cdef Path* path = find_path(conn, path_id)
    cdef Opened packet
    cdef uint64_t pn
    cdef int rc
    cdef bint eliciting = False, probing = True
    cdef int64_t largest = -1, before
    if path == NULL:
        # Only the client opens paths, and only after the handshake.
        if (conn.is_client or not conn.multipath or path_id > conn.local_max_path or was_abandoned(conn, path_id)
                or conn.state != ST_ESTABLISHED):
            return
    else:
        largest = path.sp.received.largest
    if keys_unmask(&conn.keys, LEVEL_1RTT, data, n, 1 + CID_LEN, <uint64_t>(largest + 1), &packet) < 0:
        return
    pn = packet.pn
    if path != NULL and space_is_duplicate(&path.sp, pn):
        return
    rc = keys_open(&conn.keys, LEVEL_1RTT, path_id, data, n, 1 + CID_LEN, &packet)
    if rc < 0:
        if rc == KEYS_LIMIT:
            conn.fail(AEAD_LIMIT_REACHED, b"integrity limit reached", 0)
        return
    if data[0] & 0x18:
        conn.fail(PROTOCOL_VIOLATION, b"reserved bits set", 0)
        return
    if conn.qlog is not None:
        log_packet(conn, False, LEVEL_1RTT, path_id, pn, n, packet.payload, packet.size)
    if keys_phase_news(&conn.keys, &packet) and follow_keys(conn, &packet, path_id, largest) < 0:
        return
    if conn.state == ST_HANDSHAKE and not conn.handshake_done:
        return
    if conn.is_client:
        conn.peer_validated_us = True
    if not conn.is_client and keys_can_open(&conn.keys, LEVEL_0RTT) and not timer_is_set(&conn.timers, TIMER_KEYS):
        discard_keys_later(conn)
    if path == NULL:
        path = add_path(conn, path_id, src, dst)
        if path == NULL:
            conn.fail(INTERNAL_ERROR, b"out of memory", 0)
            return
        path.r.received = n
        path.stats.rx_datagrams += 1
        path.stats.rx_bytes += n
        challenge_path(conn, path)
        if path.r.validated:
            path_established(conn, path)
    before = path.sp.received.largest
    if conn.spinning and <int64_t>pn > before:
        path.spin = ((data[0] & 0x20) != 0) != conn.is_client
    space_mark_received(&path.sp, pn, conn.now)
    count_ecn(conn, &path.sp, ecn)
    path.last_rx = path.idle_from = conn.now
    path.permit_idle_reset = True
    if not same_addr(src, &path.r.remote):
        address_received(conn, src, n)
    if read_frames(conn, path, &path.sp, LEVEL_1RTT, packet.payload, packet.payload + packet.size, src, dst, &eliciting, &probing) < 0:
        return
    space_on_processed(&path.sp, pn, eliciting, ecn == 3, conn.now, conn.max_ack_delay, conn.ack_threshold,
                       conn.ack_reorder, before)
    if path.abandoned and eliciting:
        path.sp.ack_now = True
    if not same_addr(src, &path.r.remote):
        if (not conn.is_client and conn.handshake_confirmed and <int64_t>pn > before
                and (not probing or (conn.multipath and not conn.nat)) and conn.state == ST_ESTABLISHED):
            migrate(conn, path, src, dst)
    elif ip_known(dst) and not same_ip(&path.r.local, dst) and (
            not ip_known(&path.r.local) or (not probing and <int64_t>pn > before)):
        # Probes of an address that we left must not bring us back to it.
        path.r.local = dst[0]


cdef int follow_keys(QuicConnection conn, const Opened* packet, uint32_t path_id, int64_t largest) noexcept nogil:
    """The packet came in another key phase, or is the first one in ours; -1 when the connection failed."""
    cdef int rc = keys_follow(&conn.keys, packet, path_id, largest, conn.now)
    if rc == KEYS_MISUSED:
        return conn.fail(KEY_UPDATE_ERROR, b"", 0)
    if rc < 0:
        return conn.fail(INTERNAL_ERROR, b"key update failed", 0)
    if rc == FOLLOW_UPDATED:
        phase_changed(conn, True)
    discard_keys_later(conn)
    return 0
