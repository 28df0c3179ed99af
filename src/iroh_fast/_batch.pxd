"""C interface of batched UDP: GSO, GRO, recvmmsg, ECN, packet info."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcpy


cdef enum:
    RX_SLOTS = 16                 # messages per recvmmsg
    RX_SLOT_BYTES = 65536
    TX_SLOTS = 64                 # messages per `send_many`
    MAX_GSO_SEGMENTS = 64
    MAX_GSO_BYTES = 65487


cdef struct UdpAddr:
    uint8_t ip[16]                # IPv4 as ::ffff:a.b.c.d
    uint16_t port                 # host order
    uint32_t scope                # IPv6 scope id, else 0


cdef struct RxMessage:
    uint8_t* data                 # borrows the socket's slab, valid until the next recv
    uint32_t len
    uint32_t stride               # segment size; == len when not aggregated
    uint8_t ecn                   # two bits
    UdpAddr src
    UdpAddr dst                   # local address of the packet; ip all zero when unknown


cdef struct TxMessage:
    UdpAddr dst
    UdpAddr src                   # address to send from; ip all zero: any
    const uint8_t* data           # borrowed
    size_t len
    size_t segment                # bytes per datagram of a batch, 0 for a single one
    int ecn
    int error                     # out: errno when it did not leave and never will


cdef inline bint addr_is_v4(const UdpAddr* a) noexcept nogil:
    cdef uint64_t high
    memcpy(&high, a.ip, 8)
    return high == 0 and a.ip[8] == 0 and a.ip[9] == 0 and a.ip[10] == 0xff and a.ip[11] == 0xff


cdef class UdpSocket:
    cdef readonly object sock     # the bound, non-blocking socket.socket
    cdef int fd
    cdef readonly int family
    cdef readonly bint gso, gro, may_fragment
    cdef readonly int max_segments
    cdef void* rx                 # struct of the unit: slab, mmsghdr, control buffers
    cdef UdpAddr local
    # Counters since bind. A datagram is counted once the kernel accepted it.
    cdef uint64_t tx_datagrams, tx_bytes, tx_calls
    cdef uint64_t tx_segments     # datagrams that left inside a GSO batch
    cdef uint64_t tx_too_big      # calls refused with EMSGSIZE
    cdef uint64_t tx_errors       # calls refused otherwise and swallowed
    cdef uint64_t tx_dropped      # rest of a batch after its first part met a full queue
    cdef uint64_t rx_datagrams, rx_bytes, rx_calls
    cdef uint64_t rx_segments     # datagrams that arrived inside a GRO aggregate
    cdef uint64_t rx_dropped      # messages without a usable source, or truncated
    cdef readonly int last_errno  # of the last swallowed send error, 0 if none; for rate-limited logging
    cdef int sent_errno           # of the last `send`, 0 when it left; EMSGSIZE: too large for the interface
    cdef readonly int blocked_errno   # why send last gave -EAGAIN: EAGAIN (wait for writability), ENOBUFS (1 ms)

    # Number of messages (0 when the queue is empty), or -errno of a real failure.
    # Transient errors (ECONNRESET, EINTR) are skipped.
    cdef int recv_batch(self, RxMessage* out, int maximum) noexcept nogil
    # One datagram, or a GSO batch when 0 < segment < n. ecn: 0..3. src: local IP to send from, or NULL.
    # 0 sent (or swallowed: every error but EAGAIN and ENOBUFS), -EAGAIN when the caller must wait.
    cdef int send(self, const UdpAddr* dst, const uint8_t* src_ip, int ecn, const uint8_t* buf, size_t n,
                  size_t segment) noexcept nogil
    # Bytes of the largest datagram that the interface on the way takes; 0: unknown, -1: datagrams may be cut.
    cdef int largest_payload(self, const UdpAddr* dst, const uint8_t* src_ip) noexcept nogil
    # Several of them, in order, with few system calls. How many are done with: fewer when the caller must wait.
    cdef int send_many(self, TxMessage* items, int count) noexcept nogil
    cdef void count(self, const void* outcome) noexcept nogil
    cdef int c_close(self) except -1
    cdef int raise_if_closed(self) except -1


cdef object addr_to_tuple(const UdpAddr* a)          # ("1.2.3.4", port) or ("::1", port, 0, scope)
cdef int addr_from_tuple(object t, UdpAddr* out) except -1
