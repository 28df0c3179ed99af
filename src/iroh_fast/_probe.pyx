"""STUN messages (RFC 8489): read strictly, written as far as a client of Binding needs.

Nothing of a message is believed beyond its bounds: a message is rejected as a whole when any part of it is wrong, and what it
makes us keep is bounded by its size, of which there is a limit.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from binascii import crc32

from iroh_fast.errors import StunDecodeError

cdef enum:
    BINDING = 1
    MAPPED_ADDRESS = 0x0001
    USERNAME = 0x0006
    MESSAGE_INTEGRITY = 0x0008
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    REALM = 0x0014
    NONCE = 0x0015
    MESSAGE_INTEGRITY_SHA256 = 0x001C
    PASSWORD_ALGORITHM = 0x001D
    USERHASH = 0x001E
    XOR_MAPPED_ADDRESS = 0x0020
    ICE_PRIORITY = 0x0024
    ICE_USE_CANDIDATE = 0x0025
    SOFTWARE = 0x8022
    ALTERNATE_SERVER = 0x8023
    FINGERPRINT = 0x8028
    FINGERPRINT_SIZE = 8
    ID_SIZE = 12
    MAX_SOFTWARE = 763            # bytes of the attribute's text

cdef uint32_t FINGERPRINT_XOR = 0x5354554E
cdef uint8_t[4] COOKIE = [0x21, 0x12, 0xA4, 0x42]
KINDS = ("request", "indication", "success", "error")


def classify(uint8_t first):
    """What a datagram is by its first byte, on a socket that QUIC shares with others (RFC 9443).

    Returns
    -------
    str
        ``"stun"``, ``"zrtp"``, ``"dtls"``, ``"rtp"``, ``"quic"`` or ``"drop"``. Channels of TURN share
        bytes with QUIC, which they are here: nobody uses a TURN server.
    """
    if first & 0x40:
        return "quic"
    if first & 0x80:
        return "rtp"
    if first < 4:
        return "stun"
    if first < 16:
        return "drop"
    return "zrtp" if first < 20 else "dtls"


cdef inline uint16_t u16(const uint8_t* p) noexcept nogil:
    return <uint16_t>(p[0] << 8 | p[1])


cdef inline uint32_t u32(const uint8_t* p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef inline void put_u16(uint8_t* p, uint16_t value) noexcept nogil:
    p[0] = value >> 8
    p[1] = value & 0xFF


cdef inline void put_u32(uint8_t* p, uint32_t value) noexcept nogil:
    put_u16(p, value >> 16)
    put_u16(p + 2, value & 0xFFFF)


cdef inline bint understood(uint16_t type) noexcept nogil:
    """Whether a type that a receiver has to understand is one of those that we do."""
    return type in (
        MAPPED_ADDRESS, USERNAME, MESSAGE_INTEGRITY, ERROR_CODE, UNKNOWN_ATTRIBUTES, REALM, NONCE,
        MESSAGE_INTEGRITY_SHA256, PASSWORD_ALGORITHM, USERHASH, XOR_MAPPED_ADDRESS, ICE_PRIORITY,
        ICE_USE_CANDIDATE,
    )


@cython.final
cdef class Message:
    """A STUN message that was checked as a whole."""

    cdef readonly bytes data
    cdef readonly int method
    cdef readonly str kind
    cdef readonly list attributes     # (type, offset of the header, value)
    cdef readonly bint fingerprint    # has one, which is right

    @property
    def transaction(self):
        """The 12 bytes that a response repeats."""
        return self.data[8:20]

    @property
    def unknown(self):
        """Types that a receiver has to understand, and we do not: such a response counts for nothing."""
        return [type for type, _, _ in self.attributes if type < 0x8000 and not understood(type)]

    def get(self, int type):
        """The value of the first attribute of a type, or None."""
        for found, _, value in self.attributes:
            if found == type:
                return value
        return None

    @property
    def mapped(self):
        """Our address as the server sees it, ``(packed ip, port)``; None when it does not tell."""
        value = self.get(XOR_MAPPED_ADDRESS)
        if value is not None:
            return self._address(value, True)
        value = self.get(MAPPED_ADDRESS)
        return None if value is None else self._address(value, False)

    @property
    def alternate(self):
        """The server to ask instead, ``(packed ip, port)``, or None."""
        value = self.get(ALTERNATE_SERVER)
        return None if value is None else self._address(value, False)

    @property
    def error(self):
        """Code and reason of an error response; None without them."""
        value = self.get(ERROR_CODE)
        return None if value is None else ((value[2] & 7) * 100 + value[3], value[4:].decode("utf-8", "replace"))

    def _address(self, bytes value, bint masked):
        cdef bytes ip = value[4:]
        cdef int port = value[2] << 8 | value[3]
        if masked:
            port ^= 0x2112
            # Cookie and transaction stand behind each other, long enough for IPv6.
            ip = bytes([a ^ b for a, b in zip(ip, self.data[4:20])])
        return ip, port

    def check_integrity(self, bytes key not None):
        """Whether the message was signed with a key.

        Parameters
        ----------
        key : of short-term credentials the password; of long-term ones
            ``MD5(user ":" realm ":" password)``.

        Returns
        -------
        bool or None
            None when it has no signature.
        """
        from hmac import compare_digest, digest

        for type, offset, value in self.attributes:
            if type == MESSAGE_INTEGRITY or type == MESSAGE_INTEGRITY_SHA256:
                # The size in the header counts this attribute, and nothing behind it.
                size = offset - STUN_HEADER + 4 + len(value)
                signed = self.data[:2] + size.to_bytes(2, "big") + self.data[4:offset]
                right = digest(key, signed, "sha1" if type == MESSAGE_INTEGRITY else "sha256")
                return compare_digest(value, right[:len(value)])
        return None


cdef inline object wrong(str why):
    return StunDecodeError(f"not a STUN message: {why}")


def parse(bytes data not None):
    """Read a message.

    Raises
    ------
    StunDecodeError : it is none, or any part of it is wrong: sizes, families, a fingerprint.
    """
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef size_t n = <size_t>PyBytes_GET_SIZE(data), at = STUN_HEADER, size
    cdef uint16_t type
    cdef Message message
    if not STUN_HEADER <= n <= STUN_MAX or p[0] & 0xC0 or memcmp(p + 4, COOKIE, 4) != 0:
        raise wrong("header")
    if <size_t>u16(p + 2) != n - STUN_HEADER or n % 4:
        raise wrong("size")
    type = u16(p)
    message = Message.__new__(Message)
    message.data = data
    message.method = (type & 0x3E00) >> 2 | (type & 0xE0) >> 1 | (type & 0xF)
    message.kind = KINDS[(type & 0x100) >> 7 | (type & 0x10) >> 4]
    message.attributes = []
    while at < n:
        # Sizes are multiples of 4: there are at least 4 bytes.
        type = u16(p + at)
        size = u16(p + at + 2)
        if size > n - at - 4:
            raise wrong("an attribute goes beyond the end")
        if type == FINGERPRINT:
            check_fingerprint(data, at, size)
            message.fingerprint = True
        check_value(type, p + at + 4, size)
        message.attributes.append((type, at, PyBytes_FromStringAndSize(<const char*>p + at + 4, <Py_ssize_t>size)))
        at += 4 + (size + 3 & ~<size_t>3)
    return message


cdef int check_fingerprint(bytes data, size_t at, size_t size) except -1:
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(data)
    if size != 4 or at + FINGERPRINT_SIZE != <size_t>PyBytes_GET_SIZE(data):
        raise wrong("a fingerprint that is not at the end")
    if u32(p + at + 4) != <uint32_t>(crc32(data[:at]) ^ FINGERPRINT_XOR):
        raise wrong("fingerprint")
    return 0


cdef int check_value(uint16_t type, const uint8_t* value, size_t size) except -1:
    """The values that are looked into have to have their form, whether they are asked for or not."""
    if type in (MAPPED_ADDRESS, XOR_MAPPED_ADDRESS, ALTERNATE_SERVER):
        if size < 8 or not (value[1] == 1 and size == 8 or value[1] == 2 and size == 20):
            raise wrong("an address of no family")
    elif type == ERROR_CODE:
        if size < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
            raise wrong("an error without a code")
    elif type == MESSAGE_INTEGRITY:
        if size != 20:
            raise wrong("a signature of another size")
    elif type == MESSAGE_INTEGRITY_SHA256:
        if not 16 <= size <= 32 or size % 4:
            raise wrong("a signature of another size")
    return 0


def encode_binding_request(bytes transaction not None, *, bytes software=None, bint fingerprint=True):
    """A question for our own address.

    Parameters
    ----------
    transaction : 12 random bytes.
    software : what we are, to tell the server.
    """
    cdef uint8_t space[STUN_HEADER + 4 + MAX_SOFTWARE + 1 + FINGERPRINT_SIZE]
    cdef size_t n = STUN_HEADER, size
    cdef bytes data
    if PyBytes_GET_SIZE(transaction) != ID_SIZE:
        raise ValueError(f"a transaction has {ID_SIZE} bytes, not {len(transaction)}")
    put_u16(space, BINDING)
    memcpy(space + 4, COOKIE, 4)
    memcpy(space + 8, PyBytes_AS_STRING(transaction), ID_SIZE)
    if software is not None:
        size = <size_t>PyBytes_GET_SIZE(software)
        if size > MAX_SOFTWARE:
            raise ValueError(f"software has at most {MAX_SOFTWARE} bytes, not {size}")
        put_u16(space + n, SOFTWARE)
        put_u16(space + n + 2, <uint16_t>size)
        memcpy(space + n + 4, PyBytes_AS_STRING(software), size)
        n += 4 + size
        while n % 4:
            space[n] = 0
            n += 1
    put_u16(space + 2, <uint16_t>(n - STUN_HEADER + (FINGERPRINT_SIZE if fingerprint else 0)))
    if fingerprint:
        data = PyBytes_FromStringAndSize(<const char*>space, <Py_ssize_t>n)
        put_u16(space + n, FINGERPRINT)
        put_u16(space + n + 2, 4)
        put_u32(space + n + 4, <uint32_t>(crc32(data) ^ FINGERPRINT_XOR))
        n += FINGERPRINT_SIZE
    return PyBytes_FromStringAndSize(<const char*>space, <Py_ssize_t>n)
