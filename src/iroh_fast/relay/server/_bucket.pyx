"""Token buckets: how much a client may send, counted in bytes and refilled every 100 ms."""

from libc.stdint cimport int64_t

from iroh_fast.relay.server._state cimport REFILL_MS, Bucket


cdef void bucket_fill(Bucket* b, int64_t maximum, int64_t refill, int64_t now_ms) noexcept nogil:
    b.fill = b.maximum = maximum
    b.refill = refill
    b.last_ms = now_ms


cdef int64_t bucket_take(Bucket* b, int64_t n, int64_t now_ms) noexcept nogil:
    """Take `n` bytes; 0, or the time in ms until which reading has to pause."""
    cdef int64_t periods = (now_ms - b.last_ms) // REFILL_MS
    if periods > 0:
        # a bucket that was full long ago must not overflow the product
        if periods > (b.maximum - b.fill) // b.refill:
            b.fill = b.maximum
        else:
            b.fill += periods * b.refill
        b.last_ms += periods * REFILL_MS
    b.fill -= n
    if b.fill > 0:
        return 0
    return b.last_ms + (-b.fill // b.refill + 1) * REFILL_MS


cdef class TokenBucket:
    """The receive limit of one client, for tests and tools: bytes, refilled every 100 ms.

    Parameters
    ----------
    maximum, refill : int
        Size of the bucket, and bytes added per 100 ms; both above 0.
    now_ms : int
        When it starts, full.
    """

    cdef Bucket bucket

    def __init__(self, int64_t maximum, int64_t refill, int64_t now_ms=0):
        if maximum <= 0 or refill <= 0:
            raise ValueError("a token bucket needs a size and a refill above 0")
        bucket_fill(&self.bucket, maximum, refill, now_ms)

    @property
    def fill(self):
        return self.bucket.fill

    def consume(self, int64_t nbytes, int64_t now_ms):
        """Take `nbytes`; returns None, or the time in ms until which reading has to pause."""
        return bucket_take(&self.bucket, nbytes, now_ms) or None
