"""What a query says: one pass over its bytes, no Python object, each length checked before it is used."""

from libc.stdint cimport uint8_t, uint16_t

from iroh_fast._dns._names cimport MAX_LABEL, MAX_NAME, get_u16, lower, skip_name
from iroh_fast._dns._records cimport HEADER_SIZE, TYPE_OPT, Record, read_record


cdef enum:
    MAX_LABELS = 127
    # Nobody asks more at once, and what reads names that are all pointers should end soon.
    MAX_QUESTIONS = 8
    MAX_RECORDS = 32


cdef enum Reading:
    READ_NOTHING                  # shorter than a header
    READ_MALFORMED                # no message: what follows the header means nothing
    READ_WELL


cdef struct Query:
    const uint8_t* data           # borrowed
    size_t questions_end          # offset behind the last question
    uint16_t questions
    uint16_t qtype                # of the first question, as the next ones
    uint16_t qclass
    uint16_t payload              # of the OPT record
    uint8_t opcode
    uint8_t version               # of EDNS
    bint edns
    int labels
    int name_len                  # with the zero at its end
    uint8_t label_at[128]         # offsets of the labels in `name`
    uint8_t name[256]             # lower case


cdef inline Py_ssize_t read_first_name(const uint8_t* m, size_t n, Query* q) noexcept nogil:
    """Fill name and labels from the first question; the offset behind the name, or -1."""
    cdef size_t at = HEADER_SIZE, length
    cdef int labels = 0, i
    while True:
        if at >= n:
            return -1
        length = m[at]
        if length == 0:
            break
        # Nothing stands in front of a first question that a pointer could lead to.
        if length > MAX_LABEL or labels == MAX_LABELS:
            return -1
        q.label_at[labels] = <uint8_t>(at - HEADER_SIZE)
        labels += 1
        at += 1 + length
        if at - HEADER_SIZE >= MAX_NAME:
            return -1
    q.labels = labels
    q.name_len = <int>(at + 1 - HEADER_SIZE)
    # Lengths of labels are below the code of "A".
    for i in range(q.name_len):
        q.name[i] = lower(m[HEADER_SIZE + i])
    return <Py_ssize_t>(at + 1)


cdef inline bint options_fit(const uint8_t* p, size_t n) noexcept nogil:
    cdef size_t at = 0
    while at < n:
        if n - at < 4:
            return False
        at += 4 + get_u16(p + at + 2)
    return at == n


cdef inline bint take_opt(const uint8_t* m, const Record* record, Query* q) noexcept nogil:
    """RFC 6891 §6.1.1: at most one OPT, owned by the root."""
    if q.edns or m[record.name] != 0 or not options_fit(m + record.rdata, record.rdata_size):
        return False
    q.edns = True
    q.payload = record.klass
    q.version = <uint8_t>(record.ttl >> 16)
    return True


cdef inline int read_query(const uint8_t* m, size_t n, Query* q) noexcept nogil:
    """Fill `q` from a message; a `Reading`. With READ_MALFORMED only `data` and `opcode` mean something."""
    cdef Py_ssize_t at = HEADER_SIZE
    cdef Record record
    cdef int i, count, earlier
    q.data = m
    q.edns = False
    q.payload = q.qtype = q.qclass = 0
    q.version = 0
    q.labels = q.name_len = 0
    q.questions_end = HEADER_SIZE
    if n < HEADER_SIZE:
        return READ_NOTHING
    q.opcode = (m[2] >> 3) & 15
    q.questions = get_u16(m + 4)
    earlier = get_u16(m + 6) + get_u16(m + 8)
    count = earlier + get_u16(m + 10)
    if q.questions > MAX_QUESTIONS or count > MAX_RECORDS:
        return READ_MALFORMED
    for i in range(q.questions):
        at = read_first_name(m, n, q) if i == 0 else skip_name(m, n, <size_t>at)
        if at < 0 or n - <size_t>at < 4:
            return READ_MALFORMED
        if i == 0:
            q.qtype = get_u16(m + at)
            q.qclass = get_u16(m + at + 2)
        at += 4
    q.questions_end = <size_t>at
    for i in range(count):
        at = read_record(m, n, <size_t>at, &record)
        if at < 0:
            return READ_MALFORMED
        if record.type == TYPE_OPT and (i < earlier or not take_opt(m, &record, q)):
            return READ_MALFORMED
    return READ_WELL
