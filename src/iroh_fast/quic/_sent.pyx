"""Packets of one number space that were sent. Plain structures; what a loss or an acknowledgement means is decided elsewhere."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from iroh_fast.quic._delivery cimport Snapshot


cdef enum:
    FIRST_SENT = 4                # packets that the smallest table holds
    MAX_SENT = 4194304
    FEW = 4                       # numbers that a log holds without a ring


# ---------------------------------------------------------------- frames of a packet
cdef FrameRec* frame_rec(FrameRec** head, uint64_t type, uint64_t path, uint64_t id, uint64_t a, uint64_t b) noexcept nogil:
    cdef FrameRec* record = <FrameRec*>malloc(sizeof(FrameRec))
    if record == NULL:
        return NULL
    record.type = type
    record.path = path
    record.id = id
    record.a = a
    record.b = b
    record.next = head[0]
    head[0] = record
    return record


cdef void frame_recs_free(FrameRec* record) noexcept nogil:
    cdef FrameRec* following
    while record != NULL:
        following = record.next
        free(record)
        record = following


# ---------------------------------------------------------------- in flight
cdef void sent_free(SentTable* table) noexcept nogil:
    cdef uint64_t position = table.head
    while position < table.tail:
        if sent_at(table, position).flags & REC_USED:
            frame_recs_free(sent_at(table, position).frames)
        position += 1
    free(table.ring)
    free(table.snapshots)
    memset(table, 0, sizeof(SentTable))


cdef int sent_grow(SentTable* table) noexcept nogil:
    cdef uint32_t room = 2 * (table.mask + 1) if table.ring != NULL else FIRST_SENT
    cdef uint64_t position = table.head
    cdef SentRec* ring
    cdef Snapshot* snapshots = NULL
    if room > MAX_SENT:
        return -1
    ring = <SentRec*>malloc(room * sizeof(SentRec))
    if table.snapshots != NULL:
        snapshots = <Snapshot*>malloc(room * sizeof(Snapshot))
    if ring == NULL or (snapshots == NULL and table.snapshots != NULL):
        free(ring)
        free(snapshots)
        return -1
    while position < table.tail:
        ring[position & (room - 1)] = sent_at(table, position)[0]
        if snapshots != NULL:
            snapshots[position & (room - 1)] = table.snapshots[position & table.mask]
        position += 1
    free(table.ring)
    free(table.snapshots)
    table.ring = ring
    table.snapshots = snapshots
    table.mask = room - 1
    return 0


cdef Snapshot* sent_watch(SentTable* table) noexcept nogil:
    table.snapshots = <Snapshot*>calloc(table.mask + 1, sizeof(Snapshot))
    return &table.snapshots[(table.tail - 1) & table.mask] if table.snapshots != NULL else NULL


cdef uint64_t sent_from(const SentTable* table, uint64_t pn) noexcept nogil:  # hot
    cdef uint64_t low = table.head, high = table.tail, middle
    if low == high or sent_at(table, low).pn >= pn:
        return low
    while high - low > 1:             # low is below pn
        middle = low + ((high - low) >> 1)
        if sent_at(table, middle).pn >= pn:
            high = middle
        else:
            low = middle
    return high


# ---------------------------------------------------------------- numbers and their times
cdef void log_free(PnLog* log) noexcept nogil:
    free(log.ring)
    memset(log, 0, sizeof(PnLog))


cdef bint log_grow(PnLog* log, uint32_t room) noexcept nogil:
    cdef SentPn* ring = <SentPn*>malloc(room * sizeof(SentPn))
    cdef uint64_t position = log.head
    if ring == NULL:
        return False
    while position < log.tail:
        ring[position & (room - 1)] = log_at(log, position)[0]
        position += 1
    free(log.ring)
    log.ring = ring
    log.mask = room - 1
    return True


cdef void log_add(PnLog* log, uint64_t pn, int64_t sent_at, int64_t keep_from, uint32_t most) noexcept nogil:
    cdef uint32_t room = log.mask + 1 if log.ring != NULL else FEW
    cdef SentPn* entry
    if log.tail - log.head == room and (
            log_at(log, log.head).sent_at < keep_from or 2 * room > most or not log_grow(log, 2 * room)):
        log.head += 1
    entry = log_at(log, log.tail)
    entry.pn = pn
    entry.sent_at = sent_at
    log.tail += 1


cdef uint64_t log_from(const PnLog* log, uint64_t pn) noexcept nogil:
    cdef uint64_t low = log.head, high = log.tail, middle
    while low < high:
        middle = low + ((high - low) >> 1)
        if log_at(<PnLog*>log, middle).pn >= pn:
            high = middle
        else:
            low = middle + 1
    return low


# ---------------------------------------------------------------- lost
cdef void lost_free(LostTable* lost) noexcept nogil:
    log_free(&lost.log)
    memset(lost, 0, sizeof(LostTable))


cdef void forget_oldest(LostTable* lost) noexcept nogil:
    cdef SentPn* entry = log_at(&lost.log, lost.log.head)
    lost.log.head += 1
    if entry.sent_at >= 0:
        lost.live -= 1
        if entry.pn >= lost.event_first:
            lost.event_open = False   # it never arrived


cdef void compact(LostTable* lost) noexcept nogil:
    """Leave out what arrived, so that a look into the table costs what is in it."""
    cdef uint64_t position = lost.log.head, kept = lost.log.head
    while position < lost.log.tail:
        if log_at(&lost.log, position).sent_at >= 0:
            log_at(&lost.log, kept)[0] = log_at(&lost.log, position)[0]
            kept += 1
        position += 1
    lost.log.tail = kept


cdef void lost_add(LostTable* lost, uint64_t pn, int64_t sent_at, int64_t keep_from) noexcept nogil:
    while lost.log.head < lost.log.tail and (
            log_at(&lost.log, lost.log.head).sent_at < keep_from or lost.log.tail - lost.log.head >= MAX_LOST):
        forget_oldest(lost)
    # Losses are declared in the order of sending, but for those of a path that is given up.
    if lost.log.head == lost.log.tail or log_at(&lost.log, lost.log.tail - 1).pn < pn:
        log_add(&lost.log, pn, sent_at, keep_from, MAX_LOST)
        lost.live += 1


cdef void lost_event(LostTable* lost, bint begins, uint64_t first, uint32_t count, uint32_t generation) noexcept nogil:
    if begins:
        lost.event_open = True
        lost.event_first = first
        lost.event_left = count
        lost.event_generation = generation
    else:
        lost.event_left += count


cdef uint32_t lost_arrived(LostTable* lost, uint64_t lo, uint64_t hi, uint64_t* newest, bint* undone) noexcept nogil:
    cdef uint64_t position
    cdef uint32_t count = 0
    cdef SentPn* entry
    if lost.live == 0:
        return 0
    position = log_from(&lost.log, lo)
    while position < lost.log.tail:
        entry = log_at(&lost.log, position)
        if entry.pn > hi:
            break
        if entry.sent_at >= 0:
            entry.sent_at = -1
            count += 1
            newest[0] = entry.pn
            if lost.event_open and entry.pn >= lost.event_first:
                lost.event_left -= 1
                if lost.event_left == 0:
                    lost.event_open = False
                    undone[0] = True
        position += 1
    lost.live -= count
    if lost.log.tail - lost.log.head > 2 * lost.live + 16:
        compact(lost)
    return count
