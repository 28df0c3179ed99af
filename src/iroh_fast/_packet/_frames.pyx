"""Frames as they arrive. Nothing here touches a Python object.

Wire formats: RFC 9000 §19, RFC 9221 (DATAGRAM), the ACK frequency, multipath and address discovery drafts, and iroh's
NAT traversal frames.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from iroh_fast._packet._varint cimport MAX_CID, PATH_ID_MAX, STREAMS_MAX, TOKEN_LEN, V4_MAPPED, VARINT_MAX, get_varint


cdef inline const uint8_t* fail(int* err, int code) noexcept nogil:
    err[0] = code
    return NULL


cdef inline const uint8_t* quick_varint(const uint8_t* p, const uint8_t* end, uint64_t* v) noexcept nogil:
    # Ids, counts and ACK gaps are nearly always one byte.
    if p != NULL and p < end and p[0] < 0x40:
        v[0] = p[0]
        return p + 1
    return get_varint(p, end, v)


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
