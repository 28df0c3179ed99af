"""Connection ids of a connection: ours that the peer may use, and the peer's.

Sources: RFC 9000 §5.1, §10.3, the multipath draft.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memmove

from iroh_fast._packet._frames cimport Frame
from iroh_fast.quic._codes cimport CONNECTION_ID_LIMIT_ERROR, INTERNAL_ERROR, PROTOCOL_VIOLATION, ST_ESTABLISHED
from iroh_fast.quic._control_queue cimport queue_control
from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._ledger cimport CONTROL_NEW_CID, CONTROL_RETIRE_CID
from iroh_fast.quic._path_queries cimport find_ids, find_path, pto_max, was_abandoned
from iroh_fast.quic._paths cimport (
    CidSet, LOCAL_CIDS, LocalCid, MAX_RETIRED, Path, PathTable, REMOTE_CIDS, RetiredCid, UNOPENED_CIDS, cidset_free,
    local_cid_add, local_cid_find, local_cid_remove, path_spin, remote_cid_add, remote_cid_rotate)


cdef list each_token(bytes tokens):
    return [tokens[at:at + 16] for at in range(0, len(tokens or b""), 16)]


cdef void watch_reset(Connection conn, CidSet* ids) noexcept nogil:
    """Have the endpoint recognise stateless resets for the ids in use, and only for those (RFC 9000 §10.3.1).

    `ids`: what changed, NULL for anything.
    """
    cdef Path* path = conn.paths.first
    if ids != NULL and (ids.active < 0 or not ids.remote[ids.active].has_token):
        return
    with gil:
        wanted = b""                  # one behind the other: the collector follows lists, not bytes
        while path != NULL:
            if not path.abandoned and path.cids.active >= 0 and path.cids.remote[path.cids.active].has_token:
                wanted += PyBytes_FromStringAndSize(<char*>path.cids.remote[path.cids.active].token, 16)
            path = path.next
        old, now = each_token(conn.reset_tokens), each_token(wanted)
        for token in old:
            if token not in now:
                conn.host.reset_token_remove(token)
        for token in now:
            if token not in old:
                conn.host.reset_token_add(token, conn)
        conn.reset_tokens = wanted


cdef void drop_ids(Connection conn, uint32_t id) noexcept nogil:
    """Forget all connection ids of a path id, ours and the peer's."""
    cdef CidSet** at = &conn.paths.cids
    cdef CidSet* ids
    cdef int i
    while at[0] != NULL:
        ids = at[0]
        if ids.path_id == id:
            with gil:
                for i in range(ids.n_local):
                    conn.host.cid_remove(ids.local[i].value)
            at[0] = ids.next
            cidset_free(ids)
            return
        at = &ids.next


cdef void issue_ids(Connection conn, uint32_t path_id) noexcept nogil:
    """Bring a path id up to the number of ids the peer accepts."""
    cdef CidSet* ids = find_ids(conn, path_id, True)
    cdef Path* path = find_path(conn, path_id)
    cdef uint64_t limit = conn.agreed.peer_cid_limit if conn.agreed.peer_cid_limit < LOCAL_CIDS else LOCAL_CIDS
    cdef LocalCid* local
    cdef uint64_t value
    if ids == NULL:
        return
    # DIFFERS: iroh gives them all at once, 35 for paths of which most never come to be.
    if limit > UNOPENED_CIDS and path_id and (path == NULL or not path.established):
        limit = UNOPENED_CIDS
    while <uint64_t>ids.n_local < limit:
        local = local_cid_add(ids)
        if local == NULL:
            return
        if queue_control(conn, CONTROL_NEW_CID, path_id, ids.next_seq, 0) < 0:
            ids.n_local -= 1
            return
        conn.host.new_cid(<uint8_t*>&value)
        local.seq = ids.next_seq
        local.value = value
        with gil:
            conn.host.cid_add(value, conn, path_id)
        ids.next_seq += 1


cdef void issue_path_ids(Connection conn) noexcept nogil:
    """Give ids for every path id that both sides allow, once for each."""
    cdef uint64_t top = conn.paths.local_max if conn.paths.local_max < conn.paths.remote_max else conn.paths.remote_max
    if not conn.agreed.multipath:
        return
    if conn.paths.issued == 0:
        conn.paths.issued = 1
    while conn.paths.issued <= top:
        if not was_abandoned(conn, <uint32_t>conn.paths.issued):
            issue_ids(conn, <uint32_t>conn.paths.issued)
        conn.paths.issued += 1


cdef void reset_spin(Connection conn, Path* path) noexcept nogil:
    """The spin bit starts anew with each connection id (RFC 9000 §17.4)."""
    path_spin(path, not conn.paths.spinning and (conn.host.random.word() & 1))


cdef void rotate_id(Connection conn, Path* path) noexcept nogil:
    cdef uint64_t old
    if path.cids != NULL and remote_cid_rotate(path.cids, &old):
        reset_spin(conn, path)
        watch_reset(conn, path.cids)
        queue_control(conn, CONTROL_RETIRE_CID, path.id, old, 0)


cdef void retire_later(Connection conn, uint64_t cid):
    """Keep routing an id the peer retired for a while: packets with it may be under way."""
    cdef PathTable* paths = &conn.paths
    cdef RetiredCid* grown
    cdef int gone = 0
    while gone < paths.n_retired and (
            paths.retired[gone].until <= conn.now or paths.n_retired - gone > MAX_RETIRED):
        conn.host.cid_remove(paths.retired[gone].value)
        gone += 1
    paths.n_retired -= gone
    if gone:
        memmove(paths.retired, &paths.retired[gone], paths.n_retired * sizeof(RetiredCid))
    grown = <RetiredCid*>realloc(paths.retired, (paths.n_retired + 1) * sizeof(RetiredCid))
    if grown == NULL:
        conn.host.cid_remove(cid)
        return
    grown[paths.n_retired].value = cid
    grown[paths.n_retired].until = conn.now + 3 * pto_max(conn)
    paths.retired = grown
    paths.n_retired += 1


cdef void unregister(Connection conn):
    """Forget every id at the endpoint."""
    cdef CidSet* ids = conn.paths.cids
    cdef int i
    while ids != NULL:
        for i in range(ids.n_local):
            conn.host.cid_remove(ids.local[i].value)
        ids = ids.next
    for i in range(conn.paths.n_retired):
        conn.host.cid_remove(conn.paths.retired[i].value)
    conn.paths.n_retired = 0
    if conn.reset_tokens is not None:
        for token in each_token(conn.reset_tokens):
            conn.host.reset_token_remove(token)
        conn.reset_tokens = None


cdef int on_new_id(Connection conn, uint32_t path_id, Frame* frame) noexcept nogil:
    """NEW_CONNECTION_ID or PATH_NEW_CONNECTION_ID."""
    cdef CidSet* ids
    cdef Path* path = find_path(conn, path_id)
    cdef uint64_t retired[REMOTE_CIDS + 1]
    cdef int n = 0, i, rc
    if path_id > conn.paths.sent_max:
        return conn.fail(PROTOCOL_VIOLATION, b"PATH_NEW_CONNECTION_ID contains path_id exceeding current max", 0)
    if path_id == 0 and conn.handshake.theirs.len == 0:
        # RFC 9000 §19.15: a peer that goes without ids has none to give.
        return conn.fail(PROTOCOL_VIOLATION, b"NEW_CONNECTION_ID when CIDs aren't in use", 0)
    if was_abandoned(conn, path_id):
        return 0
    ids = find_ids(conn, path_id, True)
    if ids == NULL:
        return conn.fail(INTERNAL_ERROR, b"out of memory", 0)
    rc = remote_cid_add(ids, frame.id, frame.offset, frame.data, <uint8_t>frame.len, frame.token, retired, &n)
    if rc == -1:
        return conn.fail(CONNECTION_ID_LIMIT_ERROR, b"", 0)
    if rc == -2:
        return conn.fail(PROTOCOL_VIOLATION, b"conflicting connection ids", 0)
    if rc == -3:
        return conn.fail(INTERNAL_ERROR, b"out of memory", 0)
    if rc == 2:
        retired[n] = frame.id
        n += 1
    for i in range(n):
        if queue_control(conn, CONTROL_RETIRE_CID, path_id, retired[i], 0) < 0:
            return -1
    if path == NULL:
        return 0
    if n:
        watch_reset(conn, ids)
    if path_id == 0 and not conn.is_client and ids.active >= 0 and ids.remote[ids.active].seq == 0 and ids.n_remote > 1:
        # Like iroh: leave the client's handshake id as soon as there is another.
        rotate_id(conn, path)
    return 0


cdef int on_retired_id(Connection conn, uint32_t path_id, uint64_t seq) noexcept nogil:
    """RETIRE_CONNECTION_ID or PATH_RETIRE_CONNECTION_ID."""
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
    with gil:
        retire_later(conn, local.value)
    local_cid_remove(ids, local)
    if not was_abandoned(conn, path_id) and conn.state == ST_ESTABLISHED:
        issue_ids(conn, path_id)
    return 0
