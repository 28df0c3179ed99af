"""Zones made of signed packets, in a table that is bounded by bytes.

The key is the label that names a zone, 52 symbols of z-base-32 in lower case: what queries have, so that nothing is decoded
for those that are answered from here. Buckets are chosen by SipHash-1-3 with a secret, and never grow: their number follows
the bound, and pages of them that nobody touched cost nothing. What is evicted is the oldest one that nobody asked for since
it was last looked at (second chance), so that an answer writes one byte and no list. Keys without a packet have a bound of
their own: who asks for many of them takes no zone's place.
"""

import os

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from iroh_fast.dns_server._sip cimport sip_hash

cdef extern from "native/slab.h" nogil:
    uint8_t* slab_new(size_t n)
    void slab_free(uint8_t* p, size_t n)


cdef enum:
    MALLOC_HEADER = 16            # what an allocation costs beside its bytes, which are rounded up to as much
    MEAN_ZONE = 256               # bytes; decides about the number of buckets alone
    LOOKED_AT = 64                # entries that may get a second chance when one has to go

cdef const char* ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"
cdef uint8_t[256] SYMBOLS
cdef int _symbol
for _symbol in range(256):
    SYMBOLS[_symbol] = 255
for _symbol in range(32):
    SYMBOLS[<uint8_t>ALPHABET[_symbol]] = <uint8_t>_symbol


# ---- labels -------------------------------------------------------------------
cdef void label_of_key(const uint8_t* key, uint8_t* label) noexcept nogil:
    """z-base-32 of 32 bytes: 52 symbols, of which the last one has one bit."""
    cdef uint32_t bits = 0
    cdef int have = 0, at = 0, i
    for i in range(32):
        bits = (bits << 8) | key[i]
        have += 8
        while have >= 5:
            have -= 5
            label[at] = <uint8_t>ALPHABET[(bits >> have) & 31]
            at += 1
    label[at] = <uint8_t>ALPHABET[(bits << (5 - have)) & 31]


cdef bint key_of_label(const uint8_t* label, uint8_t* key) noexcept nogil:
    """The 32 bytes that a lower-cased label stands for; False if it does not."""
    cdef uint32_t bits = 0
    cdef uint8_t symbol
    cdef int have = 0, at = 0, i
    for i in range(LABEL):
        symbol = SYMBOLS[label[i]]
        if symbol > 31:
            return False
        bits = (bits << 5) | symbol
        have += 5
        if have >= 8:
            have -= 8
            key[at] = <uint8_t>(bits >> have)
            at += 1
    return bits & 15 == 0


# ---- rrsets -------------------------------------------------------------------
cdef inline uint8_t* data_of(const Zone* zone) noexcept nogil:
    return <uint8_t*>zone + sizeof(Zone)


cdef inline void load_rrset(const uint8_t* p, Rrset* out) noexcept nogil:
    memcpy(&out.size, p, 4)
    memcpy(&out.type, p + 4, 2)
    memcpy(&out.count, p + 6, 2)
    out.name_len = p[8]


cdef const uint8_t* find_rrset(const Zone* zone, const uint8_t* name, int name_len, uint16_t type,
                               Rrset* out) noexcept nogil:
    """Where the records of a name and type begin; NULL if there are none. The name is the part left of the key."""
    cdef const uint8_t* p = data_of(zone)
    cdef const uint8_t* end = p + zone.data_len
    while p < end:
        load_rrset(p, out)
        if out.type == type and out.name_len == name_len and memcmp(p + RRSET_HEADER, name, name_len) == 0:
            return p + RRSET_HEADER + name_len
        p += out.size
    return NULL


cdef bint name_exists(const Zone* zone, const uint8_t* name, int name_len, bint* cname) noexcept nogil:
    """Whether there are records at a name or below it; `cname`: whether it is another name for something."""
    cdef const uint8_t* p = data_of(zone)
    cdef const uint8_t* end = p + zone.data_len
    cdef const uint8_t* below
    cdef Rrset set
    cdef int left
    cdef bint exists = False
    cname[0] = False
    while p < end:
        load_rrset(p, &set)
        below = p + RRSET_HEADER
        left = set.name_len
        while left > name_len:
            left -= 1 + below[0]
            below += 1 + below[0]
        if left == name_len and memcmp(below, name, name_len) == 0:
            exists = True
            if set.name_len == name_len and set.type == 5:
                cname[0] = True
        p += set.size
    return exists


# ---- table --------------------------------------------------------------------
cdef inline uint64_t cost(uint32_t data_len) noexcept nogil:
    return (sizeof(Zone) + data_len + 2 * MALLOC_HEADER - 1) & ~<uint64_t>(MALLOC_HEADER - 1)


cdef inline void unlink(ZoneList* entries, Zone* zone) noexcept nogil:
    if zone.newer != NULL:
        zone.newer.older = zone.older
    else:
        entries.newest = zone.older
    if zone.older != NULL:
        zone.older.newer = zone.newer
    else:
        entries.oldest = zone.newer


cdef inline void link_newest(ZoneList* entries, Zone* zone) noexcept nogil:
    zone.newer = NULL
    zone.older = entries.newest
    if entries.newest != NULL:
        entries.newest.newer = zone
    else:
        entries.oldest = zone
    entries.newest = zone


cdef class ZoneTable:
    """Zones by key.

    Parameters
    ----------
    limit : int
        Bytes of all zones, buckets included: at least 64 KiB.
    unknown_limit : int, optional
        Bytes of what remembers keys without a packet; a sixteenth of `limit` unless given, and part of it.
    """

    def __cinit__(self, uint64_t limit, unknown_limit=None):
        cdef uint64_t buckets = 64
        if limit < 65536:
            raise ValueError(f"a cache of zones needs 65536 bytes at least, not {limit}")
        while buckets * MEAN_ZONE < limit:
            buckets *= 2
        memset(&self.known, 0, sizeof(ZoneList))
        memset(&self.unknown, 0, sizeof(ZoneList))
        self.unknown.limit = limit // 16 if unknown_limit is None else unknown_limit
        if self.unknown.limit + buckets * sizeof(Zone*) >= limit:
            raise ValueError("the bound of unknown keys leaves no room for zones")
        self.known.limit = limit - self.unknown.limit - buckets * sizeof(Zone*)
        self.buckets = <Zone**>slab_new(buckets * sizeof(Zone*))
        if self.buckets == NULL:
            raise MemoryError
        self.mask = buckets - 1
        secret = os.urandom(16)
        memcpy(self.seed, <const char*>secret, 16)

    def __dealloc__(self):
        if self.buckets != NULL:
            self.free_all(&self.known)
            self.free_all(&self.unknown)
            slab_free(<uint8_t*>self.buckets, (self.mask + 1) * sizeof(Zone*))

    cdef Zone** place(self, const uint8_t* label, uint64_t hashed) noexcept nogil:
        """What points to the zone, or would."""
        cdef Zone** at = &self.buckets[hashed & self.mask]
        while at[0] != NULL and (at[0].hash != hashed or memcmp(at[0].label, label, LABEL) != 0):
            at = &at[0].chain
        return at

    cdef Zone* find(self, const uint8_t* label, int64_t now_ns) noexcept nogil:    # hot
        cdef Zone** at = self.place(label, sip_hash(self.seed, label, LABEL))
        if at[0] == NULL:
            return NULL
        if at[0].expires_ns <= now_ns or at[0].generation != self.generation:
            self.remove(at)
            return NULL
        at[0].used = 1
        return at[0]

    cdef int store(self, const uint8_t* label, uint8_t state, const uint8_t* data, uint32_t n,
                   int64_t expires_ns) noexcept nogil:
        """Put a zone in the place of what was there; copies. -1 without memory."""
        cdef uint64_t hashed = sip_hash(self.seed, label, LABEL)
        cdef Zone** at = self.place(label, hashed)
        cdef Zone* zone
        cdef ZoneList* entries = &self.unknown if state == ZONE_ABSENT else &self.known
        if at[0] != NULL:
            self.remove(at)
        zone = <Zone*>malloc(sizeof(Zone) + n)
        if zone == NULL:
            return -1
        zone.hash = hashed
        zone.expires_ns = expires_ns
        zone.data_len = n
        zone.generation = self.generation
        zone.state = state
        zone.used = 0
        memcpy(zone.label, label, LABEL)
        if n:
            memcpy(data_of(zone), data, n)
        at = &self.buckets[hashed & self.mask]
        zone.chain = at[0]
        at[0] = zone
        link_newest(entries, zone)
        entries.bytes += cost(n)
        entries.count += 1
        self.shrink(entries, zone)
        return 0

    cdef bint forget(self, const uint8_t* label) noexcept nogil:
        cdef Zone** at = self.place(label, sip_hash(self.seed, label, LABEL))
        if at[0] == NULL:
            return False
        self.remove(at)
        return True

    cdef void remove(self, Zone** place) noexcept nogil:
        cdef Zone* zone = place[0]
        cdef ZoneList* entries = &self.unknown if zone.state == ZONE_ABSENT else &self.known
        place[0] = zone.chain
        unlink(entries, zone)
        entries.bytes -= cost(zone.data_len)
        entries.count -= 1
        free(zone)

    cdef void shrink(self, ZoneList* entries, Zone* spared) noexcept nogil:
        """Evict until the bound holds; the one that was just put in stays until the next."""
        cdef int looked = 0
        cdef Zone* zone
        while entries.bytes > entries.limit and entries.count > 1:
            zone = entries.oldest
            if zone is spared or (zone.used and looked < LOOKED_AT):
                looked += 1
                zone.used = 0
                unlink(entries, zone)
                link_newest(entries, zone)
                continue
            self.remove(self.place(zone.label, zone.hash))
            self.evicted += 1

    cdef void free_all(self, ZoneList* entries) noexcept nogil:
        cdef Zone* zone
        while entries.oldest != NULL:
            zone = entries.oldest
            entries.oldest = zone.newer
            free(zone)

    def drop(self, bytes key not None):
        """Forget what is known of a key; False if nothing was."""
        cdef uint8_t[52] label
        if len(key) != 32:
            raise ValueError(f"a key has 32 bytes, not {len(key)}")
        label_of_key(<const uint8_t*><const char*>key, label)
        return self.forget(label)

    def drop_all(self):
        """Forget everything; the memory is given back as others need it."""
        self.generation += 1

    @property
    def zones(self):
        """How many zones there are."""
        return self.known.count

    @property
    def unknown_keys(self):
        """How many keys are known to have no packet."""
        return self.unknown.count

    @property
    def nbytes(self):
        """Memory of all entries, buckets included."""
        return self.known.bytes + self.unknown.bytes + (self.mask + 1) * sizeof(Zone*)

    @property
    def evictions(self):
        """How many entries had to go because of the bound."""
        return self.evicted
