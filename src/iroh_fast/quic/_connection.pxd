"""One QUIC connection: the handle for the layers above."""

from libc.stdint cimport int64_t, uint8_t

from iroh_fast.quic._core cimport Connection
from iroh_fast.quic._streams cimport QuicStream


cdef class QuicConnection(Connection):
    cpdef QuicStream open_stream(self, bint bidi)
    cpdef QuicStream accept_stream(self, bint bidi)
    cpdef bytes read_datagram(self)
    cdef int64_t max_datagram(self) noexcept nogil
    cdef bint queue_buffer(self, object data, bint drop_oldest) except -1
    cdef bint queue_datagram(self, const uint8_t* data, Py_ssize_t n, bint drop_oldest) except -1
