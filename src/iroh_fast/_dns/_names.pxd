"""Names on the wire (RFC 1035 §3.1, §4.1.4).  An uncompressed name has its root label and at most 255 bytes."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef enum:
    MAX_NAME = 255                # bytes of an uncompressed name, root label included
    MAX_LABEL = 63


# The position after the name at `pos`, or -1: cut short, a label of more than 63 bytes, a pointer that does
# not point before itself, more than 255 bytes in all.  `end` is where the bytes end that may be read.
cdef Py_ssize_t skip_name(const uint8_t* msg, size_t end, size_t pos) noexcept nogil

# The same, and the name without pointers in `out`, which has MAX_NAME bytes of room; `size` is told its size.
cdef Py_ssize_t read_name(
    const uint8_t* msg, size_t end, size_t pos, uint8_t* out, size_t* size
) noexcept nogil


cdef inline uint16_t get_u16(const uint8_t* p) noexcept nogil:
    return <uint16_t>((p[0] << 8) | p[1])


cdef inline uint32_t get_u32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline uint8_t lower(uint8_t c) noexcept nogil:
    return c | 0x20 if 65 <= c <= 90 else c


cdef inline void lower_name(uint8_t* name, size_t size) noexcept nogil:
    """Lower-case an uncompressed name: lengths of labels are below ``A``."""
    cdef size_t i
    for i in range(size):
        name[i] = lower(name[i])


cdef inline bint same_name(const uint8_t* a, const uint8_t* b, size_t size) noexcept nogil:
    """Tell whether two uncompressed names of one size are equal but for case."""
    cdef size_t i
    for i in range(size):
        if a[i] != b[i] and lower(a[i]) != lower(b[i]):
            return False
    return True
