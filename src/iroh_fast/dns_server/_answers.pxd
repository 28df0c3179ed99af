"""Answers from zones and static records, as bytes."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from iroh_fast.dns_server._query cimport Query
from iroh_fast.dns_server._zones cimport Zone, ZoneTable


cdef enum:
    STREAM_LIMIT = 65535          # bytes of an answer over TCP or HTTP
    # What fits through links with IPv6's least MTU, and all that a legal packet gives.
    # INTEROP: the reference sends 512 bytes to who says nothing; resolvers of iroh 1.0 say nothing and may have no TCP.
    DATAGRAM_DEFAULT = 1232
    # DIFFERS: RFC 9715 §3.1: not what the client can take alone decides, else the answer would be cut on its way.
    DATAGRAM_LIMIT = 1400

    NO_ANSWER = 0
    MISSED = -1                   # the key in `missed` has to be looked up first


cdef enum Transport:
    OVER_UDP
    OVER_TCP
    OVER_HTTPS
    TRANSPORTS


# Records made in advance. Pointers in them are relative to where they begin: `relocations` are their places.
cdef struct Section:
    const uint8_t* data
    uint16_t size
    uint16_t answers
    uint16_t authorities
    uint16_t relocations
    uint16_t[16] places


cdef struct Origin:
    uint8_t[256] name             # lower case
    int name_len
    int labels
    Section negative              # SOA, in the authority section
    Section soa                   # SOA as answer, with NS
    int sets                      # records at the origin itself: first and number in `sets`
    int first_set


cdef struct OriginSet:
    uint16_t type
    Section section


cdef struct AnswerCounters:
    uint64_t[3] requests          # by transport
    uint64_t success              # NOERROR with answers
    uint64_t notfound             # NOERROR without, or NXDOMAIN
    uint64_t errors
    uint64_t ignored              # no answer at all
    uint64_t truncated
    uint64_t misses               # a key that had to be looked up


# Where an answer is written.
cdef struct Reply:
    const Query* query
    uint8_t* out
    size_t at
    size_t limit                  # OPT included
    unsigned int answers
    unsigned int authorities
    int rcode                     # with the upper bits that OPT has
    bint aa
    bint tc
    bint echo


cdef class Answerer:
    cdef readonly ZoneTable zones
    cdef readonly ZoneTable fallback    # of keys that are not stored here; None: nobody is asked
    cdef list texts                     # holds the bytes of the sections
    cdef Origin* origins                # those with more labels first
    cdef OriginSet* sets
    cdef int origin_count
    cdef int set_count
    cdef uint8_t[32] missed
    cdef bint missed_fallback           # the store is known not to have it
    cdef AnswerCounters counters

    cdef _fill_origin(self, Origin* origin, made)
    cdef _fill_section(self, Section* section, made)
    # Bytes of the answer, or NO_ANSWER, or MISSED. `out` has room for the limit of the transport.
    cdef int answer(self, const uint8_t* data, size_t n, int transport, uint8_t* out, int64_t now_ns) noexcept nogil
    # The answer that says nothing but: ask over TCP. NO_ANSWER for what is no query.
    cdef int hint(self, const uint8_t* data, size_t n, uint8_t* out) noexcept nogil
    cdef int _decide(self, const Query* q, Reply* r, int transport, int64_t now_ns) noexcept nogil
    cdef int _ask_origin(self, const Query* q, Reply* r, const Origin* origin, int64_t now_ns) noexcept nogil
    cdef int _ask_zone(self, const Query* q, Reply* r, const Origin* origin, int64_t now_ns) noexcept nogil
    cdef Zone* _zone(self, const uint8_t* label, int64_t now_ns, int* outcome) noexcept nogil
    cdef int _ask_static(self, const Query* q, Reply* r, const Origin* origin) noexcept nogil
    cdef const Origin* _origin_of(self, const Query* q) noexcept nogil
    cdef void _count(self, const Reply* r) noexcept nogil
