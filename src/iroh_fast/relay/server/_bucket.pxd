"""Token buckets, for limits on what clients send."""

from libc.stdint cimport int64_t

from iroh_fast.relay.server._state cimport Bucket


cdef void bucket_fill(Bucket* b, int64_t maximum, int64_t refill, int64_t now_ms) noexcept nogil
cdef int64_t bucket_take(Bucket* b, int64_t n, int64_t now_ms) noexcept nogil
