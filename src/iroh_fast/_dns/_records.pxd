"""Messages on the wire (RFC 1035 §4): header, questions, records.  Everything borrows the message."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef enum:
    HEADER_SIZE = 12

    FLAG_QR = 0x8000
    FLAG_AA = 0x0400
    FLAG_TC = 0x0200
    FLAG_RD = 0x0100
    FLAG_RA = 0x0080
    FLAG_Z = 0x0040
    FLAG_AD = 0x0020
    FLAG_CD = 0x0010

    TYPE_A = 1
    TYPE_NS = 2
    TYPE_CNAME = 5
    TYPE_SOA = 6
    TYPE_PTR = 12
    TYPE_TXT = 16
    TYPE_AAAA = 28
    TYPE_SRV = 33
    TYPE_OPT = 41
    TYPE_ANY = 255

    CLASS_IN = 1
    CACHE_FLUSH = 0x8000          # of a record's class, RFC 6762 §10.2; of a question's: answer me alone

    # Negated results of check_message
    BAD_HEADER = 1                # shorter than a header, or with the reserved bit
    BAD_NAME = 2
    BAD_CUT = 3                   # fewer bytes than it says
    BAD_CLASS = 4
    BAD_TYPE = 5                  # of a question
    BAD_RDATA = 6


cdef struct Header:
    uint16_t id
    uint16_t flags
    uint16_t counts[4]            # questions, answers, authority, additional


cdef struct Question:
    size_t name                   # where its name begins
    size_t name_end               # after the name
    uint16_t type
    uint16_t klass                # top bit and all


cdef struct Record:
    size_t name
    uint16_t type
    uint16_t klass                # top bit and all
    uint32_t ttl
    size_t rdata                  # where its data begins
    uint16_t rdata_size


# -1: shorter than a header.
cdef int read_header(const uint8_t* msg, size_t end, Header* header) noexcept nogil

# The position after it, or negative.  Only what a walk needs is checked: the name, and that nothing is cut short.
cdef Py_ssize_t read_question(const uint8_t* msg, size_t end, size_t pos, Question* question) noexcept nogil
cdef Py_ssize_t read_record(const uint8_t* msg, size_t end, size_t pos, Record* record) noexcept nogil

# 0 when iroh's parser takes the data of a record with this type, or negative.
cdef int check_rdata(const uint8_t* msg, const Record* record) noexcept nogil

# 0 when iroh's parser takes the whole message, or negative.  Bytes after the counted records do not matter.
cdef int check_message(const uint8_t* msg, size_t end) noexcept nogil
