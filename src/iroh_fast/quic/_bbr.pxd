"""BBR, version 3 (draft-ietf-ccwg-bbr)."""

from iroh_fast.quic._controller cimport Congestion, Controller
from iroh_fast.quic._bbr_model cimport Bbr


cdef const Controller* bbr() noexcept nogil
