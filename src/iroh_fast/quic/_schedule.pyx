"""Who comes next among the streams of a connection.

Streams of one priority form a level and take turns in the order in which they came. The levels that have streams in
a queue form a heap, so that a turn costs the same however many streams wait, and the logarithm of the number of
different priorities when one of these becomes empty. A stream stands in each queue at most once.
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport int32_t, uint32_t
from libc.string cimport memmove, memset

from iroh_fast.quic._stream cimport IN_BLOCKED, IN_EVENTS, IN_READY, Level, Levels, Queue, Schedule, Stream, StreamTable


# ---- plain queues -----------------------------------------------------------
cdef void queue_push(Queue* queue, int which, Stream* stream) noexcept nogil:
    if stream.links[which].queued:
        return
    stream.links[which].queued = True
    stream.links[which].after = NULL
    stream.links[which].before = queue.tail
    if queue.tail == NULL:
        queue.head = stream
    else:
        queue.tail.links[which].after = stream
    queue.tail = stream


cdef void queue_remove(Queue* queue, int which, Stream* stream) noexcept nogil:
    cdef Stream* before = stream.links[which].before
    cdef Stream* after = stream.links[which].after
    if not stream.links[which].queued:
        return
    if before == NULL:
        queue.head = after
    else:
        before.links[which].after = after
    if after == NULL:
        queue.tail = before
    else:
        after.links[which].before = before
    memset(&stream.links[which], 0, sizeof(stream.links[which]))


# ---- the heap of levels -----------------------------------------------------
cdef inline void heap_place(Levels* levels, int which, int32_t at, Level* level) noexcept nogil:
    levels.heap[at] = level
    level.at[which] = at


cdef void heap_up(Levels* levels, int which, int32_t at, Level* level) noexcept nogil:
    cdef int32_t parent
    while at > 0:
        parent = (at - 1) >> 1
        if levels.heap[parent].priority >= level.priority:
            break
        heap_place(levels, which, at, levels.heap[parent])
        at = parent
    heap_place(levels, which, at, level)


cdef void heap_down(Levels* levels, int which, int32_t at, Level* level) noexcept nogil:
    cdef int32_t child
    while True:
        child = 2 * at + 1
        if child >= levels.n:
            break
        if child + 1 < levels.n and levels.heap[child + 1].priority > levels.heap[child].priority:
            child += 1
        if levels.heap[child].priority <= level.priority:
            break
        heap_place(levels, which, at, levels.heap[child])
        at = child
    heap_place(levels, which, at, level)


cdef void heap_add(Levels* levels, int which, Level* level) noexcept nogil:
    levels.n += 1                     # there is room: see level_new
    heap_up(levels, which, levels.n - 1, level)


cdef void heap_remove(Levels* levels, int which, Level* level) noexcept nogil:
    cdef int32_t at = level.at[which]
    cdef Level* last
    level.at[which] = -1
    levels.n -= 1
    if at == levels.n:
        return
    last = levels.heap[levels.n]
    heap_down(levels, which, at, last)
    heap_up(levels, which, last.at[which], last)


# ---- levels -----------------------------------------------------------------
cdef int32_t level_find(const Schedule* schedule, int32_t priority) noexcept nogil:
    """Position of the first level with at least this priority."""
    cdef int32_t lo = 0, hi = schedule.n, mid
    while lo < hi:
        mid = (lo + hi) >> 1
        if schedule.known[mid].priority < priority:
            lo = mid + 1
        else:
            hi = mid
    return lo


cdef int reserve(Level*** array, int32_t* cap, int32_t n) noexcept nogil:
    """Room for n pointers. 0, -1 out of memory."""
    cdef int32_t larger = cap[0] if cap[0] else 2
    cdef Level** grown
    if n <= cap[0]:
        return 0
    while larger < n:
        larger *= 2
    grown = <Level**>PyMem_RawRealloc(array[0], <size_t>larger * sizeof(Level*))
    if grown == NULL:
        return -1
    array[0] = grown
    cap[0] = larger
    return 0


cdef Level* level_new(Schedule* schedule, int32_t at, int32_t priority) noexcept nogil:
    cdef Level* level
    cdef int which
    if reserve(&schedule.known, &schedule.cap, schedule.n + 1) < 0:
        return NULL
    for which in range(2):
        if reserve(&schedule.waiting[which].heap, &schedule.waiting[which].cap, schedule.n + 1) < 0:
            return NULL
    level = <Level*>PyMem_RawCalloc(1, sizeof(Level))
    if level == NULL:
        return NULL
    level.priority = priority
    level.at[0] = level.at[1] = -1
    memmove(schedule.known + at + 1, schedule.known + at, <size_t>(schedule.n - at) * sizeof(Level*))
    schedule.known[at] = level
    schedule.n += 1
    return level


cdef void level_leave(Schedule* schedule, Level* level) noexcept nogil:
    """One stream less; the level goes with its last one, unless it is the only level: that is used again."""
    cdef int32_t at
    level.users -= 1
    if level.users or schedule.n == 1:
        return
    at = level_find(schedule, level.priority)
    schedule.n -= 1
    memmove(schedule.known + at, schedule.known + at + 1, <size_t>(schedule.n - at) * sizeof(Level*))
    PyMem_RawFree(level)


# ---- the schedule -----------------------------------------------------------
cdef void schedule_free(Schedule* schedule) noexcept nogil:
    cdef int32_t i
    for i in range(schedule.n):
        PyMem_RawFree(schedule.known[i])
    PyMem_RawFree(schedule.known)
    PyMem_RawFree(schedule.waiting[IN_READY].heap)
    PyMem_RawFree(schedule.waiting[IN_BLOCKED].heap)
    memset(schedule, 0, sizeof(Schedule))


cdef int schedule_set(Schedule* schedule, Stream* stream, int32_t priority) noexcept nogil:
    cdef Level* old = stream.level
    cdef Level* level
    cdef bint queued[2]
    cdef int which
    cdef int32_t at
    if old != NULL and old.priority == priority:
        return 0
    at = level_find(schedule, priority)
    level = schedule.known[at] if at < schedule.n else NULL
    if level == NULL or level.priority != priority:
        if schedule.n == 1 and schedule.known[0].users == 0:
            level = schedule.known[0]
            level.priority = priority
        else:
            level = level_new(schedule, at, priority)
        if level == NULL:
            return -1
    level.users += 1
    for which in range(2):
        queued[which] = stream.links[which].queued
        if queued[which]:
            schedule_remove(schedule, which, stream)
    stream.level = level
    for which in range(2):
        if queued[which]:
            schedule_push(schedule, which, stream)
    if old != NULL:
        level_leave(schedule, old)
    return 0


cdef void schedule_unset(Schedule* schedule, Stream* stream) noexcept nogil:
    if stream.level == NULL:
        return
    schedule_remove(schedule, IN_READY, stream)
    schedule_remove(schedule, IN_BLOCKED, stream)
    level_leave(schedule, stream.level)
    stream.level = NULL


cdef bint schedule_is_top(const Schedule* schedule, const Stream* stream) noexcept nogil:
    """Whether no stream has a higher priority."""
    return stream.level == schedule.known[schedule.n - 1]


cdef void schedule_push(Schedule* schedule, int which, Stream* stream) noexcept nogil:
    cdef Level* level = stream.level
    if stream.links[which].queued or level == NULL:
        return
    queue_push(&level.queues[which], which, stream)
    if level.at[which] < 0:
        heap_add(&schedule.waiting[which], which, level)


cdef void schedule_remove(Schedule* schedule, int which, Stream* stream) noexcept nogil:
    cdef Level* level = stream.level
    if not stream.links[which].queued:
        return
    queue_remove(&level.queues[which], which, stream)
    if level.queues[which].head == NULL:
        heap_remove(&schedule.waiting[which], which, level)


cdef void schedule_behind(Stream* stream) noexcept nogil:
    cdef Queue* queue = &stream.level.queues[IN_READY]
    queue_remove(queue, IN_READY, stream)
    queue_push(queue, IN_READY, stream)
