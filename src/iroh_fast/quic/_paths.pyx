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
    cdef Path* p = <Path*>calloc(1, sizeof(Path))
    if p != NULL:
        p.id = id
        timers_clear(&p.timers)
        p.remote_status_seq = -1
        p.observed_seq = -1
    return p


cdef void path_free(Path* p) noexcept nogil:
    if p == NULL:
        return
    space_free(&p.recovery.space)
    free(p.previous)
    free(p)


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


cdef void stats_add(PathStats* total, const PathStats* stats) noexcept nogil:
    cdef uint64_t* to = <uint64_t*>total
    cdef const uint64_t* of = <const uint64_t*>stats
    cdef size_t i
    for i in range(sizeof(PathStats) // sizeof(uint64_t)):
        to[i] += of[i]


cdef CidSet* cidset_new(uint32_t path_id) noexcept nogil:
    cdef CidSet* c = <CidSet*>calloc(1, sizeof(CidSet))
    if c != NULL:
        c.path_id = path_id
        c.active = -1
        c.local = c.few_local
        c.remote = c.few_remote
    return c


cdef void cidset_free(CidSet* c) noexcept nogil:
    if c.local != c.few_local:
        free(c.local)
    if c.remote != c.few_remote:
        free(c.remote)
    free(c)


cdef bint make_remote_room(CidSet* c) noexcept nogil:
    cdef RemoteCid* grown
    if c.n_remote < UNOPENED_CIDS or c.remote != c.few_remote:
        return True
    grown = <RemoteCid*>malloc(REMOTE_CIDS * sizeof(RemoteCid))
    if grown == NULL:
        return False
    memcpy(grown, c.few_remote, c.n_remote * sizeof(RemoteCid))
    c.remote = grown
    return True


cdef int remote_cid_add(CidSet* c, uint64_t seq, uint64_t retire_prior_to, const uint8_t* cid, uint8_t n,
                        const uint8_t* token, uint64_t* retired, int* n_retired) noexcept nogil:
    cdef int i, k
    cdef uint64_t active_seq = 0
    cdef RemoteCid* r
    n_retired[0] = 0
    for i in range(c.n_remote):
        if c.remote[i].seq == seq:
            if c.remote[i].len != n or memcmp(c.remote[i].cid, cid, n) != 0:
                return -2
            return 1
    # Retired before, or arrived too late to matter. Ids that merely overtook each other are all kept.
    if seq < c.retire_prior_to or seq < c.given_up:
        return 2
    if retire_prior_to > c.retire_prior_to:
        c.retire_prior_to = retire_prior_to
        if c.active >= 0:
            active_seq = c.remote[c.active].seq
        k = 0
        for i in range(c.n_remote):
            if c.remote[i].seq < retire_prior_to:
                retired[n_retired[0]] = c.remote[i].seq
                n_retired[0] += 1
            else:
                c.remote[k] = c.remote[i]
                k += 1
        c.n_remote = k
        if c.active >= 0:
            c.active = -1
            for i in range(k):
                if c.remote[i].seq == active_seq:
                    c.active = i
    if c.n_remote == REMOTE_CIDS:
        return -1
    if not make_remote_room(c):
        return -3
    r = &c.remote[c.n_remote]
    r.seq = seq
    r.len = n
    memcpy(r.cid, cid, n)
    r.has_token = token != NULL
    if token != NULL:
        memcpy(r.token, token, 16)
    c.n_remote += 1
    if c.active < 0:
        # the lowest sequence number first
        c.active = 0
        for i in range(1, c.n_remote):
            if c.remote[i].seq < c.remote[c.active].seq:
                c.active = i
    return 0


cdef void remote_cid_first(CidSet* c, const uint8_t* cid, size_t n) noexcept nogil:
    c.n_remote = 1
    c.active = 0
    memset(&c.remote[0], 0, sizeof(RemoteCid))
    c.remote[0].len = <uint8_t>n
    memcpy(c.remote[0].cid, cid, n)


cdef bint remote_cid_rotate(CidSet* c, uint64_t* retired) noexcept nogil:
    cdef int i, best = -1
    if c.active < 0 or c.n_remote < 2:
        return False
    for i in range(c.n_remote):
        if i != c.active and (best < 0 or c.remote[i].seq < c.remote[best].seq):
            best = i
    retired[0] = c.remote[c.active].seq
    if c.given_up <= retired[0]:
        c.given_up = retired[0] + 1
    c.n_remote -= 1
    if best == c.n_remote:
        best = c.active           # the last entry moves into the hole
    c.remote[c.active] = c.remote[c.n_remote]
    c.active = best
    return True


cdef LocalCid* local_cid_add(CidSet* c) noexcept nogil:
    cdef LocalCid* grown
    if c.n_local >= UNOPENED_CIDS and c.local == c.few_local:
        grown = <LocalCid*>malloc(LOCAL_CIDS * sizeof(LocalCid))
        if grown == NULL:
            return NULL
        memcpy(grown, c.few_local, c.n_local * sizeof(LocalCid))
        c.local = grown
    c.n_local += 1
    return &c.local[c.n_local - 1]


cdef LocalCid* local_cid_find(CidSet* c, uint64_t seq) noexcept nogil:
    cdef int i
    for i in range(c.n_local):
        if c.local[i].seq == seq:
            return &c.local[i]
    return NULL


cdef void local_cid_remove(CidSet* c, LocalCid* l) noexcept nogil:
    cdef long i = l - &c.local[0]
    memmove(&c.local[i], &c.local[i + 1], (c.n_local - i - 1) * sizeof(LocalCid))
    c.n_local -= 1


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
