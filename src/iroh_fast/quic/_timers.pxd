"""A table of timers: one fixed array of due times for a connection, and one for each path.

What may expire is named here, what sets it and what happens then is in `_timeouts` or at the event that starts it.
"""

from libc.stdint cimport int64_t

from iroh_fast.quic._time cimport NEVER


cdef enum:
    # of a connection, in the order in which they are looked at
    TIMER_CLOSE = 0               # closing or draining ends
    TIMER_HANDSHAKE = 1           # it takes too long
    TIMER_IDLE = 2
    TIMER_KEYS = 3                # previous 1-RTT keys and the server's 0-RTT keys go
    TIMER_NO_PATH = 4             # the last path was abandoned, and none came
    TIMER_KEEP_ALIVE = 5
    TIMER_PROBES = 6              # addresses of the peer are tried again
    N_CONNECTION_TIMERS = 7

    # of a path
    TIMER_DRAIN = 0               # an abandoned path is forgotten
    TIMER_LOSS = 1                # packets count as lost
    TIMER_PROBE = 2               # the probe timeout (RFC 9002 §6.2)
    TIMER_ACK = 3
    TIMER_CHALLENGE = 4           # PATH_CHALLENGE is repeated
    TIMER_VALIDATION = 5          # a migration has failed
    TIMER_PACING = 6
    TIMER_PATH_IDLE = 7
    TIMER_HEARTBEAT = 8           # nothing was sent for long
    TIMER_SILENCE = 9             # nothing came for long
    TIMER_MTU = 10                # the next search

    N_TIMERS = 11


cdef struct Timers:
    int64_t due[11]               # NEVER: not set


cdef inline void timers_clear(Timers* timers) noexcept nogil:
    cdef int i
    for i in range(N_TIMERS):
        timers.due[i] = NEVER


cdef inline void timer_set(Timers* timers, int which, int64_t at) noexcept nogil:
    timers.due[which] = at


cdef inline void timer_clear(Timers* timers, int which) noexcept nogil:
    timers.due[which] = NEVER


cdef inline bint timer_is_set(const Timers* timers, int which) noexcept nogil:
    return timers.due[which] != NEVER


cdef inline int64_t timers_next(const Timers* timers, int n) noexcept nogil:
    """The earliest due time of the first `n`, NEVER when none is set."""
    cdef int64_t earliest = NEVER
    cdef int i
    for i in range(n):
        if timers.due[i] < earliest:
            earliest = timers.due[i]
    return earliest


cdef inline int timers_expired(Timers* timers, int64_t now, int after) noexcept nogil:
    """Take the first timer behind `after` that is due at `now`; -1 when there is none."""
    cdef int i
    for i in range(after + 1, N_TIMERS):
        if timers.due[i] <= now:
            timers.due[i] = NEVER
            return i
    return -1
