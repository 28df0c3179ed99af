"""One QUIC connection: the handle for the layers above."""

from libc.stdint cimport uint8_t

from iroh_fast.quic._core cimport Connection


cdef class QuicConnection(Connection):
    cdef object max_datagram(self)
    cdef bint queue_datagram(self, const uint8_t* data, Py_ssize_t n, bint drop_oldest) except -1
