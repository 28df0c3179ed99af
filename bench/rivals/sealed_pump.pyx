# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Encrypted packets without a protocol around them: what the machine can do at most.

Each datagram is a QUIC short header (flags, 8 bytes connection id, 4 bytes packet number), a
payload and the AEAD tag, with header protection; both sides use the library's own leaves for
sockets and packet protection.  There are no streams, acknowledgements, timers or copies, and
nothing is sent again.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from iroh_fast._batch cimport MAX_GSO_BYTES, RX_SLOTS, RxMessage, UdpAddr, UdpSocket, addr_from_tuple
from iroh_fast._crypto cimport (
    HP_SAMPLE_LEN, TAG_LEN, Aead, HeaderKey, aead_free, aead_open, aead_seal, hp_free, hp_masks, hp_new,
    keys_from_secret,
)


cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLIN, POLLOUT
    int poll(pollfd* fds, unsigned long n, int timeout)


cdef enum:
    HEADER = 13
    PN = 9
    BATCH = 64
    SUITE = 0x1301


cdef double clock() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef void wait(int fd, int events) noexcept nogil:
    cdef pollfd p
    p.fd = fd
    p.events = <short>events
    poll(&p, 1, 20)


cdef class Keys:
    cdef Aead* aead
    cdef HeaderKey* hp

    def __cinit__(self):
        cdef uint8_t secret[32]
        memset(secret, 7, 32)
        if keys_from_secret(SUITE, secret, 32, &self.aead, &self.hp) != 0:
            raise MemoryError

    def __dealloc__(self):
        aead_free(self.aead)
        hp_free(self.hp)


def send(UdpSocket sock not None, tuple to not None, size_t size, int at_a_time, double seconds):
    """Send sealed datagrams of `size` bytes for so long; gives how many."""
    cdef Keys keys = Keys()
    cdef UdpAddr addr
    cdef const uint8_t* samples[BATCH]
    cdef uint8_t masks[BATCH * HP_SAMPLE_LEN]
    cdef uint8_t* slab
    cdef uint8_t* p
    cdef uint64_t pn = 0
    cdef double end
    cdef int i, k, failed = 0
    if not HEADER + TAG_LEN + 4 <= size <= 65000 or not 1 <= at_a_time <= BATCH or size * at_a_time > MAX_GSO_BYTES:
        raise ValueError("size or at_a_time out of range")
    addr_from_tuple(to, &addr)
    slab = <uint8_t*>malloc(size * at_a_time)
    if slab == NULL:
        raise MemoryError
    memset(slab, 0, size * at_a_time)
    with nogil:
        end = clock() + seconds
        while failed == 0 and clock() < end:
            for i in range(at_a_time):
                p = slab + i * size
                memset(p, 0x43, PN)
                for k in range(4):
                    p[PN + k] = <uint8_t>(pn >> (24 - 8 * k))
                failed |= aead_seal(keys.aead, 0, pn, p, HEADER, p + HEADER, size - HEADER - TAG_LEN)
                samples[i] = p + PN + 4
                pn += 1
            failed |= hp_masks(keys.hp, samples, at_a_time, masks)
            for i in range(at_a_time):
                p = slab + i * size
                p[0] ^= masks[i * HP_SAMPLE_LEN] & 0x1F
                for k in range(4):
                    p[PN + k] ^= masks[i * HP_SAMPLE_LEN + 1 + k]
            while failed == 0 and sock.send(&addr, NULL, 0, slab, size * at_a_time, size) != 0:
                wait(sock.fd, POLLOUT)
        free(slab)
    if failed:
        raise RuntimeError("sealing failed")
    return pn


def receive(UdpSocket sock not None, size_t size, double seconds):
    """Open what arrives until so long after the first; gives (payload bytes, packets, seconds)."""
    cdef Keys keys = Keys()
    cdef RxMessage messages[RX_SLOTS]
    cdef const uint8_t* samples[BATCH]
    cdef uint8_t masks[BATCH * HP_SAMPLE_LEN]
    cdef uint8_t* p
    cdef uint64_t pn, packets = 0, total = 0
    cdef double now = 0, first = 0, give_up = clock() + seconds + 10
    cdef Py_ssize_t got
    cdef int i, k, j, n, count, failed = 0
    if size < HEADER + TAG_LEN + 4:
        raise ValueError("size out of range")
    with nogil:
        while failed == 0 and now < give_up and (first == 0 or now - first < seconds):
            n = sock.recv_batch(messages, RX_SLOTS)
            now = clock()
            if n == 0:
                wait(sock.fd, POLLIN)
                continue
            if n < 0:
                failed = n
                break
            if first == 0:
                first = now
            for i in range(n):
                count = <int>(messages[i].len // size)
                if count > BATCH or messages[i].stride != size or count * size != messages[i].len:
                    failed = -1
                    break
                for j in range(count):
                    samples[j] = messages[i].data + j * size + PN + 4
                failed |= hp_masks(keys.hp, samples, count, masks)
                for j in range(count):
                    p = messages[i].data + j * size
                    p[0] ^= masks[j * HP_SAMPLE_LEN] & 0x1F
                    pn = 0
                    for k in range(4):
                        p[PN + k] ^= masks[j * HP_SAMPLE_LEN + 1 + k]
                        pn = pn << 8 | p[PN + k]
                    got = aead_open(keys.aead, 0, pn, p, HEADER, p + HEADER, size - HEADER)
                    if got < 0:
                        failed = -1
                        break
                    total += got
                packets += count
        now = clock()
    if failed or not packets:
        raise RuntimeError("nothing arrived" if not failed else f"opening failed ({failed})")
    return total, packets, now - first
