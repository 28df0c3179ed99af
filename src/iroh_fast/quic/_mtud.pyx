"""Path MTU discovery and black-hole detection of one path.

RFC 8899 in spirit: padded probes, loss of which means nothing to the controller. RFC 9000 §14.
"""

cimport cython
from libc.string cimport memset

from iroh_fast.quic._time cimport clamp_ns


cdef enum:
    MAX_LOST_PROBES = 3           # of one size, then it is too big
    BH_THRESHOLD = 3              # more suspicious bursts than this are a black hole
    BH_MAX_SEEN = 4
    MTU_FLOOR = 1200              # RFC 9000 §14: every QUIC path carries this


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


cdef void mtud_defer(Mtud* m, int64_t until) noexcept nogil:
    if m.state == MTUD_SEARCHING and m.last_probe == 0:
        m.state = MTUD_COMPLETE
        m.next_search = until


cdef void mtud_hurry(Mtud* m, int64_t now) noexcept nogil:
    """The path carries data: a search that waits to begin begins now."""
    if m.state == MTUD_COMPLETE and m.last_probe == 0:
        m.next_search = now


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
        m.seen_pn[0] = pn
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


cdef bint mtud_on_acked_rest(Mtud* m, int64_t now, uint64_t pn, uint16_t size) noexcept nogil:
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
