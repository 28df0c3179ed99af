"""What leaves an endpoint: the sockets and transports, and a queue that many connections share in one turn."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport TxMessage, UdpAddr, UdpSocket
from iroh_fast.quic._connection cimport QuicConnection


cdef enum:
    MAX_SOCKETS = 16
    MAX_TRANSPORTS = 8
    BATCH_BYTES = 65536           # largest batch of one call, no smaller than any datagram
    CARRIED_BYTES = 65500         # the same for a transport: what a frame of a relay holds
    MAX_QUEUED = 64               # datagrams and batches that leave together


cdef struct Bound:
    int family                    # 4 or 6
    uint8_t ip[16]                # network of the bind address
    int prefix
    bint unspecified, default_route
    bint down                     # closed, to be opened again


cdef struct Carrier:              # a transport that is no socket
    uint8_t subnet[2]
    int max_segments
    int max_datagram              # bytes, 0: unknown
    uint64_t rx, tx               # bytes


cdef class OutboxOwner:
    cdef void refused(self, QuicConnection conn, const UdpAddr* dst, size_t size, int error) noexcept
    cdef void hold(self, QuicConnection conn) noexcept
    cdef void released(self) noexcept
    cdef void broken(self, int index, int error) noexcept


cdef class Outbox:
    cdef OutboxOwner owner        # which owns it; None after `close`
    cdef object loop
    cdef readonly list sockets
    cdef UdpSocket first_socket
    cdef Bound bound[16]
    cdef int n_bound
    cdef list sends, kinds        # of the transports
    cdef Carrier carriers[8]
    cdef int n_carriers
    cdef uint8_t* slab
    cdef size_t used              # by what is queued
    cdef TxMessage queue[64]
    cdef PyObject* senders[64]    # borrowed; NULL: the endpoint itself
    cdef int via[64]              # index of the socket
    cdef int n_queued
    cdef list parked              # per socket, batches that wait for it
    cdef readonly int blocked     # sockets with parked batches
    cdef int64_t blocked_since[16]
    cdef uint64_t tx_v4, tx_v6, dropped
    cdef uint8_t* space(self) noexcept nogil
    cdef int max_segments(self) noexcept nogil
    cdef int carrier_of(self, const uint8_t* ip) noexcept nogil
    cdef int largest_payload(self, const UdpAddr* dst, const UdpAddr* src) noexcept nogil
    cdef int choose(self, const UdpAddr* dst, const UdpAddr* src) noexcept nogil
    cdef void carry(self, int index, const UdpAddr* dst, const UdpAddr* src, int ecn, const uint8_t* data, size_t n,
                    size_t segment) noexcept
    cdef void put(self, QuicConnection conn, const UdpAddr* dst, const UdpAddr* src, int ecn, const uint8_t* data,
                  size_t n, size_t segment) noexcept
    cdef void flush(self) noexcept
    cdef void settle_run(self, int first, int end) noexcept
    cdef void park(self, int index, QuicConnection conn, const TxMessage* message) noexcept
    cdef void wait(self, int index) noexcept
    cdef void release(self, int index) noexcept


cdef bint is_private(const uint8_t* ip) noexcept nogil
