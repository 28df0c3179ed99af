"""Frames about streams that arrived. Each gives 0, or a QUIC transport error code with `reason` set."""

from libc.stdint cimport uint8_t, uint64_t

from iroh_fast.quic._stream cimport StreamTable


cdef int got_stream(StreamTable* table, uint64_t id, uint64_t offset, const uint8_t* data, size_t n,
                    bint fin) noexcept nogil
cdef int got_reset(StreamTable* table, uint64_t id, uint64_t code, uint64_t final_size) noexcept nogil
cdef int got_stop_sending(StreamTable* table, uint64_t id, uint64_t code) noexcept nogil
cdef int got_max_stream_data(StreamTable* table, uint64_t id, uint64_t maximum) noexcept nogil
cdef int got_stream_data_blocked(StreamTable* table, uint64_t id) noexcept nogil
cdef void got_max_data(StreamTable* table, uint64_t maximum) noexcept nogil
cdef void got_max_streams(StreamTable* table, int uni, uint64_t maximum) noexcept nogil
cdef void got_peer_limits(StreamTable* table, uint64_t max_data, uint64_t bidi_local, uint64_t bidi_remote, uint64_t uni,
                          uint64_t streams_bidi, uint64_t streams_uni) noexcept nogil
