/* Packet protection primitives behind _crypto.pyx: AEAD backends, header protection, HKDF.
 *
 * All of it is static: the only includer is the generated _crypto.c, so the calls below are
 * inlined into the functions that _crypto.pxd exports. Nothing here touches a Python object.
 *
 * Threads: iroh_crypto_init() may be called from any number of threads. After it returned, the
 * global state is read-only. An AEAD or header key belongs to one thread at a time.
 */
#ifndef IROH_FAST_CRYPTO_H
#define IROH_FAST_CRYPTO_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/opensslv.h>
#if !defined(OPENSSL_VERSION_MAJOR) || OPENSSL_VERSION_MAJOR < 3
#error "iroh_fast needs OpenSSL 3.0 or later (LibreSSL and BoringSSL lack EVP_MAC and EVP_CIPHER_fetch)"
#endif
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#ifdef IROH_FAST_HAVE_IPSEC_MB
#include <intel-ipsec-mb.h>
#endif

#define IROH_AES128_GCM 0x1301
#define IROH_AES256_GCM 0x1302
#define IROH_CHACHA20_POLY1305 0x1303
#define IROH_TAG_LEN 16
#define IROH_IV_LEN 12
#define IROH_MAX_KEY 32
#define IROH_MAX_HASH 48
#define IROH_MAX_SAMPLES 64
#define IROH_FORGED (-1) /* the tag does not fit: a packet of somebody else's */
#define IROH_FAILED (-2) /* the library could not do its work: says nothing about the packet */

#if defined(__GNUC__) || defined(__clang__)
#define IROH_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define IROH_UNLIKELY(x) (x)
#endif

/* What a backend provides. `init` makes the state of one key (sealing: 1 or 0); NULL on failure. */
typedef struct {
    const char *name;
    int shared_state; /* one state serves both directions */
    void *(*init)(int suite, const uint8_t *key, int sealing);
    /* 0, or IROH_FAILED: buf may then still be plaintext */
    int (*seal)(void *state, const uint8_t *nonce, const uint8_t *aad, size_t aad_len, uint8_t *buf,
                size_t n);
    /* n excludes the tag, which lies at buf[n]; 0, IROH_FORGED or IROH_FAILED */
    int (*open)(void *state, const uint8_t *nonce, const uint8_t *aad, size_t aad_len, uint8_t *buf,
                size_t n);
    void (*free)(void *state);
} iroh_backend;

typedef struct iroh_aead {
    const iroh_backend *backend;
    void *seal_state; /* made on first use: a key that only opens costs no sealing state */
    void *open_state;
    int suite;
    uint8_t iv[IROH_IV_LEN];
    uint8_t key[IROH_MAX_KEY];
} iroh_aead;

typedef struct iroh_header_key {
    EVP_CIPHER_CTX *ctx; /* large; with `expanded`, made when several samples come at once */
    int suite;
    int expanded;      /* ipsec-mb masks single samples, with `rounds` */
    uint8_t rounds[]; /* AES-128 encryption keys, on a 16-byte boundary; the first one is the key itself */
} iroh_header_key;

/* Written once by iroh_crypto_init_once(), read-only afterwards. */
static struct {
    EVP_CIPHER *aead[3]; /* by suite - 0x1301; NULL where the OpenSSL provider lacks it */
    EVP_CIPHER *hp[3];
    EVP_MAC_CTX *hmac_sha256, *hmac_sha384; /* templates: duplicated, never used themselves */
#ifdef IROH_FAST_HAVE_IPSEC_MB
    IMB_MGR *mb;
#endif
    int ready;
} iroh_crypto;

static CRYPTO_ONCE iroh_crypto_once = CRYPTO_ONCE_STATIC_INIT;

static inline int iroh_suite_index(int suite) {
    return suite >= IROH_AES128_GCM && suite <= IROH_CHACHA20_POLY1305 ? suite - IROH_AES128_GCM : -1;
}

static inline size_t iroh_key_len(int suite) { return suite == IROH_AES128_GCM ? 16 : 32; }

static inline size_t iroh_hash_len(int suite) { return suite == IROH_AES256_GCM ? 48 : 32; }

/* ---------------------------------------------------------------- OpenSSL backend */

static void iroh_ossl_free(void *state) { EVP_CIPHER_CTX_free((EVP_CIPHER_CTX *)state); }

static void *iroh_ossl_init(int suite, const uint8_t *key, int sealing) {
    const EVP_CIPHER *cipher = iroh_crypto.aead[iroh_suite_index(suite)];
    EVP_CIPHER_CTX *ctx;
    if (cipher == NULL || (ctx = EVP_CIPHER_CTX_new()) == NULL) return NULL;
    /* 12-byte nonces are the default of all three suites */
    if (EVP_CipherInit_ex2(ctx, cipher, key, NULL, sealing, NULL) != 1) {
        EVP_CIPHER_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

static int iroh_ossl_seal(void *state, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
                          uint8_t *buf, size_t n) {
    EVP_CIPHER_CTX *ctx = (EVP_CIPHER_CTX *)state;
    int len;
    OSSL_PARAM tag[2];
    /* only the IV is set again: key schedule and GHASH tables stay */
    if (IROH_UNLIKELY(EVP_EncryptInit_ex2(ctx, NULL, NULL, nonce, NULL) != 1)) return IROH_FAILED;
    if (aad_len && IROH_UNLIKELY(EVP_EncryptUpdate(ctx, NULL, &len, aad, (int)aad_len) != 1))
        return IROH_FAILED;
    if (n && IROH_UNLIKELY(EVP_EncryptUpdate(ctx, buf, &len, buf, (int)n) != 1)) return IROH_FAILED;
    if (IROH_UNLIKELY(EVP_EncryptFinal_ex(ctx, buf + n, &len) != 1)) return IROH_FAILED;
    tag[0] = OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, buf + n, IROH_TAG_LEN);
    tag[1] = OSSL_PARAM_construct_end();
    return EVP_CIPHER_CTX_get_params(ctx, tag) == 1 ? 0 : IROH_FAILED;
}

static int iroh_ossl_open(void *state, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
                          uint8_t *buf, size_t n) {
    EVP_CIPHER_CTX *ctx = (EVP_CIPHER_CTX *)state;
    int len;
    OSSL_PARAM tag[2];
    tag[0] = OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, buf + n, IROH_TAG_LEN);
    tag[1] = OSSL_PARAM_construct_end();
    if (IROH_UNLIKELY(EVP_DecryptInit_ex2(ctx, NULL, NULL, nonce, tag) != 1)) return IROH_FAILED;
    if (aad_len && IROH_UNLIKELY(EVP_DecryptUpdate(ctx, NULL, &len, aad, (int)aad_len) != 1))
        return IROH_FAILED;
    if (n && IROH_UNLIKELY(EVP_DecryptUpdate(ctx, buf, &len, buf, (int)n) != 1)) return IROH_FAILED;
    return EVP_DecryptFinal_ex(ctx, buf + n, &len) == 1 ? 0 : IROH_FORGED;
}

static const iroh_backend iroh_backend_openssl = {
    "openssl", 0, iroh_ossl_init, iroh_ossl_seal, iroh_ossl_open, iroh_ossl_free,
};

/* ---------------------------------------------------------------- intel-ipsec-mb backend */

#ifdef IROH_FAST_HAVE_IPSEC_MB

/* The GCM functions read nothing of the manager but the function pointers: one serves all threads. */
typedef struct {
    struct gcm_key_data key; /* first: the library wants it on a 64-byte boundary */
    aes_gcm_enc_dec_t seal, open;
} iroh_mb_state;

static void *iroh_mb_alloc(void) {
#ifdef _WIN32
    return _aligned_malloc(sizeof(iroh_mb_state), 64);
#else
    void *p = NULL;
    return posix_memalign(&p, 64, sizeof(iroh_mb_state)) == 0 ? p : NULL;
#endif
}

static void iroh_mb_free(void *state) {
    if (state == NULL) return;
    OPENSSL_cleanse(state, sizeof(iroh_mb_state));
#ifdef _WIN32
    _aligned_free(state);
#else
    free(state);
#endif
}

/* The library's word on its last call. Its GCM functions return nothing: refused arguments are only told here. */
static inline int iroh_mb_ok(void) { return IROH_UNLIKELY(imb_get_errno(NULL) != 0) ? 0 : 1; }

static void *iroh_mb_init(int suite, const uint8_t *key, int sealing) {
    IMB_MGR *mb = iroh_crypto.mb;
    iroh_mb_state *s;
    (void)sealing;
    if (mb == NULL || (s = (iroh_mb_state *)iroh_mb_alloc()) == NULL) return NULL;
    memset(s, 0, sizeof(*s));
    if (suite == IROH_AES128_GCM) {
        IMB_AES128_GCM_PRE(mb, key, &s->key);
        s->seal = mb->gcm128_enc;
        s->open = mb->gcm128_dec;
    } else {
        IMB_AES256_GCM_PRE(mb, key, &s->key);
        s->seal = mb->gcm256_enc;
        s->open = mb->gcm256_dec;
    }
    if (!iroh_mb_ok()) {
        iroh_mb_free(s);
        return NULL;
    }
    return s;
}

static int iroh_mb_seal(void *state, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
                        uint8_t *buf, size_t n) {
    iroh_mb_state *s = (iroh_mb_state *)state;
    struct gcm_context_data ctx;
    s->seal(&s->key, &ctx, buf, buf, n, nonce, aad, aad_len, buf + n, IROH_TAG_LEN);
    return iroh_mb_ok() ? 0 : IROH_FAILED;
}

static int iroh_mb_open(void *state, const uint8_t *nonce, const uint8_t *aad, size_t aad_len,
                        uint8_t *buf, size_t n) {
    iroh_mb_state *s = (iroh_mb_state *)state;
    struct gcm_context_data ctx;
    uint8_t tag[IROH_TAG_LEN];
    s->open(&s->key, &ctx, buf, buf, n, nonce, aad, aad_len, tag, IROH_TAG_LEN);
    if (!iroh_mb_ok()) return IROH_FAILED; /* no tag was computed */
    return CRYPTO_memcmp(tag, buf + n, IROH_TAG_LEN) == 0 ? 0 : IROH_FORGED;
}

static const iroh_backend iroh_backend_ipsec_mb = {
    "ipsec-mb", 1, iroh_mb_init, iroh_mb_seal, iroh_mb_open, iroh_mb_free,
};

static void iroh_mb_setup(void) {
    const uint64_t need = IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ;
    IMB_ARCH arch = IMB_ARCH_NONE;
    IMB_MGR *mb = alloc_mb_mgr(0);
    if (mb == NULL) return;
    /* IMB_FEATURE_AESNI_EMU would be a slow software AES; the CPU must have the real one */
    if ((mb->features & need) == need) {
        init_mb_mgr_auto(mb, &arch);
        if (imb_get_errno(mb) == 0 && arch != IMB_ARCH_NONE && arch != IMB_ARCH_NOAESNI &&
            mb->gcm128_enc != NULL && mb->gcm256_enc != NULL &&
            mb->keyexp_128 != NULL && mb->aes128_cfb_one != NULL) {
            iroh_crypto.mb = mb;
            return;
        }
    }
    free_mb_mgr(mb);
}

#endif /* IROH_FAST_HAVE_IPSEC_MB */

/* ---------------------------------------------------------------- global set-up */

static EVP_MAC_CTX *iroh_hmac_template(const char *digest) {
    static const uint8_t zero[1] = {0};
    char name[16];
    OSSL_PARAM params[2];
    EVP_MAC_CTX *ctx = NULL;
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    if (mac == NULL) return NULL;
    strncpy(name, digest, sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name, 0);
    params[1] = OSSL_PARAM_construct_end();
    ctx = EVP_MAC_CTX_new(mac);
    EVP_MAC_free(mac); /* the context keeps its own reference */
    /* a key, if only a dummy: OpenSSL 3.0 cannot duplicate a context that has none */
    if (ctx != NULL && EVP_MAC_init(ctx, zero, sizeof(zero), params) != 1) {
        EVP_MAC_CTX_free(ctx);
        ctx = NULL;
    }
    return ctx;
}

static void iroh_crypto_init_once(void) {
    static const char *const aead[3] = {"AES-128-GCM", "AES-256-GCM", "ChaCha20-Poly1305"};
    static const char *const hp[3] = {"AES-128-ECB", "AES-256-ECB", "ChaCha20"};
    int i;
    ERR_set_mark();
    for (i = 0; i < 3; i++) {
        iroh_crypto.aead[i] = EVP_CIPHER_fetch(NULL, aead[i], NULL);
        iroh_crypto.hp[i] = EVP_CIPHER_fetch(NULL, hp[i], NULL);
    }
    iroh_crypto.hmac_sha256 = iroh_hmac_template("SHA256");
    iroh_crypto.hmac_sha384 = iroh_hmac_template("SHA384");
    ERR_pop_to_mark(); /* a FIPS provider has no ChaCha20; that is no error here */
#ifdef IROH_FAST_HAVE_IPSEC_MB
    iroh_mb_setup();
#endif
    /* AES-128-GCM and SHA-256 protect every Initial packet: without them nothing works */
    iroh_crypto.ready = iroh_crypto.aead[0] != NULL && iroh_crypto.hp[0] != NULL &&
                        iroh_crypto.hmac_sha256 != NULL && iroh_crypto.hmac_sha384 != NULL;
}

/* 0, or -1 if OpenSSL has no AES-128-GCM or no HMAC-SHA-2. Idempotent and thread-safe. */
static int iroh_crypto_init(void) {
    if (CRYPTO_THREAD_run_once(&iroh_crypto_once, iroh_crypto_init_once) != 1) return -1;
    return iroh_crypto.ready ? 0 : -1;
}

static int iroh_has_ipsec_mb(void) {
#ifdef IROH_FAST_HAVE_IPSEC_MB
    return iroh_crypto.mb != NULL;
#else
    return 0;
#endif
}

static const char *iroh_ipsec_mb_version(void) {
#ifdef IROH_FAST_HAVE_IPSEC_MB
    return imb_get_version_str();
#else
    return NULL;
#endif
}

/* `which`: 0 the fastest present, 1 OpenSSL, 2 ipsec-mb. NULL if that one cannot do the suite. */
static const iroh_backend *iroh_backend_for(int suite, int which) {
    int i = iroh_suite_index(suite);
    if (i < 0) return NULL;
#ifdef IROH_FAST_HAVE_IPSEC_MB
    if (which != 1 && iroh_crypto.mb != NULL && suite != IROH_CHACHA20_POLY1305)
        return &iroh_backend_ipsec_mb;
#endif
    if (which == 2 || iroh_crypto.aead[i] == NULL) return NULL;
    return &iroh_backend_openssl;
}

/* ---------------------------------------------------------------- AEAD */

static iroh_aead *iroh_aead_new(int suite, const uint8_t *key, const uint8_t *iv, int which) {
    const iroh_backend *backend = iroh_backend_for(suite, which);
    iroh_aead *a;
    if (backend == NULL || (a = (iroh_aead *)calloc(1, sizeof(*a))) == NULL) return NULL;
    a->backend = backend;
    a->suite = suite;
    memcpy(a->iv, iv, IROH_IV_LEN);
    memcpy(a->key, key, iroh_key_len(suite));
    return a;
}

static const char *iroh_aead_backend(const iroh_aead *a) { return a->backend->name; }

static void iroh_aead_free(iroh_aead *a) {
    if (a == NULL) return;
    if (a->seal_state != NULL) a->backend->free(a->seal_state);
    if (a->open_state != NULL && a->open_state != a->seal_state) a->backend->free(a->open_state);
    OPENSSL_cleanse(a, sizeof(*a));
    free(a);
}

/* iv XOR (path id u32 || packet number u64), big endian: multipath draft, "Nonce"; with path 0
 * this is RFC 9001 §5.3. */
static inline void iroh_nonce(const iroh_aead *a, uint32_t path_id, uint64_t pn, uint8_t *nonce) {
    int i;
    for (i = 0; i < 4; i++) nonce[i] = (uint8_t)(a->iv[i] ^ (path_id >> (24 - 8 * i)));
    for (i = 0; i < 8; i++) nonce[4 + i] = (uint8_t)(a->iv[4 + i] ^ (pn >> (56 - 8 * i)));
}

/* Makes the state of one direction. Cold: once per key and direction. */
static int iroh_aead_prepare(iroh_aead *a, int sealing) {
    void **own = sealing ? &a->seal_state : &a->open_state;
    void **other = sealing ? &a->open_state : &a->seal_state;
    *own = a->backend->shared_state && *other != NULL ? *other
                                                      : a->backend->init(a->suite, a->key, sealing);
    return *own != NULL ? 0 : IROH_FAILED;
}

/* The state of one direction, if it is not there yet. 0, or IROH_FAILED. */
static inline int iroh_aead_ready(iroh_aead *a, int sealing) {
    if (IROH_UNLIKELY(a == NULL)) return IROH_FAILED;
    if (IROH_UNLIKELY((sealing ? a->seal_state : a->open_state) == NULL)) return iroh_aead_prepare(a, sealing);
    return 0;
}

static inline int iroh_aead_seal(iroh_aead *a, uint32_t path_id, uint64_t pn, const uint8_t *aad,
                                 size_t aad_len, uint8_t *buf, size_t n) {
    uint8_t nonce[IROH_IV_LEN];
    if (IROH_UNLIKELY(n > INT_MAX - IROH_TAG_LEN || aad_len > INT_MAX)) return IROH_FAILED;
    if (IROH_UNLIKELY(iroh_aead_ready(a, 1) != 0)) goto failed;
    iroh_nonce(a, path_id, pn, nonce);
    if (IROH_UNLIKELY(a->backend->seal(a->seal_state, nonce, aad, aad_len, buf, n) != 0)) goto failed;
    return 0;
failed:
    /* whoever overlooks the failure sends nothing that could be read */
    OPENSSL_cleanse(buf, n + IROH_TAG_LEN);
    return IROH_FAILED;
}

static inline ptrdiff_t iroh_aead_open(iroh_aead *a, uint32_t path_id, uint64_t pn, const uint8_t *aad,
                                       size_t aad_len, uint8_t *buf, size_t n) {
    uint8_t nonce[IROH_IV_LEN];
    int rc;
    if (IROH_UNLIKELY(n < IROH_TAG_LEN || n > INT_MAX || aad_len > INT_MAX)) return IROH_FORGED;
    if (IROH_UNLIKELY(iroh_aead_ready(a, 0) != 0)) return IROH_FAILED;
    iroh_nonce(a, path_id, pn, nonce);
    n -= IROH_TAG_LEN;
    rc = a->backend->open(a->open_state, nonce, aad, aad_len, buf, n);
    return rc == 0 ? (ptrdiff_t)n : rc;
}

/* ---------------------------------------------------------------- header protection */

#define IROH_AES128_ROUNDS (11 * 16)

static int iroh_hp_context(iroh_header_key *h, const uint8_t *key) {
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (ctx == NULL ||
        EVP_EncryptInit_ex2(ctx, iroh_crypto.hp[iroh_suite_index(h->suite)], key, NULL, NULL) != 1 ||
        EVP_CIPHER_CTX_set_padding(ctx, 0) != 1) {
        EVP_CIPHER_CTX_free(ctx);
        return -1;
    }
    h->ctx = ctx;
    return 0;
}

static void iroh_hp_free(iroh_header_key *h) {
    if (h == NULL) return;
    EVP_CIPHER_CTX_free(h->ctx); /* wipes the key schedule */
    if (h->expanded) OPENSSL_cleanse(h->rounds, IROH_AES128_ROUNDS);
    free(h);
}

#ifdef IROH_FAST_HAVE_IPSEC_MB
/* Memory of one key instead of an OpenSSL context. */
static iroh_header_key *iroh_hp_expand(const uint8_t *key) {
    DECLARE_ALIGNED(uint8_t unused[IROH_AES128_ROUNDS], 16);
    iroh_header_key *h = (iroh_header_key *)calloc(1, sizeof(*h) + IROH_AES128_ROUNDS);
    if (h == NULL) return NULL;
    h->suite = IROH_AES128_GCM;
    h->expanded = 1;
    IMB_AES_KEYEXP_128(iroh_crypto.mb, key, h->rounds, unused);
    OPENSSL_cleanse(unused, sizeof(unused));
    if (!iroh_mb_ok()) {
        iroh_hp_free(h);
        return NULL;
    }
    return h;
}
#endif

/* `which` as of iroh_backend_for */
static iroh_header_key *iroh_hp_new(int suite, const uint8_t *key, int which) {
    int i = iroh_suite_index(suite);
    iroh_header_key *h;
    if (i < 0 || iroh_crypto.hp[i] == NULL) return NULL;
#ifdef IROH_FAST_HAVE_IPSEC_MB
    if (which != 1 && suite == IROH_AES128_GCM && iroh_crypto.mb != NULL) return iroh_hp_expand(key);
#else
    (void)which;
#endif
    if ((h = (iroh_header_key *)calloc(1, sizeof(*h))) == NULL) return NULL;
    h->suite = suite;
    if (iroh_hp_context(h, key) != 0) {
        free(h);
        return NULL;
    }
    return h;
}

/* RFC 9001 §5.4.3 (AES: encrypt the samples) and §5.4.4 (ChaCha20: the sample is counter and nonce). */
static int iroh_hp_masks(iroh_header_key *h, const uint8_t *const *samples, int n, uint8_t *masks) {
    int i, len;
    if (IROH_UNLIKELY(h == NULL || n < 0 || n > IROH_MAX_SAMPLES)) return -1;
    if (n == 0) return 0;
#ifdef IROH_FAST_HAVE_IPSEC_MB
    if (n == 1 && h->expanded) {
        /* one block of CFB over zeros is the encryption of its IV */
        static const uint8_t zero[16] = {0};
        IMB_AES128_CFB_ONE(iroh_crypto.mb, masks, zero, samples[0], h->rounds, 16);
        return iroh_mb_ok() ? 0 : -1;
    }
    if (IROH_UNLIKELY(h->ctx == NULL) && iroh_hp_context(h, h->rounds) != 0) return -1;
#endif
    if (h->suite != IROH_CHACHA20_POLY1305) {
        for (i = 0; i < n; i++) memcpy(masks + 16 * i, samples[i], 16);
        return EVP_EncryptUpdate(h->ctx, masks, &len, masks, 16 * n) == 1 ? 0 : -1;
    }
    memset(masks, 0, 16 * (size_t)n);
    for (i = 0; i < n; i++) {
        /* the layout of OpenSSL's 16-byte ChaCha20 IV (counter, little endian, then nonce) is the
         * layout of the sample */
        if (EVP_EncryptInit_ex2(h->ctx, NULL, NULL, samples[i], NULL) != 1 ||
            EVP_EncryptUpdate(h->ctx, masks + 16 * i, &len, masks + 16 * i, 16) != 1)
            return -1;
    }
    return 0;
}

/* ---------------------------------------------------------------- HMAC and HKDF (RFC 5869) */

/* A working context for HMAC with the hash of `suite`; the caller frees it. */
static EVP_MAC_CTX *iroh_hmac_new(int suite) {
    const EVP_MAC_CTX *tpl = suite == IROH_AES256_GCM ? iroh_crypto.hmac_sha384 : iroh_crypto.hmac_sha256;
    return tpl == NULL ? NULL : EVP_MAC_CTX_dup(tpl);
}

static int iroh_hmac(EVP_MAC_CTX *ctx, const uint8_t *key, size_t key_len, const uint8_t *data, size_t n,
                     uint8_t *out, size_t out_len) {
    static const uint8_t none[1] = {0};
    size_t len = 0;
    /* a NULL key would mean "the key as before" to OpenSSL */
    if (EVP_MAC_init(ctx, key_len ? key : none, key_len, NULL) != 1) return -1;
    if (n && EVP_MAC_update(ctx, data, n) != 1) return -1;
    return EVP_MAC_final(ctx, out, &len, out_len) == 1 && len == out_len ? 0 : -1;
}

/* HMAC with the hash of `suite`; `out` gets iroh_hash_len(suite) bytes. */
static int iroh_hmac_of(int suite, const uint8_t *key, size_t key_len, const uint8_t *data, size_t n,
                        uint8_t *out) {
    EVP_MAC_CTX *ctx = iroh_hmac_new(suite);
    int rc = ctx == NULL ? -1 : iroh_hmac(ctx, key, key_len, data, n, out, iroh_hash_len(suite));
    EVP_MAC_CTX_free(ctx);
    return rc;
}

static int iroh_hmac_sha256(const uint8_t *key, size_t key_len, const uint8_t *data, size_t n,
                            uint8_t *out) {
    return iroh_hmac_of(IROH_AES128_GCM, key, key_len, data, n, out);
}

/* HKDF-Expand-Label(secret, label, "", out_len) of RFC 8446 §7.1. `label` without "tls13 ", at most
 * 249 bytes; out_len at most 255 hashes. */
static int iroh_expand_label(EVP_MAC_CTX *ctx, size_t hash_len, const uint8_t *secret, size_t secret_len,
                             const char *label, size_t label_len, uint8_t *out, size_t out_len) {
    uint8_t msg[IROH_MAX_HASH + 2 + 1 + 255 + 1 + 1]; /* T(i-1), HkdfLabel, counter */
    uint8_t t[IROH_MAX_HASH];
    uint8_t *info = msg + hash_len;
    size_t info_len = 2 + 1 + 6 + label_len + 1, done = 0, take;
    unsigned i;
    int rc = 0;
    if (hash_len > IROH_MAX_HASH || label_len > 249 || out_len > 255 * hash_len) return -1;
    info[0] = (uint8_t)(out_len >> 8);
    info[1] = (uint8_t)out_len;
    info[2] = (uint8_t)(6 + label_len);
    memcpy(info + 3, "tls13 ", 6);
    memcpy(info + 9, label, label_len);
    info[9 + label_len] = 0; /* empty context */
    for (i = 1; done < out_len; i++) {
        info[info_len] = (uint8_t)i;
        if (i == 1) {
            rc = iroh_hmac(ctx, secret, secret_len, info, info_len + 1, t, hash_len);
        } else {
            memcpy(msg, t, hash_len);
            rc = iroh_hmac(ctx, secret, secret_len, msg, hash_len + info_len + 1, t, hash_len);
        }
        if (rc != 0) break;
        take = out_len - done < hash_len ? out_len - done : hash_len;
        memcpy(out + done, t, take);
        done += take;
    }
    OPENSSL_cleanse(t, sizeof(t));
    OPENSSL_cleanse(msg, hash_len);
    return rc;
}

#define IROH_LABEL(text) (text), sizeof(text) - 1

/* ---------------------------------------------------------------- QUIC key schedule (RFC 9001) */

/* §5.1. `aead` and `hp` may each be NULL; on failure neither is set to anything but NULL. */
static int iroh_keys_from_secret(int suite, const uint8_t *secret, size_t secret_len, int which,
                                 iroh_aead **aead, iroh_header_key **hp) {
    uint8_t key[IROH_MAX_KEY], iv[IROH_IV_LEN];
    size_t key_len, hash_len;
    EVP_MAC_CTX *ctx;
    int rc = -1;
    if (aead != NULL) *aead = NULL;
    if (hp != NULL) *hp = NULL;
    if (iroh_suite_index(suite) < 0) return -1;
    key_len = iroh_key_len(suite);
    hash_len = iroh_hash_len(suite);
    if (secret_len != hash_len || (ctx = iroh_hmac_new(suite)) == NULL) return -1;
    if (aead != NULL) {
        if (iroh_expand_label(ctx, hash_len, secret, secret_len, IROH_LABEL("quic key"), key, key_len) ||
            iroh_expand_label(ctx, hash_len, secret, secret_len, IROH_LABEL("quic iv"), iv, IROH_IV_LEN))
            goto done;
        if ((*aead = iroh_aead_new(suite, key, iv, which)) == NULL) goto done;
    }
    if (hp != NULL) {
        if (iroh_expand_label(ctx, hash_len, secret, secret_len, IROH_LABEL("quic hp"), key, key_len))
            goto done;
        if ((*hp = iroh_hp_new(suite, key, which)) == NULL) goto done;
    }
    rc = 0;
done:
    if (rc != 0 && aead != NULL) {
        iroh_aead_free(*aead);
        *aead = NULL;
    }
    OPENSSL_cleanse(key, sizeof(key));
    OPENSSL_cleanse(iv, sizeof(iv));
    EVP_MAC_CTX_free(ctx);
    return rc;
}

/* §6.1 */
static int iroh_next_secret(int suite, const uint8_t *secret, size_t secret_len, uint8_t *out) {
    EVP_MAC_CTX *ctx;
    int rc;
    if (iroh_suite_index(suite) < 0 || secret_len != iroh_hash_len(suite)) return -1;
    if ((ctx = iroh_hmac_new(suite)) == NULL) return -1;
    rc = iroh_expand_label(ctx, secret_len, secret, secret_len, IROH_LABEL("quic ku"), out, secret_len);
    EVP_MAC_CTX_free(ctx);
    return rc;
}

/* §5.2; a QUIC version 1 salt */
static int iroh_initial_secrets(const uint8_t *dcid, size_t n, uint8_t *client, uint8_t *server) {
    static const uint8_t salt[20] = {0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17,
                                     0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a};
    uint8_t prk[32];
    EVP_MAC_CTX *ctx = iroh_hmac_new(IROH_AES128_GCM);
    int rc = -1;
    if (ctx != NULL && iroh_hmac(ctx, salt, sizeof(salt), dcid, n, prk, 32) == 0 &&
        iroh_expand_label(ctx, 32, prk, 32, IROH_LABEL("client in"), client, 32) == 0 &&
        iroh_expand_label(ctx, 32, prk, 32, IROH_LABEL("server in"), server, 32) == 0)
        rc = 0;
    EVP_MAC_CTX_free(ctx);
    OPENSSL_cleanse(prk, sizeof(prk));
    return rc;
}

/* §5.8: AES-128-GCM of nothing, with (odcid length, odcid, Retry packet without tag) as AAD */
static int iroh_retry_tag(const uint8_t *odcid, size_t odcid_len, const uint8_t *packet, size_t n,
                          uint8_t *tag16) {
    static const uint8_t key[16] = {0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a,
                                    0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e};
    static const uint8_t nonce[12] = {0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2,
                                      0x23, 0x98, 0x25, 0xbb};
    uint8_t head[1 + 20];
    EVP_CIPHER_CTX *ctx;
    int len, rc = -1;
    if (odcid_len > 20 || n > INT_MAX) return -1;
    if ((ctx = EVP_CIPHER_CTX_new()) == NULL) return -1;
    head[0] = (uint8_t)odcid_len;
    if (odcid_len) memcpy(head + 1, odcid, odcid_len);
    if (EVP_EncryptInit_ex2(ctx, iroh_crypto.aead[0], key, nonce, NULL) == 1 &&
        EVP_EncryptUpdate(ctx, NULL, &len, head, 1 + (int)odcid_len) == 1 &&
        (n == 0 || EVP_EncryptUpdate(ctx, NULL, &len, packet, (int)n) == 1) &&
        EVP_EncryptFinal_ex(ctx, tag16, &len) == 1 &&
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, IROH_TAG_LEN, tag16) == 1)
        rc = 0;
    EVP_CIPHER_CTX_free(ctx);
    return rc;
}

#endif
