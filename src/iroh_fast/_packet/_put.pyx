"""Frames on their way out. Nothing here touches a Python object; wire formats as in `_frames`."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcmp, memcpy

from iroh_fast._packet._frames cimport (
    FT_ACK, FT_ACK_ECN, FT_ACK_FREQUENCY, FT_APPLICATION_CLOSE, FT_CONNECTION_CLOSE, FT_CRYPTO,
    FT_NEW_CONNECTION_ID, FT_NEW_TOKEN, FT_PATH_ACK, FT_PATH_ACK_ECN, FT_PATH_NEW_CONNECTION_ID)
from iroh_fast._packet._varint cimport TOKEN_LEN, V4_MAPPED, put_varint, varint_size


cdef uint8_t* put_ack(uint8_t* p, bint multipath, uint64_t path, const uint64_t* starts, const uint64_t* ends,
                      int n, uint64_t delay, bint ecn, uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil:  # hot
    """Write ACK, ACK_ECN, PATH_ACK or PATH_ACK_ECN; needs `ack_size` bytes.

    Range i is [starts[i], ends[i]): not empty, ascending, with at least one missing
    number between neighbours, newest last; n >= 1. `delay` is the raw wire value.
    """
    cdef int i = n - 1
    if multipath:
        p[0] = FT_PATH_ACK_ECN if ecn else FT_PATH_ACK
        p = put_varint(p + 1, path)
    else:
        p[0] = FT_ACK_ECN if ecn else FT_ACK
        p += 1
    p = put_varint(p, ends[i] - 1)
    p = put_varint(p, delay)
    p = put_varint(p, <uint64_t>i)
    p = put_varint(p, ends[i] - 1 - starts[i])
    while i > 0:
        i -= 1
        p = put_varint(p, starts[i + 1] - ends[i] - 1)
        p = put_varint(p, ends[i] - 1 - starts[i])
    if ecn:
        p = put_varint(p, ect0)
        p = put_varint(p, ect1)
        p = put_varint(p, ce)
    return p


cdef size_t ack_size(bint multipath, uint64_t path, const uint64_t* starts, const uint64_t* ends, int n,
                     uint64_t delay, bint ecn, uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil:
    """Bytes that put_ack writes for the same arguments."""
    cdef int i = n - 1
    cdef size_t size = 1 + varint_size(ends[i] - 1) + varint_size(delay) + varint_size(<uint64_t>i)
    size += varint_size(ends[i] - 1 - starts[i])
    if multipath:
        size += varint_size(path)
    while i > 0:
        i -= 1
        size += varint_size(starts[i + 1] - ends[i] - 1) + varint_size(ends[i] - 1 - starts[i])
    if ecn:
        size += varint_size(ect0) + varint_size(ect1) + varint_size(ce)
    return size


cdef uint8_t* put_crypto_header(uint8_t* p, uint64_t offset, size_t n) noexcept nogil:
    """Write a CRYPTO frame up to its `n` data bytes."""
    p[0] = FT_CRYPTO
    p = put_varint(p + 1, offset)
    return put_varint(p, n)


cdef uint8_t* put_v1(uint8_t* p, uint64_t type, uint64_t a) noexcept nogil:
    return put_varint(put_varint(p, type), a)


cdef uint8_t* put_v2(uint8_t* p, uint64_t type, uint64_t a, uint64_t b) noexcept nogil:
    return put_varint(put_v1(p, type, a), b)


cdef uint8_t* put_v3(uint8_t* p, uint64_t type, uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return put_varint(put_v2(p, type, a, b), c)


cdef uint8_t* put_ack_frequency(uint8_t* p, uint64_t seq, uint64_t threshold, uint64_t max_delay_us, uint64_t reordering) noexcept nogil:
    return put_varint(put_v3(p, FT_ACK_FREQUENCY, seq, threshold, max_delay_us), reordering)


cdef uint8_t* put_new_cid(uint8_t* p, bint multipath, uint64_t path, uint64_t seq, uint64_t retire_prior_to,
                          const uint8_t* cid, uint8_t cid_len, const uint8_t* token) noexcept nogil:
    """Write NEW_CONNECTION_ID, or PATH_NEW_CONNECTION_ID when `multipath`; copies `cid` and `token`."""
    if multipath:
        p = put_v1(p, FT_PATH_NEW_CONNECTION_ID, path)
    else:
        p = put_varint(p, FT_NEW_CONNECTION_ID)
    p = put_varint(p, seq)
    p = put_varint(p, retire_prior_to)
    p[0] = cid_len
    memcpy(p + 1, cid, cid_len)
    p += 1 + cid_len
    memcpy(p, token, TOKEN_LEN)
    return p + TOKEN_LEN


cdef uint8_t* put_path_data(uint8_t* p, uint64_t type, const uint8_t* data8) noexcept nogil:
    """Write PATH_CHALLENGE or PATH_RESPONSE."""
    p = put_varint(p, type)
    memcpy(p, data8, 8)
    return p + 8


cdef uint8_t* put_address(uint8_t* p, uint64_t type_v4, uint64_t seq, const uint8_t* ip16, uint16_t port) noexcept nogil:
    """Write an address frame: `type_v4` for ::ffff:a.b.c.d, else the IPv6 type next to it."""
    if memcmp(ip16, V4_MAPPED, 12) == 0:
        p = put_v1(p, type_v4, seq)
        memcpy(p, ip16 + 12, 4)
        p += 4
    else:
        p = put_v1(p, type_v4 + 1, seq)
        memcpy(p, ip16, 16)
        p += 16
    p[0] = <uint8_t>(port >> 8)
    p[1] = <uint8_t>port
    return p + 2


cdef uint8_t* put_close(uint8_t* p, bint application, uint64_t code, uint64_t frame_type, const uint8_t* reason, size_t n) noexcept nogil:
    """Write a close frame; needs `close_size` bytes. `frame_type` counts for type 0x1c only."""
    if application:
        p = put_v1(p, FT_APPLICATION_CLOSE, code)
    else:
        p = put_v2(p, FT_CONNECTION_CLOSE, code, frame_type)
    p = put_varint(p, n)
    if n:
        memcpy(p, reason, n)
    return p + n


cdef size_t close_size(bint application, uint64_t code, uint64_t frame_type, size_t n) noexcept nogil:
    """Bytes that put_close writes for the same arguments."""
    return 1 + varint_size(code) + (0 if application else varint_size(frame_type)) + varint_size(n) + n


cdef uint8_t* put_new_token(uint8_t* p, const uint8_t* token, size_t n) noexcept nogil:
    """Write NEW_TOKEN: 1 + varint_size(n) + n bytes; n >= 1."""
    p = put_v1(p, FT_NEW_TOKEN, n)
    memcpy(p, token, n)
    return p + n
