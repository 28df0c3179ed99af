"""Frames on their way out. No bounds checks: the caller guarantees the room."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from iroh_fast._packet._frames cimport FT_DATAGRAM, FT_STREAM
from iroh_fast._packet._varint cimport put_varint


cdef enum:
    # Room any put_* function of a control frame may use at most. CRYPTO, STREAM,
    # DATAGRAM, ACK, NEW_TOKEN and CONNECTION_CLOSE have their own size functions.
    MAX_CONTROL_FRAME = 64
    # Header room of STREAM and CRYPTO frames: type, id, offset, length.
    MAX_STREAM_HEADER = 1 + 8 + 8 + 4


cdef uint8_t* put_ack(uint8_t* p, bint multipath, uint64_t path, const uint64_t* starts, const uint64_t* ends,
                      int n, uint64_t delay, bint ecn, uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil
cdef size_t ack_size(bint multipath, uint64_t path, const uint64_t* starts, const uint64_t* ends, int n,
                     uint64_t delay, bint ecn, uint64_t ect0, uint64_t ect1, uint64_t ce) noexcept nogil
cdef uint8_t* put_crypto_header(uint8_t* p, uint64_t offset, size_t n) noexcept nogil
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

cdef inline uint8_t* put_stream_header(uint8_t* p, uint64_t id, uint64_t offset, size_t n, bint with_len, bint fin) noexcept nogil:  # hot
    """Write a STREAM frame up to its `n` data bytes; without length it must end the packet."""
    p[0] = FT_STREAM | (4 if offset else 0) | (2 if with_len else 0) | (1 if fin else 0)
    p = put_varint(p + 1, id)
    if offset:
        p = put_varint(p, offset)
    return put_varint(p, n) if with_len else p

cdef inline uint8_t* put_datagram_header(uint8_t* p, size_t n) noexcept nogil:
    """Write type 0x31 and the length; `n` data bytes follow."""
    p[0] = FT_DATAGRAM | 1
    return put_varint(p + 1, n)
