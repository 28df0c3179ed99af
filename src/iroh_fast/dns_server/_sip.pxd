"""SipHash-1-3, for tables whose keys strangers choose."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef inline uint64_t rotl(uint64_t x, int n) noexcept nogil:
    return (x << n) | (x >> (64 - n))


cdef inline void sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = rotl(v[1], 13) ^ v[0]
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] = rotl(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = rotl(v[1], 17) ^ v[2]
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] = rotl(v[2], 32)


cdef inline uint64_t sip_hash(const uint64_t* secret, const uint8_t* data, size_t n) noexcept nogil:
    """Hash `n` bytes with a secret of 16; of words as the machine has them, which does not matter to a table in memory."""
    cdef uint64_t[4] v
    cdef uint64_t word
    cdef size_t i
    v[0] = secret[0] ^ 0x736f6d6570736575ULL
    v[1] = secret[1] ^ 0x646f72616e646f6dULL
    v[2] = secret[0] ^ 0x6c7967656e657261ULL
    v[3] = secret[1] ^ 0x7465646279746573ULL
    for i in range(n // 8):
        memcpy(&word, data + 8 * i, 8)
        v[3] ^= word
        sip_round(v)
        v[0] ^= word
    word = 0
    memcpy(&word, data + (n & ~<size_t>7), n & 7)
    word ^= <uint64_t>n << 56
    v[3] ^= word
    sip_round(v)
    v[0] ^= word
    v[2] ^= 0xff
    for i in range(3):
        sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
