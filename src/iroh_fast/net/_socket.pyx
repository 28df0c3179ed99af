"""The loop-facing half of an endpoint: receive turns, flushes, timers.

One object per endpoint, used from its event loop only. Sockets are raw and non-blocking; the loop only says when they are
ready. In a turn everything that came is taken in, then everything that woke up is flushed into the outbox, which leaves
with few system calls, then the application hears what happened. Timers that may slip a little are due together.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EBADF, EMSGSIZE, ENOTCONN, EPIPE
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from iroh_fast._batch cimport RX_SLOTS, RxMessage, UdpAddr, UdpSocket, addr_from_tuple, addr_is_v4, addr_to_tuple
from iroh_fast._probe cimport is_stun
from iroh_fast.aio._core_events cimport deliver
from iroh_fast.net._deadlines cimport Deadlines
from iroh_fast.net._outbox cimport BATCH_BYTES, Outbox, OutboxOwner, is_private
from iroh_fast.quic._closing cimport end_failed, finish_drained
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._endpoint cimport QuicEndpoint, Waker
from iroh_fast.quic._first_flight cimport dial_at, dial_refused, dial_window
from iroh_fast.quic._codes cimport ST_DRAINED
from iroh_fast.quic._keys cimport keys_look_ahead, keys_look_back
from iroh_fast.quic._paths cimport CID_LEN
from iroh_fast.quic._refused cimport datagram_too_big
from iroh_fast.quic._timeouts cimport handle_timeout, next_wake
from iroh_fast.quic._transmit cimport Transmit, poll_transmit

import errno
import logging

from iroh_fast.errors import CloseReason

logger = logging.getLogger("iroh_fast.net")

cdef extern from "../native/clock.h" nogil:
    int64_t clock_now_ns()
    int timer_open()
    int timer_arm(int fd, int64_t at_ns)
    void timer_drain(int fd)
    void timer_close(int fd)

cdef enum:
    INJECT_BYTES = 65536
    TURN_PACKETS = 256            # received per turn before the loop gets control back,
    BUDGET_BYTES = 8192           # ... of which so many bytes count as one more
    FLUSH_DATAGRAMS = 90          # sent per connection and turn, or
    TURN_BYTES = 262144           # ... so many bytes
    MAX_SEGMENTS = 45
    MAX_FOREIGN = 1200            # bytes of a datagram that is not QUIC
    IN_VAIN = 64                  # times in a row a socket is readable without anything to read,
    ERRORS_IN_A_ROW = 8           # ... or gives an error: it is looked at
    SPIN_NS = 50000               # a deadline closer than this is polled, not timed


def monotonic_ns():
    """The engine's clock, nanoseconds."""
    return clock_now_ns()


@cython.final
cdef class Sender(OutboxOwner):
    def __cinit__(self, DriverCore core):
        self.core = core

    cdef void refused(self, QuicConnection conn, const UdpAddr* dst, size_t size, int error) noexcept:
        if error != EMSGSIZE:
            dial_refused(conn, dst, error)
            return
        datagram_too_big(conn, dst, size, clock_now_ns())
        self.core.wake(conn)

    cdef void hold(self, QuicConnection conn) noexcept:
        # Marked as dirty but not in the list: nothing flushes it.
        conn.dirty = True
        self.core.held.append(conn)

    cdef void broken(self, int index, int error) noexcept:
        self.core.tell_broken(index, error)

    cdef void released(self) noexcept:
        cdef DriverCore core = self.core
        cdef QuicConnection conn
        held, core.held = core.held, []
        for conn in held:
            conn.dirty = False
        for conn in held:
            if not conn.dirty:
                core.mark(conn)
        core.settle(clock_now_ns())


cdef class DriverCore(Waker):
    def __cinit__(self, QuicEndpoint endpoint, loop):
        self.endpoint = endpoint
        self.loop = loop
        self.dirty = []
        self.held = []
        self.timers = []
        self.waiting = {}
        self.deadlines = Deadlines(self.timers, endpoint.connections)
        self.timer_fd = -1
        self.outbox = Outbox(Sender(self), loop)
        self.timer_fd = timer_open()
        self.run_soon = self.run
        endpoint.waker = self
        if self.timer_fd >= 0:
            loop.add_reader(self.timer_fd, self.on_timer)

    def __dealloc__(self):
        free(self.injected)
        if self.timer_fd >= 0:
            timer_close(self.timer_fd)    # its loop was closed first

    # ------------------------------------------------------------- sockets and transports
    @property
    def sockets(self):
        """The sockets, in the order in which they were added."""
        return self.outbox.sockets

    def add_socket(self, UdpSocket sock not None, int prefix, bint default_route):
        """Start reading a bound socket. At most 16."""
        self.outbox.add_socket(sock, prefix, default_route)
        self.loop.add_reader(sock.fileno(), self.on_readable, len(self.outbox.sockets) - 1)

    def shut_socket(self, int index):
        """Close a socket until `replace_socket`; what is sent meanwhile is lost."""
        cdef UdpSocket sock = <UdpSocket>self.outbox.sockets[index]
        if sock.fileno() >= 0:
            self.loop.remove_reader(sock.fileno())
            self.loop.remove_writer(sock.fileno())
            sock.close()
        self.outbox.down(index)

    def replace_socket(self, int index, UdpSocket sock not None):
        """Go on with a socket bound to the same address in the place of one that was shut."""
        self.outbox.replace(index, sock)
        self.in_vain[index] = 0
        self.loop.add_reader(sock.fileno(), self.on_readable, index)

    def add_transport(self, bytes subnet, str kind, int max_segments, int max_datagram, send):
        """Give a subnet of the private prefix to ``send(ip16, ecn, segment, data[, local])``, which never waits."""
        self.outbox.add_transport(subnet, kind, max_segments, max_datagram, send)

    def inject(self, bytes ip16, int port, bytes data not None, uint32_t stride, bytes local=None, int ecn=0):  # hot
        """Datagrams from a private address: `data` is cut into pieces of `stride` bytes (0: one)."""
        cdef RxMessage message
        cdef size_t n = PyBytes_GET_SIZE(data)
        cdef int index
        if self.stopped or n == 0 or n > INJECT_BYTES or len(ip16) != 16:
            return
        index = self.outbox.carrier_of(<const uint8_t*>PyBytes_AS_STRING(ip16))
        if index < 0:
            return
        if self.injected == NULL:
            self.injected = <uint8_t*>malloc(INJECT_BYTES)
            if self.injected == NULL:
                raise MemoryError
        self.outbox.carriers[index].rx += n
        memset(&message, 0, sizeof(RxMessage))
        message.ecn = ecn & 3
        if local is not None and len(local) == 16:
            memcpy(message.dst.ip, PyBytes_AS_STRING(local), 16)
            message.dst.port = port
        memcpy(self.injected, PyBytes_AS_STRING(data), n)
        memcpy(message.src.ip, PyBytes_AS_STRING(ip16), 16)
        message.src.port = port
        message.data = self.injected
        message.len = <uint32_t>n
        message.stride = stride or message.len
        self.take(&message, clock_now_ns())
        if (self.dirty or self.endpoint.outgoing) and not self.scheduled:
            self.schedule()

    # ------------------------------------------------------------- waking
    cdef int64_t clock_ns(self) noexcept nogil:
        return clock_now_ns()

    cdef int largest_payload(self, const UdpAddr* remote, const UdpAddr* local) noexcept nogil:
        return self.outbox.largest_payload(remote, local)

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

    cdef void mark(self, QuicConnection conn):
        conn.dirty = True
        self.dirty.append(conn)

    cdef void schedule(self):
        self.scheduled = True
        try:
            self.loop.call_soon(self.run_soon)
        except RuntimeError:          # the loop is closed, and with it all that lived on it
            self.abandon()

    def run(self):
        """Flush what woke up since the last turn."""
        self.scheduled = False
        if not self.stopped:
            self.settle(clock_now_ns())

    # ------------------------------------------------------------- turns
    def on_readable(self, int index):  # hot
        """Receive, then answer, then wake the application: once per turn each."""
        cdef UdpSocket sock = <UdpSocket>self.outbox.sockets[index]
        cdef int64_t now = clock_now_ns()
        cdef int n, i, budget = TURN_PACKETS
        cdef RxMessage* message
        while budget > 0 and not self.stopped:
            n = sock.recv_batch(self.messages, RX_SLOTS)
            if n <= 0:
                if n < 0 or budget == TURN_PACKETS:
                    self.nothing_came(index, -n)
                break
            self.in_vain[index] = 0
            for i in range(n):
                message = &self.messages[i]
                # An empty one costs as well, and a large one as much as several.
                budget -= 1 + <int>(message.len // BUDGET_BYTES)
                if is_private(message.src.ip):
                    continue          # the prefix is ours: nobody out there has such an address
                if addr_is_v4(&message.src):
                    self.rx_v4 += message.len
                else:
                    self.rx_v6 += message.len
                if message.stride < message.len:
                    self.rx_gro += 1
                budget -= self.take(message, now) - 1
            if n < RX_SLOTS:
                break
        self.settle(now)

    cdef void nothing_came(self, int index, int error) noexcept:
        """A socket was readable and gave an error, or nothing (0): now and then that happens to good ones."""
        if error:
            logger.log(logging.DEBUG if self.in_vain[index] else logging.INFO,
                       "receiving failed: %s", errno.errorcode.get(error, error))
        self.in_vain[index] += 1 if not error else IN_VAIN // ERRORS_IN_A_ROW
        if self.in_vain[index] >= IN_VAIN or error in (EBADF, ENOTCONN, EPIPE):
            self.in_vain[index] = 0
            self.tell_broken(index, error)

    cdef void tell_broken(self, int index, int error) noexcept:
        if self.on_broken is not None and not self.stopped:
            self.loop.call_soon(self.on_broken, self.outbox.sockets[index], error)

    cdef int take(self, const RxMessage* message, int64_t now):  # hot
        """Give the datagrams of a message to their connections. Their number, 1 for an empty one."""
        cdef uint32_t at = 0, size
        cdef int n = 0
        cdef QuicConnection conn, first = None
        while at < message.len:
            size = message.len - at if message.len - at < message.stride else message.stride
            conn = self.endpoint.datagram(message.data + at, size, &message.src, &message.dst, message.ecn, now)
            if conn is None:
                if not message.data[at] & 0xC0:
                    self.not_quic(message.data + at, size, &message.src)
            elif not conn.dirty:
                self.mark(conn)
            at += size
            n += 1
            if n == 1 and at < message.len and conn is not None:
                # What came glued together is nearly always for the same connection.
                first = conn
                keys_look_ahead(&first.keys, message.data + at, size, (message.len - at) // size, 1 + CID_LEN, self.masks)
        if first is not None:
            keys_look_back(&first.keys)
        self.rx_datagrams += n
        return n if n else 1

    cdef void not_quic(self, const uint8_t* data, uint32_t n, const UdpAddr* src) noexcept:
        """What QUIC never sends (RFC 9443): for whoever waits for it from STUN, or for nobody."""
        # What a transport carries is QUIC's alone.
        if not self.waiting or not is_stun(data, n) or is_private(src.ip):
            self.rx_foreign += 1
            return
        waiter = self.waiting.get(PyBytes_FromStringAndSize(<const char*>data + 8, 12))
        if waiter is None:
            self.rx_foreign += 1
            return
        self.rx_stun += 1
        try:
            waiter(PyBytes_FromStringAndSize(<const char*>data, n), addr_to_tuple(src))
        except Exception:
            logger.exception("an answer of a STUN server could not be processed")

    cdef void settle(self, int64_t now):
        """Flush every connection that has something new, then tell what happened."""
        cdef list batch = self.dirty
        cdef QuicConnection conn
        if self.endpoint.outgoing:
            self.answer()
        if batch:
            self.dirty = []
            for conn in batch:
                conn.dirty = False
                if self.outbox.blocked:
                    self.arm(conn, now)
                    conn.dirty = True
                    self.held.append(conn)
                elif self.flush(conn, now):
                    # More to send than one turn allows: others first.
                    if not conn.dirty:
                        self.mark(conn)
                    if not self.scheduled:
                        self.schedule()
        self.outbox.flush()
        for conn in batch:
            deliver(conn)
        if self.held:
            for conn in self.held:
                deliver(conn)

    cdef void answer(self):
        """What the endpoint itself has to say."""
        cdef UdpAddr dst, src
        cdef bytes data
        cdef uint8_t* space
        for remote, local, data in self.endpoint.take_replies():
            addr_from_tuple(remote, &dst)
            memset(&src, 0, sizeof(UdpAddr))
            addr_from_tuple(local, &src)
            space = self.outbox.space()
            memcpy(space, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            self.outbox.put(None, &dst, &src, 0, space, PyBytes_GET_SIZE(data), 0)

    def send_datagram(self, tuple to, bytes data not None):
        """Send what is not QUIC from the socket that connections to this address use; False without one."""
        cdef UdpAddr dst, src
        cdef uint8_t* space
        if self.stopped or PyBytes_GET_SIZE(data) > MAX_FOREIGN:
            return False
        addr_from_tuple(to, &dst)
        memset(&src, 0, sizeof(UdpAddr))
        if is_private(dst.ip) or self.outbox.choose(&dst, &src) < 0:
            return False
        space = self.outbox.space()
        memcpy(space, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        self.outbox.put(None, &dst, &src, 0, space, PyBytes_GET_SIZE(data), 0)
        self.outbox.flush()
        return True

    cdef bint flush(self, QuicConnection conn, int64_t now):  # hot
        """Send what may be sent; True when the quota ended it."""
        cdef Outbox outbox = self.outbox
        cdef Transmit t
        cdef const UdpAddr* to
        cdef uint8_t* space
        cdef size_t n
        cdef int quota = FLUSH_DATAGRAMS, most = outbox.max_segments(), segments, i, count, at
        if most > MAX_SEGMENTS:
            most = MAX_SEGMENTS
        while quota > 0 and not conn.dirty:
            segments = most if quota > most else quota
            space = outbox.space()
            n = poll_transmit(conn, now, space, BATCH_BYTES, segments, &t)
            if conn.failed:
                end_failed(conn)
                continue
            if n == 0:
                break
            if t.dialing:
                dial_window(conn, &at, &count)
                for i in range(count):
                    to = dial_at(conn, at + i)
                    if to == NULL:
                        break         # no address is left to dial
                    outbox.put(conn, to, &t.local, t.ecn, space, n, 0)
                quota -= 1
                continue
            outbox.put(conn, &t.remote, &t.local, t.ecn, space, n, t.segment if t.segment < n else 0)
            count = <int>((n + t.segment - 1) // t.segment)
            # Large datagrams are fewer: others wait no longer for them.
            quota -= count if t.segment < TURN_BYTES // FLUSH_DATAGRAMS else <int>(n * FLUSH_DATAGRAMS // TURN_BYTES)
        self.arm(conn, now)
        # A held connection is dirty: it goes on when the socket takes data again.
        return quota <= 0 and not conn.dirty

    # ------------------------------------------------------------- timers
    cdef void arm(self, QuicConnection conn, int64_t now):
        """Look at the connection again at its deadline."""
        cdef int64_t at = next_wake(conn)
        if at == 0 or conn.state == ST_DRAINED:
            self.deadlines.remove(conn)
            return
        self.deadlines.put(conn, at)
        if at - now < SPIN_NS and at > now:
            if not conn.dirty:
                self.mark(conn)
            if not self.scheduled:
                self.schedule()
            return                    # the next turn arms again: no timer is that quick
        if self.timer_at == 0 or at < self.timer_at:
            self.set_timer(at)

    cdef void drained(self, QuicConnection conn) noexcept:
        self.deadlines.remove(conn)

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
        cdef int64_t now, first
        cdef QuicConnection conn
        if self.stopped:
            return
        if self.timer_fd >= 0:
            timer_drain(self.timer_fd)
        self.timer_at = 0
        self.timer_wakes += 1
        now = clock_now_ns()
        while (conn := self.deadlines.take_due(now)) is not None:
            handle_timeout(conn, now)
            if not conn.dirty:
                self.mark(conn)
        self.settle(now)
        first = self.deadlines.earliest()
        if first and (self.timer_at == 0 or first < self.timer_at):
            self.set_timer(first)

    # ------------------------------------------------------------- end
    cdef void abandon(self):
        """The loop was closed without `stop`: connections end, nothing can be sent any more."""
        cdef QuicConnection c
        self.stopped = True
        self.deadlines.clear()
        self.endpoint.waker = None
        for c in list(self.endpoint.connections.values()):
            if c.close_reason is None:
                c.close(0, b"")

    def stop(self):
        """Close the sockets; nothing is sent afterwards. Also when the loop is closed already."""
        cdef UdpSocket sock
        cdef QuicConnection conn
        if self.stopped:
            return
        self.stopped = True
        watching = not self.loop.is_closed()
        for sock in self.outbox.sockets:
            if watching and sock.fileno() >= 0:
                self.loop.remove_reader(sock.fileno())
                self.loop.remove_writer(sock.fileno())
            sock.close()
        if self.timer_fd >= 0:
            if watching:
                self.loop.remove_reader(self.timer_fd)
            timer_close(self.timer_fd)
            self.timer_fd = -1
        if self.timer_handle is not None:
            self.timer_handle.cancel()
            self.timer_handle = None
        for conn in list(self.endpoint.connections.values()):
            # What still drains has nobody left to hear, and nothing must hold it.
            finish_drained(conn, CloseReason("locally_closed"))
        batch = self.dirty + self.held
        self.dirty = []
        self.held = []
        for conn in batch:
            conn.dirty = False
            deliver(conn)
        self.deadlines.clear()
        self.outbox.close()
        self.endpoint.waker = None
        self.run_soon = None
        self.on_broken = None

    def counters(self):
        """Bytes and datagrams moved, by family."""
        return {**self.outbox.counters(), "recv_data_ipv4": self.rx_v4, "recv_data_ipv6": self.rx_v6,
                "recv_datagrams": self.rx_datagrams, "recv_gro_datagrams": self.rx_gro, "recv_stun": self.rx_stun,
                "recv_foreign": self.rx_foreign,
                "timer_wakes": self.timer_wakes}

    @property
    def timer_entries(self):
        """How many connections have a deadline."""
        return len(self.timers)

    @property
    def parked_batches(self):
        """How many batches wait for a socket to take data."""
        return sum(map(len, self.outbox.parked))
