"""NewReno (RFC 9002 §7)."""

from libc.stdint cimport uint64_t, int64_t

from iroh_fast.quic._controller cimport Controller
from iroh_fast.quic._hystart cimport Hystart


cdef struct NewReno:
    uint64_t bytes_acked          # since the window last grew in avoidance
    # before the last loss event, to take it back
    bint saved
    uint64_t saved_cwnd, saved_ssthresh, saved_bytes_acked
    int64_t saved_recovery_start
    Hystart hystart


cdef const Controller* newreno() noexcept nogil
