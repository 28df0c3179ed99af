"""Moves datagrams between sockets and a QUIC endpoint."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport RxMessage, UdpAddr, UdpSocket
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._endpoint cimport QuicEndpoint, Waker
from iroh_fast.quic._transmit cimport Transmit


cdef enum:
    MAX_SOCKETS = 16
    MAX_TRANSPORTS = 8


cdef struct Bound:
    int family                    # 4 or 6
    uint8_t ip[16]                # network of the bind address
    int prefix
    bint unspecified, default_route


cdef struct Carrier:              # a transport that is no socket
    uint8_t subnet[2]
    int max_segments
    uint64_t rx, tx               # bytes


cdef class DriverCore(Waker):
    cdef readonly QuicEndpoint endpoint
    cdef readonly object loop
    cdef readonly list sockets
    cdef Bound bound[16]
    cdef int n_bound
    cdef RxMessage messages[16]
    cdef uint8_t* slab
    cdef list dirty, timers, parked
    cdef object run_soon
    cdef list carrier_sends, carrier_kinds
    cdef Carrier carriers[8]
    cdef int n_carriers
    cdef uint8_t* injected
    cdef readonly bint scheduled, stopped
    cdef int timer_fd
    cdef object timer_handle
    cdef int64_t timer_at
    cdef uint64_t rx_datagrams, rx_gro, rx_v4, rx_v6, tx_v4, tx_v6, dropped
    cdef int choose(self, const UdpAddr* dst, const UdpAddr* src) noexcept nogil
    cdef int put(self, int index, const UdpAddr* dst, const UdpAddr* src, int ecn, const uint8_t* data, size_t n,
                 size_t segment) noexcept
    cdef int carrier_of(self, const uint8_t* ip) noexcept nogil
    cdef void carry(self, int index, const UdpAddr* dst, int ecn, const uint8_t* data, size_t n, size_t segment) noexcept
    cdef int send_to(self, const UdpAddr* dst, const UdpAddr* src, int ecn, const uint8_t* data, size_t n,
                     size_t segment) noexcept
    cdef void mark(self, QuicConnection c)
    cdef void schedule(self)
    cdef bint flush(self, QuicConnection c, int64_t now)
    cdef void settle(self, int64_t now)
    cdef void arm(self, QuicConnection c, int64_t now)
    cdef void set_timer(self, int64_t at)
