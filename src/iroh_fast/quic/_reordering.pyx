"""Thresholds of loss detection that learn from spurious losses (RFC 9002 §6.1.1, §6.1.2; RFC 8985 §6.2, step 4)."""

cimport cython

from iroh_fast.quic._rtt cimport rtt_conservative, rtt_get
from iroh_fast.quic._time cimport MS

cdef enum:
    CALM_EVENTS = 16              # RFC 8985: as long as a step is kept
    MAX_STEPS = 64


@cython.cdivision(True)
cdef int64_t reordering_delay(const Reordering* reordering, const Rtt* rtt, double time_threshold) noexcept nogil:
    cdef int64_t least = rtt_conservative(rtt)
    cdef int64_t delay = <int64_t>(<double>least * time_threshold)
    cdef int64_t window
    if reordering.seen:
        window = rtt.min / 4 * reordering.steps
        if window > rtt_get(rtt):
            window = rtt_get(rtt)
        if least + window > delay:
            delay = least + window
    return delay if delay > MS else MS


cdef void reordering_on_spurious(Reordering* reordering, uint64_t pn, uint64_t next_pn) noexcept nogil:
    if not reordering.seen:
        reordering.seen = True
        reordering.steps = 1
        reordering.round_end = next_pn
    elif pn >= reordering.round_end:
        # At most one step per round trip: what was declared lost before the last step does not ask for another.
        if reordering.steps < MAX_STEPS:
            reordering.steps += 1
        reordering.round_end = next_pn
    reordering.calm = CALM_EVENTS


cdef void reordering_on_event(Reordering* reordering) noexcept nogil:
    if not reordering.seen:
        return
    reordering.calm -= 1
    if reordering.calm > 0:
        return
    # DIFFERS: RFC 8985 falls back to one step at once, and never forgets that packets overtake each other. A path that needs
    # three steps would pay two rounds of spurious losses every sixteen events; one that needs none any more waits for nothing.
    reordering.calm = CALM_EVENTS
    reordering.steps -= 1
    reordering.seen = reordering.steps > 0
