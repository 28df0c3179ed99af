"""Varints, packet numbers and headers for Python code: tests, fuzzing and tools. A connection never calls these."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._packet._headers cimport LongHeader, parse_long_header
from iroh_fast._packet._varint cimport MAX_CID, VARINT_MAX, get_varint, pn_expand, pn_length, put_varint


cdef uint64_t as_uint(object value, str key, uint64_t maximum) except? 0xffffffffffffffff:
    if not isinstance(value, int):
        raise TypeError(f"{key} must be an integer")
    if not 0 <= value <= maximum:
        raise ValueError(f"{key} must be 0 to {maximum}, not {value}")
    return value


def encode_varint(value):
    """Encode an integer as a minimal varint (RFC 9000 §16).

    Parameters
    ----------
    value : int
        0 to 2**62-1.

    Returns
    -------
    bytes
        1, 2, 4 or 8 bytes.

    Raises
    ------
    ValueError
        Out of range.
    """
    cdef uint8_t room[8]
    cdef uint8_t* end = put_varint(room, as_uint(value, "value", VARINT_MAX))
    return PyBytes_FromStringAndSize(<const char*>room, end - room)


def decode_varint(data, Py_ssize_t offset=0):
    """Decode the varint at `offset`; non-minimal forms are accepted.

    Parameters
    ----------
    data : bytes-like
        Borrowed for the call.
    offset : int
        0 to len(data).

    Returns
    -------
    tuple of int
        (value, offset after it).

    Raises
    ------
    ValueError
        Truncated, or `offset` outside `data`.
    """
    cdef Py_buffer view
    cdef const uint8_t* base
    cdef const uint8_t* p
    cdef uint64_t v = 0
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if offset < 0 or offset > view.len:
            raise ValueError("offset outside the data")
        base = <const uint8_t*>view.buf
        p = get_varint(base + offset, base + view.len, &v)
        if p == NULL:
            raise ValueError("truncated varint")
        return v, p - base
    finally:
        PyBuffer_Release(&view)


def encode_pn(pn, largest_acked=None):
    """Truncate a packet number for a header (RFC 9000 §17.1, A.2).

    Parameters
    ----------
    pn : int
        0 to 2**62-1.
    largest_acked : int or None
        Largest acknowledged number of that space, below `pn`; None when there is none.

    Returns
    -------
    bytes
        1 to 4 bytes, big endian.

    Raises
    ------
    ValueError
        Out of range, or too far ahead of `largest_acked` for 4 bytes (2**31 numbers).
    """
    cdef uint64_t full = as_uint(pn, "pn", VARINT_MAX)
    cdef int64_t acked = -1
    cdef uint8_t room[4]
    cdef int n, i
    if largest_acked is not None:
        acked = <int64_t>as_uint(largest_acked, "largest_acked", VARINT_MAX)
        if <uint64_t>acked >= full:
            raise ValueError("largest_acked must be below pn")
    if full - <uint64_t>(acked if acked > 0 else 0) >= <uint64_t>1 << 31:
        raise ValueError("packet number too far ahead of largest_acked")
    n = pn_length(full, acked)
    for i in range(n):
        room[i] = <uint8_t>(full >> (8 * (n - 1 - i)))
    return PyBytes_FromStringAndSize(<const char*>room, n)


def decode_pn(data, expected):
    """Recover a packet number from its truncated form (RFC 9000 §17.1, A.3).

    Parameters
    ----------
    data : bytes-like
        1 to 4 bytes, big endian.
    expected : int
        Largest number received in that space plus one, or 0; at most 2**62-1.

    Returns
    -------
    int
        The number closest to `expected` that ends in `data`.

    Raises
    ------
    ValueError
        Wrong length or out of range.
    """
    cdef bytes raw = bytes(memoryview(data))
    cdef uint64_t want = as_uint(expected, "expected", VARINT_MAX)
    if not 1 <= len(raw) <= 4:
        raise ValueError("a packet number has 1 to 4 bytes")
    return pn_expand(int.from_bytes(raw, "big"), <int>len(raw), want)


# ---- Python: headers -------------------------------------------------------
cdef tuple LONG_TYPES = ("initial", "0-rtt", "handshake", "retry")


def parse_header(data, Py_ssize_t dcid_len=8):
    """Parse the header of the first packet of a datagram (RFC 9000 §17).

    Parameters
    ----------
    data : bytes-like
        The datagram, or what is left of it; borrowed for the call.
    dcid_len : int
        Connection id length of short headers, 0 to 20 bytes.

    Returns
    -------
    dict
        ``type``: "initial", "0-rtt", "handshake", "retry", "1-rtt",
        "version-negotiation" or "unknown-version"; ``first``: first byte, still
        protected; ``version``: int, None for short headers; ``dcid``, ``scid``, ``token``:
        new bytes; ``pn_offset``: start of the packet number (Retry: of the integrity tag;
        other versions: of what follows the connection ids); ``packet_len``: bytes of this
        packet.

    Raises
    ------
    ValueError
        Truncated or not QUIC.
    """
    cdef Py_buffer view
    cdef const uint8_t* p
    cdef LongHeader h
    if not 0 <= dcid_len <= MAX_CID:
        raise ValueError("dcid_len must be 0 to 20")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        p = <const uint8_t*>view.buf
        if view.len and not p[0] & 0x80:
            if not p[0] & 0x40 or view.len <= dcid_len:
                raise ValueError("invalid short header")
            return {
                "type": "1-rtt", "first": p[0], "version": None,
                "dcid": PyBytes_FromStringAndSize(<const char*>p + 1, dcid_len), "scid": b"", "token": b"",
                "pn_offset": 1 + dcid_len, "packet_len": view.len,
            }
        if parse_long_header(p, <size_t>view.len, &h) < 0:
            raise ValueError("invalid long header")
        if h.type >= 0:
            name = LONG_TYPES[h.type]
        else:
            name = "unknown-version" if h.version else "version-negotiation"
        return {
            "type": name, "first": h.first, "version": h.version,
            "dcid": PyBytes_FromStringAndSize(<const char*>h.dcid, h.dcid_len),
            "scid": PyBytes_FromStringAndSize(<const char*>h.scid, h.scid_len),
            "token": PyBytes_FromStringAndSize(<const char*>h.token, <Py_ssize_t>h.token_len) if h.token_len else b"",
            "pn_offset": h.pn_offset, "packet_len": h.packet_len,
        }
    finally:
        PyBuffer_Release(&view)
