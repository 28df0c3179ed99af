"""Zones made of signed packets, in a table that is bounded by bytes."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    LABEL = 52                    # symbols of a key in z-base-32


cdef enum ZoneState:
    ZONE_PRESENT
    ZONE_ABSENT                   # the key has no packet
    ZONE_BROKEN                   # it has one that we cannot read


cdef struct Zone:
    Zone* chain                   # next one in the bucket
    Zone* newer
    Zone* older
    uint64_t hash
    int64_t expires_ns
    uint32_t data_len             # of what follows the struct: rrsets
    uint32_t generation           # of the table when it was put there
    uint8_t state
    uint8_t used                  # asked for since it was last looked at for eviction
    uint8_t label[52]


# Records of one name and type. `name_len` bytes follow: the labels left of the key, lower case, without the zero at the end;
# then `count` times an `uint16_t` and so many bytes: a record without its owner.
cdef struct Rrset:
    uint32_t size                 # of all that, this struct included
    uint16_t type
    uint16_t count
    uint8_t name_len


cdef enum:
    RRSET_HEADER = 9              # bytes of an `Rrset` in memory, where nothing is aligned


cdef struct ZoneList:
    Zone* newest
    Zone* oldest
    uint64_t bytes
    uint64_t limit
    uint64_t count


cdef class ZoneTable:
    cdef Zone** buckets
    cdef uint64_t mask
    cdef uint64_t seed[2]
    cdef ZoneList known           # packets, readable or not
    cdef ZoneList unknown         # keys without one
    cdef uint64_t evicted
    cdef uint32_t generation

    # Borrowed until the next `store` or `forget`. NULL: not here, or expired.
    cdef Zone* find(self, const uint8_t* label, int64_t now_ns) noexcept nogil
    cdef Zone** place(self, const uint8_t* label, uint64_t hashed) noexcept nogil
    cdef int store(self, const uint8_t* label, uint8_t state, const uint8_t* data, uint32_t n,
                   int64_t expires_ns) noexcept nogil
    cdef bint forget(self, const uint8_t* label) noexcept nogil
    cdef void remove(self, Zone** place) noexcept nogil
    cdef void shrink(self, ZoneList* entries, Zone* spared) noexcept nogil
    cdef void free_all(self, ZoneList* entries) noexcept nogil


cdef const uint8_t* find_rrset(const Zone* zone, const uint8_t* name, int name_len, uint16_t type,
                               Rrset* out) noexcept nogil
cdef bint name_exists(const Zone* zone, const uint8_t* name, int name_len, bint* cname) noexcept nogil
cdef void label_of_key(const uint8_t* key, uint8_t* label) noexcept nogil
cdef bint key_of_label(const uint8_t* label, uint8_t* key) noexcept nogil
