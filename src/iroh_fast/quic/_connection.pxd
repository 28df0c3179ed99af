"""One QUIC connection: receiving and the handle. Sending is in _transmit."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

from iroh_fast._batch cimport UdpAddr
from iroh_fast._packet cimport Frame
from iroh_fast.quic._handshake cimport SecuredConnection
from iroh_fast.quic._keys cimport Opened
from iroh_fast.quic._paths cimport Path, CidSet
from iroh_fast.quic._recovery cimport PnSpace


cdef class QuicConnection(SecuredConnection):
    cdef void receive(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn, int64_t now,
                      uint32_t path_id, bint routed) noexcept
    cdef int receive_long(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                          size_t total, size_t* used) noexcept
    cdef void receive_short(self, uint8_t* data, size_t n, const UdpAddr* src, const UdpAddr* dst, int ecn,
                            uint32_t path_id) noexcept nogil
    cdef int frames(self, Path* p, PnSpace* sp, int level, const uint8_t* at, const uint8_t* end, const UdpAddr* src,
                    const UdpAddr* dst, bint* eliciting, bint* probing) noexcept nogil
    cdef int frame(self, Path* p, PnSpace* sp, int level, Frame* f, const UdpAddr* src, const UdpAddr* dst) noexcept nogil
    cdef int control_frame(self, Path* p, int level, Frame* f, const UdpAddr* src, const UdpAddr* dst) noexcept nogil
    cdef int multipath_frame(self, Path* p, Frame* f) noexcept nogil
    cdef int new_cid_frame(self, uint32_t path_id, Frame* f) noexcept nogil
    cdef void on_path_response(self, Path* p, const uint8_t* data, const UdpAddr* src) noexcept nogil
    cdef void on_peer_close(self, Frame* f, int level) noexcept nogil
    cdef int follow_keys(self, const Opened* packet, uint32_t path_id, int64_t largest) noexcept nogil
    cdef int migrate(self, Path* p, const UdpAddr* src, const UdpAddr* dst) noexcept nogil
    cdef void count_ecn(self, PnSpace* sp, int ecn) noexcept nogil
    cdef int retire_cid_frame(self, uint32_t path_id, uint64_t seq) noexcept nogil
    cdef void on_stateless_reset(self)
    cdef void check(self) except *
    cdef void handle_timeout(self, int64_t now) noexcept
    cdef object max_datagram(self)
    cdef bint queue_datagram(self, const uint8_t* p, Py_ssize_t n, bint drop_oldest) except -1
