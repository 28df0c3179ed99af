"""RTT estimation, congestion control, pacing and MTU discovery of one path.

Plain C structs driven by ``noexcept nogil`` functions: no allocation, no Python object, no
clock. All times are nanoseconds on the caller's monotonic clock and not negative, all sizes are
bytes of UDP payload. The classes at the end of the file wrap one struct each so that tests,
simulators and benchmarks can drive the very same code; they do no locking of their own.

Sources: RFC 9002 (RTT, NewReno, recovery epochs), RFC 9438 (CUBIC), RFC 8899 and RFC 9000
§14 (path MTU discovery); constants equal those an iroh 1.x endpoint runs with.
"""

cimport cython
from libc.math cimport cbrt
from libc.string cimport memset


cdef extern from *:
    """
    #define IF_MAX_NS (INT64_C(1) << 56)            /* 2.3 years: 7 * this still fits */
    #define IF_MAX_WINDOW (UINT64_C(1) << 60)       /* 7 * this still fits */
    #define IF_MAX_ACKED (UINT64_C(1) << 26)        /* bytes one call may grow by in avoidance */
    #define IF_UNPACED_WINDOW (UINT64_C(1) << 32)
    #define IF_INITIAL_WINDOW 14720                 /* RFC 9002 section 7.2 */
    #define IF_CUBIC_C 0.4
    #define IF_CUBIC_BETA 0.7
    #define IF_CUBIC_RENO (3.0 * 0.3 / 1.7)         /* 3 * (1 - beta) / (1 + beta) */
    """
    const int64_t MAX_NS "IF_MAX_NS"
    const uint64_t MAX_WINDOW "IF_MAX_WINDOW"
    const uint64_t MAX_ACKED "IF_MAX_ACKED"
    const uint64_t UNPACED_WINDOW "IF_UNPACED_WINDOW"
    const uint64_t INITIAL_WINDOW "IF_INITIAL_WINDOW"
    const uint64_t UINT64_MAX
    const double CUBIC_C "IF_CUBIC_C"
    const double CUBIC_BETA "IF_CUBIC_BETA"
    const double CUBIC_RENO "IF_CUBIC_RENO"


cdef enum:
    MIN_BURST = 10                # packets, pacer bucket
    MAX_BURST = 256
    MAX_CUBIC_STEPS = 65536
    MAX_LOST_PROBES = 3           # of one size, then it is too big
    BH_THRESHOLD = 3              # more suspicious bursts than this are a black hole
    BH_MAX_SEEN = 4
    MTU_FLOOR = 1200              # RFC 9000 §14: every QUIC path carries this


cdef inline int64_t clamp_ns(int64_t v) noexcept nogil:
    if v < 0:
        return 0
    return MAX_NS if v > MAX_NS else v


cdef inline uint64_t clamp_mtu(uint64_t mtu) noexcept nogil:
    if mtu == 0:
        return 1
    return 65535 if mtu > 65535 else mtu


# --------------------------------------------------------------------------------------
# RTT


@cython.cdivision(True)
cdef void rtt_init(Rtt* r, int64_t initial) noexcept nogil:
    """Start without a sample; `initial` (ns) stands in until the first one."""
    initial = clamp_ns(initial)
    r.latest = initial
    r.smoothed = 0
    r.var = initial / 2
    r.min = initial
    r.has_sample = False
    r.first_sample_at = -1


@cython.cdivision(True)
cdef void rtt_sample(Rtt* r, int64_t now, int64_t ack_delay, int64_t rtt) noexcept nogil:
    """Take one sample (ns), RFC 9002 §5. The caller limits `ack_delay` to what the peer declared."""
    cdef int64_t adjusted, deviation
    rtt = clamp_ns(rtt)
    ack_delay = clamp_ns(ack_delay)
    r.latest = rtt
    if not r.has_sample:
        r.has_sample = True
        r.first_sample_at = now
        r.smoothed = rtt
        r.var = rtt / 2
        r.min = rtt
        return
    if rtt < r.min:
        r.min = rtt
    # A delay that would push the sample below the minimum is not believed.
    adjusted = rtt - ack_delay if r.min + ack_delay <= rtt else rtt
    deviation = r.smoothed - adjusted
    if deviation < 0:
        deviation = -deviation
    r.var = (3 * r.var + deviation) / 4
    r.smoothed = (7 * r.smoothed + adjusted) / 8


# --------------------------------------------------------------------------------------
# Congestion control


cdef inline uint64_t min_window(const Congestion* c) noexcept nogil:
    return 2 * c.mtu


cdef inline void grow(Congestion* c, uint64_t by) noexcept nogil:
    c.cwnd = c.cwnd + by if by < MAX_WINDOW - c.cwnd else MAX_WINDOW


cdef inline uint64_t reduced(const Congestion* c, uint64_t tenths) noexcept nogil:
    cdef uint64_t w = c.cwnd * tenths // 10
    return w if w > min_window(c) else min_window(c)


cdef void cc_init(Congestion* c, int kind, uint64_t mtu, int64_t now) noexcept nogil:
    """Fresh controller; an unknown `kind` is Cubic. Window clamp(14720, 2 MTU, 10 MTU)."""
    memset(c, 0, sizeof(Congestion))
    c.kind = CC_NEW_RENO if kind == CC_NEW_RENO else CC_CUBIC
    c.mtu = clamp_mtu(mtu)
    c.cwnd = INITIAL_WINDOW
    if c.cwnd < 2 * c.mtu:
        c.cwnd = 2 * c.mtu
    if c.cwnd > 10 * c.mtu:
        c.cwnd = 10 * c.mtu
    c.ssthresh = UINT64_MAX
    c.recovery_start = now if c.kind == CC_NEW_RENO else -1
    c.saved_recovery_start = -1


@cython.cdivision(True)
cdef void cubic_avoidance(Congestion* c, int64_t now, uint64_t size, int64_t rtt) noexcept nogil:
    cdef double mss = <double>c.mtu
    cdef double t, r, d, w_cubic, w_est, cwnd, gain
    cdef uint64_t part
    cdef int steps = 0
    if c.recovery_start < 0:
        # Slow start reached ssthresh without a loss: the curve starts flat here. Whatever else
        # this ACK covers was sent before the new epoch and does not count.
        c.recovery_start = now
        c.w_max = <double>c.cwnd
        c.k = 0
        if size > c.mtu:
            size = c.mtu
    t = <double>(now - c.recovery_start) * 1e-9 if now > c.recovery_start else 0
    r = <double>(rtt if rtt > 0 else 1) * 1e-9
    d = t + r - c.k
    w_cubic = CUBIC_C * d * d * d * mss + c.w_max
    w_est = CUBIC_BETA * c.w_max + CUBIC_RENO * (t / r) * mss
    while size > 0 and steps < MAX_CUBIC_STEPS:
        steps += 1
        part = size if size < c.mtu else c.mtu
        size -= part
        cwnd = <double>c.cwnd
        gain = w_est - cwnd if w_cubic < w_est else (w_cubic - cwnd) / cwnd * mss
        if gain <= 0:
            break
        # An acked MSS buys at most one MSS of window; without this cap a long idle period
        # would bank credit that outlives the next loss.
        if gain > mss:
            gain = mss
        if part < c.mtu:
            gain = gain * <double>part / mss
        c.credit += gain
        if c.credit >= mss:
            c.credit -= mss
            grow(c, c.mtu)


@cython.cdivision(True)
cdef void cc_on_ack(Congestion* c, int64_t now, int64_t sent_at, uint64_t size, bint app_limited,
                    const Rtt* rtt) noexcept nogil:
    """Grow for `size` acked bytes of one recovery epoch; `rtt` must not be NULL.

    Growth is counted in MTU-sized packets, so the sum over an ACK frame counts like its packets.
    """
    cdef uint64_t room, take
    if app_limited or size == 0:
        return
    if c.recovery_start >= 0 and sent_at <= c.recovery_start:
        return
    if size > MAX_ACKED:
        size = MAX_ACKED
    if c.cwnd < c.ssthresh:
        room = c.ssthresh - c.cwnd
        take = size
        if size > room:
            # Whole packets up to the one that crosses ssthresh, the rest is avoidance.
            take = (room + c.mtu - 1) / c.mtu * c.mtu
            if take > size:
                take = size
        grow(c, take)
        size -= take
        if size == 0:
            return
    if c.kind == CC_CUBIC:
        cubic_avoidance(c, now, size, rtt_get(rtt))
        return
    c.bytes_acked += size
    while c.bytes_acked >= c.cwnd:
        c.bytes_acked -= c.cwnd
        grow(c, c.mtu)


@cython.cdivision(True)
cdef void cc_on_congestion(Congestion* c, int64_t now, int64_t sent_at, bint persistent, bint ecn) noexcept nogil:
    """React to loss or CE of a packet sent at `sent_at`, at most once per recovery epoch."""
    if c.recovery_start >= 0 and sent_at <= c.recovery_start:
        return
    c.events += 1
    if c.kind == CC_NEW_RENO:
        c.recovery_start = now
        c.cwnd = c.ssthresh = reduced(c, 5)
        c.bytes_acked = 0
        if persistent:
            c.cwnd = min_window(c)
        return

    # CE is never spurious: undoing to a state older than it would cancel a true signal.
    c.saved = not ecn
    if c.saved:
        c.saved_cwnd = c.cwnd
        c.saved_ssthresh = c.ssthresh
        c.saved_w_max = c.w_max
        c.saved_k = c.k
        c.saved_credit = c.credit
        c.saved_recovery_start = c.recovery_start
    c.recovery_start = now
    # Fast convergence, RFC 9438 §4.7: release room when the peak is falling.
    c.w_max = 0.85 * <double>c.cwnd if <double>c.cwnd < c.w_max else <double>c.cwnd
    c.cwnd = c.ssthresh = reduced(c, 7)
    c.k = cbrt(c.w_max / <double>c.mtu * (1 - CUBIC_BETA) / CUBIC_C)
    c.credit *= CUBIC_BETA
    if persistent:
        c.recovery_start = -1
        c.w_max = <double>c.cwnd
        c.ssthresh = reduced(c, 7)
        c.credit = 0
        c.cwnd = min_window(c)


cdef void cc_on_spurious(Congestion* c) noexcept nogil:
    """The last event's losses all arrived after all. Cubic takes the reduction back."""
    c.spurious_events += 1
    if not c.saved:
        return
    c.saved = False
    if c.cwnd >= c.saved_cwnd:
        return
    c.cwnd = c.saved_cwnd if c.saved_cwnd > min_window(c) else min_window(c)
    c.ssthresh = c.saved_ssthresh
    c.w_max = c.saved_w_max
    c.k = c.saved_k
    c.credit = c.saved_credit
    c.recovery_start = c.saved_recovery_start


@cython.cdivision(True)
cdef void cc_on_mtu(Congestion* c, uint64_t mtu) noexcept nogil:
    """The path MTU changed; the window never stays below two of the new packets."""
    mtu = clamp_mtu(mtu)
    # Credit is a fraction of one MSS and stays that fraction.
    c.credit = c.credit * <double>mtu / <double>c.mtu
    c.saved_credit = c.saved_credit * <double>mtu / <double>c.mtu
    c.mtu = mtu
    if c.cwnd < min_window(c):
        c.cwnd = min_window(c)


# --------------------------------------------------------------------------------------
# Pacer


cdef void pacer_init(Pacer* p, int64_t now) noexcept nogil:
    """A bucket that is full as soon as `pacer_delay` first learns its size."""
    memset(p, 0, sizeof(Pacer))
    p.prev = now


cdef void pacer_on_sent(Pacer* p, uint64_t size) noexcept nogil:
    p.tokens = p.tokens - size if size < p.tokens else 0


@cython.cdivision(True)
cdef void pacer_resize(Pacer* p, uint64_t cwnd, int64_t srtt, uint64_t mtu) noexcept nogil:
    cdef double packet = <double>clamp_mtu(mtu)
    cdef double burst = MAX_BURST * packet
    cdef double limit, rate
    if srtt > 0:
        rate = <double>cwnd / <double>srtt
        # 2 ms worth, in efficient batches, yet never more than 10 ms of the path's rate.
        burst = rate * 2e6
        if burst < MIN_BURST * packet:
            burst = MIN_BURST * packet
        elif burst > MAX_BURST * packet:
            burst = MAX_BURST * packet
        limit = rate * 1e7
        if limit < packet:
            limit = packet
        if burst > limit:
            burst = limit
    p.capacity = <uint64_t>(burst + 1e-6)        # 1e-6: undo the rounding of exact results
    if not p.started:
        p.started = True
        p.tokens = p.capacity
    elif p.tokens > p.capacity:
        p.tokens = p.capacity
    p.last_cwnd = cwnd
    p.last_mtu = mtu


@cython.cdivision(True)
cdef int64_t pacer_delay(Pacer* p, int64_t now, uint64_t need, uint64_t cwnd, int64_t srtt,
                         uint64_t mtu) noexcept nogil:
    """Refill, then return 0 if `need` bytes may go now, else ns until the bucket is full.

    Waiting for a full bucket instead of one packet is deliberate: it batches. A `need` above the
    capacity is satisfied by a full bucket, it could never be met otherwise.
    """
    cdef double add, wait
    cdef uint64_t whole
    if not p.started or cwnd != p.last_cwnd or mtu != p.last_mtu:
        pacer_resize(p, cwnd, srtt, mtu)
    if srtt <= 0 or cwnd > UNPACED_WINDOW:
        p.tokens = p.capacity
        if now > p.prev:
            p.prev = now
        return 0
    if cwnd == 0:
        cwnd = 1
    if now > p.prev:
        add = p.carry + <double>cwnd * 1.25 * <double>(now - p.prev) / <double>srtt
        if add >= <double>(p.capacity - p.tokens):
            p.tokens = p.capacity
            p.carry = 0
        else:
            # Rounded, with the rest kept: otherwise frequent polls would gain or lose rate.
            whole = <uint64_t>(add + 0.5)
            p.tokens += whole
            p.carry = add - <double>whole
        p.prev = now
    if p.tokens >= need or p.tokens >= p.capacity:
        return 0
    wait = <double>srtt * <double>(p.capacity - p.tokens) * 4 / (5 * <double>cwnd)
    if wait >= <double>MAX_NS:
        return MAX_NS
    return <int64_t>wait if wait >= 1 else 1


# --------------------------------------------------------------------------------------
# MTU discovery (RFC 8899 in spirit: padded probes, loss of which means nothing to the controller)


cdef inline uint16_t mtu_ceiling(const Mtud* m) noexcept nogil:
    return m.bound if m.bound < m.peer_limit else m.peer_limit


cdef void search_begin(Mtud* m) noexcept nogil:
    m.state = MTUD_SEARCHING
    m.lower = m.current
    m.upper = mtu_ceiling(m)
    m.last_probe = m.current
    m.lost_probes = 0


cdef void search_complete(Mtud* m, int64_t now, int64_t pause) noexcept nogil:
    m.state = MTUD_COMPLETE
    m.next_search = now + pause
    m.in_flight = 0
    m.lost_probes = 0


@cython.cdivision(True)
cdef uint16_t search_next(const Mtud* m) noexcept nogil:
    """Size the search wants next, 0 when it is over."""
    cdef int middle, step
    if m.lost_probes > 0:
        return m.last_probe
    middle = (<int>m.lower + <int>m.upper) / 2
    step = middle - <int>m.last_probe
    if step < 0:
        step = -step
    if step < m.min_change:
        # Too fine to go on halving, but the top itself may still be worth one try.
        if <int>m.upper - <int>m.last_probe < m.min_change:
            return 0
        middle = m.upper
    elif middle <= m.lower:
        middle = m.upper
    return <uint16_t>middle if middle > m.lower else 0


cdef void mtud_init(Mtud* m, uint16_t initial, uint16_t min_mtu, uint16_t upper_bound, int64_t interval,
                    int64_t cooldown, uint16_t min_change, bint enabled) noexcept nogil:
    """Start at `initial`. Not `enabled` means no probes; black holes are still noticed."""
    memset(m, 0, sizeof(Mtud))
    m.state = MTUD_SEARCHING if enabled else MTUD_OFF
    m.min_mtu = min_mtu if min_mtu > MTU_FLOOR else MTU_FLOOR
    m.current = initial if initial > m.min_mtu else m.min_mtu
    m.bound = upper_bound
    m.peer_limit = 65535
    m.min_change = min_change if min_change > 0 else 1
    m.interval = clamp_ns(interval)
    m.cooldown = clamp_ns(cooldown)
    # last_probe stays 0: the bounds are taken at the first poll, when the peer's limit is known


cdef void mtud_peer_limit(Mtud* m, uint16_t max_udp_payload) noexcept nogil:
    """Apply the peer's max_udp_payload_size (values below 1200 are invalid, RFC 9000 §18.2)."""
    m.peer_limit = max_udp_payload if max_udp_payload > MTU_FLOOR else MTU_FLOOR
    if m.current > m.peer_limit:
        m.current = m.peer_limit
    if m.state != MTUD_SEARCHING or m.last_probe == 0:
        return
    if m.lower > m.peer_limit:
        m.lower = m.peer_limit
    if m.upper > m.peer_limit:
        m.upper = m.peer_limit
        if m.last_probe > m.upper:
            m.lost_probes = 0


cdef uint16_t mtud_poll(Mtud* m, int64_t now) noexcept nogil:
    """Size of the probe to send now, 0 for none. Repeatable: only sending moves the search."""
    cdef uint16_t size
    if m.state == MTUD_OFF or m.in_flight != 0:
        return 0
    if m.state == MTUD_COMPLETE:
        if now < m.next_search:
            return 0
        search_begin(m)
    elif m.last_probe == 0:
        search_begin(m)
    size = search_next(m)
    if size == 0:
        search_complete(m, now, m.interval)
    return size


cdef void mtud_on_probe_sent(Mtud* m, uint64_t pn, uint16_t size) noexcept nogil:
    if m.state != MTUD_SEARCHING or size == 0:
        return
    if size != m.last_probe:
        m.lost_probes = 0
    m.last_probe = size
    m.in_flight = size
    m.in_flight_pn = pn
    m.probes_sent += 1


cdef void bh_acked(Mtud* m, uint64_t pn, uint16_t size) noexcept nogil:
    """A packet of `size` came through: bursts sent before it that size would explain are no sign."""
    cdef int i, kept
    cdef int n = m.n_seen
    if n > 0 and pn <= m.seen_pn[n - 1] and size <= m.seen_size[n - 1]:
        return
    if n == 1 and size == m.seen_size[0]:
        m.seen_pn[0] = pn                 # bulk transfer: newer packet, same size
    else:
        kept = 0
        for i in range(n):
            if m.seen_pn[i] >= pn and m.seen_size[i] >= size:
                return
            if m.seen_pn[i] > pn or m.seen_size[i] > size:
                m.seen_pn[kept] = m.seen_pn[i]
                m.seen_size[kept] = m.seen_size[i]
                kept += 1
        # When full, forget the oldest: losses are declared close behind the newest packets.
        if kept == BH_MAX_SEEN and pn > m.seen_pn[0]:
            kept -= 1
            for i in range(kept):
                m.seen_pn[i] = m.seen_pn[i + 1]
                m.seen_size[i] = m.seen_size[i + 1]
        if kept < BH_MAX_SEEN:
            i = kept
            while i > 0 and m.seen_pn[i - 1] > pn:
                m.seen_pn[i] = m.seen_pn[i - 1]
                m.seen_size[i] = m.seen_size[i - 1]
                i -= 1
            m.seen_pn[i] = pn
            m.seen_size[i] = size
            kept += 1
        m.n_seen = kept
    m.largest_acked_pn = m.seen_pn[m.n_seen - 1]
    m.acked_mtu = m.seen_size[0]
    if m.n_bursts == 0:
        return
    kept = 0
    for i in range(m.n_bursts):
        if m.burst_end[i] > pn or m.bursts[i] > size:
            m.burst_end[kept] = m.burst_end[i]
            m.bursts[kept] = m.bursts[i]
            kept += 1
    m.n_bursts = kept


cdef void bh_close_burst(Mtud* m) noexcept nogil:
    """Judge the burst in progress: remember it if only its size can explain the loss."""
    cdef int i
    if not m.burst_open:
        return
    m.burst_open = False
    if m.burst_smallest <= m.min_mtu:
        return
    i = m.n_seen - 1
    while i >= 0 and m.seen_pn[i] > m.burst_last_pn:
        if m.seen_size[i] >= m.burst_smallest:
            return
        i -= 1
    if m.n_bursts < BH_MAX_BURSTS:        # beyond the threshold nothing more is learnt
        m.bursts[m.n_bursts] = m.burst_smallest
        m.burst_end[m.n_bursts] = m.burst_last_pn
        m.n_bursts += 1


cdef bint mtud_on_acked(Mtud* m, int64_t now, uint64_t pn, uint16_t size) noexcept nogil:
    """Any packet of the path's data space was acked, probe or not. True if the MTU changed."""
    cdef bint changed = False
    cdef uint16_t reached
    if m.in_flight != 0 and pn == m.in_flight_pn:
        size = m.in_flight
        m.in_flight = 0
        m.lost_probes = 0
        reached = size if size < m.peer_limit else m.peer_limit
        if reached > m.lower:
            m.lower = reached
        if reached > m.current:
            m.current = reached
            changed = True
        if search_next(m) == 0:
            search_complete(m, now, m.interval)
    bh_acked(m, pn, size)
    return changed


cdef void mtud_on_probe_lost(Mtud* m, int64_t now) noexcept nogil:
    """The probe in flight is lost; the third loss of a size rules the size out."""
    if m.in_flight == 0:
        return                            # of a search given up since
    m.probes_lost += 1
    m.in_flight = 0
    if m.last_probe > m.upper:
        m.lost_probes = 0                 # the peer's limit came after it, no use in a retry
    else:
        m.lost_probes += 1
        if m.lost_probes >= MAX_LOST_PROBES:
            m.lost_probes = 0
            m.upper = m.last_probe - 1
    if search_next(m) == 0:
        search_complete(m, now, m.interval)


cdef void mtud_on_lost(Mtud* m, uint64_t pn, uint16_t size) noexcept nogil:
    """A packet that was no probe is lost. Within a batch, call with rising packet numbers."""
    if m.burst_open and pn - m.burst_last_pn != 1:
        bh_close_burst(m)
    if not m.burst_open:
        m.burst_open = True
        m.burst_smallest = size
    elif size < m.burst_smallest:
        m.burst_smallest = size
    m.burst_last_pn = pn


cdef bint mtud_black_hole(Mtud* m, int64_t now) noexcept nogil:
    """Decide after a batch of losses. True if the MTU fell to the minimum just now."""
    cdef uint16_t floor = m.min_mtu if m.min_mtu < m.peer_limit else m.peer_limit
    bh_close_burst(m)
    if m.n_bursts <= BH_THRESHOLD:
        return False
    m.n_bursts = 0
    if m.current <= floor:
        return False                      # stragglers of a hole already acted upon
    m.current = floor
    m.black_holes += 1
    if m.state != MTUD_OFF:
        search_complete(m, now, m.cooldown)
    return True


cdef void mtud_restart(Mtud* m, int64_t now) noexcept nogil:
    """The path changed under the connection: forget everything but limits and counters."""
    m.current = m.min_mtu if m.min_mtu < m.peer_limit else m.peer_limit
    if m.state != MTUD_OFF:
        m.state = MTUD_SEARCHING
    m.last_probe = 0
    m.in_flight = 0
    m.lost_probes = 0
    m.burst_open = False
    m.n_bursts = 0
    m.n_seen = 0
    m.acked_mtu = 0
    m.largest_acked_pn = 0


# --------------------------------------------------------------------------------------
# Python access for tests, simulators and benchmarks

CUBIC = CC_CUBIC
NEW_RENO = CC_NEW_RENO
OFF = MTUD_OFF
SEARCHING = MTUD_SEARCHING
COMPLETE = MTUD_COMPLETE


@cython.final
cdef class RttEstimator:
    """One `Rtt`. Times in ns."""

    cdef Rtt r

    def __init__(self, int64_t initial=333_000_000):
        rtt_init(&self.r, initial)

    def sample(self, int64_t now, int64_t ack_delay, int64_t rtt):
        rtt_sample(&self.r, now, ack_delay, rtt)

    def get(self):
        return rtt_get(&self.r)

    def conservative(self):
        return rtt_conservative(&self.r)

    def pto_base(self):
        return rtt_pto_base(&self.r)

    @property
    def latest(self):
        return self.r.latest

    @property
    def smoothed(self):
        """None before the first sample."""
        return self.r.smoothed if self.r.has_sample else None

    @property
    def var(self):
        return self.r.var

    @property
    def min(self):
        return self.r.min

    @property
    def first_sample_at(self):
        """None before the first sample."""
        return self.r.first_sample_at if self.r.has_sample else None


@cython.final
cdef class CongestionController:
    """One `Congestion`. `kind` is CUBIC or NEW_RENO (ValueError otherwise)."""

    cdef Congestion c

    def __init__(self, int kind=CC_CUBIC, uint64_t mtu=1200, int64_t now=0):
        if kind != CC_CUBIC and kind != CC_NEW_RENO:
            raise ValueError(f"unknown congestion controller {kind}")
        cc_init(&self.c, kind, mtu, now)

    def on_ack(self, int64_t now, int64_t sent_at, uint64_t size, bint app_limited, RttEstimator rtt not None):
        cc_on_ack(&self.c, now, sent_at, size, app_limited, &rtt.r)

    def on_congestion(self, int64_t now, int64_t sent_at, bint persistent=False, bint ecn=False):
        cc_on_congestion(&self.c, now, sent_at, persistent, ecn)

    def on_spurious(self):
        cc_on_spurious(&self.c)

    def on_mtu(self, uint64_t mtu):
        cc_on_mtu(&self.c, mtu)

    @property
    def cwnd(self):
        return self.c.cwnd

    @property
    def ssthresh(self):
        """None while there is no limit yet."""
        return None if self.c.ssthresh == UINT64_MAX else self.c.ssthresh

    @property
    def mtu(self):
        return self.c.mtu

    @property
    def recovery_start(self):
        """None outside any epoch."""
        return None if self.c.recovery_start < 0 else self.c.recovery_start

    @property
    def events(self):
        return self.c.events

    @property
    def spurious_events(self):
        return self.c.spurious_events

    @property
    def w_max(self):
        return self.c.w_max

    @property
    def k(self):
        return self.c.k

    @property
    def credit(self):
        return self.c.credit

    @property
    def bytes_acked(self):
        return self.c.bytes_acked


@cython.final
cdef class PacerModel:
    """One `Pacer`."""

    cdef Pacer p

    def __init__(self, int64_t now=0):
        pacer_init(&self.p, now)

    def delay(self, int64_t now, uint64_t need, uint64_t cwnd, int64_t srtt, uint64_t mtu):
        return pacer_delay(&self.p, now, need, cwnd, srtt, mtu)

    def on_sent(self, uint64_t size):
        pacer_on_sent(&self.p, size)

    @property
    def capacity(self):
        return self.p.capacity

    @property
    def tokens(self):
        return self.p.tokens


@cython.final
cdef class MtuDiscovery:
    """One `Mtud`. `state` is OFF, SEARCHING or COMPLETE."""

    cdef Mtud m

    def __init__(self, uint16_t initial=1200, uint16_t min_mtu=1200, uint16_t upper_bound=1452,
                 int64_t interval=600_000_000_000, int64_t cooldown=60_000_000_000,
                 uint16_t min_change=20, bint enabled=True):
        mtud_init(&self.m, initial, min_mtu, upper_bound, interval, cooldown, min_change, enabled)

    def set_peer_limit(self, uint16_t max_udp_payload):
        mtud_peer_limit(&self.m, max_udp_payload)

    def poll(self, int64_t now):
        return mtud_poll(&self.m, now)

    def on_probe_sent(self, uint64_t pn, uint16_t size):
        mtud_on_probe_sent(&self.m, pn, size)

    def on_acked(self, int64_t now, uint64_t pn, uint16_t size):
        return mtud_on_acked(&self.m, now, pn, size)

    def on_probe_lost(self, int64_t now):
        mtud_on_probe_lost(&self.m, now)

    def on_lost(self, uint64_t pn, uint16_t size):
        mtud_on_lost(&self.m, pn, size)

    def black_hole(self, int64_t now):
        return mtud_black_hole(&self.m, now)

    def restart(self, int64_t now):
        mtud_restart(&self.m, now)

    @property
    def state(self):
        return self.m.state

    @property
    def current(self):
        return self.m.current

    @property
    def in_flight(self):
        return self.m.in_flight

    @property
    def next_search(self):
        """None unless COMPLETE."""
        return self.m.next_search if self.m.state == MTUD_COMPLETE else None

    @property
    def probes_sent(self):
        return self.m.probes_sent

    @property
    def probes_lost(self):
        return self.m.probes_lost

    @property
    def black_holes(self):
        return self.m.black_holes

    @property
    def suspicious_bursts(self):
        return self.m.n_bursts
