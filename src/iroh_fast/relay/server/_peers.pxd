"""The keys that are connected, and to whom each has sent."""

from libc.stdint cimport uint8_t, uint64_t

from iroh_fast.relay.server._state cimport Peer, SentTo, Slot


cdef void sent_to_add(SentTo* s, uint64_t h) noexcept nogil


cdef class PeerTable:             # open addressing, by a keyed hash
    cdef Slot* table
    cdef size_t table_size, table_used
    cdef uint64_t seed[2]
    cdef Peer* lookup(self, uint64_t h, const uint8_t* key) noexcept nogil
    cdef Peer* insert(self, uint64_t h, const uint8_t* key) except NULL
    cdef void remove(self, Peer* peer) noexcept nogil
