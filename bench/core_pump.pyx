# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Moves datagrams between two endpoints without sockets and times both ends, for bench_core.py.

Nothing but the library's own C functions runs between two readings of the clock, and there is one
reading per batch, as a socket driver would make its batches.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from iroh_fast._batch cimport UdpAddr, addr_from_tuple
from iroh_fast._crypto cimport (
    TAG_LEN, Aead, HeaderKey, aead_free, aead_open, aead_seal, hp_free, hp_masks, keys_from_secret)
from iroh_fast.quic._closing cimport end_failed
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._endpoint cimport QuicEndpoint
from iroh_fast.quic._timeouts cimport handle_timeout, next_deadline
from iroh_fast.quic._transmit cimport Transmit, poll_transmit


cdef enum:
    SLAB = 65536
    BATCHES = 4                   # in flight per turn
    SEGMENTS = 45
    HEADER = 11                   # flags, 8 bytes of id, 2 of packet number


cdef inline int64_t clock() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1000000000 + t.tv_nsec


cdef class Pump:
    """One direction: from the endpoint that sends to the one that receives.

    Attributes
    ----------
    tx_ns, rx_ns, deadline_ns : time in poll_transmit, in datagram() and in next_deadline()
    packets, bytes, batches : what was moved
    """

    cdef QuicEndpoint source, target
    cdef UdpAddr source_addr, target_addr
    cdef uint8_t* slab
    cdef readonly int64_t tx_ns, rx_ns, deadline_ns
    cdef readonly uint64_t packets, bytes, batches

    def __cinit__(self, QuicEndpoint source, source_addr, QuicEndpoint target, target_addr):
        self.source = source
        self.target = target
        addr_from_tuple(source_addr, &self.source_addr)
        addr_from_tuple(target_addr, &self.target_addr)
        self.slab = <uint8_t*>malloc(BATCHES * SLAB)
        if self.slab == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.slab)

    def reset(self):
        """Forget what was counted."""
        self.tx_ns = self.rx_ns = self.deadline_ns = 0
        self.packets = self.bytes = self.batches = 0

    def turn(self, QuicConnection c, int64_t now, int64_t latency):
        """Send what `c` has, at most four batches, and deliver it `latency` later. The number of datagrams."""
        cdef Transmit t[BATCHES]
        cdef size_t n[BATCHES]
        cdef size_t at, size
        cdef int i, k = 0
        cdef uint64_t count = 0
        cdef int64_t begin
        cdef QuicConnection hit = None
        begin = clock()
        for i in range(BATCHES):
            n[i] = poll_transmit(c, now, self.slab + i * SLAB, SLAB - 64, SEGMENTS, &t[i])
            if n[i] == 0:
                break
            k += 1
        self.tx_ns += clock() - begin
        if c.failed:
            end_failed(c)
        begin = clock()
        c.deadline = next_deadline(c)
        self.deadline_ns += clock() - begin
        if k == 0:
            return 0
        begin = clock()
        for i in range(k):
            at = 0
            while at < n[i]:
                size = n[i] - at if n[i] - at < t[i].segment else t[i].segment
                hit = self.target.datagram(self.slab + i * SLAB + at, size, &self.source_addr, &self.target_addr,
                                           t[i].ecn, now + latency)
                at += size
                count += 1
            self.bytes += n[i]
        self.rx_ns += clock() - begin
        self.packets += count
        self.batches += k
        if hit is not None:
            hit.take_events()
        return count


def settle_timers(QuicConnection c, int64_t now):
    """Let time pass. When the next timer is due, 0: never."""
    cdef int64_t d = next_deadline(c)
    if d and d <= now:
        handle_timeout(c, now)
        c.take_events()
        d = next_deadline(c)
    return d


def clock_cost(int rounds=50):
    """Nanoseconds between two readings of the clock, the best of `rounds`."""
    cdef int i, j
    cdef int64_t begin, spent, best = -1
    for i in range(rounds):
        begin = clock()
        for j in range(199):
            clock()
        spent = clock() - begin
        if best < 0 or spent < best:
            best = spent
    return best / 200


def crypto_cost(int suite, bytes secret, size_t size, int rounds=400):
    """(seal, open): ns per packet of `size` bytes with header protection as the core does it, best of `rounds`."""
    cdef Aead* aead = NULL
    cdef HeaderKey* hp = NULL
    cdef uint8_t* slab = <uint8_t*>malloc(SLAB)
    cdef const uint8_t* samples[SEGMENTS]
    cdef uint8_t masks[SEGMENTS * 16]
    cdef uint64_t pn = 0
    cdef int64_t begin, spent, seal = -1, opened = -1
    cdef size_t n = size - HEADER - TAG_LEN
    cdef int i, failed = 0, count = <int>(SLAB // size) if SLAB // size < SEGMENTS else SEGMENTS
    cdef uint8_t* p
    if slab == NULL or keys_from_secret(suite, secret, len(secret), &aead, &hp) < 0:
        free(slab)
        raise MemoryError
    memset(slab, 7, SLAB)
    for _ in range(rounds):
        begin = clock()
        for i in range(count):
            p = slab + i * size
            failed |= aead_seal(aead, 0, pn + i, p, HEADER, p + HEADER, n)
            samples[i] = p + 13
        failed |= hp_masks(hp, samples, count, masks)
        spent = clock() - begin
        if seal < 0 or spent < seal:
            seal = spent
        begin = clock()
        for i in range(count):
            p = slab + i * size
            failed |= hp_masks(hp, samples + i, 1, masks)
            if aead_open(aead, 0, pn + i, p, HEADER, p + HEADER, size - HEADER) < 0:
                failed = -1
        spent = clock() - begin
        if opened < 0 or spent < opened:
            opened = spent
        pn += count
    aead_free(aead)
    hp_free(hp)
    free(slab)
    if failed:
        raise RuntimeError("packet protection failed")
    return seal / count, opened / count
