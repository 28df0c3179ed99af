"""C interface of a relay client's reader and writer."""

from libc.stdint cimport uint8_t, uint32_t

from iroh_fast._relay._frames cimport KeyCache
from iroh_fast._relay._websocket cimport WsReader


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
