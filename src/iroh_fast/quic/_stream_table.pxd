"""The streams of a connection: finding, making and forgetting them."""

from libc.stdint cimport uint64_t

from iroh_fast.quic._stream cimport Stream, StreamTable


cdef void table_free(StreamTable* table) noexcept nogil                  # streams with a handle only lose the table
cdef Stream* table_find(const StreamTable* table, uint64_t id) noexcept nogil
cdef Stream* table_create(StreamTable* table, uint64_t id) noexcept nogil    # NULL: out of memory
cdef void table_close_if_done(StreamTable* table, Stream* stream) noexcept nogil
cdef void table_raise_streams(StreamTable* table, int uni) noexcept nogil
cdef void table_reject_0rtt(StreamTable* table) noexcept nogil
cdef void stream_free(Stream* stream) noexcept nogil
# The stream that a frame of its sender, or of its receiver, is about; NULL without error: closed already.
cdef Stream* table_for_receive(StreamTable* table, uint64_t id, int* err) noexcept nogil
cdef Stream* table_for_send(StreamTable* table, uint64_t id, int* err) noexcept nogil
cdef void stream_reset(StreamTable* table, Stream* stream, uint64_t code) noexcept nogil
cdef void stream_confirmed(StreamTable* table) noexcept nogil
