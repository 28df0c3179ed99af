"""Connection attempts that wait for a decision, and what they may cost."""

from libc.stdint cimport uint8_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast._packet._headers cimport LongHeader
from iroh_fast.quic._connection cimport QuicConnection
from iroh_fast.quic._core cimport Host


cdef class QuicIncoming:
    cdef AdmissionHost host
    cdef Admission admission
    cdef readonly object remote, local
    cdef readonly bint validated
    cdef UdpAddr src, dst
    cdef bytes dcid, client_id, odcid, retry_scid
    cdef list datagrams           # (bytes, src, dst, ecn)
    cdef uint64_t size            # of them, and of keeping them
    cdef int64_t born
    cdef readonly bint decided
    cdef list offer
    cdef Py_ssize_t peeked        # datagrams that `offer` was read from
    cdef int claim(self) except -1


cdef class AdmissionHost(Host):
    """What admission needs from its endpoint."""
    cdef public bint accepting
    cdef public object on_incoming
    cdef public dict counters
    cdef void reply(self, const UdpAddr* src, const UdpAddr* dst, bytes data)
    cdef void fresh_id(self, uint8_t* id8) noexcept nogil
    # A server's connection from an attempt that was accepted.
    cdef QuicConnection begin(self, QuicIncoming attempt, object alpns, object transport, int64_t now)


cdef class Admission:
    cdef object random_source, wall_clock, token_key
    cdef dict attempts            # by the id the client chose, oldest first
    cdef uint64_t bytes           # held by all attempts
    cdef uint64_t max_attempts, max_attempt_bytes, max_bytes
    cdef object tokens(self)
    cdef void settle(self, QuicIncoming attempt)
    cdef bint make_room(self, size_t n, int64_t now)
    cdef void more(self, AdmissionHost host, QuicIncoming attempt, const uint8_t* data, size_t n, const UdpAddr* src,
                   const UdpAddr* dst, int ecn)
    cdef void first(self, AdmissionHost host, const uint8_t* data, size_t n, const LongHeader* header, bytes dcid,
                    size_t others, const UdpAddr* src, const UdpAddr* dst, int ecn, int64_t now)
