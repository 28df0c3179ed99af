"""What leaves an endpoint: the sockets and transports, and a queue that many connections share in one turn.

Datagrams are built where the queue wants them, and leave with one system call for many; a batch of some size leaves at
once, with one of its own. When a socket is full its batches are parked and their connections held: they build nothing
until it takes data again, however often they are woken meanwhile.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, EBADF, ENOBUFS, ENOTCONN, EPIPE
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcmp, memcpy, memset

from iroh_fast._batch cimport TX_SLOTS, TxMessage, UdpAddr, UdpSocket, addr_is_v4
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._paths cimport ip_known

import errno
import logging

logger = logging.getLogger("iroh_fast.net")

cdef extern from "../native/clock.h" nogil:
    int64_t clock_now_ns()

cdef extern from "../native/slab.h" nogil:
    uint8_t* slab_new(size_t n)
    void slab_free(uint8_t* p, size_t n)

cdef enum:
    SLAB_BYTES = 2 * 65536
    SLAB_FULL = 65536             # queued bytes with which the next batch may not fit behind
    OWN_CALL = 16384              # a batch of this size gains nothing from company
    MAX_PARKED = 64               # batches per socket
    RETRY_MS = 1                  # until a full device is tried again
    GIVE_UP_NS = 100000000        # parked for longer: lost, so that other ways are not held up by this one


cdef bint is_private(const uint8_t* ip) noexcept nogil:
    """Whether an address belongs to the prefix of net.transport."""
    return ip[0] == 0xfd and ip[1] == 0x15 and ip[2] == 0x07 and ip[3] == 0x0a and ip[4] == 0x51 and ip[5] == 0x0b


cdef class OutboxOwner:
    cdef void refused(self, QuicConnection conn, const UdpAddr* dst, size_t size, int error) noexcept:
        """A datagram, or one of several, of `size` bytes did not leave and never will."""

    cdef void hold(self, QuicConnection conn) noexcept:
        """The connection has to wait until `released`."""

    cdef void released(self) noexcept:
        """Held connections may go on."""

    cdef void broken(self, int index, int error) noexcept:
        """Nothing will leave through a socket any more."""


@cython.final
cdef class Outbox:
    def __cinit__(self, OutboxOwner owner not None, loop):
        self.owner = owner
        self.loop = loop
        self.sockets = []
        self.parked = []
        self.sends = []
        self.kinds = []
        self.slab = slab_new(SLAB_BYTES)
        if self.slab == NULL:
            raise MemoryError

    def __dealloc__(self):
        slab_free(self.slab, SLAB_BYTES)

    def close(self):
        """Let go of everything; the sockets are closed already."""
        self.owner = None
        self.n_queued = 0
        self.parked = []
        self.sends = []
        self.blocked = 0

    # ------------------------------------------------------------- ways out
    def add_socket(self, UdpSocket sock not None, int prefix, bint default_route):
        """Use a bound socket for destinations in its network. At most 16."""
        cdef Bound* b
        if self.n_bound == MAX_SOCKETS:
            raise ValueError("an endpoint has at most 16 sockets")
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
        if self.first_socket is None:
            self.first_socket = sock
        self.parked.append([])

    def down(self, int index):
        """Send nothing through a socket until `replace`: what waits for it is lost, as what is sent meanwhile."""
        cdef list waiting = <list>self.parked[index]
        self.bound[index].down = True
        if waiting:
            self.dropped += len(waiting)
            waiting.clear()
            self.release(index)

    def replace(self, int index, UdpSocket sock not None):
        """Use another socket, bound to the same address, in the place of one."""
        if self.first_socket is self.sockets[index]:
            self.first_socket = sock
        self.sockets[index] = sock
        self.bound[index].down = False

    def add_transport(self, bytes subnet, str kind, int max_segments, int max_datagram, send):
        """Give a subnet of the private prefix to ``send(ip16, ecn, segment, data[, local])``, which never waits."""
        cdef Carrier* carrier
        if self.n_carriers == MAX_TRANSPORTS or len(subnet) != 2 or max_segments < 1 or max_datagram < 0:
            raise ValueError("too many transports, or one with impossible properties")
        carrier = &self.carriers[self.n_carriers]
        memcpy(carrier.subnet, PyBytes_AS_STRING(subnet), 2)
        carrier.max_segments = max_segments
        carrier.max_datagram = max_datagram
        self.n_carriers += 1
        self.sends.append(send)
        self.kinds.append(kind)

    cdef int max_segments(self) noexcept nogil:
        """Datagrams that the first socket takes as one batch."""
        return self.first_socket.max_segments if self.first_socket is not None else MAX_QUEUED

    cdef int carrier_of(self, const uint8_t* ip) noexcept nogil:
        """Which transport a private address belongs to, -1 for none."""
        cdef int i
        for i in range(self.n_carriers):
            if memcmp(ip + 6, self.carriers[i].subnet, 2) == 0:
                return i
        return -1

    cdef int choose(self, const UdpAddr* dst, const UdpAddr* src) noexcept nogil:
        """The socket for a destination: by source address, else the longest matching prefix, else the default; -1."""
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

    cdef int largest_payload(self, const UdpAddr* dst, const UdpAddr* src) noexcept nogil:
        """Bytes of the largest datagram that the interface on the way takes; 0: unknown, -1: it may cut them."""
        cdef int index
        cdef UdpAddr own = src[0]
        if is_private(dst.ip):
            index = self.carrier_of(dst.ip)
            return self.carriers[index].max_datagram if index >= 0 else 0
        index = self.choose(dst, src)
        if index < 0:
            return 0
        with gil:
            return (<UdpSocket>self.sockets[index]).largest_payload(dst, own.ip if ip_known(src) else NULL)

    # ------------------------------------------------------------- sending
    cdef uint8_t* space(self) noexcept nogil:
        """Where the next batch may be built: BATCH_BYTES."""
        return self.slab + self.used

    cdef void carry(self, int index, const UdpAddr* dst, const UdpAddr* src, int ecn, const uint8_t* data, size_t n,
                    size_t segment) noexcept:
        """Hand a batch to a transport, in pieces that it takes."""
        cdef size_t piece = n, part
        # A path may have been another transport's before.
        cdef bint own = is_private(src.ip) and self.carrier_of(src.ip) == index
        if segment:
            piece = segment * <size_t>self.carriers[index].max_segments
            if piece > CARRIED_BYTES:
                piece = CARRIED_BYTES // segment * segment
        while n:
            part = piece if piece < n else n
            self.carriers[index].tx += part
            try:
                if own:
                    self.sends[index](PyBytes_FromStringAndSize(<char*>dst.ip, 16), ecn, segment if part > segment else 0,
                                      PyBytes_FromStringAndSize(<char*>data, part),
                                      PyBytes_FromStringAndSize(<char*>src.ip, 16))
                else:
                    self.sends[index](PyBytes_FromStringAndSize(<char*>dst.ip, 16), ecn, segment if part > segment else 0,
                                      PyBytes_FromStringAndSize(<char*>data, part))
            except Exception:
                logger.exception("a batch for a %s path was not sent", self.kinds[index])
            data += part
            n -= part

    cdef void put(self, QuicConnection conn, const UdpAddr* dst, const UdpAddr* src, int ecn, const uint8_t* data,
                  size_t n, size_t segment) noexcept:  # hot
        """Send a datagram or batch soon. `data` lies in `space()`, and stays there until `flush`."""
        cdef TxMessage* message
        cdef int index
        cdef size_t end = <size_t>(data - self.slab) + n
        if is_private(dst.ip):
            # An address that nobody stands for any more is a lost packet.
            index = self.carrier_of(dst.ip)
            if index >= 0:
                self.carry(index, dst, src, ecn, data, n, segment)
            return
        index = self.choose(dst, src)
        if index < 0:
            if conn is not None and self.owner is not None:
                self.owner.refused(conn, dst, n, errno.EAFNOSUPPORT)
            return
        if self.bound[index].down:
            self.dropped += 1         # it is being opened again
            return
        message = &self.queue[self.n_queued]
        message.dst = dst[0]
        message.src = src[0]
        message.data = data
        message.len = n
        message.segment = segment
        message.ecn = ecn
        self.senders[self.n_queued] = <PyObject*>conn if conn is not None else NULL
        self.via[self.n_queued] = index
        self.n_queued += 1
        if end > self.used:
            self.used = (end + 63) & ~<size_t>63
        if n >= OWN_CALL or self.n_queued == MAX_QUEUED or self.used > SLAB_FULL:
            self.flush()

    cdef void flush(self) noexcept:  # hot
        """Hand everything that is queued to the sockets."""
        cdef int first = 0, end
        cdef int n = self.n_queued
        while first < n:
            end = first + 1
            while end < n and self.via[end] == self.via[first]:
                end += 1
            self.settle_run(first, end)
            first = end
        self.n_queued = 0
        self.used = 0

    cdef void settle_run(self, int first, int end) noexcept:  # hot
        """Queued messages `first` to `end`, all for one socket."""
        cdef int index = self.via[first], at = first, done, i
        cdef UdpSocket sock = <UdpSocket>self.sockets[index]
        cdef TxMessage* message
        if not <list>self.parked[index]:
            message = &self.queue[first]
            if end - first == 1:
                message.error = 0
                done = 1
                if sock.send(&message.dst, message.src.ip if ip_known(&message.src) else NULL, message.ecn, message.data,
                             message.len, message.segment) == -EAGAIN:
                    done = 0
                else:
                    message.error = sock.sent_errno
            else:
                done = sock.send_many(message, end - first)
            at = first + done
            for i in range(first, at):
                message = &self.queue[i]
                if addr_is_v4(&message.dst):
                    self.tx_v4 += message.len
                else:
                    self.tx_v6 += message.len
                if message.error in (EBADF, ENOTCONN, EPIPE):
                    # Of the socket, not of who sends or where to.
                    if self.owner is not None:
                        self.owner.broken(index, message.error)
                elif message.error and self.senders[i] != NULL and self.owner is not None:
                    self.owner.refused(<QuicConnection>self.senders[i], &message.dst, message.segment or message.len, message.error)
        for i in range(at, end):
            self.park(index, <QuicConnection>self.senders[i] if self.senders[i] != NULL else None, &self.queue[i])

    # ------------------------------------------------------------- full sockets
    cdef void park(self, int index, QuicConnection conn, const TxMessage* message) noexcept:
        """Keep a copy until the socket takes data, and hold its connection."""
        cdef list waiting = <list>self.parked[index]
        if len(waiting) >= MAX_PARKED:
            self.dropped += 1         # loss recovery brings it back
        else:
            waiting.append((PyBytes_FromStringAndSize(<char*>message, sizeof(TxMessage)),
                            PyBytes_FromStringAndSize(<char*>message.data, message.len)))
            if len(waiting) == 1:
                self.blocked += 1
                self.blocked_since[index] = clock_now_ns()
                self.wait(index)
        if conn is not None and self.owner is not None:
            self.owner.hold(conn)

    cdef void wait(self, int index) noexcept:
        cdef UdpSocket sock = <UdpSocket>self.sockets[index]
        try:
            if sock.blocked_errno == ENOBUFS:
                self.loop.call_later(RETRY_MS / 1000, self.on_writable, index)
            else:
                self.loop.add_writer(sock.fileno(), self.on_writable, index)
        except Exception:
            logger.exception("cannot wait for the socket")

    def on_writable(self, int index):
        """The socket takes data again: parked batches first, then everybody who waited."""
        cdef UdpSocket sock
        cdef list waiting
        cdef TxMessage message
        cdef bytes kept, data
        if self.owner is None:
            return
        sock = <UdpSocket>self.sockets[index]
        waiting = <list>self.parked[index]
        if sock.fileno() < 0 or not waiting:
            return                    # another socket is in its place
        self.loop.remove_writer(sock.fileno())
        while waiting:
            kept, data = waiting[0]
            memcpy(&message, PyBytes_AS_STRING(kept), sizeof(TxMessage))
            if sock.send(&message.dst, message.src.ip if ip_known(&message.src) else NULL, message.ecn,
                         <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), message.segment) == -EAGAIN:
                if clock_now_ns() - self.blocked_since[index] > GIVE_UP_NS:
                    self.dropped += len(waiting)
                    waiting.clear()
                    break
                self.wait(index)
                return
            self.blocked_since[index] = clock_now_ns()
            waiting.pop(0)
        self.release(index)

    cdef void release(self, int index) noexcept:
        if self.blocked:
            self.blocked -= 1
        if not self.blocked and self.owner is not None:
            self.owner.released()

    def counters(self):
        """Bytes moved, by family and transport; `inject` counts what transports bring."""
        return {"send_ipv4": self.tx_v4, "send_ipv6": self.tx_v6, "send_relay": 0, "recv_data_relay": 0,
                **{f"send_{kind}": self.carriers[i].tx for i, kind in enumerate(self.kinds)},
                **{f"recv_data_{kind}": self.carriers[i].rx for i, kind in enumerate(self.kinds)},
                "dropped_batches": self.dropped}
