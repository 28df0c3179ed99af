"""CUBIC (RFC 9438)."""

from libc.stdint cimport uint64_t, int64_t

from iroh_fast.quic._controller cimport Controller
from iroh_fast.quic._hystart cimport Hystart


# What a spurious loss brings back, and the present values of the same.
cdef struct Curve:
    double w_max                  # bytes
    double k                      # s from the epoch to the peak
    double w_est                  # what Reno would have, bytes (RFC 9438 §4.3)
    double prior                  # window before the reduction that the epoch began with, bytes
    double credit                 # growth that is not a whole packet yet, bytes
    int64_t epoch                 # when the curve began, idle time left out; -1: with the next ACK in avoidance


cdef struct Cubic:
    Curve curve
    int64_t active_at             # when we last heard that the window was in use
    Curve saved_curve
    uint64_t saved_cwnd           # 0: nothing saved
    uint64_t saved_ssthresh
    int64_t saved_recovery_start
    Hystart hystart


cdef const Controller* cubic() noexcept nogil
