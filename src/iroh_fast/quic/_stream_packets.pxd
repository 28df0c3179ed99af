"""Frames of streams on their way out: written, acknowledged, lost."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from iroh_fast.quic._sent cimport FrameRec, SentRec
from iroh_fast.quic._stream cimport StreamTable


# At `now`, on a path with this round trip.
cdef uint8_t* write_stream_control(StreamTable* table, uint8_t* at, uint8_t* end, SentRec* sent, uint64_t* counts,
                                   int64_t now, int64_t rtt) noexcept nogil
cdef uint8_t* write_stream_data(StreamTable* table, uint8_t* at, uint8_t* end, SentRec* sent,
                                uint64_t* counts) noexcept nogil
cdef void stream_acked(StreamTable* table, uint64_t id, uint64_t offset, uint64_t n, bint fin) noexcept nogil
cdef void stream_lost(StreamTable* table, uint64_t id, uint64_t offset, uint64_t n, bint fin) noexcept nogil
cdef void stream_reset_acked(StreamTable* table, uint64_t id) noexcept nogil
cdef void stream_control_lost(StreamTable* table, const FrameRec* record) noexcept nogil
cdef void rewind_0rtt(StreamTable* table) noexcept nogil
