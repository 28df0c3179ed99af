"""Packet headers (RFC 9000 §17, RFC 8999)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from iroh_fast._packet._varint cimport MAX_CID, get_varint

cdef enum:
    RETRY_TAG = 16                # RFC 9001 §5.8


cdef int parse_long_header(const uint8_t* p, size_t n, LongHeader* h) noexcept nogil:
    """Parse the unprotected part of a long header (RFC 9000 §17.2, RFC 8999 §5.1).

    `p[0:n]` is the rest of the datagram. All pointers in `h` borrow from it. For
    Initial, 0-RTT and Handshake `pn_offset + rest == packet_len <= n`; whether there is
    enough for a header protection sample is for the caller to check. For Retry
    `pn_offset` is where the integrity tag starts, and for version -1 it is where
    the version-specific part (version negotiation: the list) starts.

    Returns 0, or -1 when truncated or invalid: short header, fixed bit 0 in version 1,
    connection id above 20 bytes in version 1, length beyond the datagram.
    """
    cdef const uint8_t* end = p + n
    cdef const uint8_t* q
    cdef uint64_t v
    if n < 7 or not p[0] & 0x80:
        return -1
    h.first = p[0]
    h.version = (<uint32_t>p[1] << 24) | (<uint32_t>p[2] << 16) | (<uint32_t>p[3] << 8) | p[4]
    h.token = NULL
    h.token_len = 0
    h.dcid_len = p[5]
    h.dcid = p + 6
    q = p + 6
    if end - q < <Py_ssize_t>h.dcid_len + 1:
        return -1
    q += h.dcid_len
    h.scid_len = q[0]
    q += 1
    h.scid = q
    if end - q < <Py_ssize_t>h.scid_len:
        return -1
    q += h.scid_len
    h.pn_offset = <size_t>(q - p)
    h.packet_len = n
    if h.version != 1:
        h.type = -1
        return 0
    if not p[0] & 0x40 or h.dcid_len > MAX_CID or h.scid_len > MAX_CID:
        return -1
    h.type = (p[0] >> 4) & 3
    if h.type == 3:
        if end - q < RETRY_TAG:
            return -1
        h.token = q
        h.token_len = <size_t>(end - q) - RETRY_TAG
        h.pn_offset = n - RETRY_TAG
        return 0
    if h.type == 0:
        q = get_varint(q, end, &v)
        if q == NULL or v > <uint64_t>(end - q):
            return -1
        h.token = q
        h.token_len = <size_t>v
        q += v
    q = get_varint(q, end, &v)
    if q == NULL or v > <uint64_t>(end - q):
        return -1
    h.pn_offset = <size_t>(q - p)
    h.packet_len = h.pn_offset + <size_t>v
    return 0
