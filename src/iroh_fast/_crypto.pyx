"""Packet protection: AEAD, header protection and the QUIC key schedule (RFC 9001 §5, §6).

The C functions of ``_crypto.pxd`` serve the compiled data path. What Python sees here is for
the slow path (Retry, tokens, key schedule), for tests and for benchmarks.

AES-GCM runs on intel-ipsec-mb where that was found at build time and the CPU has AES-NI, else on
OpenSSL; ChaCha20-Poly1305 always runs on OpenSSL. ``IROH_FAST_CRYPTO=openssl`` or ``=ipsec-mb``
in the environment forces one for the whole process.
"""

import os

cimport cython

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from iroh_fast._view cimport View, view_of


cdef extern from "native/crypto.h" nogil:
    """
    #define IROH_STR_(x) #x
    #define IROH_STR(x) IROH_STR_(x)
    #ifndef IROH_FAST_BUILD_FLAGS
    #define IROH_FAST_BUILD_FLAGS ""
    #endif
    #ifndef IROH_FAST_BUILD_SANITIZE
    #define IROH_FAST_BUILD_SANITIZE ""
    #endif
    #ifndef IROH_FAST_BUILD_DEBUG
    #define IROH_FAST_BUILD_DEBUG 0
    #endif
    #ifndef IROH_FAST_BUILD_TRACE
    #define IROH_FAST_BUILD_TRACE 0
    #endif
    #ifdef IROH_FAST_HAVE_IPSEC_MB
    #define IROH_BUILD_IPSEC_MB 1
    #else
    #define IROH_BUILD_IPSEC_MB 0
    #endif
    #if defined(_MSC_FULL_VER)
    #define IROH_COMPILER "MSVC " IROH_STR(_MSC_FULL_VER)
    #elif defined(__clang__)
    #define IROH_COMPILER __VERSION__
    #elif defined(__GNUC__)
    #define IROH_COMPILER "GCC " __VERSION__
    #else
    #define IROH_COMPILER "unknown"
    #endif
    """
    const char* IROH_FAST_BUILD_FLAGS
    const char* IROH_FAST_BUILD_SANITIZE
    const char* IROH_COMPILER
    const char* OPENSSL_VERSION_TEXT
    int IROH_FAST_BUILD_DEBUG
    int IROH_FAST_BUILD_TRACE
    int IROH_BUILD_IPSEC_MB


    ctypedef struct iroh_backend:
        const char* name

    ctypedef struct EVP_MAC_CTX:
        pass

    int iroh_crypto_init()
    int iroh_has_ipsec_mb()
    const char* iroh_ipsec_mb_version()
    const char* iroh_aead_backend(const Aead* a)
    const iroh_backend* iroh_backend_for(int suite, int which)
    int iroh_suite_index(int suite)
    size_t iroh_hash_len(int suite)
    Aead* iroh_aead_new(int suite, const uint8_t* key, const uint8_t* iv, int which)
    void iroh_aead_free(Aead* a)
    int iroh_aead_ready(Aead* a, int sealing)
    int iroh_aead_seal(Aead* a, uint32_t path_id, uint64_t pn, const uint8_t* aad, size_t aad_len,
                       uint8_t* buf, size_t n)
    Py_ssize_t iroh_aead_open(Aead* a, uint32_t path_id, uint64_t pn, const uint8_t* aad,
                              size_t aad_len, uint8_t* buf, size_t n)
    HeaderKey* iroh_hp_new(int suite, const uint8_t* key, int which)
    void iroh_hp_free(HeaderKey* h)
    int iroh_hp_masks(HeaderKey* h, const uint8_t** samples, int n, uint8_t* masks)
    int iroh_keys_from_secret(int suite, const uint8_t* secret, size_t secret_len, int which,
                              Aead** aead, HeaderKey** hp)
    int iroh_next_secret(int suite, const uint8_t* secret, size_t secret_len, uint8_t* out)
    int iroh_initial_secrets(const uint8_t* dcid, size_t n, uint8_t* client, uint8_t* server)
    int iroh_retry_tag(const uint8_t* odcid, size_t odcid_len, const uint8_t* packet, size_t n,
                       uint8_t* tag16)
    int iroh_hmac_of(int suite, const uint8_t* key, size_t key_len, const uint8_t* data, size_t n, uint8_t* out)
    int iroh_hmac_sha256(const uint8_t* key, size_t key_len, const uint8_t* data, size_t n, uint8_t* out)
    EVP_MAC_CTX* iroh_hmac_new(int suite)
    int iroh_expand_label(EVP_MAC_CTX* ctx, size_t hash_len, const uint8_t* secret, size_t secret_len,
                          const char* label, size_t label_len, uint8_t* out, size_t out_len)
    void EVP_MAC_CTX_free(EVP_MAC_CTX* ctx)
    int CRYPTO_memcmp(const void* a, const void* b, size_t n)
    const char* OpenSSL_version(int what)
    int OPENSSL_VERSION


# Which backend new keys get: 0 the fastest present, 1 OpenSSL, 2 ipsec-mb. Set at import only.
cdef int _which = 0


# ---------------------------------------------------------------- C interface (see _crypto.pxd)
# Only native/crypto.h looks inside an Aead or a HeaderKey.

cdef Aead* aead_new(int suite, const uint8_t* key, const uint8_t* iv) noexcept nogil:
    return iroh_aead_new(suite, key, iv, _which)


cdef void aead_free(Aead* a) noexcept nogil:
    iroh_aead_free(a)


cdef int aead_prepare(Aead* a, bint sealing) noexcept nogil:
    return iroh_aead_ready(a, sealing)


# hot
cdef int aead_seal(Aead* a, uint32_t path_id, uint64_t pn, const uint8_t* aad, size_t aad_len,
                   uint8_t* buf, size_t n) noexcept nogil:
    return iroh_aead_seal(a, path_id, pn, aad, aad_len, buf, n)


# hot
cdef Py_ssize_t aead_open(Aead* a, uint32_t path_id, uint64_t pn, const uint8_t* aad, size_t aad_len,
                          uint8_t* buf, size_t n) noexcept nogil:
    return iroh_aead_open(a, path_id, pn, aad, aad_len, buf, n)


cdef HeaderKey* hp_new(int suite, const uint8_t* key) noexcept nogil:
    return iroh_hp_new(suite, key, _which)


cdef void hp_free(HeaderKey* h) noexcept nogil:
    iroh_hp_free(h)


# hot
cdef int hp_masks(HeaderKey* h, const uint8_t** samples, int n, uint8_t* masks) noexcept nogil:
    return iroh_hp_masks(h, samples, n, masks)


cdef int keys_from_secret(int suite, const uint8_t* secret, size_t secret_len, Aead** aead,
                          HeaderKey** hp) noexcept nogil:
    return iroh_keys_from_secret(suite, secret, secret_len, _which, aead,
                                 hp)


cdef int next_secret(int suite, const uint8_t* secret, size_t secret_len, uint8_t* out) noexcept nogil:
    return iroh_next_secret(suite, secret, secret_len, out)


cdef int initial_secrets(const uint8_t* dcid, size_t n, uint8_t* client, uint8_t* server) noexcept nogil:
    return iroh_initial_secrets(dcid, n, client, server)


cdef int retry_integrity_tag(const uint8_t* odcid, size_t odcid_len, const uint8_t* packet, size_t n,
                             uint8_t* tag16) noexcept nogil:
    return iroh_retry_tag(odcid, odcid_len, packet, n, tag16)


cdef int hmac_of(int suite, const uint8_t* key, size_t key_len, const uint8_t* data, size_t n,
                 uint8_t* out) noexcept nogil:
    if iroh_suite_index(suite) < 0:
        return -1
    return iroh_hmac_of(suite, key, key_len, data, n, out)


cdef int hmac_sha256(const uint8_t* key, size_t key_len, const uint8_t* data, size_t n,
                     uint8_t* out) noexcept nogil:
    return iroh_hmac_sha256(key, key_len, data, n, out)


cdef int constant_time_equal(const uint8_t* a, const uint8_t* b, size_t n) noexcept nogil:
    return CRYPTO_memcmp(a, b, n) == 0


# ---------------------------------------------------------------- Python side

cdef dict _SUITE_NAMES = {
    SUITE_AES128_GCM: "aes-128-gcm",
    SUITE_AES256_GCM: "aes-256-gcm",
    SUITE_CHACHA20_POLY1305: "chacha20-poly1305",
}
cdef dict _BACKENDS = {None: -1, "openssl": 1, "ipsec-mb": 2}
cdef dict _HASHES = {"sha256": SUITE_AES128_GCM, "sha384": SUITE_AES256_GCM}
cdef object _MAX_PN = (1 << 62) - 1


cdef uint8_t* _bytes_data(bytes b) noexcept:
    return <uint8_t*>PyBytes_AS_STRING(b)


cdef int _suite(object suite) except -1:
    cdef int s = suite
    if iroh_suite_index(s) < 0:
        raise ValueError(f"unknown cipher suite 0x{s:04x}")
    return s


@cython.final
cdef class PacketProtection:
    """Packet protection keys of one direction, derived from a traffic secret (RFC 9001 §5.1).

    Parameters
    ----------
    suite : int
        TLS cipher suite: 0x1301 AES-128-GCM, 0x1302 AES-256-GCM, 0x1303 ChaCha20-Poly1305.
    secret : bytes-like
        Traffic secret, 32 bytes (48 for 0x1302). Copied.
    backend : {None, "openssl", "ipsec-mb"}
        Force one implementation; None takes the one of the process.

    Raises
    ------
    ValueError
        Unknown suite or backend, or a secret of the wrong length.
    RuntimeError
        The backend cannot do this suite on this machine.

    Notes
    -----
    Thread: not to be used from two threads at once.
    """

    cdef Aead* aead
    cdef HeaderKey* hp
    cdef readonly int suite

    def __cinit__(self, suite, secret, *, backend=None):
        cdef View s = view_of(secret)
        cdef int which
        self.suite = _suite(suite)
        if backend not in _BACKENDS:
            raise ValueError(f"unknown crypto backend {backend!r}")
        which = _BACKENDS[backend]
        if which < 0:
            which = _which
        if s.size != iroh_hash_len(self.suite):
            raise ValueError(f"secret has {s.size} bytes, suite 0x{self.suite:04x} "
                             f"needs {iroh_hash_len(self.suite)}")
        if iroh_keys_from_secret(self.suite, s.data, s.size, which, &self.aead, &self.hp) != 0:
            raise RuntimeError(f"{backend or 'this process'} cannot do {_SUITE_NAMES[self.suite]}")

    def __dealloc__(self):
        iroh_aead_free(self.aead)
        iroh_hp_free(self.hp)

    @property
    def backend(self):
        """Name of the implementation in use: "openssl" or "ipsec-mb"."""
        return iroh_aead_backend(self.aead).decode()

    cdef object _check(self, path_id, pn):
        if not 0 <= path_id <= 0xFFFFFFFF:
            raise ValueError(f"path id {path_id} is not an unsigned 32-bit number")
        if not 0 <= pn <= _MAX_PN:
            raise ValueError(f"packet number {pn} is not in 0..2**62-1")

    def seal(self, path_id, pn, header, payload):
        """Encrypt `payload`, authenticate `header`.

        Parameters
        ----------
        path_id : int
            Multipath path id, 32 bits; 0 for plain RFC 9001 packets.
        pn : int
            Full packet number, 0..2**62-1.
        header : bytes-like
            Header before header protection is applied.
        payload : bytes-like

        Returns
        -------
        bytes
            Ciphertext and 16-byte tag, new.

        Raises
        ------
        ValueError
            `path_id` or `pn` out of range.
        MemoryError
            The library could not set up the cipher.
        """
        cdef View aad = view_of(header)
        cdef View data = view_of(payload)
        cdef bytes out
        self._check(path_id, pn)
        out = PyBytes_FromStringAndSize(NULL, data.size + TAG_LEN)
        if data.size:
            memcpy(_bytes_data(out), data.data, data.size)
        if iroh_aead_seal(self.aead, path_id, pn, aad.data, aad.size, _bytes_data(out), data.size) != 0:
            raise MemoryError("cannot set up the cipher")
        return out

    def open(self, path_id, pn, header, payload):
        """Check and decrypt `payload` (ciphertext and tag); arguments as for `seal`.

        Returns
        -------
        bytes
            Plaintext, new.

        Raises
        ------
        ValueError
            Authentication failed, the payload is shorter than a tag, or a number is out of range.
        MemoryError
            The library could not set up the cipher.
        """
        cdef View aad = view_of(header)
        cdef View data = view_of(payload)
        cdef bytes out
        self._check(path_id, pn)
        if data.size < TAG_LEN:
            raise ValueError("payload is shorter than the authentication tag")
        scratch = bytearray(data.size)
        cdef View work = view_of(scratch)
        memcpy(<uint8_t*>work.data, data.data, data.size)
        cdef Py_ssize_t n = iroh_aead_open(self.aead, path_id, pn, aad.data, aad.size, <uint8_t*>work.data, data.size)
        if n == AEAD_FAILED:
            raise MemoryError("cannot set up the cipher")
        if n < 0:
            raise ValueError("packet authentication failed")
        return PyBytes_FromStringAndSize(<char*>work.data, n)

    def header_mask(self, sample):
        """Return the 5-byte header protection mask of a 16-byte `sample` (RFC 9001 §5.4).

        Raises
        ------
        ValueError
            `sample` has not exactly 16 bytes.
        """
        return self.header_masks([sample])[0]

    def header_masks(self, samples):
        """Return the masks of up to 64 samples, computed in one call; see `header_mask`."""
        cdef uint8_t buf[64 * 16]
        cdef uint8_t out[64 * 16]
        cdef const uint8_t* ptr[64]
        cdef int i, n = 0
        cdef View v
        for sample in samples:
            v = view_of(sample)
            if v.size != HP_SAMPLE_LEN:
                raise ValueError(f"sample has {v.size} bytes, not {HP_SAMPLE_LEN}")
            if n == 64:
                raise ValueError("more than 64 samples")
            memcpy(&buf[16 * n], v.data, 16)
            ptr[n] = &buf[16 * n]
            n += 1
        if iroh_hp_masks(self.hp, ptr, n, out) != 0:
            raise MemoryError("cannot compute header protection masks")
        return [PyBytes_FromStringAndSize(<char*>&out[16 * i], 5) for i in range(n)]

    def seal_many(self, int count, int size, int header_size=11):
        """Seal `count` packets of `size` payload bytes in one buffer, as the data path would.

        For benchmarks: the cost per packet without any Python call. Returns `count`.
        """
        cdef uint8_t header[64]
        cdef uint8_t* buf
        cdef int i, rc = 0
        if count < 0 or not 0 <= size <= 65536 or not 0 <= header_size <= 64:
            raise ValueError("count, size or header_size out of range")
        buf = <uint8_t*>malloc(size + TAG_LEN)
        if buf == NULL:
            raise MemoryError
        memset(buf, 0, size + TAG_LEN)
        memset(header, 0, 64)
        with nogil:
            for i in range(count):
                rc |= aead_seal(self.aead, 0, i, header, header_size, buf, size)
        free(buf)
        if rc != 0:
            raise MemoryError("cannot set up the cipher")
        return count

    def open_many(self, int count, int size, int header_size=11):
        """Open one sealed packet `count` times, each time from a fresh copy; see `seal_many`.

        Raises
        ------
        ValueError
            A packet did not authenticate.
        """
        cdef uint8_t header[64]
        cdef uint8_t* buf
        cdef int i, good = 0
        if count < 0 or not 0 <= size <= 65536 or not 0 <= header_size <= 64:
            raise ValueError("count, size or header_size out of range")
        buf = <uint8_t*>malloc(2 * (size + TAG_LEN))
        if buf == NULL:
            raise MemoryError
        memset(buf, 0, 2 * (size + TAG_LEN))
        memset(header, 0, 64)
        cdef uint8_t* sealed = buf + size + TAG_LEN
        with nogil:
            if aead_seal(self.aead, 0, 7, header, header_size, sealed, size) == 0:
                for i in range(count):
                    memcpy(buf, sealed, size + TAG_LEN)
                    good += aead_open(self.aead, 0, 7, header, header_size, buf,
                                      size + TAG_LEN) == size
        free(buf)
        if good != count:
            raise ValueError(f"only {good} of {count} packets opened")
        return count

    def masks_many(self, int count, int batch):
        """Compute header protection masks `count` times for `batch` samples; for benchmarks."""
        cdef uint8_t sample[16]
        cdef uint8_t masks[64 * 16]
        cdef const uint8_t* ptr[64]
        cdef int i, rc = 0
        if count < 0 or not 1 <= batch <= 64:
            raise ValueError("count or batch out of range")
        memset(sample, 5, 16)
        for i in range(batch):
            ptr[i] = sample
        with nogil:
            for i in range(count):
                rc |= hp_masks(self.hp, ptr, batch, masks)
        if rc != 0:
            raise MemoryError("cannot compute header protection masks")
        return count


# The cdef functions above own the plain names inside this module, so the Python twins are
# defined under another name and exported below.

@cython.binding(True)  # gets another name below
@cython.embedsignature(False)
def _py_hkdf_expand_label(suite_or_hash, secret, bytes label, int length):
    """HKDF-Expand-Label with an empty context (RFC 8446 §7.1).

    Parameters
    ----------
    suite_or_hash : int or {"sha256", "sha384"}
        A TLS cipher suite or the name of its hash.
    secret : bytes-like
        Any length; usually one hash.
    label : bytes
        Without the "tls13 " prefix, at most 249 bytes.
    length : int
        Bytes wanted, 0 to 255 times the length of the hash.

    Raises
    ------
    ValueError
        Unknown suite or hash, label or length out of range.
    """
    cdef View s = view_of(secret)
    cdef int suite
    cdef size_t hash_len
    cdef EVP_MAC_CTX* ctx
    cdef bytes out
    cdef int rc
    if isinstance(suite_or_hash, str):
        if suite_or_hash not in _HASHES:
            raise ValueError(f"unknown hash {suite_or_hash!r}")
        suite = _HASHES[suite_or_hash]
    else:
        suite = _suite(suite_or_hash)
    hash_len = iroh_hash_len(suite)
    if len(label) > 249:
        raise ValueError("label is longer than 249 bytes")
    if length < 0 or <size_t>length > 255 * hash_len:
        raise ValueError(f"length {length} is not in 0..{255 * hash_len}")
    out = PyBytes_FromStringAndSize(NULL, length)
    ctx = iroh_hmac_new(suite)
    if ctx == NULL:
        raise MemoryError
    rc = iroh_expand_label(ctx, hash_len, s.data, s.size, PyBytes_AS_STRING(label), len(label),
                           _bytes_data(out), length)
    EVP_MAC_CTX_free(ctx)
    if rc != 0:
        raise RuntimeError("OpenSSL refused to compute HMAC")
    return out


@cython.binding(True)  # gets another name below
@cython.embedsignature(False)
def _py_initial_secrets(dcid):
    """Return the (client, server) Initial secrets of a QUIC v1 connection (RFC 9001 §5.2).

    Parameters
    ----------
    dcid : bytes-like
        Destination connection id of the client's first Initial, or of a Retry's source.
    """
    cdef View d = view_of(dcid)
    cdef bytes client = PyBytes_FromStringAndSize(NULL, 32)
    cdef bytes server = PyBytes_FromStringAndSize(NULL, 32)
    if initial_secrets(d.data, d.size, _bytes_data(client), _bytes_data(server)) != 0:
        raise RuntimeError("OpenSSL refused to compute HMAC")
    return client, server


@cython.binding(True)  # gets another name below
@cython.embedsignature(False)
def _py_next_secret(suite, secret):
    """Return the traffic secret after a key update, "quic ku" (RFC 9001 §6.1).

    Raises
    ------
    ValueError
        Unknown suite, or a secret of another length than its hash.
    """
    cdef View s = view_of(secret)
    cdef int su = _suite(suite)
    cdef bytes out
    if s.size != iroh_hash_len(su):
        raise ValueError(f"secret has {s.size} bytes, suite 0x{su:04x} needs {iroh_hash_len(su)}")
    out = PyBytes_FromStringAndSize(NULL, s.size)
    if next_secret(su, s.data, s.size, _bytes_data(out)) != 0:
        raise RuntimeError("OpenSSL refused to compute HMAC")
    return out


@cython.binding(True)  # gets another name below
@cython.embedsignature(False)
def _py_retry_integrity_tag(odcid, packet):
    """Return the 16-byte integrity tag of a QUIC v1 Retry packet (RFC 9001 §5.8).

    Parameters
    ----------
    odcid : bytes-like
        Destination connection id of the Initial being answered, at most 20 bytes.
    packet : bytes-like
        The Retry packet without its tag.

    Raises
    ------
    ValueError
        `odcid` is longer than 20 bytes.
    """
    cdef View o = view_of(odcid)
    cdef View p = view_of(packet)
    cdef bytes out
    if o.size > 20:
        raise ValueError(f"connection id has {o.size} bytes, more than 20")
    out = PyBytes_FromStringAndSize(NULL, TAG_LEN)
    if retry_integrity_tag(o.data, o.size, p.data, p.size, _bytes_data(out)) != 0:
        raise RuntimeError("OpenSSL refused to compute AES-128-GCM")
    return out


@cython.binding(True)  # gets another name below
@cython.embedsignature(False)
def _py_hmac_sha256(key, data):
    """Return HMAC-SHA256 of `data` under `key`, 32 bytes (RFC 2104)."""
    cdef View k = view_of(key)
    cdef View d = view_of(data)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, 32)
    if hmac_sha256(k.data, k.size, d.data, d.size, _bytes_data(out)) != 0:
        raise RuntimeError("OpenSSL refused to compute HMAC")
    return out


@cython.binding(True)  # gets another name below
@cython.embedsignature(False)
def _py_constant_time_equal(a, b):
    """Compare two bytes-like objects in time that depends on their lengths only."""
    cdef View x = view_of(a)
    cdef View y = view_of(b)
    return x.size == y.size and bool(constant_time_equal(x.data, y.data, x.size))


def derive_many(int count, suite):
    """Run `keys_from_secret` (AEAD and header protection key) `count` times; for benchmarks."""
    cdef uint8_t secret[48]
    cdef int i, su = _suite(suite), rc = 0
    cdef Aead* a
    cdef HeaderKey* h
    memset(secret, 3, 48)
    with nogil:
        for i in range(count):
            rc |= keys_from_secret(su, secret, iroh_hash_len(su), &a, &h)
            aead_free(a)
            hp_free(h)
    if rc != 0:
        raise RuntimeError(f"cannot derive keys for {_SUITE_NAMES[su]}")
    return count


def backend():
    """Tell which implementation serves each suite, and the library versions.

    Returns
    -------
    dict
        ``suites``: suite name to "openssl", "ipsec-mb" or None (not available).
        ``libraries``: library to version text; ipsec-mb is None when it was not built in.
        ``available``: names that ``IROH_FAST_CRYPTO`` may take on this machine.
    """
    cdef const iroh_backend* b
    cdef const char* mb = iroh_ipsec_mb_version()
    suites = {}
    for suite, name in _SUITE_NAMES.items():
        b = iroh_backend_for(suite, _which)
        suites[name] = None if b == NULL else b.name.decode()
    return {
        "suites": suites,
        "libraries": {
            "openssl": OpenSSL_version(OPENSSL_VERSION).decode(),
            "openssl_headers": (<bytes>OPENSSL_VERSION_TEXT).decode(),
            "ipsec-mb": None if mb == NULL else mb.decode(),
        },
        "available": ["openssl", "ipsec-mb"] if iroh_has_ipsec_mb() else ["openssl"],
    }


def build_switches():
    """Tell how the extensions were compiled.

    Returns
    -------
    dict
        ``compiler``, ``flags``, ``sanitize`` (str); ``debug``, ``trace``, ``ipsec_mb`` (bool).
    """
    return {
        "compiler": (<bytes>IROH_COMPILER).decode(),
        "flags": (<bytes>IROH_FAST_BUILD_FLAGS).decode(),
        "sanitize": (<bytes>IROH_FAST_BUILD_SANITIZE).decode(),
        "debug": bool(IROH_FAST_BUILD_DEBUG),
        "trace": bool(IROH_FAST_BUILD_TRACE),
        "ipsec_mb": bool(IROH_BUILD_IPSEC_MB),
    }


cdef object _set_up():
    global _which
    forced = os.environ.get("IROH_FAST_CRYPTO", "")
    if iroh_crypto_init() != 0:
        raise ImportError("OpenSSL offers no AES-128-GCM or no HMAC-SHA-2; check its provider configuration")
    if forced == "":
        return
    if forced not in ("openssl", "ipsec-mb"):
        raise ImportError(f"IROH_FAST_CRYPTO={forced!r}: must be 'openssl' or 'ipsec-mb'")
    if forced == "ipsec-mb":
        # ChaCha20-Poly1305 stays with OpenSSL, so the choice is "not OpenSSL where possible"
        if not iroh_has_ipsec_mb():
            raise ImportError("IROH_FAST_CRYPTO=ipsec-mb: not built in, or this CPU lacks AES-NI")
    else:
        _which = 1


_set_up()

for _function in (_py_hkdf_expand_label, _py_initial_secrets, _py_next_secret,
                  _py_retry_integrity_tag, _py_hmac_sha256, _py_constant_time_equal):
    _function.__name__ = _function.__qualname__ = _function.__name__.removeprefix("_py_")
    globals()[_function.__name__] = _function
    del globals()["_py_" + _function.__name__]
del _function
