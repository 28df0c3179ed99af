"""Durations of the core: nanoseconds that cannot overflow, whatever a peer or a user chose.

Every duration that enters is limited to MAX_NS here, and every product of one is made here. Sums of a few durations, and of a
duration and a point in time, then fit by themselves.
"""

from libc.stdint cimport int64_t, uint64_t


cdef extern from *:
    """
    #define IF_TIME_US INT64_C(1000)
    #define IF_TIME_MS INT64_C(1000000)
    #define IF_TIME_SECOND INT64_C(1000000000)
    #define IF_TIME_MAX (INT64_C(1) << 56)          /* 2.3 years: nobody waits longer */
    #define IF_TIME_NEVER INT64_MAX
    """
    const int64_t US "IF_TIME_US"
    const int64_t MS "IF_TIME_MS"
    const int64_t SECOND "IF_TIME_SECOND"
    const int64_t MAX_NS "IF_TIME_MAX"
    const int64_t NEVER "IF_TIME_NEVER"


cdef inline int64_t clamp_ns(int64_t duration) noexcept nogil:
    if duration < 0:
        return 0
    return MAX_NS if duration > MAX_NS else duration


cdef inline int64_t ns_from_us(uint64_t us) noexcept nogil:
    return MAX_NS if us > <uint64_t>(MAX_NS // US) else <int64_t>us * US


cdef inline int64_t ns_from_ms(uint64_t ms) noexcept nogil:
    return MAX_NS if ms > <uint64_t>(MAX_NS // MS) else <int64_t>ms * MS


cdef inline int64_t ns_from_seconds(double seconds) noexcept nogil:
    """0 for what is negative or no number."""
    if not seconds > 0:
        return 0
    return MAX_NS if seconds >= <double>MAX_NS * 1e-9 else <int64_t>(seconds * 1e9)


cdef inline int64_t ns_of(object seconds) except? -1:
    """A duration of the application's; 0 for None, which means none.

    At least a millisecond, as short as timers of event loops are: what is due more often would never let go.
    """
    cdef int64_t ns
    if seconds is None:
        return 0
    ns = ns_from_seconds(<double>seconds)
    return ns if ns > MS else MS


cdef inline int64_t times(int64_t duration, int64_t factor) noexcept nogil:
    """`factor` times a duration, both not negative."""
    return MAX_NS if factor > 0 and duration > MAX_NS // factor else duration * factor


cdef inline int64_t doubled(int64_t duration, int n) noexcept nogil:
    """A duration doubled `n` times."""
    return MAX_NS if n > 55 or duration > (MAX_NS >> n) else duration << n
