"""UDP: queries in, answers out, in batches."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from iroh_fast._batch cimport TX_SLOTS, RxMessage, TxMessage, UdpAddr, UdpSocket
from iroh_fast.dns_server._answers cimport Answerer
from iroh_fast.dns_server._limits cimport PrefixLimiter


cdef struct Peer:
    UdpAddr source
    UdpAddr local                 # where the query came to; the answer comes from there


cdef class UdpPort:
    cdef readonly UdpSocket sock
    cdef readonly object missed   # deque of (query, peer), for keys that have to be looked up
    cdef Answerer answerer
    cdef PrefixLimiter limiter
    cdef uint8_t* out             # answers behind each other
    cdef size_t used
    cdef TxMessage items[64]
    cdef int count
    cdef int segments             # answers in the last item
    cdef uint64_t ignored         # from nobody that could be answered
    cdef uint64_t dropped         # answers that met a full queue
    cdef uint64_t overflow        # queries that had to be looked up when too many waited

    cdef int _take(self, const uint8_t* query, size_t n, const RxMessage* m, int64_t now_ns) except -1
    cdef _miss(self, const uint8_t* query, size_t n, const RxMessage* m)
    cdef void _queue(self, const UdpAddr* source, const UdpAddr* local, size_t n) noexcept nogil
    cdef void _flush(self) noexcept nogil
    cdef void _send_short(self, TxMessage* item) noexcept nogil
