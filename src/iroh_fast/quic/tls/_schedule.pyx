"""Key schedule of TLS 1.3 (RFC 8446 §7.1) on the HMAC of OpenSSL."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from iroh_fast._crypto cimport constant_time_equal, hmac_of

import hashlib

cdef enum:
    MAX_HASH = 48
    MAX_LABEL = 249
    MAX_CONTEXT = 255

AES_128_GCM_SHA256 = 0x1301
AES_256_GCM_SHA384 = 0x1302
CHACHA20_POLY1305_SHA256 = 0x1303


cdef class Kdf:
    """Everything that depends only on the hash of a cipher suite.

    Attributes
    ----------
    name : str
        Of the hash, as in hashlib.
    new : callable
        Makes a hash object of hashlib.
    size : int
        Of the hash and of every secret, in bytes.
    zeros, empty_hash : bytes
        `size` zero bytes; the hash of nothing.
    early_derived : bytes
        Salt of the handshake secret without a PSK: a constant.
    """

    cdef int suite
    cdef readonly str name
    cdef readonly object new
    cdef object template
    cdef readonly int size
    cdef readonly bytes zeros, empty_hash, early_derived

    def __init__(self, str name, int suite):
        self.suite = suite
        self.name = name
        self.new = getattr(hashlib, name)
        self.template = self.new()
        self.empty_hash = self.new(b"").digest()
        self.size = <int>len(self.empty_hash)
        self.zeros = bytes(self.size)
        self.early_derived = self.derive(self.extract(self.zeros, self.zeros), b"derived", self.empty_hash)

    cdef int hmac(self, bytes key, const uint8_t* data, size_t n, uint8_t* out) except -1:
        if hmac_of(self.suite, <const uint8_t*>PyBytes_AS_STRING(key), <size_t>PyBytes_GET_SIZE(key), data, n, out) != 0:
            raise RuntimeError("OpenSSL refused to compute HMAC")
        return 0

    def transcript(self, bytes data):
        """A hash object that has taken `data`; cheaper than `new`."""
        started = self.template.copy()
        started.update(data)
        return started

    cpdef bytes extract(self, bytes salt, bytes key):
        """HKDF-Extract (RFC 5869)."""
        cdef uint8_t out[MAX_HASH]
        self.hmac(salt, <const uint8_t*>PyBytes_AS_STRING(key), <size_t>PyBytes_GET_SIZE(key), out)
        return PyBytes_FromStringAndSize(<char*>out, self.size)

    cpdef bytes derive(self, bytes secret, bytes label, bytes context):
        """HKDF-Expand-Label to one hash length."""
        return self.expand_label(secret, label, context, self.size)

    cpdef bytes expand_label(self, bytes secret, bytes label, bytes context, int length):
        """HKDF-Expand-Label with any label and length (RFC 8446 §7.1).

        Raises
        ------
        ValueError
            The label has more than 249 bytes, the context more than 255, or `length` is not in
            1 … 255 hash lengths.
        """
        cdef uint8_t message[MAX_HASH + 2 + 1 + 255 + 1 + MAX_CONTEXT + 1]    # previous block, info, counter
        cdef uint8_t block[MAX_HASH]
        cdef uint8_t* info = message + MAX_HASH
        cdef uint8_t* at = info
        cdef size_t label_size = <size_t>PyBytes_GET_SIZE(label), context_size = <size_t>PyBytes_GET_SIZE(context)
        cdef size_t n
        cdef int done = 0, take, counter = 0
        cdef bytes out
        if label_size > MAX_LABEL or context_size > MAX_CONTEXT or not 1 <= length <= 255 * self.size:
            raise ValueError("label, context or length out of range")
        at[0] = <uint8_t>(length >> 8)
        at[1] = <uint8_t>length
        at[2] = <uint8_t>(6 + label_size)
        memcpy(at + 3, b"tls13 ", 6)
        memcpy(at + 9, PyBytes_AS_STRING(label), label_size)
        at += 9 + label_size
        at[0] = <uint8_t>context_size
        memcpy(at + 1, PyBytes_AS_STRING(context), context_size)
        at += 1 + context_size
        n = <size_t>(at + 1 - info)
        out = PyBytes_FromStringAndSize(NULL, length)
        while done < length:
            counter += 1
            at[0] = <uint8_t>counter
            if counter == 1:
                self.hmac(secret, info, n, block)
            else:
                memcpy(info - self.size, block, self.size)
                self.hmac(secret, info - self.size, n + self.size, block)
            take = length - done if length - done < self.size else self.size
            memcpy(<uint8_t*>PyBytes_AS_STRING(out) + done, block, take)
            done += take
        memset(block, 0, MAX_HASH)
        return out

    cpdef bytes finished(self, bytes traffic_secret, bytes transcript_hash):
        """The verify_data of a Finished, and a PSK binder (RFC 8446 §4.4.4)."""
        return self.extract(self.derive(traffic_secret, b"finished", b""), transcript_hash)


SHA256 = Kdf("sha256", 0x1301)
SHA384 = Kdf("sha384", 0x1302)
KDF = {
    AES_128_GCM_SHA256: SHA256,
    AES_256_GCM_SHA384: SHA384,
    CHACHA20_POLY1305_SHA256: SHA256,
}


def equal(bytes a, bytes b):
    """Compare in time that depends on the lengths only."""
    return PyBytes_GET_SIZE(a) == PyBytes_GET_SIZE(b) and constant_time_equal(
        <const uint8_t*>PyBytes_AS_STRING(a), <const uint8_t*>PyBytes_AS_STRING(b), <size_t>PyBytes_GET_SIZE(a)) != 0
