"""Which protocol a datagram belongs to (RFC 9443), without touching a Python object."""

from libc.stdint cimport uint8_t


cdef enum:
    STUN_HEADER = 20
    STUN_MAX = 2048               # bytes of a message; those that are for us have about a hundred


cdef inline bint is_stun(const uint8_t* data, size_t n) noexcept nogil:
    """Whether a datagram can be a STUN message: first byte, size and magic cookie."""
    return (
        STUN_HEADER <= n <= STUN_MAX
        and data[0] < 4
        and data[4] == 0x21 and data[5] == 0x12 and data[6] == 0xA4 and data[7] == 0x42
    )
