"""The control-frame ledger: frames that must arrive, whichever path carries them.

One table says for each kind at which level it may be sent, how much room it takes, whether one that waits stands for all,
how many may wait or be under way, and what happens beyond. Values are those of the time of writing, so a frame that waited
is never stale, and one that has become pointless is not sent. Every step is constant work. The frames of streams are in the
stream table, bounded by the number of streams. Sources: RFC 9000 §13.3, §21.9, the multipath and ACK frequency drafts.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free

from iroh_fast._packet._frames cimport (
    FT_ACK_FREQUENCY, FT_HANDSHAKE_DONE, FT_MAX_PATH_ID, FT_NEW_CONNECTION_ID, FT_PATHS_BLOCKED, FT_PATH_ABANDON,
    FT_PATH_CIDS_BLOCKED, FT_PATH_NEW_CONNECTION_ID, FT_PATH_RETIRE_CONNECTION_ID, FT_PATH_STATUS_AVAILABLE,
    FT_PATH_STATUS_BACKUP, FT_RETIRE_CONNECTION_ID)
from iroh_fast._packet._put cimport put_ack_frequency, put_new_cid, put_v1, put_v2
from iroh_fast._packet._varint cimport put_varint
from iroh_fast.quic._cids cimport find_ids, was_abandoned
from iroh_fast.quic._codes cimport CONNECTION_ID_LIMIT_ERROR, INTERNAL_ERROR, NO_ERROR, PROTOCOL_VIOLATION
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._counters cimport frame_index
from iroh_fast.quic._keys cimport LEVEL_1RTT
from iroh_fast.quic._ledger cimport (
    CONTROL, CONTROL_ACK_FREQUENCY, CONTROL_CIDS_BLOCKED, CONTROL_HANDSHAKE_DONE, CONTROL_MAX_PATH_ID, CONTROL_NEW_CID,
    CONTROL_PATHS_BLOCKED, CONTROL_PATH_ABANDON, CONTROL_PATH_STATUS, CONTROL_RETIRE_CID, Ledger, N_CONTROL)
from iroh_fast.quic._packets cimport Packet, has_room
from iroh_fast.quic._path_table cimport find_path
from iroh_fast.quic._paths cimport (
    CID_LEN, CidSet, LOCAL_CIDS, LocalCid, Path, REMOTE_CIDS, STATUS_BACKUP, local_cid_find)
from iroh_fast.quic._rtt cimport rtt_get
from iroh_fast.quic._sent cimport FrameRec, REC_ELICITING, frame_rec
from iroh_fast.quic._time cimport MS, ns_from_us

ctypedef uint8_t* (*WriteFn)(QuicConnection, uint8_t*, FrameRec*) noexcept nogil
ctypedef void (*AckedFn)(QuicConnection, FrameRec*) noexcept nogil
ctypedef bint (*LostFn)(QuicConnection, FrameRec*) noexcept nogil


cdef struct Kind:
    int level                     # the lowest that may carry it; all of them elicit acknowledgements
    int room                      # bytes that are enough for the frame
    bint joins                    # one that waits stands for later ones, too
    uint32_t bound                # of frames that wait or are not acknowledged,
    uint32_t per_path             # and as many more for each path that we allow
    uint64_t error                # beyond; NO_ERROR: a further one is not queued
    const char* text
    WriteFn write                 # the frame, its wire type into `b`; NULL: it has become pointless
    AckedFn acked                 # NULL: nothing to do
    LostFn again                  # whether a lost one is sent again; NULL: always


cdef Kind KINDS[N_CONTROL]


# ---------------------------------------------------------------- what each kind is
cdef uint8_t* write_handshake_done(QuicConnection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    record.b = FT_HANDSHAKE_DONE
    return put_varint(at, FT_HANDSHAKE_DONE)


cdef uint8_t* write_new_cid(QuicConnection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    cdef CidSet* ids = find_ids(conn, <uint32_t>record.path, False)
    cdef LocalCid* local = local_cid_find(ids, record.id) if ids != NULL else NULL
    cdef uint8_t token[16]
    if local == NULL or was_abandoned(conn, <uint32_t>record.path):
        return NULL
    if ids.sent <= record.id:
        ids.sent = record.id + 1
    conn.host.token_for(<uint8_t*>&local.value, token)
    # With multipath negotiated every id is announced with its path.
    record.b = FT_PATH_NEW_CONNECTION_ID if conn.multipath else FT_NEW_CONNECTION_ID
    return put_new_cid(at, conn.multipath, record.path, record.id, 0, <uint8_t*>&local.value, CID_LEN, token)


cdef uint8_t* write_retire_cid(QuicConnection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    if was_abandoned(conn, <uint32_t>record.path):
        return NULL
    if conn.multipath:
        record.b = FT_PATH_RETIRE_CONNECTION_ID
        return put_v2(at, FT_PATH_RETIRE_CONNECTION_ID, record.path, record.id)
    record.b = FT_RETIRE_CONNECTION_ID
    return put_v1(at, FT_RETIRE_CONNECTION_ID, record.id)


cdef uint8_t* write_path_abandon(QuicConnection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    cdef Path* path = find_path(conn, <uint32_t>record.path)
    if path != NULL:
        if not path.abandon_due:
            return NULL           # it went out of turn
        path.abandon_due = False
    record.b = FT_PATH_ABANDON
    return put_v2(at, FT_PATH_ABANDON, record.path, record.a)


cdef bint path_abandon_again(QuicConnection conn, FrameRec* record) noexcept nogil:
    cdef Path* path = find_path(conn, <uint32_t>record.path)
    if path != NULL:
        path.abandon_due = True
    return True


cdef uint8_t* write_path_status(QuicConnection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    cdef Path* path = find_path(conn, <uint32_t>record.path)
    if path == NULL or path.abandoned:
        return NULL
    path.status_queued = path.status_due = False
    record.id = path.status_seq
    record.b = FT_PATH_STATUS_BACKUP if path.status == STATUS_BACKUP else FT_PATH_STATUS_AVAILABLE
    return put_v2(at, record.b, record.path, record.id)


cdef bint path_status_again(QuicConnection conn, FrameRec* record) noexcept nogil:
    cdef Path* path = find_path(conn, <uint32_t>record.path)
    if path == NULL or path.abandoned or path.status_queued or (record.id != path.status_seq and not path.status_due):
        return False              # a newer one says more
    path.status_queued = True
    return True


cdef void path_status_acked(QuicConnection conn, FrameRec* record) noexcept nogil:
    """Changes that found too many under way have waited for this."""
    cdef Path* path = find_path(conn, <uint32_t>record.path)
    if path != NULL and path.status_due and not path.status_queued:
        path.status_queued = queue_control(conn, CONTROL_PATH_STATUS, path.id, 0, 0) == 0


cdef uint8_t* write_max_path_id(QuicConnection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    conn.paths.sent_max = conn.paths.local_max
    record.id = conn.paths.local_max
    record.b = FT_MAX_PATH_ID
    return put_v1(at, FT_MAX_PATH_ID, record.id)


cdef bint max_path_id_again(QuicConnection conn, FrameRec* record) noexcept nogil:
    return record.id == conn.paths.sent_max


cdef uint8_t* write_paths_blocked(QuicConnection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    if conn.paths.remote_max > record.id:
        return NULL
    record.b = FT_PATHS_BLOCKED
    return put_v1(at, FT_PATHS_BLOCKED, record.id)


cdef uint8_t* write_cids_blocked(QuicConnection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    cdef CidSet* ids = find_ids(conn, <uint32_t>record.path, False)
    if ids != NULL and ids.n_remote or was_abandoned(conn, <uint32_t>record.path):
        return NULL
    record.b = FT_PATH_CIDS_BLOCKED
    return put_v2(at, FT_PATH_CIDS_BLOCKED, record.path, 0)


cdef int64_t ack_frequency_delay(QuicConnection conn) noexcept nogil:
    cdef int64_t delay = conn.cfg.af_max_delay if conn.cfg.af_max_delay else conn.peer_max_ack_delay
    cdef int64_t least = ns_from_us(conn.peer_min_ack_delay_us)
    cdef int64_t rtt = rtt_get(&conn.paths.first.r.rtt) if conn.paths.first != NULL else 0
    if delay < least:
        delay = least
    if rtt < 25 * MS:
        rtt = 25 * MS
    return delay if delay < rtt else rtt


cdef uint8_t* write_ack_frequency(QuicConnection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    record.b = FT_ACK_FREQUENCY
    return put_ack_frequency(at, record.id, conn.cfg.af_threshold, <uint64_t>ack_frequency_delay(conn) // 1000,
                             conn.cfg.af_reorder)


cdef void add_kind(int kind, WriteFn write, LostFn again, int room, bint joins, uint32_t bound, uint32_t per_path,
                   uint64_t error, const char* text):
    KINDS[kind].level = LEVEL_1RTT
    KINDS[kind].room = room
    KINDS[kind].joins = joins
    KINDS[kind].bound = bound
    KINDS[kind].per_path = per_path
    KINDS[kind].error = error
    KINDS[kind].text = text
    KINDS[kind].write = write
    KINDS[kind].acked = NULL
    KINDS[kind].again = again


#        kind                    write                 again         room  joins bound  per path, beyond
add_kind(CONTROL_HANDSHAKE_DONE, write_handshake_done, NULL,               1, True, 1, 0, NO_ERROR, NULL)
add_kind(CONTROL_NEW_CID, write_new_cid, NULL,                            60, False, 64, 4 * LOCAL_CIDS,
         PROTOCOL_VIOLATION, b"connection ids are retired faster than acknowledged")
add_kind(CONTROL_RETIRE_CID, write_retire_cid, NULL,                      20, False, 10, 2 * REMOTE_CIDS,
         CONNECTION_ID_LIMIT_ERROR, b"too many retired connection ids")
add_kind(CONTROL_PATH_ABANDON, write_path_abandon, path_abandon_again,    20, False, 8, 8,
         PROTOCOL_VIOLATION, b"paths are abandoned faster than acknowledged")
add_kind(CONTROL_PATH_STATUS, write_path_status, path_status_again,       20, False, 8, 8, NO_ERROR, NULL)
add_kind(CONTROL_MAX_PATH_ID, write_max_path_id, max_path_id_again,       12, True, 8, 8,
         PROTOCOL_VIOLATION, b"paths are abandoned faster than acknowledged")
add_kind(CONTROL_PATHS_BLOCKED, write_paths_blocked, NULL,                12, True, 2, 0, NO_ERROR, NULL)
add_kind(CONTROL_CIDS_BLOCKED, write_cids_blocked, NULL,                  20, True, 2, 0, NO_ERROR, NULL)
add_kind(CONTROL_ACK_FREQUENCY, write_ack_frequency, NULL,                36, True, 2, 0, NO_ERROR, NULL)
KINDS[CONTROL_PATH_STATUS].acked = path_status_acked


# ---------------------------------------------------------------- the queue
cdef void append_record(Ledger* ledger, FrameRec* record) noexcept nogil:
    record.next = NULL
    if ledger.tail == NULL:
        ledger.head = record
    else:
        ledger.tail.next = record
    ledger.tail = record
    ledger.queued[record.type - CONTROL] += 1


cdef FrameRec* take_record(Ledger* ledger) noexcept nogil:
    cdef FrameRec* record = ledger.head
    ledger.head = record.next
    if ledger.head == NULL:
        ledger.tail = NULL
    ledger.queued[record.type - CONTROL] -= 1
    return record


cdef void forget(QuicConnection conn, FrameRec* record) noexcept nogil:
    conn.control.open[record.type - CONTROL] -= 1
    free(record)


cdef int queue_control(QuicConnection conn, int kind, uint32_t path, uint64_t id, uint64_t value) noexcept nogil:
    cdef Ledger* ledger = &conn.control
    cdef Kind* row = &KINDS[kind]
    cdef FrameRec* record = NULL
    if row.joins and ledger.queued[kind]:
        return 0
    if ledger.open[kind] >= row.bound + <uint64_t>row.per_path * conn.cfg.max_paths:
        return conn.fail(row.error, row.text, 0) if row.error else 1
    if frame_rec(&record, CONTROL + kind, path, id, value, 0) == NULL:
        return conn.fail(INTERNAL_ERROR, b"out of memory", 0)
    ledger.open[kind] += 1
    append_record(ledger, record)
    return 0


cdef bint append_frame(QuicConnection conn, Path* path, Packet* packet, FrameRec* record) noexcept nogil:
    """Put one frame into the packet, flag, count and remember it; False when it has become pointless. Room is there."""
    cdef uint8_t* end = KINDS[record.type - CONTROL].write(conn, packet.at, record)
    if end == NULL:
        forget(conn, record)
        return False
    packet.at = end
    packet.sent.flags |= REC_ELICITING
    path.stats.tx_frames[frame_index(record.b)] += 1
    record.next = packet.sent.frames
    packet.sent.frames = record
    return True


cdef void control_write(QuicConnection conn, Path* path, Packet* packet) noexcept nogil:
    cdef Kind* row
    while conn.control.head != NULL:
        row = &KINDS[conn.control.head.type - CONTROL]
        if packet.level < row.level or not has_room(packet, row.room):
            return
        append_frame(conn, path, packet, take_record(&conn.control))


cdef void control_last_words(QuicConnection conn, Path* path, Packet* packet) noexcept nogil:
    cdef FrameRec* record = NULL
    if not path.abandon_due or not has_room(packet, KINDS[CONTROL_PATH_ABANDON].room):
        return
    if frame_rec(&record, CONTROL + CONTROL_PATH_ABANDON, path.id, 0, path.abandon_code, 0) != NULL:
        conn.control.open[CONTROL_PATH_ABANDON] += 1
        append_frame(conn, path, packet, record)


cdef void control_acked(QuicConnection conn, FrameRec* record) noexcept nogil:
    cdef Kind* row = &KINDS[record.type - CONTROL]
    conn.control.open[record.type - CONTROL] -= 1
    if row.acked != NULL:
        row.acked(conn, record)
    free(record)


cdef void control_lost(QuicConnection conn, FrameRec* record) noexcept nogil:
    cdef LostFn again = KINDS[record.type - CONTROL].again
    if again != NULL and not again(conn, record):
        forget(conn, record)
    else:
        append_record(&conn.control, record)
