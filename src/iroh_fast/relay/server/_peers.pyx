"""The keys that are connected, and to whom each has sent.

Keys are chosen by clients, so both tables are hashed with a random seed.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from iroh_fast.relay.server._state cimport SENT_TO, Peer, SentTo, Slot

import os


cdef inline uint32_t sent_to_home(const SentTo* s, uint64_t h) noexcept nogil:
    return <uint32_t>h & (2 * s.cap - 1)


cdef void sent_to_insert(SentTo* s, uint64_t h) noexcept nogil:
    cdef uint32_t i = sent_to_home(s, h)
    while s.table[i] != 0:
        i = (i + 1) & (2 * s.cap - 1)
    s.table[i] = h


cdef void sent_to_remove(SentTo* s, uint64_t h) noexcept nogil:
    cdef uint32_t mask = 2 * s.cap - 1
    cdef uint32_t i = sent_to_home(s, h)
    cdef uint32_t j, home
    while s.table[i] != h:
        i = (i + 1) & mask
    # close the gap, so that no search ends early
    j = i
    while True:
        j = (j + 1) & mask
        if s.table[j] == 0:
            break
        home = sent_to_home(s, s.table[j])
        if ((j - home) & mask) >= ((j - i) & mask):
            s.table[i] = s.table[j]
            i = j
    s.table[i] = 0


cdef void sent_to_free(SentTo* s) noexcept nogil:
    free(s.ring)
    free(s.table)
    memset(s, 0, sizeof(SentTo))


cdef void sent_to_add(SentTo* s, uint64_t h) noexcept nogil:
    """Remember a destination; without memory it is forgotten, which costs a notice at most."""
    cdef SentTo bigger
    cdef uint32_t i
    if h == 0:
        h = 1
    if s.cap:
        i = sent_to_home(s, h)
        while s.table[i] != 0:
            if s.table[i] == h:
                return
            i = (i + 1) & (2 * s.cap - 1)
    if s.count == s.cap:
        if s.cap < SENT_TO:
            memset(&bigger, 0, sizeof(SentTo))
            bigger.cap = s.cap * 2 if s.cap else 4
            bigger.ring = <uint64_t*>calloc(bigger.cap, 8)
            bigger.table = <uint64_t*>calloc(bigger.cap, 16)
            if bigger.ring == NULL or bigger.table == NULL:
                sent_to_free(&bigger)
                return
            for i in range(s.count):
                bigger.ring[i] = s.ring[(s.head + i) & (s.cap - 1)]
                sent_to_insert(&bigger, bigger.ring[i])
            bigger.count = s.count
            sent_to_free(s)
            s[0] = bigger
        else:
            sent_to_remove(s, s.ring[s.head])
            s.head = (s.head + 1) & (s.cap - 1)
            s.count -= 1
    s.ring[(s.head + s.count) & (s.cap - 1)] = h
    s.count += 1
    sent_to_insert(s, h)


@cython.final
cdef class PeerTable:
    """Peers by key."""

    def __cinit__(self):
        cdef bytes seed = os.urandom(16)
        memcpy(self.seed, <const uint8_t*>PyBytes_AS_STRING(seed), 16)
        self.table_size = 64
        self.table = <Slot*>calloc(self.table_size, sizeof(Slot))
        if self.table == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef size_t i
        if self.table != NULL:
            for i in range(self.table_size):
                if self.table[i].peer != NULL:
                    sent_to_free(&self.table[i].peer.sent_to)
                    free(self.table[i].peer)
            free(self.table)

    cdef Peer* lookup(self, uint64_t h, const uint8_t* key) noexcept nogil:
        """The peer of a key; with key NULL the one of a hash."""
        cdef size_t i = h & (self.table_size - 1)
        while self.table[i].peer != NULL:
            if self.table[i].hash == h and (key == NULL or memcmp(self.table[i].peer.key, key, 32) == 0):
                return self.table[i].peer
            i = (i + 1) & (self.table_size - 1)
        return NULL

    cdef Peer* insert(self, uint64_t h, const uint8_t* key) except NULL:
        cdef Peer* peer
        cdef Slot* bigger
        cdef size_t i, j, size
        if self.table_used * 2 >= self.table_size:
            size = self.table_size * 2
            bigger = <Slot*>calloc(size, sizeof(Slot))
            if bigger == NULL:
                raise MemoryError
            for i in range(self.table_size):
                if self.table[i].peer != NULL:
                    j = self.table[i].hash & (size - 1)
                    while bigger[j].peer != NULL:
                        j = (j + 1) & (size - 1)
                    bigger[j] = self.table[i]
            free(self.table)
            self.table = bigger
            self.table_size = size
        peer = <Peer*>calloc(1, sizeof(Peer))
        if peer == NULL:
            raise MemoryError
        memcpy(peer.key, key, 32)
        peer.hash = h
        i = h & (self.table_size - 1)
        while self.table[i].peer != NULL:
            i = (i + 1) & (self.table_size - 1)
        self.table[i].hash = h
        self.table[i].peer = peer
        self.table_used += 1
        return peer

    cdef void remove(self, Peer* peer) noexcept nogil:
        cdef size_t mask = self.table_size - 1
        cdef size_t i = peer.hash & mask
        cdef size_t j, home
        while self.table[i].peer != peer:
            i = (i + 1) & mask
        j = i
        while True:
            j = (j + 1) & mask
            if self.table[j].peer == NULL:
                break
            home = self.table[j].hash & mask
            if ((j - home) & mask) >= ((j - i) & mask):
                self.table[i] = self.table[j]
                i = j
        self.table[i].peer = NULL
        self.table_used -= 1
        sent_to_free(&peer.sent_to)
        free(peer)
