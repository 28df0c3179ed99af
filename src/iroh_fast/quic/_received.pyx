"""Packets of one number space that were received (RFC 9000 §12.3, §13.2). Plain structures, no clock."""

from libc.stdint cimport uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove, memset

cdef enum:
    FEW_WORDS = 4
    FEW_RANGES = 4

cdef uint64_t ALL = <uint64_t>-1


cdef void received_init(ReceivedSet* received) noexcept nogil:
    cdef int i
    memset(received, 0, sizeof(ReceivedSet))
    received.largest = -1
    received.words = received.few
    received.n_words = FEW_WORDS
    received.starts = received.few_starts
    received.ends = received.few_ends
    received.room = FEW_RANGES
    for i in range(RECENT_ACKS):
        received.lowest[i] = ALL


cdef void received_free(ReceivedSet* received) noexcept nogil:
    if received.words != received.few:
        free(received.words)
    if received.starts != received.few_starts:
        free(received.starts)
    received.words = received.few
    received.n_words = FEW_WORDS
    received.starts = received.few_starts
    received.ends = received.few_ends
    received.room = FEW_RANGES
    received.n_ranges = 0


cdef void received_trim(ReceivedSet* received) noexcept nogil:
    cdef uint64_t word
    cdef uint64_t* old = received.words
    cdef uint64_t newest, mask = received.n_words - 1
    cdef int n = received.n_ranges if received.n_ranges < FEW_RANGES else FEW_RANGES
    if old != received.few:
        newest = <uint64_t>received.largest >> 6
        for word in range(newest - (FEW_WORDS - 1), newest + 1):
            received.few[word & (FEW_WORDS - 1)] = old[word & mask]
        received.floor = (newest - (FEW_WORDS - 1)) << 6
        received.words = received.few
        received.n_words = FEW_WORDS
        free(old)
    if received.starts != received.few_starts:
        memcpy(received.few_starts, received.starts + received.n_ranges - n, n * sizeof(uint64_t))
        memcpy(received.few_ends, received.ends + received.n_ranges - n, n * sizeof(uint64_t))
        free(received.starts)
        received.starts = received.few_starts
        received.ends = received.few_ends
        received.room = FEW_RANGES
        received.n_ranges = n


# ---------------------------------------------------------------- duplicates
cdef void widen(ReceivedSet* received, uint64_t need) noexcept nogil:
    """Make room for `need` words, or as many as there may be."""
    cdef uint32_t room = received.n_words
    cdef uint64_t first = received.floor >> 6, word
    cdef uint64_t* words
    while room < need and room < DEDUP_WORDS:
        room *= 2
    if room == received.n_words:
        return
    words = <uint64_t*>calloc(room, sizeof(uint64_t))
    if words == NULL:
        return
    for word in range(first, first + received.n_words):
        words[word & (room - 1)] = received.words[word & (received.n_words - 1)]
    if received.words != received.few:
        free(received.words)
    received.words = words
    received.n_words = room


cdef void slide(ReceivedSet* received, uint64_t pn) noexcept nogil:
    """Move the floor up until `pn` has a bit."""
    cdef uint64_t newest = pn >> 6, first = received.floor >> 6, least
    cdef uint32_t mask = received.n_words - 1
    # what was received whole needs no bits
    while newest - first >= received.n_words and received.words[first & mask] == ALL:
        received.words[first & mask] = 0
        first += 1
    received.floor = first << 6
    if newest - first >= received.n_words:
        widen(received, newest - first + 1)
    if newest - first < received.n_words:
        return
    # Numbers that are missing so far back do not come any more.
    mask = received.n_words - 1
    least = newest - received.n_words + 1
    if least - first >= received.n_words:
        memset(received.words, 0, received.n_words * sizeof(uint64_t))
    else:
        while first < least:
            received.words[first & mask] = 0
            first += 1
    received.floor = least << 6


# ---------------------------------------------------------------- ranges
cdef int more_ranges(ReceivedSet* received) noexcept nogil:
    """Make room for another range; where there is none, the oldest goes. How many went."""
    cdef int room = 4 * received.room if received.room < 64 else 2 * received.room
    cdef uint64_t* starts = NULL
    if room <= MAX_RANGES:
        starts = <uint64_t*>malloc(2 * <size_t>room * sizeof(uint64_t))
    if starts == NULL:
        received.n_ranges -= 1
        memmove(received.starts, received.starts + 1, received.n_ranges * sizeof(uint64_t))
        memmove(received.ends, received.ends + 1, received.n_ranges * sizeof(uint64_t))
        return 1
    memcpy(starts, received.starts, received.n_ranges * sizeof(uint64_t))
    memcpy(starts + room, received.ends, received.n_ranges * sizeof(uint64_t))
    if received.starts != received.few_starts:
        free(received.starts)
    received.starts = starts
    received.ends = starts + room
    received.room = room
    return 0


cdef int range_above(const ReceivedSet* received, uint64_t pn) noexcept nogil:
    """Index of the first range that begins above `pn`."""
    cdef int low = 0, high = received.n_ranges, middle
    if high and received.starts[high - 1] <= pn:
        return high
    while low < high:
        middle = (low + high) >> 1
        if received.starts[middle] > pn:
            high = middle
        else:
            low = middle + 1
    return low


cdef void add_range(ReceivedSet* received, uint64_t pn) noexcept nogil:
    cdef int above = range_above(received, pn), n = received.n_ranges
    cdef bint meets = above < n and received.starts[above] == pn + 1
    if above > 0 and pn < received.ends[above - 1]:
        return
    if above > 0 and received.ends[above - 1] == pn:
        received.ends[above - 1] = pn + 1
        if meets:
            received.ends[above - 1] = received.ends[above]
            memmove(received.starts + above, received.starts + above + 1, (n - above - 1) * sizeof(uint64_t))
            memmove(received.ends + above, received.ends + above + 1, (n - above - 1) * sizeof(uint64_t))
            received.n_ranges -= 1
        return
    if meets:
        received.starts[above] = pn
        return
    if n == received.room:
        above -= more_ranges(received)
        if above < 0:
            return                    # older than everything that is kept
        n = received.n_ranges
    memmove(received.starts + above + 1, received.starts + above, (n - above) * sizeof(uint64_t))
    memmove(received.ends + above + 1, received.ends + above, (n - above) * sizeof(uint64_t))
    received.starts[above] = pn
    received.ends[above] = pn + 1
    received.n_ranges = n + 1


cdef void received_add(ReceivedSet* received, uint64_t pn) noexcept nogil:  # hot
    cdef int n = received.n_ranges
    cdef uint32_t now = received.acks & (RECENT_ACKS - 1)
    if pn >> 6 >= (received.floor >> 6) + received.n_words:
        slide(received, pn)
    if pn >= received.floor:
        received.words[(pn >> 6) & (received.n_words - 1)] |= <uint64_t>1 << (pn & 63)
    if <int64_t>pn > received.largest:
        received.largest = <int64_t>pn
    if pn < received.lowest[now]:
        received.lowest[now] = pn
    if n and received.ends[n - 1] == pn:
        received.ends[n - 1] = pn + 1
    else:
        add_range(received, pn)


cdef void received_forget(ReceivedSet* received, uint64_t upto) noexcept nogil:
    cdef int gone = 0, n = received.n_ranges
    while gone < n and received.ends[gone] <= upto + 1:
        gone += 1
    # The newest range stays: an ACK must always name the largest received number.
    if gone == n and gone > 0:
        gone -= 1
        received.starts[gone] = received.ends[gone] - 1
    elif gone < n and received.starts[gone] <= upto:
        received.starts[gone] = upto + 1
    if gone:
        received.n_ranges = n - gone
        memmove(received.starts, received.starts + gone, received.n_ranges * sizeof(uint64_t))
        memmove(received.ends, received.ends + gone, received.n_ranges * sizeof(uint64_t))


cdef int received_from(const ReceivedSet* received) noexcept nogil:
    cdef int first, usual = received.n_ranges - USUAL_RANGES, i
    cdef uint64_t lowest = ALL
    if usual <= 0:
        return 0
    for i in range(RECENT_ACKS):
        if received.lowest[i] < lowest:
            lowest = received.lowest[i]
    first = range_above(received, lowest) - 1
    if first < 0:
        first = 0
    return first if first < usual else usual


cdef void received_reported(ReceivedSet* received) noexcept nogil:
    received.acks += 1
    received.lowest[received.acks & (RECENT_ACKS - 1)] = ALL
