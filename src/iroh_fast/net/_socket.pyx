"""The loop-facing half of an endpoint: receive turns, flushes, timers, parked batches.

One object per endpoint, used from its event loop only. Sockets are raw and
non-blocking; the loop only says when they are ready.
"""

cimport cython
from libc.errno cimport EAGAIN, ENOBUFS
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from iroh_fast._batch cimport (
    RX_SLOTS, RxMessage, UdpAddr, UdpSocket, addr_from_tuple, addr_is_v4, addr_to_tuple)
from iroh_fast.aio._waiters cimport deliver
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._paths cimport ip_known
from iroh_fast.quic._state cimport ST_DRAINED
from iroh_fast.quic._endpoint cimport QuicEndpoint, Waker
from iroh_fast.quic._timeouts cimport handle_timeout, next_deadline
from iroh_fast.quic._transmit cimport Transmit, poll_transmit

import errno
import heapq
import logging

logger = logging.getLogger("iroh_fast.net")

cdef extern from "../native/clock.h" nogil:
    int64_t clock_now_ns()
    int timer_open()
    int timer_arm(int fd, int64_t at_ns)
    void timer_drain(int fd)
    void timer_close(int fd)

cdef enum:
    SLAB_BYTES = 65536
    TURN_PACKETS = 256            # received per turn before the loop gets control back
    FLUSH_DATAGRAMS = 90          # sent per connection and turn
    MAX_SEGMENTS = 45
    MAX_PARKED = 64
    SPIN_NS = 50000               # a deadline closer than this is polled, not timed


cdef inline bint is_private(const uint8_t* ip) noexcept nogil:
    """Whether an address belongs to the prefix of net.transport."""
    return ip[0] == 0xfd and ip[1] == 0x15 and ip[2] == 0x07 and ip[3] == 0x0a and ip[4] == 0x51 and ip[5] == 0x0b


def monotonic_ns():
    """The driver's clock, nanoseconds."""
    return clock_now_ns()


cdef class DriverCore(Waker):
    def __cinit__(self, QuicEndpoint endpoint, loop):
        self.endpoint = endpoint
        self.loop = loop
        self.sockets = []
        self.dirty = []
        self.timers = []
        self.parked = []
        self.carrier_sends = []
        self.carrier_kinds = []
        self.slab = <uint8_t*>malloc(SLAB_BYTES)
        if self.slab == NULL:
            raise MemoryError
        self.timer_fd = timer_open()
        self.run_soon = self.run
        endpoint.waker = self
        if self.timer_fd >= 0:
            loop.add_reader(self.timer_fd, self.on_timer)

    def __dealloc__(self):
        free(self.slab)
        free(self.injected)

    # ------------------------------------------------------------- sockets
    def add_socket(self, UdpSocket sock, int prefix, bint default_route):
        """Start reading a bound socket. At most 16."""
        cdef Bound* b
        if self.n_bound == MAX_SOCKETS:
            raise ValueError("too many sockets")
        b = &self.bound[self.n_bound]
        memcpy(b.ip, sock.local.ip, 16)
        b.family = 4 if addr_is_v4(&sock.local) else 6
        b.prefix = prefix
        b.default_route = default_route
        b.unspecified = True
        for i in range(12 if b.family == 4 else 0, 16):
            if b.ip[i]:
                b.unspecified = False
        self.n_bound += 1
        self.sockets.append(sock)
        self.parked.append([])
        self.loop.add_reader(sock.fileno(), self.on_readable, len(self.sockets) - 1)

    def add_transport(self, bytes subnet, str kind, int max_segments, send):
        """Give a subnet of the private prefix to ``send(ip16, ecn, segment, data)``, which never waits."""
        cdef Carrier* carrier
        if self.n_carriers == MAX_TRANSPORTS or len(subnet) != 2 or max_segments < 1:
            raise ValueError("too many transports, or one with impossible properties")
        carrier = &self.carriers[self.n_carriers]
        memcpy(carrier.subnet, PyBytes_AS_STRING(subnet), 2)
        carrier.max_segments = max_segments
        self.n_carriers += 1
        self.carrier_sends.append(send)
        self.carrier_kinds.append(kind)

    def inject(self, bytes ip16, int port, const uint8_t[::1] data, uint32_t stride):  # hot
        """Datagrams from a private address: `data` is cut into pieces of `stride` bytes (0: one)."""
        cdef UdpAddr src, dst
        cdef uint32_t at = 0, size, n = <uint32_t>data.shape[0]
        cdef QuicConnection c
        cdef int64_t now
        cdef int index
        if self.stopped or n == 0 or n > SLAB_BYTES or len(ip16) != 16:
            return
        index = self.carrier_of(<const uint8_t*>PyBytes_AS_STRING(ip16))
        if index < 0:
            return
        if self.injected == NULL:
            self.injected = <uint8_t*>malloc(SLAB_BYTES)
            if self.injected == NULL:
                raise MemoryError
        now = clock_now_ns()
        self.carriers[index].rx += n
        memcpy(self.injected, &data[0], n)
        memset(&src, 0, sizeof(UdpAddr))
        memset(&dst, 0, sizeof(UdpAddr))
        memcpy(src.ip, PyBytes_AS_STRING(ip16), 16)
        src.port = port
        if stride == 0:
            stride = n
        while at < n:
            size = n - at if n - at < stride else stride
            self.rx_datagrams += 1
            # ECN marks of such a path say nothing of the way beyond the first hop: never reported.
            c = self.endpoint.datagram(self.injected + at, size, &src, &dst, 0, now)
            if c is not None and not c.dirty:
                self.mark(c)
            at += size
        if (self.dirty or self.endpoint.outgoing) and not self.scheduled:
            self.schedule()

    cdef int carrier_of(self, const uint8_t* ip) noexcept nogil:
        """Which transport a private address belongs to, -1 for none."""
        cdef int i
        for i in range(self.n_carriers):
            if memcmp(ip + 6, self.carriers[i].subnet, 2) == 0:
                return i
        return -1

    cdef void carry(self, int index, const UdpAddr* dst, int ecn, const uint8_t* data, size_t n, size_t segment) noexcept:
        """Hand a batch to a transport, in pieces that it takes."""
        cdef size_t piece = n, part
        if segment:
            piece = segment * <size_t>self.carriers[index].max_segments
        while n:
            part = piece if piece < n else n
            self.carriers[index].tx += part
            try:
                self.carrier_sends[index](PyBytes_FromStringAndSize(<char*>dst.ip, 16), ecn, segment if part > segment else 0,
                                          PyBytes_FromStringAndSize(<char*>data, part))
            except Exception:
                logger.exception("a batch for a %s path was not sent", self.carrier_kinds[index])
            data += part
            n -= part

    cdef int send_to(self, const UdpAddr* dst, const UdpAddr* src, int ecn, const uint8_t* data, size_t n,
                     size_t segment) noexcept:
        """Send over whatever the destination stands for. 1: parked."""
        cdef int index
        if is_private(dst.ip):
            # An address that nobody stands for any more is a lost packet.
            index = self.carrier_of(dst.ip)
            if index >= 0:
                self.carry(index, dst, ecn, data, n, segment)
            return 0
        index = self.choose(dst, src)
        return self.put(index, dst, src, ecn, data, n, segment) if index >= 0 else 0

    cdef int choose(self, const UdpAddr* dst, const UdpAddr* src) noexcept nogil:
        """The socket for a destination: by source address, else the longest matching prefix, else the default."""
        cdef int family = 4 if addr_is_v4(dst) else 6
        cdef int i, k, bits, best = -1, best_prefix = -1
        cdef Bound* b
        cdef bint given = ip_known(src)
        for i in range(self.n_bound):
            b = &self.bound[i]
            if b.family != family:
                continue
            if given:
                if not b.unspecified and memcmp(b.ip, src.ip, 16) == 0:
                    return i
                if b.unspecified and best_prefix < 0:
                    best = i
                continue
            bits = b.prefix
            k = 12 if family == 4 else 0
            while bits >= 8 and b.ip[k] == dst.ip[k]:
                bits -= 8
                k += 1
            if bits >= 8 or (bits > 0 and (b.ip[k] ^ dst.ip[k]) >> (8 - bits)):
                if b.default_route and best_prefix < 0:
                    best = i
                continue
            if b.prefix > best_prefix and (b.prefix > 0 or b.default_route):
                best = i
                best_prefix = b.prefix
        return best

    cdef int put(self, int index, const UdpAddr* dst, const UdpAddr* src, int ecn, const uint8_t* data, size_t n,
                 size_t segment) noexcept:
        """Send, or park the batch when the socket is full. 1: parked."""
        cdef UdpSocket s = <UdpSocket>self.sockets[index]
        cdef list waiting = <list>self.parked[index]
        cdef bint given = ip_known(src)
        cdef int rc
        if not waiting:
            rc = s.send(dst, src.ip if given else NULL, ecn, data, n, segment)
            if rc != -EAGAIN:
                if addr_is_v4(dst):
                    self.tx_v4 += n
                else:
                    self.tx_v6 += n
                return 0
        if len(waiting) >= MAX_PARKED:
            self.dropped += 1         # loss recovery brings it back
            return 1
        waiting.append((PyBytes_FromStringAndSize(<char*>dst, sizeof(UdpAddr)),
                        PyBytes_FromStringAndSize(<char*>src, sizeof(UdpAddr)), ecn,
                        PyBytes_FromStringAndSize(<char*>data, n), segment))
        if len(waiting) == 1:
            try:
                if s.blocked_errno == ENOBUFS:
                    self.loop.call_later(0.001, self.on_writable, index)
                else:
                    self.loop.add_writer(s.fileno(), self.on_writable, index)
            except Exception:
                logger.exception("cannot wait for the socket")
        return 1

    def on_writable(self, int index):
        """The socket takes data again: parked batches first, then everybody who waited."""
        cdef UdpSocket s
        cdef list waiting
        cdef UdpAddr dst, src
        cdef bytes data
        if self.stopped:
            return
        s = <UdpSocket>self.sockets[index]
        waiting = <list>self.parked[index]
        self.loop.remove_writer(s.fileno())
        while waiting:
            d, r, ecn, data, segment = waiting[0]
            memcpy(&dst, PyBytes_AS_STRING(d), sizeof(UdpAddr))
            memcpy(&src, PyBytes_AS_STRING(r), sizeof(UdpAddr))
            if s.send(&dst, src.ip if ip_known(&src) else NULL, ecn,
                      <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), segment) == -EAGAIN:
                if s.blocked_errno == ENOBUFS:
                    self.loop.call_later(0.001, self.on_writable, index)
                else:
                    self.loop.add_writer(s.fileno(), self.on_writable, index)
                return
            waiting.pop(0)
        self.settle(clock_now_ns())

    # ------------------------------------------------------------- waking
    cdef int64_t clock_ns(self) noexcept nogil:
        return clock_now_ns()

    cdef void wake(self, QuicConnection c) noexcept:
        if self.stopped:
            deliver(c)                # no turn will come any more
            return
        if not c.dirty:
            self.mark(c)
        if not self.scheduled:
            self.schedule()

    cdef void wake_endpoint(self) noexcept:
        if not self.scheduled and not self.stopped:
            self.schedule()

    cdef void mark(self, QuicConnection c):
        c.dirty = True
        self.dirty.append(c)

    cdef void schedule(self):
        self.scheduled = True
        self.loop.call_soon(self.run_soon)

    def run(self):
        """Flush what woke up since the last turn."""
        self.scheduled = False
        if not self.stopped:
            self.settle(clock_now_ns())

    # ------------------------------------------------------------- turns
    def on_readable(self, int index):  # hot
        """Receive, then answer, then wake the application: once per turn each."""
        cdef UdpSocket s = <UdpSocket>self.sockets[index]
        cdef int64_t now = clock_now_ns()
        cdef int n, i, budget = TURN_PACKETS
        cdef RxMessage* m
        cdef uint32_t at, size
        cdef QuicConnection c
        while budget > 0 and not self.stopped:
            n = s.recv_batch(self.messages, RX_SLOTS)
            if n <= 0:
                if n < 0:
                    logger.warning("receiving failed: %s", errno.errorcode.get(-n, -n))
                break
            for i in range(n):
                m = &self.messages[i]
                if is_private(m.src.ip):
                    continue          # the prefix is ours: nobody out there has such an address
                if addr_is_v4(&m.src):
                    self.rx_v4 += m.len
                else:
                    self.rx_v6 += m.len
                if m.stride < m.len:
                    self.rx_gro += 1
                at = 0
                while at < m.len:
                    size = m.len - at if m.len - at < m.stride else m.stride
                    self.rx_datagrams += 1
                    c = self.endpoint.datagram(m.data + at, size, &m.src, &m.dst, m.ecn, now)
                    if c is not None and not c.dirty:
                        self.mark(c)
                    at += size
                    budget -= 1
            if n < RX_SLOTS:
                break
        self.settle(now)

    cdef void settle(self, int64_t now):
        """Flush and dispatch every connection that has something new."""
        cdef list batch = self.dirty
        cdef QuicConnection c
        cdef UdpAddr dst, src
        cdef bytes data
        cdef int index
        if self.endpoint.outgoing:
            for remote, local, data in self.endpoint.take_replies():
                addr_from_tuple(remote, &dst)
                memset(&src, 0, sizeof(UdpAddr))
                addr_from_tuple(local, &src)
                self.send_to(&dst, &src, 0, <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 0)
        if not batch:
            return
        self.dirty = []
        for c in batch:
            c.dirty = False
            if self.flush(c, now):
                # More to send than one turn allows: others first.
                if not c.dirty:
                    self.mark(c)
                if not self.scheduled:
                    self.schedule()
            deliver(c)

    cdef bint flush(self, QuicConnection c, int64_t now):  # hot
        """Send what may be sent; True when the quota ended it."""
        cdef Transmit t
        cdef size_t n
        cdef int quota = FLUSH_DATAGRAMS, segments, i
        cdef bint parked = False
        while quota > 0 and not parked:
            segments = MAX_SEGMENTS if quota > MAX_SEGMENTS else quota
            if self.n_bound and (<UdpSocket>self.sockets[0]).max_segments < segments:
                segments = (<UdpSocket>self.sockets[0]).max_segments
            n = poll_transmit(c, now, self.slab, SLAB_BYTES - 64, segments, &t)
            if c.failed:
                c.end_failed()
                continue
            if n == 0:
                break
            if t.dialing:
                for i in range(c.n_dial):
                    self.send_to(&c.dial[i], &t.local, t.ecn, self.slab, n, 0)
                quota -= 1
                continue
            parked = self.send_to(&t.remote, &t.local, t.ecn, self.slab, n, t.segment if t.segment < n else 0)
            quota -= <int>((n + t.segment - 1) // t.segment)
        if parked:
            # The writable event flushes again.
            if not c.dirty:
                self.mark(c)
            self.arm(c, now)
            return False
        self.arm(c, now)
        return quota <= 0

    # ------------------------------------------------------------- timers
    cdef void arm(self, QuicConnection c, int64_t now):
        """Have a timer entry no later than the connection's deadline; a later deadline moves lazily."""
        cdef int64_t d = next_deadline(c)
        c.deadline = d
        if d == 0 or c.state == ST_DRAINED:
            return
        if d - now < SPIN_NS and d > now:
            if not c.dirty:
                self.mark(c)
            if not self.scheduled:
                self.schedule()
            # fall through: the timer stays as a safety net
        if c.timer_at == 0 or d < c.timer_at:
            c.timer_at = d
            heapq.heappush(self.timers, (d, c.stable_id))
            if self.timer_at == 0 or d < self.timer_at:
                self.set_timer(d)

    cdef void set_timer(self, int64_t at):
        self.timer_at = at
        if self.timer_fd >= 0:
            timer_arm(self.timer_fd, at)
        else:
            if self.timer_handle is not None:
                self.timer_handle.cancel()
            wait = (at - clock_now_ns()) / 1e9
            self.timer_handle = self.loop.call_later(wait if wait > 0 else 0, self.on_timer)

    def on_timer(self):
        """Handle every connection whose deadline has come."""
        cdef int64_t now, d
        cdef QuicConnection c
        if self.stopped:
            return
        if self.timer_fd >= 0:
            timer_drain(self.timer_fd)
        self.timer_at = 0
        now = clock_now_ns()
        while self.timers and self.timers[0][0] <= now:
            d, id = heapq.heappop(self.timers)
            c = self.endpoint.connections.get(id)
            if c is None or c.timer_at != d:
                continue
            c.timer_at = 0
            if c.deadline <= now:
                handle_timeout(c, now)
                if not c.dirty:
                    self.mark(c)
            else:
                c.timer_at = c.deadline
                heapq.heappush(self.timers, (c.deadline, id))
        self.settle(now)
        if self.timers and (self.timer_at == 0 or self.timers[0][0] < self.timer_at):
            self.set_timer(self.timers[0][0])

    # ------------------------------------------------------------- end
    def stop(self):
        """Close the sockets; nothing is sent afterwards."""
        cdef UdpSocket s
        cdef QuicConnection c
        if self.stopped:
            return
        self.stopped = True
        for s in self.sockets:
            self.loop.remove_reader(s.fileno())
            self.loop.remove_writer(s.fileno())
            s.close()
        if self.timer_fd >= 0:
            self.loop.remove_reader(self.timer_fd)
            timer_close(self.timer_fd)
            self.timer_fd = -1
        if self.timer_handle is not None:
            self.timer_handle.cancel()
            self.timer_handle = None
        batch, self.dirty = self.dirty, []
        for c in batch:
            c.dirty = False
            deliver(c)
        self.timers = []
        self.endpoint.waker = None
        self.run_soon = None

    def counters(self):
        """Bytes and datagrams moved, by family."""
        return {"send_ipv4": self.tx_v4, "send_ipv6": self.tx_v6, "recv_data_ipv4": self.rx_v4,
                "recv_data_ipv6": self.rx_v6, "send_relay": 0, "recv_data_relay": 0,
                **{f"send_{kind}": self.carriers[i].tx for i, kind in enumerate(self.carrier_kinds)},
                **{f"recv_data_{kind}": self.carriers[i].rx for i, kind in enumerate(self.carrier_kinds)},
                "recv_datagrams": self.rx_datagrams, "recv_gro_datagrams": self.rx_gro,
                "dropped_batches": self.dropped}
