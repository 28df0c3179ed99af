"""Reading names on the wire."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy


cdef Py_ssize_t skip_name(const uint8_t* msg, size_t end, size_t pos) noexcept nogil:
    return _walk(msg, end, pos, NULL, NULL)


cdef Py_ssize_t read_name(
    const uint8_t* msg, size_t end, size_t pos, uint8_t* out, size_t* size
) noexcept nogil:
    return _walk(msg, end, pos, out, size)


cdef Py_ssize_t _walk(
    const uint8_t* msg, size_t end, size_t pos, uint8_t* out, size_t* size
) noexcept nogil:
    """Follow labels and pointers.  Each pointer leads backwards, or is paid for by a label: 255 bytes end it."""
    cdef Py_ssize_t after = -1
    cdef size_t used = 0, target
    cdef uint8_t length
    while True:
        if pos >= end:
            return -1
        length = msg[pos]
        if length == 0:
            if out != NULL:
                out[used] = 0
                size[0] = used + 1
            return after if after >= 0 else <Py_ssize_t>(pos + 1)
        if length >= 0xC0:
            if end - pos < 2:
                return -1
            target = ((<size_t>length & 0x3F) << 8) | msg[pos + 1]
            if target >= pos:
                return -1
            if after < 0:
                after = <Py_ssize_t>(pos + 2)
            pos = target
            continue
        if length > MAX_LABEL or end - pos <= length or used + 1 + length >= MAX_NAME:
            return -1
        if out != NULL:
            memcpy(out + used, msg + pos, 1 + length)
        used += 1 + length
        pos += 1 + length
