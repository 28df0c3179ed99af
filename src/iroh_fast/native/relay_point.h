/* Does a 32-byte string decompress to a point of edwards25519 (RFC 8032 §5.1.3)?
 *
 * INTEROP: as in iroh, y is taken mod p and the sign bit is not looked at, so encodings that are
 * not canonical pass.  The input is public: nothing here needs constant time.
 * Field elements are five limbs of 51 bits. */
#ifndef IROH_FAST_RELAY_POINT_H
#define IROH_FAST_RELAY_POINT_H

#include <stdint.h>
#include <string.h>

#define FE_MASK (((uint64_t)1 << 51) - 1)

typedef struct {
    uint64_t v[5];
} relay_fe;

#if defined(__SIZEOF_INT128__)
typedef unsigned __int128 relay_acc;
#define ACC_ZERO 0
#define ACC_MAC(t, a, b) ((t) += (relay_acc)(a) * (b))
#define ACC_LOW(t) ((uint64_t)(t)&FE_MASK)
#define ACC_HIGH(t) ((uint64_t)((t) >> 51))
#define ACC_ADD(t, a) ((t) += (a))
#else
#include <intrin.h>
typedef struct {
    uint64_t lo, hi;
} relay_acc;
static const relay_acc relay_acc_zero = {0, 0};
#define ACC_ZERO relay_acc_zero
static inline void relay_acc_add(relay_acc *t, uint64_t lo, uint64_t hi) {
    t->lo += lo;
    t->hi += hi + (t->lo < lo);
}
static inline void relay_acc_mac(relay_acc *t, uint64_t a, uint64_t b) {
#if defined(_M_ARM64)
    relay_acc_add(t, a * b, __umulh(a, b));
#else
    uint64_t hi, lo = _umul128(a, b, &hi);
    relay_acc_add(t, lo, hi);
#endif
}
#define ACC_MAC(t, a, b) relay_acc_mac(&(t), (a), (b))
#define ACC_LOW(t) ((t).lo & FE_MASK)
#define ACC_HIGH(t) ((t).lo >> 51 | (t).hi << 13)
#define ACC_ADD(t, a) relay_acc_add(&(t), (a), 0)
#endif

/* r = a * b with limbs of a and b below 2^54; limbs of r stay below 2^52. */
static inline void relay_fe_mul(relay_fe *r, const relay_fe *a, const relay_fe *b) {
    const uint64_t *x = a->v, *y = b->v;
    uint64_t carry;
    relay_acc t[5];
    for (int k = 0; k < 5; k++) {
        relay_acc sum = ACC_ZERO;
        for (int i = 0; i < 5; i++) {
            int j = k - i;
            /* 2^255 = 19 mod p */
            if (j < 0) ACC_MAC(sum, x[i], 19 * y[j + 5]);
            else ACC_MAC(sum, x[i], y[j]);
        }
        t[k] = sum;
    }
    for (int k = 0; k < 4; k++) {
        r->v[k] = ACC_LOW(t[k]);
        carry = ACC_HIGH(t[k]);
        ACC_ADD(t[k + 1], carry);
    }
    r->v[4] = ACC_LOW(t[4]);
    carry = ACC_HIGH(t[4]);
    r->v[0] += 19 * carry;
    r->v[1] += r->v[0] >> 51;
    r->v[0] &= FE_MASK;
}

static inline void relay_fe_square_n(relay_fe *r, const relay_fe *a, int n) {
    relay_fe_mul(r, a, a);
    while (--n > 0) relay_fe_mul(r, r, r);
}

/* Bring to the one representative in [0, p). */
static inline void relay_fe_reduce(relay_fe *a) {
    uint64_t *v = a->v, over = 19;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++) {
            v[i + 1] += v[i] >> 51;
            v[i] &= FE_MASK;
        }
        v[0] += 19 * (v[4] >> 51);
        v[4] &= FE_MASK;
    }
    /* v is below 2^255; it is p or more exactly when adding 19 carries out of the top. */
    for (int i = 0; i < 5; i++) over = (v[i] + over) >> 51;
    v[0] += 19 * over;
    for (int i = 0; i < 4; i++) {
        v[i + 1] += v[i] >> 51;
        v[i] &= FE_MASK;
    }
    v[4] &= FE_MASK;
}

static inline int relay_fe_is(relay_fe a, uint64_t small) {
    relay_fe_reduce(&a);
    return a.v[0] == small && (a.v[1] | a.v[2] | a.v[3] | a.v[4]) == 0;
}

static inline uint64_t relay_load64(const uint8_t *p) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static inline int relay_is_point(const uint8_t key[32]) {
    /* d = -121665/121666 */
    static const relay_fe d = {
        {0x34dca135978a3, 0x1a8283b156ebd, 0x5e7a26001c029, 0x739c663a03cbb, 0x52036cee2b6ff}};
    relay_fe y, u, v, w, a, b, c;
    y.v[0] = relay_load64(key) & FE_MASK;
    y.v[1] = relay_load64(key + 6) >> 3 & FE_MASK;
    y.v[2] = relay_load64(key + 12) >> 6 & FE_MASK;
    y.v[3] = relay_load64(key + 19) >> 1 & FE_MASK;
    y.v[4] = relay_load64(key + 24) >> 12 & FE_MASK;
    relay_fe_mul(&u, &y, &y);
    relay_fe_mul(&v, &u, &d);
    v.v[0] += 1;
    /* u - 1 as u + 2p - 1, so that no limb goes below zero */
    u.v[0] += 2 * (FE_MASK - 18) - 1;
    for (int i = 1; i < 5; i++) u.v[i] += 2 * FE_MASK;
    /* x^2 = u/v has a root when w = u*v is a square; v is never 0 since -1/d is no square. */
    relay_fe_mul(&w, &u, &v);
    if (relay_fe_is(w, 0)) return 1;
    /* Euler: w^((p-1)/2), and (p-1)/2 = 2^254 - 10 = 16 (2^250 - 1) + 6 */
    relay_fe_mul(&a, &w, &w);
    relay_fe_square_n(&b, &a, 2);
    relay_fe_mul(&c, &a, &b); /* w^2 * w^8 = w^10 */
    relay_fe_mul(&b, &b, &w); /* w^9 */
    relay_fe_square_n(&c, &c, 1);
    relay_fe_mul(&b, &b, &c); /* w^29 */
    relay_fe_mul(&b, &b, &a); /* w^31 = w^(2^5 - 1) */
    relay_fe_square_n(&c, &b, 5);
    relay_fe_mul(&b, &c, &b); /* 2^10 - 1 */
    relay_fe_square_n(&c, &b, 10);
    relay_fe_mul(&c, &c, &b); /* 2^20 - 1 */
    relay_fe_square_n(&v, &c, 20);
    relay_fe_mul(&c, &v, &c); /* 2^40 - 1 */
    relay_fe_square_n(&c, &c, 10);
    relay_fe_mul(&b, &c, &b); /* 2^50 - 1 */
    relay_fe_square_n(&c, &b, 50);
    relay_fe_mul(&c, &c, &b); /* 2^100 - 1 */
    relay_fe_square_n(&v, &c, 100);
    relay_fe_mul(&c, &v, &c); /* 2^200 - 1 */
    relay_fe_square_n(&c, &c, 50);
    relay_fe_mul(&b, &c, &b); /* 2^250 - 1 */
    relay_fe_square_n(&b, &b, 4);
    relay_fe_mul(&c, &a, &w);    /* w^3 */
    relay_fe_mul(&c, &c, &c);    /* w^6 */
    relay_fe_mul(&b, &b, &c);
    return relay_fe_is(b, 1);
}

#endif
