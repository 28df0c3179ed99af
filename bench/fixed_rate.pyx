# cython: language_level=3, freethreading_compatible=True
"""A controller that knows the rate: it shows what pacing and timers make of it, for bench_pacing.py."""

from libc.stdint cimport int64_t, uint64_t

from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._controller cimport Acked, Congestion, Controller, Lost
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._rtt cimport Rtt

cdef Controller CONTROLLER
cdef double RATE = 0                # bytes per ns, of all connections of the process


cdef void on_acked(Congestion* cc, const Acked* acked) noexcept nogil:
    pass


cdef bint on_lost(Congestion* cc, const Lost* lost) noexcept nogil:
    return False


cdef double pacing_rate(const Congestion* cc, const Rtt* rtt) noexcept nogil:
    return RATE


CONTROLLER.name = b"fixed"
CONTROLLER.on_acked = on_acked
CONTROLLER.on_lost = on_lost
CONTROLLER.pacing_rate = pacing_rate


def fix_rate(QuicConnection connection, double rate, uint64_t quantum=0):
    """Send `rate` bytes per second on all paths from now on, whatever happens to them."""
    global RATE
    cdef Path* path = connection.paths.first
    RATE = rate * 1e-9
    while path != NULL:
        path.route.flight.cc.controller = &CONTROLLER
        path.route.flight.cc.cwnd = <uint64_t>1 << 31
        path.route.flight.cc.quantum = quantum
        path = path.next
