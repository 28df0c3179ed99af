"""Batched UDP: segmentation offload, aggregated receive, ECN marks and packet addresses.

One `UdpSocket` is one bound, non-blocking socket of one address family. The compiled driver calls
`recv_batch` and `send` without touching Python objects; `recv` and `sendto` show the same to Python
for tests and tools. Platform code is in ``native/udp_batch.h``.
"""

import errno
import os
import socket

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, EBADF, EMSGSIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset


cdef extern from "native/udp_batch.h" nogil:
    ctypedef struct ub_msg:
        uint8_t* data
        uint32_t len
        uint32_t stride
        uint32_t src_scope
        uint32_t dst_scope
        uint16_t src_port
        uint8_t ecn
        uint8_t* src
        uint8_t* dst

    ctypedef struct ub_tx:
        uint64_t bytes
        uint32_t calls
        uint32_t datagrams
        uint32_t segments
        uint32_t too_big
        uint32_t errors
        uint32_t dropped
        int last_errno
        int blocked

    ctypedef struct ub_socket:
        int fd
        int gso
        int gro
        int tos
        int may_fragment
        int max_segments

    ub_socket* ub_open(int fd, int v6, int v6only)
    void ub_free(ub_socket* u)
    int ub_recv(ub_socket* u, int maximum, ub_msg** slots, int* raw, uint32_t* calls)
    int ub_send(ub_socket* u, ub_tx* r, const uint8_t* dst, uint16_t port, uint32_t scope, const uint8_t* src,
                int ecn, const uint8_t* buf, size_t n, size_t segment)
    ctypedef struct ub_item:
        const uint8_t* dst
        const uint8_t* src
        const uint8_t* buf
        size_t n
        size_t segment
        uint32_t scope
        uint16_t port
        uint8_t ecn
        int error

    int ub_largest(ub_socket* u, const uint8_t* dst, uint16_t port, uint32_t scope, const uint8_t* src)
    int ub_send_many(ub_socket* u, ub_tx* r, ub_item* items, int count)
    double ub_now()
    int ub_wait(int fd, int writable, int ms)


cdef class UdpSocket:
    """A bound UDP socket with batched I/O. Create with `UdpSocket.bind`.

    Attributes
    ----------
    sock : socket.socket
        The socket, non-blocking; for event loop registration. Close through `close`.
    family : int
        ``AF_INET`` or ``AF_INET6``.
    gso, gro : bool
        Segmentation offload on send and aggregation on receive are in use. `gso` turns false for
        good when the kernel refuses a batch it should accept.
    may_fragment : bool
        The don't-fragment option is missing: path MTU discovery must stay off.
    max_segments : int
        Segments one batch may hold: 64 with GSO, else 1.
    last_errno : int
        Of the last swallowed send error, 0 if none.
    blocked_errno : int
        Why the last ``-EAGAIN`` was given: ``EAGAIN`` or ``ENOBUFS`` (retry after about 1 ms).

    Notes
    -----
    Belongs to one thread, like everything under an endpoint. The receive slab (1 MiB of address
    space) is allocated at the first receive and freed with the object, not by `close`.
    """

    def __cinit__(self):
        self.fd = -1
        self.rx = NULL

    def __init__(self):
        raise TypeError("create a UdpSocket with UdpSocket.bind()")

    def __dealloc__(self):
        ub_free(<ub_socket*>self.rx)

    @classmethod
    def bind(cls, tuple address, *, bint v6only=True, buffer_bytes=7 * 1024 * 1024):
        """Create, configure and bind a socket.

        Parameters
        ----------
        address : tuple
            ``(host, port)`` or ``(host, port, flow, scope)`` with a numeric host, which decides the
            family; port 0 picks a free one.
        v6only : bool
            For an IPv6 host: do not take IPv4 traffic.
        buffer_bytes : int
            Wanted size of both kernel buffers; the system may clamp it silently.

        Raises
        ------
        ValueError
            The host is not numeric or the port or scope is out of range.
        OSError
            The address cannot be bound.

        Notes
        -----
        Offloads, ECN, packet info and don't-fragment are probed: what the system lacks is left out
        and visible in the attributes.
        """
        cdef UdpAddr a
        cdef ub_socket* u
        cdef UdpSocket self
        addr_from_tuple(address, &a)
        v6 = ":" in address[0]
        self = cls.__new__(cls)
        sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
        try:
            sock.setblocking(False)
            if v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if v6only else 0)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                try:
                    sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
                except OSError:
                    pass    # the system's default size works, only with more loss in bursts
            # Before bind, so that no packet arrives without its control messages.
            u = ub_open(sock.fileno(), v6, v6only)
            if u == NULL:
                raise MemoryError
            self.rx = u
            if v6:
                sock.bind((address[0].partition("%")[0], a.port, 0, a.scope))
            else:
                sock.bind((address[0], a.port))
            addr_from_tuple(sock.getsockname(), &self.local)
        except BaseException:
            sock.close()
            raise
        self.sock = sock
        self.fd = u.fd
        self.family = sock.family
        self.gso = u.gso
        self.gro = u.gro
        self.may_fragment = u.may_fragment
        self.max_segments = u.max_segments
        return self

    cdef int recv_batch(self, RxMessage* out, int maximum) noexcept nogil:    # hot
        cdef ub_msg* slots[RX_SLOTS]
        cdef ub_msg* m
        cdef RxMessage* o
        cdef int raw = 0
        cdef uint32_t calls = 0
        cdef int i, n
        if self.fd < 0:
            return -EBADF
        n = ub_recv(<ub_socket*>self.rx, maximum, slots, &raw, &calls)
        self.rx_calls += calls
        if n < 0:
            return n
        self.rx_dropped += raw - n
        for i in range(n):
            m = slots[i]
            o = &out[i]
            memset(o, 0, sizeof(RxMessage))    # padding too: callers may compare addresses bytewise
            o.data = m.data
            o.len = m.len
            o.stride = m.stride
            o.ecn = m.ecn
            memcpy(o.src.ip, m.src, 16)
            o.src.port = m.src_port
            o.src.scope = m.src_scope
            memcpy(o.dst.ip, m.dst, 16)
            o.dst.port = self.local.port
            o.dst.scope = m.dst_scope
            self.rx_bytes += m.len
            if m.stride < m.len:
                self.rx_datagrams += (m.len + m.stride - 1) // m.stride
                self.rx_segments += (m.len + m.stride - 1) // m.stride
            else:
                self.rx_datagrams += 1
        return n

    cdef int send(self, const UdpAddr* dst, const uint8_t* src_ip, int ecn, const uint8_t* buf, size_t n,
                  size_t segment) noexcept nogil:    # hot
        cdef ub_socket* u = <ub_socket*>self.rx
        cdef ub_tx r
        cdef int rc
        rc = ub_send(u, &r, dst.ip, dst.port, dst.scope, src_ip, ecn, buf, n, segment)
        self.count(&r)
        self.sent_errno = r.last_errno if r.errors else EMSGSIZE if r.too_big else 0
        return rc

    cdef int largest_payload(self, const UdpAddr* dst, const uint8_t* src_ip) noexcept nogil:
        cdef ub_socket* u = <ub_socket*>self.rx
        return -1 if u.may_fragment else ub_largest(u, dst.ip, dst.port, dst.scope, src_ip)

    cdef int send_many(self, TxMessage* items, int count) noexcept nogil:    # hot
        cdef ub_socket* u = <ub_socket*>self.rx
        cdef ub_item raw[TX_SLOTS]
        cdef ub_tx r
        cdef int i, done
        if count > TX_SLOTS:
            count = TX_SLOTS
        for i in range(count):
            raw[i].dst = items[i].dst.ip
            raw[i].src = items[i].src.ip
            raw[i].buf = items[i].data
            raw[i].n = items[i].len
            raw[i].segment = items[i].segment
            raw[i].scope = items[i].dst.scope
            raw[i].port = items[i].dst.port
            raw[i].ecn = <uint8_t>items[i].ecn
            raw[i].error = 0
        done = ub_send_many(u, &r, raw, count)
        for i in range(done):
            items[i].error = raw[i].error
        self.count(&r)
        return done

    cdef void count(self, const void* outcome) noexcept nogil:
        cdef const ub_tx* r = <const ub_tx*>outcome
        cdef ub_socket* u = <ub_socket*>self.rx
        self.tx_datagrams += r.datagrams
        self.tx_bytes += r.bytes
        self.tx_calls += r.calls
        self.tx_segments += r.segments
        if r.blocked:
            self.blocked_errno = r.blocked
        if r.errors:
            self.tx_errors += r.errors
            self.last_errno = r.last_errno
        self.tx_too_big += r.too_big
        self.tx_dropped += r.dropped
        self.gso = u.gso
        self.max_segments = u.max_segments

    cdef int c_close(self) except -1:
        # The slab stays until deallocation: a receive loop further up may still read from it.
        if self.fd >= 0:
            self.fd = -1
            (<ub_socket*>self.rx).fd = -1
            self.sock.close()
        return 0

    cdef int raise_if_closed(self) except -1:
        if self.fd < 0:
            raise OSError(errno.EBADF, "the UDP socket is closed")
        return 0

    def close(self):
        """Close the socket; harmless when closed already."""
        self.c_close()

    def fileno(self):
        """Return the descriptor, -1 when closed."""
        return self.fd

    @property
    def local_address(self):
        """The bound address, ``(host, port)`` or ``(host, port, 0, scope)``; kept after `close`."""
        return addr_to_tuple(&self.local)

    def recv(self):
        """Take what is queued, up to 16 messages, without waiting.

        Returns
        -------
        list of (data, stride, ecn, src, dst_ip)
            ``data`` is a copy of one or several datagrams of one sender, each ``stride`` bytes long
            but for a shorter last one; ``ecn`` is 0..3; ``dst_ip`` is the local address the packet
            was sent to, None if the system does not tell. Empty when nothing is queued.

        Raises
        ------
        OSError
            The socket is closed or broken.
        """
        cdef RxMessage msg[RX_SLOTS]
        cdef int i, n
        self.raise_if_closed()
        n = self.recv_batch(msg, RX_SLOTS)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        found = []
        for i in range(n):
            found.append((
                (<const char*>msg[i].data)[:msg[i].len],
                msg[i].stride,
                msg[i].ecn,
                addr_to_tuple(&msg[i].src),
                None if is_zero(msg[i].dst.ip) else addr_to_tuple(&msg[i].dst)[0],
            ))
        return found

    def sendto(self, data, tuple addr not None, *, int ecn=0, Py_ssize_t segment=0, src=None):
        """Send one datagram, or a batch when ``0 < segment < len(data)``.

        Parameters
        ----------
        data : bytes-like
            Borrowed for the call.
        addr : tuple
            Numeric destination, as in `bind`.
        ecn : int
            The two ECN bits, 0..3.
        segment : int
            Bytes per datagram of a batch; the last one may be shorter.
        src : str, optional
            Local IP address to send from.

        Returns
        -------
        int
            0 when sent or swallowed (see `stats`), ``-errno.EAGAIN`` when the queue is full.

        Raises
        ------
        ValueError
            An argument is out of range.
        OSError
            The socket is closed.
        """
        cdef UdpAddr dst
        cdef UdpAddr source
        cdef const uint8_t* pin = NULL
        cdef Py_buffer view
        self.raise_if_closed()
        if not 0 <= ecn <= 3:
            raise ValueError(f"ecn must be 0..3, not {ecn}")
        if segment < 0:
            raise ValueError(f"segment must not be negative, not {segment}")
        addr_from_tuple(addr, &dst)
        if src is not None:
            addr_from_tuple((src, 0), &source)
            pin = source.ip
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.send(&dst, pin, ecn, <const uint8_t*>view.buf, <size_t>view.len, <size_t>segment)
        finally:
            PyBuffer_Release(&view)

    def largest_to(self, tuple addr not None, *, src=None):
        """Return the bytes of the largest datagram that the interface on the way to `addr` takes.

        0 when the system does not tell, -1 when it may cut datagrams into fragments. Arguments as for `sendto`.
        """
        cdef UdpAddr dst
        cdef UdpAddr source
        addr_from_tuple(addr, &dst)
        if src is not None:
            addr_from_tuple((src, 0), &source)
        return self.largest_payload(&dst, source.ip if src is not None else NULL)

    def sendmany(self, list messages not None, *, int ecn=0):
        """Send several datagrams or batches in order, with few system calls.

        Parameters
        ----------
        messages : list of (data, addr, segment)
            At most 64, each as in `sendto`; ``bytes`` only, segment 0 for one datagram.
        ecn : int
            The two ECN bits of all of them, 0..3.

        Returns
        -------
        list of int
            For each message that is done with 0, or the errno it was swallowed with; shorter than
            `messages` when the queue is full.

        Raises
        ------
        ValueError
            An argument is out of range.
        OSError
            The socket is closed.
        """
        cdef TxMessage items[TX_SLOTS]
        cdef int i, done, n = <int>len(messages)
        cdef bytes data
        self.raise_if_closed()
        if n > TX_SLOTS or not 0 <= ecn <= 3:
            raise ValueError("at most 64 messages, ecn 0..3")
        memset(items, 0, sizeof(items))
        for i in range(n):
            data, addr, segment = messages[i]
            addr_from_tuple(addr, &items[i].dst)
            items[i].data = <const uint8_t*><char*>data
            items[i].len = <size_t>len(data)
            items[i].segment = segment
            items[i].ecn = ecn
        done = self.send_many(items, n)
        return [items[i].error for i in range(done)]

    def stats(self):
        """Return the counters since bind.

        Returns
        -------
        dict of str to int
            ``tx_*`` and ``rx_*``: ``datagrams``, ``bytes`` (payload), ``calls`` (system calls),
            ``segments`` (datagrams inside GSO or GRO batches), ``dropped``; and ``tx_too_big``,
            ``tx_errors`` for swallowed errors.
        """
        return {
            "tx_datagrams": self.tx_datagrams,
            "tx_bytes": self.tx_bytes,
            "tx_calls": self.tx_calls,
            "tx_segments": self.tx_segments,
            "tx_too_big": self.tx_too_big,
            "tx_errors": self.tx_errors,
            "tx_dropped": self.tx_dropped,
            "rx_datagrams": self.rx_datagrams,
            "rx_bytes": self.rx_bytes,
            "rx_calls": self.rx_calls,
            "rx_segments": self.rx_segments,
            "rx_dropped": self.rx_dropped,
        }

    def __repr__(self):
        state = "closed" if self.fd < 0 else f"fd={self.fd}"
        return f"<UdpSocket {self.local_address} {state} gso={self.gso} gro={self.gro}>"


cdef bint is_zero(const uint8_t* ip) noexcept nogil:
    cdef int i
    for i in range(16):
        if ip[i]:
            return False
    return True


cdef object addr_to_tuple(const UdpAddr* a):
    cdef const char* ip = <const char*>a.ip
    if addr_is_v4(a):
        return socket.inet_ntop(socket.AF_INET, ip[12:16]), a.port
    return socket.inet_ntop(socket.AF_INET6, ip[:16]), a.port, 0, a.scope


cdef int addr_from_tuple(object t, UdpAddr* out) except -1:
    # ValueError for anything but (numeric host, port[, flow, scope]); a scope may also follow a "%".
    cdef bytes raw
    if not isinstance(t, tuple) or len(t) not in (2, 3, 4) or not isinstance(t[0], str):
        raise ValueError(f"not a socket address: {t!r}")
    host, _, zone = t[0].partition("%")
    port = t[1]
    scope = t[3] if len(t) == 4 else 0
    try:
        if zone and not scope:
            scope = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
        if ":" in host:
            raw = socket.inet_pton(socket.AF_INET6, host)
        else:
            raw = b"\0" * 10 + b"\xff\xff" + socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError) as e:
        raise ValueError(f"not a numeric address: {t[0]!r}") from e
    if not isinstance(port, int) or not 0 <= port <= 0xFFFF:
        raise ValueError(f"port must be 0..65535, not {port!r}")
    if not isinstance(scope, int) or not 0 <= scope <= 0xFFFFFFFF:
        raise ValueError(f"scope must be an unsigned 32-bit integer, not {scope!r}")
    memset(out, 0, sizeof(UdpAddr))
    memcpy(out.ip, <const char*>raw, 16)
    out.port = port
    out.scope = scope
    return 0


cdef int wait_ms(double until, double now) noexcept nogil:
    # Short waits, so that a lost wake-up costs little; at least 1 to avoid spinning.
    cdef double ms = (until - now) * 1000
    return 1 if ms < 1 else 50 if ms > 50 else <int>ms


def pump_send(UdpSocket sock not None, tuple addr not None, uint64_t total_bytes, size_t segment,
              int segments_per_call, *, double deadline_s=10.0):
    """Send dummy bytes as fast as the socket takes them; for the machine-limit benchmark.

    Parameters
    ----------
    sock : UdpSocket
        Used by nobody else during the call.
    addr : tuple
        Numeric destination.
    total_bytes : int
        Payload to send, rounded up to whole calls.
    segment : int
        Bytes per datagram, 1..65487.
    segments_per_call : int
        Datagrams per system call, 1..64; their bytes together at most 65487.
    deadline_s : float
        Give up after so many seconds.

    Returns
    -------
    (bytes, datagrams, calls, seconds) : tuple[int, int, int, float]
        What the kernel accepted, the system calls it took, and the time.

    Raises
    ------
    ValueError
        An argument is out of range.
    OSError
        The socket is closed, or a send was refused for another reason than a full queue.

    Notes
    -----
    Loops in C with the GIL released; signals are seen only afterwards.
    """
    cdef UdpAddr dst
    cdef uint8_t* buf
    cdef size_t n
    cdef uint64_t bytes0, datagrams0, calls0, failed0
    cdef double start, now
    cdef int rc
    sock.raise_if_closed()
    addr_from_tuple(addr, &dst)
    if not 1 <= segment <= MAX_GSO_BYTES or not 1 <= segments_per_call <= MAX_GSO_SEGMENTS:
        raise ValueError("segment must be 1..65487 and segments_per_call 1..64")
    n = segment * <size_t>segments_per_call
    if n > MAX_GSO_BYTES:
        raise ValueError(f"{n} bytes per call, at most {MAX_GSO_BYTES} fit")
    buf = <uint8_t*>malloc(n)
    if buf == NULL:
        raise MemoryError
    memset(buf, 0x5A, n)
    bytes0, datagrams0, calls0 = sock.tx_bytes, sock.tx_datagrams, sock.tx_calls
    failed0 = sock.tx_errors + sock.tx_too_big
    with nogil:
        start = now = ub_now()
        while sock.tx_bytes - bytes0 < total_bytes and now - start < deadline_s:
            rc = sock.send(&dst, NULL, 0, buf, n, segment)
            if rc != 0:
                ub_wait(sock.fd, 1, wait_ms(start + deadline_s, now))
            elif sock.tx_errors + sock.tx_too_big != failed0:
                break
            now = ub_now()
        free(buf)
    if sock.tx_errors + sock.tx_too_big != failed0:
        code = sock.last_errno or errno.EMSGSIZE
        raise OSError(code, os.strerror(code))
    return sock.tx_bytes - bytes0, sock.tx_datagrams - datagrams0, sock.tx_calls - calls0, now - start


def pump_recv(UdpSocket sock not None, uint64_t total_bytes, *, double deadline_s=10.0, double idle_s=0.5):
    """Receive and discard; for the machine-limit benchmark.

    Parameters
    ----------
    sock : UdpSocket
        Used by nobody else during the call.
    total_bytes : int
        Stop after so much payload.
    deadline_s : float
        Stop after so many seconds.
    idle_s : float
        Stop when, after the first message, nothing came for so long.

    Returns
    -------
    (bytes, datagrams, calls, seconds) : tuple[int, int, int, float]
        What arrived, the receive calls it took, and the time from the first to the last message.

    Raises
    ------
    OSError
        The socket is closed or broken.

    Notes
    -----
    Loops in C with the GIL released; signals are seen only afterwards.
    """
    cdef RxMessage msg[RX_SLOTS]
    cdef uint64_t bytes0, datagrams0, calls0
    cdef double begin, now, first = 0, last = 0
    cdef int n = 0
    sock.raise_if_closed()
    bytes0, datagrams0, calls0 = sock.rx_bytes, sock.rx_datagrams, sock.rx_calls
    with nogil:
        begin = now = ub_now()
        while now - begin < deadline_s:
            n = sock.recv_batch(msg, RX_SLOTS)
            if n < 0:
                break
            now = ub_now()
            if n > 0:
                last = now
                if first == 0:
                    first = now
                if sock.rx_bytes - bytes0 >= total_bytes:
                    break
                continue
            if first != 0 and now - last > idle_s:
                break
            ub_wait(sock.fd, 0, wait_ms(begin + deadline_s, now))
            now = ub_now()
    if n < 0:
        raise OSError(-n, os.strerror(-n))
    return sock.rx_bytes - bytes0, sock.rx_datagrams - datagrams0, sock.rx_calls - calls0, last - first
