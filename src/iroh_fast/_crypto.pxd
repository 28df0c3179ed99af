"""C interface of packet protection (RFC 9001 §5; nonce of the multipath draft, with the path id)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    SUITE_AES128_GCM = 0x1301
    SUITE_AES256_GCM = 0x1302
    SUITE_CHACHA20_POLY1305 = 0x1303
    TAG_LEN = 16
    HP_SAMPLE_LEN = 16

    # what `aead_open` says
    AEAD_FORGED = -1              # the packet is not authentic
    AEAD_FAILED = -2              # the library failed (memory): says nothing about the packet


# Opaque outside native/crypto.h. Forward declared here, because Cython does not do that for a
# struct without a body and C then takes each prototype's `struct Aead` for a different one.
cdef extern from *:
    """
    struct iroh_aead;
    struct iroh_header_key;
    """
    cdef struct Aead "iroh_aead":           # one direction, one key; sealing and opening both work
        pass
    cdef struct HeaderKey "iroh_header_key":  # header protection, one direction
        pass


# NULL on failure (unknown suite, out of memory). `key` is 16 or 32 bytes, `iv` 12; both are copied.
cdef Aead* aead_new(int suite, const uint8_t* key, const uint8_t* iv) noexcept nogil
cdef void aead_free(Aead* a) noexcept nogil
# Makes the state of one direction now instead of at the first packet. 0, or AEAD_FAILED.
cdef int aead_prepare(Aead* a, bint sealing) noexcept nogil
# In place: encrypts buf[0:n], writes the tag at buf[n:n+16]. 0, or AEAD_FAILED: then nothing may be sent (buf is wiped).
# This and the two below fail for a NULL key.
cdef int aead_seal(Aead* a, uint32_t path_id, uint64_t pn, const uint8_t* aad, size_t aad_len,
                   uint8_t* buf, size_t n) noexcept nogil
# In place: n includes the tag. Plaintext length, or AEAD_FORGED or AEAD_FAILED (buf is then garbage).
cdef Py_ssize_t aead_open(Aead* a, uint32_t path_id, uint64_t pn, const uint8_t* aad, size_t aad_len,
                          uint8_t* buf, size_t n) noexcept nogil

cdef HeaderKey* hp_new(int suite, const uint8_t* key) noexcept nogil
cdef void hp_free(HeaderKey* h) noexcept nogil
# masks: n x 16 bytes, of which the first 5 count; n up to 64. 0, or -1: then nothing may be sent.
cdef int hp_masks(HeaderKey* h, const uint8_t** samples, int n, uint8_t* masks) noexcept nogil

# HKDF-Expand-Label("quic key"/"quic iv"/"quic hp") of a traffic secret. Either output may be NULL
# (key update makes no new header key). 0, or -1.
cdef int keys_from_secret(int suite, const uint8_t* secret, size_t secret_len, Aead** aead, HeaderKey** hp) noexcept nogil
# RFC 9001 §6.1 "quic ku"; `out` has secret_len bytes. 0, or -1.
cdef int next_secret(int suite, const uint8_t* secret, size_t secret_len, uint8_t* out) noexcept nogil
# RFC 9001 §5.2; 32 bytes each.
cdef int initial_secrets(const uint8_t* dcid, size_t n, uint8_t* client, uint8_t* server) noexcept nogil
# RFC 9001 §5.8: tag over the pseudo packet. 0, or -1.
cdef int retry_integrity_tag(const uint8_t* odcid, size_t odcid_len, const uint8_t* packet, size_t n, uint8_t* tag16) noexcept nogil
# HMAC with the hash of a TLS cipher suite; `out` gets 32 bytes, 48 for SUITE_AES256_GCM. 0, or -1.
cdef int hmac_of(int suite, const uint8_t* key, size_t key_len, const uint8_t* data, size_t n, uint8_t* out) noexcept nogil
# HMAC-SHA256; `out` gets 32 bytes. 0, or -1.
cdef int hmac_sha256(const uint8_t* key, size_t key_len, const uint8_t* data, size_t n, uint8_t* out) noexcept nogil
cdef int constant_time_equal(const uint8_t* a, const uint8_t* b, size_t n) noexcept nogil
