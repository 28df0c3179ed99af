"""DNS messages for Python code: read as a whole, and written record by record."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from iroh_fast._dns._names cimport MAX_NAME, read_name
from iroh_fast._dns._put cimport put_fixed, put_header, put_pointer, put_u16
from iroh_fast._dns._records cimport (
    BAD_CLASS,
    BAD_CUT,
    BAD_HEADER,
    BAD_NAME,
    BAD_RDATA,
    BAD_TYPE,
    CLASS_IN,
    FLAG_QR,
    HEADER_SIZE,
    TYPE_TXT,
    Header,
    Question as CQuestion,
    Record as CRecord,
    check_message as c_check_message,
    read_header,
    read_question,
    read_record,
)
from iroh_fast._view cimport View, view_of

from ..errors import DnsMessageError

ANSWER = 1
AUTHORITY = 2
ADDITIONAL = 3

cdef dict WHY = {
    BAD_HEADER: "no header, or a reserved flag is set",
    BAD_NAME: "a name is invalid",
    BAD_CUT: "cut short",
    BAD_CLASS: "an unknown class",
    BAD_TYPE: "a question of an unknown type",
    BAD_RDATA: "the data of a record do not fit its type",
}


cdef object _error(Py_ssize_t code):
    return DnsMessageError(f"not a DNS message: {WHY[-code]}")


def check_message(data):
    """Raise `DnsMessageError` for what iroh's parser refuses: the check of signed packets."""
    cdef View view = view_of(data)
    cdef int code = c_check_message(view.data, view.size)
    if code < 0:
        raise _error(code)


# ---- names -------------------------------------------------------------------
cdef object _name_at(const uint8_t* msg, size_t end, size_t pos):
    cdef uint8_t name[MAX_NAME]
    cdef size_t size = 0
    if read_name(msg, end, pos, name, &size) < 0:
        return None
    return (<char*>name)[:size]


cdef class Question:
    """One question.

    Attributes
    ----------
    name : bytes
        Uncompressed, as it was written: `bytes.lower` makes two of them comparable.
    type, klass : int
        As on the wire; the top bit of a class means something to mDNS.
    """

    cdef readonly bytes name
    cdef readonly int type
    cdef readonly int klass


cdef class Record:
    """One record of a message, whose bytes it does not hold.

    Attributes
    ----------
    section : int
        `ANSWER`, `AUTHORITY` or `ADDITIONAL`.
    name : bytes
        Uncompressed, as it was written.
    type, klass, ttl : int
        As on the wire; the top bit of a class means something to mDNS.
    offset, size : int
        Where the data are in the message.
    """

    cdef readonly int section
    cdef readonly bytes name
    cdef readonly int type
    cdef readonly int klass
    cdef readonly object ttl
    cdef readonly Py_ssize_t offset
    cdef readonly Py_ssize_t size


cdef class Message:
    """A message that was read.

    Attributes
    ----------
    data : bytes
        All of it.
    id, flags : int
    questions : list of Question
    records : list of Record
        Of all sections, in order.
    complete : bool
        Whether all counted questions and records were there; else the lists end at the first one that is broken.
    """

    cdef readonly bytes data
    cdef readonly int id
    cdef readonly int flags
    cdef readonly list questions
    cdef readonly list records
    cdef readonly bint complete

    def rdata(self, Record record not None):
        """The data of a record of this message."""
        return self.data[record.offset : record.offset + record.size]

    def name_in(self, Record record not None, Py_ssize_t skip=0):
        """The name that begins `skip` bytes into the data of a record, uncompressed; None if there is none."""
        if not 0 <= skip <= record.size or record.offset + record.size > len(self.data):
            return None
        return _name_at(self.data, record.offset + record.size, record.offset + skip)

    def strings(self, Record record not None):
        """The character-strings of a TXT record; None if its data are something else."""
        cdef const uint8_t* msg = self.data
        cdef Py_ssize_t pos = record.offset, end = record.offset + record.size
        cdef list found = []
        if end > len(self.data):
            return None
        while pos < end:
            if end - pos <= msg[pos]:
                return None
            found.append(self.data[pos + 1 : pos + 1 + msg[pos]])
            pos += 1 + msg[pos]
        return found


def read_message(data):
    """Read a message, as far as it is sound.

    Only what the walk needs is checked: types, classes and data are the caller's business.

    Raises
    ------
    DnsMessageError
        Shorter than a header.
    """
    cdef Message message = Message.__new__(Message)
    message.data = bytes(data)
    message.questions = []
    message.records = []
    cdef const uint8_t* msg = message.data
    cdef size_t end = len(message.data)
    cdef Header header
    cdef int code = read_header(msg, end, &header)
    if code < 0:
        raise _error(code)
    message.id = header.id
    message.flags = header.flags
    message.complete = _read_sections(message, msg, end, &header)
    return message


cdef bint _read_sections(Message message, const uint8_t* msg, size_t end, Header* header):
    cdef CQuestion question
    cdef CRecord record
    cdef Py_ssize_t pos = HEADER_SIZE
    cdef int section
    for _ in range(header.counts[0]):
        pos = read_question(msg, end, <size_t>pos, &question)
        if pos < 0:
            return False
        message.questions.append(_question(msg, end, &question))
    for section in range(1, 4):
        for _ in range(header.counts[section]):
            pos = read_record(msg, end, <size_t>pos, &record)
            if pos < 0:
                return False
            message.records.append(_record(msg, end, &record, section))
    return True


cdef Question _question(const uint8_t* msg, size_t end, CQuestion* c):
    cdef Question question = Question.__new__(Question)
    question.name = _name_at(msg, end, c.name)
    question.type = c.type
    question.klass = c.klass
    return question


cdef Record _record(const uint8_t* msg, size_t end, CRecord* c, int section):
    cdef Record record = Record.__new__(Record)
    record.section = section
    record.name = _name_at(msg, end, c.name)
    record.type = c.type
    record.klass = c.klass
    record.ttl = c.ttl
    record.offset = c.rdata
    record.size = c.rdata_size
    return record


# ---- records of signed packets ------------------------------------------------
def txt_values(data, bytes owner not None):
    """The values of the TXT answers with exactly this owner, of any class, case of letters included.

    Parameters
    ----------
    data : Buffer
        A message that `check_message` accepts.
    owner : bytes
        Uncompressed name.

    Returns
    -------
    list of bytes
        Of each record, its character-strings behind each other.
    """
    cdef View view = view_of(data)
    cdef const uint8_t* wanted = owner
    cdef uint8_t name[MAX_NAME]
    cdef size_t size = 0
    cdef Header header
    cdef CQuestion question
    cdef CRecord record
    cdef Py_ssize_t pos = HEADER_SIZE
    cdef list found = []
    if read_header(view.data, view.size, &header) < 0:
        return found
    for _ in range(header.counts[0]):
        pos = read_question(view.data, view.size, <size_t>pos, &question)
        if pos < 0:
            return found
    for _ in range(header.counts[1]):
        pos = read_record(view.data, view.size, <size_t>pos, &record)
        if pos < 0:
            return found
        if record.type != TYPE_TXT:
            continue
        read_name(view.data, view.size, record.name, name, &size)
        if (<char*>name)[:size] == owner:
            found.append(_joined(view.data, &record))
    return found


cdef bytes _joined(const uint8_t* msg, CRecord* record):
    cdef size_t pos = record.rdata, end = record.rdata + record.rdata_size
    cdef list parts = []
    while pos < end and end - pos > msg[pos]:
        parts.append((<char*>msg)[pos + 1 : pos + 1 + msg[pos]])
        pos += 1 + msg[pos]
    return b"".join(parts)


def txt_message(bytes owner not None, list values not None, uint32_t ttl):
    """Write a response whose answers are TXT records of one owner, each with one string.

    Parameters
    ----------
    owner : bytes
        Uncompressed name.
    values : list of bytes
        At most 255 bytes each, else `DnsMessageError`.
    ttl : int
        Seconds.
    """
    cdef uint8_t head[HEADER_SIZE]
    cdef uint8_t fixed[13]
    cdef uint8_t* p
    cdef list parts = []
    if len(values) > 0xFFFF:
        raise DnsMessageError(f"{len(values)} records are too many for one message")
    put_header(head, 0, FLAG_QR, 0, <uint16_t>len(values), 0, 0)
    parts.append((<char*>head)[:HEADER_SIZE])
    for value in values:
        if len(value) > 255:
            raise DnsMessageError(f"a string of {len(value)} bytes is too long for a TXT record, 255 are allowed")
        p = fixed
        if len(parts) == 1:
            parts.append(owner)
        else:
            p = put_pointer(p, HEADER_SIZE)
        p = put_fixed(p, TYPE_TXT, CLASS_IN, ttl, <uint16_t>(len(value) + 1))
        p[0] = <uint8_t>len(value)
        parts.append((<char*>fixed)[: p + 1 - fixed])
        parts.append(value)
    return b"".join(parts)


# ---- writing ------------------------------------------------------------------
cdef class Writer:
    """Writes a message, names compressed where they may be.

    Parameters
    ----------
    id, flags : int
        Of the header.
    """

    cdef bytearray out
    cdef dict places              # what names end with -> where it was written
    cdef uint16_t counts[4]

    def __init__(self, int id=0, int flags=0):
        cdef int i
        self.out = bytearray(HEADER_SIZE)
        self.out[0:2] = id.to_bytes(2, "big")
        self.out[2:4] = flags.to_bytes(2, "big")
        self.places = {}
        for i in range(4):
            self.counts[i] = 0

    @property
    def size(self):
        """Bytes written so far."""
        return len(self.out)

    def question(self, bytes name not None, uint16_t type, uint16_t klass=CLASS_IN):
        """Write a question; all of them come before the first record."""
        cdef uint8_t fixed[4]
        self._name(name)
        put_u16(put_u16(fixed, type), klass)
        self.out += (<char*>fixed)[:4]
        self._count(0)

    def record(
        self, int section, bytes name not None, uint16_t type, uint32_t ttl, bytes rdata not None=b"",
        *, bytes target=None, uint16_t klass=CLASS_IN
    ):
        """Write a record; sections come in order.

        `target` is a name behind `rdata` that is compressed (RFC 3597 allows it for the types of RFC 1035 alone).
        """
        cdef uint8_t fixed[10]
        cdef Py_ssize_t start
        if not ANSWER <= section <= ADDITIONAL:
            raise ValueError(f"section is 1 to 3, not {section}")
        self._name(name)
        put_fixed(fixed, type, klass, ttl, 0)
        self.out += (<char*>fixed)[:10]
        start = len(self.out)
        self.out += rdata
        if target is not None:
            self._name(target)
        if len(self.out) - start > 0xFFFF:
            raise DnsMessageError("the data of a record have more than 65535 bytes")
        self.out[start - 2 : start] = (len(self.out) - start).to_bytes(2, "big")
        self._count(section)

    def finish(self):
        """Return the message."""
        cdef int i
        for i in range(4):
            self.out[4 + 2 * i : 6 + 2 * i] = (<object>self.counts[i]).to_bytes(2, "big")
        return bytes(self.out)

    cdef int _count(self, int section) except -1:
        if self.counts[section] == 0xFFFF:
            raise DnsMessageError("more than 65535 records in one section")
        self.counts[section] += 1
        return 0

    cdef int _name(self, bytes name) except -1:
        """Write as much of a name as was not written before, and a pointer to the rest."""
        cdef Py_ssize_t start = 0
        while name[start]:
            rest = name[start:]
            place = self.places.get(rest)
            if place is not None:
                self.out += (0xC000 | <int>place).to_bytes(2, "big")
                return 0
            if len(self.out) < 0x4000:
                self.places[rest] = len(self.out)
            label = name[start : start + 1 + <uint8_t>name[start]]
            self.out += label
            start += len(label)
        self.out += b"\0"
        return 0
