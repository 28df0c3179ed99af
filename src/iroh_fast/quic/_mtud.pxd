"""Path MTU discovery and black-hole detection of one path. Sizes are bytes of UDP payload, times ns."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t, int64_t


cdef enum:
    MTUD_OFF = 0
    MTUD_SEARCHING = 1
    MTUD_COMPLETE = 2

cdef enum:
    # what a refused datagram means
    TOO_BIG_NO_HELP = -1          # nothing smaller can be sent
    TOO_BIG_ANSWER = 0            # to a probe, or known already
    TOO_BIG_FELL = 1              # `current` is smaller now

cdef enum:
    BH_MAX_BURSTS = 8             # more than 3 suspicious bursts decide

cdef struct Mtud:
    int state
    uint16_t current, min_mtu, bound, min_change
    uint16_t peer_limit           # what the peer takes
    uint16_t route_limit          # what the interface on the way takes, 0: unknown
    # the search: `lower` came through, above `upper` is nothing to be found
    uint16_t lower, upper
    uint16_t doubted              # a size of which probes were lost, 0 none: the search goes on below it, and comes back
    uint8_t lost_probes           # ... so many
    uint8_t probes_left           # of the present search
    bint begun, fresh             # `upper` was not tried yet
    bint ruled_out                # what lies above `upper` did not come through
    bint asks                     # the interface is to be asked for its limit
    uint16_t suspect              # sizes from this on led into a black hole, until the time below
    int64_t suspect_until
    uint16_t in_flight            # size of the probe in flight, 0 none
    uint64_t in_flight_pn
    int64_t next_search           # when COMPLETE
    int64_t interval, cooldown
    uint64_t probes_sent, probes_lost, black_holes
    # black-hole detector
    uint64_t burst_last_pn
    uint16_t burst_smallest
    bint burst_open
    uint16_t bursts[8]
    int n_bursts
    uint16_t acked_mtu            # largest size acked since the present bursts
    uint64_t largest_acked_pn
    uint64_t burst_end[8]         # last pn of each stored burst
    uint64_t seen_pn[4]           # acked packets that no other acked one beats in both pn and size, pn rising
    uint16_t seen_size[4]
    int n_seen

# The path leads elsewhere: nothing that was sent there answers for it.
cdef inline void mtud_moved(Mtud* mtud) noexcept nogil:
    mtud.in_flight = 0

cdef void mtud_init(Mtud* m, uint16_t initial, uint16_t min_mtu, uint16_t upper_bound, int64_t interval,
                    int64_t cooldown, uint16_t min_change, bint enabled) noexcept nogil
# Begin the search at `until` and not before, unless mtud_hurry is called.
cdef void mtud_defer(Mtud* m, int64_t until) noexcept nogil
cdef void mtud_hurry(Mtud* m, int64_t now) noexcept nogil
cdef void mtud_peer_limit(Mtud* m, uint16_t max_udp_payload) noexcept nogil
# Whether `mtud_route_limit` should be called before `mtud_poll`: a search begins, or a probe was lost.
cdef bint mtud_asks(Mtud* m, int64_t now) noexcept nogil
# The largest payload that the interface on the way takes; 0: nobody knows, -1: it cuts datagrams into fragments.
cdef void mtud_route_limit(Mtud* m, int64_t now, int largest) noexcept nogil
# Size to probe now, at most `room`, or 0.
cdef uint16_t mtud_poll(Mtud* m, int64_t now, uint64_t room) noexcept nogil
# The system refuses datagrams of `size` bytes, and takes `largest` as above. TOO_BIG_*
cdef int mtud_too_big(Mtud* m, int64_t now, uint16_t size, int largest) noexcept nogil
cdef void mtud_on_probe_sent(Mtud* m, uint64_t pn, uint16_t size) noexcept nogil
cdef void mtud_on_probe_lost(Mtud* m, int64_t now) noexcept nogil
cdef void mtud_on_lost(Mtud* m, uint64_t pn, uint16_t size) noexcept nogil    # a lost packet that was no probe
cdef bint mtud_black_hole(Mtud* m, int64_t now) noexcept nogil         # after a batch of losses; True: m.current fell
cdef void mtud_restart(Mtud* m, int64_t now) noexcept nogil            # path migrated: search again from min

cdef bint mtud_on_acked_rest(Mtud* m, int64_t now, uint64_t pn, uint16_t size) noexcept nogil

cdef inline bint mtud_on_acked(Mtud* m, int64_t now, uint64_t pn, uint16_t size) noexcept nogil:  # hot
    """Any packet of the path's data space was acked, probe or not. True if m.current changed."""
    if m.in_flight == 0 and m.n_bursts == 0 and m.n_seen == 1 and size == m.seen_size[0] and pn > m.seen_pn[0]:
        m.seen_pn[0] = m.largest_acked_pn = pn    # bulk transfer: newer packet, same size
        return False
    return mtud_on_acked_rest(m, now, pn, size)
