"""How often an endpoint sends probes to addresses that its peers name."""

from libc.stdint cimport int64_t, uint64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast.quic._random cimport RandomSource


cdef enum:
    ADDRESSES = 4096              # places of the table, powers of two
    HOSTS = 1024
    ADDRESS_BURST = 64            # probes at once to an address, and
    ADDRESS_RATE = 8              # as many a second: several connections may try the same one
    HOST_BURST = 1024             # all ports of a host together
    HOST_RATE = 128


cdef class ProbeLimit:
    cdef RandomSource random
    cdef int64_t* places          # until when the probes so far count: addresses, then hosts; NULL before the first probe
    cdef uint64_t key[3]
    cdef readonly uint64_t held   # probes that did not leave
    # Whether a probe may leave now; then it is counted.
    cdef bint take(self, const UdpAddr* remote, int64_t now) noexcept nogil
