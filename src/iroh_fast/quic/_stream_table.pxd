"""The streams of a connection: finding, making and forgetting them."""

from libc.stdint cimport uint32_t, uint64_t

from iroh_fast.quic._stream cimport Stream, StreamTable, stream_is_local


cdef void table_free(StreamTable* table) noexcept nogil                  # streams with a handle only lose the table
cdef Stream* table_create(StreamTable* table, uint64_t id) noexcept nogil    # NULL: out of memory
cdef void table_close_if_done(StreamTable* table, Stream* stream) noexcept nogil
cdef void table_raise_streams(StreamTable* table, int uni) noexcept nogil
cdef void table_reject_0rtt(StreamTable* table) noexcept nogil
cdef void stream_free(Stream* stream) noexcept nogil
# The stream that a frame of its receiver is about; NULL without error: closed already.
cdef Stream* table_for_send(StreamTable* table, uint64_t id, int* err) noexcept nogil
cdef void stream_reset(StreamTable* table, Stream* stream, uint64_t code) noexcept nogil
cdef void stream_confirmed(StreamTable* table) noexcept nogil

cdef inline uint32_t bucket_of(uint64_t id, uint32_t n_buckets) noexcept nogil:
    return <uint32_t>(id ^ (id >> 2)) & (n_buckets - 1)

cdef inline Stream* table_find(const StreamTable* table, uint64_t id) noexcept nogil:
    cdef inline Stream* stream
    if table.buckets == NULL:
        return NULL
    stream = table.buckets[bucket_of(id, table.n_buckets)]
    while stream != NULL and stream.id != id:
        stream = stream.following
    return stream

cdef Stream* table_for_receive_rest(StreamTable* table, uint64_t id, int* err) noexcept nogil

cdef inline Stream* table_for_receive(StreamTable* table, uint64_t id, int* err) noexcept nogil:  # hot
    """The stream that a frame of its sender is about; NULL without error: closed already."""
    cdef Stream* stream = table_find(table, id)
    if stream == NULL or (id & 2 and stream_is_local(table, id)):
        return table_for_receive_rest(table, id, err)
    err[0] = 0
    return stream
