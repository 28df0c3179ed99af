"""Numbers of the wire: varints (RFC 9000 §16), packet numbers (appendix A), and their limits."""

from libc.stdint cimport uint8_t, uint64_t, int64_t


cdef enum:
    MAX_CID = 20                  # RFC 9000 §17.2
    TOKEN_LEN = 16                # stateless reset token, RFC 9000 §10.3

cdef extern from *:
    # True constants: a module-level `cdef` would be a variable, an enum has 32 bits on MSVC.
    """
    #define VARINT_MAX ((((uint64_t)1) << 62) - 1)
    #define STREAMS_MAX (((uint64_t)1) << 60)     /* RFC 9000 section 19.11 */
    #define PATH_ID_MAX ((uint64_t)0xffffffff)    /* multipath draft: path ids are 32 bits */
    #define V4_MAPPED ((const uint8_t*)"\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\xff\\xff")
    """
    const uint64_t VARINT_MAX
    const uint64_t STREAMS_MAX
    const uint64_t PATH_ID_MAX
    const uint8_t* V4_MAPPED      # 12 bytes: ::ffff:0:0/96


# ---- varints, RFC 9000 §16 -------------------------------------------------
cdef inline int varint_size(uint64_t v) noexcept nogil:
    return 1 if v < 64 else 2 if v < 16384 else 4 if v < 1073741824 else 8


cdef inline uint8_t* put_varint(uint8_t* p, uint64_t v) noexcept nogil:
    """Write `v` minimally; the caller guarantees 8 bytes of room and v < 2**62."""
    if v < 64:
        p[0] = <uint8_t>v
        return p + 1
    # Whole numbers in network order: compilers make one store of each.
    if v < 16384:
        v |= 0x4000
        p[0] = <uint8_t>(v >> 8)
        p[1] = <uint8_t>v
        return p + 2
    if v < 1073741824:
        v |= 0x80000000u
        p[0] = <uint8_t>(v >> 24)
        p[1] = <uint8_t>(v >> 16)
        p[2] = <uint8_t>(v >> 8)
        p[3] = <uint8_t>v
        return p + 4
    v |= <uint64_t>3 << 62
    p[0] = <uint8_t>(v >> 56)
    p[1] = <uint8_t>(v >> 48)
    p[2] = <uint8_t>(v >> 40)
    p[3] = <uint8_t>(v >> 32)
    p[4] = <uint8_t>(v >> 24)
    p[5] = <uint8_t>(v >> 16)
    p[6] = <uint8_t>(v >> 8)
    p[7] = <uint8_t>v
    return p + 8


cdef inline const uint8_t* get_varint(const uint8_t* p, const uint8_t* end, uint64_t* v) noexcept nogil:
    """Read a varint (non-minimal accepted); NULL when truncated."""
    cdef int n
    if p == NULL or p >= end:
        return NULL
    n = 1 << (p[0] >> 6)
    if end - p < n:
        return NULL
    if n == 1:
        v[0] = p[0]
    elif n == 2:
        v[0] = ((<uint64_t>p[0] << 8) | p[1]) & 0x3fff
    elif n == 4:
        v[0] = ((<uint64_t>p[0] << 24) | (<uint64_t>p[1] << 16) | (<uint64_t>p[2] << 8) | p[3]) & 0x3fffffff
    else:
        v[0] = ((<uint64_t>p[0] << 56) | (<uint64_t>p[1] << 48) | (<uint64_t>p[2] << 40)
                | (<uint64_t>p[3] << 32) | (<uint64_t>p[4] << 24) | (<uint64_t>p[5] << 16)
                | (<uint64_t>p[6] << 8) | p[7]) & VARINT_MAX
    return p + n


# ---- packet numbers, RFC 9000 appendix A -----------------------------------
cdef inline int pn_length(uint64_t pn, int64_t largest_acked) noexcept nogil:
    """Bytes needed for `pn`; smallest n with 2*(pn - largest_acked) < 2**(8n).

    Below 0 means none acknowledged. The caller keeps `pn - largest_acked` below 2**31.
    """
    cdef uint64_t d = 2 * (pn - <uint64_t>(largest_acked if largest_acked > 0 else 0))
    return 1 if d < 0x100 else 2 if d < 0x10000 else 3 if d < 0x1000000 else 4


cdef inline uint64_t pn_expand(uint64_t truncated, int n, uint64_t expected) noexcept nogil:
    """Packet number nearest `expected` (largest received + 1, or 0) that ends in `n` bytes `truncated`."""
    cdef uint64_t win = <uint64_t>1 << (8 * n)
    cdef uint64_t half = win >> 1
    cdef uint64_t candidate = (expected & ~(win - 1)) | truncated
    if candidate + half <= expected and candidate < (<uint64_t>1 << 62) - win:
        return candidate + win
    if candidate > expected + half and candidate >= win:
        return candidate - win
    return candidate
