"""Paths and connection IDs of one connection. Sources: RFC 9000 §5.1, §9, the multipath draft."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from iroh_fast.quic._space cimport space_free
from iroh_fast.quic._timers cimport timers_clear


cdef bint ids_have(const IdRanges* ids, uint32_t id) noexcept nogil:
    cdef int i = ids.n - 1
    while i >= 0 and ids.ranges[i].start > id:
        i -= 1
    return i >= 0 and id < ids.ranges[i].end


cdef int ids_add(IdRanges* ids, uint32_t id) noexcept nogil:
    cdef int i = ids.n
    cdef IdRange* grown
    while i > 0 and ids.ranges[i - 1].start > id:
        i -= 1
    # interval i-1 starts at or below id, interval i above
    if i > 0 and id < ids.ranges[i - 1].end:
        return 0
    if i > 0 and ids.ranges[i - 1].end == id:
        ids.ranges[i - 1].end += 1
        if i < ids.n and ids.ranges[i].start == ids.ranges[i - 1].end:
            ids.ranges[i - 1].end = ids.ranges[i].end
            memmove(&ids.ranges[i], &ids.ranges[i + 1], (ids.n - i - 1) * sizeof(IdRange))
            ids.n -= 1
        return 1
    if i < ids.n and ids.ranges[i].start == <uint64_t>id + 1:
        ids.ranges[i].start = id
        return 1
    if ids.n == ids.cap:
        grown = <IdRange*>realloc(ids.ranges, (ids.cap + 8) * sizeof(IdRange))
        if grown == NULL:
            return -1
        ids.ranges = grown
        ids.cap += 8
    memmove(&ids.ranges[i + 1], &ids.ranges[i], (ids.n - i) * sizeof(IdRange))
    ids.ranges[i].start = id
    ids.ranges[i].end = <uint64_t>id + 1
    ids.n += 1
    return 1


cdef Path* path_new(uint32_t id) noexcept nogil:
    cdef Path* path = <Path*>calloc(1, sizeof(Path))
    if path != NULL:
        path.id = id
        timers_clear(&path.timers)
        path.remote_status_seq = -1
        path.observed_seq = -1
        path.carries_full = id == 0   # as the handshake did
    return path


cdef void path_free(Path* path) noexcept nogil:
    if path == NULL:
        return
    space_free(&path.recovery.space)
    free(path.previous)
    free(path)


cdef void paths_free(PathTable* paths) noexcept nogil:
    cdef Path* path = paths.first
    cdef Path* following
    cdef CidSet* ids = paths.cids
    cdef CidSet* more
    while path != NULL:
        following = path.next
        path_free(path)
        path = following
    while ids != NULL:
        more = ids.next
        cidset_free(ids)
        ids = more
    free(paths.abandoned.ranges)
    free(paths.off_path)
    free(paths.budgets)
    free(paths.retired)
    free(paths.done)


cdef uint64_t paths_first_id(PathTable* paths, const uint8_t* id8) except? 0:
    cdef CidSet* ids = cidset_new(0)
    cdef LocalCid* local
    if ids == NULL:
        raise MemoryError
    ids.next = paths.cids
    paths.cids = ids
    local = local_cid_add(ids)
    if local == NULL:
        raise MemoryError
    local.seq = 0
    memcpy(&local.value, id8, CID_LEN)
    ids.next_seq = ids.sent = 1
    return local.value


cdef void stats_add(PathStats* total, const PathStats* stats) noexcept nogil:
    cdef uint64_t* to = <uint64_t*>total
    cdef const uint64_t* of = <const uint64_t*>stats
    cdef size_t i
    for i in range(sizeof(PathStats) // sizeof(uint64_t)):
        to[i] += of[i]


cdef CidSet* cidset_new(uint32_t path_id) noexcept nogil:
    cdef CidSet* ids = <CidSet*>calloc(1, sizeof(CidSet))
    if ids != NULL:
        ids.path_id = path_id
        ids.active = -1
        ids.local = ids.few_local
        ids.remote = ids.few_remote
    return ids


cdef void cidset_free(CidSet* ids) noexcept nogil:
    if ids.local != ids.few_local:
        free(ids.local)
    if ids.remote != ids.few_remote:
        free(ids.remote)
    free(ids)


cdef bint make_remote_room(CidSet* ids) noexcept nogil:
    cdef RemoteCid* grown
    if ids.n_remote < UNOPENED_CIDS or ids.remote != ids.few_remote:
        return True
    grown = <RemoteCid*>malloc(REMOTE_CIDS * sizeof(RemoteCid))
    if grown == NULL:
        return False
    memcpy(grown, ids.few_remote, ids.n_remote * sizeof(RemoteCid))
    ids.remote = grown
    return True


cdef int remote_cid_add(CidSet* ids, uint64_t seq, uint64_t retire_prior_to, const uint8_t* cid, uint8_t n,
                        const uint8_t* token, uint64_t* retired, int* n_retired) noexcept nogil:
    cdef int i, k
    cdef uint64_t active_seq = 0
    cdef RemoteCid* remote
    n_retired[0] = 0
    for i in range(ids.n_remote):
        if ids.remote[i].seq == seq:
            if ids.remote[i].len != n or memcmp(ids.remote[i].cid, cid, n) != 0:
                return -2
            return 1
    # Retired before, or arrived too late to matter. Ids that merely overtook each other are all kept.
    if seq < ids.retire_prior_to or seq < ids.given_up:
        return 2
    if retire_prior_to > ids.retire_prior_to:
        ids.retire_prior_to = retire_prior_to
        if ids.active >= 0:
            active_seq = ids.remote[ids.active].seq
        k = 0
        for i in range(ids.n_remote):
            if ids.remote[i].seq < retire_prior_to:
                retired[n_retired[0]] = ids.remote[i].seq
                n_retired[0] += 1
            else:
                ids.remote[k] = ids.remote[i]
                k += 1
        ids.n_remote = k
        if ids.active >= 0:
            ids.active = -1
            for i in range(k):
                if ids.remote[i].seq == active_seq:
                    ids.active = i
    if ids.n_remote == REMOTE_CIDS:
        return -1
    if not make_remote_room(ids):
        return -3
    remote = &ids.remote[ids.n_remote]
    remote.seq = seq
    remote.len = n
    memcpy(remote.cid, cid, n)
    remote.has_token = token != NULL
    if token != NULL:
        memcpy(remote.token, token, 16)
    ids.n_remote += 1
    if ids.active < 0:
        # the lowest sequence number first
        ids.active = 0
        for i in range(1, ids.n_remote):
            if ids.remote[i].seq < ids.remote[ids.active].seq:
                ids.active = i
    return 0


cdef void remote_cid_first(CidSet* ids, const uint8_t* cid, size_t n) noexcept nogil:
    ids.n_remote = 1
    ids.active = 0
    memset(&ids.remote[0], 0, sizeof(RemoteCid))
    ids.remote[0].len = <uint8_t>n
    memcpy(ids.remote[0].cid, cid, n)


cdef bint remote_cid_rotate(CidSet* ids, uint64_t* retired) noexcept nogil:
    cdef int i, best = -1
    if ids.active < 0 or ids.n_remote < 2:
        return False
    for i in range(ids.n_remote):
        if i != ids.active and (best < 0 or ids.remote[i].seq < ids.remote[best].seq):
            best = i
    retired[0] = ids.remote[ids.active].seq
    if ids.given_up <= retired[0]:
        ids.given_up = retired[0] + 1
    ids.n_remote -= 1
    if best == ids.n_remote:
        best = ids.active           # the last entry moves into the hole
    ids.remote[ids.active] = ids.remote[ids.n_remote]
    ids.active = best
    return True


cdef LocalCid* local_cid_add(CidSet* ids) noexcept nogil:
    cdef LocalCid* grown
    if ids.n_local >= UNOPENED_CIDS and ids.local == ids.few_local:
        grown = <LocalCid*>malloc(LOCAL_CIDS * sizeof(LocalCid))
        if grown == NULL:
            return NULL
        memcpy(grown, ids.few_local, ids.n_local * sizeof(LocalCid))
        ids.local = grown
    ids.n_local += 1
    return &ids.local[ids.n_local - 1]


cdef LocalCid* local_cid_find(CidSet* ids, uint64_t seq) noexcept nogil:
    cdef int i
    for i in range(ids.n_local):
        if ids.local[i].seq == seq:
            return &ids.local[i]
    return NULL


cdef void local_cid_remove(CidSet* ids, LocalCid* local) noexcept nogil:
    cdef long i = local - &ids.local[0]
    memmove(&ids.local[i], &ids.local[i + 1], (ids.n_local - i - 1) * sizeof(LocalCid))
    ids.n_local -= 1


cdef class PathIds:
    """A set of path ids as intervals (for tests)."""

    cdef IdRanges ids

    def __dealloc__(self):
        free(self.ids.ranges)

    def add(self, uint32_t id):
        """Whether the id is new."""
        return ids_add(&self.ids, id) == 1

    def __contains__(self, uint32_t id):
        return ids_have(&self.ids, id)

    @property
    def ranges(self):
        """Half-open ranges, ascending."""
        return [(self.ids.ranges[i].start, self.ids.ranges[i].end) for i in range(self.ids.n)]
