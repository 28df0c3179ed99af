"""Connection ids of an endpoint: making them, and finding the connection of one."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast._crypto cimport HeaderKey
from iroh_fast.quic._random cimport RandomSource


cdef enum:
    FORMER_IDS = 8192             # ids of connections that are over, for stateless resets


cdef packed struct IdEntry:      # an idle connection has twenty
    uint64_t id
    PyObject* conn                # borrowed; NULL: empty, 1: deleted
    uint32_t path_id


cdef class IdTable:
    cdef RandomSource random
    cdef HeaderKey* reset_key     # AES as a keyed function of 16 bytes
    cdef IdEntry* slots
    cdef uint64_t* former
    cdef uint32_t mask, used
    cdef readonly uint32_t live   # ids that are routed
    cdef void fresh(self, uint8_t* id8) noexcept nogil
    cdef int reset_token(self, const uint8_t* id8, uint8_t* token16) noexcept nogil
    cdef IdEntry* find(self, uint64_t id) noexcept nogil
    cdef int add(self, uint64_t id, PyObject* conn, uint32_t path_id) noexcept nogil
    cdef void remove(self, uint64_t id) noexcept nogil
    cdef bint was_ours(self, uint64_t id) noexcept nogil
    cdef int grow(self) noexcept nogil
