"""Datagrams that an endpoint sends without a connection."""

from libc.stdint cimport uint8_t, uint64_t, int64_t

from iroh_fast._packet._headers cimport LongHeader
from iroh_fast.quic._random cimport RandomSource


cdef enum:
    MIN_INITIAL = 1200            # RFC 9000 §14.1: nothing smaller starts a connection or draws an answer
    MIN_RESET_TRIGGER = 22        # shortest datagram that a stateless reset answers


cdef bytes version_negotiation(const LongHeader* header, RandomSource random)
cdef bytes retry_packet(bytes dcid, bytes client_id, bytes scid, bytes token)
cdef bytes initial_close(bytes dcid, bytes client_id, uint64_t code, bytes reason)
cdef bytes stateless_reset(size_t trigger, const uint8_t* token16, RandomSource random)
