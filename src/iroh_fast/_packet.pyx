"""QUIC packet headers, varints and frames.

Wire formats: RFC 9000 §16, §17 and §19, RFC 9221 (DATAGRAM), the ACK frequency,
multipath and address discovery drafts, and iroh's NAT traversal frames.

The compiled interface is in ``_packet.pxd``: functions over raw memory that touch no
Python object and allocate nothing. The Python functions below are for tests, fuzzing
and tools; a connection never calls them.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.string cimport memcmp, memcpy, memset

import socket

__all__ = [
    "FrameDecodeError",
    "bench_decode",
    "bench_put",
    "decode_frames",
    "decode_pn",
    "decode_varint",
    "encode_frame",
    "encode_pn",
    "encode_varint",
    "parse_header",
]

cdef enum:
    MAX_CID = 20                  # RFC 9000 §17.2
    TOKEN_LEN = 16                # stateless reset token, RFC 9000 §10.3
    RETRY_TAG = 16                # RFC 9001 §5.8
    MAX_PADDING = 65527           # the largest UDP payload

cdef extern from *:
    # True constants: a module-level `cdef` would be a variable, an enum has 32 bits on MSVC.
    """
    #define VARINT_MAX ((((uint64_t)1) << 62) - 1)
    #define STREAMS_MAX (((uint64_t)1) << 60)     /* RFC 9000 section 19.11 */
    #define PATH_ID_MAX ((uint64_t)0xffffffff)    /* multipath draft: path ids are 32 bits */
    static const uint8_t V4_MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    """
    const uint64_t VARINT_MAX
    const uint64_t STREAMS_MAX
    const uint64_t PATH_ID_MAX
    const uint8_t V4_MAPPED[12]   # ::ffff:0:0/96


# ---- headers ---------------------------------------------------------------
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


# ---- decoding --------------------------------------------------------------
cdef inline const uint8_t* fail(int* err, int code) noexcept nogil:
    err[0] = code
    return NULL


cdef inline const uint8_t* quick_varint(const uint8_t* p, const uint8_t* end, uint64_t* v) noexcept nogil:
    # Ids, counts and ACK gaps are nearly always one byte.
    if p != NULL and p < end and p[0] < 0x40:
        v[0] = p[0]
        return p + 1
    return get_varint(p, end, v)


cdef inline const uint8_t* trusted_varint(const uint8_t* p, uint64_t* v) noexcept nogil:
    # Only over bytes that decode_frame has already walked.
    if p[0] < 0x40:
        v[0] = p[0]
        return p + 1
    return get_varint(p, p + 8, v)


cdef inline const uint8_t* take_ack(const uint8_t* p, const uint8_t* end, Frame* f, int* err) noexcept nogil:  # hot
    # RFC 9000 §19.3. Every range is checked here, so that next_ack_range need not.
    cdef uint64_t largest, delay, count, first, gap, n, smallest, i
    p = quick_varint(p, end, &largest)
    p = quick_varint(p, end, &delay)
    p = quick_varint(p, end, &count)
    p = quick_varint(p, end, &first)
    if p == NULL:
        return fail(err, DEC_TRUNCATED)
    if first > largest:
        return fail(err, DEC_MALFORMED)
    if count > <uint64_t>(end - p) >> 1:
        return fail(err, DEC_TRUNCATED)
    f.largest = largest
    f.delay = delay
    f.first = first
    f.range_count = count
    f.ranges = p
    smallest = largest - first
    i = count
    while i:
        if end - p >= 2 and (p[0] | p[1]) < 0x40:
            gap = p[0]
            n = p[1]
            p += 2
        else:
            p = get_varint(p, end, &gap)
            p = get_varint(p, end, &n)
            if p == NULL:
                return fail(err, DEC_TRUNCATED)
        gap += n + 2              # below 2**63 + 2: no overflow
        if gap > smallest:
            return fail(err, DEC_MALFORMED)
        smallest -= gap
        i -= 1
    f.ranges_end = p
    f.has_ecn = f.type & 1        # 0x03 and 0x3f
    if f.has_ecn:
        p = get_varint(p, end, &f.ect0)
        p = get_varint(p, end, &f.ect1)
        p = get_varint(p, end, &f.ce)
        if p == NULL:
            return fail(err, DEC_TRUNCATED)
    return p


cdef inline const uint8_t* take_path(const uint8_t* p, const uint8_t* end, Frame* f, int* err) noexcept nogil:
    p = quick_varint(p, end, &f.path)
    if p == NULL:
        return fail(err, DEC_TRUNCATED)
    if f.path > PATH_ID_MAX:
        return fail(err, DEC_MALFORMED)
    return p


cdef inline const uint8_t* take_v1(const uint8_t* p, const uint8_t* end, uint64_t* a, int* err) noexcept nogil:
    p = get_varint(p, end, a)
    if p == NULL:
        err[0] = DEC_TRUNCATED
    return p


cdef inline const uint8_t* take_v2(const uint8_t* p, const uint8_t* end, uint64_t* a, uint64_t* b, int* err) noexcept nogil:
    p = get_varint(p, end, a)
    p = get_varint(p, end, b)
    if p == NULL:
        err[0] = DEC_TRUNCATED
    return p


cdef inline const uint8_t* take_bounded(const uint8_t* p, const uint8_t* end, uint64_t* a, uint64_t maximum, int* err) noexcept nogil:
    p = take_v1(p, end, a, err)
    if p != NULL and a[0] > maximum:
        return fail(err, DEC_MALFORMED)
    return p


cdef inline const uint8_t* take_rest(const uint8_t* p, const uint8_t* end, Frame* f, uint64_t n, int* err) noexcept nogil:
    if p == NULL or n > <uint64_t>(end - p):
        return fail(err, DEC_TRUNCATED)
    f.data = p
    f.len = <size_t>n
    return p + n


cdef const uint8_t* take_cid(const uint8_t* p, const uint8_t* end, Frame* f, int* err) noexcept nogil:
    # RFC 9000 §19.15
    cdef uint8_t n
    p = take_v2(p, end, &f.id, &f.offset, err)
    if p == NULL:
        return NULL
    if f.offset > f.id:
        return fail(err, DEC_MALFORMED)
    if p >= end:
        return fail(err, DEC_TRUNCATED)
    n = p[0]
    if n == 0 or n > MAX_CID:
        return fail(err, DEC_MALFORMED)
    p = take_rest(p + 1, end, f, n, err)
    if p == NULL:
        return NULL
    if end - p < TOKEN_LEN:
        return fail(err, DEC_TRUNCATED)
    f.token = p
    return p + TOKEN_LEN


cdef const uint8_t* take_address(const uint8_t* p, const uint8_t* end, Frame* f, bint v6, int* err) noexcept nogil:
    cdef int n = 16 if v6 else 4
    p = take_v1(p, end, &f.id, err)
    if p == NULL:
        return NULL
    if end - p < n + 2:
        return fail(err, DEC_TRUNCATED)
    if not v6:
        memcpy(f.ip, V4_MAPPED, 12)
    memcpy(f.ip + 16 - n, p, n)
    f.port = <uint16_t>((p[n] << 8) | p[n + 1])
    return p + n + 2


cdef const uint8_t* take_control(const uint8_t* p, const uint8_t* end, Frame* f, int* err) noexcept nogil:
    # Everything that is not one of the per-packet types; compiles to one switch.
    cdef uint64_t t = f.type
    cdef uint64_t n = 0
    if t == FT_PADDING:
        f.data = p - 1
        # A non-minimal type also ends in a zero byte, so the run begins at p - 1 either way.
        while end - p >= 8:
            memcpy(&n, p, 8)
            if n:
                break
            p += 8
        while p < end and p[0] == 0:
            p += 1
        f.len = <size_t>(p - f.data)
        return p
    elif t == FT_PING or t == FT_HANDSHAKE_DONE or t == FT_IMMEDIATE_ACK:
        return p
    elif t == FT_RESET_STREAM:
        p = get_varint(p, end, &f.id)
        return take_v2(p, end, &f.value, &f.offset, err)
    elif t == FT_STOP_SENDING or t == FT_MAX_STREAM_DATA or t == FT_STREAM_DATA_BLOCKED:
        return take_v2(p, end, &f.id, &f.value, err)
    elif t == FT_CRYPTO:
        p = take_v2(p, end, &f.offset, &n, err)
        if p == NULL:
            return NULL
        if f.offset + n > VARINT_MAX:
            return fail(err, DEC_MALFORMED)
        return take_rest(p, end, f, n, err)
    elif t == FT_NEW_TOKEN:
        p = take_v1(p, end, &n, err)
        if p != NULL and n == 0:
            return fail(err, DEC_MALFORMED)
        return take_rest(p, end, f, n, err)
    elif t == FT_MAX_DATA or t == FT_DATA_BLOCKED:
        return take_v1(p, end, &f.value, err)
    elif (t == FT_MAX_STREAMS_BIDI or t == FT_MAX_STREAMS_UNI
          or t == FT_STREAMS_BLOCKED_BIDI or t == FT_STREAMS_BLOCKED_UNI):
        return take_bounded(p, end, &f.value, STREAMS_MAX, err)
    elif t == FT_NEW_CONNECTION_ID:
        return take_cid(p, end, f, err)
    elif t == FT_RETIRE_CONNECTION_ID or t == FT_REMOVE_ADDRESS:
        return take_v1(p, end, &f.id, err)
    elif t == FT_PATH_CHALLENGE or t == FT_PATH_RESPONSE:
        return take_rest(p, end, f, 8, err)
    elif t == FT_CONNECTION_CLOSE:
        p = get_varint(p, end, &f.value)
        p = take_v2(p, end, &f.offset, &n, err)
        return take_rest(p, end, f, n, err)
    elif t == FT_APPLICATION_CLOSE:
        p = take_v2(p, end, &f.value, &n, err)
        return take_rest(p, end, f, n, err)
    elif t == FT_ACK_FREQUENCY:
        p = get_varint(p, end, &f.id)
        p = get_varint(p, end, &f.value)
        return take_v2(p, end, &f.value2, &f.offset, err)
    elif t == FT_PATH_ABANDON or t == FT_PATH_CIDS_BLOCKED:
        p = take_path(p, end, f, err)
        if p == NULL:
            return NULL
        return take_v1(p, end, &f.value, err)
    elif t == FT_PATH_STATUS_BACKUP or t == FT_PATH_STATUS_AVAILABLE or t == FT_PATH_RETIRE_CONNECTION_ID:
        p = take_path(p, end, f, err)
        if p == NULL:
            return NULL
        return take_v1(p, end, &f.id, err)
    elif t == FT_PATH_NEW_CONNECTION_ID:
        p = take_path(p, end, f, err)
        if p == NULL:
            return NULL
        return take_cid(p, end, f, err)
    elif t == FT_MAX_PATH_ID or t == FT_PATHS_BLOCKED:
        return take_bounded(p, end, &f.id, PATH_ID_MAX, err)
    elif t == FT_OBSERVED_ADDR_V4 or t == FT_ADD_ADDRESS_V4 or t == FT_REACH_OUT_V4:
        return take_address(p, end, f, False, err)
    elif t == FT_OBSERVED_ADDR_V6 or t == FT_ADD_ADDRESS_V6 or t == FT_REACH_OUT_V6:
        return take_address(p, end, f, True, err)
    return fail(err, DEC_UNKNOWN)


cdef const uint8_t* decode_frame(const uint8_t* p, const uint8_t* end, Frame* f, int* err) noexcept nogil:  # hot
    """Decode the frame at `p`; a run of PADDING counts as one frame.

    Sets `f.type`, `f.path` (0 where the frame has none) and the fields that the type
    defines; all others keep what they held. Pointers in `f` borrow from the payload.
    For PADDING `len` is the length of the run.

    Returns the position after the frame. On error returns NULL and sets `err` to
    DEC_TRUNCATED, DEC_UNKNOWN or DEC_MALFORMED; `f.type` then holds the frame type,
    or 0 when the type itself is cut off, and the other fields mean nothing. `err`
    is left alone on success. Time is linear in the bytes consumed.

    Whether a frame is legal in its packet, direction or state is not decided here, nor
    is a STREAM that ends beyond 2**62-1 (RFC 9000 §19.8 lets that be a flow control
    error). Non-minimal varints are accepted everywhere, types included.
    """
    cdef uint64_t t, n = 0
    cdef int bits
    f.path = 0
    if p == NULL or p >= end:
        f.type = 0
        return fail(err, DEC_TRUNCATED)
    t = p[0]
    if t < 0x40:
        p += 1
    else:
        f.type = 0
        # INTEROP: noq accepts types that are not minimally encoded.
        p = take_v1(p, end, &t, err)
        if p == NULL:
            return NULL
    if t & ~<uint64_t>7 == FT_STREAM:
        f.type = FT_STREAM
        bits = <int>t
        p = quick_varint(p, end, &f.id)
        f.offset = 0
        if bits & 4:
            p = quick_varint(p, end, &f.offset)
        f.fin = bits & 1
        if bits & 2:
            p = quick_varint(p, end, &n)
            return take_rest(p, end, f, n, err)
        if p == NULL:
            return fail(err, DEC_TRUNCATED)
        f.data = p
        f.len = <size_t>(end - p)
        return end
    if t & ~<uint64_t>1 == FT_PATH_ACK:
        f.type = t
        p = take_path(p, end, f, err)
        if p == NULL:
            return NULL
        return take_ack(p, end, f, err)
    if t & ~<uint64_t>1 == FT_ACK:
        f.type = t
        return take_ack(p, end, f, err)
    if t & ~<uint64_t>1 == FT_DATAGRAM:
        f.type = FT_DATAGRAM
        if t & 1:
            p = quick_varint(p, end, &n)
            return take_rest(p, end, f, n, err)
        return take_rest(p, end, f, <uint64_t>(end - p), err)
    f.type = t
    return take_control(p, end, f, err)


cdef const uint8_t* next_ack_range(const uint8_t* p, uint64_t* smallest, uint64_t* lo, uint64_t* hi) noexcept nogil:  # hot
    """Read one further range of an ACK that decode_frame accepted.

    Start with `p = f.ranges` and `smallest = f.largest - f.first`, call `f.range_count`
    times. Sets the inclusive bounds and `smallest = lo`; returns the next position. No
    checks: decode_frame made them.
    """
    cdef uint64_t gap, n
    p = trusted_varint(p, &gap)
    p = trusted_varint(p, &n)
    hi[0] = smallest[0] - gap - 2
    lo[0] = hi[0] - n
    smallest[0] = lo[0]
    return p


# ---- encoding --------------------------------------------------------------
cdef uint8_t* put_ack(uint8_t* p, bint multipath, uint64_t path, const uint64_t* starts, const uint64_t* ends,
                      int n, uint64_t delay, bint ecn, uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil:  # hot
    """Write ACK, ACK_ECN, PATH_ACK or PATH_ACK_ECN; needs `ack_size` bytes.

    Range i is [starts[i], ends[i]): not empty, ascending, with at least one missing
    number between neighbours, newest last; n >= 1. `delay` is the raw wire value.
    """
    cdef int i = n - 1
    if multipath:
        p[0] = FT_PATH_ACK_ECN if ecn else FT_PATH_ACK
        p = put_varint(p + 1, path)
    else:
        p[0] = FT_ACK_ECN if ecn else FT_ACK
        p += 1
    p = put_varint(p, ends[i] - 1)
    p = put_varint(p, delay)
    p = put_varint(p, <uint64_t>i)
    p = put_varint(p, ends[i] - 1 - starts[i])
    while i > 0:
        i -= 1
        p = put_varint(p, starts[i + 1] - ends[i] - 1)
        p = put_varint(p, ends[i] - 1 - starts[i])
    if ecn:
        p = put_varint(p, ect0)
        p = put_varint(p, ect1)
        p = put_varint(p, ce)
    return p


cdef size_t ack_size(bint multipath, uint64_t path, const uint64_t* starts, const uint64_t* ends, int n,
                     uint64_t delay, bint ecn, uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil:
    """Bytes that put_ack writes for the same arguments."""
    cdef int i = n - 1
    cdef size_t size = 1 + varint_size(ends[i] - 1) + varint_size(delay) + varint_size(<uint64_t>i)
    size += varint_size(ends[i] - 1 - starts[i])
    if multipath:
        size += varint_size(path)
    while i > 0:
        i -= 1
        size += varint_size(starts[i + 1] - ends[i] - 1) + varint_size(ends[i] - 1 - starts[i])
    if ecn:
        size += varint_size(ect0) + varint_size(ect1) + varint_size(ce)
    return size


cdef uint8_t* put_crypto_header(uint8_t* p, uint64_t offset, size_t n) noexcept nogil:
    """Write a CRYPTO frame up to its `n` data bytes."""
    p[0] = FT_CRYPTO
    p = put_varint(p + 1, offset)
    return put_varint(p, n)


cdef uint8_t* put_stream_header(uint8_t* p, uint64_t id, uint64_t offset, size_t n, bint with_len, bint fin) noexcept nogil:  # hot
    """Write a STREAM frame up to its `n` data bytes; without length it must end the packet."""
    p[0] = FT_STREAM | (4 if offset else 0) | (2 if with_len else 0) | (1 if fin else 0)
    p = put_varint(p + 1, id)
    if offset:
        p = put_varint(p, offset)
    return put_varint(p, n) if with_len else p


cdef uint8_t* put_datagram_header(uint8_t* p, size_t n) noexcept nogil:
    """Write type 0x31 and the length; `n` data bytes follow."""
    p[0] = FT_DATAGRAM | 1
    return put_varint(p + 1, n)


cdef uint8_t* put_v1(uint8_t* p, uint64_t type, uint64_t a) noexcept nogil:
    return put_varint(put_varint(p, type), a)


cdef uint8_t* put_v2(uint8_t* p, uint64_t type, uint64_t a, uint64_t b) noexcept nogil:
    return put_varint(put_v1(p, type, a), b)


cdef uint8_t* put_v3(uint8_t* p, uint64_t type, uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return put_varint(put_v2(p, type, a, b), c)


cdef uint8_t* put_ack_frequency(uint8_t* p, uint64_t seq, uint64_t threshold, uint64_t max_delay_us, uint64_t reordering) noexcept nogil:
    return put_varint(put_v3(p, FT_ACK_FREQUENCY, seq, threshold, max_delay_us), reordering)


cdef uint8_t* put_new_cid(uint8_t* p, bint multipath, uint64_t path, uint64_t seq, uint64_t retire_prior_to,
                          const uint8_t* cid, uint8_t cid_len, const uint8_t* token) noexcept nogil:
    """Write NEW_CONNECTION_ID, or PATH_NEW_CONNECTION_ID when `multipath`; copies `cid` and `token`."""
    if multipath:
        p = put_v1(p, FT_PATH_NEW_CONNECTION_ID, path)
    else:
        p = put_varint(p, FT_NEW_CONNECTION_ID)
    p = put_varint(p, seq)
    p = put_varint(p, retire_prior_to)
    p[0] = cid_len
    memcpy(p + 1, cid, cid_len)
    p += 1 + cid_len
    memcpy(p, token, TOKEN_LEN)
    return p + TOKEN_LEN


cdef uint8_t* put_path_data(uint8_t* p, uint64_t type, const uint8_t* data8) noexcept nogil:
    """Write PATH_CHALLENGE or PATH_RESPONSE."""
    p = put_varint(p, type)
    memcpy(p, data8, 8)
    return p + 8


cdef uint8_t* put_address(uint8_t* p, uint64_t type_v4, uint64_t seq, const uint8_t* ip16, uint16_t port) noexcept nogil:
    """Write an address frame: `type_v4` for ::ffff:a.b.c.d, else the IPv6 type next to it."""
    if memcmp(ip16, V4_MAPPED, 12) == 0:
        p = put_v1(p, type_v4, seq)
        memcpy(p, ip16 + 12, 4)
        p += 4
    else:
        p = put_v1(p, type_v4 + 1, seq)
        memcpy(p, ip16, 16)
        p += 16
    p[0] = <uint8_t>(port >> 8)
    p[1] = <uint8_t>port
    return p + 2


cdef uint8_t* put_close(uint8_t* p, bint application, uint64_t code, uint64_t frame_type, const uint8_t* reason, size_t n) noexcept nogil:
    """Write a close frame; needs `close_size` bytes. `frame_type` counts for type 0x1c only."""
    if application:
        p = put_v1(p, FT_APPLICATION_CLOSE, code)
    else:
        p = put_v2(p, FT_CONNECTION_CLOSE, code, frame_type)
    p = put_varint(p, n)
    if n:
        memcpy(p, reason, n)
    return p + n


cdef size_t close_size(bint application, uint64_t code, uint64_t frame_type, size_t n) noexcept nogil:
    """Bytes that put_close writes for the same arguments."""
    return 1 + varint_size(code) + (0 if application else varint_size(frame_type)) + varint_size(n) + n


cdef uint8_t* put_new_token(uint8_t* p, const uint8_t* token, size_t n) noexcept nogil:
    """Write NEW_TOKEN: 1 + varint_size(n) + n bytes; n >= 1."""
    p = put_v1(p, FT_NEW_TOKEN, n)
    memcpy(p, token, n)
    return p + n


# ---- Python: errors --------------------------------------------------------
class FrameDecodeError(ValueError):
    """Report a payload that is no sequence of frames.

    Parameters
    ----------
    frame_type : int
        Type of the offending frame; 0 when the type itself is cut off.
    offset : int
        Where that frame starts in the payload, bytes.
    kind : {"truncated", "unknown", "malformed"}
        All three are FRAME_ENCODING_ERROR on the wire (RFC 9000 §12.4, §20.1).
    """

    def __init__(self, frame_type, offset, kind):
        super().__init__(frame_type, offset, kind)
        self.frame_type = frame_type
        self.offset = offset
        self.kind = kind

    def __str__(self):
        return f"{self.kind} frame of type {self.frame_type:#x} at offset {self.offset}"


cdef object decode_error(const Frame* f, Py_ssize_t offset, int err):
    kind = "truncated" if err == DEC_TRUNCATED else "unknown" if err == DEC_UNKNOWN else "malformed"
    return FrameDecodeError(f.type, offset, kind)


# ---- Python: varints and packet numbers ------------------------------------
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


# ---- Python: frames to dicts -----------------------------------------------
cdef bytes frame_data(const Frame* f):
    return PyBytes_FromStringAndSize(<const char*>f.data, <Py_ssize_t>f.len)


cdef dict ack_dict(const Frame* f):
    cdef const uint8_t* p = f.ranges
    cdef uint64_t smallest = f.largest - f.first
    cdef uint64_t lo, hi, i
    cdef list ranges = [(smallest, f.largest)]
    for i in range(f.range_count):
        p = next_ack_range(p, &smallest, &lo, &hi)
        ranges.append((lo, hi))
    if p != f.ranges_end:
        raise SystemError("ACK range walkers disagree")
    d = {"largest": f.largest, "delay": f.delay, "ranges": ranges}
    if f.has_ecn:
        d["ecn"] = (f.ect0, f.ect1, f.ce)
    return d


cdef tuple frame_addr(const Frame* f):
    if memcmp(f.ip, V4_MAPPED, 12) == 0:
        return socket.inet_ntop(socket.AF_INET, PyBytes_FromStringAndSize(<const char*>f.ip + 12, 4)), f.port
    return socket.inet_ntop(socket.AF_INET6, PyBytes_FromStringAndSize(<const char*>f.ip, 16)), f.port


cdef dict frame_dict(const Frame* f, uint64_t wire_type):
    cdef uint64_t t = f.type
    cdef dict d = {"type": wire_type}
    if (FT_PATH_ABANDON <= t <= FT_PATH_RETIRE_CONNECTION_ID or t == FT_PATH_CIDS_BLOCKED
            or t == FT_PATH_ACK or t == FT_PATH_ACK_ECN):
        d["path_id"] = f.path
    if t == FT_PADDING:
        d["length"] = f.len
    elif t == FT_ACK or t == FT_ACK_ECN or t == FT_PATH_ACK or t == FT_PATH_ACK_ECN:
        d.update(ack_dict(f))
    elif t == FT_RESET_STREAM:
        d.update(id=f.id, error=f.value, final_size=f.offset)
    elif t == FT_STOP_SENDING:
        d.update(id=f.id, error=f.value)
    elif t == FT_CRYPTO:
        d.update(offset=f.offset, data=frame_data(f))
    elif t == FT_NEW_TOKEN:
        d["token"] = frame_data(f)
    elif t == FT_STREAM:
        d.update(id=f.id, offset=f.offset, fin=bool(f.fin), data=frame_data(f))
    elif t == FT_MAX_DATA:
        d["max"] = f.value
    elif t == FT_MAX_STREAM_DATA:
        d.update(id=f.id, max=f.value)
    elif t == FT_MAX_STREAMS_BIDI or t == FT_MAX_STREAMS_UNI:
        d["count"] = f.value
    elif t == FT_DATA_BLOCKED or t == FT_STREAMS_BLOCKED_BIDI or t == FT_STREAMS_BLOCKED_UNI:
        d["limit"] = f.value
    elif t == FT_STREAM_DATA_BLOCKED:
        d.update(id=f.id, limit=f.value)
    elif t == FT_NEW_CONNECTION_ID or t == FT_PATH_NEW_CONNECTION_ID:
        d.update(seq=f.id, retire_prior_to=f.offset, cid=frame_data(f),
                 token=PyBytes_FromStringAndSize(<const char*>f.token, TOKEN_LEN))
    elif t == FT_PATH_CHALLENGE or t == FT_PATH_RESPONSE or t == FT_DATAGRAM:
        d["data"] = frame_data(f)
    elif t == FT_CONNECTION_CLOSE:
        d.update(code=f.value, frame_type=f.offset, reason=frame_data(f))
    elif t == FT_APPLICATION_CLOSE:
        d.update(code=f.value, reason=frame_data(f))
    elif t == FT_ACK_FREQUENCY:
        d.update(seq=f.id, ack_eliciting_threshold=f.value, request_max_ack_delay_us=f.value2,
                 reordering_threshold=f.offset)
    elif t == FT_PATH_ABANDON:
        d["error"] = f.value
    elif (t == FT_RETIRE_CONNECTION_ID or t == FT_PATH_RETIRE_CONNECTION_ID or t == FT_PATH_STATUS_BACKUP
          or t == FT_PATH_STATUS_AVAILABLE or t == FT_REMOVE_ADDRESS):
        d["seq"] = f.id
    elif t == FT_MAX_PATH_ID or t == FT_PATHS_BLOCKED:
        d["max"] = f.id
    elif t == FT_PATH_CIDS_BLOCKED:
        d["next_seq"] = f.value
    elif t == FT_REACH_OUT_V4 or t == FT_REACH_OUT_V6:
        d.update(round=f.id, addr=frame_addr(f))
    elif (t == FT_OBSERVED_ADDR_V4 or t == FT_OBSERVED_ADDR_V6 or t == FT_ADD_ADDRESS_V4
          or t == FT_ADD_ADDRESS_V6):
        d.update(seq=f.id, addr=frame_addr(f))
    return d


def decode_frames(payload):
    """Decode every frame of a packet payload.

    Parameters
    ----------
    payload : bytes-like
        Decrypted payload; borrowed for the call.

    Returns
    -------
    list of dict
        One per frame, in order; a run of PADDING is one. ``type`` is the type on the
        wire (STREAM 0x08 to 0x0f, DATAGRAM 0x30 or 0x31); the other keys are those that
        `encode_frame` lists. Byte strings are new ``bytes``.

    Raises
    ------
    FrameDecodeError
        Truncated, unknown or malformed frame.
    """
    cdef Py_buffer view
    cdef const uint8_t* base
    cdef const uint8_t* p
    cdef const uint8_t* end
    cdef const uint8_t* start
    cdef Frame f
    cdef uint64_t wire_type = 0
    cdef int err = 0
    cdef list out = []
    memset(&f, 0, sizeof(Frame))
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        base = <const uint8_t*>view.buf
        p = base
        end = base + view.len
        while p < end:
            start = p
            p = decode_frame(p, end, &f, &err)
            if p == NULL:
                raise decode_error(&f, start - base, err)
            get_varint(start, end, &wire_type)
            out.append(frame_dict(&f, wire_type))
    finally:
        PyBuffer_Release(&view)
    return out


# ---- Python: dicts to frames -----------------------------------------------
cdef uint64_t as_uint(object value, str key, uint64_t maximum) except? 0xffffffffffffffff:
    if not isinstance(value, int):
        raise TypeError(f"{key} must be an integer")
    if not 0 <= value <= maximum:
        raise ValueError(f"{key} must be 0 to {maximum}, not {value}")
    return value


cdef object field(dict frame, str key):
    try:
        return frame[key]
    except KeyError:
        raise ValueError(f"the frame needs the field {key!r}") from None


cdef uint64_t number(dict frame, str key, uint64_t maximum=VARINT_MAX) except? 0xffffffffffffffff:
    return as_uint(field(frame, key), key, maximum)


cdef bytes octets(dict frame, str key, Py_ssize_t least=0, Py_ssize_t most=1 << 29):
    value = field(frame, key)
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"{key} must be bytes-like")
    cdef bytes raw = bytes(value)
    if not least <= len(raw) <= most:
        raise ValueError(f"{key} must have {least} to {most} bytes, not {len(raw)}")
    return raw


cdef int address(dict frame, uint8_t* ip16, uint16_t* port) except -1:
    addr = field(frame, "addr")
    if not isinstance(addr, tuple) or len(addr) != 2 or not isinstance(addr[0], str):
        raise TypeError("addr must be a tuple (ip string, port)")
    cdef bytes ip
    try:
        if ":" in addr[0]:
            ip = socket.inet_pton(socket.AF_INET6, addr[0])
        else:
            ip = PyBytes_FromStringAndSize(<const char*>V4_MAPPED, 12) + socket.inet_pton(socket.AF_INET, addr[0])
    except OSError as error:
        raise ValueError(f"{addr[0]!r} is not an IP address") from error
    memcpy(ip16, PyBytes_AS_STRING(ip), 16)
    port[0] = <uint16_t>as_uint(addr[1], "port", 0xffff)
    return 0


cdef struct AckArgs:
    uint64_t* starts
    uint64_t* ends                # same allocation as starts
    int n
    uint64_t path
    uint64_t delay
    uint64_t ect0, ect1, ce


cdef int ack_args(dict frame, bint multipath, bint ecn, AckArgs* a) except -1:
    # On success the caller frees a.starts.
    cdef uint64_t lo, hi, above = 0
    cdef int i
    a.starts = NULL
    a.path = number(frame, "path_id", PATH_ID_MAX) if multipath else 0
    a.delay = number(frame, "delay")
    a.ect0 = a.ect1 = a.ce = 0
    if ecn:
        counts = field(frame, "ecn")
        if len(counts) != 3:
            raise ValueError("ecn must be (ect0, ect1, ce)")
        a.ect0 = as_uint(counts[0], "ecn", VARINT_MAX)
        a.ect1 = as_uint(counts[1], "ecn", VARINT_MAX)
        a.ce = as_uint(counts[2], "ecn", VARINT_MAX)
    ranges = list(field(frame, "ranges"))
    if not 1 <= len(ranges) <= 1 << 20:
        raise ValueError("ranges must have 1 to 2**20 entries")
    if number(frame, "largest") != ranges[0][1]:
        raise ValueError("largest must be the end of the first range")
    a.n = <int>len(ranges)
    a.starts = <uint64_t*>PyMem_Malloc(2 * a.n * sizeof(uint64_t))
    if a.starts == NULL:
        raise MemoryError
    a.ends = a.starts + a.n
    try:
        for i, (low, high) in enumerate(ranges):
            lo = as_uint(low, "ranges", VARINT_MAX)
            hi = as_uint(high, "ranges", VARINT_MAX)
            if lo > hi or (i and hi + 2 > above):
                raise ValueError("ranges must be (low, high), descending, with gaps between them")
            above = lo
            a.starts[a.n - 1 - i] = lo
            a.ends[a.n - 1 - i] = hi + 1
    except:
        PyMem_Free(a.starts)
        a.starts = NULL
        raise
    return 0


cdef bytes encode_ack(dict frame, bint multipath, bint ecn):
    cdef AckArgs a
    cdef size_t size
    cdef bytes out
    cdef uint8_t* p
    ack_args(frame, multipath, ecn, &a)
    try:
        size = ack_size(multipath, a.path, a.starts, a.ends, a.n, a.delay, ecn, a.ect0, a.ect1, a.ce)
        out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        p = <uint8_t*>PyBytes_AS_STRING(out)
        if put_ack(p, multipath, a.path, a.starts, a.ends, a.n, a.delay, ecn, a.ect0, a.ect1, a.ce) != p + size:
            raise SystemError("ack_size and put_ack disagree")
    finally:
        PyMem_Free(a.starts)
    return out


def encode_frame(dict frame):
    """Encode one frame with minimal varints.

    Parameters
    ----------
    frame : dict
        ``type`` and the fields of that type, all required:

        * PADDING 0x00: length (1 to 65527)
        * ACK 0x02, 0x03: largest, delay (wire units), ranges (list of inclusive
          (low, high), newest first), and for 0x03 ecn (ect0, ect1, ce)
        * RESET_STREAM: id, error, final_size; STOP_SENDING: id, error
        * CRYPTO: offset, data; NEW_TOKEN: token
        * STREAM 0x08 to 0x0f: id, offset, fin, data; of the type only the length bit
          counts, the others follow from offset and fin
        * MAX_DATA: max; MAX_STREAM_DATA: id, max; MAX_STREAMS_*: count
        * DATA_BLOCKED, STREAMS_BLOCKED_*: limit; STREAM_DATA_BLOCKED: id, limit
        * NEW_CONNECTION_ID: seq, retire_prior_to, cid, token; RETIRE_CONNECTION_ID: seq
        * PATH_CHALLENGE, PATH_RESPONSE, DATAGRAM 0x30 and 0x31: data
        * CONNECTION_CLOSE: code, frame_type, reason; APPLICATION_CLOSE: code, reason
        * ACK_FREQUENCY: seq, ack_eliciting_threshold, request_max_ack_delay_us,
          reordering_threshold
        * PATH_ACK 0x3e, 0x3f, PATH_NEW_CONNECTION_ID, PATH_RETIRE_CONNECTION_ID: path_id and
          the fields of the frame they extend
        * PATH_ABANDON: path_id, error; PATH_STATUS_*: path_id, seq
        * MAX_PATH_ID, PATHS_BLOCKED: max; PATH_CIDS_BLOCKED: path_id, next_seq
        * OBSERVED_ADDR, ADD_ADDRESS: seq, addr (ip string, port); REACH_OUT: round, addr.
          Either type of a pair will do: the address decides which is written.
        * REMOVE_ADDRESS: seq

    Returns
    -------
    bytes
        The frame.

    Raises
    ------
    ValueError
        Unknown type, missing field, or a value that the wire or RFC 9000 §19 forbids.
    TypeError
        A field of the wrong type.
    """
    cdef uint64_t t = number(frame, "type")
    cdef uint8_t room[MAX_CONTROL_FRAME]
    cdef uint8_t ip[16]
    cdef uint16_t port = 0
    cdef uint8_t* p = room
    cdef uint64_t a, b
    cdef bytes data = b""         # what follows the bytes in `room`
    cdef bytes extra
    if t == FT_PADDING:
        a = number(frame, "length", MAX_PADDING)
        if a == 0:
            raise ValueError("length must be at least 1")
        return bytes(a)
    elif t == FT_PING or t == FT_HANDSHAKE_DONE or t == FT_IMMEDIATE_ACK:
        p = put_varint(p, t)
    elif t == FT_ACK or t == FT_ACK_ECN:
        return encode_ack(frame, False, t == FT_ACK_ECN)
    elif t == FT_PATH_ACK or t == FT_PATH_ACK_ECN:
        return encode_ack(frame, True, t == FT_PATH_ACK_ECN)
    elif t == FT_RESET_STREAM:
        p = put_v3(p, t, number(frame, "id"), number(frame, "error"), number(frame, "final_size"))
    elif t == FT_STOP_SENDING:
        p = put_v2(p, t, number(frame, "id"), number(frame, "error"))
    elif t == FT_CRYPTO:
        data = octets(frame, "data")
        p = put_crypto_header(p, number(frame, "offset", VARINT_MAX - <uint64_t>len(data)), len(data))
    elif t == FT_NEW_TOKEN:
        data = octets(frame, "token", 1)
        extra = PyBytes_FromStringAndSize(NULL, 1 + varint_size(len(data)) + len(data))
        put_new_token(<uint8_t*>PyBytes_AS_STRING(extra), <const uint8_t*>PyBytes_AS_STRING(data), len(data))
        return extra
    elif FT_STREAM <= t <= FT_STREAM + 7:
        data = octets(frame, "data")
        a = number(frame, "offset", VARINT_MAX - <uint64_t>len(data))
        p = put_stream_header(p, number(frame, "id"), a, len(data), t & 2 != 0, bool(field(frame, "fin")))
    elif t == FT_MAX_DATA:
        p = put_v1(p, t, number(frame, "max"))
    elif t == FT_MAX_STREAM_DATA:
        p = put_v2(p, t, number(frame, "id"), number(frame, "max"))
    elif t == FT_MAX_STREAMS_BIDI or t == FT_MAX_STREAMS_UNI:
        p = put_v1(p, t, number(frame, "count", STREAMS_MAX))
    elif t == FT_DATA_BLOCKED:
        p = put_v1(p, t, number(frame, "limit"))
    elif t == FT_STREAM_DATA_BLOCKED:
        p = put_v2(p, t, number(frame, "id"), number(frame, "limit"))
    elif t == FT_STREAMS_BLOCKED_BIDI or t == FT_STREAMS_BLOCKED_UNI:
        p = put_v1(p, t, number(frame, "limit", STREAMS_MAX))
    elif t == FT_NEW_CONNECTION_ID or t == FT_PATH_NEW_CONNECTION_ID:
        data = octets(frame, "cid", 1, MAX_CID)
        extra = octets(frame, "token", TOKEN_LEN, TOKEN_LEN)
        a = number(frame, "seq")
        b = number(frame, "retire_prior_to", a)
        p = put_new_cid(p, t == FT_PATH_NEW_CONNECTION_ID,
                        number(frame, "path_id", PATH_ID_MAX) if t == FT_PATH_NEW_CONNECTION_ID else 0, a, b,
                        <const uint8_t*>PyBytes_AS_STRING(data), <uint8_t>len(data),
                        <const uint8_t*>PyBytes_AS_STRING(extra))
        data = b""
    elif t == FT_RETIRE_CONNECTION_ID or t == FT_REMOVE_ADDRESS:
        p = put_v1(p, t, number(frame, "seq"))
    elif t == FT_PATH_CHALLENGE or t == FT_PATH_RESPONSE:
        extra = octets(frame, "data", 8, 8)
        p = put_path_data(p, t, <const uint8_t*>PyBytes_AS_STRING(extra))
    elif t == FT_CONNECTION_CLOSE or t == FT_APPLICATION_CLOSE:
        data = octets(frame, "reason")
        a = number(frame, "code")
        b = number(frame, "frame_type") if t == FT_CONNECTION_CLOSE else 0
        extra = PyBytes_FromStringAndSize(
            NULL, <Py_ssize_t>close_size(t == FT_APPLICATION_CLOSE, a, b, len(data)))
        p = <uint8_t*>PyBytes_AS_STRING(extra)
        if put_close(p, t == FT_APPLICATION_CLOSE, a, b, <const uint8_t*>PyBytes_AS_STRING(data),
                     len(data)) != p + len(extra):
            raise SystemError("close_size and put_close disagree")
        return extra
    elif t == FT_DATAGRAM:
        data = octets(frame, "data")
        p = put_varint(p, t)
    elif t == FT_DATAGRAM + 1:
        data = octets(frame, "data")
        p = put_datagram_header(p, len(data))
    elif t == FT_ACK_FREQUENCY:
        p = put_ack_frequency(p, number(frame, "seq"), number(frame, "ack_eliciting_threshold"),
                              number(frame, "request_max_ack_delay_us"), number(frame, "reordering_threshold"))
    elif t == FT_PATH_ABANDON:
        p = put_v2(p, t, number(frame, "path_id", PATH_ID_MAX), number(frame, "error"))
    elif t == FT_PATH_STATUS_BACKUP or t == FT_PATH_STATUS_AVAILABLE or t == FT_PATH_RETIRE_CONNECTION_ID:
        p = put_v2(p, t, number(frame, "path_id", PATH_ID_MAX), number(frame, "seq"))
    elif t == FT_MAX_PATH_ID or t == FT_PATHS_BLOCKED:
        p = put_v1(p, t, number(frame, "max", PATH_ID_MAX))
    elif t == FT_PATH_CIDS_BLOCKED:
        p = put_v2(p, t, number(frame, "path_id", PATH_ID_MAX), number(frame, "next_seq"))
    elif t == FT_OBSERVED_ADDR_V4 or t == FT_OBSERVED_ADDR_V6:
        address(frame, ip, &port)
        p = put_address(p, FT_OBSERVED_ADDR_V4, number(frame, "seq"), ip, port)
    elif t == FT_ADD_ADDRESS_V4 or t == FT_ADD_ADDRESS_V6:
        address(frame, ip, &port)
        p = put_address(p, FT_ADD_ADDRESS_V4, number(frame, "seq"), ip, port)
    elif t == FT_REACH_OUT_V4 or t == FT_REACH_OUT_V6:
        address(frame, ip, &port)
        p = put_address(p, FT_REACH_OUT_V4, number(frame, "round"), ip, port)
    else:
        raise ValueError(f"unknown frame type {t:#x}")
    return PyBytes_FromStringAndSize(<const char*>room, p - room) + data


# ---- Python: measuring -----------------------------------------------------
def bench_decode(payload, Py_ssize_t n, bint walk=False):
    """Decode all frames of `payload` `n` times without touching Python objects.

    Parameters
    ----------
    payload : bytes-like
        Valid frames; borrowed for the call. The GIL is released.
    n : int
        Repetitions.
    walk : bool
        Also visit the ranges of ACK frames, as a sender does.

    Returns
    -------
    int
        Frames decoded in total.

    Raises
    ------
    FrameDecodeError
        The payload is invalid.
    """
    cdef Py_buffer view
    cdef const uint8_t* base
    cdef const uint8_t* start
    cdef const uint8_t* p
    cdef const uint8_t* q
    cdef const uint8_t* end
    cdef Frame f
    cdef uint64_t total = 0, i, smallest, lo, hi, numbers = 0
    cdef int err = 0
    memset(&f, 0, sizeof(Frame))
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        base = <const uint8_t*>view.buf
        start = base
        p = base
        end = base + view.len
        with nogil:
            while n > 0 and p != NULL:
                n -= 1
                p = base
                while p < end:
                    start = p
                    p = decode_frame(p, end, &f, &err)
                    if p == NULL:
                        break
                    total += 1
                    if walk and (f.type & ~<uint64_t>1 == FT_ACK or f.type & ~<uint64_t>1 == FT_PATH_ACK):
                        q = f.ranges
                        smallest = f.largest - f.first
                        i = f.range_count
                        while i:
                            q = next_ack_range(q, &smallest, &lo, &hi)
                            numbers += hi - lo + 1
                            i -= 1
        if p == NULL:
            raise decode_error(&f, start - base, err)
        if walk and numbers > VARINT_MAX:
            # Uses the sum, so that the walk cannot be optimised away.
            raise ValueError("repetitions out of range")
        return total
    finally:
        PyBuffer_Release(&view)


def bench_put(dict frame, Py_ssize_t n):
    """Write a STREAM header or an ACK `n` times without touching Python objects.

    Parameters
    ----------
    frame : dict
        STREAM, ACK or PATH_ACK as for `encode_frame`. The offset or the delay
        varies from one repetition to the next.
    n : int
        Repetitions.

    Returns
    -------
    int
        Bytes written in total.

    Raises
    ------
    ValueError
        Another frame type, or one that `encode_frame` refuses.
    """
    cdef uint64_t t = number(frame, "type")
    cdef uint64_t total = 0, id, offset
    cdef uint8_t room[MAX_STREAM_HEADER]
    cdef uint8_t* p
    cdef size_t size
    cdef AckArgs a
    cdef bint multipath = t & ~<uint64_t>1 == FT_PATH_ACK
    cdef bint ecn = t & 1
    cdef bint with_len = t & 2 != 0
    cdef bint fin
    if FT_STREAM <= t <= FT_STREAM + 7:
        id = number(frame, "id")
        size = len(octets(frame, "data"))
        offset = number(frame, "offset", VARINT_MAX - <uint64_t>size - 63)
        fin = field(frame, "fin")
        with nogil:
            while n > 0:
                total += <uint64_t>(put_stream_header(room, id, offset + (n & 63), size, with_len, fin) - room)
                n -= 1
        return total
    if not multipath and t & ~<uint64_t>1 != FT_ACK:
        raise ValueError("STREAM, ACK and PATH_ACK only")
    ack_args(frame, multipath, ecn, &a)
    try:
        # Two bytes for the delay at most, whatever the frame says.
        size = ack_size(multipath, a.path, a.starts, a.ends, a.n, 16383, ecn, a.ect0, a.ect1, a.ce)
        p = <uint8_t*>PyMem_Malloc(size)
        if p == NULL:
            raise MemoryError
        with nogil:
            while n > 0:
                total += <uint64_t>(put_ack(p, multipath, a.path, a.starts, a.ends, a.n, n & 16383, ecn,
                                            a.ect0, a.ect1, a.ce) - p)
                n -= 1
        PyMem_Free(p)
    finally:
        PyMem_Free(a.starts)
    return total
