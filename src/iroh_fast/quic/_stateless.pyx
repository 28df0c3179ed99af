"""Datagrams that an endpoint sends without a connection: version lists, Retry, refusals, stateless resets.

None is larger than the datagram it answers. Sources: RFC 9000 §6, §8.1.2, §10.3, §17.2.1, §17.2.5, RFC 8999 §6.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t

from iroh_fast._crypto cimport (
    Aead, HeaderKey, aead_free, aead_seal, hp_free, hp_masks, initial_secrets, keys_from_secret, retry_integrity_tag,
    SUITE_AES128_GCM)
from iroh_fast._packet._headers cimport LongHeader
from iroh_fast._packet._put cimport put_close
from iroh_fast.quic._random cimport RandomSource

cdef enum:
    TAG = 16
    RESET_SHORT = 43              # an answer to at most this is one byte shorter (RFC 9000 §10.3)
    RESET_LEAST = 42              # answers to longer ones have this and a few random bytes
    RESET_SPREAD = 58
    CLOSE_ROOM = 64               # code, frame type and reason length


cdef bytes version_negotiation(const LongHeader* header, RandomSource random):
    """The versions we know, and a reserved one like iroh's. The bits that have no meaning are random."""
    cdef bytes dcid = PyBytes_FromStringAndSize(<char*>header.dcid, header.dcid_len)
    cdef bytes scid = PyBytes_FromStringAndSize(<char*>header.scid, header.scid_len)
    cdef int unused = <int>(random.word() & 0x3f)
    reserved = b"\x0a\x1a\x2a\x4a" if header.version == 0x0a1a2a3a else b"\x0a\x1a\x2a\x3a"
    return (bytes([0xc0 | unused, 0, 0, 0, 0, len(scid)]) + scid + bytes([len(dcid)]) + dcid + reserved
            + b"\x00\x00\x00\x01")


cdef bytes retry_packet(bytes dcid, bytes client_id, bytes scid, bytes token):
    """`dcid`: what the client's Initial was addressed to, `scid`: what the next one shall be addressed to."""
    cdef uint8_t tag[16]
    cdef bytes packet = (b"\xf0\x00\x00\x00\x01" + bytes([len(client_id)]) + client_id + bytes([len(scid)]) + scid
                         + token)
    if retry_integrity_tag(<const uint8_t*>PyBytes_AS_STRING(dcid), len(dcid),
                           <const uint8_t*>PyBytes_AS_STRING(packet), len(packet), tag) < 0:
        raise MemoryError
    return packet + PyBytes_FromStringAndSize(<char*>tag, TAG)


cdef bytes initial_close(bytes dcid, bytes client_id, uint64_t code, bytes reason):
    """A server's Initial that carries nothing but CONNECTION_CLOSE."""
    cdef uint8_t client[32]
    cdef uint8_t server[32]
    cdef Aead* key = NULL
    cdef HeaderKey* header_key = NULL
    cdef bytearray out
    cdef uint8_t* start
    cdef uint8_t* payload
    cdef const uint8_t* sample
    cdef uint8_t mask[16]
    cdef size_t n, header
    cdef bint sealed = False
    # Our own id does not matter: nothing will ever be sent to it.
    out = bytearray(b"\xc0\x00\x00\x00\x01" + bytes([len(client_id)]) + client_id + bytes([len(dcid)]) + dcid
                    + b"\x00\x40\x00\x00")
    header = len(out)
    out += bytes(CLOSE_ROOM + len(reason) + TAG)
    start = <uint8_t*><char*>out
    payload = start + header
    n = <size_t>(put_close(payload, False, code, 0, <const uint8_t*>PyBytes_AS_STRING(reason), len(reason)) - payload)
    if n < 8:
        n = 8
    start[header - 3] = <uint8_t>(0x40 | ((1 + n + TAG) >> 8))
    start[header - 2] = <uint8_t>(1 + n + TAG)
    if (initial_secrets(<const uint8_t*>PyBytes_AS_STRING(dcid), len(dcid), client, server) == 0
            and keys_from_secret(SUITE_AES128_GCM, server, 32, &key, &header_key) == 0
            and aead_seal(key, 0, 0, start, header, payload, n) == 0):
        sample = start + header - 1 + 4
        sealed = hp_masks(header_key, &sample, 1, mask) == 0
    aead_free(key)
    hp_free(header_key)
    if not sealed:
        raise MemoryError
    start[0] ^= mask[0] & 0x0f
    start[header - 1] ^= mask[1]
    return bytes(out[:header + n + TAG])


cdef bytes stateless_reset(size_t trigger, const uint8_t* token16, RandomSource random):
    """An answer to a datagram of `trigger` bytes; always shorter, so that two endpoints cannot play ping-pong."""
    cdef size_t size = trigger - 1
    cdef bytearray out
    cdef uint8_t* start
    if trigger > RESET_SHORT:
        size = RESET_LEAST + <size_t>(random.word() % RESET_SPREAD)
        if size >= trigger:
            size = trigger - 1
    out = bytearray(size - TAG)
    start = <uint8_t*><char*>out
    random.fill(start, size - TAG)
    start[0] = 0x40 | (start[0] & 0x3f)
    return bytes(out) + PyBytes_FromStringAndSize(<char*>token16, TAG)
