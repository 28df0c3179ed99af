"""Frames as they arrive: their types, and a decoder over raw memory that allocates nothing."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from iroh_fast._packet._varint cimport get_varint


cdef enum:
    # Frame types: RFC 9000 §19, RFC 9221, ACK frequency draft, multipath draft,
    # address discovery draft, n0 NAT traversal.
    FT_PADDING = 0x00
    FT_PING = 0x01
    FT_ACK = 0x02
    FT_ACK_ECN = 0x03
    FT_RESET_STREAM = 0x04
    FT_STOP_SENDING = 0x05
    FT_CRYPTO = 0x06
    FT_NEW_TOKEN = 0x07
    FT_STREAM = 0x08              # ..0x0f; decode_frame reports 0x08 for all of them
    FT_MAX_DATA = 0x10
    FT_MAX_STREAM_DATA = 0x11
    FT_MAX_STREAMS_BIDI = 0x12
    FT_MAX_STREAMS_UNI = 0x13
    FT_DATA_BLOCKED = 0x14
    FT_STREAM_DATA_BLOCKED = 0x15
    FT_STREAMS_BLOCKED_BIDI = 0x16
    FT_STREAMS_BLOCKED_UNI = 0x17
    FT_NEW_CONNECTION_ID = 0x18
    FT_RETIRE_CONNECTION_ID = 0x19
    FT_PATH_CHALLENGE = 0x1a
    FT_PATH_RESPONSE = 0x1b
    FT_CONNECTION_CLOSE = 0x1c
    FT_APPLICATION_CLOSE = 0x1d
    FT_HANDSHAKE_DONE = 0x1e
    FT_IMMEDIATE_ACK = 0x1f
    FT_DATAGRAM = 0x30            # and 0x31; decode_frame reports 0x30 for both
    FT_ACK_FREQUENCY = 0xaf
    FT_PATH_ACK = 0x3e
    FT_PATH_ACK_ECN = 0x3f
    FT_PATH_ABANDON = 0x3e75
    FT_PATH_STATUS_BACKUP = 0x3e76
    FT_PATH_STATUS_AVAILABLE = 0x3e77
    FT_PATH_NEW_CONNECTION_ID = 0x3e78
    FT_PATH_RETIRE_CONNECTION_ID = 0x3e79
    FT_MAX_PATH_ID = 0x3e7a
    FT_PATHS_BLOCKED = 0x3e7b
    FT_PATH_CIDS_BLOCKED = 0x3e7c
    FT_OBSERVED_ADDR_V4 = 0x9f81a6
    FT_OBSERVED_ADDR_V6 = 0x9f81a7
    FT_ADD_ADDRESS_V4 = 0x3d7f90
    FT_ADD_ADDRESS_V6 = 0x3d7f91
    FT_REACH_OUT_V4 = 0x3d7f92
    FT_REACH_OUT_V6 = 0x3d7f93
    FT_REMOVE_ADDRESS = 0x3d7f94

    # Decoder results (negative), see decode_frame
    DEC_TRUNCATED = -1            # FRAME_ENCODING_ERROR "unexpected end"
    DEC_UNKNOWN = -2              # FRAME_ENCODING_ERROR "invalid frame ID"
    DEC_MALFORMED = -3            # FRAME_ENCODING_ERROR "malformed"


cdef struct Frame:
    uint64_t type                 # normalised as said above
    uint64_t path                 # path id of multipath frames, else 0
    uint64_t id                   # stream id, sequence number, round, or path limit
    uint64_t offset               # STREAM, CRYPTO; RESET_STREAM: final size;
                                  # NEW_CONNECTION_ID: retire_prior_to;
                                  # CONNECTION_CLOSE: frame type; ACK_FREQUENCY: reordering threshold
    uint64_t value                # error code, maximum, limit, next_seq; ACK_FREQUENCY: threshold
    uint64_t value2               # ACK_FREQUENCY: requested max ack delay, microseconds
    const uint8_t* data           # borrows from the packet: STREAM, CRYPTO, DATAGRAM, token,
                                  # reason, connection id, challenge (8 bytes)
    size_t len
    const uint8_t* token          # 16-byte stateless reset token of NEW_CONNECTION_ID
    bint fin
    uint8_t ip[16]                # canonical (IPv4 as ::ffff:a.b.c.d)
    uint16_t port
    # ACK family
    uint64_t largest
    uint64_t delay                # raw wire value, before the exponent
    uint64_t first                # first range length
    uint64_t range_count          # further ranges
    const uint8_t* ranges         # (gap, length)*, already validated
    const uint8_t* ranges_end
    bint has_ecn
    uint64_t ect0, ect1, ce


cdef const uint8_t* decode_frame(const uint8_t* p, const uint8_t* end, Frame* f, int* err) noexcept nogil

cdef inline const uint8_t* trusted_varint(const uint8_t* p, uint64_t* v) noexcept nogil:
    # Only over bytes that decode_frame has already walked.
    if p[0] < 0x40:
        v[0] = p[0]
        return p + 1
    return get_varint(p, p + 8, v)

cdef inline const uint8_t* next_ack_range(const uint8_t* p, uint64_t* smallest, uint64_t* lo, uint64_t* hi) noexcept nogil:  # hot
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
