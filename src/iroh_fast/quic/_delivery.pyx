"""Samples of the delivery rate (draft-ietf-ccwg-bbr §4.1)."""

cimport cython


@cython.cdivision(True)
cdef void delivery_on_acked(Delivery* path, const Snapshot* newest, int64_t sent_at, int64_t now, uint64_t size,
                            int64_t min_rtt, RateSample* sample) noexcept nogil:
    """Once for an acknowledgement: only its newest packet counts, whichever of the packets it names came first."""
    cdef int64_t sending = sent_at - newest.first_sent_at
    path.delivered += size
    path.delivered_at = now
    path.first_sent_at = sent_at
    if path.app_limited and path.delivered > path.app_limited:
        path.app_limited = 0
    sample.interval = now - newest.delivered_at
    if sending > sample.interval:
        # Acknowledgements came closer together than the packets left: nothing is delivered faster than it is sent.
        sample.interval = sending
    sample.delivered = path.delivered - newest.delivered
    sample.before = newest.delivered
    sample.in_flight = newest.in_flight
    sample.lost = path.lost - newest.lost
    sample.app_limited = newest.app_limited
    sample.rtt = now - sent_at
    sample.rate = 0
    if sample.interval > 0 and sample.interval >= min_rtt:
        sample.rate = <double><int64_t>sample.delivered / <double>sample.interval
