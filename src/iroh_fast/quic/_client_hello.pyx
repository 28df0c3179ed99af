"""What the first datagrams of a client say, before there is a connection.

Initial packets are protected with keys that anybody knows (RFC 9001 §5.2): nothing here is authenticated, and all work
has a bound.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from iroh_fast._crypto cimport (
    Aead, HeaderKey, aead_free, aead_open, hp_free, hp_masks, initial_secrets, keys_from_secret, SUITE_AES128_GCM)
from iroh_fast._packet._frames cimport FT_CRYPTO, Frame, decode_frame
from iroh_fast._packet._headers cimport LongHeader, parse_long_header

cdef enum:
    PEEK_PACKETS = 32             # Initial packets that are looked at
    MAX_HELLO = 16384             # as much as a handshake takes (crypto_buffer_size)
    SAMPLE_ROOM = 4 + 16          # bytes from the packet number on that header protection needs


cdef struct ClientKeys:
    Aead* key
    HeaderKey* header_key


cdef int client_keys(const uint8_t* dcid, size_t n, ClientKeys* keys) noexcept nogil:
    """Keys of the Initials of a client that chose this id. -1 when they cannot be made."""
    cdef uint8_t client[32]
    cdef uint8_t server[32]
    keys.key = NULL
    keys.header_key = NULL
    if initial_secrets(dcid, n, client, server) < 0:
        return -1
    return keys_from_secret(SUITE_AES128_GCM, client, 32, &keys.key, &keys.header_key)


cdef void drop_keys(ClientKeys* keys) noexcept nogil:
    aead_free(keys.key)
    hp_free(keys.header_key)


cdef Py_ssize_t open_initial(ClientKeys* keys, uint8_t* data, const LongHeader* header, size_t* at) noexcept nogil:
    """Decrypt a client Initial in place. Size of its payload, which starts at `at`, or -1."""
    cdef const uint8_t* sample
    cdef uint8_t mask[16]
    cdef uint64_t pn = 0
    cdef int pn_len, i
    cdef Py_ssize_t size
    if header.packet_len < header.pn_offset + SAMPLE_ROOM:
        return -1
    sample = data + header.pn_offset + 4
    if hp_masks(keys.header_key, &sample, 1, mask) != 0:
        return -1
    data[0] ^= mask[0] & 0x0f
    pn_len = (data[0] & 3) + 1
    for i in range(pn_len):
        data[header.pn_offset + i] ^= mask[1 + i]
        pn = (pn << 8) | data[header.pn_offset + i]
    at[0] = header.pn_offset + pn_len
    size = aead_open(keys.key, 0, pn, data, at[0], data + at[0], header.packet_len - at[0])
    return -1 if data[0] & 0x0c else size


cdef bint opens_as_initial(const uint8_t* data, size_t n):
    """Whether a datagram starts with an Initial that authenticates."""
    cdef bytearray copy = bytearray(PyBytes_FromStringAndSize(<char*>data, n))
    cdef LongHeader header
    cdef ClientKeys keys
    cdef size_t at
    cdef bint opened
    if parse_long_header(<uint8_t*><char*>copy, n, &header) < 0 or header.type != 0:
        return False
    opened = (client_keys(header.dcid, header.dcid_len, &keys) == 0
              and open_initial(&keys, <uint8_t*><char*>copy, &header, &at) >= 0)
    drop_keys(&keys)
    return opened


cdef int collect(const uint8_t* at, size_t n, uint8_t* hello, uint8_t* seen) noexcept nogil:
    """Put the CRYPTO data of a payload in its place. -1 when there is more than a handshake takes."""
    cdef const uint8_t* end = at + n
    cdef Frame frame
    cdef int err = 0
    while at != NULL and at < end:
        at = decode_frame(at, end, &frame, &err)
        if at != NULL and frame.type == FT_CRYPTO:
            if frame.len > MAX_HELLO or frame.offset > MAX_HELLO - frame.len:
                return -1
            memcpy(hello + frame.offset, frame.data, frame.len)
            memset(seen + frame.offset, 1, frame.len)
    return 0


def peek_alpns(bytes dcid, list datagrams):
    """ALPN offers in the ClientHello of some Initial datagrams; [] when incomplete or unreadable.

    Cost: at most 32 packets are decrypted and 16 KiB assembled.
    """
    cdef bytearray hello = bytearray(MAX_HELLO), seen = bytearray(MAX_HELLO), copy
    cdef LongHeader header
    cdef ClientKeys keys
    cdef size_t at
    cdef Py_ssize_t size
    cdef int left = PEEK_PACKETS
    offer = []
    if client_keys(<const uint8_t*>PyBytes_AS_STRING(dcid), PyBytes_GET_SIZE(dcid), &keys) == 0:
        for data in datagrams:
            if left == 0:
                break
            if not data[0] & 0x80 or data[0] & 0x30:
                continue          # 0-RTT, for example
            left -= 1
            copy = bytearray(data)
            if parse_long_header(<uint8_t*><char*>copy, len(copy), &header) < 0 or header.type != 0:
                continue
            size = open_initial(&keys, <uint8_t*><char*>copy, &header, &at)
            if size < 0:
                continue
            if collect(<uint8_t*><char*>copy + at, <size_t>size, <uint8_t*><char*>hello, <uint8_t*><char*>seen) < 0:
                break
            offer = client_hello_alpns(bytes(hello[:seen.find(0)]))
            if offer:
                break
    drop_keys(&keys)
    return offer


def client_hello_alpns(bytes message):
    """The protocol list of a TLS ClientHello message (RFC 8446 §4.1.2, RFC 7301); [] unless complete and well-formed."""
    try:
        if message[0] != 1 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
            return []
        at = 4 + 2 + 32           # header, version, random
        at += 1 + message[at]     # session id
        at += 2 + int.from_bytes(message[at:at + 2], "big")   # cipher suites
        at += 1 + message[at]     # compression methods
        end = at + 2 + int.from_bytes(message[at:at + 2], "big")
        at += 2
        while at + 4 <= end:
            kind = int.from_bytes(message[at:at + 2], "big")
            size = int.from_bytes(message[at + 2:at + 4], "big")
            at += 4
            if kind == 16:
                return protocol_names(message[at + 2:at + size])
            at += size
    except IndexError:
        pass
    return []


cdef list protocol_names(bytes body):
    cdef Py_ssize_t at = 0, n
    names = []
    while at < len(body):
        n = body[at]
        if n == 0 or at + 1 + n > len(body):
            return []
        names.append(body[at + 1:at + 1 + n])
        at += 1 + n
    return names
