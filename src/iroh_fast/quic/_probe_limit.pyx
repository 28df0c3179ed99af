"""How often an endpoint sends probes to addresses that its peers name.

A peer says where it may be reached, and nobody can tell at first whether it is there. So what one address, and one host, gets
from an endpoint is bounded over all rounds and connections: a victim whom many peers name gets a few small packets a second.
An address has a place in a table of fixed size by a keyed hash. Addresses that share one share its limit, so the table needs
no room for what attackers invent, and nothing is forgotten before its time. Source: RFC 9000 §21.5.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from iroh_fast._batch cimport UdpAddr, addr_is_v4
from iroh_fast.quic._random cimport RandomSource
from iroh_fast.quic._time cimport SECOND


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    x = (x ^ (x >> 27)) * <uint64_t>0x94d049bb133111eb
    return x ^ (x >> 31)


cdef inline bint has_room(int64_t until, int64_t now, int burst, int rate) noexcept nogil:
    return until - now <= (burst - 1) * (SECOND // rate)


cdef inline void count(int64_t* until, int64_t now, int rate) noexcept nogil:
    until[0] = (until[0] if until[0] > now else now) + SECOND // rate


@cython.final
cdef class ProbeLimit:
    def __cinit__(self, RandomSource random not None):
        self.random = random

    def __dealloc__(self):
        free(self.places)

    cdef bint take(self, const UdpAddr* remote, int64_t now) noexcept nogil:
        cdef uint64_t host, rest, at
        cdef int64_t* address_until
        cdef int64_t* host_until
        if self.places == NULL:
            self.places = <int64_t*>calloc(ADDRESSES + HOSTS, sizeof(int64_t))
            if self.places == NULL:
                return False
            self.random.fill(<uint8_t*>self.key, sizeof(self.key))
        memcpy(&host, remote.ip, 8)
        memcpy(&rest, remote.ip + 8, 8)
        # Of IPv6 a customer has a network of addresses.
        host = mixed(mixed(host ^ self.key[0]) + (rest if addr_is_v4(remote) else 0))
        at = mixed(mixed(host ^ rest ^ self.key[1]) + remote.port + self.key[2])
        address_until = &self.places[at & (ADDRESSES - 1)]
        host_until = &self.places[ADDRESSES + (host & (HOSTS - 1))]
        if not (has_room(address_until[0], now, ADDRESS_BURST, ADDRESS_RATE)
                and has_room(host_until[0], now, HOST_BURST, HOST_RATE)):
            self.held += 1
            return False
        count(address_until, now, ADDRESS_RATE)
        count(host_until, now, HOST_RATE)
        return True
