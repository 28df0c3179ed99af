"""The phases of BBR (draft-ietf-ccwg-bbr §5.3): when it speeds up, slows down, and looks how far the path is."""

from libc.stdint cimport int64_t

from iroh_fast.quic._bbr_model cimport Bbr
from iroh_fast.quic._controller cimport Acked, Congestion, LostPacket
from iroh_fast.quic._delivery cimport RateSample


cdef void enter_startup(Bbr* own) noexcept nogil
cdef void enter_refill(Congestion* cc, Bbr* own) noexcept nogil
# Startup and drain, by an acknowledgement.
cdef void probe_startup(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil
# The cycle of probing for bandwidth.
cdef void probe_cycle(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil
# A packet that was sent while probing is lost.
cdef void probe_lost(Congestion* cc, Bbr* own, const LostPacket* lost) noexcept nogil
# So many of the packets of a probe were marked.
cdef void probe_marked(Congestion* cc, Bbr* own, int64_t now) noexcept nogil
# Looking for the least round trip.
cdef void probe_rtt(Congestion* cc, Bbr* own, const Acked* acked) noexcept nogil
cdef void probe_rtt_finish(Congestion* cc, Bbr* own, int64_t now) noexcept nogil
# In flight at most, while looking.
cdef double probe_rtt_inflight(const Congestion* cc, const Bbr* own) noexcept nogil
cdef void keep_window(const Congestion* cc, Bbr* own) noexcept nogil
cdef void restore_window(Congestion* cc, Bbr* own) noexcept nogil
