"""How often the addresses of one prefix are answered over UDP.

A source address proves nothing: whoever it is forged for gets the answers. So each /24 of IPv4 and /56 of IPv6 has a rate (GCRA:
one number per prefix), in a table of fixed size. Beyond it every second query gets the shortest answer, which says to
ask over TCP, where the address is proven; a resolver that many people share gets on with that.
"""

import os
import socket

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from iroh_fast.dns_server._sip cimport sip_hash

cdef extern from "native/slab.h" nogil:
    uint8_t* slab_new(size_t n)
    void slab_free(uint8_t* p, size_t n)


cdef enum:
    SETS = 16384
    WAYS = 4                      # places of a prefix; the busiest ones keep theirs
    TABLE = 16 * SETS * WAYS      # bytes

cdef uint8_t[12] V4_PREFIX = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]
cdef uint8_t[16] V6_LOOPBACK = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]


cdef inline uint64_t prefix_of(const uint8_t* ip) noexcept nogil:
    """The /24 or /56 as a number, 0 for this machine itself."""
    cdef uint64_t prefix = 0
    cdef int i
    if memcmp(ip, V4_PREFIX, 12) == 0:
        if ip[12] == 127:
            return 0
        return (<uint64_t>1 << 63) | (<uint64_t>ip[12] << 16) | (<uint64_t>ip[13] << 8) | ip[14]
    if memcmp(ip, V6_LOOPBACK, 16) == 0:
        return 0
    for i in range(7):
        prefix = (prefix << 8) | ip[i]
    return (<uint64_t>1 << 62) | prefix


cdef class PrefixLimiter:
    """A rate for each prefix.

    Parameters
    ----------
    rate : float, optional
        Answers per second, at most 1,000,000; None: no limit.
    burst : int
        Answers at once.
    """

    def __cinit__(self, rate=None, burst=1):
        if rate is not None and (not 0 < rate <= 1_000_000 or not 1 <= burst <= 1_000_000_000):
            raise ValueError(f"a rate of 0 to 1000000 answers per second and a burst of 1 at least, not {rate}, {burst}")
        self.period_ns = 0 if rate is None else <int64_t>(1e9 / rate)
        self.burst_ns = self.period_ns * <int64_t>burst
        secret = os.urandom(16)
        memcpy(self.secret, <const char*>secret, 16)
        if self.period_ns:
            self.quotas = <Quota*>slab_new(TABLE)
            if self.quotas == NULL:
                raise MemoryError

    def __dealloc__(self):
        if self.quotas != NULL:
            slab_free(<uint8_t*>self.quotas, TABLE)

    cdef Quota* _quota(self, uint64_t prefix) noexcept nogil:
        """The place of a prefix: its own, or the one whose owner was answered least."""
        cdef Quota* first = self.quotas + WAYS * (sip_hash(self.secret, <const uint8_t*>&prefix, 8) % SETS)
        cdef Quota* found = first
        cdef int i
        for i in range(WAYS):
            if first[i].prefix == prefix:
                return &first[i]
            if first[i].due_ns < found.due_ns:
                found = &first[i]
        found.prefix = prefix
        found.due_ns = 0
        return found

    cdef int admit(self, const uint8_t* ip, int64_t now_ns) noexcept nogil:    # hot
        cdef uint64_t prefix
        cdef Quota* quota
        cdef int64_t due
        if self.period_ns == 0:
            return ADMITTED
        prefix = prefix_of(ip)
        if prefix == 0:  # what stays on this machine reaches no victim
            return ADMITTED
        quota = self._quota(prefix)
        due = max(quota.due_ns, now_ns) + self.period_ns
        if due - now_ns > self.burst_ns:
            self.limited += 1
            return TRUNCATED if self.limited & 1 else SILENT
        quota.due_ns = due
        return ADMITTED

    @property
    def refusals(self):
        """How many queries were too many."""
        return self.limited

    def ask(self, ip, now_ns):
        """What a query from `ip` at a time gets: 0 its answer, 1 the hint to ask over TCP, 2 nothing."""
        cdef bytes packed = socket.inet_pton(socket.AF_INET6, ip if ":" in ip else f"::ffff:{ip}")
        return self.admit(<const uint8_t*><const char*>packed, now_ns)
