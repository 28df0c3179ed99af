"""Who comes next: first come, first served within a priority, the highest priority first."""

from libc.stdint cimport int32_t, uint32_t

from iroh_fast.quic._stream cimport IN_EVENTS, IN_READY, Queue, Schedule, Stream, StreamTable


# A schedule of zeros is empty.
cdef void schedule_free(Schedule* schedule) noexcept nogil
# Give a stream a priority; it keeps standing where it stood, at the end of its new level. 0, -1 out of memory.
cdef int schedule_set(Schedule* schedule, Stream* stream, int32_t priority) noexcept nogil
cdef void schedule_unset(Schedule* schedule, Stream* stream) noexcept nogil
cdef bint schedule_is_top(const Schedule* schedule, const Stream* stream) noexcept nogil
# which: IN_READY or IN_BLOCKED
cdef void schedule_push(Schedule* schedule, int which, Stream* stream) noexcept nogil
cdef void schedule_remove(Schedule* schedule, int which, Stream* stream) noexcept nogil
# plain queues; which: IN_CONTROL or IN_EVENTS
cdef void queue_push(Queue* queue, int which, Stream* stream) noexcept nogil
cdef void queue_remove(Queue* queue, int which, Stream* stream) noexcept nogil

cdef inline Stream* schedule_first(const Schedule* schedule, int which) noexcept nogil:
    return schedule.waiting[which].heap[0].queues[which].head if schedule.waiting[which].n else NULL

cdef void schedule_behind(Stream* stream) noexcept nogil

cdef inline void schedule_rotate(Stream* stream) noexcept nogil:
    """The first ready stream goes behind its equals."""
    if stream.level.queues[IN_READY].head != stream.level.queues[IN_READY].tail:
        schedule_behind(stream)

cdef inline void stream_signal(StreamTable* table, Stream* stream, uint32_t events) noexcept nogil:
    """Report events to whoever takes them; without a handle nobody could wait for them."""
    if stream.handle != NULL:
        stream.events |= events
        if not stream.links[IN_EVENTS].queued:
            queue_push(&table.reported, IN_EVENTS, stream)
