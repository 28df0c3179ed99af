"""Packet number spaces: what was sent and received in one, and when to acknowledge."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t

from iroh_fast.quic._random cimport RandomSource
from iroh_fast.quic._received cimport ReceivedSet, received_has, received_next
from iroh_fast.quic._sent cimport LostTable, PnLog, SentTable


cdef enum:
    SKIPS = 8                     # numbers left out that are remembered: a power of two


cdef struct PnSpace:
    # --- sending
    uint64_t next_pn
    int64_t largest_acked         # -1: none
    int64_t largest_acked_at      # when that packet was sent
    SentTable sent                # ack-eliciting packets
    PnLog quiet                   # the others: a peer may acknowledge them, and then the RTT is measured with them
    LostTable lost
    int64_t last_eliciting_at     # 0: none since start
    int64_t probed_at             # when the last probe timeout expired
    int64_t loss_time             # 0: none
    int loss_probes
    uint64_t skip_pn              # the next number to leave out
    int skip_bits
    uint64_t skipped[8]           # SKIPS: the newest numbers that were left out, a ring
    uint64_t skips                # how many there were
    # --- receiving
    ReceivedSet received
    int64_t largest_rx_at
    int64_t largest_eliciting     # -1: none
    uint32_t eliciting_rx         # since the last ACK sent
    uint32_t non_eliciting_rx
    bint ack_now
    int64_t ack_at                # deadline of a delayed ACK, 0: none
    uint64_t ect0, ect1, ce       # received
    uint64_t peer_ect0, peer_ect1, peer_ce   # reported by the peer
    int64_t reported              # largest received when the last ACK was sent, -1: none sent


cdef void space_init(PnSpace* space, uint64_t random) noexcept nogil
cdef void space_free(PnSpace* space) noexcept nogil
# Nothing was sent or received for a while: give back memory.
cdef void space_trim(PnSpace* space) noexcept nogil

# Leave a number out, and choose the next one to leave out.
cdef void space_skip_pn(PnSpace* space, RandomSource random) noexcept nogil

cdef inline uint64_t space_take_pn(PnSpace* space, RandomSource random) noexcept nogil:
    """The number of the next packet, skipping one now and then (optimistic-ACK defence)."""
    if space.next_pn == space.skip_pn:
        space_skip_pn(space, random)
    space.next_pn += 1
    return space.next_pn - 1

cdef inline bint space_skipped(const PnSpace* space, uint64_t lo, uint64_t hi) noexcept nogil:  # hot
    """Whether one of lo..hi was left out, as far as those are remembered: further back than what may be in flight."""
    cdef uint64_t i = space.skips
    while i and space.skips - i < SKIPS:
        i -= 1
        if space.skipped[i & (SKIPS - 1)] < lo:
            return False
        if space.skipped[i & (SKIPS - 1)] <= hi:
            return True
    return False

# The same where none is left out: numbers of the handshake.
cdef inline uint64_t space_next_pn(PnSpace* space) noexcept nogil:
    space.next_pn += 1
    return space.next_pn - 1

# The packet was not sent: its number, the newest one, is free again.
cdef inline void space_return_pn(PnSpace* space, uint64_t pn) noexcept nogil:
    space.next_pn = pn

# When a packet with a number above largest_acked was sent; -1: not known any more.
cdef int64_t space_sent_time(PnSpace* space, uint64_t pn) noexcept nogil

cdef inline bint space_is_duplicate(const PnSpace* space, uint64_t pn) noexcept nogil:
    return received_has(&space.received, pn)

cdef inline void space_mark_received(PnSpace* space, uint64_t pn, int64_t now) noexcept nogil:  # hot
    """After authentication."""
    if <int64_t>pn > space.received.largest:
        space.largest_rx_at = now
    received_next(&space.received, pn)

# ACK frequency draft §6.2: distance from the oldest hole that the peer cannot know yet to the newest packet.
cdef void space_check_holes(PnSpace* space, uint64_t reorder) noexcept nogil

cdef inline void space_on_processed(PnSpace* space, uint64_t pn, bint eliciting, bint ce, int64_t now,
                                    int64_t max_ack_delay, uint64_t threshold, uint64_t reorder,
                                    int64_t previous_largest) noexcept nogil:
    """After a packet's frames: when to acknowledge. threshold and reorder as in the ACK frequency draft."""
    if not eliciting:
        space.non_eliciting_rx += 1
        return
    space.eliciting_rx += 1
    if space.eliciting_rx > threshold or ce:
        space.ack_now = True
    if reorder == 1:
        # RFC 9000 §13.2.1: below the largest, or a gap just above it
        if <int64_t>pn < space.largest_eliciting or (previous_largest >= 0 and <int64_t>pn > previous_largest + 1):
            space.ack_now = True
    elif reorder > 1:
        space_check_holes(space, reorder)
    if <int64_t>pn > space.largest_eliciting:
        space.largest_eliciting = <int64_t>pn
    if space.ack_at == 0:
        space.ack_at = now + max_ack_delay

cdef inline void space_count_ecn(PnSpace* space, int ecn) noexcept nogil:
    """A packet came with an ECN mark: ECT(1), ECT(0) or CE."""
    if ecn == 2:
        space.ect0 += 1
    elif ecn == 1:
        space.ect1 += 1
    else:
        space.ce += 1

cdef inline void space_ack_now(PnSpace* space) noexcept nogil:
    space.ack_now = True

# When a delayed acknowledgement is due; 0: none waits.
cdef inline int64_t space_ack_at(const PnSpace* space) noexcept nogil:
    return space.ack_at if not space.ack_now else 0

# A probe waits to be sent.
cdef inline bint space_probing(const PnSpace* space) noexcept nogil:
    return space.loss_probes > 0

cdef inline void space_probe_sent(PnSpace* space) noexcept nogil:
    space.loss_probes -= 1

cdef void space_ack_sent(PnSpace* space) noexcept nogil
cdef inline bint space_ack_due(const PnSpace* space, int64_t now) noexcept nogil:
    return space.received.n_ranges > 0 and (space.ack_now or (space.ack_at != 0 and space.ack_at <= now))
# ... or worth adding to a packet that is sent anyway: the peer's own acknowledgements pile up.
cdef inline bint space_ack_wanted(const PnSpace* space, int64_t now) noexcept nogil:
    return space_ack_due(space, now) or (space.received.n_ranges > 0 and space.non_eliciting_rx > 10)
