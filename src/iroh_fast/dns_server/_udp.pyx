"""UDP: queries in, answers out, in batches.

`UdpPort.receive` takes what a socket has, lets the answerer write each answer behind the one before, and sends all of them with few
system calls; answers of one size for one address leave as one batch where the kernel segments. No Python object is made
for a query but when its key has to be looked up.
"""

import os
import socket
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EMSGSIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._batch cimport MAX_GSO_BYTES, RX_SLOTS, TX_SLOTS, RxMessage, TxMessage, UdpAddr, UdpSocket, addr_is_v4
from iroh_fast._dns._names cimport skip_name
from iroh_fast.dns_server._answers cimport DATAGRAM_DEFAULT, DATAGRAM_LIMIT, MISSED, OVER_UDP, Answerer
from iroh_fast.dns_server._limits cimport SILENT, TRUNCATED, PrefixLimiter

cdef extern from "native/clock.h" nogil:
    int64_t clock_now_ns()


cdef enum:
    FLUSH_AT = 32                 # answers
    OUT_BYTES = 64 * 1400
    LONGEST_MISSED = 4096         # bytes of a query that is kept; none is as long


cdef bint answerable(const UdpAddr* a) noexcept nogil:
    """Whether a source is somebody: no port 0, no wildcard, broadcast or multicast address."""
    cdef int i
    if a.port == 0:
        return False
    if addr_is_v4(a):
        return a.ip[12] != 0 and a.ip[12] < 224
    if a.ip[0] == 0xff:
        return False
    for i in range(16):
        if a.ip[i]:
            return True
    return False


cdef inline bint same_addr(const UdpAddr* a, const UdpAddr* b) noexcept nogil:
    return a.port == b.port and a.scope == b.scope and memcmp(a.ip, b.ip, 16) == 0


cdef size_t shorten(uint8_t* answer, size_t n) noexcept nogil:
    """Leave the question alone, and TC: ask over TCP."""
    cdef Py_ssize_t at = 12
    answer[2] |= 2
    if answer[4] == 0 and answer[5] == 1:
        at = skip_name(answer, n, 12) + 4
        if at < 16 or <size_t>at > n:
            at = 12
    if at == 12:
        answer[4] = answer[5] = 0
    memset(answer + 6, 0, 6)
    return <size_t>at


cdef class UdpPort:
    """Answers what comes to a UDP socket.

    Parameters
    ----------
    sock : UdpSocket
    answerer : Answerer
    limiter : PrefixLimiter
    max_missed : int
        Queries that wait for a lookup; further ones are dropped.

    Attributes
    ----------
    missed : deque of tuple of (bytes, bytes)
        Queries that `receive` could not answer, with whom to `send` the answer to.
    """

    def __cinit__(self, UdpSocket sock not None, Answerer answerer not None, PrefixLimiter limiter not None,
                  int max_missed=4096):
        self.sock = sock
        self.answerer = answerer
        self.limiter = limiter
        self.missed = deque((), max_missed)
        self.out = <uint8_t*>malloc(OUT_BYTES)
        if self.out == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.out)

    def receive(self, int batches):
        """Answer what is there.

        Parameters
        ----------
        batches : int
            System calls to receive with, at most; 16 queries each.

        Returns
        -------
        int
            How many queries came.

        Raises
        ------
        OSError
            The socket is closed or broken.
        """
        cdef RxMessage[16] messages
        cdef RxMessage* m
        cdef uint32_t at, size
        cdef int i, n = 0, total = 0
        cdef int64_t now_ns = clock_now_ns()
        while batches > 0:
            batches -= 1
            n = self.sock.recv_batch(messages, RX_SLOTS)
            for i in range(n):
                m = &messages[i]
                if not answerable(&m.src):
                    self.ignored += 1
                    continue
                at = 0
                while True:  # an empty datagram is one, too
                    size = min(m.stride, m.len - at)
                    self._take(m.data + at, size, m, now_ns)
                    total += 1
                    at += size
                    if at >= m.len:
                        break
            if n < RX_SLOTS:
                break
        self._flush()
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        return total

    cdef int _take(self, const uint8_t* query, size_t n, const RxMessage* m, int64_t now_ns) except -1:    # hot
        cdef int admitted = self.limiter.admit(m.src.ip, now_ns)
        cdef uint8_t* out = self.out + self.used
        cdef int size
        if admitted == SILENT:
            return 0
        if admitted == TRUNCATED:
            size = self.answerer.hint(query, n, out)
        else:
            size = self.answerer.answer(query, n, OVER_UDP, out, now_ns)
        if size > 0:
            self._queue(&m.src, &m.dst, <size_t>size)
        elif size == MISSED:
            self._miss(query, n, m)
        return 0

    cdef _miss(self, const uint8_t* query, size_t n, const RxMessage* m):
        cdef Peer peer
        memset(&peer, 0, sizeof(peer))
        peer.source = m.src
        peer.local = m.dst
        if len(self.missed) == self.missed.maxlen or n > LONGEST_MISSED:
            self.overflow += 1
            return
        self.missed.append((
            PyBytes_FromStringAndSize(<const char*>query, n),
            PyBytes_FromStringAndSize(<const char*>&peer, sizeof(peer)),
        ))

    cdef void _queue(self, const UdpAddr* source, const UdpAddr* local, size_t n) noexcept nogil:    # hot
        """Let what was written to the end of `out` leave; together with the ones before, when they are alike."""
        cdef TxMessage* item = &self.items[self.count - 1] if self.count else NULL
        if (
            item != NULL and n <= item.segment and item.len == item.segment * <size_t>self.segments
            and self.segments < self.sock.max_segments and item.len + n <= MAX_GSO_BYTES
            and same_addr(&item.dst, source) and same_addr(&item.src, local)
        ):
            item.len += n
            self.segments += 1
        else:
            item = &self.items[self.count]
            memset(item, 0, sizeof(TxMessage))
            item.dst = source[0]
            item.src = local[0]
            item.data = self.out + self.used
            item.len = n
            # Larger ones might not fit the link, and segments must.
            item.segment = n if n <= DATAGRAM_DEFAULT and self.sock.max_segments > 1 else 0
            self.count += 1
            self.segments = 1
        self.used += n
        if self.count >= FLUSH_AT or self.used + DATAGRAM_LIMIT > OUT_BYTES:
            self._flush()

    cdef void _flush(self) noexcept nogil:
        cdef int done, i
        if self.count == 0:
            return
        for i in range(self.count):
            if self.items[i].len == self.items[i].segment:
                self.items[i].segment = 0
        done = self.sock.send_many(self.items, self.count)
        for i in range(done):
            if self.items[i].error == EMSGSIZE:
                self._send_short(&self.items[i])
        # Who has a full queue would be late anyway: clients ask again.
        self.dropped += self.count - done
        self.count = 0
        self.used = 0

    cdef void _send_short(self, TxMessage* item) noexcept nogil:
        """The link takes less than the client: say that the answer is there over TCP."""
        cdef size_t at = 0, size, step = item.segment if item.segment else item.len
        cdef uint8_t* answer = <uint8_t*>item.data
        while at < item.len:
            size = min(step, item.len - at)
            self.sock.send(&item.dst, item.src.ip, 0, answer + at, shorten(answer + at, size), 0)
            at += size

    def send(self, bytes peer not None, bytes answer not None):
        """Send an answer to one of `missed`."""
        cdef const Peer* to = <const Peer*>PyBytes_AS_STRING(peer)
        if PyBytes_GET_SIZE(peer) != sizeof(Peer) or PyBytes_GET_SIZE(answer) > DATAGRAM_LIMIT:
            raise ValueError("not a peer of this port, or an answer that is too long")
        if PyBytes_GET_SIZE(answer) == 0:
            return
        memcpy(self.out + self.used, PyBytes_AS_STRING(answer), PyBytes_GET_SIZE(answer))
        self._queue(&to.source, &to.local, <size_t>PyBytes_GET_SIZE(answer))

    def flush(self):
        """Let leave what `send` was given."""
        self._flush()

    def ip_of(self, bytes peer not None):
        """The address of one of `missed` as text."""
        cdef const Peer* of = <const Peer*>PyBytes_AS_STRING(peer)
        cdef const char* ip
        if PyBytes_GET_SIZE(peer) != sizeof(Peer):
            raise ValueError("not a peer of this port")
        ip = <const char*>of.source.ip
        if addr_is_v4(&of.source):
            return socket.inet_ntop(socket.AF_INET, ip[12:16])
        return socket.inet_ntop(socket.AF_INET6, ip[:16])

    def counts(self):
        """Return the counters since the beginning: dict of str to int."""
        return {
            "dns_udp_unanswerable": self.ignored,
            "dns_udp_limited": self.limiter.limited,
            "dns_udp_dropped": self.dropped,
            "dns_udp_overflow": self.overflow,
        }
