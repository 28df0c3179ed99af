"""Packets of one number space that were received: which are new, and what an acknowledgement tells."""

from libc.stdint cimport uint32_t, uint64_t, int64_t


cdef enum:
    DEDUP_WORDS = 256             # 64 numbers each: how far behind the newest one a packet may arrive
    MAX_RANGES = 512              # ranges of received numbers that are kept
    USUAL_RANGES = 64             # ... that an acknowledgement names where nothing new lies further back
    RECENT_ACKS = 4


# A zero structure is not valid: see `received_init`. It must not be moved.
cdef struct ReceivedSet:
    int64_t largest               # -1: none
    # Duplicates: a bit for each number from `floor` on, in a ring. What lies below was received, or came too late.
    uint64_t floor                # multiple of 64
    uint64_t* words               # `few`, or a ring that grew because numbers are missing
    uint32_t n_words
    uint64_t few[4]
    # Half-open ranges, ascending, for acknowledgements.
    int n_ranges, room
    uint64_t* starts              # `few_starts`, or memory that ends follow in
    uint64_t* ends
    uint64_t few_starts[4]
    uint64_t few_ends[4]
    uint64_t lowest[4]            # new numbers since the last acknowledgement, and since those before it
    uint32_t acks


cdef void received_init(ReceivedSet* received) noexcept nogil
cdef void received_free(ReceivedSet* received) noexcept nogil
# Give back what a calm time does not need; numbers that are missing now will not be waited for.
cdef void received_trim(ReceivedSet* received) noexcept nogil

cdef inline bint received_has(const ReceivedSet* received, uint64_t pn) noexcept nogil:
    """Whether the number was received, or came too late to tell."""
    if <int64_t>pn > received.largest:
        return False
    if pn < received.floor:
        return True
    return (received.words[(pn >> 6) & (received.n_words - 1)] >> (pn & 63)) & 1

# After authentication.
cdef void received_add(ReceivedSet* received, uint64_t pn) noexcept nogil

cdef inline void received_next(ReceivedSet* received, uint64_t pn) noexcept nogil:
    """`received_add` of what is most often the number after the largest."""
    cdef int last = received.n_ranges - 1
    cdef uint32_t now = received.acks & (RECENT_ACKS - 1)
    if last < 0 or received.ends[last] != pn or pn >> 6 >= (received.floor >> 6) + received.n_words:
        received_add(received, pn)
        return
    received.words[(pn >> 6) & (received.n_words - 1)] |= <uint64_t>1 << (pn & 63)
    received.largest = <int64_t>pn
    received.ends[last] = pn + 1
    if pn < received.lowest[now]:
        received.lowest[now] = pn

# The peer knows that we have everything up to `upto`: those ranges need no repetition.
cdef void received_forget(ReceivedSet* received, uint64_t upto) noexcept nogil
# Index of the first range that the next acknowledgement should name. The last few are named whatever happened, those
# further back while numbers in them are news.
cdef int received_from(const ReceivedSet* received) noexcept nogil
cdef void received_reported(ReceivedSet* received) noexcept nogil
