"""Moves datagrams between sockets and a QUIC endpoint, and lets its time pass."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport RxMessage, UdpAddr, UdpSocket
from iroh_fast.net._deadlines cimport Deadlines
from iroh_fast.net._outbox cimport Outbox, OutboxOwner
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._endpoint cimport QuicEndpoint, Waker


cdef class DriverCore(Waker):
    cdef readonly QuicEndpoint endpoint
    cdef readonly object loop
    cdef Outbox outbox
    cdef RxMessage messages[16]
    cdef uint8_t masks[1024]      # of the packets of one message: MAX_MASKS * 16
    cdef list dirty, held
    cdef list timers              # what the deadlines hold
    cdef Deadlines deadlines
    cdef object run_soon
    cdef public object on_broken  # (a socket, errno or 0): it seems to be of no use any more
    cdef int in_vain[16]          # of each socket: MAX_SOCKETS
    cdef uint8_t* injected
    cdef readonly bint scheduled, stopped
    cdef int timer_fd
    cdef object timer_handle
    cdef int64_t timer_at
    cdef uint64_t rx_datagrams, rx_gro, rx_v4, rx_v6, rx_stun, rx_foreign, timer_wakes
    cdef void mark(self, QuicConnection conn)
    cdef void schedule(self)
    cdef readonly dict waiting    # STUN: transaction -> what takes the answer
    cdef int take(self, const RxMessage* message, int64_t now)
    cdef void not_quic(self, const uint8_t* data, uint32_t n, const UdpAddr* src) noexcept
    cdef void nothing_came(self, int index, int error) noexcept
    cdef void tell_broken(self, int index, int error) noexcept
    cdef void answer(self)
    cdef void abandon(self)
    cdef bint flush(self, QuicConnection conn, int64_t now)
    cdef void settle(self, int64_t now)
    cdef void arm(self, QuicConnection conn, int64_t now)
    cdef void set_timer(self, int64_t at)


cdef class Sender(OutboxOwner):
    """What the outbox tells the engine."""
    cdef DriverCore core          # None once it has stopped
