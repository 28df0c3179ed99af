"""C interface of WebSocket framing."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


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
    MAX_MESSAGE = 1048576         # payload of one WebSocket frame and of one message
    READ_BYTES = 65536            # room offered for one read
    SMALLEST = 4096


cdef object ws_error(int code)
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
