"""Connection ids of an endpoint: making them, and finding the connection of one.

An id is 64 random bits and says nothing about its endpoint (RFC 9000 §5.1). Its stateless reset token is a keyed function
of it (§10.3.2), so that the token of an id that is over can still be told. What was an id of ours is remembered for a
while: only that is answered with a reset, so that nobody gets answers to noise, and resets do not answer each other.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from iroh_fast._crypto cimport hp_free, hp_masks, hp_new, SUITE_AES256_GCM
from iroh_fast.quic._random cimport RandomSource

cdef PyObject* DELETED = <PyObject*>1


@cython.final
cdef class IdTable:
    """Open addressing over ids, which are as good as hashes. Connections are borrowed: they remove their ids."""

    def __cinit__(self, RandomSource random not None, bytes reset_key not None):
        if len(reset_key) != 32:
            raise ValueError("the random source gave too little")
        self.random = random
        self.reset_key = hp_new(SUITE_AES256_GCM, <const uint8_t*>PyBytes_AS_STRING(reset_key))
        if self.reset_key == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.slots)
        free(self.former)
        hp_free(self.reset_key)

    cdef void fresh(self, uint8_t* id8) noexcept nogil:
        """An id that is neither in use nor was lately."""
        cdef uint64_t id
        while True:
            self.random.fill(id8, 8)
            memcpy(&id, id8, 8)
            if self.find(id) == NULL and not self.was_ours(id):
                return

    cdef int reset_token(self, const uint8_t* id8, uint8_t* token16) noexcept nogil:
        """AES-256 of the id, padded with zeros: cheaper than an HMAC, a connection needs about a hundred. -1: failed."""
        cdef uint8_t block[16]
        cdef const uint8_t* sample = block
        memset(block, 0, 16)
        memcpy(block, id8, 8)
        return hp_masks(self.reset_key, &sample, 1, token16)

    cdef IdEntry* find(self, uint64_t id) noexcept nogil:  # hot
        cdef uint32_t at
        if self.slots == NULL:
            return NULL
        at = <uint32_t>id & self.mask
        while self.slots[at].conn != NULL:
            if self.slots[at].id == id and self.slots[at].conn != DELETED:
                return &self.slots[at]
            at = (at + 1) & self.mask
        return NULL

    cdef int grow(self) noexcept nogil:
        """Make room, or only drop what was deleted. -1 without memory."""
        cdef uint32_t before = self.mask + 1 if self.slots != NULL else 0
        cdef uint32_t size = 32
        cdef uint32_t i, at
        cdef IdEntry* old = self.slots
        cdef IdEntry* slots
        while size < self.live * 2 + 2:
            size *= 2
        slots = <IdEntry*>calloc(size, sizeof(IdEntry))
        if slots == NULL:
            return -1
        for i in range(before):
            if old[i].conn != NULL and old[i].conn != DELETED:
                at = <uint32_t>old[i].id & (size - 1)
                while slots[at].conn != NULL:
                    at = (at + 1) & (size - 1)
                slots[at] = old[i]
        free(old)
        self.slots = slots
        self.mask = size - 1
        self.used = self.live
        return 0

    cdef int add(self, uint64_t id, PyObject* conn, uint32_t path_id) noexcept nogil:
        """Route an id. -1 without memory: packets with it are then noise."""
        cdef uint32_t at
        if (self.slots == NULL or (self.used + 1) * 4 > (self.mask + 1) * 3) and self.grow() < 0:
            return -1
        at = <uint32_t>id & self.mask
        while self.slots[at].conn != NULL:
            at = (at + 1) & self.mask
        self.slots[at].id = id
        self.slots[at].conn = conn
        self.slots[at].path_id = path_id
        self.used += 1
        self.live += 1
        return 0

    cdef void remove(self, uint64_t id) noexcept nogil:
        cdef IdEntry* entry = self.find(id)
        if entry == NULL:
            return
        entry.conn = DELETED
        self.live -= 1
        if self.former == NULL:
            self.former = <uint64_t*>calloc(FORMER_IDS, sizeof(uint64_t))
        if self.former != NULL:
            # By its place: a newer one takes it over, at random.
            self.former[id % FORMER_IDS] = id

    cdef bint was_ours(self, uint64_t id) noexcept nogil:
        """Whether this was an id of ours, as far as that is remembered."""
        return id != 0 and self.former != NULL and self.former[id % FORMER_IDS] == id

    def __len__(self):
        return self.live
