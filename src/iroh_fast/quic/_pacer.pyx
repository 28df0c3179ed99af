"""Pacing of one path (RFC 9002 §7.7).

Bursts follow each other at the times at which a quantum has been earned since the last one. A look that comes late, as
every timer does, finds what was earned meanwhile. What timers are usually late by leaves with the next burst. What is
owed for one late turn of the event loop leaves with the next few, which are an eighth of it larger and come at half their
distance. So the rate is kept whatever the timers are like, and no single turn makes a burst of its whole length.
"""

cimport cython
from libc.string cimport memset

from iroh_fast.quic._controller cimport clamp_mtu
from iroh_fast.quic._time cimport MAX_NS


cdef enum:
    OPENING = 18000               # bytes: an initial window (RFC 9002 §7.2), and a handshake beside it
    MAX_QUANTUM = 524288          # bytes
    MAX_DEBT = 16                 # packets
    LATE_STEP = 125000            # ns that are believed of a look at once, above twice as late as they are

# How long the path is busy with one burst (ns), and how long at least, where the controller wants less: the event loop
# wakes up once for each.
cdef double QUANTUM_NS = 1e6
cdef double LEAST_NS = 2.5e5
# Time of which the tokens are kept while data waits for them: two ticks of a coarse clock.
cdef double LATE_NS = 32e6
cdef double MAX_BYTES = 1e15      # per any of these


cdef void pacer_init(Pacer* pacer, int64_t now) noexcept nogil:
    """Nothing was sent yet: the first flight need not wait."""
    memset(pacer, 0, sizeof(Pacer))
    pacer.filled_at = now
    pacer.granted_at = now


cdef inline double bounded(double rate, double ns) noexcept nogil:
    return rate * ns if rate * ns < MAX_BYTES else MAX_BYTES


@cython.cdivision(True)
cdef void resize(Pacer* pacer, double rate, uint64_t mtu, uint64_t quantum) noexcept nogil:
    cdef double packet = <double>clamp_mtu(mtu)
    cdef double burst = MAX_QUANTUM
    cdef double least, apart = 0
    if rate > 0:
        burst = bounded(rate, QUANTUM_NS)
        if quantum:
            least = bounded(rate, LEAST_NS)
            burst = <double>quantum if <double>quantum > least else least
        if burst > MAX_QUANTUM:
            burst = MAX_QUANTUM
    burst = burst / packet + 0.5
    pacer.quantum = <int64_t>packet * (<int64_t>burst if burst >= 1 else 1)
    if rate > 0:
        apart = 0.5 * <double>pacer.quantum / rate
    pacer.apart = <int64_t>apart if apart < <double>MAX_NS else MAX_NS
    pacer.most = pacer.quantum + <int64_t>bounded(rate, LATE_NS)
    pacer.rate = rate
    pacer.mtu = mtu
    pacer.asked = quantum
    if pacer.burst > pacer.quantum and pacer.sent >= OPENING:
        pacer.burst = pacer.quantum


cdef void fill(Pacer* pacer, int64_t now) noexcept nogil:
    cdef int64_t limit = pacer.most if pacer.behind else pacer.quantum
    cdef int64_t debt = -MAX_DEBT * <int64_t>clamp_mtu(pacer.mtu)
    cdef double add
    cdef int64_t whole            # signed numbers become doubles, and back, with one instruction
    if pacer.tokens < debt:
        pacer.tokens = debt
    if now > pacer.filled_at:
        add = pacer.carry + pacer.rate * <double>(now - pacer.filled_at)
        pacer.filled_at = now
        if add >= <double>(limit - pacer.tokens):
            pacer.tokens = limit
            pacer.carry = 0
            return
        # Rounded, with the rest kept: otherwise frequent polls would gain or lose rate.
        whole = <int64_t>(add + 0.5)
        pacer.tokens += whole
        pacer.carry = add - <double>whole
    if pacer.tokens > limit:
        pacer.tokens = limit


@cython.cdivision(True)
cdef int64_t wait_for(const Pacer* pacer, int64_t now, int64_t tokens) noexcept nogil:
    """Time until so many tokens are there, and half a quantum's time has passed since the last burst."""
    cdef int64_t wait = 0, apart = pacer.apart - (now - pacer.granted_at)
    cdef double missing
    if tokens > pacer.tokens:
        missing = <double>(tokens - pacer.tokens) / pacer.rate
        # never too early, for lack of a part of a byte
        wait = <int64_t>missing + 1 if missing < <double>MAX_NS else MAX_NS
    return wait if wait > apart else apart


cdef inline void learn(Pacer* pacer, int64_t late) noexcept nogil:
    """Looks that are late again and again have to take more with them; a single one may not."""
    cdef int64_t believed = 2 * pacer.late + LATE_STEP
    if late < 0:
        late = 0
    pacer.late += ((late if late < believed else believed) - pacer.late) // 8


@cython.cdivision(True)
cdef inline int64_t extra(const Pacer* pacer) noexcept nogil:
    """What may leave beyond a quantum, in whole packets."""
    cdef int64_t packet = <int64_t>clamp_mtu(pacer.mtu)
    cdef int64_t owed = (pacer.tokens - pacer.quantum) // 8
    cdef int64_t usual = <int64_t>bounded(pacer.rate, <double>pacer.late)
    return ((usual if usual > owed else owed) + packet // 2) // packet * packet


cdef int64_t pacer_refill(Pacer* pacer, int64_t now, uint64_t need, double rate, uint64_t mtu, uint64_t quantum) noexcept nogil:
    """Waiting for a whole quantum, not for a packet, is deliberate: one wake-up, one system call."""
    cdef int64_t wait
    if rate != pacer.rate or mtu != pacer.mtu or quantum != pacer.asked:
        resize(pacer, rate, mtu, quantum)
    if rate <= 0:
        pacer.tokens = pacer.burst = pacer.quantum
        pacer.behind = False
        if now > pacer.filled_at:
            pacer.filled_at = now
        return 0
    if pacer.burst >= <int64_t>need:
        return 0
    fill(pacer, now)
    if pacer.sent + need <= OPENING:
        pacer.burst = OPENING - <int64_t>pacer.sent
        return 0
    if pacer.behind or pacer.tokens < <int64_t>need:
        wait = wait_for(pacer, now, pacer.quantum)
        if wait > 0:
            pacer.behind = True
            pacer.due = now + wait
            return wait
    if pacer.behind:
        learn(pacer, now - pacer.due)
    pacer.burst = pacer.quantum + extra(pacer)
    if pacer.tokens < pacer.burst:
        pacer.burst = pacer.tokens
    pacer.granted_at = now
    return 0


cdef void pacer_on_idle(Pacer* pacer, int64_t now) noexcept nogil:
    if not pacer.behind and pacer.burst <= 0:
        return
    if pacer.rate > 0:
        fill(pacer, now)
    pacer.behind = False
    pacer.burst = 0
    if pacer.tokens > pacer.quantum:
        pacer.tokens = pacer.quantum


cdef int64_t pacer_next(const Pacer* pacer, int64_t now) noexcept nogil:
    cdef int64_t wait, packet = <int64_t>clamp_mtu(pacer.mtu)
    cdef Pacer copy = pacer[0]
    if pacer.rate <= 0 or pacer.burst >= packet or pacer.sent + <uint64_t>packet <= OPENING:
        return now
    fill(&copy, now)
    wait = wait_for(&copy, now, packet)
    return now + wait if wait > 0 else now
