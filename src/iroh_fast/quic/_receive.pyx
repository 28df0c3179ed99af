"""Taking in datagrams: from bytes of the network to packets that authenticate.

Sources: RFC 9000 §5.2, §9, §12, §17, RFC 9001 §5.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._batch cimport UdpAddr
from iroh_fast._packet._headers cimport LongHeader, parse_long_header
from iroh_fast.quic._agreed cimport acks_saw_ecn
from iroh_fast.quic._closing cimport end_failed
from iroh_fast.quic._codes cimport (
    AEAD_LIMIT_REACHED, INTERNAL_ERROR, KEY_UPDATE_ERROR, PROTOCOL_VIOLATION, ST_CLOSING, ST_DRAINING, ST_ESTABLISHED,
    ST_HANDSHAKE)
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._first_flight cimport learn_from_long, long_is_expected, receive_unprotected
from iroh_fast.quic._frames cimport read_frames
from iroh_fast.quic._handshake cimport discard_keys_later, phase_changed, tls_feed
from iroh_fast.quic._handshake_state cimport Stage, handshake_validated, level_at
from iroh_fast.quic._keys cimport (
    FOLLOW_UPDATED, KEYS_LIMIT, KEYS_MISUSED, LEVEL_0RTT, LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, Opened,
    keys_can_open, keys_follow, keys_open, keys_phase_news, keys_unmask)
from iroh_fast.quic._packets cimport space_of
from iroh_fast.quic._path_queries cimport find_path
from iroh_fast.quic._path_table cimport (
    add_path, addr_bytes, challenge_path, limit_draining, may_be_opened, path_established)
from iroh_fast.quic._paths cimport CID_LEN, Path, ip_known, path_heard, path_received, path_spin, same_addr, same_ip
from iroh_fast.quic._receive_buffer cimport recvbuf_readable
from iroh_fast.quic._space cimport (
    PnSpace, space_ack_now, space_count_ecn, space_is_duplicate, space_mark_received, space_on_processed)
from iroh_fast.quic._timers cimport TIMER_KEYS, timer_is_set
from iroh_fast.quic._trace cimport log_packet
from iroh_fast.quic._traversal cimport adopt_proof
from iroh_fast.quic._validation cimport address_received, migrate

cdef enum:
    # 1-RTT datagrams kept until the keys exist: so many, and so many bytes, enough for as many of 1500
    MAX_EARLY_DATAGRAMS = 10
    MAX_EARLY_BYTES = 16384


cdef struct Arrival:              # what came with a datagram
    const UdpAddr* src
    const UdpAddr* dst
    int ecn
    size_t size


cdef void receive_datagram(Connection conn, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst,
                           int ecn, int64_t now, uint32_t path_id, bint routed) noexcept:
    """Process one datagram, in place. `path_id` is what its first destination id stands for."""
    cdef Path* path
    cdef Arrival arrival
    conn.now = now
    if conn.state >= ST_DRAINING:
        return
    limit_draining(conn)
    path = find_path(conn, path_id)
    if path != NULL and same_addr(&path.route.remote, src):
        path_received(path, n)
    arrival.src = src
    arrival.dst = dst
    arrival.ecn = ecn
    arrival.size = n
    receive_packets(conn, data, n, &arrival, path_id)
    if conn.early_datagrams is not None and conn.handshake.done and conn.failure.code == 0:
        replay_early(conn)
    if recvbuf_readable(&conn.handshake.crypto_rx) and conn.failure.code == 0 and conn.state < ST_CLOSING:
        tls_feed(conn, LEVEL_1RTT)
    if conn.failed:
        end_failed(conn)


cdef void receive_packets(Connection conn, uint8_t* data, size_t n, const Arrival* arrival, uint32_t path_id) noexcept:
    """The packets of one datagram (RFC 9000 §12.2)."""
    cdef const uint8_t* first = data
    cdef size_t used
    while n > 0 and conn.failure.code == 0 and conn.state < ST_DRAINING:
        if data != first and not same_destination(first, data, n):
            return
        if not data[0] & 0x80:
            if keys_can_open(&conn.keys, LEVEL_1RTT):
                receive_short(conn, data, n, arrival, path_id)
            elif conn.state == ST_HANDSHAKE and path_id == 0:
                keep_early(conn, data, n, arrival)
            return
        if path_id != 0:
            # INTEROP: iroh closes on long headers for other paths; a stale coalesced packet is no reason to.
            return
        if receive_long(conn, data, n, arrival, &used) < 0:
            return
        data += used
        n -= used


cdef bint same_destination(const uint8_t* first, const uint8_t* data, size_t n) noexcept nogil:
    """Whether a coalesced packet is for us like the long one before it (RFC 9000 §12.2), and a packet at all (§17)."""
    cdef uint8_t len = first[5]
    if not data[0] & 0x40:
        return False
    if data[0] & 0x80:
        return n > <size_t>6 + len and data[5] == len and memcmp(data + 6, first + 6, len) == 0
    return len == CID_LEN and n > 1 + CID_LEN and memcmp(data + 1, first + 6, CID_LEN) == 0


# ---------------------------------------------------------------- 1-RTT packets before their keys
cdef void keep_early(Connection conn, const uint8_t* data, size_t n, const Arrival* arrival) noexcept:
    cdef size_t size = n
    cdef tuple kept
    if conn.early_datagrams is None:
        conn.early_datagrams = []
    for kept in conn.early_datagrams:
        size += <size_t>len(<bytes>kept[0])
    if len(conn.early_datagrams) < MAX_EARLY_DATAGRAMS and size <= MAX_EARLY_BYTES:
        conn.early_datagrams.append((PyBytes_FromStringAndSize(<char*>data, n), addr_bytes(arrival.src),
                                     addr_bytes(arrival.dst), arrival.ecn))


cdef void replay_early(Connection conn) noexcept:
    cdef list kept = conn.early_datagrams
    cdef bytes data, src, dst
    cdef UdpAddr addresses[2]
    cdef Arrival arrival
    cdef bytearray copy
    conn.early_datagrams = None
    for data, src, dst, ecn in kept:
        if conn.failure.code or conn.state >= ST_CLOSING:
            return
        copy = bytearray(data)
        memcpy(&addresses[0], PyBytes_AS_STRING(src), sizeof(UdpAddr))
        memcpy(&addresses[1], PyBytes_AS_STRING(dst), sizeof(UdpAddr))
        arrival.src = &addresses[0]
        arrival.dst = &addresses[1]
        arrival.ecn = ecn
        arrival.size = <size_t>len(copy)
        receive_short(conn, <uint8_t*><char*>copy, arrival.size, &arrival, 0)


# ---------------------------------------------------------------- long headers
cdef int receive_long(Connection conn, uint8_t* data, size_t n, const Arrival* arrival, size_t* used) noexcept:
    """One long-header packet. 0 with its length in `used`, or -1 to drop the rest of the datagram."""
    cdef LongHeader header
    cdef Path* path = find_path(conn, 0)
    cdef PnSpace* space
    cdef Opened packet
    cdef int level, rc
    if path == NULL or parse_long_header(data, n, &header) < 0:
        return -1
    used[0] = header.packet_len
    if header.type == -1 or header.type == 3:
        receive_unprotected(conn, path, data, n, &header, arrival.src)
        return -1
    level = LEVEL_0RTT if header.type == 1 else LEVEL_INITIAL if header.type == 0 else LEVEL_HANDSHAKE
    if not long_is_expected(conn, level, &header, arrival.size):
        return 0
    space = space_of(conn, path, level)
    if keys_unmask(&conn.keys, level, data, header.packet_len, header.pn_offset, <uint64_t>(space.received.largest + 1),
                   &packet) < 0 or space_is_duplicate(space, packet.pn):
        return 0
    rc = keys_open(&conn.keys, level, 0, data, header.packet_len, header.pn_offset, &packet)
    if rc < 0:
        return integrity_limit(conn) if rc == KEYS_LIMIT else 0
    if data[0] & 0x0c:
        # INTEROP: like iroh, a first packet with reserved bits is dropped: anybody can make one.
        return conn.fail(PROTOCOL_VIOLATION, b"reserved bits set", 0) if conn.handshake.heard else -1
    if conn.qlog is not None:
        log_packet(conn, False, level, 0, packet.pn, header.packet_len, packet.payload, packet.size)
    learn_from_long(conn, path, level, &header, arrival.src, arrival.dst)
    return process_long(conn, path, space, level, &packet, arrival)


cdef int process_long(Connection conn, Path* path, PnSpace* space, int level, const Opened* packet,
                      const Arrival* arrival) noexcept:
    """Acknowledge and read an authenticated packet; -1 to drop the rest of the datagram."""
    cdef int64_t before = space.received.largest
    cdef bint eliciting = False, probing = True
    cdef Stage* stage
    note_received(conn, path, space, packet.pn, arrival.ecn)
    read_frames(conn, path, space, level, packet.payload, packet.payload + packet.size, arrival.src, arrival.dst,
                &eliciting, &probing)
    if conn.failure.code or conn.state >= ST_DRAINING:
        return -1
    if level == LEVEL_0RTT:
        space_on_processed(space, packet.pn, eliciting, arrival.ecn == 3, conn.now, conn.acks.max_delay, 1, 1, before)
        return 0
    stage = level_at(&conn.handshake, level)
    if not stage.live:
        return 0
    space_on_processed(space, packet.pn, eliciting, arrival.ecn == 3, conn.now, 0, 0, 1, before)
    if eliciting:
        space_ack_now(space)
    if recvbuf_readable(&stage.rx) and conn.state < ST_CLOSING:
        return tls_feed(conn, level)
    return 0


cdef int integrity_limit(Connection conn) noexcept nogil:
    return conn.fail(AEAD_LIMIT_REACHED, b"integrity limit reached", 0)


cdef inline void note_received(Connection conn, Path* path, PnSpace* space, uint64_t pn, int ecn) noexcept nogil:
    """A packet authenticates: its number, its ECN mark, and that the peer is there."""
    space_mark_received(space, pn, conn.now)
    if ecn:
        acks_saw_ecn(&conn.acks)
        space_count_ecn(space, ecn)
    path_heard(path, conn.now)


# ---------------------------------------------------------------- short headers
cdef void receive_short(Connection conn, uint8_t* data, size_t n, const Arrival* arrival, uint32_t path_id) noexcept nogil:  # hot
    """One 1-RTT packet."""
    cdef Path* path = find_path(conn, path_id)
    cdef Opened packet
    cdef int rc
    cdef int64_t largest = -1
    if path != NULL:
        largest = path.recovery.space.received.largest
    elif not may_be_opened(conn, path_id):
        return
    if keys_unmask(&conn.keys, LEVEL_1RTT, data, n, 1 + CID_LEN, <uint64_t>(largest + 1), &packet) < 0:
        return
    if path != NULL and space_is_duplicate(&path.recovery.space, packet.pn):
        return
    rc = keys_open(&conn.keys, LEVEL_1RTT, path_id, data, n, 1 + CID_LEN, &packet)
    if rc < 0:
        if rc == KEYS_LIMIT:
            integrity_limit(conn)
        return
    if data[0] & 0x18:
        conn.fail(PROTOCOL_VIOLATION, b"reserved bits set", 0)
        return
    if conn.qlog is not None:
        log_packet(conn, False, LEVEL_1RTT, path_id, packet.pn, n, packet.payload, packet.size)
    if keys_phase_news(&conn.keys, &packet) and follow_keys(conn, &packet, path_id, largest) < 0:
        return
    if conn.state == ST_HANDSHAKE and not conn.handshake.done:
        return
    if conn.is_client:
        handshake_validated(&conn.handshake)
    elif keys_can_open(&conn.keys, LEVEL_0RTT) and not timer_is_set(&conn.timers, TIMER_KEYS):
        discard_keys_later(conn)
    if path == NULL:
        path = open_path_of_peer(conn, path_id, n, arrival)
        if path == NULL:
            return
    process_short(conn, path, data[0], n, &packet, arrival)


cdef Path* open_path_of_peer(Connection conn, uint32_t path_id, size_t n, const Arrival* arrival) noexcept nogil:
    cdef Path* path = add_path(conn, path_id, arrival.src, arrival.dst)
    if path == NULL:
        conn.fail(INTERNAL_ERROR, b"out of memory", 0)
        return NULL
    path_received(path, n)
    challenge_path(conn, path)
    if path.route.validated:
        path_established(conn, path)
    else:
        adopt_proof(conn, path)
    return path


cdef void process_short(Connection conn, Path* path, uint8_t first, size_t n, const Opened* packet,
                        const Arrival* arrival) noexcept nogil:  # hot
    """Read an authenticated packet, and learn from the address it came from."""
    cdef int64_t before = path.recovery.space.received.largest
    cdef bint newest = <int64_t>packet.pn > before, moved = not same_addr(arrival.src, &path.route.remote)
    cdef bint eliciting = False, probing = True
    if conn.paths.spinning and newest:
        path_spin(path, ((first & 0x20) != 0) != conn.is_client)
    note_received(conn, path, &path.recovery.space, packet.pn, arrival.ecn)
    if moved:
        address_received(conn, arrival.src, n)
    if read_frames(conn, path, &path.recovery.space, LEVEL_1RTT, packet.payload, packet.payload + packet.size, arrival.src, arrival.dst,
                   &eliciting, &probing) < 0:
        return
    space_on_processed(&path.recovery.space, packet.pn, eliciting, arrival.ecn == 3, conn.now, conn.acks.max_delay, conn.acks.threshold,
                       conn.acks.reorder, before)
    if path.abandoned and eliciting:
        space_ack_now(&path.recovery.space)
    if not same_addr(arrival.src, &path.route.remote):
        if (not conn.is_client and conn.handshake.confirmed and newest
                and (not probing or (conn.agreed.multipath and not conn.agreed.nat)) and conn.state == ST_ESTABLISHED):
            migrate(conn, path, arrival.src, arrival.dst)
    elif ip_known(arrival.dst) and not same_ip(&path.route.local, arrival.dst) and (
            not ip_known(&path.route.local) or (not probing and newest)):
        # Probes of an address that we left must not bring us back to it.
        path.route.local = arrival.dst[0]


cdef int follow_keys(Connection conn, const Opened* packet, uint32_t path_id, int64_t largest) noexcept nogil:
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
