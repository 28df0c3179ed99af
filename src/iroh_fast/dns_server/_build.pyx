"""From the DNS part of a signed packet to a zone.

Served are answers of class IN below the key, but for SOA and NS: records are grouped by name (left of the key, lower case)
and type, in their order. Names inside of data are written out, since pointers into the packet mean nothing in an answer.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from iroh_fast._dns._names cimport MAX_NAME, lower_name, read_name
from iroh_fast._dns._put cimport put_u16, put_u32
from iroh_fast._dns._records cimport (
    CLASS_IN,
    HEADER_SIZE,
    TYPE_A,
    TYPE_AAAA,
    TYPE_CNAME,
    TYPE_NS,
    TYPE_OPT,
    TYPE_SOA,
    TYPE_SRV,
    Header,
    Question,
    Record,
    check_rdata,
    read_header,
    read_question,
    read_record,
)
from iroh_fast.dns_server._zones cimport (
    LABEL,
    RRSET_HEADER,
    ZONE_ABSENT,
    ZONE_BROKEN,
    ZONE_PRESENT,
    ZoneTable,
    label_of_key,
)

cdef extern from "native/clock.h" nogil:
    int64_t clock_now_ns()


cdef enum:
    MAX_ANSWERS = 128             # more do not fit into a packet: each takes 12 bytes at least
    TAKEN_ROOM = 1 << 17          # names and data written out: 128 times a name, or two and data, with the packet's 1000
    FIXED = 10                    # type, class, TTL and size of the data


# A record that is served. Offsets into the scratch.
cdef struct Taken:
    uint32_t name
    uint32_t body                 # type, class, TTL, size and data
    uint16_t body_len
    uint16_t type
    uint8_t name_len
    bint grouped


cdef struct Scratch:
    uint32_t used
    int count
    Taken records[128]
    uint8_t bytes[131072]


# How data with names in them begin: so many bytes, then so many names; the rest is data again.
cdef struct Shape:
    uint16_t type
    uint8_t prefix
    uint8_t names

cdef enum:
    SHAPES_COUNT = 24

cdef Shape[24] SHAPES = [
    Shape(3, 0, 1), Shape(4, 0, 1), Shape(TYPE_CNAME, 0, 1), Shape(7, 0, 1), Shape(8, 0, 1), Shape(9, 0, 1),
    Shape(12, 0, 1), Shape(14, 0, 2), Shape(15, 2, 1), Shape(17, 0, 2), Shape(18, 2, 1), Shape(21, 2, 1),
    Shape(23, 0, 1), Shape(24, 18, 1), Shape(26, 2, 2), Shape(30, 0, 1), Shape(TYPE_SRV, 6, 1), Shape(36, 2, 1),
    Shape(39, 0, 1), Shape(46, 18, 1), Shape(47, 0, 1), Shape(64, 2, 1), Shape(65, 2, 1), Shape(107, 2, 1),
]


cdef inline const Shape* shape_of(uint16_t type) noexcept nogil:
    cdef int i
    for i in range(SHAPES_COUNT):
        if SHAPES[i].type == type:
            return &SHAPES[i]
    return NULL


cdef inline bint meta(uint16_t type) noexcept nogil:
    """Types of questions and of the protocol itself, which no zone has."""
    return type == 0 or type == TYPE_OPT or 249 <= type <= 255


cdef Py_ssize_t _prefix(const uint8_t* msg, const Record* record) noexcept nogil:
    """Bytes in front of the first name, of types where they are not always as many; -1 if that is none of these."""
    cdef size_t at = 4, i
    if record.type == 35:  # NAPTR: order, preference, three strings
        for i in range(3):
            if at >= record.rdata_size:
                return -1
            at += 1 + msg[record.rdata + at]
        return <Py_ssize_t>at
    if record.type == 45 and record.rdata_size >= 3 and msg[record.rdata + 1] == 3:  # IPSECKEY with a name
        return 3
    return -1


cdef Py_ssize_t _write_data(const uint8_t* msg, const Record* record, uint8_t* out, size_t room) noexcept nogil:
    """Write data with their names in full; their size, or -1 if they do not fit their type."""
    cdef const Shape* shape = shape_of(record.type)
    cdef size_t end = record.rdata + record.rdata_size, at = record.rdata, prefix = 0, written, size = 0
    cdef Py_ssize_t after
    cdef int names = 0, i
    if shape != NULL:
        prefix = shape.prefix
        names = shape.names
    else:
        after = _prefix(msg, record)
        if after >= 0:
            prefix = <size_t>after
            names = 1
    if prefix > record.rdata_size or room < <size_t>record.rdata_size + 2 * MAX_NAME:
        return -1
    memcpy(out, msg + at, prefix)
    written = prefix
    at += prefix
    for i in range(names):
        after = read_name(msg, end, at, out + written, &size)
        if after < 0:
            return -1
        at = <size_t>after
        written += size
    if written + (end - at) > 0xFFFF - FIXED:
        return -1
    memcpy(out + written, msg + at, end - at)
    return <Py_ssize_t>(written + end - at)


cdef bint _fits(const uint8_t* msg, const Record* record) noexcept nogil:
    """Whether a resolver will take the data: the packet's own check is content with too much, and with nothing."""
    if record.type == TYPE_A:
        return record.rdata_size == 4
    if record.type == TYPE_AAAA:
        return record.rdata_size == 16
    return check_rdata(msg, record) == 0


cdef int _take(const uint8_t* msg, size_t n, const Record* record, const uint8_t* label, Scratch* s) noexcept nogil:
    """Take a record into the scratch if it is to be served; -1 if the packet cannot be."""
    cdef uint8_t* name = s.bytes + s.used
    cdef uint8_t* body
    cdef size_t size = 0
    cdef Py_ssize_t data
    cdef Taken* taken
    if record.type == TYPE_SOA or record.type == TYPE_NS or record.klass & 0x7FFF != CLASS_IN or meta(record.type):
        return 0
    if s.used + 4 * MAX_NAME > TAKEN_ROOM or s.count == MAX_ANSWERS:
        return -1
    if read_name(msg, n, record.name, name, &size) < 0:
        return -1
    lower_name(name, size)
    size -= 1
    if size < 1 + LABEL or not _ends_with_label(name, size, label):
        return 0
    if not _fits(msg, record):
        return -1
    size -= 1 + LABEL
    body = name + size
    data = _write_data(msg, record, body + FIXED, TAKEN_ROOM - (s.used + size + FIXED))
    if data < 0:
        return -1
    put_u16(put_u32(put_u16(put_u16(body, record.type), CLASS_IN), record.ttl), <uint16_t>data)
    taken = &s.records[s.count]
    taken.name = s.used
    taken.name_len = <uint8_t>size
    taken.body = s.used + <uint32_t>size
    taken.body_len = <uint16_t>(FIXED + data)
    taken.type = record.type
    taken.grouped = False
    s.count += 1
    s.used += <uint32_t>(size + FIXED) + <uint32_t>data
    return 0


cdef bint _ends_with_label(const uint8_t* name, size_t size, const uint8_t* label) noexcept nogil:
    """Whether the last label is the key's. `size` leaves out the zero at the end."""
    cdef size_t at = 0
    while size - at > 1 + LABEL:
        at += 1 + name[at]
        if at >= size:
            return False
    return size - at == 1 + LABEL and name[at] == LABEL and memcmp(name + at + 1, label, LABEL) == 0


cdef inline bint _same_set(const Scratch* s, const Taken* a, const Taken* b) noexcept nogil:
    return (
        a.type == b.type and a.name_len == b.name_len
        and memcmp(s.bytes + a.name, s.bytes + b.name, a.name_len) == 0
    )


cdef inline bint _same_data(const Scratch* s, const Taken* a, const Taken* b) noexcept nogil:
    return a.body_len == b.body_len and memcmp(
        s.bytes + a.body + FIXED, s.bytes + b.body + FIXED, a.body_len - FIXED) == 0


cdef uint8_t* _write_record(const Scratch* s, const Taken* record, uint8_t* p) noexcept nogil:
    memcpy(p, &record.body_len, 2)
    memcpy(p + 2, s.bytes + record.body, record.body_len)
    return p + 2 + record.body_len


cdef uint8_t* _write_set(Scratch* s, int first, uint8_t* out) noexcept nogil:
    """Write the records that have name and type of one, without those that say the same."""
    cdef Taken* head = &s.records[first]
    cdef int[128] kept
    cdef int i, j, count = 0
    cdef uint8_t* p = out + RRSET_HEADER + head.name_len
    cdef uint32_t size
    cdef uint16_t number
    for i in range(first, s.count):
        if s.records[i].grouped or not _same_set(s, head, &s.records[i]):
            continue
        s.records[i].grouped = True
        for j in range(count):
            # A later one of the same data brings its TTL, and a name has one CNAME: the last.
            if head.type == TYPE_CNAME or _same_data(s, &s.records[kept[j]], &s.records[i]):
                kept[j] = i
                break
        else:
            kept[count] = i
            count += 1
    for i in range(count):
        p = _write_record(s, &s.records[kept[i]], p)
    size = <uint32_t>(p - out)
    number = <uint16_t>count
    memcpy(out, &size, 4)
    memcpy(out + 4, &head.type, 2)
    memcpy(out + 6, &number, 2)
    out[8] = head.name_len
    memcpy(out + RRSET_HEADER, s.bytes + head.name, head.name_len)
    return p


cdef int _take_all(const uint8_t* msg, size_t n, const uint8_t* label, Scratch* s) noexcept nogil:
    """Take the answers of a message; -1 if it cannot be served."""
    cdef Header header
    cdef Question question
    cdef Record record
    cdef Py_ssize_t at = HEADER_SIZE
    cdef int i
    s.used = 0
    s.count = 0
    if read_header(msg, n, &header) < 0:
        return -1
    for i in range(header.counts[0]):
        at = read_question(msg, n, <size_t>at, &question)
        if at < 0:
            return -1
    for i in range(header.counts[1]):
        at = read_record(msg, n, <size_t>at, &record)
        if at < 0 or _take(msg, n, &record, label, s) < 0:
            return -1
    return 0


cdef int _store(ZoneTable table, const uint8_t* label, const uint8_t* msg, size_t n, int64_t expires_ns,
                Scratch* s, uint8_t* out) noexcept nogil:
    """0, 1 for a packet that cannot be served, -1 without memory."""
    cdef uint8_t* p = out
    cdef int i
    if _take_all(msg, n, label, s) < 0:
        return table.store(label, ZONE_BROKEN, NULL, 0, expires_ns) or 1
    for i in range(s.count):
        if not s.records[i].grouped:
            p = _write_set(s, i, p)
    return table.store(label, ZONE_PRESENT, out, <uint32_t>(p - out), expires_ns)


cdef int64_t _expiry(seconds) except? -1:
    return INT64_MAX if seconds is None else clock_now_ns() + <int64_t>(seconds * 1e9)


def store_packet(ZoneTable table not None, bytes key not None, bytes dns not None, seconds=None):
    """Make a zone of the DNS part of a signed packet and put it into a table.

    Parameters
    ----------
    key : bytes
        32 bytes.
    seconds : float, optional
        How long it is kept; None: until something else takes its place.

    Returns
    -------
    bool
        False: the packet cannot be served, and the table knows it.
    """
    cdef uint8_t[52] label
    cdef int code
    cdef size_t n = PyBytes_GET_SIZE(dns)
    cdef Scratch* scratch
    cdef int64_t expires_ns = _expiry(seconds)
    if PyBytes_GET_SIZE(key) != 32:
        raise ValueError(f"a key has 32 bytes, not {len(key)}")
    label_of_key(<const uint8_t*>PyBytes_AS_STRING(key), label)
    # What is written is what was taken, and 2 bytes with each record, 9 with each set.
    scratch = <Scratch*>malloc(sizeof(Scratch) + TAKEN_ROOM + MAX_ANSWERS * (2 + RRSET_HEADER))
    if scratch == NULL:
        raise MemoryError
    code = _store(table, label, <const uint8_t*>PyBytes_AS_STRING(dns), n, expires_ns, scratch,
                  <uint8_t*>scratch + sizeof(Scratch))
    free(scratch)
    if code < 0:
        raise MemoryError
    return code == 0


cdef _store_state(ZoneTable table, bytes key, uint8_t state, seconds):
    cdef uint8_t[52] label
    cdef int64_t expires_ns = _expiry(seconds)
    if PyBytes_GET_SIZE(key) != 32:
        raise ValueError(f"a key has 32 bytes, not {len(key)}")
    label_of_key(<const uint8_t*>PyBytes_AS_STRING(key), label)
    if table.store(label, state, NULL, 0, expires_ns) < 0:
        raise MemoryError


def store_absence(ZoneTable table not None, bytes key not None, seconds=None):
    """Note that a key has no packet; arguments as of `store_packet`."""
    _store_state(table, key, ZONE_ABSENT, seconds)


def store_failure(ZoneTable table not None, bytes key not None, seconds=None):
    """Note that what a key has cannot be read; arguments as of `store_packet`."""
    _store_state(table, key, ZONE_BROKEN, seconds)
