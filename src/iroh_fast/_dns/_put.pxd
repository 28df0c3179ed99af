"""Writing messages.  The caller guarantees room: nothing here knows where the buffer ends."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef inline uint8_t* put_u16(uint8_t* p, uint16_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 8)
    p[1] = <uint8_t>value
    return p + 2


cdef inline uint8_t* put_u32(uint8_t* p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>(value >> 16)
    p[2] = <uint8_t>(value >> 8)
    p[3] = <uint8_t>value
    return p + 4


cdef inline uint8_t* put_header(
    uint8_t* p, uint16_t id, uint16_t flags, uint16_t questions, uint16_t answers, uint16_t authority, uint16_t additional
) noexcept nogil:
    p = put_u16(put_u16(p, id), flags)
    p = put_u16(put_u16(p, questions), answers)
    return put_u16(put_u16(p, authority), additional)


cdef inline uint8_t* put_pointer(uint8_t* p, uint16_t target) noexcept nogil:
    """A name that begins at `target`, which is below 0x4000."""
    return put_u16(p, 0xC000 | target)


cdef inline uint8_t* put_fixed(uint8_t* p, uint16_t type, uint16_t klass, uint32_t ttl, uint16_t rdata_size) noexcept nogil:
    """What stands between the name and the data of a record: 10 bytes."""
    p = put_u16(put_u16(p, type), klass)
    return put_u16(put_u32(p, ttl), rdata_size)
