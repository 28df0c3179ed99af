"""How fast a path delivers: samples of the delivery rate (draft-ietf-ccwg-bbr §4.1). Times are ns, sizes bytes."""

from libc.stdint cimport uint64_t, int64_t


# What was known when a packet left: the draft's per-packet state (§4.1.2.1.2).
cdef struct Snapshot:
    uint64_t delivered, lost      # until then
    uint64_t in_flight            # with the packet itself
    int64_t delivered_at          # when `delivered` last grew
    int64_t first_sent_at         # the flight began that the packet belongs to
    bint app_limited


# Of a path (§4.1.2.1.1).
cdef struct Delivery:
    uint64_t delivered, lost
    uint64_t arrived              # of what counted as lost
    int64_t delivered_at
    int64_t first_sent_at         # of the newest packet that was delivered; of the next one after silence
    uint64_t app_limited          # samples are too low until so much is delivered; 0: they are not
    int64_t dry_at                # ran out of data, and nothing else keeps packets back from then on; 0: it has data


# What one acknowledgement says, by the newest packet it names (§4.1.2.1.3).
cdef struct RateSample:
    double rate                   # bytes per ns; 0: none that one could rely on
    int64_t interval, rtt         # rtt: -1: none
    uint64_t delivered            # in the interval
    uint64_t before               # delivered when the packet left
    uint64_t in_flight            # ... with it
    uint64_t lost                 # between its leaving and now
    bint app_limited


cdef inline void delivery_arrived(Delivery* path, uint64_t size) noexcept nogil:
    """What had been declared lost was delivered after all."""
    path.arrived += size
    path.delivered += size

cdef inline void delivery_limited(Delivery* path, uint64_t in_flight) noexcept nogil:
    """The application keeps packets back, nothing else does: samples of what is in flight say too little."""
    path.app_limited = path.delivered + in_flight
    if path.app_limited == 0:
        path.app_limited = 1

cdef inline bint delivery_is_dry(const Delivery* path) noexcept nogil:
    return path.dry_at != 0

cdef inline void delivery_dry(Delivery* path, int64_t since) noexcept nogil:
    """There is nothing to send any more. `since`: from when on pacing would let something go."""
    path.dry_at = since

cdef inline void delivery_resumes(Delivery* path, int64_t now, uint64_t in_flight) noexcept nogil:
    """Before a packet leaves: whether there was a gap that only the application is to blame for (§4.1.2.4)."""
    if path.dry_at:
        if now > path.dry_at:
            delivery_limited(path, in_flight)
        path.dry_at = 0

cdef inline void delivery_on_sent(Delivery* path, Snapshot* packet, int64_t now, uint64_t size, uint64_t in_flight) noexcept nogil:  # hot
    """`in_flight`: before the packet (§4.1.2.2)."""
    if in_flight == 0:
        path.first_sent_at = path.delivered_at = now
    packet.delivered = path.delivered
    packet.lost = path.lost
    packet.in_flight = in_flight + size
    packet.delivered_at = path.delivered_at
    packet.first_sent_at = path.first_sent_at
    packet.app_limited = path.app_limited != 0

# Packets of `size` bytes arrived, the newest of them left at `sent_at` (§4.1.2.3).
cdef void delivery_on_acked(Delivery* path, const Snapshot* newest, int64_t sent_at, int64_t now, uint64_t size,
                            int64_t min_rtt, RateSample* sample) noexcept nogil
