"""Packet headers (RFC 9000 §17, RFC 8999)."""

from libc.stdint cimport uint8_t, uint32_t


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


cdef int parse_long_header(const uint8_t* p, size_t n, LongHeader* h) noexcept nogil
