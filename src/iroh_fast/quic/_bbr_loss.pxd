"""Which losses tell BBR of congestion, and how it gives way where it is not probing for bandwidth (draft §5.5.10)."""

from libc.stdint cimport uint64_t

from iroh_fast.quic._bbr_model cimport Bbr
from iroh_fast.quic._controller cimport Congestion


# Whether so many bytes of those that were in flight are more than the path loses by itself, by more than chance.
cdef bint too_much_loss(const Congestion* cc, const Bbr* own, double lost, double in_flight) noexcept nogil
# A packet was lost, or marked: what there was is kept, once for each round.
cdef void note_loss(Congestion* cc, Bbr* own) noexcept nogil
# Once per acknowledgement, after the latest signals.
cdef void loss_round(Congestion* cc, Bbr* own, uint64_t acked) noexcept nogil
# The rate changes: what is lost from now on is counted anew.
cdef void loss_recount(Bbr* own) noexcept nogil
# A new cycle: what the path loses by itself is looked at again now and then.
cdef void loss_cycle(Bbr* own) noexcept nogil
# The acknowledgements of a round in startup are in.
cdef void loss_startup_round(Bbr* own, bint grew) noexcept nogil
