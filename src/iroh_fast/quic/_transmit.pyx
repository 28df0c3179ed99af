"""Building datagrams of a connection: what to send, on which path, in which order.

Nothing here touches a Python object. Sources: RFC 9000 §12-§14 and §19,
RFC 9001 §5, RFC 9002 §7, the multipath draft.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from iroh_fast._batch cimport UdpAddr
from iroh_fast._crypto cimport TAG_LEN
from iroh_fast._packet cimport *
from iroh_fast.quic._buffers cimport SendBuf, sendbuf_has_pending, sendbuf_poll, sendbuf_copy
from iroh_fast.quic._congestion cimport (
    MTUD_COMPLETE, cc_on_mtu, mtud_on_probe_sent, mtud_poll, pacer_delay, pacer_on_sent, rtt_get, rtt_pto_base)
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._state cimport *
from iroh_fast.quic._counters cimport *
from iroh_fast.quic._datagrams cimport queue_empty, queue_peek, queue_pop
from iroh_fast.quic._keys cimport (
    KEYS_LIMIT, LEVEL_0RTT, LEVEL_1RTT, LEVEL_HANDSHAKE, LEVEL_INITIAL, keys_can_seal, keys_masks, keys_seal,
    keys_update_wanted)
from iroh_fast.quic._paths cimport *
from iroh_fast.quic._recovery cimport *

cdef enum:
    MAX_BATCH = 64
    MIN_COALESCE = 87             # room below which no further packet is started
    SHORT_PAD = 22                # INTEROP: iroh pads short packets to the DCID length + 22; so do we
    GSO_PAD = 32                  # a datagram shorter than the segment by at most this is padded up to it
    ACK_ROOM = 64

cdef int64_t MS = 1000000


# One packet while it is being written.
cdef struct Packet:
    uint8_t* start
    uint8_t* pn_at
    uint8_t* payload
    uint8_t* p                    # write position
    uint8_t* end                  # payload may grow to here (the tag follows)
    uint8_t* length_at            # Length field of long headers, NULL for short ones
    uint64_t pn
    int pn_len
    int level
    bint ack_only
    SentRec rec


cdef inline PnSpace* space_of(QuicConnection c, Path* p, int level) noexcept nogil:
    if level == LEVEL_INITIAL:
        return &c.initial.sp
    if level == LEVEL_HANDSHAKE:
        return &c.handshake.sp
    return &p.sp


cdef int begin(QuicConnection c, Path* p, int level, uint8_t* at, size_t room, Packet* k) noexcept nogil:
    """Write a header into `room` bytes. -1 when it does not fit."""
    cdef PnSpace* sp = space_of(c, p, level)
    cdef RemoteCid* dcid
    cdef const uint8_t* token = NULL
    cdef size_t token_len = 0
    cdef uint64_t pn
    cdef uint8_t first
    if p.cids.active < 0:
        return -1
    dcid = &p.cids.remote[p.cids.active]
    k.start = at
    k.level = level
    k.ack_only = True
    memset(&k.rec, 0, sizeof(SentRec))
    k.rec.generation = p.r.generation
    k.rec.sent_at = c.now
    if level == LEVEL_1RTT:
        if room < <size_t>(1 + dcid.len + 4 + TAG_LEN + ACK_ROOM):
            return -1
        pn = space_take_pn(sp, c.host.random)
        k.pn = pn
        k.pn_len = pn_length(pn, sp.largest_acked)
        at[0] = <uint8_t>(0x40 | (0x20 if p.spin else 0) | (4 if c.keys.phase else 0) | (k.pn_len - 1))
        at += 1
        memcpy(at, dcid.cid, dcid.len)
        at += dcid.len
        k.length_at = NULL
    else:
        if level == LEVEL_INITIAL and c.address_token is not None:
            with gil:
                token = <const uint8_t*>PyBytes_AS_STRING(c.address_token)
                token_len = <size_t>PyBytes_GET_SIZE(c.address_token)
        if room < 1 + 4 + 2 + MAX_CID_LEN + CID_LEN + 8 + token_len + 2 + 4 + TAG_LEN + ACK_ROOM:
            return -1
        pn = space_take_pn(sp, c.host.random) if level == LEVEL_0RTT else sp.next_pn
        if level != LEVEL_0RTT:
            sp.next_pn += 1
        k.pn = pn
        k.pn_len = pn_length(pn, sp.largest_acked)
        first = 0xc0 if level == LEVEL_INITIAL else 0xd0 if level == LEVEL_0RTT else 0xe0
        at[0] = <uint8_t>(first | (k.pn_len - 1))
        at[1] = 0
        at[2] = 0
        at[3] = 0
        at[4] = 1
        at[5] = c.dcid0_len
        memcpy(at + 6, c.dcid0, c.dcid0_len)
        at += 6 + c.dcid0_len
        at[0] = CID_LEN
        memcpy(at + 1, c.scid, CID_LEN)
        at += 1 + CID_LEN
        if level == LEVEL_INITIAL:
            at = put_varint(at, token_len)
            if token_len:
                memcpy(at, token, token_len)
                at += token_len
        k.length_at = at
        at += 2
    k.pn_at = at
    at += k.pn_len
    k.payload = at
    k.p = at
    k.end = k.start + room - TAG_LEN
    return 0


cdef void unbegin(QuicConnection c, Path* p, Packet* k) noexcept nogil:
    """The packet stayed empty: its number is free again."""
    space_of(c, p, k.level).next_pn = k.pn


cdef inline void pad(Packet* k, size_t n) noexcept nogil:
    memset(k.p, 0, n)
    k.p += n


cdef size_t finish(QuicConnection c, Path* p, Packet* k) noexcept nogil:
    """Pad to the minimum, encrypt, write the sent record. Header protection is the caller's.

    Packet length; 0 when it must not leave: the connection has failed then.
    """
    cdef size_t n, header = <size_t>(k.payload - k.start), total
    cdef int rc
    cdef uint8_t* tmp
    cdef int i
    cdef uint64_t pn = k.pn
    cdef PnSpace* sp = space_of(c, p, k.level)
    cdef size_t least = SHORT_PAD - 1 - TAG_LEN if k.level == LEVEL_1RTT else 4
    # short packets: 1 + dcid + pn + payload + tag >= dcid + 22, and enough for the header protection sample
    n = <size_t>(k.p - k.payload)
    if n + k.pn_len < least:
        pad(k, least - n - k.pn_len)
        n = <size_t>(k.p - k.payload)
    total = header + n + TAG_LEN
    if k.length_at != NULL:
        k.length_at[0] = <uint8_t>(0x40 | ((k.pn_len + n + TAG_LEN) >> 8))
        k.length_at[1] = <uint8_t>(k.pn_len + n + TAG_LEN)
    for i in range(k.pn_len):
        k.pn_at[k.pn_len - 1 - i] = <uint8_t>pn
        pn >>= 8
    if c.qlog is not None:
        c.log_packet(True, k.level, p.id, k.pn, total, k.payload, n)
    rc = keys_seal(&c.keys, k.level, p.id, k.pn, k.start, header, k.payload, n)
    if rc < 0:
        frame_recs_free(k.rec.frames)
        if rc == KEYS_LIMIT:
            c.fail(AEAD_LIMIT_REACHED, b"confidentiality limit reached", 0)
        else:
            c.fail(INTERNAL_ERROR, b"packet protection failed", 0)
        return 0
    if k.level == LEVEL_1RTT and c.keys.phase:
        k.rec.flags |= REC_PHASE
    if k.rec.flags & REC_ELICITING:
        k.rec.size = <uint16_t>total
        if space_insert(sp, k.pn, &k.rec) < 0:
            frame_recs_free(k.rec.frames)
            c.fail(INTERNAL_ERROR, b"out of memory", 0)
            return 0
        p.r.in_flight += total
        pacer_on_sent(&p.r.pacer, total)
        if p.permit_idle_reset:
            p.permit_idle_reset = False
            p.idle_from = c.now
    else:
        frame_recs_free(k.rec.frames)
    return total


cdef int protect(QuicConnection c, Packet* ks, int n) noexcept nogil:
    """Header protection of n packets of one level. -1: none of them may leave, the connection has failed."""
    cdef const uint8_t* samples[MAX_BATCH]
    cdef uint8_t masks[MAX_BATCH * 16]
    cdef int i, j
    cdef uint8_t* m
    for i in range(n):
        samples[i] = ks[i].pn_at + 4
    if keys_masks(&c.keys, ks[0].level, samples, n, masks) < 0:
        return c.fail(INTERNAL_ERROR, b"header protection failed", 0)
    for i in range(n):
        m = masks + 16 * i
        ks[i].start[0] ^= m[0] & (0x1f if ks[i].level == LEVEL_1RTT else 0x0f)
        for j in range(ks[i].pn_len):
            ks[i].pn_at[j] ^= m[1 + j]
    return 0


cdef size_t finish_one(QuicConnection c, Path* p, Packet* k) noexcept nogil:
    """`finish` and `protect` of a packet that is the only one of its level. Its length; 0: nothing may leave."""
    cdef size_t size = finish(c, p, k)
    return 0 if size == 0 or protect(c, k, 1) < 0 else size


cdef size_t finish_coalesced(QuicConnection c, Path* p, Packet* ks, int n) noexcept nogil:
    """The packets of one datagram, each of another level. Their length; 0: nothing may leave."""
    cdef size_t size, total = 0
    cdef int i
    for i in range(n):
        size = finish_one(c, p, &ks[i])
        if size == 0:
            return 0
        total += size
    return total


# ---------------------------------------------------------------- frames
cdef void write_ack(QuicConnection c, Packet* k, PnSpace* sp, bint multipath, uint32_t path_id, PathStats* stats) noexcept nogil:
    cdef uint64_t delay = 0
    cdef int first = 0
    cdef size_t room = <size_t>(k.end - k.p)
    if k.level == LEVEL_1RTT and c.now > sp.largest_rx_at:
        delay = <uint64_t>(c.now - sp.largest_rx_at) // 1000 >> 3
    # Too many ranges for the packet: the newest matter.
    while ack_size(multipath, path_id, sp.starts + first, sp.ends + first, sp.n_ranges - first, delay, c.saw_ecn,
                   sp.ect0, sp.ect1, sp.ce) > room:
        first += 1
        if first == sp.n_ranges:
            return
    k.p = put_ack(k.p, multipath, path_id, sp.starts + first, sp.ends + first, sp.n_ranges - first, delay, c.saw_ecn,
                  sp.ect0, sp.ect1, sp.ce)
    if k.rec.flags & REC_ACK:
        frame_rec(&k.rec.frames, FT_PATH_ACK, path_id, 0, sp.ends[sp.n_ranges - 1] - 1, 0)
    else:
        k.rec.flags |= REC_ACK
        k.rec.acked_path = path_id
        k.rec.acked_upto = sp.ends[sp.n_ranges - 1] - 1
    stats.tx_frames[IDX_PATH_ACKS if multipath else IDX_ACKS] += 1
    space_ack_sent(sp)


cdef bint acks_due(QuicConnection c) noexcept nogil:
    cdef Path* q = c.paths
    while q != NULL:
        if space_ack_due(&q.sp, c.now):
            return True
        q = q.next
    return False


cdef void write_acks(QuicConnection c, Path* p, Packet* k) noexcept nogil:
    """Every acknowledgement that is due, of all paths."""
    cdef Path* q = c.paths
    while q != NULL:
        if space_ack_wanted(&q.sp, c.now) and (c.multipath or q.id == 0):
            write_ack(c, k, &q.sp, c.multipath, q.id, &p.stats)
        q = q.next


cdef void write_crypto(QuicConnection c, Packet* k, SendBuf* tx, PathStats* stats) noexcept nogil:
    cdef uint64_t offset
    cdef size_t n, room
    cdef bint again
    while sendbuf_has_pending(tx) and k.end - k.p > MAX_STREAM_HEADER + 16:
        room = <size_t>(k.end - k.p) - MAX_STREAM_HEADER
        if not sendbuf_poll(tx, room, &offset, &n, &again):
            return
        k.p = put_crypto_header(k.p, offset, n)
        sendbuf_copy(tx, offset, n, k.p)
        k.p += n
        frame_rec(&k.rec.frames, FT_CRYPTO, 0, 0, offset, n)
        k.rec.flags |= REC_ELICITING
        stats.tx_frames[IDX_CRYPTO] += 1


cdef bint path_frames_due(QuicConnection c, Path* p) noexcept nogil:
    return (p.ping_due or p.immediate_ack_due or p.challenge_due or p.response_due or p.observed_due
            or p.sp.loss_probes > 0)


cdef void write_path_frames(QuicConnection c, Path* p, Packet* k, bint* want_full) noexcept nogil:
    """Frames that only this path may carry."""
    cdef int i, slot
    cdef int64_t wait
    if p.ping_due:
        p.ping_due = False
        k.p = put_v0(k.p, FT_PING)
        k.rec.flags |= REC_ELICITING
        p.stats.tx_frames[IDX_PING] += 1
    if p.immediate_ack_due:
        p.immediate_ack_due = False
        k.p = put_v0(k.p, FT_IMMEDIATE_ACK)
        k.rec.flags |= REC_ELICITING
        p.stats.tx_frames[IDX_IMMEDIATE_ACK] += 1
    if p.challenge_due:
        p.challenge_due = False
        slot = 0
        for i in range(MAX_CHALLENGES):
            if p.challenge_sent[i] < p.challenge_sent[slot]:
                slot = i
        c.host.random.fill(p.challenges[slot], 8)
        p.challenge_sent[slot] = c.now
        p.challenge_route[slot] = p.r.generation
        k.p = put_path_data(k.p, FT_PATH_CHALLENGE, p.challenges[slot])
        k.rec.flags |= REC_ELICITING
        want_full[0] = True
        wait = rtt_pto_base(&p.r.rtt) << (p.challenge_lost if p.challenge_lost < 16 else 16)
        p.challenge_at = c.now + (wait if wait < 2000 * MS else 2000 * MS)
        p.stats.tx_frames[IDX_PATH_CHALLENGE] += 1
    if p.response_due:
        p.response_due = False
        k.p = put_path_data(k.p, FT_PATH_RESPONSE, p.response)
        k.rec.flags |= REC_ELICITING
        want_full[0] = True
        p.stats.tx_frames[IDX_PATH_RESPONSE] += 1
    if p.observed_due:
        p.observed_due = False
        if c.send_observed:
            k.p = put_address(k.p, FT_OBSERVED_ADDR_V4, c.observed_tx_seq, p.r.remote.ip, p.r.remote.port)
            c.observed_tx_seq += 1
            frame_rec(&k.rec.frames, FT_OBSERVED_ADDR_V4, p.id, 0, 0, 0)
            k.rec.flags |= REC_ELICITING
            p.stats.tx_frames[IDX_OBSERVED_ADDR] += 1


cdef uint8_t* write_pending(QuicConnection c, uint8_t* at, FrameRec* f, bint* skip) noexcept nogil:
    """One queued control frame with present values; skip: it has become pointless."""
    cdef CidSet* s
    cdef LocalCid* l
    cdef uint8_t token[16]
    cdef Path* q
    cdef uint64_t t = f.type
    skip[0] = False
    if t == FT_HANDSHAKE_DONE:
        return put_v0(at, t)
    if t == FT_PATH_NEW_CONNECTION_ID or t == FT_NEW_CONNECTION_ID:
        s = c.cidset(<uint32_t>f.path, False)
        l = local_cid_find(s, f.id) if s != NULL else NULL
        if l == NULL:
            skip[0] = True
            return at
        c.host.token_for(<uint8_t*>&l.value, token)
        return put_new_cid(at, t == FT_PATH_NEW_CONNECTION_ID, f.path, f.id, 0, <uint8_t*>&l.value, CID_LEN, token)
    if t == FT_RETIRE_CONNECTION_ID:
        return put_v1(at, t, f.id)
    if t == FT_PATH_RETIRE_CONNECTION_ID:
        return put_v2(at, t, f.path, f.id)
    if t == FT_PATH_ABANDON:
        return put_v2(at, t, f.path, f.a)
    if t == FT_PATH_STATUS_BACKUP or t == FT_PATH_STATUS_AVAILABLE:
        q = c.path(<uint32_t>f.path)
        if q == NULL or q.abandoned or f.id != q.status_seq:
            skip[0] = True            # a newer status is queued
            return at
        return put_v2(at, t, f.path, f.id)
    if t == FT_MAX_PATH_ID:
        if c.local_max_path <= c.sent_max_path and f.a == 0:
            skip[0] = True
            return at
        c.sent_max_path = c.local_max_path
        f.a = 1                       # a lost one is always repeated
        return put_v1(at, t, c.local_max_path)
    if t == FT_PATHS_BLOCKED:
        if c.remote_max_path > f.id:
            skip[0] = True
            return at
        return put_v1(at, t, f.id)
    if t == FT_PATH_CIDS_BLOCKED:
        s = c.cidset(<uint32_t>f.path, False)
        if s != NULL and s.n_remote:
            skip[0] = True
            return at
        return put_v2(at, t, f.path, f.id)
    if t == FT_ACK_FREQUENCY:
        return put_ack_frequency(at, f.id, c.cfg.af_threshold, <uint64_t>ack_frequency_delay(c) // 1000, c.cfg.af_reorder)
    skip[0] = True
    return at


cdef FrameRec* pending_abandon(QuicConnection c, uint32_t path_id) noexcept nogil:
    """The PATH_ABANDON of a path that waits to be sent, or NULL."""
    cdef FrameRec* f = c.pending_head
    while f != NULL and not (f.type == FT_PATH_ABANDON and f.path == path_id):
        f = f.next
    return f


cdef void write_abandon(QuicConnection c, Path* p, Packet* k) noexcept nogil:
    """The PATH_ABANDON of a path on that path itself, out of turn."""
    cdef FrameRec* f = pending_abandon(c, p.id)
    cdef FrameRec** at = &c.pending_head
    cdef FrameRec* q
    cdef bint skip
    if f == NULL or k.end - k.p < MAX_CONTROL_FRAME:
        return
    k.p = write_pending(c, k.p, f, &skip)
    while at[0] != f:
        at = &at[0].next
    at[0] = f.next
    c.n_pending -= 1
    c.pending_tail = NULL
    q = c.pending_head
    while q != NULL:
        c.pending_tail = q
        q = q.next
    f.next = k.rec.frames
    k.rec.frames = f
    k.rec.flags |= REC_ELICITING
    p.stats.tx_frames[frame_index(FT_PATH_ABANDON)] += 1


cdef int64_t ack_frequency_delay(QuicConnection c) noexcept nogil:
    cdef int64_t d = c.cfg.af_max_delay if c.cfg.af_max_delay else c.peer_max_ack_delay
    cdef int64_t least = <int64_t>c.peer_min_ack_delay_us * 1000
    cdef int64_t rtt = rtt_get(&c.paths.r.rtt) if c.paths != NULL else 0
    if d < least:
        d = least
    if rtt < 25 * MS:
        rtt = 25 * MS
    return d if d < rtt else rtt


cdef bint general_due(QuicConnection c) noexcept nogil:
    """Whether there is anything that any path may carry."""
    return (c.pending_head != NULL or c.streams.ready_head != NULL or c.dgram_tx.count > 0 or c.streams.has_control()
            or sendbuf_has_pending(&c.data_crypto_tx))


cdef void write_general(QuicConnection c, Path* p, Packet* k) noexcept nogil:  # hot
    """Control frames, datagrams and stream data, in this order."""
    cdef FrameRec* f
    cdef uint8_t* before
    cdef bint skip
    cdef uint32_t n
    if c.data_crypto_tx.end and sendbuf_has_pending(&c.data_crypto_tx) and k.level == LEVEL_1RTT:
        write_crypto(c, k, &c.data_crypto_tx, &p.stats)
    while c.pending_head != NULL and k.end - k.p >= MAX_CONTROL_FRAME and k.level == LEVEL_1RTT:
        f = c.pending_head
        before = k.p
        k.p = write_pending(c, k.p, f, &skip)
        c.pending_head = f.next
        if c.pending_head == NULL:
            c.pending_tail = NULL
        c.n_pending -= 1
        f.next = NULL
        if skip:
            frame_recs_free(f)
            continue
        p.stats.tx_frames[frame_index(f.type)] += 1
        f.next = k.rec.frames
        k.rec.frames = f
        k.rec.flags |= REC_ELICITING
    if c.streams.has_control():
        k.p = c.streams.write_control(k.p, k.end, &k.rec, p.stats.tx_frames)
    while c.dgram_tx.count:
        n = queue_peek(&c.dgram_tx)
        if <Py_ssize_t>(n + 1 + varint_size(n)) > k.end - k.p:
            if n + 1 + varint_size(n) + (k.payload - k.start) + TAG_LEN > p.r.mtud.current:
                # Too large even for an empty packet: the path's MTU fell below it.
                queue_pop(&c.dgram_tx, NULL)
                continue
            break
        k.p = put_datagram_header(k.p, n)
        queue_pop(&c.dgram_tx, k.p)
        k.p += n
        k.rec.flags |= REC_ELICITING
        p.stats.tx_frames[IDX_DATAGRAM] += 1
        if c.datagram_blocked:
            c.datagram_blocked = False
            c.dirty_events |= <uint32_t>1 << W_DATAGRAM_SPACE
    if c.streams.ready_head != NULL and (c.dgram_tx.count == 0 or k.p == k.payload):
        k.p = c.streams.write_data(k.p, k.end, &k.rec, p.stats.tx_frames)


cdef inline uint8_t* put_v0(uint8_t* p, uint64_t t) noexcept nogil:
    return put_varint(p, t)


cdef void requeue_oldest(QuicConnection c, Path* p, PnSpace* sp, int level) noexcept nogil:
    """A probe should carry something useful: control and CRYPTO frames of the oldest packet in flight."""
    cdef SentRec* r
    cdef FrameRec* f
    cdef FrameRec* keep = NULL
    cdef FrameRec* again = NULL
    cdef FrameRec* n
    cdef uint64_t pn
    if sp.outstanding == 0:
        return
    pn = sp.first
    while pn <= sp.last:
        r = space_rec(sp, pn)
        if r != NULL and r.frames != NULL:
            f = r.frames
            while f != NULL:
                n = f.next
                if f.type == FT_STREAM or f.type == FT_PATH_ACK:
                    f.next = keep
                    keep = f
                else:
                    f.next = again
                    again = f
                f = n
            r.frames = keep
            if again != NULL:
                c.frames_lost(p, again, level)
                return
            keep = NULL
        pn += 1


# ---------------------------------------------------------------- scheduling
cdef inline bint usable(Path* p) noexcept nogil:
    return p.r.validated and not p.abandoned and p.cids.active >= 0


cdef bint may_send_data(QuicConnection c, Path* p) noexcept nogil:
    """Backup paths carry data only when no validated available one exists (local status alone counts)."""
    cdef Path* q
    if c.state == ST_HANDSHAKE:
        return True
    if p.abandoned or p.cids.active < 0:
        return False
    if not p.r.validated:
        # RFC 9000 §8.1: an unvalidated path of a server that has no other one may send within the 3x limit.
        return p.id == 0 and p.next == NULL
    if p.status == STATUS_AVAILABLE:
        return True
    q = c.paths
    while q != NULL:
        if usable(q) and q.status == STATUS_AVAILABLE:
            return False
        q = q.next
    return True


cdef inline bint amplification_blocked(QuicConnection c, Path* p, size_t batched) noexcept nogil:
    return not c.is_client and not p.r.validated and p.r.sent + batched + 1 > 3 * p.r.received


cdef void account(QuicConnection c, Path* p, size_t bytes, int datagrams) noexcept nogil:
    p.r.sent += bytes
    p.stats.tx_bytes += bytes
    p.stats.tx_datagrams += datagrams
    p.last_tx = c.now


cdef void fill(Path* p, Transmit* t, bint ecn) noexcept nogil:
    t.remote = p.r.remote
    t.local = p.r.local
    t.ecn = 2 if ecn and p.r.ecn else 0
    t.path_id = p.id
    t.dialing = False


cdef size_t send_off_path(QuicConnection c, uint8_t* buf, Transmit* t) noexcept nogil:
    """A probing packet for another address: no ACK in it, no ECN mark, no congestion accounting."""
    cdef OffPath o
    cdef Path* p
    cdef Packet k
    cdef size_t n
    cdef int i
    while c.n_off_path:
        o = c.off_path[0]
        c.n_off_path -= 1
        for i in range(c.n_off_path):
            c.off_path[i] = c.off_path[i + 1]
        p = c.path(o.path_id)
        if p == NULL or p.abandoned or p.cids.active < 0 or not keys_can_seal(&c.keys, LEVEL_1RTT):
            continue
        if begin(c, p, LEVEL_1RTT, buf, MIN_DATAGRAM, &k) < 0:
            continue
        k.p = put_path_data(k.p, FT_PATH_CHALLENGE if o.challenge else FT_PATH_RESPONSE, o.data)
        p.stats.tx_frames[IDX_PATH_CHALLENGE if o.challenge else IDX_PATH_RESPONSE] += 1
        if o.pad:
            pad(&k, <size_t>(k.end - k.p))
        n = finish_one(c, p, &k)
        if n == 0:
            return 0
        t.remote = o.remote
        t.local = o.local
        t.ecn = 0
        t.segment = n
        t.path_id = p.id
        t.dialing = False
        p.stats.tx_bytes += n
        p.stats.tx_datagrams += 1
        return n
    return 0


# ---------------------------------------------------------------- handshake
cdef bint level_due(QuicConnection c, Path* p, int level) noexcept nogil:
    cdef Level* l
    if level == LEVEL_INITIAL or level == LEVEL_HANDSHAKE:
        l = c.initial if level == LEVEL_INITIAL else c.handshake
        return l.live and keys_can_seal(&c.keys, level) and (l.sp.ack_now or l.sp.loss_probes > 0 or sendbuf_has_pending(&l.tx))
    if level == LEVEL_0RTT:
        return not keys_can_seal(&c.keys, LEVEL_1RTT) and keys_can_seal(&c.keys, LEVEL_0RTT) and (
            c.streams.ready_head != NULL or c.dgram_tx.count > 0 or c.streams.has_control())
    return keys_can_seal(&c.keys, LEVEL_1RTT) and (general_due(c) or acks_due(c) or path_frames_due(c, p))


cdef size_t send_handshake(QuicConnection c, Path* p, uint8_t* buf, Transmit* t) noexcept nogil:
    """One datagram of coalesced packets, lowest level first (RFC 9000 §12.2)."""
    cdef Packet ks[4]
    cdef Level* l
    cdef PnSpace* sp
    cdef int n = 0, level, i
    cdef uint8_t* at = buf
    cdef size_t room, total = 0, cap = c.cfg.initial_mtu
    cdef bint has_initial = False, full = False, probe
    cdef Packet* k
    if not c.is_client and not p.r.validated:
        # Never beyond three times what came (RFC 9000 §8.1), and no datagram too small for an Initial.
        if p.r.sent + MIN_DATAGRAM > 3 * p.r.received:
            return 0
        if cap > 3 * p.r.received - p.r.sent:
            cap = 3 * p.r.received - p.r.sent
    if p.r.in_flight + cap >= p.r.cc.cwnd and c.initial.sp.loss_probes == 0 and c.handshake.sp.loss_probes == 0:
        if not ((c.initial.live and c.initial.sp.ack_now) or (c.handshake.live and c.handshake.sp.ack_now)):
            return 0
    for level in range(LEVEL_INITIAL, LEVEL_1RTT + 1):
        if not level_due(c, p, level):
            continue
        # space for what was written already, each with its tag
        room = cap - <size_t>(at - buf)
        if n and room < MIN_COALESCE:
            break
        if level == LEVEL_1RTT and not (c.handshake_done or not c.is_client):
            continue
        k = &ks[n]
        if begin(c, p, level, at, room, k) < 0:
            break
        sp = space_of(c, p, level)
        if level == LEVEL_INITIAL or level == LEVEL_HANDSHAKE:
            l = c.initial if level == LEVEL_INITIAL else c.handshake
            probe = sp.loss_probes > 0
            if probe:
                sp.loss_probes -= 1
                if not sendbuf_has_pending(&l.tx):
                    requeue_oldest(c, p, sp, level)
            if sp.ack_now and sp.n_ranges:
                write_ack(c, k, sp, False, 0, &p.stats)
            write_crypto(c, k, &l.tx, &p.stats)
            if probe and not k.rec.flags & REC_ELICITING:
                k.p = put_v0(k.p, FT_PING)
                k.rec.flags |= REC_ELICITING
                p.stats.tx_frames[IDX_PING] += 1
        else:
            if level == LEVEL_1RTT:
                write_acks(c, p, k)
                write_path_frames(c, p, k, &full)
            if not amplification_blocked(c, p, 0):
                write_general(c, p, k)
        if k.p == k.payload:
            unbegin(c, p, k)
            continue
        if level == LEVEL_INITIAL and (c.is_client or k.rec.flags & REC_ELICITING):
            has_initial = True
        at = k.p + TAG_LEN
        if k.p - k.payload + k.pn_len < 4:
            pad(k, 4 - <size_t>(k.p - k.payload) - k.pn_len)
            at = k.p + TAG_LEN
        n += 1
    if n == 0:
        return 0
    if (has_initial or full) and at - buf < MIN_DATAGRAM:
        pad(&ks[n - 1], MIN_DATAGRAM - <size_t>(at - buf))
    total = finish_coalesced(c, p, ks, n)
    if total == 0:
        return 0
    for i in range(n):
        if ks[i].level == LEVEL_HANDSHAKE and c.is_client and c.initial.live:
            # RFC 9001 §4.9.1: a client is done with Initial keys once it sends Handshake packets.
            c.drop_space(p, &c.initial.sp)
            c.drop_level(LEVEL_INITIAL)
    fill(p, t, True)
    t.segment = total
    t.dialing = c.is_client and not c.migration_frozen and c.n_dial > 1
    account(c, p, total, 1)
    return total


# ---------------------------------------------------------------- 1-RTT
cdef size_t send_data(QuicConnection c, Path* p, uint8_t* buf, size_t cap, int max_segments, Transmit* t,
                      bint* blocked) noexcept nogil:  # hot
    """A batch of 1-RTT datagrams on one path; all but the last have the same size."""
    cdef Packet ks[MAX_BATCH]
    cdef Packet* k
    cdef int n = 0, limit = max_segments if max_segments < MAX_BATCH else MAX_BATCH
    cdef size_t mtu = p.r.mtud.current, segment = 0, total = 0, size
    cdef bint data = may_send_data(c, p), full, probe, general, ack_only, last_words = False
    cdef int64_t wait
    cdef bint cwnd_full
    if p.cids.active < 0:
        return 0
    if p.abandoned:
        # Only what tells the peer, and only if no other path can: acknowledgements and the PATH_ABANDON itself.
        data = False
        if c.any_usable() or not p.r.validated:
            return 0
        last_words = pending_abandon(c, p.id) != NULL
        if not last_words and not space_ack_due(&p.sp, c.now) and p.sp.loss_probes == 0:
            return 0
    if mtu * limit > cap:
        limit = <int>(cap // mtu)
    while n < limit:
        if amplification_blocked(c, p, total):
            break
        probe = p.sp.loss_probes > 0
        general = data and general_due(c)
        ack_only = False
        if not probe and not general and not last_words and not path_frames_due(c, p):
            if not ((data or p.abandoned) and acks_due(c)):
                break
            ack_only = True
        elif general and not probe:
            cwnd_full = p.r.in_flight + mtu >= p.r.cc.cwnd
            wait = 0
            if cwnd_full:
                p.cwnd_blocked = True
            else:
                wait = pacer_delay(&p.r.pacer, c.now, mtu, p.r.cc.cwnd, rtt_get(&p.r.rtt), mtu)
                if wait > 0:
                    p.pacing_at = c.now + wait
            if cwnd_full or wait > 0:
                blocked[0] = True
                if path_frames_due(c, p):
                    general = False
                elif data and acks_due(c):
                    # Ours: a full window or bucket does not hold back acknowledgements.
                    ack_only = True
                else:
                    break
        size = mtu if not probe or mtu < MIN_DATAGRAM else MIN_DATAGRAM
        if n and segment < size:
            size = segment
        k = &ks[n]
        if begin(c, p, LEVEL_1RTT, buf + total, size, k) < 0:
            break
        full = False
        if probe:
            p.sp.loss_probes -= 1
            if not general:
                requeue_oldest(c, p, &p.sp, LEVEL_1RTT)
                general = data
        if data or p.abandoned:
            write_acks(c, p, k)
        if p.abandoned:
            write_abandon(c, p, k)
            last_words = False
        if not ack_only:
            write_path_frames(c, p, k, &full)
            if general or (data and probe):
                write_general(c, p, k)
            if probe:
                if c.peer_ack_frequency and k.end - k.p >= MAX_CONTROL_FRAME:
                    k.p = put_v0(k.p, FT_IMMEDIATE_ACK)
                    k.rec.flags |= REC_ELICITING
                    p.stats.tx_frames[IDX_IMMEDIATE_ACK] += 1
                elif not k.rec.flags & REC_ELICITING:
                    k.p = put_v0(k.p, FT_PING)
                    k.rec.flags |= REC_ELICITING
                    p.stats.tx_frames[IDX_PING] += 1
        if k.p == k.payload:
            unbegin(c, p, k)
            if probe:
                continue
            break
        if full and k.p - k.start + TAG_LEN < MIN_DATAGRAM and not amplification_blocked(c, p, total + MIN_DATAGRAM):
            pad(k, MIN_DATAGRAM - TAG_LEN - <size_t>(k.p - k.start))
        elif c.cfg.pad_to_mtu and k.rec.flags & REC_ELICITING:
            pad(k, <size_t>(k.end - k.p))
        elif n and k.end - k.p > 0 and k.end - k.p <= GSO_PAD:
            pad(k, <size_t>(k.end - k.p))
        size = finish(c, p, k)
        if size == 0:
            break
        total += size
        if n == 0:
            segment = size
        n += 1
        if size != segment or ack_only or (c.err != 0):
            break
        if n == 1 and segment < mtu and segment + GSO_PAD < mtu:
            # Not full. Datagrams of one size fill a batch of their size; stream data deserves larger packets.
            if c.dgram_tx.count == 0 and (not general_due(c) or segment < MIN_DATAGRAM):
                break
    if n == 0 or protect(c, ks, n) < 0:
        return 0
    fill(p, t, True)
    t.segment = segment
    account(c, p, total, n)
    return total


cdef size_t send_mtu_probe(QuicConnection c, Path* p, uint8_t* buf, size_t cap, Transmit* t) noexcept nogil:
    cdef uint16_t size
    cdef Packet k
    cdef size_t n
    if (not p.r.validated or p.abandoned or p.challenge_at or not c.cfg.mtud or p.cids.active < 0
            or p.r.in_flight + 1500 >= p.r.cc.cwnd):
        return 0
    size = mtud_poll(&p.r.mtud, c.now)
    if size == 0 or size > cap:
        return 0
    if begin(c, p, LEVEL_1RTT, buf, size, &k) < 0:
        return 0
    k.p = put_v0(k.p, FT_PING)
    p.stats.tx_frames[IDX_PING] += 1
    if c.peer_ack_frequency:
        k.p = put_v0(k.p, FT_IMMEDIATE_ACK)
        p.stats.tx_frames[IDX_IMMEDIATE_ACK] += 1
    k.rec.flags |= REC_ELICITING | REC_MTU_PROBE
    pad(&k, <size_t>(k.end - k.p))
    n = finish_one(c, p, &k)
    if n == 0:
        return 0
    mtud_on_probe_sent(&p.r.mtud, k.pn, size)
    fill(p, t, True)
    t.segment = n
    account(c, p, n, 1)
    return n


# ---------------------------------------------------------------- closing
cdef size_t send_close(QuicConnection c, uint8_t* buf, Transmit* t) noexcept nogil:
    """CONNECTION_CLOSE at every level that has keys, in one datagram."""
    cdef Path* p = c.paths
    cdef Path* q
    cdef Packet ks[3]
    cdef Packet* k
    cdef int n = 0, level, i
    cdef uint8_t* at = buf
    cdef size_t room, total = 0, text_len = 0
    cdef const uint8_t* text = NULL
    cdef bint has_initial = False, app
    c.close_due = False
    # a validated path if there is one
    q = p
    while q != NULL:
        if usable(q) and (p.abandoned or not p.r.validated):
            p = q
        q = q.next
    if p == NULL or p.cids.active < 0:
        return 0
    with gil:
        if c.close_text is not None:
            if isinstance(c.close_text, str):
                c.close_text = c.close_text.encode()
            text = <const uint8_t*>PyBytes_AS_STRING(c.close_text)
            text_len = <size_t>PyBytes_GET_SIZE(c.close_text)
    if amplification_blocked(c, p, 0):
        return 0
    for level in range(LEVEL_INITIAL, LEVEL_1RTT + 1):
        if level == LEVEL_0RTT or not keys_can_seal(&c.keys, level):
            continue
        if level == LEVEL_1RTT and c.is_client and not c.handshake_done:
            continue
        room = MIN_DATAGRAM - <size_t>(at - buf)
        k = &ks[n]
        if begin(c, p, level, at, room, k) < 0:
            break
        if level == LEVEL_1RTT:
            write_acks(c, p, k)
        app = c.close_app
        if app and level != LEVEL_1RTT:
            # RFC 9000 §10.2.3: application errors are not shown before the handshake is done.
            k.p = put_close(k.p, False, APPLICATION_ERROR, 0, NULL, 0)
        else:
            room = <size_t>(k.end - k.p)
            room = room - 32 if room > 32 else 0
            k.p = put_close(k.p, app, c.close_code, c.close_frame, text, text_len if text_len < room else room)
        p.stats.tx_frames[IDX_CONNECTION_CLOSE] += 1
        if k.p - k.payload + k.pn_len < 4:
            pad(k, 4)
        if level == LEVEL_INITIAL and c.is_client:
            has_initial = True
        at = k.p + TAG_LEN
        n += 1
        if n == 3:
            break
    if n == 0:
        return 0
    if has_initial and at - buf < MIN_DATAGRAM:
        pad(&ks[n - 1], MIN_DATAGRAM - <size_t>(at - buf))
    total = finish_coalesced(c, p, ks, n)
    if total == 0:
        return 0
    fill(p, t, False)
    t.segment = total
    account(c, p, total, 1)
    return total


cdef size_t poll_transmit(QuicConnection c, int64_t now, uint8_t* buf, size_t cap, int max_segments, Transmit* t) noexcept nogil:
    cdef Path* p
    cdef size_t n
    cdef bint blocked = False
    c.now = now
    if c.state >= ST_CLOSING:
        if c.close_due and c.state != ST_DRAINED:
            return send_close(c, buf, t)
        return 0
    if c.n_off_path:
        n = send_off_path(c, buf, t)
        if n:
            return n
    if keys_update_wanted(&c.keys) and c.may_update_keys() and c.update_keys() < 0:
        return 0
    if not c.cfg.gso:
        max_segments = 1
    p = c.paths
    if p != NULL and p.id == 0 and not p.abandoned and (c.initial.live or c.handshake.live or not keys_can_seal(&c.keys, LEVEL_1RTT)):
        if level_due(c, p, LEVEL_INITIAL) or level_due(c, p, LEVEL_HANDSHAKE) or level_due(c, p, LEVEL_0RTT):
            n = send_handshake(c, p, buf, t)
            if n:
                return n
    if not keys_can_seal(&c.keys, LEVEL_1RTT) or (c.is_client and not c.handshake_done):
        return 0
    while p != NULL:
        p.cwnd_blocked = False
        if p.pacing_at and p.pacing_at <= now:
            p.pacing_at = 0
        n = send_data(c, p, buf, cap, max_segments, t, &blocked)
        if n:
            p.app_limited = False
            return n
        p.app_limited = not blocked
        p = p.next
    if c.handshake_done:
        p = c.paths
        while p != NULL:
            n = send_mtu_probe(c, p, buf, cap, t)
            if n:
                return n
            p = p.next
    return 0
