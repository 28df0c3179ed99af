"""Loss recovery and congestion control of a path: the interface of the part.

`recovery_on_sent` (in `_recovery_state`) when a packet leaves, `on_ack` (in `_acknowledged`) when an acknowledgement comes,
`recovery_timers` and the two timers' functions as time passes, `drop_space` and `forget_sent` (in `_loss`) when packets are of
no interest any more. A congestion controller is a module of its own behind `_controller`, and a line in `_controllers`.
"""

from libc.stdint cimport uint64_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._keys cimport LEVEL_1RTT
from iroh_fast.quic._loss cimport declare_lost
from iroh_fast.quic._paths cimport Path
from iroh_fast.quic._space cimport PnSpace


cdef enum:
    LEAST_SENT = 32               # bytes of the window that every record of a packet in flight stands for, and
    SPARE_SENT = 65536            # as many more


cdef inline void limit_records(Connection conn, Path* path) noexcept nogil:
    """Challenges and probes leave beside a full window: of a peer that acknowledges nothing, no more is kept than of others."""
    while path.recovery.space.sent.outstanding * <uint64_t>LEAST_SENT > path.route.flight.cc.cwnd + SPARE_SENT:
        declare_lost(conn, path, &path.recovery.space, path.recovery.space.sent.head, LEVEL_1RTT)

cdef void recovery_timers(Connection conn, Path* path) noexcept nogil
cdef void recovery_on_loss_timer(Connection conn, Path* path) noexcept nogil
cdef void recovery_on_probe_timer(Connection conn, Path* path) noexcept nogil
cdef void recovery_try_again(Connection conn, Path* path) noexcept nogil
cdef void recovery_restart(Path* path, PnSpace* initial) noexcept nogil
cdef void recovery_stop(Path* path) noexcept nogil
cdef void recovery_abandon(Connection conn, Path* path) noexcept nogil
cdef void log_metrics(Connection conn, Path* path) noexcept nogil
