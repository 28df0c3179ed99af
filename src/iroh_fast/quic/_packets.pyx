"""Building packets: header, padding, sealing, header protection, and the record of what was sent.

What goes into a packet is decided in `_transmit` and written by `_write`. Every call that may fail says so; then nothing of
the datagram may leave. Sources: RFC 9000 §12.2, §14 and §17, RFC 9001 §5.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from iroh_fast._crypto cimport TAG_LEN
from iroh_fast._packet._varint cimport pn_length, put_varint
from iroh_fast.quic._codes cimport AEAD_LIMIT_REACHED, INTERNAL_ERROR
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._keys cimport KEYS_LIMIT, LEVEL_0RTT, LEVEL_1RTT, LEVEL_INITIAL, keys_masks, keys_seal
from iroh_fast.quic._paths cimport (
    CID_LEN, MAX_CID_LEN, Path, RemoteCid, path_asked, path_cwnd, path_generation, path_rtt)
from iroh_fast.quic._recovery_state cimport recovery_on_sent
from iroh_fast.quic._sent cimport MAX_QUIET, REC_ELICITING, REC_PHASE, SentRec, frame_recs_free, log_add
from iroh_fast.quic._space cimport PnSpace, space_next_pn, space_return_pn, space_take_pn
from iroh_fast.quic._trace cimport log_packet

cdef enum:
    SHORT_PAD = 22                # INTEROP: iroh pads short packets to the DCID length + 22; so do we
    LEAST_PAYLOAD = 16            # of a short packet: room for a challenge; every frame looks for its own room
    ACK_ROOM = 64
    QUIET_NS = 50000000           # beyond two round trips a peer may take its time, too
    MAX_LONG = 16383              # what two bytes of a long header's Length can say, and more than any such packet needs


cdef int begin_packet(Connection conn, Path* path, int level, uint8_t* at, size_t room, Packet* packet) noexcept nogil:
    """Write a header into `room` bytes. -1 when it does not fit."""
    if path.cids.active < 0:
        return -1
    packet.start = at
    packet.level = level
    memset(&packet.sent, 0, sizeof(SentRec))
    packet.sent.generation = path_generation(path)
    packet.sent.sent_at = conn.now
    if level != LEVEL_1RTT and room > MAX_LONG:
        room = MAX_LONG
    at = short_header(conn, path, at, room, packet) if level == LEVEL_1RTT else long_header(conn, path, at, room, packet)
    if at == NULL:
        return -1
    packet.sent.pn = packet.pn
    packet.pn_at = at
    at += packet.pn_len
    packet.payload = at
    packet.at = at
    packet.end = packet.start + room - TAG_LEN
    return 0


cdef inline uint8_t* short_header(Connection conn, Path* path, uint8_t* at, size_t room, Packet* packet) noexcept nogil:
    """Up to the packet number; NULL when there is no room."""
    cdef RemoteCid* dcid = &path.cids.remote[path.cids.active]
    if room < <size_t>(1 + dcid.len + 4 + TAG_LEN + LEAST_PAYLOAD):
        return NULL
    packet.pn = space_take_pn(&path.recovery.space, conn.host.random)
    # A packet may be overtaken by a window of others: its number must be told from theirs, too (RFC 9000 §17.1).
    packet.pn_len = pn_length(packet.pn + (path_cwnd(path) >> 10), path.recovery.space.largest_acked)
    packet.length_at = NULL
    at[0] = <uint8_t>(0x40 | (0x20 if path.spin else 0) | (4 if conn.keys.phase else 0) | (packet.pn_len - 1))
    memcpy(at + 1, dcid.cid, dcid.len)
    return at + 1 + dcid.len


cdef uint8_t* long_header(Connection conn, Path* path, uint8_t* at, size_t room, Packet* packet) noexcept nogil:
    cdef PnSpace* space = space_of(conn, path, packet.level)
    cdef const uint8_t* token = NULL
    cdef size_t token_len = 0
    cdef uint8_t first = 0xc0 if packet.level == LEVEL_INITIAL else 0xd0 if packet.level == LEVEL_0RTT else 0xe0
    if packet.level == LEVEL_INITIAL and conn.address_token is not None:
        with gil:
            token = <const uint8_t*>PyBytes_AS_STRING(conn.address_token)
            token_len = <size_t>PyBytes_GET_SIZE(conn.address_token)
    if room < 1 + 4 + 2 + MAX_CID_LEN + CID_LEN + 8 + token_len + 2 + 4 + TAG_LEN + ACK_ROOM:
        return NULL
    if packet.level == LEVEL_0RTT:
        packet.pn = space_take_pn(space, conn.host.random)
    else:
        packet.pn = space_next_pn(space)
    packet.pn_len = pn_length(packet.pn, space.largest_acked)
    at[0] = <uint8_t>(first | (packet.pn_len - 1))
    at[1] = at[2] = at[3] = 0         # version 1
    at[4] = 1
    at[5] = conn.handshake.theirs.len
    memcpy(at + 6, conn.handshake.theirs.bytes, conn.handshake.theirs.len)
    at += 6 + conn.handshake.theirs.len
    at[0] = CID_LEN
    memcpy(at + 1, conn.handshake.ours, CID_LEN)
    at += 1 + CID_LEN
    if packet.level == LEVEL_INITIAL:
        at = put_varint(at, token_len)
        if token_len:
            memcpy(at, token, token_len)
            at += token_len
    packet.length_at = at
    return at + 2


cdef void drop_packet(Connection conn, Path* path, Packet* packet) noexcept nogil:
    """The packet stayed empty: its number is free again."""
    space_return_pn(space_of(conn, path, packet.level), packet.pn)


cdef size_t seal_packet(Connection conn, Path* path, Packet* packet) noexcept nogil:
    """Pad to the minimum, encrypt, write the sent record. Header protection is the caller's.

    Packet length; 0 when it must not leave: the connection has failed then.
    """
    cdef size_t n, header = <size_t>(packet.payload - packet.start), total
    cdef int rc
    cdef uint8_t* tmp
    cdef int i
    cdef uint64_t pn = packet.pn
    cdef uint16_t flags = packet.sent.flags
    cdef PnSpace* space = space_of(conn, path, packet.level)
    cdef size_t least = SHORT_PAD - 1 - TAG_LEN if packet.level == LEVEL_1RTT else 4
    # short packets: 1 + dcid + pn + payload + tag >= dcid + 22, and enough for the header protection sample
    n = <size_t>(packet.at - packet.payload)
    if n + packet.pn_len < least:
        pad_packet(packet, least - n - packet.pn_len)
        n = <size_t>(packet.at - packet.payload)
    total = header + n + TAG_LEN
    if packet.length_at != NULL:
        packet.length_at[0] = <uint8_t>(0x40 | ((packet.pn_len + n + TAG_LEN) >> 8))
        packet.length_at[1] = <uint8_t>(packet.pn_len + n + TAG_LEN)
    for i in range(packet.pn_len):
        packet.pn_at[packet.pn_len - 1 - i] = <uint8_t>pn
        pn >>= 8
    if conn.qlog is not None:
        log_packet(conn, True, packet.level, path.id, packet.pn, total, packet.payload, n)
    rc = keys_seal(&conn.keys, packet.level, path.id, packet.pn, packet.start, header, packet.payload, n)
    if rc < 0:
        frame_recs_free(packet.sent.frames)
        if rc == KEYS_LIMIT:
            conn.fail(AEAD_LIMIT_REACHED, b"confidentiality limit reached", 0)
        else:
            conn.fail(INTERNAL_ERROR, b"packet protection failed", 0)
        return 0
    if flags & REC_ELICITING:
        if packet.level == LEVEL_1RTT and conn.keys.phase:
            flags |= REC_PHASE
        if recovery_on_sent(&path.route.flight, space, &packet.sent, <uint16_t>total, flags, conn.now) < 0:
            frame_recs_free(packet.sent.frames)
            conn.fail(INTERNAL_ERROR, b"out of memory", 0)
            return 0
        path_asked(path, conn.now)
    else:
        frame_recs_free(packet.sent.frames)
        log_add(&space.quiet, packet.pn, conn.now, conn.now - 2 * path_rtt(path) - QUIET_NS, MAX_QUIET)
    return total


cdef int protect_headers(Connection conn, Packet* packets, int n) noexcept nogil:
    """Header protection of n packets of one level. -1: none of them may leave, the connection has failed."""
    cdef const uint8_t* samples[MAX_BATCH]
    cdef uint8_t masks[MAX_BATCH * 16]
    cdef int i, j
    cdef uint8_t* m
    for i in range(n):
        samples[i] = packets[i].pn_at + 4
    if keys_masks(&conn.keys, packets[0].level, samples, n, masks) < 0:
        return conn.fail(INTERNAL_ERROR, b"header protection failed", 0)
    for i in range(n):
        m = masks + 16 * i
        packets[i].start[0] ^= m[0] & (0x1f if packets[i].level == LEVEL_1RTT else 0x0f)
        for j in range(packets[i].pn_len):
            packets[i].pn_at[j] ^= m[1 + j]
    return 0


cdef size_t seal_one(Connection conn, Path* path, Packet* packet) noexcept nogil:
    """`seal_packet` and `protect_headers` of a packet that is the only one of its level. Its length; 0: nothing may leave."""
    cdef size_t size = seal_packet(conn, path, packet)
    return 0 if size == 0 or protect_headers(conn, packet, 1) < 0 else size


cdef size_t seal_coalesced(Connection conn, Path* path, Packet* packets, int n) noexcept nogil:
    """The packets of one datagram, each of another level. Their length; 0: nothing may leave."""
    cdef size_t size, total = 0
    cdef int i
    for i in range(n):
        size = seal_one(conn, path, &packets[i])
        if size == 0:
            return 0
        total += size
    return total
