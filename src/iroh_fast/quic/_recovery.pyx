"""Packet number spaces: sent packets, received packet numbers, acknowledgement state.

Plain C structures; the connection owns them and decides what a loss or an
acknowledgement means. Sources: RFC 9000 §13, RFC 9002, the multipath draft.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport malloc, calloc, free
from libc.string cimport memset, memmove


cdef void space_init(PnSpace* s, uint64_t random) noexcept nogil:
    memset(s, 0, sizeof(PnSpace))
    s.largest_acked = -1
    s.largest_rx = -1
    s.largest_eliciting = -1
    s.last_skipped = -1
    s.reported = -1
    s.skip_bits = 6
    s.skip_pn = random & 63


cdef void space_free(PnSpace* s) noexcept nogil:
    cdef uint32_t i
    if s.ring != NULL:
        for i in range(s.mask + 1):
            if s.ring[i].flags & REC_USED:
                frame_recs_free(s.ring[i].frames)
        free(s.ring)
    s.ring = NULL
    s.mask = 0
    s.outstanding = 0
    s.eliciting = 0


cdef uint64_t space_take_pn(PnSpace* s, RandomSource random) noexcept nogil:
    cdef uint64_t width = <uint64_t>1 << s.skip_bits
    if s.next_pn == s.skip_pn:
        s.last_skipped = <int64_t>s.next_pn
        s.next_pn += 1
        s.skip_pn = s.next_pn + width + (random.word() & (width - 1))
        if s.skip_bits < 24:
            s.skip_bits += 1
    s.next_pn += 1
    return s.next_pn - 1


cdef int grow(PnSpace* s, uint64_t pn) noexcept nogil:
    cdef uint64_t need = pn - s.first + 1
    cdef uint32_t cap = 8
    cdef SentRec* ring
    cdef uint32_t i
    cdef uint64_t n
    while cap < need:
        if cap >= (<uint32_t>1 << 24):
            return -1
        cap *= 2
    if s.ring != NULL and cap <= s.mask + 1:
        return 0
    ring = <SentRec*>calloc(cap, sizeof(SentRec))
    if ring == NULL:
        return -1
    if s.ring != NULL:
        if s.outstanding:
            n = s.first
            for i in range(s.mask + 1):
                if s.ring[n & s.mask].flags & REC_USED:
                    ring[n & (cap - 1)] = s.ring[n & s.mask]
                n += 1
        free(s.ring)
    s.ring = ring
    s.mask = cap - 1
    return 0


cdef int space_insert(PnSpace* s, uint64_t pn, const SentRec* rec) noexcept nogil:
    if s.outstanding == 0:
        s.first = pn
    if s.ring == NULL or pn - s.first > s.mask:
        if grow(s, pn) < 0:
            return -1
    s.ring[pn & s.mask] = rec[0]
    s.ring[pn & s.mask].flags |= REC_USED
    s.outstanding += 1
    s.last = pn
    if rec.flags & REC_ELICITING:
        s.eliciting += 1
        s.last_eliciting_at = rec.sent_at
    return 0


cdef void space_remove(PnSpace* s, uint64_t pn) noexcept nogil:
    cdef SentRec* r = &s.ring[pn & s.mask]
    s.outstanding -= 1
    if r.flags & REC_ELICITING:
        s.eliciting -= 1
    r.flags = 0
    r.frames = NULL
    if pn == s.first:
        if s.outstanding == 0:
            s.first = s.next_pn
        else:
            pn += 1
            while not s.ring[pn & s.mask].flags & REC_USED:
                pn += 1
            s.first = pn


cdef void space_remember_lost(PnSpace* s, uint64_t pn, int64_t sent_at, int64_t forget_before) noexcept nogil:
    cdef int i, n = 0
    for i in range(s.n_lost):
        if s.lost[i].sent_at >= forget_before:
            s.lost[n] = s.lost[i]
            n += 1
    if n == LOST_MEMORY:
        memmove(&s.lost[0], &s.lost[1], (LOST_MEMORY - 1) * sizeof(LostPn))
        n -= 1
    s.lost[n].pn = pn
    s.lost[n].sent_at = sent_at
    s.n_lost = n + 1


cdef bint space_unlose(PnSpace* s, uint64_t lo, uint64_t hi) noexcept nogil:
    cdef int i, n = 0
    if s.n_lost == 0:
        return False
    for i in range(s.n_lost):
        if s.lost[i].pn < lo or s.lost[i].pn > hi:
            s.lost[n] = s.lost[i]
            n += 1
    if n == s.n_lost:
        return False
    s.n_lost = n
    return n == 0


cdef bint space_is_duplicate(const PnSpace* s, uint64_t pn) noexcept nogil:
    cdef uint64_t d
    if <int64_t>pn > s.largest_rx:
        return False
    d = <uint64_t>s.largest_rx - pn
    if d == 0:
        return True
    d -= 1
    if d >= DEDUP_WINDOW:
        return True
    return (s.seen[d >> 6] >> (d & 63)) & 1


cdef void space_mark_received(PnSpace* s, uint64_t pn, int64_t now) noexcept nogil:
    cdef uint64_t d
    cdef int i, n
    if <int64_t>pn > s.largest_rx:
        if s.largest_rx >= 0:
            d = pn - <uint64_t>s.largest_rx
            # shift the window by d and set the bit of the previous largest
            if d > DEDUP_WINDOW:
                s.seen[0] = 0
                s.seen[1] = 0
            else:
                if d >= 64:
                    s.seen[1] = s.seen[0] << (d - 64) if d < 128 else 0
                    s.seen[0] = 0
                else:
                    s.seen[1] = (s.seen[1] << d) | (s.seen[0] >> (64 - d))
                    s.seen[0] = s.seen[0] << d
                d -= 1
                s.seen[d >> 6] |= <uint64_t>1 << (d & 63)
        s.largest_rx = <int64_t>pn
        s.largest_rx_at = now
    else:
        d = <uint64_t>s.largest_rx - pn - 1
        if d < DEDUP_WINDOW:
            s.seen[d >> 6] |= <uint64_t>1 << (d & 63)
    # acknowledgement ranges, newest last
    n = s.n_ranges
    if n and s.ends[n - 1] == pn:
        s.ends[n - 1] = pn + 1
        return
    i = n
    while i > 0 and s.starts[i - 1] > pn:
        i -= 1
    # range i-1 starts at or below pn, range i above
    if i > 0 and pn < s.ends[i - 1]:
        return
    if i > 0 and s.ends[i - 1] == pn:
        s.ends[i - 1] = pn + 1
        if i < n and s.starts[i] == pn + 1:
            s.ends[i - 1] = s.ends[i]
            memmove(&s.starts[i], &s.starts[i + 1], (n - i - 1) * sizeof(uint64_t))
            memmove(&s.ends[i], &s.ends[i + 1], (n - i - 1) * sizeof(uint64_t))
            s.n_ranges = n - 1
        return
    if i < n and s.starts[i] == pn + 1:
        s.starts[i] = pn
        return
    if n == MAX_ACK_RANGES:
        if i == 0:
            return
        memmove(&s.starts[0], &s.starts[1], (n - 1) * sizeof(uint64_t))
        memmove(&s.ends[0], &s.ends[1], (n - 1) * sizeof(uint64_t))
        n -= 1
        i -= 1
    memmove(&s.starts[i + 1], &s.starts[i], (n - i) * sizeof(uint64_t))
    memmove(&s.ends[i + 1], &s.ends[i], (n - i) * sizeof(uint64_t))
    s.starts[i] = pn
    s.ends[i] = pn + 1
    s.n_ranges = n + 1


cdef void space_on_processed(PnSpace* s, uint64_t pn, bint eliciting, bint ce, int64_t now, int64_t max_ack_delay,
                             uint64_t threshold, uint64_t reorder, int64_t previous_largest) noexcept nogil:
    cdef int64_t before
    cdef int i
    if not eliciting:
        s.non_eliciting_rx += 1
        return
    s.eliciting_rx += 1
    if s.eliciting_rx > threshold or ce:
        s.ack_now = True
    if reorder == 1:
        # RFC 9000 §13.2.1: below the largest, or a gap just above it
        before = previous_largest
        if <int64_t>pn < s.largest_eliciting or (before >= 0 and <int64_t>pn > before + 1):
            s.ack_now = True
    elif reorder > 1:
        # ACK frequency draft §6.2: distance from the oldest hole that the peer cannot know yet to the newest packet
        before = s.reported - <int64_t>reorder + 1
        for i in range(s.n_ranges - 1):
            if <int64_t>s.starts[i + 1] > before:
                if before < <int64_t>s.ends[i]:
                    before = <int64_t>s.ends[i]
                if s.largest_rx - before >= <int64_t>reorder:
                    s.ack_now = True
                break
    if <int64_t>pn > s.largest_eliciting:
        s.largest_eliciting = <int64_t>pn
    if s.ack_at == 0:
        s.ack_at = now + max_ack_delay


cdef void space_ack_sent(PnSpace* s) noexcept nogil:
    s.eliciting_rx = 0
    s.non_eliciting_rx = 0
    s.ack_now = False
    s.ack_at = 0
    s.reported = s.largest_rx


cdef void space_forget_acked(PnSpace* s, uint64_t upto) noexcept nogil:
    cdef int i = 0
    while i < s.n_ranges and s.ends[i] <= upto + 1:
        i += 1
    # The newest range stays: an ACK must always name the largest received number.
    if i == s.n_ranges and i > 0:
        i -= 1
        s.starts[i] = s.ends[i] - 1
    elif i < s.n_ranges and s.starts[i] <= upto:
        s.starts[i] = upto + 1
    if i:
        memmove(&s.starts[0], &s.starts[i], (s.n_ranges - i) * sizeof(uint64_t))
        memmove(&s.ends[0], &s.ends[i], (s.n_ranges - i) * sizeof(uint64_t))
        s.n_ranges -= i


cdef FrameRec* frame_rec(FrameRec** head, uint64_t type, uint64_t path, uint64_t id, uint64_t a, uint64_t b) noexcept nogil:
    cdef FrameRec* f = <FrameRec*>malloc(sizeof(FrameRec))
    if f == NULL:
        return NULL
    f.type = type
    f.path = path
    f.id = id
    f.a = a
    f.b = b
    f.next = head[0]
    head[0] = f
    return f


cdef void frame_recs_free(FrameRec* f) noexcept nogil:
    cdef FrameRec* n
    while f != NULL:
        n = f.next
        free(f)
        f = n


cdef class ReceivedNumbers:
    """Received packet numbers of one space: duplicates and ACK ranges (for tests)."""

    cdef PnSpace s

    def __cinit__(self):
        space_init(&self.s, 0)

    def __dealloc__(self):
        space_free(&self.s)

    def receive(self, uint64_t pn, bint eliciting=True, int64_t now=1, int64_t max_ack_delay=25, uint64_t threshold=1,
                uint64_t reorder=1):
        """Process one packet number; False when it is a duplicate."""
        cdef int64_t before = self.s.largest_rx
        if space_is_duplicate(&self.s, pn):
            return False
        space_mark_received(&self.s, pn, now)
        space_on_processed(&self.s, pn, eliciting, False, now, max_ack_delay, threshold, reorder, before)
        return True

    def ack_due(self, int64_t now):
        return space_ack_due(&self.s, now)

    def ack_sent(self):
        space_ack_sent(&self.s)

    def forget(self, uint64_t upto):
        space_forget_acked(&self.s, upto)

    @property
    def ranges(self):
        """Half-open ranges, ascending."""
        return [(self.s.starts[i], self.s.ends[i]) for i in range(self.s.n_ranges)]
