"""What NAT traversal knows on one connection: addresses of both sides, who was asked, and who answered."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._time cimport SECOND, doubled


cdef enum:
    PROBES = 9                    # per address and round
    MAX_ASKED = 16                # challenges that went along with responses and may still be answered
    MAX_PROVEN = 16               # addresses that answered and wait for a path


# An address of ours that the peer may try. The server numbers them and says which ones come and go.
cdef struct OwnAddress:
    UdpAddr addr
    uint64_t seq
    bint told                     # the peer hears of it
    bint gone                     # ... and has to hear that it is ours no longer


cdef struct Asked:
    uint8_t token[8]
    int64_t at


# An address of the peer that we may try.
cdef struct Candidate:
    UdpAddr addr
    uint64_t seq                  # client: the server's number
    int left                      # attempts that follow in this round
    int sent                      # in this round
    bint due                      # a probe waits to be sent
    bint answered                 # in this round
    bint barred                   # our own, or of a kind that we do not reach
    Asked asked[9]                # PROBES; what was sent in this round
    int64_t answered_at
    int64_t rtt                   # of the answer


# A challenge that went beside a response.
cdef struct AskedAlong:
    UdpAddr addr
    Asked asked


# An address that answered and has no path yet.
cdef struct Proven:
    UdpAddr remote
    UdpAddr local
    int64_t at
    int64_t rtt


# Memory is taken for what there is; a connection without traversal has none.
cdef struct Traversal:
    OwnAddress* own               # most useful first, those that are gone at the end
    Candidate* candidates
    AskedAlong* asked             # MAX_ASKED, the oldest is replaced
    Proven* proven
    int n_own, n_candidates, n_proven
    int asked_at
    int n_due                     # candidates with a probe that waits
    int attempt                   # of the round
    uint64_t round                # 0: none yet
    uint64_t next_seq             # of the next own address
    uint64_t probes, answers      # sent, and answered
    uint64_t refused              # addresses of the peer that nobody may be sent to
    uint64_t held                 # probes that the endpoint's limit held back


cdef void traversal_free(Traversal* t) noexcept nogil
# Whether a peer may have us send to an address at all.
cdef bint addr_is_fit(const UdpAddr* addr) noexcept nogil
cdef bint addr_is_loopback(const UdpAddr* addr) noexcept nogil

# The wait before the attempt after this one: a tenth of the first round trip's estimate, doubled up to two seconds.
cdef inline int64_t retry_delay(int64_t initial_rtt, int attempt) noexcept nogil:
    cdef int64_t delay = doubled(initial_rtt // 10, attempt - 1 if attempt > 1 else 0)
    return delay if delay < 2 * SECOND else 2 * SECOND

# Own addresses; NULL: out of memory, none with this number.
cdef OwnAddress* own_add(Traversal* t, const UdpAddr* addr) noexcept nogil
cdef OwnAddress* own_find(Traversal* t, uint64_t seq) noexcept nogil
cdef OwnAddress* own_at(Traversal* t, const UdpAddr* addr) noexcept nogil
cdef void own_remove(Traversal* t, int index) noexcept nogil
cdef void own_move(Traversal* t, int index, int to) noexcept nogil
cdef int own_live(const Traversal* t) noexcept nogil

# The peer's.
cdef Candidate* candidate_add(Traversal* t, const UdpAddr* addr, uint64_t seq) noexcept nogil
cdef Candidate* candidate_at(Traversal* t, const UdpAddr* addr) noexcept nogil
cdef Candidate* candidate_find(Traversal* t, uint64_t seq) noexcept nogil
cdef void candidate_remove(Traversal* t, Candidate* candidate) noexcept nogil
cdef void candidate_renew(Traversal* t, Candidate* candidate, const UdpAddr* addr) noexcept nogil
cdef void candidates_clear(Traversal* t) noexcept nogil

# Probes.
cdef void probe_wait(Traversal* t, Candidate* candidate) noexcept nogil
cdef void probe_done(Traversal* t, Candidate* candidate) noexcept nogil
# It leaves with this token.
cdef void probe_sent(Traversal* t, Candidate* candidate, const uint8_t* token8, int64_t now) noexcept nogil
cdef void bar(Traversal* t, Candidate* candidate) noexcept nogil
cdef void probe_answered(Traversal* t, Candidate* candidate, int64_t rtt, int64_t now) noexcept nogil
# When the token went to this address, in a probe of this round or beside a response; -1: it did not.
cdef int64_t token_sent_at(Traversal* t, const UdpAddr* addr, const uint8_t* token8) noexcept nogil
cdef void ask(Traversal* t, const UdpAddr* addr, const uint8_t* token8, int64_t now) noexcept nogil
# An address is asked for the first time in a round.
cdef void candidate_start(Traversal* t, Candidate* candidate) noexcept nogil
# A round begins: nothing that was asked before counts.
cdef void round_begin(Traversal* t, uint64_t round) noexcept nogil
# The next attempt: whom to ask again. Whether another one follows.
cdef bint round_next(Traversal* t) noexcept nogil
cdef bint round_active(const Traversal* t) noexcept nogil

cdef void proven_add(Traversal* t, const UdpAddr* remote, const UdpAddr* local, int64_t rtt, int64_t now) noexcept nogil
cdef void proven_remove(Traversal* t, int index) noexcept nogil
cdef inline void count_refused(Traversal* t) noexcept nogil:
    t.refused += 1
cdef inline void count_answer(Traversal* t) noexcept nogil:
    t.answers += 1
cdef inline void count_held(Traversal* t) noexcept nogil:
    t.held += 1
