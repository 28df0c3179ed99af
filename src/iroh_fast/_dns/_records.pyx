"""Reading messages on the wire, and which of them iroh's parser takes.

`check_message` accepts exactly what the crate simple-dns 0.12 parses, as iroh's signed packets are validated
with it: what one server takes, all have to take.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from iroh_fast._dns._names cimport get_u16, get_u32, skip_name


cdef int read_header(const uint8_t* msg, size_t end, Header* header) noexcept nogil:
    cdef int i
    if end < HEADER_SIZE:
        return -BAD_HEADER
    header.id = get_u16(msg)
    header.flags = get_u16(msg + 2)
    for i in range(4):
        header.counts[i] = get_u16(msg + 4 + 2 * i)
    return 0


cdef Py_ssize_t read_question(const uint8_t* msg, size_t end, size_t pos, Question* question) noexcept nogil:
    cdef Py_ssize_t after = skip_name(msg, end, pos)
    if after < 0:
        return -BAD_NAME
    if end - <size_t>after < 4:
        return -BAD_CUT
    question.name = pos
    question.name_end = <size_t>after
    question.type = get_u16(msg + after)
    question.klass = get_u16(msg + after + 2)
    return after + 4


cdef Py_ssize_t read_record(const uint8_t* msg, size_t end, size_t pos, Record* record) noexcept nogil:
    cdef Py_ssize_t after = skip_name(msg, end, pos)
    if after < 0:
        return -BAD_NAME
    if end - <size_t>after < 10:
        return -BAD_CUT
    record.name = pos
    record.type = get_u16(msg + after)
    record.klass = get_u16(msg + after + 2)
    record.ttl = get_u32(msg + after + 4)
    record.rdata_size = get_u16(msg + after + 8)
    record.rdata = <size_t>after + 10
    if end - record.rdata < record.rdata_size:
        return -BAD_CUT
    return <Py_ssize_t>(record.rdata + record.rdata_size)


cdef inline bint _class_known(uint16_t klass) noexcept nogil:
    return 1 <= klass <= 4 or klass == 254


cdef bint _question_type_known(uint16_t type) noexcept nogil:
    """Types that simple-dns has a name for: a question of another one makes it refuse the message."""
    if type <= 64:
        # 19 X25, 24 SIG, 25 KEY, 26 PX, 27 GPOS, 30 NXT, 31, 32, 34, 38, 39 DNAME, 40, 42, 44, 50 to 62
        return type != 0 and type != 19 and not (
            24 <= type <= 27 or 30 <= type <= 32 or type == 34 or 38 <= type <= 40
            or type == 42 or type == 44 or 50 <= type <= 62
        )
    return type == 65 or type == 108 or type == 109 or type == 257 or 251 <= type <= 255


# ---- data of records --------------------------------------------------------
cdef struct Cursor:
    const uint8_t* msg
    size_t pos
    size_t end


cdef inline bint _bytes(Cursor* c, size_t count) noexcept nogil:
    if c.end - c.pos < count:
        return False
    c.pos += count
    return True


cdef inline bint _name(Cursor* c) noexcept nogil:
    cdef Py_ssize_t after = skip_name(c.msg, c.end, c.pos)
    if after < 0:
        return False
    c.pos = <size_t>after
    return True


cdef inline bint _string(Cursor* c) noexcept nogil:
    """A character-string: its length in one byte, and its bytes."""
    return c.pos < c.end and _bytes(c, 1 + <size_t>c.msg[c.pos])


cdef bint _strings(Cursor* c) noexcept nogil:
    while c.pos < c.end:
        if not _string(c):
            return False
    return True


cdef bint _options(Cursor* c) noexcept nogil:
    """The options of OPT."""
    cdef size_t start
    while c.pos < c.end:
        start = c.pos
        if not _bytes(c, 4) or not _bytes(c, get_u16(c.msg + start + 2)):
            return False
    return True


cdef bint _windows(Cursor* c) noexcept nogil:
    """The bitmaps of NSEC: numbers of windows rise, a bitmap has at most 32 bytes."""
    cdef int last = -1
    cdef uint8_t size
    while c.pos < c.end:
        if c.end - c.pos < 2 or <int>c.msg[c.pos] <= last:
            return False
        last = c.msg[c.pos]
        size = c.msg[c.pos + 1]
        if size > 32 or not _bytes(c, 2 + <size_t>size):
            return False
    return True


cdef bint _gateway(Cursor* c) noexcept nogil:
    """The beginning of IPSECKEY."""
    cdef uint8_t kind
    if not _bytes(c, 3):
        return False
    kind = c.msg[c.pos - 2]
    if kind == 0:
        return True
    if kind == 1:
        return _bytes(c, 4)
    if kind == 2:
        return _bytes(c, 16)
    return kind == 3 and _name(c)


cdef bint _service_parameter(Cursor* c, uint16_t key) noexcept nogil:
    """The value of one parameter of SVCB: all of what the cursor has."""
    cdef size_t size = c.end - c.pos
    if key == 0:
        return size % 2 == 0
    if key == 1:
        return _strings(c)
    if key == 3:
        return size >= 2
    if key == 4:
        return size % 4 == 0
    if key == 5:
        return size >= 2 and get_u16(c.msg + c.pos) == size - 2
    if key == 6:
        return size % 16 == 0
    return True


cdef bint _service(Cursor* c) noexcept nogil:
    """SVCB and HTTPS: priority, target, parameters in ascending order of their keys."""
    cdef int last = -1
    cdef uint16_t key
    cdef Cursor value
    if not _bytes(c, 2) or not _name(c):
        return False
    while c.pos < c.end:
        if not _bytes(c, 4):
            return False
        key = get_u16(c.msg + c.pos - 4)
        value.msg = c.msg
        value.pos = c.pos
        if not _bytes(c, get_u16(c.msg + c.pos - 2)):
            return False
        value.end = c.pos
        if <int>key <= last or not _service_parameter(&value, key):
            return False
        last = key
    return True


cdef bint _fits(Cursor* c, uint16_t type) noexcept nogil:
    """Whether data that is not empty fits its type.  What is left over does not matter."""
    if type == TYPE_TXT:
        return _strings(c)
    if type == TYPE_A:
        return _bytes(c, 4)
    if type == TYPE_AAAA:
        return _bytes(c, 16)
    if 2 <= type <= 5 or 7 <= type <= 9 or type == TYPE_PTR or type == 23:  # a name, as in CNAME
        return _name(c)
    if type == TYPE_SOA:
        return _name(c) and _name(c) and _bytes(c, 20)
    if type == TYPE_SRV:
        return _bytes(c, 6) and _name(c)
    if type == 15 or type == 18 or type == 21 or type == 36:  # MX, AFSDB, RT, KX
        return _bytes(c, 2) and _name(c)
    if type == TYPE_OPT:
        return _options(c)
    if type == 64 or type == 65:  # SVCB, HTTPS
        return _service(c)
    if type == 257:  # CAA
        return _bytes(c, 1) and _string(c)
    return _fits_rare(c, type)


cdef bint _fits_rare(Cursor* c, uint16_t type) noexcept nogil:
    """The same for types that hardly anybody publishes below a key."""
    if type == 11 or type == 37:  # WKS, CERT
        return _bytes(c, 5)
    if type == 13 or type == 20:  # HINFO, ISDN
        return _string(c) and _string(c)
    if type == 14 or type == 17:  # MINFO, RP
        return _name(c) and _name(c)
    if type == 22:  # NSAP
        return _bytes(c, 20)
    if type == 29:  # LOC
        return c.msg[c.pos] == 0 and _bytes(c, 16)
    if type == 35:  # NAPTR
        return _bytes(c, 4) and _string(c) and _string(c) and _string(c) and _name(c)
    if type == 43 or type == 48:  # DS, DNSKEY
        return _bytes(c, 4)
    if type == 45:  # IPSECKEY
        return _gateway(c)
    if type == 46:  # RRSIG
        return _bytes(c, 18) and _name(c)
    if type == 47:  # NSEC
        return _name(c) and _windows(c)
    if type == 49:  # DHCID
        return _bytes(c, 3)
    if type == 63 or type == 108:  # ZONEMD, EUI48
        return _bytes(c, 6)
    if type == 109:  # EUI64
        return _bytes(c, 8)
    return True


cdef int check_rdata(const uint8_t* msg, const Record* record) noexcept nogil:
    cdef Cursor cursor
    if record.rdata_size == 0:
        return 0
    cursor.msg = msg
    cursor.pos = record.rdata
    cursor.end = record.rdata + record.rdata_size
    return 0 if _fits(&cursor, record.type) else -BAD_RDATA


cdef int check_message(const uint8_t* msg, size_t end) noexcept nogil:
    cdef Header header
    cdef Question question
    cdef Record record
    cdef Py_ssize_t pos = HEADER_SIZE
    cdef uint32_t i
    if read_header(msg, end, &header) < 0 or header.flags & FLAG_Z:
        return -BAD_HEADER
    for i in range(header.counts[0]):
        pos = read_question(msg, end, <size_t>pos, &question)
        if pos < 0:
            return <int>pos
        if not _question_type_known(question.type):
            return -BAD_TYPE
        if not _class_known(question.klass & 0x7FFF) and question.klass & 0x7FFF != 255:
            return -BAD_CLASS
    for i in range(<uint32_t>header.counts[1] + header.counts[2] + header.counts[3]):
        pos = read_record(msg, end, <size_t>pos, &record)
        if pos < 0:
            return <int>pos
        if check_rdata(msg, &record) < 0:
            return -BAD_RDATA
        if record.type != TYPE_OPT and not _class_known(record.klass & 0x7FFF):
            return -BAD_CLASS
    return 0
