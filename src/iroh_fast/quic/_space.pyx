"""Packet number spaces: what was sent and received in one, and when to acknowledge.

Plain C structures; what a loss or an acknowledgement means is decided in `_loss`. Sources: RFC 9000 §13, RFC 9002, the
multipath and ACK frequency drafts.
"""

from libc.stdint cimport uint32_t, uint64_t, int64_t
from libc.string cimport memset

from iroh_fast.quic._random cimport RandomSource
from iroh_fast.quic._received cimport received_free, received_init, received_reported, received_trim
from iroh_fast.quic._sent cimport log_at, log_free, log_from, lost_free, sent_at, sent_free, sent_from


cdef enum:
    FIRST_SKIP_BITS = 6
    # DIFFERS: iroh leaves numbers out ever more rarely, and knows the last one. A peer that acknowledges what it did not
    # get is to be caught within a second at 1 Gbit/s, and whatever is in flight: one of 16384 to 32768.
    MOST_SKIP_BITS = 14


cdef void space_init(PnSpace* space, uint64_t random) noexcept nogil:
    memset(space, 0, sizeof(PnSpace))
    received_init(&space.received)
    space.largest_acked = -1
    space.largest_eliciting = -1
    space.reported = -1
    space.skip_bits = FIRST_SKIP_BITS
    space.skip_pn = random & ((1 << FIRST_SKIP_BITS) - 1)


cdef void space_free(PnSpace* space) noexcept nogil:
    sent_free(&space.sent)
    log_free(&space.quiet)
    lost_free(&space.lost)
    received_free(&space.received)


cdef void space_trim(PnSpace* space) noexcept nogil:
    if space.sent.outstanding == 0:
        sent_free(&space.sent)
    log_free(&space.quiet)
    lost_free(&space.lost)
    received_trim(&space.received)


cdef void space_skip_pn(PnSpace* space, RandomSource random) noexcept nogil:
    cdef uint64_t width = <uint64_t>1 << space.skip_bits
    space.skipped[space.skips & (SKIPS - 1)] = space.next_pn
    space.skips += 1
    space.next_pn += 1
    space.skip_pn = space.next_pn + width + (random.word() & (width - 1))
    if space.skip_bits < MOST_SKIP_BITS:
        space.skip_bits += 1


cdef int64_t space_sent_time(PnSpace* space, uint64_t pn) noexcept nogil:
    cdef uint64_t position = sent_from(&space.sent, pn)
    if position < space.sent.tail and sent_at(&space.sent, position).pn == pn:
        return sent_at(&space.sent, position).sent_at
    position = log_from(&space.quiet, pn)
    if position < space.quiet.tail and log_at(&space.quiet, position).pn == pn:
        return log_at(&space.quiet, position).sent_at
    position = log_from(&space.lost.log, pn)
    if position < space.lost.log.tail and log_at(&space.lost.log, position).pn == pn:
        return log_at(&space.lost.log, position).sent_at
    return -1


cdef void space_check_holes(PnSpace* space, uint64_t reorder) noexcept nogil:
    cdef int64_t before = space.reported - <int64_t>reorder + 1
    cdef int i
    for i in range(space.received.n_ranges - 1):
        if <int64_t>space.received.starts[i + 1] > before:
            if before < <int64_t>space.received.ends[i]:
                before = <int64_t>space.received.ends[i]
            if space.received.largest - before >= <int64_t>reorder:
                space.ack_now = True
            break


cdef void space_ack_sent(PnSpace* space) noexcept nogil:
    space.eliciting_rx = 0
    space.non_eliciting_rx = 0
    space.ack_now = False
    space.ack_at = 0
    space.reported = space.received.largest
    received_reported(&space.received)
