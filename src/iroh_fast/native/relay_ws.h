/* WebSocket framing (RFC 6455 §5.2) and masking for relay connections. */
#ifndef IROH_FAST_RELAY_WS_H
#define IROH_FAST_RELAY_WS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define RELAY_SSE2 1
#elif defined(__ARM_NEON) || defined(_M_ARM64)
#include <arm_neon.h>
#define RELAY_NEON 1
#endif

enum { WS_CONTINUATION = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };

/* What ws_parse found wrong; negated. */
enum {
    WS_E_RSV = 1,
    WS_E_OPCODE,
    WS_E_CONTROL,
    WS_E_LENGTH,
    WS_E_MASK,
    WS_E_SEQUENCE,
    WS_E_CLOSE,
    WS_E_TOO_BIG
};

typedef struct {
    uint64_t len;
    uint32_t mask; /* in memory order */
    uint8_t opcode;
    uint8_t fin;
} ws_head;

/* Size of the header, 0 when more bytes are needed, or a negated WS_E_ code. */
static inline int ws_parse(const uint8_t *p, size_t n, int want_mask, ws_head *h) {
    size_t size = 2;
    uint8_t low;
    if (n < 2) return 0;
    if (p[0] & 0x70) return -WS_E_RSV;
    h->opcode = p[0] & 0x0f;
    h->fin = p[0] >> 7;
    if (h->opcode > WS_PONG || (h->opcode > WS_BINARY && h->opcode < WS_CLOSE)) return -WS_E_OPCODE;
    low = p[1] & 0x7f;
    if (h->opcode >= WS_CLOSE && (!h->fin || low > 125)) return -WS_E_CONTROL;
    if ((p[1] >> 7) != want_mask) return -WS_E_MASK;
    if (low < 126) {
        h->len = low;
    } else if (low == 126) {
        size = 4;
        if (n < 4) return 0;
        h->len = (uint64_t)p[2] << 8 | p[3];
        if (h->len < 126) return -WS_E_LENGTH;
    } else {
        int i;
        size = 10;
        if (n < 10) return 0;
        h->len = 0;
        for (i = 2; i < 10; i++) h->len = h->len << 8 | p[i];
        if (h->len < 65536 || h->len >> 63) return -WS_E_LENGTH;
    }
    h->mask = 0;
    if (want_mask) {
        if (n < size + 4) return 0;
        memcpy(&h->mask, p + size, 4);
        size += 4;
    }
    return (int)size;
}

/* Write the header of one final frame, without a mask key; the result is its size (at most 10). */
static inline int ws_put_head(uint8_t *p, int opcode, size_t len, int masked) {
    uint8_t bit = masked ? 0x80 : 0;
    p[0] = (uint8_t)(0x80 | opcode);
    if (len < 126) {
        p[1] = (uint8_t)(bit | len);
        return 2;
    }
    if (len < 65536) {
        p[1] = bit | 126;
        p[2] = (uint8_t)(len >> 8);
        p[3] = (uint8_t)len;
        return 4;
    }
    p[1] = bit | 127;
    for (int i = 0; i < 8; i++) p[2 + i] = (uint8_t)((uint64_t)len >> (56 - 8 * i));
    return 10;
}

/* The mask as it applies from byte `offset` of a payload on. */
static inline uint32_t ws_mask_at(uint32_t mask, size_t offset) {
    uint8_t twice[8];
    uint32_t turned;
    memcpy(twice, &mask, 4);
    memcpy(twice + 4, &mask, 4);
    memcpy(&turned, twice + (offset & 3), 4);
    return turned;
}

/* dst = src xor mask; the two are the same memory or do not overlap. */
static inline void ws_xor(uint8_t *dst, const uint8_t *src, size_t n, uint32_t mask) {
    uint64_t wide = (uint64_t)mask << 32 | mask;
    size_t i = 0;
#if defined(RELAY_SSE2)
    __m128i m = _mm_set1_epi32((int)mask);
    for (; i + 64 <= n; i += 64) {
        __m128i a = _mm_loadu_si128((const __m128i *)(src + i));
        __m128i b = _mm_loadu_si128((const __m128i *)(src + i + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(src + i + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(src + i + 48));
        _mm_storeu_si128((__m128i *)(dst + i), _mm_xor_si128(a, m));
        _mm_storeu_si128((__m128i *)(dst + i + 16), _mm_xor_si128(b, m));
        _mm_storeu_si128((__m128i *)(dst + i + 32), _mm_xor_si128(c, m));
        _mm_storeu_si128((__m128i *)(dst + i + 48), _mm_xor_si128(d, m));
    }
#elif defined(RELAY_NEON)
    uint8x16_t m = vreinterpretq_u8_u32(vdupq_n_u32(mask));
    for (; i + 32 <= n; i += 32) {
        uint8x16_t a = vld1q_u8(src + i), b = vld1q_u8(src + i + 16);
        vst1q_u8(dst + i, veorq_u8(a, m));
        vst1q_u8(dst + i + 16, veorq_u8(b, m));
    }
#endif
    for (; i + 8 <= n; i += 8) {
        uint64_t w;
        memcpy(&w, src + i, 8);
        w ^= wide;
        memcpy(dst + i, &w, 8);
    }
    if (i < n) {
        uint8_t key[4];
        memcpy(key, &mask, 4);
        for (; i < n; i++) dst[i] = src[i] ^ key[i & 3];
    }
}

/* QUIC variable-length integer (RFC 9000 §16): size used, or 0 when cut short. */
static inline int relay_varint(const uint8_t *p, size_t n, uint64_t *value) {
    size_t size;
    uint64_t v;
    if (n == 0) return 0;
    size = (size_t)1 << (p[0] >> 6);
    if (n < size) return 0;
    v = p[0] & 0x3f;
    for (size_t i = 1; i < size; i++) v = v << 8 | p[i];
    *value = v;
    return (int)size;
}

static inline uint64_t relay_rotl(uint64_t x, int b) { return x << b | x >> (64 - b); }

#define RELAY_SIP_ROUND                                                                            \
    do {                                                                                           \
        a += b; b = relay_rotl(b, 13) ^ a; a = relay_rotl(a, 32);                                  \
        c += d; d = relay_rotl(d, 16) ^ c;                                                         \
        a += d; d = relay_rotl(d, 21) ^ a;                                                         \
        c += b; b = relay_rotl(b, 17) ^ c; c = relay_rotl(c, 32);                                  \
    } while (0)

/* SipHash-1-3 of a 32-byte key: clients choose their keys, so the table needs a secret. */
static inline uint64_t relay_hash(const uint64_t seed[2], const uint8_t *key) {
    uint64_t a = seed[0] ^ 0x736f6d6570736575u, b = seed[1] ^ 0x646f72616e646f6du;
    uint64_t c = seed[0] ^ 0x6c7967656e657261u, d = seed[1] ^ 0x7465646279746573u;
    for (int i = 0; i < 4; i++) {
        uint64_t word;
        memcpy(&word, key + 8 * i, 8);
        d ^= word;
        RELAY_SIP_ROUND;
        a ^= word;
    }
    d ^= (uint64_t)32 << 56;
    RELAY_SIP_ROUND;
    a ^= (uint64_t)32 << 56;
    c ^= 0xff;
    RELAY_SIP_ROUND;
    RELAY_SIP_ROUND;
    RELAY_SIP_ROUND;
    return a ^ b ^ c ^ d;
}

#endif
