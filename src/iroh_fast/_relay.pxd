"""C interface of relay frames and WebSocket framing."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "native/relay_ws.h" nogil:
    ctypedef struct ws_head:
        uint64_t len
        uint32_t mask
        uint8_t opcode
        uint8_t fin

    enum:
        WS_CONTINUATION
        WS_TEXT
        WS_BINARY
        WS_CLOSE
        WS_PING
        WS_PONG
        WS_E_SEQUENCE
        WS_E_CLOSE
        WS_E_TOO_BIG

    int ws_parse(const uint8_t* p, size_t n, int want_mask, ws_head* h)
    int ws_put_head(uint8_t* p, int opcode, size_t length, int masked)
    uint32_t ws_mask_at(uint32_t mask, size_t offset)
    void ws_xor(uint8_t* dst, const uint8_t* src, size_t n, uint32_t mask)
    int relay_varint(const uint8_t* p, size_t n, uint64_t* value)
    uint64_t relay_hash(const uint64_t* seed, const uint8_t* key)


cdef enum:
    FT_CHALLENGE = 0
    FT_CLIENT_AUTH = 1
    FT_CONFIRMS = 2
    FT_DENIES = 3
    FT_C2S_DATAGRAM = 4
    FT_C2S_BATCH = 5
    FT_S2C_DATAGRAM = 6
    FT_S2C_BATCH = 7
    FT_GONE = 8
    FT_PING = 9
    FT_PONG = 10
    FT_HEALTH = 11
    FT_RESTARTING = 12
    FT_STATUS = 13

    MAX_AFTER_TYPE = 65536        # accepted after the frame type
    MAX_FRAME = 65536             # emitted, type included
    MAX_MESSAGE = 1048576         # payload of one WebSocket frame and of one message

    FROM_CLIENT = 0
    FROM_SERVER = 1

    # Negated results of parse_frame
    FE_UNEXPECTED_END = 1
    FE_UNKNOWN_TYPE = 2
    FE_INVALID_TYPE = 3
    FE_TOO_LARGE = 4
    FE_INVALID = 5
    FE_PUBLIC_KEY = 6
    FE_VERSION = 7
    FE_ENCODING = 8
    FE_EMPTY = 9


cdef struct RelayFrame:
    int type                      # a batch with segment size 0 is given as a single datagram
    int ecn
    uint32_t segment_size         # 0: single datagram
    const uint8_t* key            # of types 4 to 8, else NULL; borrows the input
    const uint8_t* body           # what follows key, ECN and segment size; borrows the input
    size_t body_len


# Recently seen 32-byte strings known to be points: four-way sets, oldest of a set replaced.
cdef struct KeyCache:
    uint8_t* keys                 # 32 bytes each
    uint8_t* next                 # per set: which way is replaced next
    size_t sets                   # a power of two, or 0: no cache
    uint64_t seed[2]


cdef int parse_frame(const uint8_t* p, size_t n, int sender, int version, RelayFrame* f) noexcept nogil
cdef bint key_is_point(KeyCache* cache, const uint8_t* key) noexcept nogil
cdef int key_cache_init(KeyCache* cache, size_t capacity, const uint8_t* seed) noexcept nogil
cdef void key_cache_free(KeyCache* cache) noexcept nogil
cdef bint close_payload_ok(const uint8_t* p, size_t n) noexcept nogil


cdef class _Memory:
    cdef uint8_t* data
    cdef size_t size


cdef class WsReader:
    cdef _Memory memory
    cdef size_t start, end        # what is received but not yet parsed
    cdef size_t max_payload
    cdef int want_mask
    cdef int failed               # WS_E_ code, 0 while all is well
    cdef int message_opcode       # of the message under assembly, 0 if none
    cdef uint8_t* pending         # its fragments so far
    cdef size_t pending_len, pending_cap
    cdef int reserve(self, size_t room) except -1
    # 1: message (borrowed until the next call), 0: more bytes are needed, negative: protocol error
    cdef int c_next(self, int* opcode, const uint8_t** data, size_t* size) except? -100


cdef class ClientReader(WsReader):
    cdef readonly int version
    cdef KeyCache cache
    cdef uint8_t good_key[32]     # the last key that passed, and the object made for it
    cdef object key_object
    cdef object _next_frame(self)


cdef class ClientWriter:
    cdef uint8_t* out
    cdef size_t out_len, out_cap
    cdef uint8_t* masks           # random bytes, used up four at a time
    cdef size_t masks_used
    cdef uint32_t next_mask(self) except? 0
    cdef uint8_t* room(self, size_t n) except NULL
    cdef int add(self, int opcode, const uint8_t* head, size_t head_len,
                 const uint8_t* body, size_t body_len) except -1
