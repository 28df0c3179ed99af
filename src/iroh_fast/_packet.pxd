"""C interface of the QUIC packet and frame codec."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t


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

    # Room any put_* function of a control frame may use at most. CRYPTO, STREAM,
    # DATAGRAM, ACK, NEW_TOKEN and CONNECTION_CLOSE have their own size functions.
    MAX_CONTROL_FRAME = 64
    # Header room of STREAM and CRYPTO frames: type, id, offset, length.
    MAX_STREAM_HEADER = 1 + 8 + 8 + 4


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


cdef struct LongHeader:
    uint8_t first                 # still protected
    uint32_t version
    const uint8_t* dcid
    uint8_t dcid_len
    const uint8_t* scid
    uint8_t scid_len
    const uint8_t* token          # Initial; Retry: token without the integrity tag
    size_t token_len
    size_t pn_offset              # from the start of this packet
    size_t packet_len             # whole packet; VN and Retry: rest of the datagram
    int type                      # 0 Initial, 1 0-RTT, 2 Handshake, 3 Retry, -1 version negotiation or unknown version


# ---- varints, RFC 9000 §16 -------------------------------------------------
cdef inline int varint_size(uint64_t v) noexcept nogil:
    return 1 if v < 64 else 2 if v < 16384 else 4 if v < 1073741824 else 8


cdef inline uint8_t* put_varint(uint8_t* p, uint64_t v) noexcept nogil:
    """Write `v` minimally; the caller guarantees 8 bytes of room and v < 2**62."""
    if v < 64:
        p[0] = <uint8_t>v
        return p + 1
    if v < 16384:
        p[0] = <uint8_t>(0x40 | (v >> 8))
        p[1] = <uint8_t>v
        return p + 2
    if v < 1073741824:
        p[0] = <uint8_t>(0x80 | (v >> 24))
        p[1] = <uint8_t>(v >> 16)
        p[2] = <uint8_t>(v >> 8)
        p[3] = <uint8_t>v
        return p + 4
    p[0] = <uint8_t>(0xc0 | (v >> 56))
    p[1] = <uint8_t>(v >> 48)
    p[2] = <uint8_t>(v >> 40)
    p[3] = <uint8_t>(v >> 32)
    p[4] = <uint8_t>(v >> 24)
    p[5] = <uint8_t>(v >> 16)
    p[6] = <uint8_t>(v >> 8)
    p[7] = <uint8_t>v
    return p + 8


cdef inline const uint8_t* get_varint(const uint8_t* p, const uint8_t* end, uint64_t* v) noexcept nogil:
    """Read a varint (non-minimal accepted); NULL when truncated."""
    cdef int n
    if p == NULL or p >= end:
        return NULL
    n = 1 << (p[0] >> 6)
    if end - p < n:
        return NULL
    if n == 1:
        v[0] = p[0]
    elif n == 2:
        v[0] = (<uint64_t>(p[0] & 0x3f) << 8) | p[1]
    elif n == 4:
        v[0] = (<uint64_t>(p[0] & 0x3f) << 24) | (<uint64_t>p[1] << 16) | (<uint64_t>p[2] << 8) | p[3]
    else:
        v[0] = ((<uint64_t>(p[0] & 0x3f) << 56) | (<uint64_t>p[1] << 48) | (<uint64_t>p[2] << 40)
                | (<uint64_t>p[3] << 32) | (<uint64_t>p[4] << 24) | (<uint64_t>p[5] << 16)
                | (<uint64_t>p[6] << 8) | p[7])
    return p + n


# ---- packet numbers, RFC 9000 appendix A -----------------------------------
cdef inline int pn_length(uint64_t pn, int64_t largest_acked) noexcept nogil:
    """Bytes needed for `pn`; smallest n with 2*(pn - largest_acked) < 2**(8n).

    Below 0 means none acknowledged. The caller keeps `pn - largest_acked` below 2**31.
    """
    cdef uint64_t d = 2 * (pn - <uint64_t>(largest_acked if largest_acked > 0 else 0))
    return 1 if d < 0x100 else 2 if d < 0x10000 else 3 if d < 0x1000000 else 4


cdef inline uint64_t pn_expand(uint64_t truncated, int n, uint64_t expected) noexcept nogil:
    """Packet number nearest `expected` (largest received + 1, or 0) that ends in `n` bytes `truncated`."""
    cdef uint64_t win = <uint64_t>1 << (8 * n)
    cdef uint64_t half = win >> 1
    cdef uint64_t candidate = (expected & ~(win - 1)) | truncated
    if candidate + half <= expected and candidate < (<uint64_t>1 << 62) - win:
        return candidate + win
    if candidate > expected + half and candidate >= win:
        return candidate - win
    return candidate


# ---- decoding --------------------------------------------------------------
cdef int parse_long_header(const uint8_t* p, size_t n, LongHeader* h) noexcept nogil
cdef const uint8_t* decode_frame(const uint8_t* p, const uint8_t* end, Frame* f, int* err) noexcept nogil
cdef const uint8_t* next_ack_range(const uint8_t* p, uint64_t* smallest, uint64_t* lo, uint64_t* hi) noexcept nogil


# ---- encoding: no bounds checks, the caller guarantees the room ------------
cdef uint8_t* put_ack(uint8_t* p, bint multipath, uint64_t path, const uint64_t* starts, const uint64_t* ends,
                      int n, uint64_t delay, bint ecn, uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil
cdef size_t ack_size(bint multipath, uint64_t path, const uint64_t* starts, const uint64_t* ends, int n,
                     uint64_t delay, bint ecn, uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil
cdef uint8_t* put_crypto_header(uint8_t* p, uint64_t offset, size_t n) noexcept nogil
cdef uint8_t* put_stream_header(uint8_t* p, uint64_t id, uint64_t offset, size_t n, bint with_len, bint fin) noexcept nogil
cdef uint8_t* put_datagram_header(uint8_t* p, size_t n) noexcept nogil
cdef uint8_t* put_v1(uint8_t* p, uint64_t type, uint64_t a) noexcept nogil
cdef uint8_t* put_v2(uint8_t* p, uint64_t type, uint64_t a, uint64_t b) noexcept nogil
cdef uint8_t* put_v3(uint8_t* p, uint64_t type, uint64_t a, uint64_t b, uint64_t c) noexcept nogil
cdef uint8_t* put_ack_frequency(uint8_t* p, uint64_t seq, uint64_t threshold, uint64_t max_delay_us, uint64_t reordering) noexcept nogil
cdef uint8_t* put_new_cid(uint8_t* p, bint multipath, uint64_t path, uint64_t seq, uint64_t retire_prior_to,
                          const uint8_t* cid, uint8_t cid_len, const uint8_t* token) noexcept nogil
cdef uint8_t* put_path_data(uint8_t* p, uint64_t type, const uint8_t* data8) noexcept nogil
cdef uint8_t* put_address(uint8_t* p, uint64_t type_v4, uint64_t seq, const uint8_t* ip16, uint16_t port) noexcept nogil
cdef uint8_t* put_close(uint8_t* p, bint application, uint64_t code, uint64_t frame_type, const uint8_t* reason, size_t n) noexcept nogil
cdef uint8_t* put_new_token(uint8_t* p, const uint8_t* token, size_t n) noexcept nogil
cdef size_t close_size(bint application, uint64_t code, uint64_t frame_type, size_t n) noexcept nogil
