"""What NAT traversal knows on one connection: addresses of both sides, who was asked, and who answered.

Nothing here sends or decides; `_traversal` does. Sources: iroh's NAT traversal frames, RFC 9000 §8.2.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from iroh_fast._batch cimport UdpAddr, addr_is_v4

cdef enum:
    STEP = 4                      # places that are added at once

# What stands for relays and other transports inside the engine: no address of a network.
cdef uint8_t[6] MAPPED = [0xfd, 0x15, 0x07, 0x0a, 0x51, 0x0b]


cdef inline bint same(const UdpAddr* a, const UdpAddr* b) noexcept nogil:
    return a.port == b.port and memcmp(a.ip, b.ip, 16) == 0


cdef void traversal_free(Traversal* t) noexcept nogil:
    free(t.own)
    free(t.candidates)
    free(t.asked)
    free(t.proven)


cdef bint addr_is_fit(const UdpAddr* addr) noexcept nogil:
    """No: port 0, unspecified, multicast, broadcast, reserved, link-local of an unknown link, and our own private prefix."""
    cdef uint64_t high
    if addr.port == 0:
        return False
    if addr_is_v4(addr):
        return 0 < addr.ip[12] < 224
    if addr.ip[0] == 0xff or (addr.ip[0] == 0xfe and addr.ip[1] & 0xc0 == 0x80):
        return False
    if memcmp(addr.ip, MAPPED, 6) == 0:
        return False
    memcpy(&high, addr.ip, 8)
    # ::/64 holds the unspecified address, loopback, and forms of IPv4 addresses that nobody routes.
    return high != 0 or addr_is_loopback(addr)


cdef bint addr_is_loopback(const UdpAddr* addr) noexcept nogil:
    cdef int i
    if addr_is_v4(addr):
        return addr.ip[12] == 127
    for i in range(15):
        if addr.ip[i]:
            return False
    return addr.ip[15] == 1


cdef void* grown(void* array, int n, size_t size) noexcept nogil:
    """The array with room for one more than n; NULL: out of memory, the array is as it was."""
    return array if n % STEP else realloc(array, (n + STEP) * size)


# ---------------------------------------------------------------- own addresses
cdef OwnAddress* own_add(Traversal* t, const UdpAddr* addr) noexcept nogil:
    cdef void* array = grown(t.own, t.n_own, sizeof(OwnAddress))
    cdef OwnAddress* own
    if array == NULL:
        return NULL
    t.own = <OwnAddress*>array
    own = &t.own[t.n_own]
    t.n_own += 1
    memset(own, 0, sizeof(OwnAddress))
    own.addr = addr[0]
    own.seq = t.next_seq
    t.next_seq += 1
    return own


cdef OwnAddress* own_find(Traversal* t, uint64_t seq) noexcept nogil:
    cdef int i
    for i in range(t.n_own):
        if t.own[i].seq == seq and not t.own[i].gone:
            return &t.own[i]
    return NULL


cdef OwnAddress* own_at(Traversal* t, const UdpAddr* addr) noexcept nogil:
    cdef int i
    for i in range(t.n_own):
        if same(&t.own[i].addr, addr) and not t.own[i].gone:
            return &t.own[i]
    return NULL


cdef void own_remove(Traversal* t, int index) noexcept nogil:
    t.n_own -= 1
    memmove(&t.own[index], &t.own[index + 1], (t.n_own - index) * sizeof(OwnAddress))


cdef void own_move(Traversal* t, int index, int to) noexcept nogil:
    """Forward in the order: those between move back by one."""
    cdef OwnAddress own = t.own[index]
    memmove(&t.own[to + 1], &t.own[to], (index - to) * sizeof(OwnAddress))
    t.own[to] = own


cdef int own_live(const Traversal* t) noexcept nogil:
    cdef int i, n = 0
    for i in range(t.n_own):
        n += not t.own[i].gone
    return n


# ---------------------------------------------------------------- the peer's addresses
cdef Candidate* candidate_add(Traversal* t, const UdpAddr* addr, uint64_t seq) noexcept nogil:
    cdef void* array = grown(t.candidates, t.n_candidates, sizeof(Candidate))
    cdef Candidate* candidate
    if array == NULL:
        return NULL
    t.candidates = <Candidate*>array
    candidate = &t.candidates[t.n_candidates]
    t.n_candidates += 1
    memset(candidate, 0, sizeof(Candidate))
    candidate.addr = addr[0]
    candidate.seq = seq
    return candidate


cdef Candidate* candidate_at(Traversal* t, const UdpAddr* addr) noexcept nogil:
    cdef int i
    for i in range(t.n_candidates):
        if same(&t.candidates[i].addr, addr):
            return &t.candidates[i]
    return NULL


cdef Candidate* candidate_find(Traversal* t, uint64_t seq) noexcept nogil:
    cdef int i
    for i in range(t.n_candidates):
        if t.candidates[i].seq == seq:
            return &t.candidates[i]
    return NULL


cdef void candidate_remove(Traversal* t, Candidate* candidate) noexcept nogil:
    cdef long i = candidate - t.candidates
    probe_done(t, candidate)
    t.n_candidates -= 1
    memmove(&t.candidates[i], &t.candidates[i + 1], (t.n_candidates - i) * sizeof(Candidate))


cdef void candidate_renew(Traversal* t, Candidate* candidate, const UdpAddr* addr) noexcept nogil:
    """Its number stands for another address now."""
    cdef uint64_t seq = candidate.seq
    probe_done(t, candidate)
    memset(candidate, 0, sizeof(Candidate))
    candidate.addr = addr[0]
    candidate.seq = seq


cdef void candidates_clear(Traversal* t) noexcept nogil:
    t.n_candidates = t.n_due = 0
    free(t.candidates)
    t.candidates = NULL


# ---------------------------------------------------------------- probes
cdef void probe_wait(Traversal* t, Candidate* candidate) noexcept nogil:
    if not candidate.due and candidate.sent < PROBES:
        candidate.due = True
        t.n_due += 1


cdef void probe_done(Traversal* t, Candidate* candidate) noexcept nogil:
    if candidate.due:
        candidate.due = False
        t.n_due -= 1


cdef void probe_sent(Traversal* t, Candidate* candidate, const uint8_t* token8, int64_t now) noexcept nogil:
    memcpy(candidate.asked[candidate.sent].token, token8, 8)
    candidate.asked[candidate.sent].at = now
    candidate.sent += 1
    t.probes += 1


cdef void bar(Traversal* t, Candidate* candidate) noexcept nogil:
    if not candidate.barred:
        candidate.barred = True
        t.refused += 1


cdef void candidate_start(Traversal* t, Candidate* candidate) noexcept nogil:
    candidate.left = PROBES - 1
    probe_wait(t, candidate)


cdef void probe_answered(Traversal* t, Candidate* candidate, int64_t rtt, int64_t now) noexcept nogil:
    candidate.answered = True
    candidate.answered_at = now
    candidate.rtt = rtt
    candidate.left = 0
    probe_done(t, candidate)


cdef int64_t token_sent_at(Traversal* t, const UdpAddr* addr, const uint8_t* token8) noexcept nogil:
    cdef int i, k
    for i in range(t.n_candidates):
        if same(&t.candidates[i].addr, addr):
            for k in range(t.candidates[i].sent):
                if memcmp(t.candidates[i].asked[k].token, token8, 8) == 0:
                    return t.candidates[i].asked[k].at
    if t.asked != NULL:
        for i in range(MAX_ASKED):
            if same(&t.asked[i].addr, addr) and memcmp(t.asked[i].asked.token, token8, 8) == 0:
                return t.asked[i].asked.at
    return -1


cdef void ask(Traversal* t, const UdpAddr* addr, const uint8_t* token8, int64_t now) noexcept nogil:
    """Remember a challenge that goes along with a response."""
    if t.asked == NULL:
        t.asked = <AskedAlong*>calloc(MAX_ASKED, sizeof(AskedAlong))
        if t.asked == NULL:
            return
    t.asked[t.asked_at].addr = addr[0]
    memcpy(t.asked[t.asked_at].asked.token, token8, 8)
    t.asked[t.asked_at].asked.at = now
    t.asked_at = (t.asked_at + 1) % MAX_ASKED


cdef void round_begin(Traversal* t, uint64_t round) noexcept nogil:
    cdef int i
    cdef Candidate* candidate
    t.round = round
    t.attempt = 0
    free(t.asked)
    t.asked = NULL
    t.asked_at = 0
    for i in range(t.n_candidates):
        candidate = &t.candidates[i]
        candidate.answered = candidate.barred = False
        candidate.sent = 0
        # The same address under two numbers is asked once.
        candidate.left = PROBES - 1 if candidate_at(t, &candidate.addr) == candidate else 0
        if candidate.left:
            probe_wait(t, candidate)


cdef bint round_next(Traversal* t) noexcept nogil:
    cdef int i
    cdef bint more = False
    t.attempt += 1
    for i in range(t.n_candidates):
        if t.candidates[i].left > 0:
            t.candidates[i].left -= 1
            probe_wait(t, &t.candidates[i])
            more = more or t.candidates[i].left > 0
    return more


cdef bint round_active(const Traversal* t) noexcept nogil:
    """Whether some address is going to be asked again."""
    cdef int i
    for i in range(t.n_candidates):
        if t.candidates[i].left > 0:
            return True
    return False


# ---------------------------------------------------------------- addresses that answered
cdef void proven_add(Traversal* t, const UdpAddr* remote, const UdpAddr* local, int64_t rtt, int64_t now) noexcept nogil:
    cdef int i = 0
    cdef void* array
    while i < t.n_proven and not same(&t.proven[i].remote, remote):
        i += 1
    if i == t.n_proven:
        array = grown(t.proven, t.n_proven, sizeof(Proven)) if t.n_proven < MAX_PROVEN else NULL
        if array == NULL:
            return
        t.proven = <Proven*>array
        t.n_proven += 1
    t.proven[i].remote = remote[0]
    t.proven[i].local = local[0]
    t.proven[i].rtt = rtt
    t.proven[i].at = now


cdef void proven_remove(Traversal* t, int index) noexcept nogil:
    t.n_proven -= 1
    memmove(&t.proven[index], &t.proven[index + 1], (t.n_proven - index) * sizeof(Proven))
