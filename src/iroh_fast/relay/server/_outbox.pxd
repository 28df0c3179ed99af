"""What waits for clients: frames in buffers from a common pool."""

from libc.stdint cimport uint8_t, uint32_t

from iroh_fast.relay.server._state cimport POOL_CLASSES, Client, Counters


cdef class Outbox:
    cdef Counters* counters       # of the forwarder, which outlives this
    cdef uint8_t** pool[POOL_CLASSES]
    cdef uint32_t pool_count[POOL_CLASSES]
    cdef size_t pool_bytes
    cdef size_t out_bytes         # memory of output buffers in use
    cdef bint room(self, Client* c, size_t need) noexcept nogil
    cdef void recycle(self, uint8_t* memory, size_t size) noexcept nogil
    cdef void drop_out(self, Client* c) noexcept nogil
    cdef void sent(self, Client* c, size_t n) noexcept nogil
    cdef void settle(self, Client* c) noexcept nogil
    cdef uint8_t* message(self, Client* c, int opcode, size_t size) noexcept nogil
