"""Connection attempts that wait for a decision, and what they may cost.

Nothing is known about who sends a first datagram: whatever is kept for it counts against bounds, per attempt and in all,
and when these are reached the oldest attempts give way once their clients have given up.
Sources: RFC 9000 §5.2.2, §8.1, §14.1, and iroh's limits.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t, int64_t
from libc.string cimport memcpy

from iroh_fast._batch cimport UdpAddr, addr_to_tuple
from iroh_fast._packet._headers cimport LongHeader
from iroh_fast.quic._client_hello cimport opens_as_initial
from iroh_fast.quic._codes cimport CONNECTION_REFUSED, INVALID_TOKEN, PROTOCOL_VIOLATION
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._core cimport Host
from iroh_fast.quic._path_table cimport addr_bytes
from iroh_fast.quic._paths cimport ip_known
from iroh_fast.quic._receive cimport receive_datagram
from iroh_fast.quic._stateless cimport MIN_INITIAL, initial_close, retry_packet

from iroh_fast.errors import IrohError
from iroh_fast.quic._client_hello import peek_alpns

cdef enum:
    MIN_INITIAL_DCID = 8
    KEEP_ATTEMPT = 1024           # bytes that an attempt costs beside its datagrams
    KEEP_DATAGRAM = 256           # and a datagram beside its bytes

cdef int64_t STALE_NS = 10 * <int64_t>1000000000   # an older attempt may give way to a new one

DEFAULT_MAX_INCOMING = 65536      # attempts, and connections that came in
DEFAULT_INCOMING_BUFFER = 10 << 20
DEFAULT_INCOMING_TOTAL = 100 << 20


@cython.final
cdef class QuicIncoming:
    """A connection attempt that waits for a decision.

    Attributes
    ----------
    remote, local : address tuples; `local` is None when unknown
    validated : whether the client has proven its address (Retry)
    decided : whether it was accepted, refused, retried, ignored, or gave way to newer ones
    """

    def __repr__(self):
        return f"<QuicIncoming from {self.remote}>"

    @property
    def alpns(self):
        """ALPN protocols the client offers, as far as its first datagrams tell; None when unreadable."""
        if not self.offer and self.peeked != len(self.datagrams):
            self.peeked = len(self.datagrams)
            self.offer = peek_alpns(self.dcid, [datagram[0] for datagram in self.datagrams])
        return self.offer or None

    cdef int claim(self) except -1:
        if self.decided:
            raise IrohError("this incoming connection was decided already, or gave way to newer ones")
        self.admission.settle(self)
        return 0

    def accept(self, alpns, transport, int64_t now=0):
        """Go on with the handshake. `alpns` are ours in order of preference; `now` defaults to the driver's clock."""
        cdef AdmissionHost host = self.host
        cdef QuicConnection conn
        cdef bytes data
        cdef UdpAddr src, dst
        cdef bytearray copy
        self.claim()
        if now == 0:
            now = host.clock_ns()
        if not host.accepting:
            raise IrohError("the endpoint is closed")
        conn = host.begin(self, alpns, transport, now)
        for data, s, t, ecn in self.datagrams:
            copy = bytearray(data)
            memcpy(&src, PyBytes_AS_STRING(s), sizeof(UdpAddr))
            memcpy(&dst, PyBytes_AS_STRING(t), sizeof(UdpAddr))
            receive_datagram(conn, <uint8_t*><char*>copy, len(copy), &src, &dst, ecn, now, 0, False)
        self.datagrams = []
        host.wake(conn)
        return conn

    def refuse(self):
        """Answer with CONNECTION_REFUSED."""
        self.claim()
        self.host.counters["refused_handshakes"] += 1
        self.host.reply(&self.src, &self.dst,
                                  initial_close(self.dcid, self.client_id, CONNECTION_REFUSED, b""))

    def ignore(self):
        """Forget it without an answer; the client's retransmissions come as new attempts."""
        self.claim()
        self.host.counters["ignored_handshakes"] += 1

    def retry(self):
        """Ask the client to prove its address (RFC 9000 §8.1.2). IrohError when it already has."""
        cdef Admission admission = self.admission
        cdef uint8_t scid[8]
        if self.validated:
            raise IrohError("the address is already validated")
        self.claim()
        self.host.fresh_id(scid)
        token = admission.tokens().seal_retry(PyBytes_FromStringAndSize(<char*>self.src.ip, 16), self.src.port,
                                              self.dcid, int(admission.wall_clock()))
        self.host.reply(&self.src, &self.dst, retry_packet(
            self.dcid, self.client_id, PyBytes_FromStringAndSize(<char*>scid, 8), token))


cdef class AdmissionHost(Host):
    cdef void reply(self, const UdpAddr* src, const UdpAddr* dst, bytes data):
        pass

    cdef void fresh_id(self, uint8_t* id8) noexcept nogil:
        pass

    cdef QuicConnection begin(self, QuicIncoming attempt, object alpns, object transport, int64_t now):
        return None


@cython.final
cdef class Admission:
    """The undecided attempts of an endpoint."""

    def __cinit__(self, random_source, wall_clock):
        self.random_source = random_source
        self.wall_clock = wall_clock
        self.attempts = {}
        self.max_attempts = DEFAULT_MAX_INCOMING
        self.max_attempt_bytes = DEFAULT_INCOMING_BUFFER
        self.max_bytes = DEFAULT_INCOMING_TOTAL

    cdef object tokens(self):
        if self.token_key is None:
            from iroh_fast.quic.tls.tokens import TokenKey
            self.token_key = TokenKey(self.random_source(32), self.random_source)
        return self.token_key

    cdef void settle(self, QuicIncoming attempt):
        attempt.decided = True
        self.attempts.pop(attempt.dcid, None)
        self.bytes -= attempt.size

    cdef bint make_room(self, size_t n, int64_t now):
        """Whether `n` more bytes may be kept, after attempts that nobody decided in time gave way."""
        cdef QuicIncoming oldest
        while self.bytes + n > self.max_bytes or <uint64_t>len(self.attempts) >= self.max_attempts:
            if not self.attempts:
                return False
            oldest = next(iter(self.attempts.values()))
            if now - oldest.born < STALE_NS:
                return False
            self.settle(oldest)
            oldest.datagrams = []
        return True

    cdef void more(self, AdmissionHost host, QuicIncoming attempt, const uint8_t* data, size_t n, const UdpAddr* src,
                   const UdpAddr* dst, int ecn):
        """Keep a further datagram of an attempt, within the bounds."""
        cdef size_t cost = n + KEEP_DATAGRAM
        if attempt.size + cost > self.max_attempt_bytes or self.bytes + cost > self.max_bytes:
            host.counters["dropped_datagrams"] += 1
            return
        attempt.datagrams.append((PyBytes_FromStringAndSize(<char*>data, n), addr_bytes(src), addr_bytes(dst), ecn))
        attempt.size += cost
        self.bytes += cost

    cdef void first(self, AdmissionHost host, const uint8_t* data, size_t n, const LongHeader* header, bytes dcid,
                    size_t others, const UdpAddr* src, const UdpAddr* dst, int ecn, int64_t now):
        """An Initial for an unknown id. `others`: connections that came in, which count like attempts."""
        cdef QuicIncoming attempt
        cdef bytes client_id = PyBytes_FromStringAndSize(<char*>header.scid, header.scid_len)
        cdef object odcid = None
        cdef size_t cost = n + KEEP_DATAGRAM + KEEP_ATTEMPT
        if n < MIN_INITIAL or not host.accepting or host.on_incoming is None:
            return
        if cost > self.max_attempt_bytes or not self.make_room(cost, now) or (
                <uint64_t>(len(self.attempts) + others) >= self.max_attempts):
            host.counters["dropped_datagrams"] += 1
            return
        if header.token_len:
            from iroh_fast.quic.tls.tokens import TokenOutcome, validate
            check = validate(self.tokens(), PyBytes_FromStringAndSize(<char*>header.token, header.token_len),
                             PyBytes_FromStringAndSize(<char*>src.ip, 16), src.port, int(self.wall_clock()))
            if check.outcome is TokenOutcome.INVALID:
                host.reply(src, dst, initial_close(dcid, client_id, INVALID_TOKEN, b""))
                return
            odcid = check.original_dcid
        if odcid is None and header.dcid_len < MIN_INITIAL_DCID:
            host.reply(src, dst, initial_close(dcid, client_id, PROTOCOL_VIOLATION,
                                                    b"invalid destination CID length"))
            return
        # A packet that does not authenticate is no attempt: garbage must not reach the application.
        if not opens_as_initial(data, n):
            return
        attempt = QuicIncoming.__new__(QuicIncoming)
        attempt.host = host
        attempt.admission = self
        attempt.src = src[0]
        attempt.dst = dst[0]
        attempt.remote = addr_to_tuple(src)
        attempt.local = addr_to_tuple(dst) if ip_known(dst) else None
        attempt.validated = odcid is not None
        attempt.dcid = dcid
        attempt.client_id = client_id
        attempt.odcid = odcid if odcid is not None else dcid
        attempt.retry_scid = dcid if odcid is not None else b""
        attempt.datagrams = [(PyBytes_FromStringAndSize(<char*>data, n), addr_bytes(src), addr_bytes(dst), ecn)]
        attempt.size = cost
        attempt.born = now
        self.bytes += cost
        self.attempts[dcid] = attempt
        host.on_incoming(attempt)
