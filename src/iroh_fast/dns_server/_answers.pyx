"""Answers from zones and static records, as bytes.

`Answerer.answer` reads a query and writes the answer into the caller's memory; it allocates nothing and touches no Python
object. A key that is in no table is reported as missed: who calls looks it up, puts what was found into the table and asks
again. What differs from iroh's server is marked; everything else is byte for byte what that sends.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._dns._names cimport MAX_NAME, get_u16
from iroh_fast._dns._put cimport put_u16
from iroh_fast._dns._records cimport CLASS_IN, FLAG_AA, FLAG_CD, FLAG_QR, FLAG_RD, FLAG_TC, HEADER_SIZE, TYPE_ANY, TYPE_NS, TYPE_SOA
from iroh_fast.dns_server._query cimport READ_MALFORMED, READ_NOTHING, Query, read_query
from iroh_fast.dns_server._zones cimport (
    LABEL,
    ZONE_ABSENT,
    ZONE_BROKEN,
    Rrset,
    Zone,
    ZoneTable,
    find_rrset,
    key_of_label,
    name_exists,
)

cdef extern from "native/clock.h" nogil:
    int64_t clock_now_ns()


cdef enum:
    OPT_SIZE = 11
    PAYLOAD_LEAST = 512           # RFC 6891 §6.2.3

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16

    OPCODE_QUERY = 0
    OPCODE_UPDATE = 5
    TYPE_IXFR = 251
    TYPE_AXFR = 252
    CLASS_ANY = 255


# ---- writing ------------------------------------------------------------------
cdef inline bint room_for(const Reply* r, size_t n) noexcept nogil:
    return r.at + n + (OPT_SIZE if r.query.edns else 0) <= r.limit


cdef void begin(Reply* r) noexcept nogil:
    """The question as it came; the header is written at the end."""
    cdef size_t size = r.query.questions_end - HEADER_SIZE
    r.at = HEADER_SIZE
    if r.echo and room_for(r, size):
        memcpy(r.out + HEADER_SIZE, r.query.data + HEADER_SIZE, size)
        r.at += size
    else:
        r.echo = False


cdef int finish(Reply* r) noexcept nogil:
    cdef const Query* q = r.query
    cdef uint8_t* p = r.out
    cdef unsigned int flags = FLAG_QR | (<unsigned int>q.opcode << 11)
    flags |= get_u16(q.data + 2) & (FLAG_RD | FLAG_CD)
    flags |= (FLAG_AA if r.aa else 0) | (FLAG_TC if r.tc else 0) | <unsigned int>(r.rcode & 15)
    p[0] = q.data[0]
    p[1] = q.data[1]
    p = put_u16(put_u16(p + 2, <uint16_t>flags), q.questions if r.echo else 0)
    p = put_u16(put_u16(p, <uint16_t>r.answers), <uint16_t>r.authorities)
    put_u16(p, 1 if q.edns else 0)
    if q.edns:
        p = r.out + r.at
        p[0] = 0
        p = put_u16(put_u16(p + 1, 41), max(q.payload, <uint16_t>PAYLOAD_LEAST))
        p[0] = <uint8_t>(r.rcode >> 4)
        memset(p + 1, 0, 5)  # version, flags, no options
        r.at += OPT_SIZE
    return <int>r.at


cdef void put_section(Reply* r, const Section* s) noexcept nogil:
    cdef uint8_t* p = r.out + r.at
    cdef int i
    if s.size == 0:
        return
    if not room_for(r, s.size):
        r.tc = True
        return
    memcpy(p, s.data, s.size)
    for i in range(s.relocations):
        put_u16(p + s.places[i], <uint16_t>(get_u16(p + s.places[i]) + r.at))
    r.at += s.size
    r.answers += s.answers
    r.authorities += s.authorities


cdef void put_rrset(Reply* r, const uint8_t* records, int count) noexcept nogil:    # hot
    """The first owner in full, lower case, and pointers to it; with TC what fits."""
    cdef const Query* q = r.query
    cdef uint8_t* p
    cdef size_t owner = r.at
    cdef size_t size
    cdef uint16_t body
    cdef int i
    for i in range(count):
        memcpy(&body, records, 2)
        records += 2
        p = r.out + r.at
        size = body + (2 if i else <size_t>q.name_len)
        # INTEROP: as in the reference, whose encoder writes each owner in full before it finds it again,
        # records after the first end where such a name would not fit.
        if not room_for(r, size) or (i and not room_for(r, <size_t>q.name_len - 1)):
            r.tc = True
            return
        if i == 0:
            memcpy(p, q.name, q.name_len)
            p += q.name_len
        else:
            p = put_u16(p, <uint16_t>(0xC000 | owner))
        memcpy(p, records, body)
        records += body
        r.at += size
        r.answers += 1


cdef class Answerer:
    """Answers queries from zones and static records.

    Parameters
    ----------
    origins : list of tuple
        Of `static.sections`: the name on the wire, and sections by what they answer.
    zones : ZoneTable
        What the store has.
    fallback : ZoneTable, optional
        Of keys that are not in the store, when somebody else is asked for them.
    """

    def __cinit__(self, list origins not None, ZoneTable zones not None, ZoneTable fallback=None):
        cdef int i, j = 0
        self.zones = zones
        self.fallback = fallback
        self.texts = []
        self.origin_count = <int>len(origins)
        self.set_count = sum([len(origin.sets) for origin in origins])
        self.origins = <Origin*>calloc(max(self.origin_count, 1), sizeof(Origin))
        self.sets = <OriginSet*>calloc(max(self.set_count, 1), sizeof(OriginSet))
        if self.origins == NULL or self.sets == NULL:
            raise MemoryError
        for i in range(self.origin_count):
            self._fill_origin(&self.origins[i], origins[i])
            self.origins[i].first_set = j
            for type, section in origins[i].sets:
                self.sets[j].type = type
                self._fill_section(&self.sets[j].section, section)
                j += 1
            self.origins[i].sets = j - self.origins[i].first_set

    def __dealloc__(self):
        free(self.origins)
        free(self.sets)

    cdef _fill_origin(self, Origin* origin, made):
        cdef bytes name = made.name
        if PyBytes_GET_SIZE(name) > MAX_NAME:
            raise ValueError("the name of an origin is too long")
        memcpy(origin.name, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        origin.name_len = <int>PyBytes_GET_SIZE(name)
        origin.labels = made.labels
        self._fill_section(&origin.negative, made.negative)
        self._fill_section(&origin.soa, made.soa)

    cdef _fill_section(self, Section* section, made):
        cdef bytes data = made.data
        cdef int i
        if len(made.places) > 16 or PyBytes_GET_SIZE(data) > 0x3000:
            raise ValueError("static records are too many")
        self.texts.append(data)
        section.data = <const uint8_t*>PyBytes_AS_STRING(data)
        section.size = <uint16_t>PyBytes_GET_SIZE(data)
        section.answers = made.answers
        section.authorities = made.authorities
        section.relocations = <uint16_t>len(made.places)
        for i in range(section.relocations):
            section.places[i] = made.places[i]

    # ---- deciding -------------------------------------------------------------
    cdef int answer(self, const uint8_t* data, size_t n, int transport, uint8_t* out, int64_t now_ns) noexcept nogil:    # hot
        cdef Query q
        cdef Reply r
        cdef int reading = read_query(data, n, &q)
        if reading == READ_NOTHING or (reading != READ_MALFORMED and data[2] & 0x80):
            self.counters.ignored += 1
            return NO_ANSWER
        memset(&r, 0, sizeof(r))
        r.query = &q
        r.out = out
        r.limit = STREAM_LIMIT
        if transport == OVER_UDP:
            r.limit = min(max(q.payload, <uint16_t>PAYLOAD_LEAST), DATAGRAM_LIMIT) if q.edns else DATAGRAM_DEFAULT
        if reading == READ_MALFORMED:
            # INTEROP: also with QR set. The answer is no longer than the question, and nobody answers it.
            q.edns = False
            r.rcode = FORMERR
            begin(&r)
        elif self._decide(&q, &r, transport, now_ns) == MISSED:
            self.counters.misses += 1
            return MISSED
        self.counters.requests[transport] += 1
        self._count(&r)
        return finish(&r)

    cdef int hint(self, const uint8_t* data, size_t n, uint8_t* out) noexcept nogil:
        cdef Query q
        cdef Reply r
        if read_query(data, n, &q) in (READ_NOTHING, READ_MALFORMED) or data[2] & 0x80:
            return NO_ANSWER
        memset(&r, 0, sizeof(r))
        r.query = &q
        r.out = out
        r.limit = PAYLOAD_LEAST
        r.echo = r.tc = True
        begin(&r)
        return finish(&r)

    cdef int _decide(self, const Query* q, Reply* r, int transport, int64_t now_ns) noexcept nogil:
        cdef const Origin* origin
        r.echo = True
        begin(r)
        if q.questions != 1:
            r.rcode = FORMERR
        elif q.edns and q.version > 0:
            r.rcode = BADVERS
        elif q.opcode == OPCODE_UPDATE:
            r.rcode = NOTIMP if q.qtype == TYPE_SOA else FORMERR
        elif q.opcode != OPCODE_QUERY:
            r.rcode = NOTIMP
        # DIFFERS: the reference answers with records of class IN whatever was asked, and transfers with nothing.
        elif (q.qclass != CLASS_IN and q.qclass != CLASS_ANY) or q.qtype == TYPE_AXFR or q.qtype == TYPE_IXFR:
            r.rcode = REFUSED
        else:
            origin = self._origin_of(q)
            if origin != NULL:
                return self._ask_origin(q, r, origin, now_ns)
            r.rcode = REFUSED
        return 0

    cdef const Origin* _origin_of(self, const Query* q) noexcept nogil:
        """The one with the most labels that the name is in."""
        cdef const Origin* origin
        cdef int i, at
        for i in range(self.origin_count):
            origin = &self.origins[i]
            if origin.labels > q.labels:
                continue
            at = q.name_len - 1 if origin.labels == 0 else q.label_at[q.labels - origin.labels]
            if q.name_len - at == origin.name_len and memcmp(q.name + at, origin.name, origin.name_len) == 0:
                return origin
        return NULL

    cdef int _ask_origin(self, const Query* q, Reply* r, const Origin* origin, int64_t now_ns) noexcept nogil:
        cdef int labels = q.labels - origin.labels
        r.aa = True
        if q.qtype == TYPE_SOA:
            put_section(r, &origin.soa)
            return 0
        if labels > 0 and q.name[q.label_at[labels - 1]] == LABEL:
            return self._ask_zone(q, r, origin, now_ns)
        return self._ask_static(q, r, origin)

    cdef int _ask_static(self, const Query* q, Reply* r, const Origin* origin) noexcept nogil:
        """Records of the origin itself; a name is there, too, when an origin is below it."""
        cdef const Origin* other
        cdef int i, at
        if q.labels == origin.labels:
            for i in range(origin.first_set, origin.first_set + origin.sets):
                if self.sets[i].type == q.qtype:
                    put_section(r, &self.sets[i].section)
                    return 0
        r.rcode = NXDOMAIN
        for i in range(self.origin_count):
            other = &self.origins[i]
            at = other.name_len - q.name_len
            if at >= 0 and other.labels >= q.labels and memcmp(other.name + at, q.name, q.name_len) == 0:
                r.rcode = NOERROR
        put_section(r, &origin.negative)
        return 0

    cdef Zone* _zone(self, const uint8_t* label, int64_t now_ns, int* outcome) noexcept nogil:
        """What is known of a key; NULL when that is nothing: `outcome` is MISSED then, or 0 if it is no key."""
        cdef Zone* zone = self.zones.find(label, now_ns)
        cdef bint stored_nowhere = zone != NULL and zone.state == ZONE_ABSENT
        if stored_nowhere and self.fallback is not None:
            zone = self.fallback.find(label, now_ns)
        if zone == NULL:
            outcome[0] = MISSED if key_of_label(label, self.missed) else 0
            self.missed_fallback = stored_nowhere
        return zone

    cdef int _ask_zone(self, const Query* q, Reply* r, const Origin* origin, int64_t now_ns) noexcept nogil:
        cdef int name_len = q.label_at[q.labels - origin.labels - 1]
        cdef int outcome = 0
        cdef Zone* zone = self._zone(q.name + name_len + 1, now_ns, &outcome)
        cdef const uint8_t* records
        cdef Rrset set
        cdef bint cname = False
        if zone == NULL:
            return outcome if outcome == MISSED else self._ask_static(q, r, origin)
        if zone.state == ZONE_BROKEN:
            r.aa = False
            r.rcode = REFUSED
            return 0
        if zone.state == ZONE_ABSENT:
            r.rcode = NXDOMAIN
            put_section(r, &origin.negative)
            return 0
        records = find_rrset(zone, q.name, name_len, q.qtype, &set)
        if records != NULL:
            put_rrset(r, records, set.count)
            return 0
        # DIFFERS: the reference says NXDOMAIN, and resolvers would take the names below for gone, too.
        if not name_exists(zone, q.name, name_len, &cname):
            r.rcode = NXDOMAIN
        elif origin.labels == 0 and (cname or q.qtype == TYPE_ANY or q.qtype == TYPE_NS):
            # INTEROP: as the reference does. Nobody delegates the root to us, so that no resolver believes it.
            r.rcode = NXDOMAIN
        put_section(r, &origin.negative)
        return 0

    cdef void _count(self, const Reply* r) noexcept nogil:
        if r.tc:
            self.counters.truncated += 1
        if r.rcode == NXDOMAIN or (r.rcode == NOERROR and r.answers == 0):
            self.counters.notfound += 1
        elif r.rcode == NOERROR:
            self.counters.success += 1
        else:
            self.counters.errors += 1

    # ---- for Python -----------------------------------------------------------
    def reply(self, query, int transport):
        """Answer one query.

        Parameters
        ----------
        query : bytes-like
            Borrowed for the call.
        transport : int
            0 UDP, 1 TCP, 2 HTTPS: how long the answer may be, and what it counts as.

        Returns
        -------
        bytes or None
            Nothing in it: there is no answer. None: `missed_key` has to be looked up first.
        """
        cdef Py_buffer view
        cdef uint8_t[65536] out
        cdef int n
        if not 0 <= transport < TRANSPORTS:
            raise ValueError(f"transport is 0 to 2, not {transport}")
        PyObject_GetBuffer(query, &view, PyBUF_SIMPLE)
        try:
            n = self.answer(<const uint8_t*>view.buf, <size_t>view.len, transport, out, clock_now_ns())
        finally:
            PyBuffer_Release(&view)
        return None if n == MISSED else PyBytes_FromStringAndSize(<const char*>out, n)

    def reading(self, query):
        """Look at a message alone: 0 a query, 1 too short or no message, 2 a response."""
        cdef Py_buffer view
        cdef Query q
        cdef int reading
        cdef bint response
        PyObject_GetBuffer(query, &view, PyBUF_SIMPLE)
        try:
            reading = read_query(<const uint8_t*>view.buf, <size_t>view.len, &q)
            response = view.len > 2 and (<const uint8_t*>view.buf)[2] & 0x80
        finally:
            PyBuffer_Release(&view)
        return 1 if reading in (READ_NOTHING, READ_MALFORMED) else 2 if response else 0

    def failure(self, query, int transport):
        """The answer SERVFAIL to a query that `reply` could not answer."""
        cdef Py_buffer view
        cdef uint8_t[1536] out
        cdef Query q
        cdef Reply r
        PyObject_GetBuffer(query, &view, PyBUF_SIMPLE)
        try:
            if read_query(<const uint8_t*>view.buf, <size_t>view.len, &q) in (READ_NOTHING, READ_MALFORMED):
                return b""
            memset(&r, 0, sizeof(r))
            r.query = &q
            r.out = out
            r.limit = PAYLOAD_LEAST
            r.rcode = SERVFAIL
            r.echo = True
            begin(&r)
            self.counters.requests[transport] += 1
            self._count(&r)
            return PyBytes_FromStringAndSize(<const char*>out, finish(&r))
        finally:
            PyBuffer_Release(&view)

    @property
    def missed_key(self):
        """The 32 bytes of the key that the last query was missing."""
        return (<const char*>self.missed)[:32]

    @property
    def missed_in_fallback(self):
        """Whether the store is known not to have that key."""
        return self.missed_fallback

    def counts(self):
        """Return the counters since the beginning: dict of str to int."""
        cdef AnswerCounters* c = &self.counters
        return {
            "dns_requests_udp": c.requests[<int>OVER_UDP],
            "dns_requests_tcp": c.requests[<int>OVER_TCP],
            "dns_requests_https": c.requests[<int>OVER_HTTPS],
            "dns_lookup_success": c.success,
            "dns_lookup_notfound": c.notfound,
            "dns_lookup_error": c.errors,
            "dns_ignored": c.ignored,
            "dns_truncated": c.truncated,
            "dns_cache_misses": c.misses,
        }
