"""The control-frame ledger: frames that must arrive, whichever path carries them.

One table says for each kind at which level it may be sent, how much room it takes, whether one that waits stands for all,
how many may wait or be under way, and what happens beyond. Values are those of the time of writing, so a frame that waited
is never stale, and one that has become pointless is not sent. Every step is constant work. The frames of streams are in the
stream table, bounded by the number of streams. Sources: RFC 9000 §13.3, §21.9, the multipath and ACK frequency drafts.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._packet._frames cimport (
    FT_ACK_FREQUENCY, FT_HANDSHAKE_DONE, FT_MAX_PATH_ID, FT_NEW_CONNECTION_ID, FT_PATHS_BLOCKED, FT_PATH_ABANDON,
    FT_PATH_CIDS_BLOCKED, FT_PATH_NEW_CONNECTION_ID, FT_PATH_RETIRE_CONNECTION_ID, FT_PATH_STATUS_AVAILABLE,
    FT_PATH_STATUS_BACKUP, FT_RETIRE_CONNECTION_ID)
from iroh_fast._packet._put cimport put_ack_frequency, put_new_cid, put_v1, put_v2
from iroh_fast._packet._varint cimport put_varint
from iroh_fast.quic._codes cimport CONNECTION_ID_LIMIT_ERROR, NO_ERROR, PROTOCOL_VIOLATION
from iroh_fast.quic._control_queue cimport (
    AckedFn, Kind, LostFn, WriteFn, append_record, control_kind, first_record, forget_record, make_record,
    queue_control, take_record)
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._counters cimport frame_index
from iroh_fast.quic._keys cimport LEVEL_1RTT
from iroh_fast.quic._ledger cimport (
    CONTROL, CONTROL_ACK_FREQUENCY, CONTROL_ADD_ADDRESS, CONTROL_CIDS_BLOCKED, CONTROL_HANDSHAKE_DONE,
    CONTROL_MAX_PATH_ID, CONTROL_NEW_CID, CONTROL_PATHS_BLOCKED, CONTROL_PATH_ABANDON, CONTROL_PATH_STATUS,
    CONTROL_REACH_OUT, CONTROL_REMOVE_ADDRESS, CONTROL_RETIRE_CID, MAX_ADDRESS_FRAMES)
from iroh_fast.quic._packets cimport Packet, has_room
from iroh_fast.quic._path_queries cimport find_ids, find_path, was_abandoned
from iroh_fast.quic._paths cimport (
    CID_LEN, CidSet, LOCAL_CIDS, LocalCid, Path, REMOTE_CIDS, STATUS_BACKUP, local_cid_find, local_cid_sent, path_rtt,
    paths_tell_max)
from iroh_fast.quic._sent cimport FrameRec, REC_ELICITING
from iroh_fast.quic._time cimport MS, ns_from_us
from iroh_fast.quic._traversal_addresses cimport (
    add_address_again, address_acked, reach_out_again, write_add_address, write_reach_out, write_remove_address)


# ---------------------------------------------------------------- what each kind is
cdef uint8_t* write_handshake_done(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    record.b = FT_HANDSHAKE_DONE
    return put_varint(at, FT_HANDSHAKE_DONE)


cdef uint8_t* write_new_cid(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    cdef CidSet* ids = find_ids(conn, <uint32_t>record.path, False)
    cdef LocalCid* local = local_cid_find(ids, record.id) if ids != NULL else NULL
    cdef uint8_t token[16]
    if local == NULL or was_abandoned(conn, <uint32_t>record.path):
        return NULL
    local_cid_sent(ids, record.id)
    conn.host.token_for(<uint8_t*>&local.value, token)
    # With multipath negotiated every id is announced with its path.
    record.b = FT_PATH_NEW_CONNECTION_ID if conn.agreed.multipath else FT_NEW_CONNECTION_ID
    return put_new_cid(at, conn.agreed.multipath, record.path, record.id, 0, <uint8_t*>&local.value, CID_LEN, token)


cdef uint8_t* write_retire_cid(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    if was_abandoned(conn, <uint32_t>record.path):
        return NULL
    if conn.agreed.multipath:
        record.b = FT_PATH_RETIRE_CONNECTION_ID
        return put_v2(at, FT_PATH_RETIRE_CONNECTION_ID, record.path, record.id)
    record.b = FT_RETIRE_CONNECTION_ID
    return put_v1(at, FT_RETIRE_CONNECTION_ID, record.id)


cdef uint8_t* write_path_abandon(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    cdef Path* path = find_path(conn, <uint32_t>record.path)
    if path != NULL:
        if not path.abandon_due:
            return NULL           # it went out of turn
        path.abandon_due = False
    record.b = FT_PATH_ABANDON
    return put_v2(at, FT_PATH_ABANDON, record.path, record.a)


cdef bint path_abandon_again(Connection conn, FrameRec* record) noexcept nogil:
    cdef Path* path = find_path(conn, <uint32_t>record.path)
    if path != NULL:
        path.abandon_due = True
    return True


cdef uint8_t* write_path_status(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    cdef Path* path = find_path(conn, <uint32_t>record.path)
    if path == NULL or path.abandoned:
        return NULL
    path.status_queued = path.status_due = False
    record.id = path.status_seq
    record.b = FT_PATH_STATUS_BACKUP if path.status == STATUS_BACKUP else FT_PATH_STATUS_AVAILABLE
    return put_v2(at, record.b, record.path, record.id)


cdef bint path_status_again(Connection conn, FrameRec* record) noexcept nogil:
    cdef Path* path = find_path(conn, <uint32_t>record.path)
    if path == NULL or path.abandoned or path.status_queued or (record.id != path.status_seq and not path.status_due):
        return False              # a newer one says more
    path.status_queued = True
    return True


cdef void path_status_acked(Connection conn, FrameRec* record) noexcept nogil:
    """Changes that found too many under way have waited for this."""
    cdef Path* path = find_path(conn, <uint32_t>record.path)
    if path != NULL and path.status_due and not path.status_queued:
        path.status_queued = queue_control(conn, CONTROL_PATH_STATUS, path.id, 0, 0) == 0


cdef uint8_t* write_max_path_id(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    record.id = paths_tell_max(&conn.paths)
    record.b = FT_MAX_PATH_ID
    return put_v1(at, FT_MAX_PATH_ID, record.id)


cdef bint max_path_id_again(Connection conn, FrameRec* record) noexcept nogil:
    return record.id == conn.paths.sent_max


cdef uint8_t* write_paths_blocked(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    if conn.paths.remote_max > record.id:
        return NULL
    record.b = FT_PATHS_BLOCKED
    return put_v1(at, FT_PATHS_BLOCKED, record.id)


cdef uint8_t* write_cids_blocked(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    cdef CidSet* ids = find_ids(conn, <uint32_t>record.path, False)
    if ids != NULL and ids.n_remote or was_abandoned(conn, <uint32_t>record.path):
        return NULL
    record.b = FT_PATH_CIDS_BLOCKED
    return put_v2(at, FT_PATH_CIDS_BLOCKED, record.path, 0)


cdef int64_t ack_frequency_delay(Connection conn) noexcept nogil:
    cdef int64_t delay = conn.cfg.af_max_delay if conn.cfg.af_max_delay else conn.agreed.peer_max_ack_delay
    cdef int64_t least = ns_from_us(conn.agreed.peer_min_ack_delay_us)
    cdef int64_t rtt = path_rtt(conn.paths.first) if conn.paths.first != NULL else 0
    if delay < least:
        delay = least
    if rtt < 25 * MS:
        rtt = 25 * MS
    return delay if delay < rtt else rtt


cdef uint8_t* write_ack_frequency(Connection conn, uint8_t* at, FrameRec* record) noexcept nogil:
    record.b = FT_ACK_FREQUENCY
    return put_ack_frequency(at, record.id, conn.cfg.af_threshold, <uint64_t>ack_frequency_delay(conn) // 1000,
                             conn.cfg.af_reorder)


cdef void add_kind(int kind, WriteFn write, LostFn again, int room, bint joins, uint32_t bound, uint32_t per_path,
                   uint64_t error, const char* text, AckedFn acked=NULL):
    cdef Kind* row = control_kind(kind)
    row.level = LEVEL_1RTT
    row.room = room
    row.joins = joins
    row.bound = bound
    row.per_path = per_path
    row.error = error
    row.text = text
    row.write = write
    row.acked = acked
    row.again = again


#        kind                    write                 again         room  joins bound  per path, beyond
add_kind(CONTROL_HANDSHAKE_DONE, write_handshake_done, NULL,               1, True, 1, 0, NO_ERROR, NULL)
add_kind(CONTROL_NEW_CID, write_new_cid, NULL,                            60, False, 64, 4 * LOCAL_CIDS,
         PROTOCOL_VIOLATION, b"connection ids are retired faster than acknowledged")
add_kind(CONTROL_RETIRE_CID, write_retire_cid, NULL,                      20, False, 10, 2 * REMOTE_CIDS,
         CONNECTION_ID_LIMIT_ERROR, b"too many retired connection ids")
add_kind(CONTROL_PATH_ABANDON, write_path_abandon, path_abandon_again,    20, False, 8, 8,
         PROTOCOL_VIOLATION, b"paths are abandoned faster than acknowledged")
add_kind(CONTROL_PATH_STATUS, write_path_status, path_status_again,       20, False, 8, 8, NO_ERROR, NULL,
         path_status_acked)
add_kind(CONTROL_MAX_PATH_ID, write_max_path_id, max_path_id_again,       12, True, 8, 8,
         PROTOCOL_VIOLATION, b"paths are abandoned faster than acknowledged")
add_kind(CONTROL_PATHS_BLOCKED, write_paths_blocked, NULL,                12, True, 2, 0, NO_ERROR, NULL)
add_kind(CONTROL_CIDS_BLOCKED, write_cids_blocked, NULL,                  20, True, 2, 0, NO_ERROR, NULL)
add_kind(CONTROL_ACK_FREQUENCY, write_ack_frequency, NULL,                36, True, 2, 0, NO_ERROR, NULL)


add_kind(CONTROL_ADD_ADDRESS, write_add_address, add_address_again,       36, False, MAX_ADDRESS_FRAMES, 0, NO_ERROR, NULL,
         address_acked)
add_kind(CONTROL_REMOVE_ADDRESS, write_remove_address, NULL,              12, False, MAX_ADDRESS_FRAMES, 0, NO_ERROR, NULL,
         address_acked)
add_kind(CONTROL_REACH_OUT, write_reach_out, reach_out_again,             36, False, MAX_ADDRESS_FRAMES, 0, NO_ERROR, NULL)


# ---------------------------------------------------------------- the way of a frame
cdef bint append_frame(Connection conn, Path* path, Packet* packet, FrameRec* record) noexcept nogil:
    """Put one frame into the packet, flag, count and remember it; False when it has become pointless. Room is there."""
    cdef uint8_t* end = control_kind(record.type - CONTROL).write(conn, packet.at, record)
    if end == NULL:
        forget_record(conn, record)
        return False
    packet.at = end
    packet.sent.flags |= REC_ELICITING
    path.stats.tx_frames[frame_index(record.b)] += 1
    record.next = packet.sent.frames
    packet.sent.frames = record
    return True


cdef void control_write(Connection conn, Path* path, Packet* packet) noexcept nogil:
    cdef Kind* row
    cdef FrameRec* record
    while (record := first_record(conn)) != NULL:
        row = control_kind(record.type - CONTROL)
        if packet.level < row.level or not has_room(packet, row.room):
            return
        append_frame(conn, path, packet, take_record(conn))


cdef void control_last_words(Connection conn, Path* path, Packet* packet) noexcept nogil:
    cdef FrameRec* record
    if not path.abandon_due or not has_room(packet, control_kind(CONTROL_PATH_ABANDON).room):
        return
    record = make_record(conn, CONTROL_PATH_ABANDON, path.id, 0, path.abandon_code)
    if record != NULL:
        append_frame(conn, path, packet, record)


cdef void control_acked(Connection conn, FrameRec* record) noexcept nogil:
    cdef AckedFn acked = control_kind(record.type - CONTROL).acked
    cdef FrameRec gone = record[0]
    forget_record(conn, record)
    if acked != NULL:
        acked(conn, &gone)


cdef void control_lost(Connection conn, FrameRec* record) noexcept nogil:
    cdef LostFn again = control_kind(record.type - CONTROL).again
    if again != NULL and not again(conn, record):
        forget_record(conn, record)
    else:
        append_record(conn, record)
