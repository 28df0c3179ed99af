"""Path MTU discovery and black-hole detection of one path.

RFC 8899 in spirit: padded probes, loss of which means nothing to the controller. RFC 9000 §14.
"""

cimport cython
from libc.string cimport memset

from iroh_fast.quic._time cimport clamp_ns


cdef enum:
    MAX_LOST_PROBES = 3           # of one size, then it is too big
    MAX_PROBES = 48               # of one search, whatever is lost of it
    BH_THRESHOLD = 3              # more suspicious bursts than this are a black hole
    BH_MAX_SEEN = 4
    MTU_FLOOR = 1200              # RFC 9000 §14: every QUIC path carries this
    # The largest sizes that Ethernet carries: under IPv6, which most ways of the Internet take, and under IPv4.
    ORDINARY = 1452
    ORDINARY_MOST = 1472


cdef inline uint16_t mtu_ceiling(const Mtud* m, int64_t now) noexcept nogil:
    """The largest size worth a probe."""
    cdef uint16_t ceiling = m.route_limit if m.route_limit else ORDINARY
    if m.bound < ceiling:
        ceiling = m.bound
    if m.peer_limit <= ORDINARY_MOST and ceiling > ORDINARY:
        ceiling = ORDINARY        # INTEROP: iroh announces 1472 and probes up to 1452; it gets what it sends
    if m.suspect and m.suspect <= ceiling and now < m.suspect_until:
        ceiling = m.suspect - 1
    return ceiling if ceiling < m.peer_limit else m.peer_limit


cdef void search_begin(Mtud* m, int64_t now) noexcept nogil:
    m.state = MTUD_SEARCHING
    m.begun = True
    m.lower = m.current
    m.upper = mtu_ceiling(m, now)
    m.doubted = 0
    m.lost_probes = 0
    m.probes_left = MAX_PROBES
    # Just below what fell into a hole is no place to begin.
    m.fresh = not (m.suspect and now < m.suspect_until)
    m.ruled_out = not m.fresh


cdef void search_complete(Mtud* m, int64_t now, int64_t pause) noexcept nogil:
    m.state = MTUD_COMPLETE
    m.next_search = now + pause
    if m.suspect and now < m.suspect_until < m.next_search:
        m.next_search = m.suspect_until
    m.in_flight = 0
    m.doubted = 0
    m.lost_probes = 0
    m.asks = False


cdef void search_lower(Mtud* m, uint16_t upper) noexcept nogil:
    """There is no more to be found above `upper`, and that itself is worth a probe."""
    if m.state != MTUD_SEARCHING or not m.begun or upper >= m.upper:
        return
    m.upper = upper
    m.fresh = True
    m.ruled_out = False
    if m.lower > upper:
        m.lower = upper
    if m.doubted >= upper:
        m.doubted = 0
        m.lost_probes = 0


@cython.cdivision(True)
cdef uint16_t search_next(const Mtud* m, uint64_t room) noexcept nogil:
    """Size the search wants next, of at most `room` bytes; 0 when it is over.

    First the most there can be: mostly the interface's MTU is that of the path. Then what ordinary ways carry, and one byte
    more than Ethernet does, so that a path with an ordinary way behind a large interface costs few probes. Then halves.
    A size that was lost once may be lost by chance: what is smaller comes first, then it has another try.
    """
    cdef int lower = m.lower, upper = m.upper, limit = upper, middle
    if upper - lower < m.min_change or m.probes_left == 0:
        return 0
    if m.fresh and <uint64_t>upper <= room:
        return m.upper
    if m.doubted:
        limit = m.doubted - 1
    if lower < ORDINARY <= limit:
        return ORDINARY
    if m.fresh and not m.doubted:
        return m.upper            # once there is room for it
    if lower < ORDINARY_MOST + 1 <= limit:
        return ORDINARY_MOST + 1
    if m.doubted == upper and not m.ruled_out and lower == ORDINARY_MOST + 1 and m.lost_probes == 1:
        return m.doubted          # no ordinary path: the top may have been lost by chance
    middle = (lower + limit + 1) / 2
    if middle - lower >= m.min_change:
        return <uint16_t>middle
    # Too fine to go on halving, but the top itself may still be worth one try.
    return m.doubted if m.doubted else 0 if m.ruled_out else m.upper


cdef void search_go_on(Mtud* m, int64_t now) noexcept nogil:
    if search_next(m, 65535) == 0:
        search_complete(m, now, m.interval)


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
    # not begun: the bounds are taken at the first poll, when the peer's limit is known


cdef void mtud_defer(Mtud* m, int64_t until) noexcept nogil:
    if m.state == MTUD_SEARCHING and not m.begun:
        m.state = MTUD_COMPLETE
        m.next_search = until


cdef void mtud_hurry(Mtud* m, int64_t now) noexcept nogil:
    """The path carries data: a search that waits to begin begins now."""
    if m.state == MTUD_COMPLETE and not m.begun:
        m.next_search = now


cdef void mtud_peer_limit(Mtud* m, uint16_t max_udp_payload) noexcept nogil:
    """Apply the peer's max_udp_payload_size (values below 1200 are invalid, RFC 9000 §18.2)."""
    m.peer_limit = max_udp_payload if max_udp_payload > MTU_FLOOR else MTU_FLOOR
    if m.current > m.peer_limit:
        m.current = m.peer_limit
    search_lower(m, m.peer_limit)


cdef bint mtud_asks(Mtud* m, int64_t now) noexcept nogil:
    if m.state == MTUD_OFF or m.in_flight != 0:
        return False
    if m.state == MTUD_COMPLETE:
        return now >= m.next_search
    return m.asks or not m.begun


cdef void mtud_route_limit(Mtud* m, int64_t now, int largest) noexcept nogil:
    m.asks = False
    if m.state == MTUD_OFF:
        return
    if largest < 0:
        # What would come through says nothing (RFC 9000 §14): wait for another interface.
        m.begun = True
        search_complete(m, now, m.interval)
        return
    if largest > 65535:
        largest = 65535
    m.route_limit = <uint16_t>(largest if largest >= MTU_FLOOR else MTU_FLOOR if largest else 0)
    if m.state == MTUD_SEARCHING and m.begun:
        search_lower(m, mtu_ceiling(m, now))


cdef uint16_t mtud_poll(Mtud* m, int64_t now, uint64_t room) noexcept nogil:
    """Size of the probe to send now, 0 for none. Repeatable: only sending moves the search."""
    cdef uint16_t size
    if m.state == MTUD_OFF or m.in_flight != 0:
        return 0
    if m.state == MTUD_COMPLETE:
        if now < m.next_search:
            return 0
        search_begin(m, now)
    elif not m.begun:
        search_begin(m, now)
    size = search_next(m, room)
    if size == 0:
        search_complete(m, now, m.interval)
    return size if size <= room else 0


cdef int mtud_too_big(Mtud* m, int64_t now, uint16_t size, int largest) noexcept nogil:
    cdef uint16_t floor = m.min_mtu if m.min_mtu < m.peer_limit else m.peer_limit
    cdef bint known = 0 < largest < size
    cdef int found = TOO_BIG_ANSWER
    if size <= floor:
        return TOO_BIG_NO_HELP
    if not known:
        largest = size - 1
    m.route_limit = <uint16_t>(largest if largest > floor else floor)
    if m.in_flight >= size:
        m.in_flight = 0                   # that is the answer to the probe
    if m.current > m.route_limit:
        m.current = floor
        found = TOO_BIG_FELL
        if m.state == MTUD_COMPLETE and m.begun:
            m.next_search = now
    if m.state == MTUD_SEARCHING and m.begun:
        if m.lower > m.current:
            m.lower = m.current
        search_lower(m, m.route_limit)
        if not known:
            m.fresh = False
            m.ruled_out = True
        search_go_on(m, now)
    return found


cdef void mtud_on_probe_sent(Mtud* m, uint64_t pn, uint16_t size) noexcept nogil:
    if m.state != MTUD_SEARCHING or size == 0:
        return
    if size == m.upper:
        m.fresh = False
    if m.probes_left:
        m.probes_left -= 1
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
    if m.burst_smallest <= m.min_mtu or m.burst_smallest > m.current:
        return                            # not its size; or one that is in use no more
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
        if size >= m.doubted:
            m.doubted = 0
            m.lost_probes = 0
        reached = size if size < m.peer_limit else m.peer_limit
        if reached > m.lower:
            m.lower = reached
        if reached > m.current:
            m.current = reached
            changed = True
        search_go_on(m, now)
    bh_acked(m, pn, size)
    return changed


cdef void mtud_on_probe_lost(Mtud* m, int64_t now) noexcept nogil:
    """The probe in flight is lost; the third loss of a size rules the size out."""
    cdef uint16_t size = m.in_flight
    if size == 0:
        return                            # of a search given up since
    m.probes_lost += 1
    m.in_flight = 0
    if size <= m.upper:                   # else another limit came after it, no use in a retry
        m.lost_probes = m.lost_probes + 1 if size == m.doubted else 1
        m.doubted = size
        m.asks = True                     # a router may have told the system why
        if m.lost_probes >= MAX_LOST_PROBES:
            m.upper = size - 1
            m.ruled_out = True
            m.doubted = 0
            m.lost_probes = 0
    search_go_on(m, now)


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
    """Decide after a batch of losses. True if the MTU fell to the minimum just now.

    Sizes beyond Ethernet's vanish where the way now leads through an ordinary link: what such links carry is searched for at
    once, larger sizes again after the cooldown. A hole for ordinary sizes has the cooldown at the minimum.
    """
    cdef uint16_t floor = m.min_mtu if m.min_mtu < m.peer_limit else m.peer_limit
    cdef int i
    bh_close_burst(m)
    if m.n_bursts <= BH_THRESHOLD:
        return False
    m.suspect = m.bursts[0]
    for i in range(1, m.n_bursts):
        if m.bursts[i] < m.suspect:
            m.suspect = m.bursts[i]
    m.n_bursts = 0
    m.current = floor
    m.black_holes += 1
    m.suspect_until = now + m.cooldown
    if m.state != MTUD_OFF:
        search_complete(m, now, 0 if m.suspect > ORDINARY_MOST else m.cooldown)
    return True


cdef void mtud_restart(Mtud* m, int64_t now) noexcept nogil:
    """The path changed under the connection: forget everything but limits and counters."""
    m.current = m.min_mtu if m.min_mtu < m.peer_limit else m.peer_limit
    if m.state != MTUD_OFF:
        m.state = MTUD_SEARCHING
    m.begun = False
    m.route_limit = 0
    m.suspect = 0
    m.in_flight = 0
    m.burst_open = False
    m.n_bursts = 0
    m.n_seen = 0
    m.acked_mtu = 0
    m.largest_acked_pn = 0
