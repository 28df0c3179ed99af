"""Packet number spaces: what was sent and received in one, and when to acknowledge.

Plain C structures; what a loss or an acknowledgement means is decided in `_loss`. Sources: RFC 9000 §13, RFC 9002, the
multipath and ACK frequency drafts.
"""

from libc.stdint cimport uint32_t, uint64_t, int64_t
from libc.string cimport memset

from iroh_fast.quic._received cimport (
    received_free, received_init, received_reported, received_trim)
from iroh_fast.quic._sent cimport (
    log_at, log_free, log_from, lost_free, sent_at, sent_free, sent_from)


cdef void space_init(PnSpace* space, uint64_t random) noexcept nogil:
    memset(space, 0, sizeof(PnSpace))
    received_init(&space.received)
    space.largest_acked = -1
    space.largest_eliciting = -1
    space.last_skipped = -1
    space.reported = -1
    space.skip_bits = 6
    space.skip_pn = random & 63


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
    space.last_skipped = <int64_t>space.next_pn
    space.next_pn += 1
    space.skip_pn = space.next_pn + width + (random.word() & (width - 1))
    if space.skip_bits < 24:
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


cdef void space_on_processed(PnSpace* space, uint64_t pn, bint eliciting, bint ce, int64_t now, int64_t max_ack_delay,
                             uint64_t threshold, uint64_t reorder, int64_t previous_largest) noexcept nogil:
    cdef int64_t before
    cdef int i
    if not eliciting:
        space.non_eliciting_rx += 1
        return
    space.eliciting_rx += 1
    if space.eliciting_rx > threshold or ce:
        space.ack_now = True
    if reorder == 1:
        # RFC 9000 §13.2.1: below the largest, or a gap just above it
        before = previous_largest
        if <int64_t>pn < space.largest_eliciting or (before >= 0 and <int64_t>pn > before + 1):
            space.ack_now = True
    elif reorder > 1:
        # ACK frequency draft §6.2: distance from the oldest hole that the peer cannot know yet to the newest packet
        before = space.reported - <int64_t>reorder + 1
        for i in range(space.received.n_ranges - 1):
            if <int64_t>space.received.starts[i + 1] > before:
                if before < <int64_t>space.received.ends[i]:
                    before = <int64_t>space.received.ends[i]
                if space.received.largest - before >= <int64_t>reorder:
                    space.ack_now = True
                break
    if <int64_t>pn > space.largest_eliciting:
        space.largest_eliciting = <int64_t>pn
    if space.ack_at == 0:
        space.ack_at = now + max_ack_delay


cdef void space_ack_sent(PnSpace* space) noexcept nogil:
    space.eliciting_rx = 0
    space.non_eliciting_rx = 0
    space.ack_now = False
    space.ack_at = 0
    space.reported = space.received.largest
    received_reported(&space.received)
